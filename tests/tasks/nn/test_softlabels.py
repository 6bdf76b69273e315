"""Soft labels against the dense softmax: exact before the codec, and as close as it says after.

Shape letters: P positions, C classes, K kept, T temperatures.
"""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.codec import RELATIVE_ERROR, SMALLEST_NORMAL, round_trip
from storage.errors import NotFiniteError
from storage.files import Folder
from storage.options import Codec, LabelOptions
from tasks.nn import softlabels
from tasks.nn.softlabels import (
    capture,
    entry_log_probs,
    fidelity_record,
    label_nll,
    measure,
    merge_fidelity,
    require_finite,
)
from tests.tasks import dense
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

    def both():
        kept = capture(logits, labels, k, temperatures, statistics=True)
        decoded = torch.from_numpy(round_trip(kept.logit_PK.numpy(), Codec.FLOAT16))
        return kept, measure(logits, kept, decoded, temperatures)

    whole = both()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(softlabels, "_BLOCK_ELEMENTS", 1)
        for one, other in zip(whole, both(), strict=True):
            for field in dataclasses.fields(one):
                a, b = getattr(one, field.name), getattr(other, field.name)
                pairs = [(a[key], b[key]) for key in a] if isinstance(a, dict) else [(a, b)]
                assert all(torch.equal(first, second) for first, second in pairs), field.name


# --- through a real shard -----------------------------------------------------------------------


@given(kept_cases(), st.sampled_from(Codec))
@settings(max_examples=40)
def test_a_stored_label_is_as_close_as_its_codec_says(tmp_path_factory, case, codec):
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
            error = np.array([*(_bound(true_K, codec) * scale), _bound(true[-1], Codec.FLOAT32)])
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


def _bound(value, codec):
    """The largest error of a stored number."""
    size = np.where(np.isneginf(value), 0.0, np.abs(value))
    return RELATIVE_ERROR[codec] * np.maximum(size, SMALLEST_NORMAL[codec])


def _assert_between(found, low, high):
    slack = 1e-9 * np.maximum(np.abs(np.where(np.isinf(found), 0.0, found)), 1.0)
    same = (found == low) & (found == high)
    with np.errstate(invalid="ignore"):
        assert np.all(same | ((found >= low - slack) & (found <= high + slack))), (found, low, high)


# --- fidelity -----------------------------------------------------------------------------------


@given(kept_cases(), st.sampled_from(Codec))
@settings(max_examples=200)
def test_fidelity_is_that_of_the_dense_softmax(case, codec):
    logit_PC, label_P, k, temperatures = case
    kept = capture(torch.tensor(logit_PC), torch.tensor(label_P), k, temperatures)
    decoded = torch.from_numpy(round_trip(kept.logit_PK.numpy(), codec))
    found = measure(torch.tensor(logit_PC), kept, decoded, temperatures)
    for column, at in enumerate(temperatures):
        for place, logit_C in enumerate(logit_PC):
            index_K = kept.index_PK[place].tolist()
            log_p_C = dense.log_softmax(logit_C, at)
            log_p_K, log_rest = dense.kept_and_rest(logit_C, index_K, at)
            assert found.retained_PT[place, column] == pytest.approx(np.exp(log_p_K).sum())
            left = dense.others(index_K, len(logit_C))
            spread = log_rest - np.log(len(left)) if left else -np.inf
            approximation = np.array(
                [spread if i in left else log_p_C[i] for i in range(len(left) + k)]
            )
            truncation = dense.kl(log_p_C, approximation)
            assert found.truncation_PT[place, column] == pytest.approx(truncation, abs=1e-12)
            scaled = decoded[place].double().numpy() * temperatures[0] / at
            stored = np.array([*scaled, kept.rest_PT[place, column].item()])
            before = np.array([*log_p_K, log_rest])
            codec_kl = dense.kl(before, stored - dense.lse(stored))
            assert found.codec_PT[place, column] == pytest.approx(codec_kl, abs=1e-12)
    assert found.agreement_P.all()


def test_classes_that_are_equally_good_agree():
    logit_PC = torch.zeros(1, 100)
    kept = capture(logit_PC, None, 10, (1.0,))
    assert measure(logit_PC, kept, kept.logit_PK, (1.0,)).agreement_P.all()


def test_a_decoded_best_class_that_is_another_disagrees():
    logit_PC = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    kept = capture(logit_PC, None, 2, (1.0,))
    swapped_PK = torch.tensor([[-1.0, 0.0], [0.0, -1.0]])
    assert measure(logit_PC, kept, swapped_PK, (1.0,)).agreement_P.tolist() == [False, True]


def _measured(logit_PC, mask_P, temperatures=(1.0,), k=1):
    kept = capture(logit_PC, None, k, temperatures)
    return measure(logit_PC, kept, kept.logit_PK, temperatures), mask_P


def test_a_record_counts_the_positions_that_count():
    even = torch.zeros(3, 4)
    sure = torch.tensor([[0.0, -torch.inf, -torch.inf, -torch.inf]])
    parts = [
        _measured(even, torch.tensor([True, False, False])),
        _measured(sure, torch.tensor([True])),
    ]
    record = fidelity_record(parts, (1.0,))
    assert record["positions"] == 2
    assert record["agreement"] == 1.0
    at = record["temperatures"]["1"]
    assert at["retained_mass"]["mean"] == pytest.approx(0.625)
    assert at["retained_mass"]["p01"] == pytest.approx(0.25 + 0.01 * 0.75)
    assert at["codec_kl"] == 0.0
    # Both are even over what is left: nothing is lost by spreading the rest evenly.
    assert at["truncation_kl"] == pytest.approx(0.0, abs=1e-7)


def test_records_merge_to_the_record_of_the_whole():
    torch.manual_seed(0)
    logit_PC = torch.randn(12, 6, dtype=torch.float64)
    mask_P = torch.arange(12) % 3 > 0
    whole = fidelity_record([_measured(logit_PC, mask_P, (2.0, 1.0), 2)], (2.0, 1.0))
    parts = [
        fidelity_record([_measured(logit_PC[rows], mask_P[rows], (2.0, 1.0), 2)], (2.0, 1.0))
        for rows in (slice(0, 5), slice(5, 12))
    ]
    merged = merge_fidelity(parts)
    assert merged["positions"] == whole["positions"] == 8
    for name, at in whole["temperatures"].items():
        found = merged["temperatures"][name]
        assert found["retained_mass"]["mean"] == pytest.approx(at["retained_mass"]["mean"])
        assert found["truncation_kl"] == pytest.approx(at["truncation_kl"])
        lowest = min(part["temperatures"][name]["retained_mass"]["p01"] for part in parts)
        assert found["retained_mass"]["p01"] == lowest


def test_a_record_of_nothing_that_counts_is_finite():
    record = fidelity_record([_measured(torch.zeros(2, 3), torch.tensor([False, False]))], (1.0,))
    assert record["positions"] == 0
    assert merge_fidelity([record, record])["temperatures"]["1"]["retained_mass"]["mean"] == 0.0


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_name_their_samples(bad):
    logit_PC = torch.zeros(8, 3)
    logit_PC[5, 1] = bad
    with pytest.raises(NotFiniteError, match="in 1 samples: c;"):
        require_finite(logit_PC, ["a", "b", "c", "d"])


def test_masked_classes_are_legal_until_none_is_left():
    logit_PC = torch.tensor([[0.0, -torch.inf], [-torch.inf, -torch.inf]])
    require_finite(logit_PC[:1], ["a"])
    with pytest.raises(NotFiniteError, match="b"):
        require_finite(logit_PC, ["a", "b"])


def test_many_bad_samples_are_counted_and_three_named():
    with pytest.raises(NotFiniteError, match=r"in 5 samples: a, b, c, \.\.\.;"):
        require_finite(torch.full((5, 2), torch.nan), list("abcde"))


def test_what_a_teacher_makes_of_padding_does_not_matter():
    logit_PC = torch.zeros(4, 2)
    logit_PC[3] = torch.nan
    require_finite(logit_PC, ["a", "b"], torch.tensor([True, True, True, False]))


@pytest.mark.gpu
def test_cuda_captures_and_measures_what_the_cpu_does():
    torch.manual_seed(0)
    logit_PC = torch.randn(64, 300) * 5
    label_P = torch.randint(0, 300, (64,))
    found = []
    for device in ("cpu", "cuda"):
        logits = logit_PC.to(device)
        kept = capture(logits, label_P.to(device), 8, (2.0, 1.0), statistics=True)
        decoded = torch.from_numpy(round_trip(kept.logit_PK.cpu().numpy(), Codec.FLOAT16))
        fidelity = measure(logits, kept, decoded.to(device), (2.0, 1.0))
        found.append((kept, fidelity_record([(fidelity, torch.ones(64).bool())], (2.0, 1.0))))
    (cpu, cpu_record), (cuda, cuda_record) = found
    assert torch.equal(cpu.index_PK, cuda.index_PK.cpu())
    torch.testing.assert_close(cpu.logit_PK, cuda.logit_PK.cpu())
    torch.testing.assert_close(cpu.rest_PT, cuda.rest_PT.cpu(), rtol=1e-5, atol=1e-5)
    for name, at in cpu_record["temperatures"].items():
        other = cuda_record["temperatures"][name]
        assert other["retained_mass"] == pytest.approx(at["retained_mass"], rel=1e-4)
