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


def pick_devices(wanted: str, processes: int | None) -> list[torch.device]:
    """The device of each process that labels: one for each CUDA device, or for the CPU.

    Args:
        wanted: `auto`, `cpu`, `cuda` or `cuda:1`.
        processes: how many; None means one for each device.

    Raises:
        ModelError: CUDA is asked for and there is none.
    """
    first = pick_device(wanted)
    count = torch.cuda.device_count() if first.type == "cuda" and first.index is None else 1
    devices = [torch.device("cuda", place) for place in range(count)] if count > 1 else [first]
    return [devices[place % len(devices)] for place in range(processes or len(devices))]
