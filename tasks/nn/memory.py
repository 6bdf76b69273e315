"""What says that memory does not suffice, and how it is made room in."""

from __future__ import annotations

import torch

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "failed to allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory does not suffice."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error).lower() for words in _OUT_OF_MEMORY
    )


def give_back_memory() -> None:
    """Return to CUDA devices what torch holds for later and nothing uses."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
