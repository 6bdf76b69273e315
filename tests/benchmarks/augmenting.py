"""What a step of augmentation costs, an image; noise also against numbers that are drawn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from pydantic import TypeAdapter

from storage.augment_options import AugmentStep
from tasks.nn.augment import augment
from tasks.nn.hashed import mix64
from tests.benchmarks.figures import Figure

_COUNT = 256
_SHAPE = (3, 32, 32)
_REPEATS = 9
_STEPS: tuple[dict[str, Any], ...] = (
    {"kind": "flip"},
    {"kind": "crop", "padding": 4},
    {"kind": "erase", "size": [8, 8]},
    {"kind": "brightness", "amount": 0.2},
    {"kind": "noise", "deviation": 5.0},
)


def run() -> list[Figure]:
    """Batches of small uint8 images, each step by itself."""
    values = torch.randint(0, 256, (_COUNT, *_SHAPE), dtype=torch.uint8)
    seed_B = mix64(torch.arange(1, _COUNT + 1))
    how = f"{_COUNT} images of {_SHAPE}, {torch.get_num_threads()} threads; median of {_REPEATS}"
    figures = []
    for options in _STEPS:
        step = TypeAdapter(AugmentStep).validate_python(options)
        seconds = _seconds(lambda step=step: augment(values, seed_B, [(0, step)]))
        name = f"a view by {options['kind']}"
        figures.append(Figure(name, f"{seconds / _COUNT * 1e6:.0f} us an image", "-", how))
    drawn = _seconds(lambda: (values + torch.randn(values.shape) * 5).round().clamp(0, 255).byte())
    name = "the same noise, drawn and not hashed"
    figures.append(Figure(name, f"{drawn / _COUNT * 1e6:.0f} us an image", "-", how))
    return figures


def _seconds(work: Callable[[], Any]) -> float:
    times = []
    for _ in range(_REPEATS + 1):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])
