"""Which device computes."""

from __future__ import annotations

import torch

from storage.errors import ModelError


def pick_device(wanted: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU.

    Raises:
        ModelError: CUDA is asked for and there is none.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ModelError(
            f"execution.device: {wanted} is asked for, and torch {torch.__version__} sees no CUDA "
            "device; say auto or cpu"
        )
    return torch.device("cuda" if wanted == "auto" else wanted)
