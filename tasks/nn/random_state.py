"""The state of torch's generators that training draws from."""

from __future__ import annotations

from typing import Any

import torch


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of the generators of the CPU and of a device, as tensors."""
    on_cuda = device.type == "cuda"
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if on_cuda else None,
    }


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Go on from what `random_state` gave."""
    torch.set_rng_state(state["cpu"].cpu())
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


def seed_rank(seed: int, rank: int, step: int) -> None:
    """Let ranks beyond the first draw numbers of their own; the first goes on as it would alone.

    The state of one rank is stored, so the others begin anew where training goes on.
    """
    if rank > 0:
        torch.manual_seed(torch.iinfo(torch.int64).max & hash((seed, rank, step)))
