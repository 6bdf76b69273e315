"""Fidelity against the dense softmax, and how that of parts becomes that of a whole.

Shape letters: P positions, C classes, K kept, T temperatures.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.codec import round_trip
from storage.options import Codec, Keep, Selection
from storage.order import position_keys
from tasks.nn.fidelity import (
    best_agrees,
    codec_kl,
    draw_weights,
    fidelity_record,
    merge_fidelity,
)
from tasks.nn.reduction import capture
from tasks.nn.softlabels import entry_log_probs
from tests.tasks import dense
from tests.tasks.nn.test_softlabels import kept_cases
from tests.tasks.reduced import reduced


@given(kept_cases(), st.sampled_from(Codec))
@settings(max_examples=200)
def test_fidelity_is_that_of_the_dense_softmax(case, codec):
    logit_PC, label_P, k, temperatures = case
    whole = reduced(torch.tensor(logit_PC), torch.tensor(label_P), k, temperatures)
    kept, found = whole.kept, whole.fidelity
    decoded = torch.from_numpy(round_trip(kept.logit_PK.numpy(), codec))
    codec_PT = codec_kl(kept.logit_PK, decoded, kept.rest_PT, temperatures)
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
            cost = dense.kl(before, stored - dense.lse(stored))
            assert codec_PT[place, column] == pytest.approx(cost, abs=1e-12)
    assert best_agrees(kept.logit_PK, decoded).all()


def test_classes_that_are_equally_good_agree():
    logit_PC = torch.zeros(1, 100)
    kept = capture(logit_PC, None, 10, (1.0,))
    assert best_agrees(kept.logit_PK, kept.logit_PK).all()


def test_a_decoded_best_class_that_is_another_disagrees():
    logit_PC = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    kept = capture(logit_PC, None, 2, (1.0,))
    swapped_PK = torch.tensor([[-1.0, 0.0], [0.0, -1.0]])
    assert best_agrees(kept.logit_PK, swapped_PK).tolist() == [False, True]


def _measured(logit_PC, mask_P, temperatures=(1.0,), k=1):
    return reduced(logit_PC, None, k, temperatures).fidelity, mask_P


def _record(parts, temperatures=(1.0,)):
    """With a codec that costs nothing."""
    count = sum(int(mask_P.sum()) for _, mask_P in parts)
    codec_PT = torch.zeros(count, len(temperatures))
    return fidelity_record(parts, codec_PT, torch.ones(count).bool(), temperatures)


def test_a_record_counts_the_positions_that_count():
    even = torch.zeros(3, 4)
    sure = torch.tensor([[0.0, -torch.inf, -torch.inf, -torch.inf]])
    parts = [
        _measured(even, torch.tensor([True, False, False])),
        _measured(sure, torch.tensor([True])),
    ]
    record = _record(parts)
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
    whole = _record([_measured(logit_PC, mask_P, (2.0, 1.0), 2)], (2.0, 1.0))
    parts = [
        _record([_measured(logit_PC[rows], mask_P[rows], (2.0, 1.0), 2)], (2.0, 1.0))
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
    record = _record([_measured(torch.zeros(2, 3), torch.tensor([False, False]))])
    assert record["positions"] == 0
    assert merge_fidelity([record, record])["temperatures"]["1"]["retained_mass"]["mean"] == 0.0


def test_a_shard_without_rows_has_no_say():
    logit_PC = torch.tensor([[0.0, 1.0, 2.0]])
    record = _record([_measured(logit_PC, torch.tensor([True]))])
    assert merge_fidelity([{}, record, {}]) == merge_fidelity([record])
    assert merge_fidelity([{}, {}]) == {}


class TestDraws:
    def test_the_weights_of_draws_are_the_softmax_on_average(self):
        logit_PC = (3 * torch.randn(1, 20, dtype=torch.float64)).repeat(20_000, 1)
        drawn = Selection(keep=Keep.SAMPLE, k=16, draws=16, temperature=2.0)
        keys_P = position_keys(["sample"], np.array([20_000]), 0)
        kept = capture(logit_PC, None, drawn, (1.0, 2.0, 4.0), keys_P=keys_P)
        log_drawn_PK, _ = entry_log_probs(kept.logit_PK, kept.rest_PT[:, 1], 1.0, 2.0)
        for column, at in enumerate((1.0, 2.0, 4.0)):
            log_p_PK, _ = entry_log_probs(kept.logit_PK, kept.rest_PT[:, column], 1.0, at)
            weight_PK = draw_weights(log_p_PK, log_drawn_PK, kept.count_PK / 16)
            mean_C = torch.zeros(20, dtype=torch.float64)
            mean_C.scatter_add_(0, kept.index_PK.flatten(), weight_PK.flatten())
            expected_C = torch.softmax(logit_PC[0] / at, dim=0)
            assert (mean_C / 20_000 - expected_C).abs().max() < 0.01

    def test_draws_weigh_the_same_where_they_were_made(self):
        logit_PC = torch.randn(5, 30)
        drawn = Selection(keep=Keep.SAMPLE, k=8, draws=8, temperature=1.0)
        keys_P = position_keys(["a", "b"], np.array([2, 3]), 0)
        effective_PT = reduced(
            logit_PC, None, drawn, (2.0, 1.0), keys_P=keys_P
        ).fidelity.effective_PT
        assert torch.allclose(effective_PT[:, 1], torch.tensor(8.0).double())
        assert (effective_PT[:, 0] < 8).all()
        assert (effective_PT >= 1).all()

    def test_the_effective_draws_are_in_the_record(self):
        logit_PC = torch.randn(6, 30)
        drawn = Selection(keep=Keep.SAMPLE, k=8, draws=8)
        keys_P = position_keys(["a"], np.array([6]), 0)
        fidelity = reduced(logit_PC, None, drawn, (1.0,), keys_P=keys_P).fidelity
        record = _record([(fidelity, torch.ones(6).bool())])
        assert record["temperatures"]["1"]["effective_draws"] == pytest.approx(8.0)
        merged = merge_fidelity([record, record])
        assert merged["temperatures"]["1"]["effective_draws"] == pytest.approx(8.0)


@pytest.mark.gpu
def test_cuda_captures_and_measures_what_the_cpu_does():
    torch.manual_seed(0)
    logit_PC = torch.randn(64, 300) * 5
    label_P = torch.randint(0, 300, (64,))
    found = []
    for device in ("cpu", "cuda"):
        logits = logit_PC.to(device)
        whole = reduced(logits, label_P.to(device), 8, (2.0, 1.0), statistics=True)
        kept, fidelity = whole.kept, whole.fidelity
        decoded = torch.from_numpy(round_trip(kept.logit_PK.cpu().numpy(), Codec.FLOAT16))
        codec_PT = codec_kl(kept.logit_PK, decoded.to(device), kept.rest_PT, (2.0, 1.0))
        agrees_P = best_agrees(kept.logit_PK, decoded.to(device))
        parts = [(fidelity, torch.ones(64).bool())]
        found.append((kept, fidelity_record(parts, codec_PT, agrees_P, (2.0, 1.0))))
    (cpu, cpu_record), (cuda, cuda_record) = found
    assert torch.equal(cpu.index_PK, cuda.index_PK.cpu())
    torch.testing.assert_close(cpu.logit_PK, cuda.logit_PK.cpu())
    torch.testing.assert_close(cpu.rest_PT, cuda.rest_PT.cpu(), rtol=1e-5, atol=1e-5)
    for name, at in cpu_record["temperatures"].items():
        other = cuda_record["temperatures"][name]
        assert other["retained_mass"] == pytest.approx(at["retained_mass"], rel=1e-4)
