"""The soft label: what is kept of a teacher's logits at one position.

Shape letters: P positions, C classes, K kept classes, T temperatures.

With m the largest logit and T the first temperature a position keeps `logit` (z_i - m) / T for the
classes that are chosen, and for each temperature `rest`, the logsumexp of (z_j - m) / T_t over all
others. The softmax over those k + 1 numbers is exact. Nothing is computed as 1 - sum, and the rest
is summed relative to its own largest member, so that it does not vanish beside a peaked teacher.
Work is done in blocks of rows: memory beyond the logits themselves is bounded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from storage.errors import NotFiniteError
from storage.options import Keep, Selection
from tasks.nn.batch import Batch
from tasks.nn.draws import draw
from tasks.nn.gathered import Gathered
from tasks.nn.positions import join

_BLOCK_ELEMENTS = 1 << 22


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
    """

    index_PK: Tensor
    logit_PK: Tensor
    rest_PT: Tensor
    label_logit_P: Tensor | None
    kept_P: Tensor | None
    count_PK: Tensor | None
    statistics: dict[str, Tensor]


def require_finite(
    logit_PC: Tensor, sample_ids: Sequence[str], real_P: Tensor | None = None
) -> None:
    """Refuse logits that are NaN or +inf, or -inf throughout.

    Args:
        logit_PC: [P, C] with P a multiple of the number of samples.
        sample_ids: the samples they belong to, in order.
        real_P: the positions that are there; what a teacher makes of padding does not matter.

    Raises:
        NotFiniteError: naming the first samples.
    """
    best_P = logit_PC.amax(dim=1)
    bad_P = ~torch.isfinite(best_P)
    if real_P is not None:
        bad_P &= real_P.to(bad_P.device)
    if not bad_P.any():
        return
    per_sample = len(bad_P) // max(len(sample_ids), 1)
    rows = torch.unique(torch.nonzero(bad_P).flatten() // max(per_sample, 1)).tolist()
    named = ", ".join(str(sample_ids[row]) for row in rows[:3]) + (", ..." if len(rows) > 3 else "")
    raise NotFiniteError(
        f"the teacher's logits are NaN or infinite in {len(rows)} samples: {named}; look at these "
        "samples, or at the teacher's precision"
    )


def capture(
    logit_PC: Tensor,
    label_P: Tensor | None,
    selection: Selection | int,
    temperatures: Sequence[float],
    *,
    keys_P: NDArray[np.uint64] | None = None,
    num_classes: int | None = None,
    statistics: bool = False,
) -> SoftLabels:
    """Keep what `selection` says of each position, and the rest at each temperature.

    Args:
        logit_PC: finite but for -inf entries; float32 or float64 (others become float32).
        label_P: hard labels, int64, negative where there is none.
        selection: which entries to keep; a number means so many of the largest.
        temperatures: T first.
        keys_P: a key for each position that is drawn from (see `storage.order.position_keys`).
        num_classes: the real classes; further outputs are padding, which only `rest` counts.
        statistics: also the largest logit, mean, deviation and the sum of p squared at T = 1.
    """
    logit_PC = logit_PC if logit_PC.dtype == torch.float64 else logit_PC.float()
    chosen = top_k(selection) if isinstance(selection, int) else selection
    real = logit_PC.shape[1] if num_classes is None else num_classes
    size = rows_of_block(logit_PC.shape[1])
    parts = []
    for start in range(0, max(len(logit_PC), 1), size):
        rows = slice(start, start + size)
        label = None if label_P is None else label_P[rows]
        keys = None if keys_P is None else keys_P[rows]
        parts.append(
            _capture_block(logit_PC[rows], label, chosen, temperatures, keys, real, statistics)
        )
    return join(parts)


def soft_labels(
    found: Gathered, kept_P: Tensor | None, temperatures: Sequence[float]
) -> SoftLabels:
    """The soft labels of what was read from the logits.

    Args:
        found: the entries that are kept, and the sums over all others.
        kept_P: how many entries there are, where that varies.
        temperatures: T first.
    """
    most_P = found.most_P
    label_P = found.label_P
    return SoftLabels(
        found.index_PK,
        (found.value_PK - most_P[:, None]) / temperatures[0],
        found.rest_PT(temperatures).to(most_P.dtype),
        None if label_P is None else (label_P - most_P) / temperatures[0],
        kept_P,
        found.count_PK,
        found.statistics,
    )


def top_k(k: int) -> Selection:
    """The `k` largest logits."""
    return Selection(keep=Keep.TOP_K, k=k)


def entry_log_probs(
    logit_PK: Tensor, rest_P: Tensor, temperature: float, at: float
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the kept classes and of all others together, at temperature `at`.

    Args:
        logit_PK: stored logits, (z - m) / `temperature`.
        rest_P: the stored rest of `at`.
        temperature: T.
        at: T_t.

    Returns:
        [P, K] and [P]; -inf where there is no mass.
    """
    scaled_PK = logit_PK * (temperature / at)
    total_P = torch.logaddexp(torch.logsumexp(scaled_PK, dim=1), rest_P)
    return scaled_PK - total_P[:, None], rest_P - total_P


def label_nll(soft: SoftLabels | Batch, temperatures: Sequence[float], at: float) -> Tensor:
    """The teacher's exact negative log-likelihood of the hard label at a stored temperature.

    Returns:
        [P], in nats.
    """
    assert soft.label_logit_P is not None
    assert soft.rest_PT is not None
    scale = temperatures[0] / at
    rest_P = soft.rest_PT[:, list(temperatures).index(at)]
    total_P = torch.logaddexp(torch.logsumexp(soft.logit_PK * scale, dim=1), rest_P)
    return total_P - soft.label_logit_P * scale


def _capture_block(
    logit_PC: Tensor,
    label_P: Tensor | None,
    selection: Selection,
    temperatures: Sequence[float],
    keys_P: NDArray[np.uint64] | None,
    num_classes: int,
    statistics: bool,
) -> SoftLabels:
    entries = _choose(logit_PC, logit_PC[:, :num_classes], selection, keys_P)
    others_PC = logit_PC.scatter(1, entries.index_PK, -math.inf)
    best_P1 = entries.best_P1
    rest_PT = torch.stack([_rest(others_PC, best_P1, at) for at in temperatures], dim=1)
    label_logit_P = None
    if label_P is not None:
        has_label_P = label_P >= 0
        chosen_P1 = torch.where(has_label_P, label_P, 0)[:, None]
        label_logit_P = (logit_PC.gather(1, chosen_P1) - best_P1)[:, 0] / temperatures[0]
        label_logit_P = torch.where(has_label_P, label_logit_P, 0.0)
    return SoftLabels(
        entries.index_PK,
        (entries.value_PK - best_P1) / temperatures[0],
        rest_PT,
        label_logit_P,
        entries.kept_P,
        entries.count_PK,
        _statistics(logit_PC) if statistics else {},
    )


@dataclass(frozen=True)
class _Entries:
    """The entries of some positions; places without one repeat the first class, at -inf."""

    index_PK: Tensor
    value_PK: Tensor
    best_P1: Tensor
    kept_P: Tensor | None = None
    count_PK: Tensor | None = None


def _choose(
    logit_PC: Tensor, real_PC: Tensor, selection: Selection, keys_P: NDArray[np.uint64] | None
) -> _Entries:
    if selection.keep is Keep.SAMPLE:
        assert keys_P is not None
        assert selection.draws is not None
        drawn = draw(real_PC, keys_P, selection.draws, selection.temperature, selection.k)
        value_PK = real_PC.gather(1, drawn.index_PK).masked_fill(drawn.count_PK == 0, -math.inf)
        best_P1 = real_PC.amax(dim=1, keepdim=True)
        return _Entries(drawn.index_PK, value_PK, best_P1, drawn.kept_P, drawn.count_PK)
    value_PK, index_PK = torch.topk(real_PC, selection.k, dim=1, sorted=True)
    if selection.keep is not Keep.TOP_P:
        return _Entries(index_PK, value_PK, value_PK[:, :1])
    assert selection.p is not None
    at = selection.temperature
    rest_P = _rest(logit_PC.scatter(1, index_PK, -math.inf), value_PK[:, :1], at)
    log_p_PK, _ = entry_log_probs(
        (value_PK - value_PK[:, :1]).double(), rest_P.double(), temperature=1.0, at=at
    )
    reached_PK = log_p_PK.exp().cumsum(dim=1) >= selection.p
    kept_P = ((~reached_PK).sum(dim=1) + 1).clamp(max=selection.k)
    there_PK = torch.arange(selection.k, device=kept_P.device) < kept_P[:, None]
    return _Entries(
        torch.where(there_PK, index_PK, index_PK[:, :1]),
        value_PK.masked_fill(~there_PK, -math.inf),
        value_PK[:, :1],
        kept_P,
    )


def _rest(others_PC: Tensor, best_P1: Tensor, temperature: float) -> Tensor:
    """Logsumexp of the others, relative to their own largest, then to the best of all."""
    largest_P1 = others_PC.amax(dim=1, keepdim=True)
    safe_P1 = torch.where(torch.isneginf(largest_P1), 0.0, largest_P1)
    inner_P = torch.logsumexp((others_PC - safe_P1) / temperature, dim=1)
    return inner_P + ((safe_P1 - best_P1) / temperature)[:, 0]


def _statistics(logit_PC: Tensor) -> dict[str, Tensor]:
    finite_PC = torch.isfinite(logit_PC)
    count_P = finite_PC.sum(dim=1)
    mean_P = torch.where(finite_PC, logit_PC, 0.0).sum(dim=1) / count_P
    centred_PC = torch.where(finite_PC, logit_PC - mean_P[:, None], 0.0)
    return {
        "max_logit": logit_PC.amax(dim=1),
        "logit_mean": mean_P,
        "logit_std": (centred_PC.square().sum(dim=1) / count_P).sqrt(),
        "squares": torch.softmax(logit_PC, dim=1).square().sum(dim=1),
    }


def rows_of_block(num_classes: int) -> int:
    """How many positions are worked on at a time."""
    return max(1, _BLOCK_ELEMENTS // num_classes)
