"""Figures of a model from per-position results, each with a bootstrap interval.

Samples are resampled, not positions, for the positions of one sample are not independent. Means are
in nats. Pure numpy: results come from any model, or from stored labels.

Shape letters: P positions, S samples, R resamples, M metrics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 15
_BLOCK_ELEMENTS = 1 << 22
Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class Results:
    """One model on one split, for the positions that count; all [P].

    Attributes:
        sample: the number of the sample that a position belongs to, rising from 0.
        prediction: the class with the largest logit.
        confidence: its probability at temperature 1.
        label: the hard label, negative where there is none.
        nll: negative log-likelihood of the hard label, in nats; NaN without one.
        agreement: whether the prediction is the teacher's.
        kl: KL(teacher || model) over the stored entries, in nats.
    """

    sample: NDArray[np.int64]
    prediction: NDArray[np.int64]
    confidence: Float64Array
    label: NDArray[np.int64]
    nll: Float64Array
    agreement: NDArray[np.bool_]
    kl: Float64Array

    @property
    def has_labels(self) -> bool:
        """Whether there is a hard label to compare with."""
        return bool((self.label >= 0).any())

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Where the prediction is the hard label."""
        return np.equal(self.prediction, self.label)


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made.

    Attributes:
        resamples: R.
        confidence: the share of resamples inside an interval.
        seed: of the resampling; the same for all models, so that differences are paired.
    """

    resamples: int
    confidence: float
    seed: int


def figures(
    results: Results, teacher: Results, bootstrap: Bootstrap, *, language_model: bool
) -> dict[str, Any]:
    """All figures of one model on one split: `{metric: {value, low, high}}`, and its reliability.

    Args:
        results: the model's.
        teacher: the teacher's, on the same samples.
        bootstrap: how intervals are made.
        language_model: also report the perplexity.
    """
    weights = _Resampling(results, bootstrap)
    found: dict[str, Any] = {
        "samples": weights.num_samples,
        "positions": len(results.sample),
        "agreement": weights.mean(results.agreement),
        "kl_to_teacher": weights.mean(results.kl),
    }
    if not results.has_labels:
        return found
    nll = weights.mean(results.nll, results.label >= 0)
    found |= {
        "accuracy": weights.mean(results.correct, results.label >= 0),
        "nll": nll,
        "ece": weights.calibration(results),
        "retention": {"accuracy": weights.ratio(results.correct, teacher.correct)},
        "reliability": reliability(results),
    }
    if language_model:
        found["perplexity"] = {key: math.exp(min(value, 700.0)) for key, value in nll.items()}
    return found


def compare(a: Results, b: Results, metric: str, bootstrap: Bootstrap) -> dict[str, Any]:
    """The paired difference of two models, a minus b: its interval and its p-value.

    Args:
        a: one model's.
        b: the other's, on the same samples.
        metric: `accuracy` or `nll`.
        bootstrap: how intervals are made.

    The p-value is of a sign-flip permutation test over samples: how often would chance alone give
    a mean difference at least as large, if a and b were the same.
    """
    counts = a.label >= 0
    values = _per_position(a, metric) - _per_position(b, metric)
    weights = _Resampling(a, bootstrap)
    return {
        "difference": weights.mean(values, counts),
        "p_value": _sign_flip(weights.sums(np.where(counts, values, 0.0)), bootstrap),
    }


def reliability(results: Results) -> list[dict[str, Any]]:
    """Confidence against accuracy in 15 even bins of confidence."""
    counts = results.label >= 0
    bins = _bins(results.confidence[counts])
    confidence, correct = results.confidence[counts], results.correct[counts]
    table = []
    for place in range(NUM_BINS):
        inside = bins == place
        number = int(inside.sum())
        table.append(
            {
                "low": place / NUM_BINS,
                "high": (place + 1) / NUM_BINS,
                "count": number,
                "confidence": float(confidence[inside].mean()) if number else None,
                "accuracy": float(correct[inside].mean()) if number else None,
            }
        )
    return table


class _Resampling:
    """Bootstrap resamples of the samples of one split: the same for all models."""

    def __init__(self, results: Results, bootstrap: Bootstrap) -> None:
        self._sample = results.sample
        self.num_samples = int(results.sample.max(initial=-1)) + 1
        self._bootstrap = bootstrap

    def sums(self, values: NDArray[Any]) -> Float64Array:
        """The sum over each sample's positions; [S]."""
        sums = np.bincount(self._sample, weights=values, minlength=self.num_samples)
        return sums.astype(np.float64)

    def mean(
        self, values: NDArray[Any], counts: NDArray[np.bool_] | None = None
    ) -> dict[str, float]:
        """The mean over the positions that count, with its interval."""
        counts = np.ones(len(values), np.bool_) if counts is None else counts
        above = self.sums(np.where(counts, values, 0.0))
        below = self.sums(counts)
        sums_RM = self._resampled(np.stack([above, below], axis=1))
        return self._interval(
            float(above.sum() / max(below.sum(), 1)), sums_RM[:, 0] / np.maximum(sums_RM[:, 1], 1)
        )

    def ratio(self, values: NDArray[Any], base: NDArray[Any]) -> dict[str, float]:
        """The ratio of two sums, with its interval; 0 where there is nothing to compare with."""
        above, below = self.sums(values), self.sums(base)
        sums_RM = self._resampled(np.stack([above, below], axis=1))
        return self._interval(
            float(above.sum() / below.sum()) if below.sum() else 0.0,
            sums_RM[:, 0] / np.maximum(sums_RM[:, 1], 1),
        )

    def calibration(self, results: Results) -> dict[str, float]:
        """The expected calibration error over 15 even bins (Guo et al. 2017, arXiv 1706.04599)."""
        counts = results.label >= 0
        gap = np.where(counts, results.confidence - results.correct, 0.0)
        bins = _bins(results.confidence)
        per_bin = [self.sums(np.where(bins == place, gap, 0.0)) for place in range(NUM_BINS)]
        columns = np.stack([*per_bin, self.sums(counts)], axis=1)

        def error(sums: Float64Array) -> Float64Array:
            total: Float64Array = np.abs(sums[..., :-1]).sum(axis=-1) / np.maximum(sums[..., -1], 1)
            return total

        return self._interval(float(error(columns.sum(axis=0))), error(self._resampled(columns)))

    def _resampled(self, columns_SM: Float64Array) -> Float64Array:
        """The sums of the columns in each resample; [R, M]."""
        generator = np.random.default_rng(self._bootstrap.seed)
        total = self._bootstrap.resamples
        block = max(1, _BLOCK_ELEMENTS // max(self.num_samples, 1))
        parts = []
        for start in range(0, total, block):
            rows = min(block, total - start)
            drawn = generator.integers(0, self.num_samples, (rows, self.num_samples))
            places = drawn + np.arange(rows)[:, None] * self.num_samples
            times = np.bincount(places.ravel(), minlength=rows * self.num_samples)
            parts.append(times.reshape(rows, -1) @ columns_SM)
        return np.concatenate(parts)

    def _interval(self, value: float, resampled: Float64Array) -> dict[str, float]:
        margin = (1 - self._bootstrap.confidence) / 2
        low, high = np.quantile(resampled, [margin, 1 - margin])
        return {"value": value, "low": float(low), "high": float(high)}


def _per_position(results: Results, metric: str) -> Float64Array:
    columns = {"accuracy": results.correct.astype(np.float64), "nll": results.nll}
    return columns[metric]


def _sign_flip(differences: Float64Array, bootstrap: Bootstrap) -> float:
    generator = np.random.default_rng(bootstrap.seed + 1)
    observed = abs(differences.sum())
    differences = differences[differences != 0]
    block = max(1, _BLOCK_ELEMENTS // max(len(differences), 1))
    reached = 0
    for start in range(0, bootstrap.resamples, block):
        rows = min(block, bootstrap.resamples - start)
        signs = generator.integers(0, 2, (rows, len(differences))) * 2 - 1
        reached += int((np.abs(signs @ differences) >= observed - 1e-12).sum())
    return (1 + reached) / (1 + bootstrap.resamples)


def _bins(confidence: Float64Array) -> NDArray[np.int64]:
    return np.minimum((confidence * NUM_BINS).astype(np.int64), NUM_BINS - 1)
