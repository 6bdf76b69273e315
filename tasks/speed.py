"""How fast a model is: samples a second in batches, and the latency of a single sample."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from storage.spec import InputSpec
from tasks.nn.models import probe_inputs

_SECONDS = 0.3
_LEAST_RUNS = 5
_MOST_RUNS = 2000


def measure_speed(
    run: Callable[[tuple[torch.Tensor, ...]], torch.Tensor],
    inputs: Sequence[InputSpec],
    batch_size: int,
) -> dict[str, Any]:
    """Time a model on zeros; quality is measured elsewhere.

    Args:
        run: from inputs [B, ...] to logits.
        inputs: what the model gets.
        batch_size: samples of a batch for the throughput.

    Returns:
        `samples_per_second` and `latency_seconds` with `p50` and `p95`.
    """
    batched = _seconds(run, probe_inputs(inputs, batch_size))
    single = _seconds(run, probe_inputs(inputs, 1))
    p50, p95 = np.quantile(single, [0.5, 0.95])
    return {
        "samples_per_second": batch_size / float(np.median(batched)),
        "latency_seconds": {"p50": float(p50), "p95": float(p95)},
    }


def _seconds(
    run: Callable[[tuple[torch.Tensor, ...]], torch.Tensor], inputs: tuple[torch.Tensor, ...]
) -> list[float]:
    run(inputs)
    taken: list[float] = []
    while len(taken) < _LEAST_RUNS or (sum(taken) < _SECONDS and len(taken) < _MOST_RUNS):
        started = time.perf_counter()
        run(inputs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return taken
