"""The loss over kept classes and rest with its gradient, against KL over all classes with torch.

The dense side has the teacher's probabilities of all classes in memory and does what people write:
`kl_div(log_softmax(z / T), p) * T^2`. Logits and teacher are there before; what is measured is what
comes on top, the gradient of the logits included. Then the same from the output layer's input, its
products and their gradients included on both sides.

Shape letters: P positions, C classes, K kept, W the width of the output layer's input.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tasks.loss_options import LossOptions
from tasks.nn.kept_log_probs import Logits
from tasks.nn.losses import distillation_loss
from tasks.nn.projected import Projected, Room
from tests.benchmarks.figures import Figure
from tests.benchmarks.resident import number_from, rise_bytes
from tests.benchmarks.steps import CLASSES, WIDTH, K, labels

REPEATS = 5
AT = 2.0
SPARSE, DENSE = "sparse", "dense"
FUSED, WHOLE, DENSE_LAYER = "in blocks", "whole", "dense with its layer"
_OPTIONS = LossOptions(soft_weight=1.0)


def run() -> list[Figure]:
    """Times and peaks, as ratios to the dense ones."""
    names = (SPARSE, DENSE, FUSED, WHOLE, DENSE_LAYER)
    works = {name: work_of(name) for name in names}
    for work in works.values():
        work()
    times = {name: list[float]() for name in names}
    for _ in range(REPEATS):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - started)
    seconds = {name: statistics.median(times[name]) for name in names}
    peaks = {name: number_from(__name__, f"peak_bytes({name!r})") for name in names}
    return [
        _time(SPARSE, DENSE, seconds, "at least 4"),
        _peak(SPARSE, DENSE, peaks, "at most 0.333"),
        _time(FUSED, DENSE_LAYER, seconds, "at least 0.83"),
        _peak(FUSED, DENSE_LAYER, peaks, "at most 0.167"),
        _time(WHOLE, DENSE_LAYER, seconds, "-"),
        _peak(WHOLE, DENSE_LAYER, peaks, "-"),
    ]


def peak_bytes(name: str) -> int:
    """What a loss with its gradient, made twice, has resident at the most over what is before."""
    work = work_of(name)

    def twice() -> None:
        work()
        work()

    return rise_bytes(twice)


def work_of(name: str) -> Callable[[], None]:
    """A loss and its gradient, which is dropped."""
    torch.manual_seed(0)
    batch = labels()
    positions = len(batch.label_P)
    hidden_PW = torch.randn(positions, WIDTH, requires_grad=True)
    weight_CW = (torch.randn(CLASSES, WIDTH) / 4).requires_grad_()
    leaves = [hidden_PW, weight_CW]
    if name in (SPARSE, DENSE):
        leaves = [(hidden_PW.detach() @ weight_CW.detach().T).requires_grad_()]
    room = Room()
    teacher_PC = torch.empty(0)
    if name in (DENSE, DENSE_LAYER):
        teacher_PC = torch.rand(positions, CLASSES)
        teacher_PC /= teacher_PC.sum(dim=1, keepdim=True)

    def loss() -> Tensor:
        if name in (DENSE, DENSE_LAYER):
            logit_PC = leaves[0] if name == DENSE else F.linear(*leaves)
            log_q_PC = torch.log_softmax(logit_PC / AT, dim=1)
            return F.kl_div(log_q_PC, teacher_PC, reduction="batchmean") * AT**2
        logits: Logits = leaves[0]
        if name != SPARSE:
            logits = Projected(hidden_PW, weight_CW, room=room if name == WHOLE else None)
        return distillation_loss(logits, batch, _OPTIONS).total

    def work() -> None:
        torch.autograd.grad(loss(), leaves)

    return work


def _time(own: str, other: str, seconds: dict[str, float], asked: str) -> Figure:
    return Figure(
        f"loss and gradient, {own} against {other}: times as fast",
        f"{seconds[other] / seconds[own]:.2f} ({seconds[own]:.3f} s, {seconds[other]:.3f} s)",
        asked,
        f"{CLASSES:,} classes, k={K}, 2,048 positions, T = {AT:g}"
        + ("" if own == SPARSE else f", output layer of width {WIDTH} included")
        + f"; taken in turn, medians of {REPEATS}",
    )


def _peak(own: str, other: str, peaks: dict[str, float], asked: str) -> Figure:
    return Figure(
        f"loss and gradient, {own} over {other}: peak memory",
        f"{peaks[own] / peaks[other]:.3f} ({peaks[own] / 2**20:.0f} of "
        f"{peaks[other] / 2**20:.0f} MiB)",
        asked,
        "resident, on top of inputs and teacher, in a process of its own each",
    )
