"""The loss over draws: unbiased for the cross-entropy with the full softmax of the teacher.

Shape letters: P positions, C classes, K entries, N draws.
"""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import RecipeError
from storage.options import STD, Keep, Selection
from storage.order import position_keys
from tasks.loss_options import LossOptions
from tasks.nn.batch import Batch
from tasks.nn.losses import distillation_loss, soft_loss
from tasks.nn.reduction import capture
from tasks.nn.softlabels import SoftLabels
from tests.tasks.toy import batch_of

TEMPERATURES = (2.0, 1.0, 0.5, 4.0)
OPTIONS = LossOptions(soft="sampled", soft_weight=1.0)
NUMBER = st.floats(-4, 4) | st.integers(-2, 2).map(float)


def drawn_batch(kept: SoftLabels, drawn_at: float, mask_P=None) -> Batch:
    count = len(kept.index_PK)
    count_PK = kept.count_PK.double()
    return Batch(
        inputs=(),
        index_PK=kept.index_PK,
        logit_PK=kept.logit_PK,
        rest_PT=kept.rest_PT,
        weight_PK=count_PK / count_PK.sum(dim=1, keepdim=True),
        label_P=torch.zeros(count, dtype=torch.int64),
        label_logit_P=None,
        mask_P=torch.ones(count, dtype=torch.bool) if mask_P is None else mask_P,
        real_P=torch.ones(count, dtype=torch.bool),
        temperatures=TEMPERATURES,
        sample_ids=[str(place) for place in range(count)],
        drawn_at=drawn_at,
    )


def batch_of_draws(teacher_C, draws, drawn_at):
    """The batch of one position from which exactly `draws` were drawn."""
    ids = sorted(set(draws), key=lambda i: -teacher_C[i].item())
    index_PK = torch.tensor([ids])
    best = teacher_C.max()
    others_C = teacher_C.clone()
    others_C[ids] = -torch.inf
    rest = [torch.logsumexp((others_C - best) / at, dim=0) for at in TEMPERATURES]
    kept = SoftLabels(
        index_PK,
        (teacher_C[index_PK] - best) / TEMPERATURES[0],
        torch.stack(rest)[None],
        None,
        torch.tensor([len(ids)]),
        torch.tensor([[draws.count(i) for i in ids]]),
        {},
    )
    return drawn_batch(kept, drawn_at)


def value_and_gradient(student_C, batch, options):
    student_PC = student_C.clone()[None].requires_grad_()
    (value,) = soft_loss(student_PC, batch, options)
    value.backward()
    return value.detach(), student_PC.grad[0]


@settings(max_examples=40)
@given(
    st.lists(NUMBER | st.just(-torch.inf), min_size=3, max_size=3),
    st.lists(NUMBER, min_size=3, max_size=3),
    st.sampled_from(TEMPERATURES),
    st.sampled_from(TEMPERATURES),
)
def test_the_expected_loss_and_gradient_are_those_of_the_full_softmax(teacher, student, at, where):
    """Over all outcomes of two draws, each with its probability: exact, not by luck."""
    teacher_C = torch.tensor([*teacher, 0.0], dtype=torch.float64)
    student_C = torch.tensor([*student, 1.0], dtype=torch.float64)
    drawn_p_C = torch.softmax(teacher_C / where, dim=0)
    options = OPTIONS.model_copy(update={"temperature": at})
    value, gradient = torch.zeros(()).double(), torch.zeros(4).double()
    for draws in itertools.product(range(4), repeat=2):
        probability = drawn_p_C[list(draws)].prod()
        if probability > 0:
            batch = batch_of_draws(teacher_C, list(draws), where)
            one, slope = value_and_gradient(student_C, batch, options)
            value, gradient = value + probability * one, gradient + probability * slope
    full_C = student_C.clone().requires_grad_()
    log_q_C = torch.log_softmax(full_C / at, dim=0)
    expected = -(torch.softmax(teacher_C / at, dim=0) * log_q_C).sum() * at**2
    expected.backward()
    torch.testing.assert_close(value, expected.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradient, full_C.grad, rtol=1e-9, atol=1e-9)


@settings(max_examples=20)
@given(
    st.lists(NUMBER, min_size=3, max_size=3),
    st.lists(NUMBER, min_size=3, max_size=3),
    st.sampled_from(TEMPERATURES),
)
def test_it_is_unbiased_at_the_deviation_of_each_model_too(teacher, student, where):
    teacher_C = torch.tensor([*teacher, 5.0], dtype=torch.float64)
    student_C = torch.tensor([*student, 7.0], dtype=torch.float64)
    std = teacher_C.std(correction=0)
    drawn_p_C = torch.softmax(teacher_C / where, dim=0)
    options = OPTIONS.model_copy(update={"temperature": STD})
    value, gradient = torch.zeros(()).double(), torch.zeros(4).double()
    for draw in range(4):
        batch = batch_of_draws(teacher_C, [draw], where)
        left_C = ((teacher_C - teacher_C.max()) / std).index_fill(0, torch.tensor(draw), -torch.inf)
        batch = replace(
            batch,
            temperatures=(*TEMPERATURES, STD),
            rest_PT=torch.cat([batch.rest_PT, torch.logsumexp(left_C, 0).reshape(1, 1)], dim=1),
            std_P=std[None],
        )
        one, slope = value_and_gradient(student_C, batch, options)
        value, gradient = value + drawn_p_C[draw] * one, gradient + drawn_p_C[draw] * slope
    full_C = student_C.clone().requires_grad_()
    log_q_C = torch.log_softmax(full_C / full_C.std(correction=0), dim=0)
    expected = -(torch.softmax(teacher_C / std, dim=0) * log_q_C).sum()
    expected.backward()
    torch.testing.assert_close(value, expected.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradient, full_C.grad, rtol=1e-9, atol=1e-9)


def test_over_many_real_draws_the_gradient_is_that_of_the_full_softmax():
    torch.manual_seed(0)
    teacher_C, student_C = 2 * torch.randn(30).double(), torch.randn(30).double()
    count = 20_000
    selection = Selection(keep=Keep.SAMPLE, k=12, draws=12, temperature=1.0)
    keys_P = position_keys(["a"], torch.tensor([count]).numpy(), 0)
    kept = capture(teacher_C.repeat(count, 1), None, selection, TEMPERATURES, keys_P=keys_P)
    student_PC = student_C.repeat(count, 1).requires_grad_()
    options = OPTIONS.model_copy(update={"temperature": 2.0})
    soft_loss(student_PC, drawn_batch(kept, 1.0), options).sum().backward()
    found_C = student_PC.grad.mean(dim=0)
    expected_C = 2.0 * (
        torch.softmax(student_C / 2.0, dim=0) - torch.softmax(teacher_C / 2.0, dim=0)
    )
    assert (found_C - expected_C).abs().max() < 0.01


def test_positions_that_do_not_count_hold_nothing_and_cost_nothing():
    kept = capture(
        torch.randn(2, 9), None, Selection(keep=Keep.SAMPLE, k=4, draws=4), TEMPERATURES,
        keys_P=position_keys(["a"], torch.tensor([2]).numpy(), 0),
    )  # fmt: skip
    kept.logit_PK[1], kept.rest_PT[1], kept.count_PK[1] = -torch.inf, -torch.inf, 0
    batch = drawn_batch(kept, 1.0, torch.tensor([True, False]))
    batch.weight_PK[1] = 0.0
    student_PC = torch.randn(2, 9).requires_grad_()
    loss = distillation_loss(student_PC, batch, OPTIONS).total
    loss.backward()
    assert torch.isfinite(loss)
    assert (student_PC.grad[1] == 0).all()
    assert (student_PC.grad[0] != 0).any()


def test_other_losses_refuse_draws_and_sampled_refuses_kept_sets():
    kept = capture(
        torch.randn(1, 9), None, Selection(keep=Keep.SAMPLE, k=4, draws=4), TEMPERATURES,
        keys_P=position_keys(["a"], torch.tensor([1]).numpy(), 0),
    )  # fmt: skip
    with pytest.raises(RecipeError, match="biased over draws"):
        soft_loss(torch.randn(1, 9), drawn_batch(kept, 1.0), LossOptions(soft_weight=1.0))
    batch = batch_of(torch.randn(1, 9), torch.tensor([0]), 3, TEMPERATURES)
    with pytest.raises(RecipeError, match=r"labels\.keep: sample"):
        soft_loss(torch.randn(1, 9), batch, OPTIONS)
