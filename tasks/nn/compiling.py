"""Models that torch compiles for their training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def compiled(model: nn.Module, *, wanted: bool) -> Iterator[None]:
    """Run a model compiled, if that is wanted; its names and weights stay what they are.

    It is compiled when it first runs, and again for other shapes.
    """
    if wanted:
        model.compile()
    try:
        yield
    finally:
        model._compiled_call_impl = None


def is_compiler_error(error: BaseException) -> bool:
    """Whether an error is that of torch's compiler, and not of the model."""
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))
