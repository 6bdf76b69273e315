"""Reducing logits against `torch.topk` and `torch.logsumexp` at each temperature, on the same rows.

The rows are logits of SmolLM2-135M on the source of Python's standard library; they are kept once
below the user's cache folder, as float32, 50 MB. Both sides use the same number of threads, and are
timed in turn. The numbers are compared with a dense softmax in float64 first.

Shape letters: P positions, C classes, K kept, T temperatures.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from tasks.nn.reduction import Reduced, Reduction, reduce_logits
from tasks.nn.softlabels import top_k
from tests.benchmarks import smollm2
from tests.benchmarks.figures import Figure, paired

ROWS = 256
K = 64
REPEATS = 15
SETS = ((1.0, 2.0, 4.0, 8.0), (2.0, 1.0, 4.0, 3.0))
THREADS = (1, 2)
_SMALL_CLASSES, _SMALL_K = 214, 8
_ACCURACY = 1e-5


def run() -> list[Figure]:
    """Times and errors, for the vocabulary of a language model and for 214 classes."""
    logit_PC = smollm2.logits(ROWS)
    before = torch.get_num_threads()
    figures = [_accuracy(logit_PC, temperatures) for temperatures in SETS]
    try:
        for threads in THREADS:
            torch.set_num_threads(threads)
            figures += [_figure(logit_PC, temperatures, threads) for temperatures in SETS]
            figures.append(_small(threads))
    finally:
        torch.set_num_threads(before)
    return figures


def _figure(logit_PC: Tensor, temperatures: tuple[float, ...], threads: int) -> Figure:
    def plain() -> None:
        torch.topk(logit_PC, K, dim=1)
        for at in temperatures:
            torch.logsumexp(logit_PC / at, dim=1)

    def undivided() -> None:
        torch.topk(logit_PC, K, dim=1)
        for _ in temperatures:
            torch.logsumexp(logit_PC, dim=1)

    ours, theirs = paired(
        _timed(lambda: _reduced(logit_PC, temperatures, K)), _timed(plain), REPEATS
    )
    ours_again, least = paired(
        _timed(lambda: _reduced(logit_PC, temperatures, K)), _timed(undivided), REPEATS
    )
    row = 1e6 / len(logit_PC)
    return Figure(
        f"{logit_PC.shape[1]:,} classes, T = {_list(temperatures)}, threads: {threads}",
        f"{ours / theirs:.3f} ({ours * row:.0f} us a row of {theirs * row:.0f} us); were nothing "
        f"divided by T: {ours_again / least:.3f} (of {least * row:.0f} us)",
        "at most 0.15",
        f"kept set (k={K}), rest, fidelity, bad rows and best class of {len(logit_PC)} rows, over "
        f"topk and {len(temperatures)} logsumexp(z / T); taken in turn, median of {REPEATS}",
    )


def _small(threads: int) -> Figure:
    generator = torch.Generator().manual_seed(0)
    logit_PC = 3 * torch.randn(ROWS, _SMALL_CLASSES, generator=generator)
    ours, _ = paired(
        _timed(lambda: _reduced(logit_PC, SETS[0], _SMALL_K)), lambda: 0.0, 10 * REPEATS
    )
    return Figure(
        f"{_SMALL_CLASSES} classes, k={_SMALL_K}, {ROWS} rows, threads: {threads}",
        f"{ours * 1e3:.2f} ms ({ours * 1e6 / ROWS:.1f} us a row)",
        "-",
        "a batch of a classifier",
    )


def _accuracy(logit_PC: Tensor, temperatures: tuple[float, ...]) -> Figure:
    """The largest errors against a dense softmax in float64, and that of a very peaked row."""
    wide_PC = torch.cat([logit_PC, _peaked(logit_PC.shape[1])])
    found = _reduced(wide_PC, temperatures, K)
    z = wide_PC.double().numpy()
    index_PK = found.kept.index_PK.numpy()
    error = 0.0
    for column, at in enumerate(temperatures):
        rest_P, retained_P, truncation_P = _dense(z, index_PK, at)
        error = max(
            error,
            float(np.abs(found.kept.rest_PT[:, column].numpy() - rest_P).max()),
            float(np.abs(found.fidelity.retained_PT[:, column].numpy() - retained_P).max()),
            float(np.abs(found.fidelity.truncation_PT[:, column].numpy() - truncation_P).max()),
        )
    assert error <= _ACCURACY, error
    lowest = float(found.kept.rest_PT[-1].min())
    assert math.isfinite(lowest)
    return Figure(
        f"largest error of rest, retained mass and truncation, T = {_list(temperatures)}",
        f"{error:.1e}; rests down to {lowest:.1f}",
        f"at most {_ACCURACY:g}",
        f"{len(wide_PC)} rows, one of them peaked, against a dense float64 softmax",
    )


def _dense(
    z: np.ndarray, index_PK: np.ndarray, at: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rest, retained mass, and the loss of spreading the rest evenly."""
    scaled_PC = (z - z.max(axis=1, keepdims=True)) / at
    log_total_P = np.log(np.exp(scaled_PC).sum(axis=1))
    others_PC = scaled_PC.copy()
    np.put_along_axis(others_PC, index_PK, -np.inf, axis=1)
    largest_P1 = others_PC.max(axis=1, keepdims=True)
    weight_PC = np.exp(others_PC - largest_P1)
    rest_P = np.log(weight_PC.sum(axis=1)) + largest_P1[:, 0]
    share_PC = weight_PC / weight_PC.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        uneven_PC = np.where(share_PC > 0, share_PC * np.log(share_PC), 0.0)
    left = z.shape[1] - index_PK.shape[1]
    mass_P = np.exp(rest_P - log_total_P)
    kept_PK = np.take_along_axis(scaled_PC, index_PK, axis=1)
    retained_P = np.exp(kept_PK - log_total_P[:, None]).sum(axis=1)
    return rest_P, retained_P, mass_P * (uneven_PC.sum(axis=1) + np.log(left))


def _peaked(num_classes: int) -> Tensor:
    """A row whose best class is 125 above all others but the kept ones."""
    logit_PC = torch.full((1, num_classes), -125.0)
    logit_PC[0, :K] = torch.linspace(0.0, -3.0, K)
    return logit_PC


def _reduced(logit_PC: Tensor, temperatures: tuple[float, ...], k: int) -> Reduced:
    real_P = torch.ones(len(logit_PC), dtype=torch.bool)
    reduction = Reduction(top_k(k), temperatures, logit_PC.shape[1])
    with torch.inference_mode():
        return reduce_logits(logit_PC, real_P, None, reduction)


def _timed(work: Callable[[], object]) -> Callable[[], float]:
    def run() -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    return run


def _list(temperatures: Sequence[float]) -> str:
    return ", ".join(f"{at:g}" for at in temperatures)
