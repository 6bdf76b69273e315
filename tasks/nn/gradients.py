"""The gradient of a global batch, added up from parts that fit into memory.

Losses divide by the counts of the global batch, so parts of any size on any number of ranks add up
to the same gradient, within rounding. Where memory does not suffice, the parts are halved and the
batch is begun again, with the random numbers that it had.

A rank that runs out of memory must not leave the others waiting. So when any rank meets a pass
larger than all before, every rank computes its own gradient first, then all ask whether memory
sufficed, and only then is the mean taken; otherwise it is taken while the last pass still runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from storage.errors import ModelError, one_line
from tasks.nn.batch import Batch
from tasks.nn.counts import Counts
from tasks.nn.learner import Learner
from tasks.nn.losses import LossParts
from tasks.nn.memory import give_back_memory, is_out_of_memory
from tasks.nn.precision import Precision
from tasks.nn.random_state import random_state, set_random_state
from tasks.nn.ranks import Ranks

TOTAL = "total"
SOFT = "soft"
HARD = "hard"
Losses = dict[str, Tensor]
"""The losses of a global batch by name, detached, in float64; of those that have a weight."""


@dataclass
class Gradients:
    """Leaves the gradients of batches in the parameters of a learner.

    Attributes:
        learner: what learns.
        precision: of the forward pass.
        ranks: who else computes.
        device: where.
        micro_batch_size: samples of a part; None is all of a batch.
    """

    learner: Learner
    precision: Precision
    ranks: Ranks
    device: torch.device
    micro_batch_size: int | None

    def __post_init__(self) -> None:
        self._wrapped = self.ranks.wrap(self.learner)
        self._fitted = 0
        self._at = ""

    def of(self, batch: Batch, done: float) -> tuple[Losses, Counts]:
        """Leave the gradient of the global batch, scaled, of which `batch` is this rank's part.

        Args:
            batch: on the device.
            done: the share of training that is done.

        Raises:
            ModelError: the model does not fit the labels, or memory suffices for no sample.
        """
        counts, careful = self._counts(batch)
        random = random_state(self.device)
        while (losses := self._attempt(batch, counts, done, careful)) is None:
            set_random_state(random, self.device)
        names = list(losses)
        sums = self.ranks.sum(torch.stack([losses[name] for name in names]))
        return dict(zip(names, sums, strict=True)), counts

    def parts(self, batch: Batch) -> Iterator[Batch]:
        """A batch in parts that fit into memory."""
        size = self._size(batch)
        if size >= batch.num_samples:
            yield batch
            return
        for start in range(0, batch.num_samples, size):
            yield batch.part(start, min(start + size, batch.num_samples))

    def restrict(self, micro_batch_size: int | None) -> None:
        """Use no larger parts than memory sufficed for before."""
        if micro_batch_size is not None:
            own = self.micro_batch_size or micro_batch_size
            self.micro_batch_size = min(own, micro_batch_size)

    def _attempt(self, batch: Batch, counts: Counts, done: float, careful: bool) -> Losses | None:
        """The losses of this rank's part, or None where memory did not suffice on some rank."""
        self.learner.zero_grad(set_to_none=True)
        losses, lacking = None, ""
        try:
            losses = self._passes(batch, counts, done, careful)
        except Exception as error:
            if not careful or not is_out_of_memory(error):
                raise
            lacking = one_line(error)
        # Outside the handler: the error holds on to the tensors of the failed pass.
        if careful and self.ranks.any(losses is None):
            self._halve(batch, lacking)
            return None
        if careful:
            self._take_mean()
        return losses

    def _passes(self, batch: Batch, counts: Counts, done: float, careful: bool) -> Losses:
        losses: Losses = {}
        parts = list(self.parts(batch))
        for place, part in enumerate(parts):
            self._at = part.sample_ids[0]
            shared = not careful and place == len(parts) - 1
            with contextlib.nullcontext() if shared else self.ranks.local(self._wrapped):
                with self.precision.autocast():
                    found = self._wrapped(part, counts, done)
                # What is wrapped takes the mean over ranks, and the sum is wanted.
                loss = self.precision.scaled(found.total * self.ranks.world)
                loss.backward()  # type: ignore[no-untyped-call]
            for name, value in _named(found).items():
                losses[name] = losses[name] + value if name in losses else value
        self._fitted = max(self._fitted, *(len(part.mask_P) for part in parts))
        return losses

    def _counts(self, batch: Batch) -> tuple[Counts, bool]:
        """What the global batch counts, and whether some rank's part is larger than any before."""
        own = Counts.of(batch)
        if self.ranks.world == 1:
            return own, True
        largest = min(self._size(batch), batch.num_samples) * len(batch.mask_P)
        larger = largest > self._fitted * batch.num_samples
        values = (own.positions, own.real, own.samples, larger)
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        positions, real, samples, careful = self.ranks.sum(sums).tolist()
        return Counts(int(positions), int(real), int(samples)), careful > 0

    def _take_mean(self) -> None:
        """A parameter that only some ranks used has a gradient on all of them afterwards."""
        if self.ranks.world == 1:
            return
        learnt = [entry for entry in self.learner.parameters() if entry.requires_grad]
        used = torch.tensor([float(entry.grad is not None) for entry in learnt], device=self.device)
        own = [torch.zeros_like(entry) if entry.grad is None else entry.grad for entry in learnt]
        total = self.ranks.sum(torch.cat([used, *(entry.flatten() for entry in own)]))
        start = len(learnt)
        for entry, by_any in zip(learnt, total[:start].tolist(), strict=True):
            if by_any:
                found = total[start : start + entry.numel()] / self.ranks.world
                entry.grad = found.view_as(entry).to(entry.dtype)
            start += entry.numel()

    def _size(self, batch: Batch) -> int:
        return self.micro_batch_size or batch.num_samples

    def _halve(self, batch: Batch, lacking: str) -> None:
        size = min(self._size(batch), batch.num_samples)
        if size == 1:
            raise ModelError(
                f"out of memory for the sample {self._at} alone: {lacking}; use shorter samples, a "
                "smaller model, or a device with more memory"
            )
        self.micro_batch_size = -(-size // 2)
        self.learner.zero_grad(set_to_none=True)
        give_back_memory()


def _named(parts: LossParts) -> Losses:
    named = {TOTAL: parts.total, SOFT: parts.soft, HARD: parts.hard, **parts.matched}
    return {name: value.detach().double() for name, value in named.items() if value is not None}
