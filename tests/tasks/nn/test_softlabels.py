"""Soft labels against the dense softmax: exact before the codec, and as close as it says after.

Shape letters: P positions, C classes, K kept, T temperatures.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.codec import RELATIVE_ERROR, SMALLEST_NORMAL
from storage.entries import level_scale
from storage.files import Folder
from storage.options import Codec, Keep, LabelOptions, Selection
from storage.order import position_keys
from tasks.nn.reduction import Reduction, capture, reduce_logits
from tasks.nn.softlabels import entry_log_probs, label_nll
from tests.tasks import dense
from tests.tasks.reduced import reduced
from tests.tasks.toy import TableTeacher, label_set, numbered_corpus

TEMPERATURES = (0.5, 1.0, 2.0, 4.0, 7.3)
# Whole numbers and repeats make ties; the far ones make a softmax so peaked that 1 - sum is 0.
NUMBERS = (
    st.floats(-4, 4)
    | st.integers(-2, 2).map(float)
    | st.sampled_from([-np.inf, -125.0, -700.0, 130.0, 300.0])
)


@st.composite
def teacher_logits(draw: st.DrawFn) -> np.ndarray:
    """[P, C], float64, at least one class of each position not masked."""
    positions, classes = draw(st.integers(1, 3)), draw(st.integers(1, 7))
    row = st.lists(NUMBERS, min_size=classes, max_size=classes)
    logit_PC = np.array(draw(st.lists(row, min_size=positions, max_size=positions)))
    empty = np.isneginf(logit_PC).all(axis=1)
    logit_PC[empty, draw(st.integers(0, classes - 1))] = 1.0
    return logit_PC


@st.composite
def kept_cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int, tuple[float, ...]]:
    """Logits, hard labels (some absent), k, and temperatures with T first."""
    logit_PC = draw(teacher_logits())
    positions, classes = logit_PC.shape
    label = st.integers(0, classes - 1) | st.just(-100)
    label_P = np.array(draw(st.lists(label, min_size=positions, max_size=positions)))
    temperatures = draw(st.permutations(TEMPERATURES))[: draw(st.integers(1, 5))]
    return logit_PC, label_P, draw(st.integers(1, classes)), tuple(temperatures)


@given(kept_cases())
@settings(max_examples=300)
def test_entries_and_rest_are_the_dense_softmax_exactly(case):
    logit_PC, label_P, k, temperatures = case
    kept = capture(torch.tensor(logit_PC), torch.tensor(label_P), k, temperatures)
    for column, at in enumerate(temperatures):
        log_p_PK, log_rest_P = entry_log_probs(
            kept.logit_PK, kept.rest_PT[:, column], temperatures[0], at
        )
        nll_P = label_nll(kept, temperatures, at)
        for place, logit_C in enumerate(logit_PC):
            index_K = kept.index_PK[place].tolist()
            want_K, want_rest = dense.kept_and_rest(logit_C, index_K, at)
            dense.assert_log_equal(log_p_PK[place], want_K)
            dense.assert_log_equal(log_rest_P[place], want_rest)
            if label_P[place] >= 0:
                log_p_C = dense.log_softmax(logit_C, at)
                dense.assert_log_equal(nll_P[place], -log_p_C[label_P[place]])


@given(kept_cases())
def test_the_k_largest_are_kept_best_first_and_relative_to_the_best(case):
    logit_PC, label_P, k, temperatures = case
    kept = capture(torch.tensor(logit_PC), torch.tensor(label_P), k, temperatures)
    for place, logit_C in enumerate(logit_PC):
        index_K = kept.index_PK[place].tolist()
        assert len(set(index_K)) == k
        assert logit_C[index_K].tolist() == sorted(logit_C.tolist(), reverse=True)[:k]
        expected_K = (logit_C[index_K] - logit_C.max()) / temperatures[0]
        assert kept.logit_PK[place].tolist() == expected_K.tolist()
    without = kept.label_logit_P[torch.tensor(label_P) < 0]
    assert (without == 0).all()


@given(teacher_logits(), st.sampled_from(TEMPERATURES))
def test_nothing_left_is_minus_infinity_exactly(logit_PC, temperature):
    kept = capture(torch.tensor(logit_PC), None, logit_PC.shape[1], (temperature, 1.0))
    assert torch.isneginf(kept.rest_PT).all()
    assert kept.label_logit_P is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("depth", [30.0, 125.0, 3000.0])
def test_the_rest_of_a_peaked_teacher_does_not_vanish(dtype, depth):
    logit_PC = torch.tensor([[5.0, 5.0 - depth, 4.0 - depth]], dtype=dtype)
    kept = capture(logit_PC, None, 1, (1.0,))
    expected = -depth + np.log1p(np.exp(-1.0))
    assert kept.rest_PT.item() == pytest.approx(expected, rel=1e-6)


def test_the_numbers_of_a_position_by_hand():
    logit_PC = torch.tensor([[1.0, 3.0, -1.0, 2.0]], dtype=torch.float64)
    kept = capture(logit_PC, torch.tensor([2]), 2, (2.0, 1.0), statistics=True)
    assert kept.index_PK.tolist() == [[1, 3]]
    assert kept.logit_PK.tolist() == [[0.0, -0.5]]
    rests = [np.log(np.exp(-1.0) + np.exp(-2.0)), np.log(np.exp(-2.0) + np.exp(-4.0))]
    assert kept.rest_PT.tolist() == [pytest.approx(rests)]
    assert kept.label_logit_P.tolist() == [-2.0]
    p = np.exp(dense.log_softmax(np.array([1.0, 3.0, -1.0, 2.0]), 1.0))
    assert {name: column.item() for name, column in kept.statistics.items()} == pytest.approx(
        {
            "max_logit": 3.0,
            "logit_mean": 1.25,
            "logit_std": np.std([1, 3, -1, 2]),
            "squares": (p**2).sum(),
        }
    )


def test_statistics_pass_over_masked_classes():
    logit_PC = torch.tensor([[1.0, -torch.inf, 3.0]])
    found = capture(logit_PC, None, 1, (1.0,), statistics=True).statistics
    assert found["logit_mean"].item() == 2.0
    assert found["logit_std"].item() == 1.0


def test_half_precision_is_widened_first():
    half_PC = torch.tensor([[1.0, 0.5, -20.0]], dtype=torch.bfloat16)
    kept = capture(half_PC, None, 1, (1.0,))
    assert kept.logit_PK.dtype == torch.float32
    assert kept.rest_PT.item() == capture(half_PC.float(), None, 1, (1.0,)).rest_PT.item()


@given(kept_cases())
def test_blocks_of_rows_give_what_the_whole_gives(case):
    logit_PC, label_P, k, temperatures = case
    logits, labels = torch.tensor(logit_PC), torch.tensor(label_P)
    whole = reduced(logits, labels, k, temperatures, statistics=True)
    for place in range(len(logits)):
        row = slice(place, place + 1)
        alone = reduced(logits[row], labels[row], k, temperatures, statistics=True)
        for field in ("index_PK", "logit_PK", "rest_PT", "label_logit_P"):
            assert torch.equal(getattr(alone.kept, field), getattr(whole.kept, field)[row])
        assert torch.equal(alone.fidelity.truncation_PT, whole.fidelity.truncation_PT[row])


# --- a number of entries that varies ------------------------------------------------------------


def assert_exact(kept, place, index, logit_C, temperatures):
    """The entries of a position, those of `index`, and its rest are the dense softmax."""
    logit_PK = kept.logit_PK[place : place + 1, : len(index)]
    for column, at in enumerate(temperatures):
        log_p_K, log_rest = dense.kept_and_rest(logit_C, index, at)
        rest_P = kept.rest_PT[place : place + 1, column]
        found_K, found_rest = entry_log_probs(logit_PK, rest_P, temperatures[0], at)
        dense.assert_log_equal(found_K[0], log_p_K)
        dense.assert_log_equal(found_rest[0], log_rest)


@given(kept_cases(), st.sampled_from([0.1, 0.5, 0.9, 1.0]), st.sampled_from(TEMPERATURES))
@settings(max_examples=200)
def test_a_nucleus_is_the_smallest_set_that_reaches_its_mass(case, p, select_temperature):
    logit_PC, label_P, k, temperatures = case
    nucleus = Selection(keep=Keep.TOP_P, k=k, p=p, temperature=select_temperature)
    kept = capture(torch.tensor(logit_PC), torch.tensor(label_P), nucleus, temperatures)
    for place, logit_C in enumerate(logit_PC):
        mass = np.sort(np.exp(dense.log_softmax(logit_C, select_temperature)))[::-1]
        count = int(kept.kept_P[place])
        if count < k:
            assert mass[:count].sum() >= p - 1e-12
        assert count == 1 or mass[: count - 1].sum() < p + 1e-12
        assert torch.isneginf(kept.logit_PK[place, count:]).all()
        assert (kept.index_PK[place, count:] == kept.index_PK[place, 0]).all()
        index = kept.index_PK[place, :count].tolist()
        assert logit_C[index].tolist() == sorted(logit_C.tolist(), reverse=True)[:count]
        assert_exact(kept, place, index, logit_C, temperatures)


@given(kept_cases(), st.integers(1, 40))
@settings(max_examples=100)
def test_draws_and_rest_are_the_dense_softmax_exactly(case, draws):
    logit_PC, label_P, _, temperatures = case
    classes = logit_PC.shape[1]
    sample = Selection(keep=Keep.SAMPLE, k=min(draws, classes), draws=draws)
    keys_P = position_keys(["a"], np.array([len(logit_PC)]), 0)
    kept = capture(
        torch.tensor(logit_PC), torch.tensor(label_P), sample, temperatures, keys_P=keys_P
    )
    assert (kept.count_PK.sum(dim=1) == draws).all()
    for place, logit_C in enumerate(logit_PC):
        count = int(kept.kept_P[place])
        index = kept.index_PK[place, :count].tolist()
        assert len(set(index)) == count
        assert np.isfinite(logit_C[index]).all()
        assert kept.logit_PK[place, :count].tolist() == pytest.approx(
            ((logit_C[index] - logit_C.max()) / temperatures[0]).tolist()
        )
        assert_exact(kept, place, index, logit_C, temperatures)


def test_outputs_beyond_the_real_classes_are_never_kept_and_counted_in_the_rest():
    logit_PC = torch.tensor([[1.0, 3.0, 2.0, 2.5, 2.9]], dtype=torch.float64)
    for selection in (2, Selection(keep=Keep.TOP_P, k=3, p=0.4)):
        kept = capture(logit_PC, None, selection, (1.0,), num_classes=3)
        index = kept.index_PK[0, :2].tolist()
        assert index == [1, 2]
        left = [j for j in range(5) if j not in index]
        expected = np.log(np.exp(logit_PC[0].numpy()[left] - 3.0).sum())
        assert kept.rest_PT.item() == pytest.approx(expected)
    everything = capture(logit_PC, None, 3, (1.0,), num_classes=3)
    assert everything.rest_PT.item() == pytest.approx(np.log(np.exp(-0.5) + np.exp(-0.1)))


# --- through a real shard -----------------------------------------------------------------------


@given(kept_cases(), st.sampled_from([Codec.FLOAT32, Codec.FLOAT16]))
@settings(max_examples=40)
def test_a_stored_label_is_as_close_as_its_codec_says(tmp_path_factory, case, codec):
    assert_as_close_as_said(tmp_path_factory, case, codec)


@given(kept_cases())
@settings(max_examples=40)
def test_a_stored_level_is_as_close_as_its_step(tmp_path_factory, case):
    logit_PC, *others = case
    logit_PC = np.where(np.isneginf(logit_PC), logit_PC, np.clip(logit_PC, -20, 20))
    assert_as_close_as_said(tmp_path_factory, (logit_PC, *others), Codec.UINT8)


def assert_as_close_as_said(tmp_path_factory, case, codec):
    r"""The error of each stored number moves the log-probabilities by no more than it must.

    A stored logit l is off by at most d = R max(|l|, N), R and N those of the codec, so at T_t by
    d T / T_t; a stored rest or label logit r, a float32, by R32 max(|r|, N32). Each log-probability
    is x_i - lse(x), with x the k + 1 numbers, each off by at most d_i; lse rises in all of them, so
    it lies between lse(x - d) and lse(x + d), and log p_i within d_i of x_i less one of these two.
    """
    logit_PC, label_P, k, temperatures = case
    temperatures = tuple(dict.fromkeys((*temperatures, 1.0)))
    positions, classes = logit_PC.shape
    corpus = numbered_corpus({"train": positions}, classes)
    corpus.splits["train"]["label"][:] = np.maximum(label_P, 0)
    options = LabelOptions(
        k=k, temperature=temperatures[0], temperatures=temperatures, codec=codec, batch_size=2
    )
    store = Folder.open(tmp_path_factory.mktemp("store"))
    labels = label_set(store, corpus, TableTeacher(logit_PC), options)
    (rows,) = labels.batches("train")
    labels.close()
    finest = level_scale(temperatures)
    assert rows["rest"].dtype == np.float32
    for place, logit_C in enumerate(logit_PC):
        index_K = rows["index"][place].tolist()
        true_K = (logit_C[index_K] - logit_C.max()) / temperatures[0]
        for column, at in enumerate(temperatures):
            scale = temperatures[0] / at
            left = logit_C[dense.others(index_K, classes)]
            true = np.array([*(true_K * scale), dense.lse((left - logit_C.max()) / at)])
            stored = np.array(
                [*rows["logit"][place].astype(np.float64) * scale, rows["rest"][place, column]]
            )
            error = np.array(
                [*(_bound(true_K, codec, finest) * scale), _bound(true[-1], Codec.FLOAT32)]
            )
            slack = 1e-12 * np.maximum(np.abs(true), 1.0)
            error = np.where(np.isneginf(true), 0.0, error + slack)
            low, high = dense.lse(true - error), dense.lse(true + error)
            log_p = stored - dense.lse(stored)
            _assert_between(log_p, true - error - high, true + error - low)
            label_true = (logit_C[max(label_P[place], 0)] - logit_C.max()) / temperatures[0] * scale
            label_error = _bound(label_true, Codec.FLOAT32) + 1e-12 * abs(label_true)
            if np.isneginf(label_true):
                label_error = 0.0
            nll = dense.lse(stored) - float(rows["label_logit"][place]) * scale
            _assert_between(nll, low - label_true - label_error, high - label_true + label_error)


def _bound(value, codec, finest=1.0):
    """The largest error of a stored number."""
    size = np.where(np.isneginf(value), 0.0, np.abs(value))
    if codec is Codec.UINT8:  # a level's value is the mean of logits within a step of each other
        step = np.minimum(0.05 * np.exp(size * finest / 4), 1.0) / finest
        return np.where(size == 0, 0.0, 1.02 * step + 1e-6)
    return RELATIVE_ERROR[codec] * np.maximum(size, SMALLEST_NORMAL[codec])


def _assert_between(found, low, high):
    slack = 1e-9 * np.maximum(np.abs(np.where(np.isinf(found), 0.0, found)), 1.0)
    same = (found == low) & (found == high)
    with np.errstate(invalid="ignore"):
        assert np.all(same | ((found >= low - slack) & (found <= high + slack))), (found, low, high)


# --- what is bad --------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_positions_that_are_not_finite_are_marked(bad, k):
    logit_PC = torch.zeros(8, 3)
    logit_PC[5, 1] = bad
    assert reduced(logit_PC, None, k, (1.0,)).bad_R.nonzero().flatten().tolist() == [5]


def test_masked_classes_are_legal_until_none_is_left():
    logit_PC = torch.tensor([[0.0, -torch.inf], [-torch.inf, -torch.inf]])
    assert reduced(logit_PC, None, 1, (1.0,)).bad_R.tolist() == [False, True]


def test_what_a_teacher_makes_of_padding_does_not_matter():
    logit_PC = torch.zeros(4, 2)
    logit_PC[3] = torch.nan
    real_P = torch.tensor([True, True, True, False])
    reduction = Reduction(Selection(keep=Keep.TOP_K, k=1), (1.0,), 2)
    found = reduce_logits(logit_PC, real_P, None, reduction)
    assert found.bad_R.tolist() == [False] * 3
