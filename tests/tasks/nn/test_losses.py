"""Every loss and its gradient against a dense float64 reference.

Shape letters: P positions, C classes, K kept.
"""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import RecipeError
from tasks.loss_options import LossOptions, Tail
from tasks.nn.divergences import kl_terms
from tasks.nn.kept_log_probs import kept_log_probs
from tasks.nn.losses import distillation_loss, soft_loss
from tasks.nn.softlabels import entry_log_probs
from tests.tasks import dense
from tests.tasks.nn.loss_cases import TEMPERATURES, cases, value_and_gradient
from tests.tasks.toy import batch_of


def _close(found, wanted, tolerance=1e-10):
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


@given(
    cases(),
    st.sampled_from(Tail),
    st.sampled_from([None, *TEMPERATURES]),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from([0.0, 0.1]),
)
@settings(max_examples=150)
def testvalue_and_gradient_are_those_of_the_dense_loss(case, tail, at, weight, smoothing):
    student_PC, teacher_PC, batch, kept = case
    options = LossOptions(soft_weight=weight, tail=tail, temperature=at, label_smoothing=smoothing)

    def reference(logits_PC):
        soft = dense.soft_loss(
            logits_PC, teacher_PC, kept, batch.mask_P, at or TEMPERATURES[0], tail.value
        )
        hard = dense.hard_loss(logits_PC, batch.label_P.tolist(), batch.mask_P, smoothing)
        return weight * soft + (1 - weight) * hard + 0.0 * logits_PC.sum()

    value, gradient = value_and_gradient(
        lambda logits: distillation_loss(logits, batch, options).total + 0.0 * logits.sum(),
        student_PC,
    )
    expected, expected_gradient = value_and_gradient(reference, student_PC)
    assert torch.isfinite(gradient).all()
    _close(value, expected, 1e-9)
    _close(gradient, expected_gradient, 1e-9)
    assert (gradient[~batch.mask_P] == 0).all()


@given(cases(), st.sampled_from(TEMPERATURES))
def test_with_every_class_kept_it_is_the_kl_of_torch(case, at):
    student_PC, teacher_PC, batch, _ = case
    teacher_PC = teacher_PC.clamp(min=-200)
    batch = batch_of(teacher_PC, batch.label_P, teacher_PC.shape[1], TEMPERATURES)
    options = LossOptions(soft_weight=1.0, temperature=at)

    def reference(logits):
        log_q, log_p = torch.log_softmax(logits / at, 1), torch.log_softmax(teacher_PC / at, 1)
        return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * at**2

    found = value_and_gradient(
        lambda logits: distillation_loss(logits, batch, options).total, student_PC
    )
    for got, wanted in zip(found, value_and_gradient(reference, student_PC), strict=True):
        _close(got, wanted)


def test_a_student_may_mask_classes_that_the_teacher_masks():
    teacher_PC = torch.tensor([[1.0, 0.0, -torch.inf]], dtype=torch.float64)
    student_PC = torch.tensor([[0.5, 0.2, -torch.inf]], dtype=torch.float64)
    for k in (1, 2, 3):
        batch = batch_of(teacher_PC, torch.tensor([0]), k, (2.0, 1.0))
        value, gradient = value_and_gradient(
            lambda logits, batch=batch: distillation_loss(logits, batch, LossOptions()).total,
            student_PC,
        )
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()
        assert gradient[0, 2] == 0


def test_no_mass_left_gives_no_gradient_to_the_rest():
    teacher_PC = torch.tensor([[2.0, 1.0, -torch.inf, -torch.inf]], dtype=torch.float64)
    batch = batch_of(teacher_PC, torch.tensor([0]), 2, (1.0,))
    assert torch.isneginf(batch.rest_PT).all()
    student_PC = torch.zeros(1, 4, dtype=torch.float64)
    _, gradient = value_and_gradient(
        lambda logits: soft_loss(logits, batch, LossOptions(soft_weight=1.0)).sum(), student_PC
    )
    p_C = torch.softmax(teacher_PC, dim=1)
    _close(gradient, torch.softmax(student_PC, dim=1) - p_C)


def test_a_temperature_scales_the_gradient_by_its_square():
    torch.manual_seed(0)
    teacher_PC, student_PC = torch.randn(2, 3, 8, dtype=torch.float64)
    batch = batch_of(teacher_PC, torch.zeros(3).long(), 3, (4.0, 1.0))
    found = value_and_gradient(
        lambda logits: distillation_loss(logits, batch, LossOptions(soft_weight=1.0)).total,
        student_PC,
    )

    def unscaled(logits):
        kept_PK, rest_P = kept_log_probs(logits, batch.index_PK, batch.present_PK, 4.0)
        entries = entry_log_probs(batch.logit_PK, batch.rest_PT[:, 0], 4.0, 4.0)
        kept_kl = kl_terms(entries[0], kept_PK).sum(dim=1)
        return (kept_kl + kl_terms(entries[1], rest_P)).sum() / 3

    for got, wanted in zip(found, value_and_gradient(unscaled, student_PC), strict=True):
        _close(got, 16 * wanted)


def test_parts_and_mixture():
    torch.manual_seed(0)
    teacher_PC, student_PC = torch.randn(2, 4, 5)
    batch = batch_of(teacher_PC, torch.tensor([0, 1, 2, 3]), 2, (2.0, 1.0))
    parts = distillation_loss(student_PC, batch, LossOptions(soft_weight=0.25, hard_weight=0.5))
    torch.testing.assert_close(parts.total, 0.25 * parts.soft + 0.5 * parts.hard)
    assert distillation_loss(student_PC, batch, LossOptions(soft_weight=1.0)).hard is None
    assert distillation_loss(student_PC, batch, LossOptions(soft_weight=0.0)).soft is None


def test_losses_are_divided_by_the_positions_that_count():
    torch.manual_seed(0)
    teacher_PC, student_PC = torch.randn(2, 4, 5, dtype=torch.float64)
    label_P = torch.tensor([0, 1, 2, 3])
    mask_P = torch.tensor([True, False, True, False])
    masked = batch_of(teacher_PC, label_P, 2, (2.0, 1.0), mask_P)
    alone = batch_of(teacher_PC[mask_P], label_P[mask_P], 2, (2.0, 1.0))
    found = distillation_loss(student_PC, masked, LossOptions())
    wanted = distillation_loss(student_PC[mask_P], alone, LossOptions())
    _close(found.total, wanted.total)


def test_a_batch_in_which_nothing_counts_has_loss_and_gradient_0():
    batch = batch_of(torch.randn(2, 4), torch.tensor([0, 1]), 2, (1.0,), torch.zeros(2).bool())
    value, gradient = value_and_gradient(
        lambda logits: distillation_loss(logits, batch, LossOptions()).total, torch.randn(2, 4)
    )
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("tail", Tail)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_student_in_half_precision_learns_from_an_exact_teacher(dtype, tail):
    torch.manual_seed(0)
    teacher_PC = torch.randn(64, 20) * 3
    student_PC = torch.randn(64, 20).to(dtype)
    batch = batch_of(teacher_PC, torch.randint(0, 20, (64,)), 4, (2.0, 1.0))
    options = LossOptions(soft_weight=0.5, tail=tail)

    def loss(logits):
        return distillation_loss(logits, batch, options).total

    value, gradient = value_and_gradient(loss, student_PC)
    expected, expected_gradient = value_and_gradient(loss, student_PC.double())
    assert gradient.dtype == dtype
    # The hard loss is computed by torch in the student's precision, the soft one is not.
    assert value.item() == pytest.approx(expected.item(), rel=1e-2)
    soft = soft_loss(student_PC, batch, options)
    assert soft.dtype == torch.float32
    torch.testing.assert_close(
        soft.double(), soft_loss(student_PC.double(), batch, options), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=2e-2, atol=2e-4)


# --- what is refused ----------------------------------------------------------------------------


def test_another_temperature_is_refused_with_the_stored_ones():
    batch = batch_of(torch.randn(2, 4), torch.tensor([0, 1]), 2, (4.0, 2.5, 1.0))
    with pytest.raises(RecipeError, match=r"stored temperatures 4, 2\.5, 1, got 3;"):
        distillation_loss(torch.randn(2, 4), batch, LossOptions(temperature=3.0))


def test_a_soft_loss_without_soft_labels_is_refused():
    batch = batch_of(torch.randn(2, 4), torch.tensor([0, 1]), 2, (1.0,))
    hard_only = dataclasses.replace(
        batch,
        index_PK=batch.index_PK[:, :0],
        logit_PK=batch.logit_PK[:, :0],
        rest_PT=None,
        temperatures=(),
    )
    assert distillation_loss(torch.randn(2, 4), hard_only, LossOptions(soft_weight=0.0)).hard > 0
    for options in (LossOptions(), LossOptions(temperature=1.0)):
        with pytest.raises(RecipeError, match=r"loss\.soft_weight: expected 0"):
            distillation_loss(torch.randn(2, 4), hard_only, options)


@pytest.mark.gpu
@pytest.mark.parametrize("tail", Tail)
def test_cuda_gives_the_loss_and_gradient_of_the_cpu(tail):
    torch.manual_seed(0)
    teacher_PC, student_PC = torch.randn(2, 128, 1000) * 3
    batch = batch_of(teacher_PC, torch.randint(0, 1000, (128,)), 16, (2.0, 1.0))
    options = LossOptions(tail=tail)

    def on(device):
        moved = batch.to(torch.device(device))
        return value_and_gradient(
            lambda logits: distillation_loss(logits, moved, options).total, student_PC.to(device)
        )

    for cpu, cuda in zip(on("cpu"), on("cuda"), strict=True):
        torch.testing.assert_close(cpu, cuda.cpu(), rtol=1e-4, atol=1e-6)
