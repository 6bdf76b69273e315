"""How faithful soft labels are: what their entries keep of the full softmax, and what codecs cost.

Shape letters: P positions, C classes, K kept classes, T temperatures.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from storage.options import STD, AnyTemperature, temperature_names
from tasks.nn.gathered import Gathered
from tasks.nn.others import Others
from tasks.nn.positions import join
from tasks.nn.softlabels import entry_log_probs

_LOWEST_PERCENTILE = 0.01


@dataclass(frozen=True)
class Fidelity:
    """How close the kept entries are to the full softmax, for each position and temperature.

    Attributes:
        retained_PT: mass of the kept classes.
        truncation_PT: KL(full || kept entries, the rest spread evenly over the other classes).
        effective_PT: the effective sample size of the draws, of a sampled set; or None.
    """

    retained_PT: Tensor
    truncation_PT: Tensor
    effective_PT: Tensor | None


def fidelity_of(
    found: Gathered,
    kept_P: Tensor | None,
    temperatures: Sequence[AnyTemperature],
    drawn_at: float | None = None,
) -> Fidelity:
    """Compare kept entries with the full softmax, in float64.

    Args:
        found: the entries that are kept, and the sums over all others.
        kept_P: how many entries there are, where that varies.
        temperatures: T first.
        drawn_at: where a sampled set was drawn.
    """
    above_PK = found.value_PK.double() - found.most_P.double()[:, None]
    rest_PT = found.rest_PT(temperatures)
    kept = found.index_PK.shape[1] if kept_P is None else kept_P.double()
    num_others_P = torch.zeros_like(rest_PT[:, 0]) + (found.num_classes - kept)
    log_p_TPK, retained, truncation = [], [], []
    for column, temperature in enumerate(temperatures):
        at_P = found.at_P(temperature)
        rest_P = rest_PT[:, column].exp()
        kept_mass_P = (above_PK / at_P[:, None]).exp().sum(dim=1)
        total_P = kept_mass_P + rest_P
        retained.append(kept_mass_P / total_P)
        place = found.temperatures.index(temperature)
        truncation.append(rest_P / total_P * _unevenness(found.others, place, at_P, num_others_P))
        log_p_TPK.append(above_PK / at_P[:, None] - total_P.log()[:, None])
    effective_PT = None
    if found.count_PK is not None and drawn_at is not None:
        log_drawn_PK = log_p_TPK[list(temperatures).index(drawn_at)]
        effective = [_effective(log_p_PK, log_drawn_PK, found.count_PK) for log_p_PK in log_p_TPK]
        effective_PT = torch.stack(effective, dim=1)
    dtype = found.most_P.dtype
    retained_PT = torch.stack(retained, dim=1).to(dtype)
    return Fidelity(retained_PT, torch.stack(truncation, dim=1).to(dtype), effective_PT)


def _unevenness(others: Others, place: int, at_P: Tensor, num_others_P: Tensor) -> Tensor:
    """KL of the softmax among the others against their even distribution; [P]."""
    mass_P = others.mass_PT[:, place].double()
    moment_P = others.moment_PT[:, place].double() / at_P
    uneven_P = moment_P / mass_P - mass_P.log() + num_others_P.log()
    return torch.where(mass_P > 0, uneven_P, 0.0).clamp(min=0.0)


def codec_kl(
    logit_PK: Tensor,
    decoded_PK: Tensor,
    rest_PT: Tensor,
    temperatures: Sequence[AnyTemperature],
    std_P: Tensor | None = None,
) -> Tensor:
    """KL over the k + 1 entries, before against after encoding; [P, T].

    Args:
        logit_PK: as they were before.
        decoded_PK: as they are afterwards.
        rest_PT: of these temperatures.
        temperatures: T first.
        std_P: the temperature of each position at `std`, where that is among them.
    """
    first = temperatures[0]
    assert first != STD
    found = []
    for place, temperature in enumerate(temperatures):
        at = temperature if temperature != STD else std_P
        assert at is not None
        rest_P = rest_PT[:, place]
        log_p_PK, log_rest_P = entry_log_probs(logit_PK, rest_P, first, at)
        log_q_PK, log_q_rest_P = entry_log_probs(decoded_PK.to(logit_PK.dtype), rest_P, first, at)
        kept_kl_P = _kl(log_p_PK, log_q_PK).sum(dim=1)
        found.append((kept_kl_P + _kl(log_rest_P, log_q_rest_P)).clamp(min=0.0))
    return torch.stack(found, dim=1)


def best_agrees(logit_PK: Tensor, decoded_PK: Tensor) -> Tensor:
    """Whether the decoded best class is the teacher's, or one that equals it; [P]."""
    return logit_PK.gather(1, decoded_PK.argmax(dim=1, keepdim=True))[:, 0] == 0


def draw_weights(log_p_PK: Tensor, log_drawn_PK: Tensor, share_PK: Tensor) -> Tensor:
    """What each drawn class weighs at another temperature than that of the draws; [P, K].

    count / n times p / p_drawn: its expectation is p, whatever was drawn.

    Args:
        log_p_PK: log-probabilities where the weights are wanted.
        log_drawn_PK: log-probabilities where it was drawn.
        share_PK: count / n; 0 where there is no entry.
    """
    ratio_PK = torch.where(share_PK > 0, log_p_PK - log_drawn_PK, 0.0).exp()
    return share_PK * ratio_PK


def fidelity_record(
    parts: Iterable[tuple[Fidelity, Tensor]],
    codec_PT: Tensor,
    agreement_P: Tensor,
    temperatures: Sequence[AnyTemperature],
) -> dict[str, Any]:
    """The fidelity of a shard as plain numbers.

    Args:
        parts: that of its batches and their masks [P].
        codec_PT: the codec's KL at the positions that count.
        agreement_P: whether the best class agrees at the positions that count.
        temperatures: T first.
    """
    whole = join([_mask(fidelity, mask_P) for fidelity, mask_P in parts])
    by_temperature = {}
    for place, name in enumerate(temperature_names(temperatures)):
        retained = _numbers(whole.retained_PT[:, place])
        entry: dict[str, Any] = {
            "retained_mass": {
                "mean": _mean(retained),
                "p01": float(np.quantile(retained, _LOWEST_PERCENTILE)) if len(retained) else 1.0,
            },
            "codec_kl": _mean(_numbers(codec_PT[:, place])),
            "truncation_kl": _mean(_numbers(whole.truncation_PT[:, place])),
        }
        if whole.effective_PT is not None:
            entry["effective_draws"] = _mean(_numbers(whole.effective_PT[:, place]))
        by_temperature[name] = entry
    return {
        "temperatures": by_temperature,
        "agreement": _mean(_numbers(agreement_P)),
        "positions": len(agreement_P),
    }


def merge_fidelity(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The fidelity of several shards: means by position; of the percentiles the lowest.

    What has no positions has no say; where nothing has any, it is that of the first shard.
    """
    records = [record for record in records if record.get("positions")] or [*records[:1]]
    if not any(records):
        return {}
    weights = [max(int(record["positions"]), 0) for record in records]
    total = max(sum(weights), 1)

    def mean(values: Sequence[float]) -> float:
        return sum(w * v for w, v in zip(weights, values, strict=True)) / total

    by_temperature: dict[str, Any] = {}
    for name in records[0]["temperatures"]:
        at = [record["temperatures"][name] for record in records]
        by_temperature[name] = {
            "retained_mass": {
                "mean": mean([entry["retained_mass"]["mean"] for entry in at]),
                "p01": min(entry["retained_mass"]["p01"] for entry in at),
            },
        }
        for figure in ("codec_kl", "truncation_kl", "effective_draws"):
            if figure in at[0]:
                by_temperature[name][figure] = mean([entry[figure] for entry in at])
    agreement = mean([record["agreement"] for record in records])
    return {"temperatures": by_temperature, "agreement": agreement, "positions": sum(weights)}


def _effective(log_p_PK: Tensor, log_drawn_PK: Tensor, count_PK: Tensor) -> Tensor:
    """The effective sample size of weighted draws (Kish): (sum w)^2 / sum w^2 over the draws."""
    one_PK = torch.where(count_PK > 0, log_p_PK - log_drawn_PK, 0.0).double()
    one_PK = (one_PK - one_PK.amax(dim=1, keepdim=True)).exp()
    sum_P = (count_PK * one_PK).sum(dim=1)
    return sum_P.square() / (count_PK * one_PK.square()).sum(dim=1)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0.0)


def _mask(fidelity: Fidelity, mask_P: Tensor) -> Fidelity:
    effective_PT = fidelity.effective_PT
    return Fidelity(
        fidelity.retained_PT[mask_P],
        fidelity.truncation_PT[mask_P],
        None if effective_PT is None else effective_PT[mask_P],
    )


def _numbers(values: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    return values.double().cpu().numpy()


def _mean(values: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    return float(values.mean()) if len(values) else 0.0
