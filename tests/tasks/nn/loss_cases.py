"""Students and teachers of all shapes, ties, masks and extremes, for hypothesis.

Shape letters: P positions, C classes, K kept.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from storage.options import STD
from tasks.nn.batch import Batch
from tests.tasks.toy import batch_of

TEMPERATURES = (2.0, 0.5, 1.0, 4.0, 7.3)
TEACHER = (
    st.floats(-4, 4) | st.integers(-2, 2).map(float) | st.sampled_from([-torch.inf, -150.0, 60.0])
)
STUDENT = st.floats(-6, 6) | st.integers(-2, 2).map(float) | st.sampled_from([-80.0, 40.0])


class Case(NamedTuple):
    """`kept` names the kept classes of each position, those without mass too."""

    student_PC: Tensor
    teacher_PC: Tensor
    batch: Batch
    kept: list[list[int]]


@st.composite
def cases(draw: st.DrawFn, *, all_kept: bool = False) -> Case:
    """A student, a teacher, labels, a mask and what is kept; some positions hold nothing."""
    positions, classes = draw(st.integers(1, 4)), draw(st.integers(2, 6))

    def block(number: st.SearchStrategy[float]) -> Tensor:
        row = st.lists(number, min_size=classes, max_size=classes)
        rows = draw(st.lists(row, min_size=positions, max_size=positions))
        return torch.tensor(rows, dtype=torch.float64)

    teacher_PC, student_PC = block(TEACHER), block(STUDENT)
    teacher_PC[torch.isneginf(teacher_PC).all(dim=1), 0] = 0.0
    label = st.integers(0, classes - 1) | st.just(-100)
    label_P = torch.tensor(draw(st.lists(label, min_size=positions, max_size=positions)))
    mask_P = torch.tensor(draw(st.lists(st.booleans(), min_size=positions, max_size=positions)))
    k = classes if all_kept else draw(st.integers(1, classes))
    batch = batch_of(teacher_PC, label_P, k, TEMPERATURES, mask_P, draw(st.integers(0, 2)))
    kept = teacher_PC.sort(dim=1, descending=True, stable=True).indices[:, :k].tolist()
    return Case(student_PC, teacher_PC, batch, kept)


def deviation_of(logit_C: Tensor) -> Tensor:
    """The deviation of the logits above -inf, in float64."""
    finite = logit_C[logit_C > -torch.inf].double()
    return (finite - finite.mean()).square().mean().sqrt()


def with_std(case: Case) -> Batch:
    """The batch of a case with the rest at each position's own deviation, at least 0.01."""
    std, rest = [], []
    for teacher_C, kept_K in zip(case.teacher_PC, case.kept, strict=True):
        std.append(deviation_of(teacher_C).clamp(min=0.01))
        left = [number for number in range(len(teacher_C)) if number not in kept_K]
        scaled_C = (teacher_C - teacher_C.max()) / std[-1]
        rest.append(
            torch.logsumexp(torch.cat([scaled_C[left], scaled_C.new_tensor([-torch.inf])]), 0)
        )
    mask_P, rest_PT = case.batch.mask_P, case.batch.rest_PT
    rest_P = torch.stack(rest).masked_fill(~mask_P, -torch.inf)
    assert rest_PT is not None
    return replace(
        case.batch,
        temperatures=(*case.batch.temperatures, STD),
        rest_PT=torch.cat([rest_PT, rest_P[:, None]], dim=1),
        std_P=torch.stack(std).masked_fill(~mask_P, 1.0),
    )


def value_and_gradient(function, student_PC: Tensor) -> tuple[Tensor, Tensor]:
    """Of a function of the student's logits that gives one number."""
    student_PC = student_PC.detach().clone().requires_grad_()
    value = function(student_PC)
    value.backward()
    assert student_PC.grad is not None
    return value.detach(), student_PC.grad


def close(found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor], tolerance: float) -> None:
    """Values and gradients agree, and are finite."""
    for got, expected in zip(found, wanted, strict=True):
        assert torch.isfinite(got).all()
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
