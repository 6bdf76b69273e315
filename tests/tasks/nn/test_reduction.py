"""Large vocabularies reduced in one pass, against a plain float64 softmax.

Shape letters: P positions, C classes, K kept, T temperatures.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.options import STD, Keep, Selection
from storage.order import position_keys
from tasks.nn.others import chains
from tasks.nn.reduction import Reduction, reduce_logits
from tests.tasks import dense
from tests.tasks.reduced import reduced

TEMPERATURES = (2.0, 1.0, 4.0, 3.0, 0.7, 8.0, 128.0)
SELECTIONS = [
    Selection(keep=Keep.TOP_K, k=1),
    Selection(keep=Keep.TOP_K, k=64),
    Selection(keep=Keep.TOP_P, k=40, p=0.8, temperature=1.0),
    Selection(keep=Keep.SAMPLE, k=30, draws=30, temperature=1.0),
]


def logits(positions: int, classes: int, seed: int = 0) -> torch.Tensor:
    """Logits as language models give them, with ties, masked classes, and one that is peaked."""
    rng = np.random.default_rng(seed)
    logit_PC = rng.normal(0, 2.5, (positions, classes)).astype(np.float32)
    logit_PC[np.arange(positions), rng.integers(0, classes, positions)] += 12
    logit_PC[:, ::7] = np.round(logit_PC[:, ::7])
    logit_PC[0, 5::11] = -np.inf
    if positions > 1:
        logit_PC[1] -= 125
        logit_PC[1, 3] = 400
    if positions > 2:
        logit_PC[2] *= 1e4
    if positions > 3:
        logit_PC[3] *= 1e-6
    return torch.from_numpy(logit_PC)


@pytest.mark.parametrize("selection", SELECTIONS, ids=lambda s: f"{s.keep}-{s.k}")
@pytest.mark.parametrize("classes", [1000, 49_152, 50_257])
def test_it_is_the_dense_softmax_within_1e_5(selection, classes):
    logit_PC = logits(6, classes)
    label_P = torch.tensor([1, 3, -100, 0, classes - 1, 2])
    keys_P = position_keys(["a"], np.array([6]), 0)
    found = reduced(logit_PC, label_P, selection, TEMPERATURES, keys_P=keys_P)
    assert not found.bad_R.any()
    assert torch.equal(found.best_R, logit_PC.argmax(dim=1))
    for place, logit_C in enumerate(logit_PC.double().numpy()):
        count = selection.k if found.kept.kept_P is None else int(found.kept.kept_P[place])
        index_K = found.kept.index_PK[place, :count].tolist()
        assert len(set(index_K)) == count
        scale = max(1.0, float(np.abs(logit_C[np.isfinite(logit_C)]).max()))
        for column, at in enumerate(TEMPERATURES):
            best = logit_C.max()
            left = dense.others(index_K, classes)
            rest = dense.lse((logit_C[left] - best) / at)
            got = found.kept.rest_PT[place, column].item()
            assert got == pytest.approx(rest, abs=1e-5, rel=1e-6 * scale**0.1)
            log_p_C = dense.log_softmax(logit_C, at)
            retained = np.exp(log_p_C[index_K]).sum()
            assert found.fidelity.retained_PT[place, column].item() == pytest.approx(
                retained, abs=1e-5
            )
            mass = np.exp(log_p_C[left])
            spread = np.log(mass.sum()) - np.log(len(left)) if mass.sum() > 0 else 0.0
            some = mass > 0
            truncation = (mass[some] * (log_p_C[left][some] - spread)).sum()
            assert found.fidelity.truncation_PT[place, column].item() == pytest.approx(
                truncation, abs=1e-5
            )


def test_the_rest_of_a_peaked_teacher_does_not_vanish():
    logit_PC = torch.full((1, 49_152), -125.0)
    logit_PC[0, 7] = 0.0
    found = reduced(logit_PC, None, 1, (1.0, 4.0))
    expected = -125.0 + np.log(49_151)
    assert found.kept.rest_PT[0, 0].item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("selection", SELECTIONS, ids=lambda s: f"{s.keep}-{s.k}")
def test_a_position_depends_on_itself_alone(selection):
    """Bit by bit: not on its neighbours, its place, the batch, or the number of threads."""
    logit_PC = logits(45, 20_000)
    label_P = torch.arange(45)
    keys_P = position_keys(["a"], np.array([45]), 0)

    def parts(rows):
        found = reduced(
            logit_PC[rows], label_P[rows], selection, (*TEMPERATURES, STD), keys_P=keys_P[rows],
            statistics=True,
        )  # fmt: skip
        kept, fidelity = found.kept, found.fidelity
        columns = [kept.index_PK, kept.logit_PK, kept.rest_PT, kept.label_logit_P, kept.std_P]
        columns += [fidelity.retained_PT, fidelity.truncation_PT, *kept.statistics.values()]
        return columns

    whole = parts(slice(None))
    before = torch.get_num_threads()
    for threads, rows in ((1, slice(0, 45)), (2, slice(3, 20)), (3, slice(11, 12)), (4, slice(45))):
        torch.set_num_threads(threads)
        try:
            some = parts(rows)
        finally:
            torch.set_num_threads(before)
        for a, b in zip(whole, some, strict=True):
            assert torch.equal(a[rows], b)


def test_the_callers_logits_are_not_changed_and_bad_positions_harm_no_others():
    logit_PC = logits(9, 3000)
    clean = reduced(logit_PC, None, 8, (1.0, 2.0))
    logit_PC[4, 17], logit_PC[7], logit_PC[8, 2] = torch.nan, -torch.inf, torch.inf
    copy_PC = logit_PC.clone()
    found = reduced(logit_PC, None, 8, (1.0, 2.0))
    assert torch.equal(logit_PC, copy_PC) or torch.equal(logit_PC.isnan(), copy_PC.isnan())
    assert found.bad_R.nonzero().flatten().tolist() == [4, 7, 8]
    good = ~found.bad_R
    assert torch.equal(found.kept.rest_PT[good], clean.kept.rest_PT[good])
    assert torch.equal(found.kept.index_PK[good], clean.kept.index_PK[good])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_of_logits(dtype):
    logit_PC = (logits(1, 2000) / 2).to(dtype)
    wide = logit_PC if dtype == torch.float64 else logit_PC.float()
    a, b = (reduced(some, None, 5, (1.0, 2.0)).kept for some in (logit_PC, wide))
    assert torch.equal(a.rest_PT, b.rest_PT)
    assert a.logit_PK.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_padding_positions_are_left_out_and_padding_classes_are_in_the_rest():
    logit_PC = logits(8, 1000)
    real_P = torch.tensor([True, True, False, True, False, False, True, True])
    reduction = Reduction(Selection(keep=Keep.TOP_K, k=4), (1.0,), 900)
    found = reduce_logits(logit_PC, real_P, None, reduction)
    expected = reduce_logits(logit_PC[real_P], torch.ones(5).bool(), None, reduction)
    assert torch.equal(found.kept.rest_PT, expected.kept.rest_PT)
    assert found.kept.index_PK.max() < 900
    everything = reduced(logit_PC[real_P], None, 900, (1.0,), num_classes=900)
    assert torch.isfinite(everything.kept.rest_PT).any()


@given(st.lists(st.sampled_from(TEMPERATURES), min_size=1, max_size=7, unique=True))
@settings(max_examples=50)
def test_each_temperature_is_in_one_chain_of_halves(temperatures):
    found = chains(temperatures)
    assert sorted(place for chain in found for place in chain) == list(range(len(temperatures)))
    for chain in found:
        at = [temperatures[place] for place in chain]
        assert at == sorted(at, reverse=True)
        assert all(np.log2(at[0] / other) % 1 == 0 and at[0] / other <= 16 for other in at)


@pytest.mark.gpu
@pytest.mark.parametrize("selection", SELECTIONS, ids=lambda s: f"{s.keep}-{s.k}")
def test_cuda_gives_the_numbers_of_the_cpu(selection):
    logit_PC = logits(30, 5000)
    label_P = torch.arange(30)
    keys_P = position_keys(["a"], np.array([30]), 0)
    cpu, cuda = (
        reduced(some, label_P, selection, TEMPERATURES, keys_P=keys_P, statistics=True)
        for some in (logit_PC, logit_PC.cuda())
    )
    assert torch.equal(cpu.kept.index_PK, cuda.kept.index_PK.cpu())
    assert torch.equal(cpu.best_R, cuda.best_R.cpu())
    for ours, theirs in (
        (cpu.kept.logit_PK, cuda.kept.logit_PK),
        (cpu.kept.rest_PT, cuda.kept.rest_PT),
        (cpu.kept.label_logit_P, cuda.kept.label_logit_P),
        (cpu.fidelity.retained_PT, cuda.fidelity.retained_PT),
        (cpu.fidelity.truncation_PT, cuda.fidelity.truncation_PT),
    ):
        torch.testing.assert_close(ours, theirs.cpu(), rtol=1e-5, atol=1e-5)
