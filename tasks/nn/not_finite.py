"""Which samples of a batch make a loss or its gradient NaN or infinite.

Looked for only when something is not finite, so it may cost some passes. Shape letters: B samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from tasks.nn.batch import Batch
from tasks.nn.counts import Counts
from tasks.nn.learner import Learner

NAMED: Final = 3
"""So many samples are named at most."""


@dataclass(frozen=True)
class Suspects:
    """The samples that a fault comes from.

    Attributes:
        what: is not finite of them.
        sample_ids: some of them, at most one more than are named.
    """

    what: str
    sample_ids: Sequence[str]

    def __str__(self) -> str:
        named = ", ".join(self.sample_ids[:NAMED])
        more = " and others" if len(self.sample_ids) > NAMED else ""
        return f"{self.what} {named}{more}"


def suspects_of(learner: Learner, batch: Batch, counts: Counts, done: float) -> Suspects | None:
    """The first of these that is not finite for some sample, or None where none is by itself.

    What is stored of its inputs, then of its labels; the model's logits; its loss; its gradient.
    The model is asked in evaluation mode, and left in training mode.
    """
    learner.eval()
    found = next(_findings(learner, batch, counts, done), None)
    learner.train()
    return found


def _findings(learner: Learner, batch: Batch, counts: Counts, done: float) -> Iterator[Suspects]:
    def loss_is_bad(part: Batch) -> bool:
        with torch.no_grad():
            return not bool(torch.isfinite(learner(part, counts, done).total))

    def gradient_is_bad(part: Batch) -> bool:
        learning = [entry for entry in learner.parameters() if entry.requires_grad]
        total = learner(part, counts, done).total
        found = torch.autograd.grad(total, learning, allow_unused=True)
        return not all(bool(torch.isfinite(entry).all()) for entry in found if entry is not None)

    checks: tuple[tuple[str, Callable[[Batch], bool]], ...] = (
        ("the stored inputs of", _inputs_are_bad),
        ("the stored labels of", _labels_are_bad),
        ("the logits or the loss of", loss_is_bad),
        ("the gradient of", gradient_is_bad),
    )
    for what, is_bad in checks:
        bad = _bad_samples(batch, is_bad, NAMED + 1)
        if bad:
            yield Suspects(what, bad)


def _bad_samples(batch: Batch, is_bad: Callable[[Batch], bool], most: int) -> list[str]:
    """Up to `most` samples that are bad by themselves, by looking into halves that are."""
    if batch.num_samples == 0 or not is_bad(batch):
        return []
    if batch.num_samples == 1:
        return [batch.sample_ids[0]]
    middle = batch.num_samples // 2
    found = _bad_samples(batch.part(0, middle), is_bad, most)
    if len(found) < most:
        rest = batch.part(middle, batch.num_samples)
        found += _bad_samples(rest, is_bad, most - len(found))
    return found


def _inputs_are_bad(batch: Batch) -> bool:
    return any(
        not bool(torch.isfinite(entry).all()) for entry in batch.inputs if entry.is_floating_point()
    )


def _labels_are_bad(batch: Batch) -> bool:
    """NaN or +inf; -inf is no mass."""
    stored = (batch.logit_PK, batch.rest_PT, batch.weight_PK, *batch.features.values())
    return any(_is_bad(entry) for entry in stored if entry is not None)


def _is_bad(values: Tensor) -> bool:
    return bool((torch.isnan(values) | torch.isposinf(values)).any())
