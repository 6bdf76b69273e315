"""The soft label: what is kept of a teacher's logits at one position.

Shape letters: P positions, C classes, K kept classes, T temperatures.

With m the largest logit and T the first temperature a position keeps `logit` (z_i - m) / T for the
classes that are chosen, and for each temperature `rest`, the logsumexp of (z_j - m) / T_t over all
others. The softmax over those k + 1 numbers is exact. Nothing is computed as 1 - sum, and the rest
is summed relative to its own largest member, so that it does not vanish beside a peaked teacher.
How the numbers are read from logits: see `tasks.nn.reduction`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from storage.options import STD, AnyTemperature, Keep, Selection
from tasks.nn.batch import Batch
from tasks.nn.gathered import Gathered


@dataclass(frozen=True)
class SoftLabels:
    """What is kept of P positions.

    Attributes:
        index_PK: class ids, int64, the best first; places without an entry repeat the first.
        logit_PK: (z_i - m) / T, at most 0; -inf where there is no entry.
        rest_PT: logsumexp over what is not kept of (z_j - m) / T_t; -inf where nothing is left.
        label_logit_P: (z_y - m) / T of the hard label, 0 where there is none; or None.
        kept_P: how many entries there are, where that varies; or None.
        count_PK: how often each class was drawn, of a sampled set; or None.
        statistics: per position, by column name.
        std_P: T_t of each position where the rest is stored at `std`; or None.
    """

    index_PK: Tensor
    logit_PK: Tensor
    rest_PT: Tensor
    label_logit_P: Tensor | None
    kept_P: Tensor | None
    count_PK: Tensor | None
    statistics: dict[str, Tensor]
    std_P: Tensor | None = None


def soft_labels(
    found: Gathered, kept_P: Tensor | None, temperatures: Sequence[AnyTemperature]
) -> SoftLabels:
    """The soft labels of what was read from the logits.

    Args:
        found: the entries that are kept, and the sums over all others.
        kept_P: how many entries there are, where that varies.
        temperatures: T first.
    """
    most_P = found.most_P
    label_P = found.label_P
    at = temperatures[0]
    assert at != STD
    return SoftLabels(
        found.index_PK,
        (found.value_PK - most_P[:, None]) / at,
        found.rest_PT(temperatures).to(most_P.dtype),
        None if label_P is None else (label_P - most_P) / at,
        kept_P,
        found.count_PK,
        found.statistics,
        found.std_P,
    )


def top_k(k: int) -> Selection:
    """The `k` largest logits."""
    return Selection(keep=Keep.TOP_K, k=k)


def entry_log_probs(
    logit_PK: Tensor, rest_P: Tensor, temperature: float, at: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the kept classes and of all others together, at temperature `at`.

    Args:
        logit_PK: stored logits, (z - m) / `temperature`.
        rest_P: the stored rest of `at`.
        temperature: T.
        at: T_t; of each position its own [P] for `std`.

    Returns:
        [P, K] and [P]; -inf where there is no mass.
    """
    at_P1 = at[:, None] if isinstance(at, Tensor) else at
    scaled_PK = logit_PK * (temperature / at_P1)
    total_P = torch.logaddexp(torch.logsumexp(scaled_PK, dim=1), rest_P)
    return scaled_PK - total_P[:, None], rest_P - total_P


def label_nll(
    soft: SoftLabels | Batch, temperatures: Sequence[AnyTemperature], at: float
) -> Tensor:
    """The teacher's exact negative log-likelihood of the hard label at a stored temperature.

    Returns:
        [P], in nats.
    """
    assert soft.label_logit_P is not None
    assert soft.rest_PT is not None
    first = temperatures[0]
    assert first != STD
    scale = first / at
    rest_P = soft.rest_PT[:, list(temperatures).index(at)]
    total_P = torch.logaddexp(torch.logsumexp(soft.logit_PK * scale, dim=1), rest_P)
    return total_P - soft.label_logit_P * scale
