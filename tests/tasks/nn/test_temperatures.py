"""Temperatures that differ from position to position, and those that change while training goes on.

Shape letters: P positions, C classes, K kept.
"""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import RecipeError
from tasks.loss_options import LossOptions, SoftLoss, Tail
from tasks.nn.losses import distillation_loss, soft_loss
from tasks.nn.projected import Projected
from tasks.nn.student_deviation import LEAST, student_deviation
from tests.tasks import dense
from tests.tasks.nn.loss_cases import (
    STUDENT,
    TEMPERATURES,
    cases,
    close,
    deviation_of,
    value_and_gradient,
    with_std,
)
from tests.tasks.toy import batch_of

KINDS = [kind for kind in SoftLoss if kind is not SoftLoss.SAMPLED]
FLSW = {"kind": "flsw", "base": 3.0, "beta": 1.5, "gamma": 2.0}
CWSM = {"kind": "cwsm", "base": 5.0, "beta": 0.5}


def soft_only(**more):
    return LossOptions(soft_weight=1.0, beta=0.3, alpha=0.3, **more)


# --- std ----------------------------------------------------------------------------------------


@given(cases(), st.sampled_from(KINDS), st.sampled_from(Tail))
@settings(max_examples=150)
def test_std_is_the_dense_loss_with_a_deviation_of_its_own_for_each_model(case, kind, tail):
    batch = with_std(case)
    options = soft_only(soft=kind, tail=tail, temperature="std")

    def reference(logits_PC):
        scales = [
            (deviation_of(teacher_C).clamp(min=0.01), deviation_of(student_C).clamp(min=LEAST))
            for teacher_C, student_C in zip(case.teacher_PC, logits_PC, strict=True)
        ]
        value = dense.soft_loss(
            logits_PC, case.teacher_PC, case.kept, batch.mask_P, scales, tail.value, kind.value,
            0.3, squared=[1.0] * len(scales),
        )  # fmt: skip
        return value + 0.0 * logits_PC.sum()

    def ours(logits_PC):
        return distillation_loss(logits_PC, batch, options).total + 0.0 * logits_PC.sum()

    # A student of equal logits has no slope in its deviation, where the root has none either.
    spread_PC = case.student_PC + 0.1 * torch.arange(case.student_PC.shape[1])
    close(value_and_gradient(ours, spread_PC), value_and_gradient(reference, spread_PC), 1e-8)


@given(st.lists(st.lists(STUDENT, min_size=3, max_size=3), min_size=1, max_size=5))
@settings(max_examples=30)
def test_the_deviation_and_its_gradient_in_blocks(rows):
    logit_PC = torch.tensor(rows, dtype=torch.float64)
    expected_P = logit_PC.std(dim=1, correction=0).clamp(min=LEAST)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.nn.student_deviation._CACHED_ELEMENTS", 4)
        torch.testing.assert_close(student_deviation(logit_PC), expected_P)
        spread_PC = (logit_PC + torch.tensor([0.0, 0.1, 0.3])).requires_grad_()
        assert torch.autograd.gradcheck(student_deviation, (spread_PC,))


def test_a_student_of_equal_logits_gets_a_finite_gradient():
    case_batch = batch_of(torch.randn(2, 4), torch.zeros(2).long(), 2, (1.0,))
    batch = dataclasses.replace(
        case_batch,
        temperatures=(1.0, "std"),
        rest_PT=case_batch.rest_PT.repeat(1, 2),
        std_P=torch.ones(2),
    )
    value, gradient = value_and_gradient(
        lambda logits: soft_loss(logits, batch, soft_only(temperature="std")).sum(),
        torch.zeros(2, 4),
    )
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()


def test_the_loss_at_std_does_not_depend_on_the_student_s_scale():
    torch.manual_seed(0)
    teacher_PC, student_PC = torch.randn(2, 3, 6, dtype=torch.float64)
    plain = batch_of(teacher_PC, torch.zeros(3).long(), 6, (1.0,))
    batch = dataclasses.replace(
        plain,
        temperatures=(1.0, "std"),
        rest_PT=plain.rest_PT.repeat(1, 2),
        std_P=teacher_PC.std(dim=1, correction=0),
    )
    options = soft_only(temperature="std")
    found = soft_loss(student_PC, batch, options)
    torch.testing.assert_close(soft_loss(7 * student_PC + 2, batch, options), found)
    torch.testing.assert_close(
        soft_loss(0.2 * teacher_PC, batch, options), torch.zeros(3).double(), atol=1e-12, rtol=0
    )


# --- flsw and cwsm ------------------------------------------------------------------------------


def plain_weights(student_PC, teacher_PC, at):
    """TextBrewer's, one position after the other."""
    found = []
    for student_C, teacher_C in zip(student_PC.detach(), teacher_PC, strict=True):
        if at["kind"] == "cwsm":
            found.append(1 / (torch.softmax(student_C, dim=0).max() + 1e-3))
            continue
        there = teacher_C > -torch.inf
        v, t = (one[there] - one[there].mean() for one in (student_C, teacher_C))
        v, t = v / (v.norm() + 1e-4), t / (t.norm() + 1e-4)
        found.append((1 - (v * t).sum()).clamp(min=0) ** at["gamma"])
    return torch.stack(found)


@pytest.mark.parametrize("at", [FLSW, CWSM])
@given(case=cases(all_kept=True), kind=st.sampled_from(KINDS), tail=st.sampled_from(Tail))
@settings(max_examples=60)
def test_temperatures_that_follow_the_student_are_textbrewer_s(at, case, kind, tail):
    mask_P = case.batch.mask_P
    weight_P = plain_weights(case.student_PC, case.teacher_PC, at)
    mean = weight_P[mask_P].mean() if mask_P.any() else torch.zeros(())
    tau_P = (at["base"] + at["beta"] * (mean - weight_P)).clamp(min=0.1 * at["base"])

    def reference(logits_PC):
        scales = [(tau, tau) for tau in tau_P]
        value = dense.soft_loss(
            logits_PC, case.teacher_PC, case.kept, mask_P, scales, tail.value, kind.value, 0.3,
            squared=tau_P**2,
        )  # fmt: skip
        return value + 0.0 * logits_PC.sum()

    def ours(logits_PC):
        options = soft_only(soft=kind, tail=tail, temperature=at)
        return distillation_loss(logits_PC, case.batch, options).total + 0.0 * logits_PC.sum()

    found = value_and_gradient(ours, case.student_PC)
    close(found, value_and_gradient(reference, case.student_PC), 1e-7)


@pytest.mark.parametrize("at", [FLSW, CWSM])
def test_they_need_every_class(at):
    batch = batch_of(torch.randn(2, 4), torch.zeros(2).long(), 3, (1.0,))
    with pytest.raises(RecipeError, match=r"loss\.temperature: .* labels\.keep: all"):
        soft_loss(torch.randn(2, 4), batch, soft_only(temperature=at))


# --- over training ------------------------------------------------------------------------------


def test_steps_take_one_stored_temperature_after_the_other():
    torch.manual_seed(0)
    batch = batch_of(torch.randn(3, 6), torch.zeros(3).long(), 2, TEMPERATURES)
    student_PC = torch.randn(3, 6)
    options = soft_only(temperature=[4.0, 2.0, 0.5])
    for done, at in ((0.0, 4.0), (0.3, 4.0), (0.34, 2.0), (0.5, 2.0), (0.7, 0.5), (1.0, 0.5)):
        found = soft_loss(student_PC, batch, options, done)
        assert torch.equal(found, soft_loss(student_PC, batch, soft_only(temperature=at)))


def test_weights_follow_their_schedules():
    torch.manual_seed(0)
    batch = batch_of(torch.randn(3, 6), torch.tensor([0, 1, 2]), 2, (2.0, 1.0))
    student_PC = torch.randn(3, 6)
    options = LossOptions(
        soft_weight={"start": 1.0, "end": 0.0},
        hard_weight={"schedule": "cosine", "start": 0.0, "end": 0.8},
    )
    for done, soft, hard in ((0.0, 1.0, 0.0), (0.5, 0.5, 0.4), (1.0, 0.0, 0.8)):
        found = distillation_loss(student_PC, batch, options, done=done)
        constant = LossOptions(soft_weight=soft, hard_weight=hard)
        wanted = distillation_loss(student_PC, batch, constant)
        torch.testing.assert_close(found.total, wanted.total)
        assert (found.soft is None, found.hard is None) == (soft == 0, hard == 0)


def test_another_temperature_is_refused_with_the_stored_ones():
    batch = batch_of(torch.randn(2, 4), torch.zeros(2).long(), 2, (4.0, 2.5, 1.0))
    for temperature, got in ((3.0, "3"), ("std", "std"), ([4.0, 7.0], "7")):
        with pytest.raises(RecipeError, match=rf"stored temperatures 4, 2\.5, 1, got {got}; add"):
            soft_loss(torch.randn(2, 4), batch, soft_only(temperature=temperature), done=1.0)


# --- logits that are not made yet ---------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("temperature", ["std", FLSW, CWSM, [2.0, 0.5]])
def test_from_the_output_layer_s_input_as_from_logits(temperature, bias):
    torch.manual_seed(0)
    hidden_PW, weight_CW, bias_C = torch.randn(4, 3), torch.randn(6, 3), torch.randn(6)
    plain = batch_of(torch.randn(4, 6), torch.tensor([0, 1, 2, 3]), 6, TEMPERATURES)
    batch = dataclasses.replace(
        plain,
        temperatures=(*TEMPERATURES, "std"),
        rest_PT=torch.cat([plain.rest_PT, plain.rest_PT[:, :1]], dim=1),
        std_P=torch.rand(4) + 0.5,
    )
    options = LossOptions(soft="jsd", temperature=temperature)

    def found(made):
        leaves = [part.clone().requires_grad_() for part in (hidden_PW, weight_CW, bias_C)]
        logits = made(*leaves) if bias else made(*leaves[:2], None)
        distillation_loss(logits, batch, options, done=0.7).total.backward()
        return [part.grad for part in leaves[: 2 + bias]]

    for got, wanted in zip(found(Projected), found(F.linear), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("temperature", ["std", FLSW, CWSM])
@pytest.mark.parametrize("kind", KINDS)
def test_cuda_gives_the_loss_and_gradient_of_the_cpu(kind, temperature):
    torch.manual_seed(0)
    plain = batch_of(torch.randn(64, 50) * 3, torch.randint(0, 50, (64,)), 50, (2.0, 1.0))
    batch = dataclasses.replace(
        plain,
        temperatures=(2.0, 1.0, "std"),
        rest_PT=torch.full((64, 3), -torch.inf),
        std_P=torch.rand(64) + 0.5,
    )
    student_PC = torch.randn(64, 50)
    options = LossOptions(soft=kind, temperature=temperature)

    def on(device):
        moved = batch.to(torch.device(device))
        return value_and_gradient(
            lambda logits: distillation_loss(logits, moved, options).total, student_PC.to(device)
        )

    for cpu, cuda in zip(on("cpu"), on("cuda"), strict=True):
        torch.testing.assert_close(cpu, cuda.cpu(), rtol=1e-4, atol=1e-6)
