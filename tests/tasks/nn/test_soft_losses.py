"""Every soft loss and its gradient against a dense float64 reference, and torch's own KL.

Shape letters: P positions, C classes, K kept.
"""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import RecipeError
from tasks.loss_options import LossOptions, SoftLoss, Tail
from tasks.nn.losses import distillation_loss, soft_loss
from tests.tasks import dense
from tests.tasks.nn.loss_cases import TEMPERATURES, cases, close, value_and_gradient
from tests.tasks.toy import batch_of

KINDS = [kind for kind in SoftLoss if kind is not SoftLoss.SAMPLED]
SHARES = st.sampled_from([0.1, 0.5, 0.9])


def options_of(kind, share=0.5, **more):
    return LossOptions(soft=kind, soft_weight=1.0, beta=share, alpha=share, **more)


@given(
    cases(),
    st.sampled_from(KINDS),
    st.sampled_from(Tail),
    st.sampled_from([None, *TEMPERATURES]),
    SHARES,
)
@settings(max_examples=300)
def test_value_and_gradient_are_those_of_the_dense_loss(case, kind, tail, at, share):
    student_PC, teacher_PC, batch, kept = case
    options = options_of(kind, share, tail=tail, temperature=at)

    def reference(logits_PC):
        of_temperature = at or TEMPERATURES[0]
        value = dense.soft_loss(
            logits_PC, teacher_PC, kept, batch.mask_P, of_temperature, tail.value, kind.value, share
        )
        return value + 0.0 * logits_PC.sum()

    def ours(logits_PC):
        return distillation_loss(logits_PC, batch, options).total + 0.0 * logits_PC.sum()

    found = value_and_gradient(ours, student_PC)
    close(found, value_and_gradient(reference, student_PC), 1e-8)
    assert (found[1][~batch.mask_P] == 0).all()


@given(cases(all_kept=True), st.sampled_from(TEMPERATURES), SHARES)
@settings(max_examples=60)
def test_with_every_class_kept_they_are_torch_s_own_expressions(case, at, share):
    student_PC, teacher_PC = case.student_PC, case.teacher_PC.clamp(min=-200)
    batch = batch_of(teacher_PC, case.batch.label_P, teacher_PC.shape[1], TEMPERATURES)
    log_p = torch.log_softmax(teacher_PC / at, dim=1)

    def kl(of, against):
        return F.kl_div(against, of, reduction="batchmean", log_target=True)

    def mixture(log_q, of_teacher):
        return (of_teacher * log_p.exp() + (1 - of_teacher) * log_q.exp()).log()

    expressions = {
        SoftLoss.FORWARD_KL: lambda log_q: kl(log_p, log_q),
        SoftLoss.REVERSE_KL: lambda log_q: kl(log_q, log_p),
        SoftLoss.JSD: lambda log_q: (
            share * kl(log_p, mixture(log_q, share))
            + (1 - share) * kl(log_q, mixture(log_q, share))
        ),
        SoftLoss.SKEW_KL: lambda log_q: kl(log_p, mixture(log_q, share)),
    }
    for kind, expression in expressions.items():
        found = value_and_gradient(
            lambda logits, kind=kind: (
                distillation_loss(logits, batch, options_of(kind, share, temperature=at)).total
            ),
            student_PC,
        )
        wanted = value_and_gradient(
            lambda logits, expression=expression: (
                at**2 * expression(torch.log_softmax(logits / at, dim=1))
            ),
            student_PC,
        )
        close(found, wanted, 1e-9)


@given(cases(all_kept=True), st.sampled_from(TEMPERATURES))
@settings(max_examples=30)
def test_mse_with_every_class_kept_is_that_of_centred_logits_at_any_temperature(case, at):
    student_PC, teacher_PC = case.student_PC, case.teacher_PC.clamp(min=-200)
    batch = batch_of(teacher_PC, case.batch.label_P, teacher_PC.shape[1], TEMPERATURES)
    centred_PC = teacher_PC - teacher_PC.mean(dim=1, keepdim=True)
    found = value_and_gradient(
        lambda logits: (
            distillation_loss(logits, batch, options_of(SoftLoss.MSE, temperature=at)).total
        ),
        student_PC,
    )
    wanted = value_and_gradient(
        lambda logits: F.mse_loss(logits - logits.mean(dim=1, keepdim=True), centred_PC), student_PC
    )
    close(found, wanted, 1e-9)


@given(cases(), st.sampled_from(Tail))
@settings(max_examples=30)
def test_jsd_and_skew_kl_tend_to_the_two_kls(case, tail):
    teacher_PC, student_PC = case.teacher_PC.clamp(-6, 6), case.student_PC.clamp(-6, 6)
    batch = batch_of(teacher_PC, case.batch.label_P, len(case.kept[0]), TEMPERATURES)

    def of(kind, share=0.5):
        return soft_loss(student_PC, batch, options_of(kind, share, tail=tail))

    def near(found, wanted):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)

    near(of(SoftLoss.SKEW_KL, 1e-8), of(SoftLoss.FORWARD_KL))
    none = LossOptions(soft="skew_kl", alpha=0.0, tail=tail)
    assert torch.equal(soft_loss(student_PC, batch, none), of(SoftLoss.FORWARD_KL))
    if tail is not Tail.IGNORE:  # what is no distribution has no such limit
        near(of(SoftLoss.JSD, 1e-8) / 1e-8, of(SoftLoss.FORWARD_KL))
        near(of(SoftLoss.JSD, 1 - 1e-8) / 1e-8, of(SoftLoss.REVERSE_KL))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tail", Tail)
def test_a_teacher_that_is_met_costs_nothing(kind, tail):
    torch.manual_seed(0)
    teacher_PC = torch.randn(5, 7, dtype=torch.float64)
    batch = batch_of(teacher_PC, torch.zeros(5).long(), 3, TEMPERATURES)
    value, gradient = value_and_gradient(
        lambda logits: soft_loss(logits, batch, options_of(kind, tail=tail)).sum(), teacher_PC + 1.5
    )
    assert value.item() == pytest.approx(0, abs=1e-12)
    if tail is not Tail.IGNORE or kind is SoftLoss.MSE:
        assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_the_square_of_the_temperature_scales_the_gradient(kind):
    """Softmaxes of z / T at T are those of z at 1, so loss and gradient grow as T^2 and T."""
    torch.manual_seed(0)
    teacher_PC, student_PC = torch.randn(2, 3, 8, dtype=torch.float64)
    label_P = torch.zeros(3).long()
    value, gradient = value_and_gradient(
        lambda logits: soft_loss(
            logits, batch_of(teacher_PC, label_P, 3, (1.0,)), options_of(kind)
        ).sum(),
        student_PC,
    )
    for at in (0.5, 4.0):
        found = value_and_gradient(
            lambda logits, at=at: soft_loss(
                logits, batch_of(at * teacher_PC, label_P, 3, (at,)), options_of(kind)
            ).sum(),
            at * student_PC,
        )
        close(found, (at**2 * value, at * gradient), 1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tail", Tail)
@pytest.mark.parametrize("k", [2, 3, 4])
def test_where_the_teacher_has_no_mass_all_is_finite(kind, tail, k):
    """Classes masked by the teacher: among the kept ones, among the others, or left by neither."""
    teacher_PC = torch.tensor([[2.0, 1.0, -torch.inf, -torch.inf]], dtype=torch.float64)
    batch = batch_of(teacher_PC, torch.tensor([0]), k, (1.0,))
    assert torch.isneginf(batch.rest_PT).all()
    for student in ([0.0, 0.0, 0.0, 0.0], [0.1, 0.5, -torch.inf, -torch.inf], [0.1, -60, 90, 1]):
        student_PC = torch.tensor([student], dtype=torch.float64)
        value, gradient = value_and_gradient(
            lambda logits: soft_loss(logits, batch, options_of(kind, tail=tail)).sum(), student_PC
        )
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()
        assert (gradient[torch.isneginf(student_PC)] == 0).all()


@pytest.mark.parametrize("kind", [SoftLoss.FORWARD_KL, SoftLoss.REVERSE_KL, SoftLoss.JSD])
def test_a_student_leaves_classes_that_the_teacher_masks(kind):
    teacher_PC = torch.tensor([[2.0, 1.0, -torch.inf]], dtype=torch.float64)
    batch = batch_of(teacher_PC, torch.tensor([0]), 3, (1.0,))
    student_PC = torch.zeros(1, 3, dtype=torch.float64)
    for _ in range(300):
        _, gradient = value_and_gradient(
            lambda logits: soft_loss(logits, batch, options_of(kind)).sum(), student_PC
        )
        student_PC -= gradient
    q_C = torch.softmax(student_PC, dim=1)[0]
    assert q_C[2] < 0.02
    assert (q_C[0] / q_C[1]).log().item() == pytest.approx(1.0, abs=0.05)


def test_reverse_kl_of_a_peaked_teacher_is_not_cut_off():
    """Its rest is -200 in the log: 0 as a float32 probability, and still what the truth is."""
    teacher_PC = torch.tensor([[0.0, -200.0, -200.0]])
    batch = batch_of(teacher_PC, torch.tensor([0]), 1, (1.0,))
    value = soft_loss(torch.zeros(1, 3), batch, options_of(SoftLoss.REVERSE_KL))
    expected = math.log(1 / 3) + 2 / 3 * 200
    assert value.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_student_in_half_precision_learns_from_an_exact_teacher(kind, dtype):
    torch.manual_seed(0)
    teacher_PC, student_PC = torch.randn(64, 20) * 3, torch.randn(64, 20).to(dtype)
    batch = batch_of(teacher_PC, torch.zeros(64).long(), 4, (2.0, 1.0))

    def loss(logits):
        return soft_loss(logits, batch, options_of(kind)).mean()

    value, gradient = value_and_gradient(loss, student_PC)
    expected, slope = value_and_gradient(loss, student_PC.double())
    assert (value.dtype, gradient.dtype) == (torch.float32, dtype)
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)
    torch.testing.assert_close(gradient.double(), slope, rtol=2e-2, atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tail", Tail)
@pytest.mark.parametrize("k", [2, 4])
def test_positions_that_do_not_count_may_hold_anything(kind, tail, k):
    """Labels as others have (no mass left with every class kept), or NaN: no gradient is NaN."""
    batch = batch_of(torch.randn(3, 4), torch.zeros(3).long(), k, (1.0,))
    for odd in (0.0, torch.nan, -torch.inf):
        batch.logit_PK[1] += odd
        masked = dataclasses.replace(batch, mask_P=torch.tensor([True, False, True]))
        _, gradient = value_and_gradient(
            lambda logits, masked=masked: soft_loss(
                logits, masked, options_of(kind, tail=tail)
            ).sum(),
            torch.randn(3, 4),
        )
        assert torch.isfinite(gradient).all()
        assert (gradient[1] == 0).all()
        assert (gradient[0] != 0).any()


def test_positions_that_do_not_count_are_0():
    batch = batch_of(
        torch.randn(3, 4), torch.zeros(3).long(), 2, (1.0,), torch.tensor([1, 0, 1]) > 0
    )
    for kind in KINDS:
        assert soft_loss(torch.randn(3, 4), batch, options_of(kind))[1] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_losses_that_need_a_kept_set_refuse_draws(kind):
    batch = batch_of(torch.randn(2, 4), torch.zeros(2).long(), 2, (1.0,))
    drawn = dataclasses.replace(batch, weight_PK=torch.full((2, 2), 0.5), drawn_at=1.0)
    with pytest.raises(RecipeError, match=f"loss.soft: expected sampled .* got {kind}"):
        soft_loss(torch.randn(2, 4), drawn, options_of(kind))
