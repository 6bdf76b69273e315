"""The rest at each position's own deviation, against a dense float64 softmax.

Shape letters: P positions, C classes, K kept, T temperatures.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.options import STD, Keep, Selection
from storage.order import position_keys
from tasks.nn.softlabels import entry_log_probs
from tests.tasks import dense
from tests.tasks.reduced import reduced

TEMPERATURES = (2.0, 1.0, STD)


def own_deviation(logit_C: np.ndarray) -> float:
    """What storage/FORMAT.md says."""
    finite = logit_C[np.isfinite(logit_C)].astype(np.float64)
    with np.errstate(over="ignore"):
        found = np.float32(np.sqrt(np.mean((finite - finite.mean()) ** 2)))
    return float(found) if 0 < found < np.inf else 1.0


@st.composite
def cases(draw):
    """Logits of any size, peaked or flat, with masked classes; and what is kept of them."""
    classes = draw(st.integers(2, 70))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([1e-3, 1.0, 8.0, 1e4]))
    logit_PC = rng.normal(0, scale, (5, classes)).astype(np.float32)
    logit_PC[0, rng.integers(classes)] += draw(st.sampled_from([0.0, 30.0, 400.0]))
    logit_PC[1, rng.random(classes) < draw(st.sampled_from([0.0, 0.5, 1.0]))] = -np.inf
    logit_PC[1, rng.integers(classes)] = 3.0
    logit_PC[2] = rng.normal()
    logit_PC[3, : classes // 2] = -1e9
    keep = draw(st.sampled_from(Keep))
    k = classes if keep is Keep.ALL else draw(st.integers(1, classes))
    selection = Selection(keep=keep, k=k, p=0.7, draws=k)
    return logit_PC, selection


def assert_exact(logit_PC, found, selection, tolerance=2e-6):
    """Kept classes and rest at `std` are those of the softmax over the logits by the deviation."""
    kept = found.kept
    assert kept.std_P.dtype == torch.float32
    log_p_PK, log_rest_P = entry_log_probs(
        kept.logit_PK.double(), kept.rest_PT[:, 2].double(), 2.0, kept.std_P.double()
    )
    for place, logit_C in enumerate(logit_PC.astype(np.float64)):
        at = own_deviation(logit_PC[place])
        assert kept.std_P[place].item() == pytest.approx(at, rel=1e-5)
        count = selection.k if kept.kept_P is None else int(kept.kept_P[place])
        index_K = kept.index_PK[place, :count].tolist()
        stored = float(kept.std_P[place])
        expected_K, rest = dense.kept_and_rest(logit_C, index_K, stored)
        dense.assert_log_equal(log_p_PK[place, :count], expected_K, 1e-5)
        dense.assert_log_equal(log_rest_P[place], rest, 1e-5)
        retained = np.exp(expected_K).sum()
        assert found.fidelity.retained_PT[place, 2].item() == pytest.approx(retained, abs=1e-5)


@settings(max_examples=150)
@given(cases())
def test_it_is_the_dense_softmax_whatever_is_kept(case):
    logit_PC, selection = case
    keys_P = position_keys(["a"], np.array([len(logit_PC)]), 0)
    found = reduced(torch.tensor(logit_PC), None, selection, TEMPERATURES, keys_P=keys_P)
    assert not found.bad_R.any()
    assert_exact(logit_PC, found, selection)


def test_a_large_vocabulary():
    rng = np.random.default_rng(0)
    logit_PC = rng.normal(-7, 2.5, (4, 50_257)).astype(np.float32)
    logit_PC[1, 7], logit_PC[2, ::3] = 300.0, -np.inf
    selection = Selection(keep=Keep.TOP_K, k=64)
    assert_exact(
        logit_PC, reduced(torch.tensor(logit_PC), None, selection, TEMPERATURES), selection
    )


def test_no_deviation_is_a_temperature_of_1():
    infinite = -torch.inf
    logit_PC = torch.tensor([[3.0, 3.0, 3.0], [2.0, infinite, infinite], [1e30, 0.0, -1e30]])
    found = reduced(logit_PC, None, 1, TEMPERATURES)
    assert found.kept.std_P.tolist() == [1.0, 1.0, 1.0]
    assert found.kept.rest_PT[:, 2].tolist() == found.kept.rest_PT[:, 1].tolist()
    assert found.kept.rest_PT[0, 2].item() == pytest.approx(np.log(2))


def test_padding_classes_are_in_the_rest_and_not_in_the_deviation():
    logit_PC = torch.tensor([[1.0, 2.0, 4.0, 100.0]]).log()
    found = reduced(logit_PC, None, 1, TEMPERATURES, num_classes=3)
    at = own_deviation(logit_PC[0, :3].numpy())
    assert found.kept.std_P.item() == pytest.approx(at, rel=1e-6)
    scaled = (logit_PC[0].double() - logit_PC[0, 2].double()) / at
    expected = torch.logsumexp(scaled[[0, 1, 3]], dim=0)
    assert found.kept.rest_PT[0, 2].item() == pytest.approx(expected.item(), rel=1e-6)


def test_bad_positions_harm_no_others():
    logit_PC = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    clean = reduced(logit_PC, None, 4, TEMPERATURES)
    logit_PC[2, 3], logit_PC[4] = torch.nan, -torch.inf
    found = reduced(logit_PC, None, 4, TEMPERATURES)
    assert found.bad_R.nonzero().flatten().tolist() == [2, 4]
    good = ~found.bad_R
    assert torch.equal(found.kept.std_P[good], clean.kept.std_P[good])
    assert torch.equal(found.kept.rest_PT[good], clean.kept.rest_PT[good])
    assert found.kept.std_P.isfinite().all()


def test_the_other_temperatures_are_what_they_are_without_it():
    logit_PC = torch.randn(7, 300, generator=torch.Generator().manual_seed(1)) * 5
    with_std = reduced(logit_PC, None, 4, TEMPERATURES)
    without = reduced(logit_PC, None, 4, TEMPERATURES[:2])
    assert torch.equal(with_std.kept.rest_PT[:, :2], without.kept.rest_PT)
    assert torch.equal(with_std.fidelity.retained_PT[:, :2], without.fidelity.retained_PT)
    assert without.kept.std_P is None
