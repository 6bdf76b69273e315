"""A batch in memory, and how models' outputs meet its positions."""

import torch

from tasks.nn.batch import by_position
from tests.tasks.toy import batch_of


def test_positions_of_a_block_follow_one_another():
    logits = torch.arange(24.0).reshape(2, 3, 4)
    flat = by_position(logits)
    assert flat.shape == (6, 4)
    assert torch.equal(flat[4], logits[1, 1])
    assert by_position(flat) is flat


def test_the_first_entry_is_present_even_where_nothing_is_kept():
    mask_P = torch.tensor([True, False])
    batch = batch_of(
        torch.tensor([[2.0, 1.0, -torch.inf], [0.0, 0.0, 0.0]]),
        torch.tensor([0, 1]),
        3,
        (1.0,),
        mask_P,
        padding=1,
    )
    assert batch.present_PK.tolist() == [[True, True, False, False], [True, False, False, False]]
    assert torch.isneginf(batch.logit_PK[1]).all()


def test_the_teachers_best_class_is_that_of_the_largest_logit():
    batch = batch_of(
        torch.tensor([[0.0, 5.0, 1.0], [3.0, 1.0, 2.0]]), torch.tensor([0, 1]), 2, (1.0,)
    )
    assert batch.teacher_best_P.tolist() == [1, 0]


def test_what_counts_and_how_many():
    batch = batch_of(
        torch.randn(3, 2), torch.zeros(3).long(), 1, (1.0,), torch.tensor([1, 0, 1]) > 0
    )
    assert (batch.num_samples, batch.num_positions) == (3, 2)


def test_on_the_cpu_nothing_is_moved():
    batch = batch_of(torch.randn(3, 2), torch.zeros(3).long(), 1, (1.0,))
    assert batch.to(torch.device("cpu")) is batch
