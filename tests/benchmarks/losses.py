"""What each soft loss costs beside `forward_kl`: all of them read the student's logits once.

A loss with its gradient, from logits that are there, each taken in turn with `forward_kl`, on one
thread and in its own time, which other work disturbs less than the wall's clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from tasks.loss_options import LossOptions, SoftLoss
from tasks.nn.batch import Batch
from tasks.nn.losses import soft_loss
from tests.benchmarks.figures import Figure, one_thread, paired

POSITIONS, CLASSES, K = 512, 49_152, 64
REPEATS = 9
ALL_CLASSES = 100


def run() -> list[Figure]:
    """Times over that of `forward_kl`."""
    with one_thread():
        return _figures()


def _figures() -> list[Figure]:
    torch.manual_seed(0)
    many = _batch(CLASSES, K)
    student_PC = torch.randn(POSITIONS, CLASSES)
    options = {kind.value: LossOptions(soft=kind) for kind in SoftLoss}
    del options["forward_kl"], options["sampled"]
    options |= {
        "forward_kl, tail: renormalize": LossOptions(tail="renormalize"),
        "forward_kl at std": LossOptions(temperature="std"),
    }
    figures = [_figure(name, said, student_PC, many, K) for name, said in options.items()]
    few, student_PC = _batch(ALL_CLASSES, ALL_CLASSES), torch.randn(POSITIONS, ALL_CLASSES)
    for kind in ("flsw", "cwsm"):
        said = LossOptions.model_validate({"temperature": {"kind": kind, "base": 4.0}})
        figures.append(_figure(f"forward_kl at {kind}", said, student_PC, few, ALL_CLASSES))
    return figures


def _figure(name: str, said: LossOptions, student_PC: torch.Tensor, batch: Batch, k: int) -> Figure:
    plain = LossOptions(temperature=1.0)
    own, other = paired(_timed(student_PC, batch, said), _timed(student_PC, batch, plain), REPEATS)
    classes = student_PC.shape[1]
    return Figure(
        f"loss and gradient, {name}: time over forward_kl's, one thread",
        f"{own / other:.2f} ({1e3 * own:.1f} of {1e3 * other:.1f} ms)",
        "-",
        f"{POSITIONS} positions, {classes:,} classes, k={k}; taken in turn, medians of {REPEATS}",
    )


def _timed(student_PC: torch.Tensor, batch: Batch, said: LossOptions) -> Callable[[], float]:
    def seconds() -> float:
        logit_PC = student_PC.clone().requires_grad_()
        started = time.process_time()
        soft_loss(logit_PC, batch, said).sum().backward()  # type: ignore[no-untyped-call]
        return time.process_time() - started

    return seconds


def _batch(classes: int, k: int) -> Batch:
    """Labels of a stream's form from random logits."""
    teacher_PC = torch.randn(POSITIONS, classes) * 3
    logit_PK, index_PK = teacher_PC.topk(k, dim=1)
    best_P1 = logit_PK[:, :1]
    std_P = teacher_PC.std(dim=1, correction=0)
    rest_PC = (teacher_PC - best_P1).scatter(1, index_PK, -torch.inf)
    rest = [torch.logsumexp(rest_PC / at, dim=1) for at in (1.0, std_P[:, None])]
    count = torch.ones(POSITIONS, dtype=torch.bool)
    return Batch(
        inputs=(),
        index_PK=index_PK,
        logit_PK=logit_PK - best_P1,
        rest_PT=torch.stack(rest, dim=1),
        weight_PK=None,
        label_P=index_PK[:, 0],
        label_logit_P=None,
        mask_P=count,
        real_P=count,
        temperatures=(1.0, "std"),
        sample_ids=[str(number) for number in range(POSITIONS)],
        std_P=std_P,
    )
