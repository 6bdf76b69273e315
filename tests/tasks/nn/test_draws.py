"""Draws: with the right frequencies, and of the position's own key alone.

Shape letters: P positions, C classes, K entries, N draws.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from storage.order import position_keys
from tasks.nn.draws import draw, uniforms


def test_uniforms_are_uniform():
    found = uniforms(position_keys(["a"], np.array([1000]), 0), 64).ravel()
    assert ((found >= 0) & (found < 1)).all()
    shares = np.histogram(found, bins=10, range=(0, 1))[0] / len(found)
    assert np.abs(shares - 0.1).max() < 0.006
    assert len(np.unique(found)) == len(found)
    neighbours = np.corrcoef(found[:-64], found[64:])[0, 1]
    assert abs(neighbours) < 0.02


def test_classes_are_drawn_as_often_as_their_probability_says():
    logit_C = torch.tensor([0.0, -1.0, -2.0, -torch.inf, 1.0])
    keys_P = position_keys(["a"], np.array([5000]), 3)
    drawn = draw(logit_C.repeat(5000, 1), keys_P, 20, 2.0, 4)
    counts_C = torch.zeros(5, dtype=torch.int64)
    counts_C.scatter_add_(0, drawn.index_PK.flatten(), drawn.count_PK.flatten())
    expected_C = torch.softmax(logit_C.double() / 2.0, dim=0)
    assert (counts_C / 100_000 - expected_C).abs().max() < 0.005
    assert counts_C[3] == 0


@given(st.integers(1, 9), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_entries_are_unique_best_first_and_as_many_as_said(classes, draws, seed):
    generator = torch.Generator().manual_seed(seed)
    logit_PC = torch.randint(-2, 3, (4, classes), generator=generator).float()
    keys_P = position_keys([str(seed)], np.array([4]), seed)
    width = min(classes, draws)
    drawn = draw(logit_PC, keys_P, draws, 1.0, width)
    assert drawn.index_PK.shape == drawn.count_PK.shape == (4, width)
    assert (drawn.count_PK.sum(dim=1) == draws).all()
    for place in range(4):
        kept = int(drawn.kept_P[place])
        ids = drawn.index_PK[place, :kept].tolist()
        assert len(set(ids)) == kept
        assert (drawn.count_PK[place, :kept] > 0).all()
        assert (drawn.count_PK[place, kept:] == 0).all()
        found = logit_PC[place, ids].tolist()
        assert found == sorted(found, reverse=True)


def test_draws_do_not_depend_on_neighbours():
    logit_PC = torch.randn(6, 50)
    keys_P = position_keys(["a", "b", "c"], np.array([1, 2, 3]), 0)
    together = draw(logit_PC, keys_P, 10, 1.0, 10)
    alone = draw(logit_PC[3:], position_keys(["c"], np.array([3]), 0), 10, 1.0, 10)
    assert torch.equal(together.index_PK[3:], alone.index_PK)
    assert torch.equal(together.count_PK[3:], alone.count_PK)


def test_another_seed_or_sample_draws_otherwise():
    logit_PC = torch.zeros(1, 1000)
    found = {
        tuple(draw(logit_PC, position_keys([name], np.array([1]), seed), 10, 1.0, 10).index_PK[0])
        for name in "ab"
        for seed in (0, 1)
    }
    assert len(found) == 4


def test_a_sure_class_is_the_only_one():
    logit_PC = torch.tensor([[0.0, -900.0, -torch.inf]])
    drawn = draw(logit_PC, position_keys(["a"], np.array([1]), 0), 64, 1.0, 3)
    assert drawn.kept_P.tolist() == [1]
    assert drawn.index_PK[0, 0] == 0
    assert drawn.count_PK.tolist() == [[64, 0, 0]]


@pytest.mark.gpu
def test_cuda_draws_what_the_cpu_draws():
    """But where a number falls on the border of two classes."""
    torch.manual_seed(0)
    logit_PC = torch.randn(64, 3000) * 3
    keys_P = position_keys(["a"], np.array([64]), 0)
    cpu, cuda = (draw(logit_PC.to(device), keys_P, 32, 1.0, 32) for device in ("cpu", "cuda"))
    same_P = (cpu.index_PK == cuda.index_PK.cpu()).all(dim=1)
    assert same_P.float().mean() > 0.95
    assert torch.equal(cuda.count_PK.sum(dim=1).cpu(), torch.full((64,), 32))
