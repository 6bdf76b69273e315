"""The soft label: what is kept of a teacher's logits at one position, and how faithful it is.

Shape letters: P positions, C classes, K kept classes, T temperatures.

With m the largest logit and T the first temperature a position keeps `logit` (z_i - m) / T for the
k largest, and for each temperature `rest`, the logsumexp of (z_j - m) / T_t over all others. The
softmax over those k + 1 numbers is exact. Nothing is computed as 1 - sum, and the rest is summed
relative to its own largest member, so that it does not vanish beside a peaked teacher. Work is
done in blocks of rows: memory beyond the logits themselves is bounded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from storage.errors import NotFiniteError
from tasks.nn.batch import Batch

_BLOCK_ELEMENTS = 1 << 22
_LOWEST_PERCENTILE = 0.01


@dataclass(frozen=True)
class SoftLabels:
    """What is kept of P positions.

    Attributes:
        index_PK: class ids, int64, the best first.
        logit_PK: (z_i - m) / T, at most 0.
        rest_PT: logsumexp over what is not kept of (z_j - m) / T_t; -inf where nothing is left.
        label_logit_P: (z_y - m) / T of the hard label, 0 where there is none; or None.
        statistics: per position, by column name.
    """

    index_PK: Tensor
    logit_PK: Tensor
    rest_PT: Tensor
    label_logit_P: Tensor | None
    statistics: dict[str, Tensor]


@dataclass(frozen=True)
class Fidelity:
    """How close the kept entries are to the full softmax, for each position and temperature.

    Attributes:
        retained_PT: mass of the kept classes.
        truncation_PT: KL(full || kept entries, the rest spread evenly over the other classes).
        codec_PT: KL over the k + 1 entries, before against after encoding.
        agreement_P: whether the decoded best class is the teacher's, or one that equals it.
    """

    retained_PT: Tensor
    truncation_PT: Tensor
    codec_PT: Tensor
    agreement_P: Tensor


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
    k: int,
    temperatures: Sequence[float],
    *,
    statistics: bool = False,
) -> SoftLabels:
    """Keep the `k` largest logits of each position, and the rest at each temperature.

    Args:
        logit_PC: finite but for -inf entries; float32 or float64 (others become float32).
        label_P: hard labels, int64, negative where there is none.
        k: how many classes to keep, at most C.
        temperatures: T first.
        statistics: also the largest logit, mean, deviation and the sum of p squared at T = 1.
    """
    logit_PC = logit_PC if logit_PC.dtype == torch.float64 else logit_PC.float()
    parts = [
        _capture_block(block, label, k, temperatures, statistics)
        for block, label in _blocks(logit_PC, label_P)
    ]
    return _join(parts)


def measure(
    logit_PC: Tensor, kept: SoftLabels, decoded_PK: Tensor, temperatures: Sequence[float]
) -> Fidelity:
    """Compare kept and decoded labels with the full logits.

    Args:
        logit_PC: the logits that `kept` was captured from.
        kept: before encoding.
        decoded_PK: its logits after encoding and decoding.
        temperatures: T first.
    """
    logit_PC = logit_PC if logit_PC.dtype == torch.float64 else logit_PC.float()
    size = _rows_of_block(logit_PC.shape[1])
    parts = []
    for start in range(0, len(logit_PC), size):
        rows = slice(start, start + size)
        parts.append(
            _measure_block(
                logit_PC[rows],
                kept.index_PK[rows],
                kept.logit_PK[rows],
                kept.rest_PT[rows],
                decoded_PK[rows],
                temperatures,
            )
        )
    return _join(parts)


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


def fidelity_record(
    parts: Iterable[tuple[Fidelity, Tensor]], temperatures: Sequence[float]
) -> dict[str, Any]:
    """The fidelity of a shard from that of its batches and their masks [P], as plain numbers."""
    counted = [(_mask(fidelity, mask_P)) for fidelity, mask_P in parts]
    whole = _join(counted)
    by_temperature = {}
    for place, temperature in enumerate(temperatures):
        retained = _numbers(whole.retained_PT[:, place])
        by_temperature[f"{temperature:g}"] = {
            "retained_mass": {
                "mean": _mean(retained),
                "p01": float(np.quantile(retained, _LOWEST_PERCENTILE)) if len(retained) else 1.0,
            },
            "codec_kl": _mean(_numbers(whole.codec_PT[:, place])),
            "truncation_kl": _mean(_numbers(whole.truncation_PT[:, place])),
        }
    return {
        "temperatures": by_temperature,
        "agreement": _mean(_numbers(whole.agreement_P)),
        "positions": len(whole.agreement_P),
    }


def merge_fidelity(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The fidelity of several shards: means by position; of the percentiles the lowest."""
    weights = [max(int(record["positions"]), 0) for record in records]
    total = max(sum(weights), 1)

    def mean(values: Sequence[float]) -> float:
        return sum(w * v for w, v in zip(weights, values, strict=True)) / total

    by_temperature = {}
    for name in records[0]["temperatures"]:
        at = [record["temperatures"][name] for record in records]
        by_temperature[name] = {
            "retained_mass": {
                "mean": mean([entry["retained_mass"]["mean"] for entry in at]),
                "p01": min(entry["retained_mass"]["p01"] for entry in at),
            },
            "codec_kl": mean([entry["codec_kl"] for entry in at]),
            "truncation_kl": mean([entry["truncation_kl"] for entry in at]),
        }
    agreement = mean([record["agreement"] for record in records])
    return {"temperatures": by_temperature, "agreement": agreement, "positions": sum(weights)}


def _capture_block(
    logit_PC: Tensor,
    label_P: Tensor | None,
    k: int,
    temperatures: Sequence[float],
    statistics: bool,
) -> SoftLabels:
    value_PK, index_PK = torch.topk(logit_PC, k, dim=1, sorted=True)
    best_P1 = value_PK[:, :1]
    others_PC = logit_PC.scatter(1, index_PK, -math.inf)
    rest_PT = torch.stack([_rest(others_PC, best_P1, at) for at in temperatures], dim=1)
    label_logit_P = None
    if label_P is not None:
        has_label_P = label_P >= 0
        chosen_P1 = torch.where(has_label_P, label_P, 0)[:, None]
        label_logit_P = (logit_PC.gather(1, chosen_P1) - best_P1)[:, 0] / temperatures[0]
        label_logit_P = torch.where(has_label_P, label_logit_P, 0.0)
    return SoftLabels(
        index_PK,
        (value_PK - best_P1) / temperatures[0],
        rest_PT,
        label_logit_P,
        _statistics(logit_PC) if statistics else {},
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


def _measure_block(
    logit_PC: Tensor,
    index_PK: Tensor,
    logit_PK: Tensor,
    rest_PT: Tensor,
    decoded_PK: Tensor,
    temperatures: Sequence[float],
) -> Fidelity:
    others_PC = logit_PC.scatter(1, index_PK, -math.inf)
    num_others = logit_PC.shape[1] - index_PK.shape[1]
    retained, truncation, codec = [], [], []
    for place, at in enumerate(temperatures):
        rest_P = rest_PT[:, place]
        log_p_PK, log_rest_P = entry_log_probs(logit_PK, rest_P, temperatures[0], at)
        log_q_PK, log_q_rest_P = entry_log_probs(
            decoded_PK.to(logit_PK.dtype), rest_P, temperatures[0], at
        )
        retained.append(log_p_PK.exp().sum(dim=1).clamp(max=1.0))
        kept_kl_P = _kl(log_p_PK, log_q_PK).sum(dim=1)
        codec.append((kept_kl_P + _kl(log_rest_P, log_q_rest_P)).clamp(min=0.0))
        truncation.append(log_rest_P.exp() * _unevenness(others_PC, at, num_others))
    return Fidelity(
        torch.stack(retained, dim=1),
        torch.stack(truncation, dim=1),
        torch.stack(codec, dim=1),
        _decoded_best(logit_PC, index_PK, decoded_PK) == logit_PC.amax(dim=1),
    )


def _decoded_best(logit_PC: Tensor, index_PK: Tensor, decoded_PK: Tensor) -> Tensor:
    """The teacher's logit of the decoded best class: equal classes are equally right."""
    best_P1 = index_PK.gather(1, decoded_PK.argmax(dim=1, keepdim=True))
    return logit_PC.gather(1, best_P1)[:, 0]


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0.0)


def _unevenness(others_PC: Tensor, temperature: float, num_others: int) -> Tensor:
    """KL of the softmax among the others against their even distribution; [P]."""
    if num_others == 0:
        return torch.zeros(len(others_PC), dtype=others_PC.dtype, device=others_PC.device)
    largest_P1 = others_PC.amax(dim=1, keepdim=True)
    safe_P1 = torch.where(torch.isneginf(largest_P1), 0.0, largest_P1)
    scaled_PC = (others_PC - safe_P1) / temperature
    weight_PC = scaled_PC.exp()
    mass_P = weight_PC.sum(dim=1)
    moment_P = torch.where(weight_PC > 0, weight_PC * scaled_PC, 0.0).sum(dim=1)
    uneven_P = moment_P / mass_P - mass_P.log() + math.log(num_others)
    return torch.where(mass_P > 0, uneven_P, 0.0).clamp(min=0.0)


def _rows_of_block(num_classes: int) -> int:
    return max(1, _BLOCK_ELEMENTS // num_classes)


def _blocks(logit_PC: Tensor, label_P: Tensor | None) -> Iterable[tuple[Tensor, Tensor | None]]:
    size = _rows_of_block(logit_PC.shape[1])
    for start in range(0, len(logit_PC), size):
        rows = slice(start, start + size)
        yield logit_PC[rows], None if label_P is None else label_P[rows]


Parts = TypeVar("Parts", SoftLabels, Fidelity)


def _join(parts: Sequence[Parts]) -> Parts:
    if len(parts) == 1:
        return parts[0]
    joined: dict[str, Any] = {}
    for field in fields(parts[0]):
        values = [getattr(part, field.name) for part in parts]
        if isinstance(values[0], dict):
            joined[field.name] = {key: torch.cat([v[key] for v in values]) for key in values[0]}
        else:
            joined[field.name] = None if values[0] is None else torch.cat(values)
    return type(parts[0])(**joined)


def _mask(fidelity: Fidelity, mask_P: Tensor) -> Fidelity:
    return Fidelity(
        fidelity.retained_PT[mask_P],
        fidelity.truncation_PT[mask_P],
        fidelity.codec_PT[mask_P],
        fidelity.agreement_P[mask_P],
    )


def _numbers(values: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    return values.double().cpu().numpy()


def _mean(values: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    return float(values.mean()) if len(values) else 0.0
