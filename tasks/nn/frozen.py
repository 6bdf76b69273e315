"""Parameters that do not learn, by patterns of their names.

Names are those of the weights that are stored: for a Hugging Face model its own, such as
`bert.encoder.layer.0.output.dense.weight`.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from storage.errors import ModelError

_SHOWN_NAMES = 3


def freeze(model: nn.Module, patterns: Sequence[str], where: str) -> None:
    """Exempt every parameter whose name matches a pattern from learning: no gradient, no state.

    A tied parameter goes by its first name. Buffers and dropout stay as they are.

    Args:
        model: what is trained.
        patterns: with `*`, `?` and `[...]`, as of file names; `*` matches dots too.
        where: the field of the recipe, for messages.

    Raises:
        ModelError: a pattern matches no parameter, or nothing is left to learn.
    """
    named = {stored_name(model, name): entry for name, entry in model.named_parameters()}
    for pattern in patterns:
        matching = [name for name in named if fnmatchcase(name, pattern)]
        if not matching:
            shown = ", ".join(list(named)[:_SHOWN_NAMES])
            raise ModelError(
                f"{where}: expected patterns of parameters, {pattern!r} matches none of the "
                f"model's {len(named)}; they are called {shown} and so on"
            )
        for name in matching:
            named[name].requires_grad_(False)
    if patterns and not any(entry.requires_grad for entry in named.values()):
        raise ModelError(f"{where}: expected patterns that leave something to learn, all is frozen")


def stored_name(model: nn.Module, name: str) -> str:
    """The name under which a parameter of a module is stored."""
    prefix: str = getattr(model, "stored_prefix", "")
    return name.removeprefix(prefix)
