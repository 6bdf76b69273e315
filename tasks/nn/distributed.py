"""Ranks over torch.distributed: processes of one machine or many that train one model together.

Each has the whole model and learns from its part of every batch. Gradients are averaged by
DistributedDataParallel while the backward pass still runs. NCCL carries them where each process has
a CUDA device of its own, else gloo.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

_PEER_WORDS: Final = ("closed by peer", "reset by peer", "broken pipe", "timed out", "nccl")


class Joined:
    """This process among those of the process group."""

    def __init__(self, device: torch.device) -> None:
        self.rank = dist.get_rank()
        self.world = dist.get_world_size()
        self._device = device if dist.get_backend() == "nccl" else torch.device("cpu")

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with its gradients averaged; all ranks begin with the weights of rank 0.

        A parameter that no rank used keeps no gradient, as in one process. What is counted in a
        forward pass, as batch statistics are, stays each rank's own.
        """
        wrapped = DistributedDataParallel(module, find_unused_parameters=True)
        wrapped.broadcast_buffers = False  # by an argument it is deprecated in newer versions
        return wrapped

    def local(self, wrapped: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Gradients are added up here meanwhile; the first pass after it averages them all."""
        assert isinstance(wrapped, DistributedDataParallel)
        return wrapped.no_sync()

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks, of the device and type of what came, without a gradient."""
        total = values.detach().to(self._device, copy=True)
        dist.all_reduce(total)
        return total.to(values.device)

    def any(self, said: bool) -> bool:
        """Whether any rank says so."""
        return bool(self.sum(torch.tensor(int(said))).item())

    def gather(self, said: Sequence[str]) -> list[str]:
        """What all ranks say, in the order of the ranks."""
        found: list[list[str] | None] = [None] * self.world
        dist.all_gather_object(found, list(said))
        return [words for one in found for words in one or ()]


@contextlib.contextmanager
def joined(device: torch.device, backend: str, timeout_seconds: float) -> Iterator[Joined]:
    """Meet the others where the environment says, as PyTorch's launcher sets it.

    Args:
        device: of this process.
        backend: `nccl` or `gloo`.
        timeout_seconds: how long a rank waits for the others before it fails.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_seconds))
    yield Joined(device)
    dist.destroy_process_group()


def backend_of(devices: list[torch.device]) -> str:
    """What carries the sums between processes of these devices: NCCL takes one process for each."""
    alone = len(set(devices)) == len(devices)
    return "nccl" if devices[0].type == "cuda" and alone and dist.is_nccl_available() else "gloo"


def lost_another(error: BaseException) -> bool:
    """Whether a failure says only that another rank ended or hung."""
    seen: BaseException | None = error
    while seen is not None:
        text = str(seen).lower()
        if isinstance(seen, dist.DistError) or (
            isinstance(seen, RuntimeError) and any(words in text for words in _PEER_WORDS)
        ):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
