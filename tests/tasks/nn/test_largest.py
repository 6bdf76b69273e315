"""The largest logits in a fixed order: larger first, of equal ones the lower class id."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.nn.largest import _PLACES, Candidates, _keys
from tasks.nn.largest import largest as largest_with

NUMBERS = np.array([-np.inf, -1e30, -3.0, -0.0, 0.0, 1.0, 2.5, 1e30], np.float64)


def largest(logit_PC, count):
    """With room for one position more than there are."""
    room = Candidates.of(len(logit_PC) + 1, logit_PC.shape[1], count, logit_PC)
    return largest_with(logit_PC, room)


@st.composite
def cases(draw):
    """Logits of few different values, so that most are equal to others, and how many are wanted."""
    classes = draw(st.sampled_from([1, 7, 64, 65, 130, 600, 1030, 5000]))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    values = NUMBERS if draw(st.booleans()) else rng.normal(0, 3, 4000)
    logit_PC = rng.choice(values, (draw(st.integers(1, 4)), classes))
    return logit_PC, draw(st.integers(1, min(classes, 80)))


@given(cases(), st.sampled_from([np.float32, np.float64]))
@settings(max_examples=150)
def test_it_is_the_stable_sort(case, dtype):
    logit_PC, count = case
    logit_PC = logit_PC.astype(dtype)
    value_PK, index_PK = largest(torch.from_numpy(logit_PC), count)
    expected_PK = np.argsort(-logit_PC, axis=1, kind="stable")[:, :count]
    assert np.array_equal(index_PK.numpy(), expected_PK)
    assert np.array_equal(value_PK.numpy(), np.take_along_axis(logit_PC, expected_PK, 1))


@pytest.mark.parametrize("classes", [100, 3000])
def test_all_of_them(classes):
    logit_PC = torch.randn(2, classes)
    value_PK, index_PK = largest(logit_PC, classes)
    assert torch.equal(value_PK, logit_PC.sort(dim=1, descending=True).values)
    assert torch.equal(index_PK.sort(dim=1).values, torch.arange(classes).expand(2, -1))


def test_rows_may_be_strided():
    wide_PC = torch.randn(3, 900)
    assert torch.equal(largest(wide_PC[:, :700], 5)[1], largest(wide_PC[:, :700].clone(), 5)[1])


def test_no_two_keys_are_equal_so_any_way_of_finding_the_lowest_will_do():
    """That of other devices is `torch.topk`."""
    logit_PC = torch.randint(-3, 4, (8, 60)).float()
    room = Candidates.of(8, 60, 9, logit_PC)
    key_PM = _keys(logit_PC, room)
    place_PK = key_PM.topk(9, dim=1, largest=False).values & _PLACES
    assert torch.equal(place_PK, largest(logit_PC, 9)[1])


@pytest.mark.gpu
def test_cuda_gives_the_same_order():
    logit_PC = torch.randint(-3, 4, (8, 5000)).float()
    assert torch.equal(largest(logit_PC.cuda(), 65)[1].cpu(), largest(logit_PC, 65)[1])
