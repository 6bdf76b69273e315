"""What processes do in tests: add, fail, die, hang; each can be sent to a process."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from storage.errors import NotFiniteError
from tasks.nn.ranks import Ranks
from tasks.progress import track


@dataclass(frozen=True)
class Adding:
    """Sums and gradients over all ranks, written by each of them."""

    folder: Path

    def __call__(self, device: torch.device, ranks: Ranks) -> None:
        with track("adding", 3, "steps") as progress:
            progress.advance(3, "done")
        found = {
            "rank": ranks.rank,
            "world": ranks.world,
            "threads": torch.get_num_threads(),
            "sum": ranks.sum(torch.tensor([ranks.rank, 10])).tolist(),
            "gather": ranks.gather([f"rank {ranks.rank}"] * ranks.rank),
            "any": [ranks.any(said) for said in (ranks.rank == 1, False)],
            **self._gradients(ranks),
        }
        (self.folder / f"{ranks.rank}.json").write_text(json.dumps(found))

    def _gradients(self, ranks: Ranks) -> dict[str, object]:
        torch.manual_seed(ranks.rank)  # other weights on each: those of rank 0 are taken
        model = nn.ModuleDict({"used": nn.Linear(2, 1), "unused": nn.Linear(2, 1)})
        model.forward = lambda x: model["used"](x)
        wrapped = ranks.wrap(model)
        for _ in range(2):
            model.zero_grad()
            for _ in range(2 * ranks.rank):  # each as often as it likes
                with ranks.local(wrapped):
                    wrapped(torch.full((1, 2), 0.25)).sum().backward()
            wrapped(torch.full((1, 2), float(ranks.rank) / 2)).sum().backward()
        return {
            "weight": model["used"].weight.tolist(),
            "gradient": model["used"].weight.grad.tolist(),
            "unused": model["unused"].weight.grad is None,
        }


@dataclass(frozen=True)
class Misbehaving:
    """Rank 1 does a misdeed, and the others wait for it; once only where `once` is a path."""

    misdeed: str
    once: Path | None = None

    def __call__(self, device: torch.device, ranks: Ranks) -> None:
        ranks.any(said=False)
        if ranks.rank == 1 and not (self.once and self.once.exists()):
            if self.once:
                self.once.touch()
            self._misbehave()
        ranks.any(said=False)

    def _misbehave(self) -> None:
        if self.misdeed == "raise":
            raise NotFiniteError("students.toy: step 3: the loss is nan")
        if self.misdeed == "crash":
            raise RuntimeError("out of\nluck")
        if self.misdeed == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        if self.misdeed == "hang":
            time.sleep(600)
        os.kill(os.getpid(), signal.SIGKILL)
