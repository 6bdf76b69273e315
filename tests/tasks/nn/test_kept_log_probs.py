"""The student's log-probabilities and hard loss, and their gradients, against a dense float64 one.

Shape letters: P positions, C classes, K kept, W the width of the output layer's input.
"""

import copy
import math
from collections import Counter
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from tasks.loss_options import LossOptions
from tasks.nn.kept_log_probs import (
    Logits,
    hard_log_probs,
    kept_log_probs,
    student_and_hard_log_probs,
    student_log_probs,
)
from tasks.nn.losses import distillation_loss
from tasks.nn.projected import Projected, Room
from tests.tasks import dense
from tests.tasks.toy import batch_of

TEMPERATURES = (1.0, 2.0, 4.0, 16.0, 32.0, 0.5, 7.3)
SMOOTHINGS = (0.0, 0.1)
LOGIT = st.floats(-6, 6) | st.integers(-2, 2).map(float) | st.sampled_from([-80.0, 40.0])


@dataclass(frozen=True)
class Case:
    """Logits and what is asked of them, with numbers that stand for incoming gradients."""

    logit_PC: torch.Tensor
    index_PK: torch.Tensor
    present_PK: torch.Tensor
    label_P: torch.Tensor
    grad_PK: torch.Tensor
    grad_rest_P: torch.Tensor
    grad_hard_P: torch.Tensor


@st.composite
def cases(draw: st.DrawFn, least: int = 0, masked: bool = True) -> Case:
    """Ties, one class, no position, all classes kept; some logits may be -inf."""
    positions, classes = draw(st.integers(least, 4)), draw(st.integers(1, 6))
    kept = draw(st.integers(1, classes))
    number = LOGIT | st.just(-math.inf) if masked else LOGIT

    def block(numbers, width, dtype=torch.float64):
        row = st.lists(numbers, min_size=width, max_size=width)
        rows = draw(st.lists(row, min_size=positions, max_size=positions))
        return torch.tensor(rows, dtype=dtype).reshape(positions, width)

    logit_PC = block(number, classes)
    order = [draw(st.permutations(range(classes))) for _ in range(positions)]
    index_PK = torch.tensor(order, dtype=torch.int64).reshape(positions, classes)[:, :kept]
    logit_PC.scatter_(1, index_PK[:, :1], logit_PC.gather(1, index_PK[:, :1]).clamp(min=-9.0))
    present_PK = block(st.booleans(), kept, torch.bool)
    present_PK[:, 0] = True
    label = st.integers(0, classes - 1) | st.just(-100)
    grad = st.floats(-2, 2)
    return Case(
        logit_PC,
        index_PK,
        present_PK,
        block(label, 1, torch.int64)[:, 0],
        block(grad, kept),
        block(grad, 1)[:, 0],
        block(grad, 1)[:, 0],
    )


def reference(logit_PC, case: Case, at, smoothing):
    """What is asked, from a log-softmax over all classes; -inf logits are written as -1e6."""
    at_P1 = at[:, None] if isinstance(at, torch.Tensor) else at
    log_p_PC = torch.log_softmax(logit_PC / at_P1, dim=1)
    index_PK = torch.where(case.present_PK, case.index_PK, case.index_PK[:, :1])
    others_PC = torch.ones_like(logit_PC, dtype=torch.bool).scatter(1, index_PK, False)
    rest_P = torch.logsumexp(log_p_PC.masked_fill(~others_PC, -math.inf), dim=1)
    hard_P = F.cross_entropy(
        logit_PC, case.label_P, reduction="none", label_smoothing=smoothing, ignore_index=-100
    )
    return log_p_PC.gather(1, index_PK), rest_P, hard_P


def weighed(found, case: Case):
    """One number of all that is given: entries of -inf take no part, as in every loss."""
    kept_PK, rest_P, hard_P = found
    total = 0.0
    for value, grad in (
        (kept_PK, case.grad_PK),
        (rest_P, case.grad_rest_P),
        (hard_P, case.grad_hard_P),
    ):
        there = value > -1e3
        total = total + (torch.where(there, value, 0.0) * grad * there).sum()
    return total


def asked_of(logits: Logits, case: Case, at, smoothing):
    """All three, in one pass."""
    found, hard_P = student_and_hard_log_probs(
        logits, case.index_PK, case.present_PK, at, case.label_P, smoothing
    )
    return found.kept_PK, found.rest_P, hard_P


def close(found, wanted, tolerance=1e-9):
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


@given(cases(), st.sampled_from(TEMPERATURES), st.sampled_from(SMOOTHINGS))
@settings(max_examples=200)
def test_values_and_gradient_are_those_of_a_log_softmax(case, at, smoothing):
    finite = not torch.isneginf(case.logit_PC).any()
    smoothing = smoothing if finite else 0.0
    logit_PC = case.logit_PC.clone().requires_grad_()
    dense_PC = case.logit_PC.clamp(min=-1e6).requires_grad_()
    found, wanted = (
        asked_of(logit_PC, case, at, smoothing),
        reference(dense_PC, case, at, smoothing),
    )
    for got, want in zip(found, wanted, strict=True):
        there = want.abs() < 1e3
        close(got[there], want[there])
        assert (got[~there].abs() >= 1e3).all()
    weighed(found, case).backward()
    weighed(wanted, case).backward()
    assert torch.isfinite(logit_PC.grad).all()
    close(logit_PC.grad, dense_PC.grad)


@given(cases(least=1, masked=False), st.sampled_from(SMOOTHINGS), st.data())
def test_each_position_may_have_a_temperature_with_a_gradient(case, smoothing, data):
    number = st.floats(0.3, 5.0)
    positions = len(case.logit_PC)
    at = data.draw(st.lists(number, min_size=positions, max_size=positions))
    ours, theirs = (
        (
            case.logit_PC.clone().requires_grad_(),
            torch.tensor(at, dtype=torch.float64, requires_grad=True),
        )
        for _ in range(2)
    )
    weighed(asked_of(ours[0], case, ours[1], smoothing), case).backward()
    weighed(reference(theirs[0], case, theirs[1], smoothing), case).backward()
    close(ours[0].grad, theirs[0].grad)
    close(ours[1].grad, theirs[1].grad, 1e-8)


@pytest.mark.parametrize("k", [1, 3, 6])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 7.3])
def test_the_gradient_written_by_hand_is_that_of_the_function(k, temperature):
    torch.manual_seed(k)
    logit_PC = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    at_P = torch.full((5,), temperature, dtype=torch.float64, requires_grad=True)
    index_PK = torch.stack([torch.randperm(6)[:k] for _ in range(5)])
    present_PK = torch.rand(5, k) < 0.6
    present_PK[:, 0] = True
    label_P = torch.tensor([0, 3, -100, 5, 2])

    def function(logits, at=temperature):
        found, hard_P = student_and_hard_log_probs(logits, index_PK, present_PK, at, label_P, 0.1)
        # Where nothing is left the rest is -inf, which no loss takes part in.
        return found.kept_PK, found.rest_P[~torch.isneginf(found.rest_P)], hard_P

    assert torch.autograd.gradcheck(function, (logit_PC,))
    assert torch.autograd.gradcheck(function, (logit_PC, at_P))


@given(cases(masked=False), st.sampled_from(TEMPERATURES), st.booleans(), st.booleans())
def test_logits_that_are_never_whole_give_what_whole_ones_give(case, at, biased, whole):
    torch.manual_seed(0)
    classes = case.logit_PC.shape[1]
    width = 3
    parts = (
        torch.randn(len(case.logit_PC), width, dtype=torch.float64),
        torch.randn(classes, width, dtype=torch.float64),
        torch.randn(classes, dtype=torch.float64) if biased else None,
    )

    def leaves():
        return [None if part is None else part.clone().requires_grad_() for part in parts]

    ours, theirs = leaves(), leaves()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.nn.projected._BLOCK_ELEMENTS", 2 * classes)
        found = asked_of(Projected(*ours, room=Room() if whole else None), case, at, 0.1)
        weighed(found, case).backward()
    wanted = asked_of(F.linear(*theirs), case, at, 0.1)
    weighed(wanted, case).backward()
    for got, want in zip(found, wanted, strict=True):
        close(got, want)
    for got, want in zip(ours, theirs, strict=True):
        if want is not None:
            close(got.grad, want.grad)


@pytest.mark.parametrize("whole", [False, True])
def test_a_second_pass_backward_gives_the_same(whole):
    torch.manual_seed(0)
    hidden_PW, weight_CW = torch.randn(6, 3).requires_grad_(), torch.randn(5, 3).requires_grad_()
    index_PK = torch.tensor([[0, 1]] * 6)
    projected = Projected(hidden_PW, weight_CW, room=Room() if whole else None)
    found = student_log_probs(projected, index_PK, index_PK >= 0, 2.0)
    value = (found.kept_PK * torch.tensor([0.3, -1.0])).sum() + found.rest_P.sum()
    value.backward(retain_graph=True)
    once = hidden_PW.grad.clone(), weight_CW.grad.clone()
    hidden_PW.grad = weight_CW.grad = None
    value.backward()
    close((hidden_PW.grad, weight_CW.grad), once, 1e-6)


def test_room_is_used_again_and_never_by_two_at_once():
    torch.manual_seed(0)
    room = Room()
    weight_CW, label_P = torch.randn(5, 3, requires_grad=True), torch.tensor([0, 3, 2, 2])

    def loss(positions, hidden_PW):
        projected = Projected(hidden_PW[:positions], weight_CW, room=room)
        return hard_log_probs(projected, label_P[:positions]).sum()

    def plain(positions, hidden_PW):
        logit_PC = hidden_PW[:positions] @ weight_CW.T
        return F.cross_entropy(logit_PC, label_P[:positions], reduction="sum")

    for positions in (4, 2, 4):
        one_PW, other_PW = torch.randn(2, 4, 3).unbind()
        both = loss(positions, one_PW), loss(4, other_PW)
        for found, wanted in zip(both, (plain(positions, one_PW), plain(4, other_PW)), strict=True):
            close(found, wanted, 1e-5)
            got, want = (torch.autograd.grad(value, weight_CW) for value in (found, wanted))
            close(got, want, 1e-5)
    assert copy.deepcopy(room)._free is None
    taken = room.take(torch.Size((4, 5)), weight_CW)
    assert room.take(torch.Size((4, 5)), weight_CW).data_ptr() != taken.data_ptr()


@pytest.mark.parametrize("whole", [False, True])
def test_tied_weights_get_both_gradients(whole):
    torch.manual_seed(0)
    ids_P = torch.tensor([4, 1, 1, 0])
    label_P = torch.tensor([0, 3, 2, 2])
    weight_CW = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    hard_log_probs(
        Projected(weight_CW[ids_P], weight_CW, room=Room() if whole else None), label_P
    ).sum().backward()
    tied_CW = weight_CW.detach().clone().requires_grad_()
    F.cross_entropy(tied_CW[ids_P] @ tied_CW.T, label_P, reduction="sum").backward()
    close(weight_CW.grad, tied_CW.grad)


@pytest.mark.parametrize("whole", [False, True])
def test_under_autocast_a_product_is_in_half_precision_and_the_rest_is_not(whole):
    torch.manual_seed(0)
    parts = [torch.randn(40, 8), torch.randn(20, 8), torch.randn(20)]
    ours, theirs = ([part.clone().requires_grad_() for part in parts] for _ in range(2))
    label_P = torch.randint(0, 20, (40,))
    with torch.autocast("cpu", torch.bfloat16), pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.nn.projected._BLOCK_ELEMENTS", 160)
        found = hard_log_probs(Projected(*ours, room=Room() if whole else None), label_P)
    assert found.dtype == torch.float32
    found.sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        wanted = hard_log_probs(F.linear(*theirs), label_P)
    wanted.sum().backward()
    close(found, wanted, 2e-2)
    for got, want in zip(ours, theirs, strict=True):
        assert got.grad.dtype == torch.float32
        close(got.grad, want.grad, 5e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_logits_in_half_precision_are_read_exactly(dtype):
    torch.manual_seed(0)
    logit_PC = (torch.randn(30, 50) * 3).to(dtype).requires_grad_()
    index_PK = torch.stack([torch.randperm(50)[:4] for _ in range(30)])
    label_P = torch.randint(0, 50, (30,))
    exact_PC = logit_PC.detach().double().requires_grad_()
    weight_PK = torch.rand(30, 4)
    for logits in (logit_PC, exact_PC):
        found, hard_P = student_and_hard_log_probs(logits, index_PK, index_PK >= 0, 2.0, label_P)
        assert found.rest_P.dtype == torch.promote_types(logits.dtype, torch.float32)
        ((found.kept_PK * weight_PK).sum() + hard_P.sum() + found.rest_P.sum()).backward()
    close(hard_P.float(), hard_log_probs(logit_PC, label_P), 1e-5)
    assert logit_PC.grad.dtype == dtype
    close(logit_PC.grad.double(), exact_PC.grad, 2e-2)


def test_logits_may_be_strided_and_are_left_as_they_are():
    torch.manual_seed(0)
    wide_CP = torch.randn(9, 40, dtype=torch.float64, requires_grad=True)
    plain_CP = wide_CP.detach().clone().requires_grad_()
    before_CP = plain_CP.detach().clone()
    index_PK = torch.stack([torch.randperm(9)[:3] for _ in range(20)])
    for logit_CP, form in ((wide_CP, lambda part: part), (plain_CP, torch.Tensor.contiguous)):
        found = student_log_probs(form(logit_CP[:, ::2].T), index_PK, index_PK >= 0, 2.0)
        (found.kept_PK.sum() + found.rest_P.sum()).backward()
    assert torch.equal(wide_CP.grad, plain_CP.grad)
    assert torch.equal(plain_CP, before_CP)


def test_logits_may_be_used_elsewhere_too():
    torch.manual_seed(0)
    logit_PC = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    label_P = torch.tensor([0, 1, 2, 3])
    (hard_log_probs(logit_PC, label_P).sum() + (logit_PC**2).sum()).backward()
    plain_PC = logit_PC.detach().clone().requires_grad_()
    (F.cross_entropy(plain_PC, label_P, reduction="sum") + (plain_PC**2).sum()).backward()
    close(logit_PC.grad, plain_PC.grad)


def test_logits_changed_before_the_gradient_are_noticed():
    logit_PC = torch.randn(2, 3, requires_grad=True) * 1.0
    loss = hard_log_probs(logit_PC, torch.tensor([0, 1])).sum()
    logit_PC.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_label_beyond_the_classes_is_an_error():
    for label in (3, -1):
        with pytest.raises(RuntimeError, match="out of bounds"):
            hard_log_probs(torch.randn(1, 3), torch.tensor([label]))


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_logits_that_are_not_finite_make_no_finite_loss(number):
    logit_PC = torch.zeros(2, 5)
    logit_PC[0, 3] = number
    index_PK = torch.tensor([[0, 1]] * 2)
    found, hard_P = student_and_hard_log_probs(
        logit_PC, index_PK, index_PK >= 0, 2.0, torch.tensor([0, 0])
    )
    assert not torch.isfinite(hard_P[0])
    assert not torch.isfinite(found.kept_PK[0]).any()
    assert torch.isfinite(hard_P[1])
    assert torch.isfinite(found.kept_PK[1]).all()


def test_a_peaked_student_keeps_its_rest():
    logit_PC = torch.full((1, 40_000), -150.0)
    logit_PC[0, 7] = 0.0
    found = student_log_probs(logit_PC, torch.tensor([[7]]), torch.tensor([[True]]), 1.0)
    assert found.rest_P.item() == pytest.approx(-150.0 + math.log(39_999), rel=1e-6)


def test_float32_is_close_to_float64_for_a_large_vocabulary():
    torch.manual_seed(0)
    logit_PC = torch.randn(20, 40_001) * 4
    index_PK = logit_PC.topk(16, dim=1).indices
    label_P = torch.randint(0, 40_001, (20,))
    for at in (1.0, 4.0, 3.0):
        results = []
        for dtype in (torch.float32, torch.float64):
            logits = logit_PC.to(dtype, copy=True).requires_grad_()
            found, hard_P = student_and_hard_log_probs(
                logits, index_PK, index_PK >= 0, at, label_P, 0.1
            )
            (found.kept_PK.mean() + found.rest_P.mean() + hard_P.mean()).backward()
            results.append((found.kept_PK, found.rest_P, hard_P, logits.grad))
        for got, want in zip(*results, strict=True):
            torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


@given(cases(), st.sampled_from(TEMPERATURES), st.integers(1, 20))
def test_blocks_of_rows_give_what_the_whole_gives(case, at, elements):
    def all_of_it():
        logit_PC = case.logit_PC.float().requires_grad_()
        found = asked_of(logit_PC, case, at, 0.0)
        weighed(found, case).backward()
        return (*found, logit_PC.grad)

    whole = all_of_it()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.nn.row_passes._CACHED_ELEMENTS", elements)
        patch.setattr("tasks.nn.row_passes._SMALL_ELEMENTS", 0)
        assert all(torch.equal(a, b) for a, b in zip(whole, all_of_it(), strict=True))


@given(cases(masked=False), st.sampled_from(TEMPERATURES))
def test_kept_and_rest_of_the_student_are_its_dense_softmax(case, at):
    present_PK = torch.ones_like(case.present_PK)
    log_q_PK, log_rest_P = kept_log_probs(case.logit_PC, case.index_PK, present_PK, at)
    for place, logit_C in enumerate(case.logit_PC.numpy()):
        want_K, want_rest = dense.kept_and_rest(logit_C, case.index_PK[place].tolist(), at)
        dense.assert_log_equal(log_q_PK[place], want_K)
        dense.assert_log_equal(log_rest_P[place], want_rest)


class _Large(TorchDispatchMode):
    """Counts the storages of at least so many bytes that operations make."""

    def __init__(self, size_bytes):
        super().__init__()
        self.size_bytes = size_bytes
        self.made = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for entry in result if isinstance(result, tuple | list) else (result,):
            if isinstance(entry, torch.Tensor):
                storage = entry.untyped_storage()
                if storage.nbytes() >= self.size_bytes:
                    self.made[storage.data_ptr()] += 1
        return result


def _dense_storages(monkeypatch, logits_of, leaf):
    """The storages half as large as the logits that a loss and its gradient make."""
    positions, classes = 256, 512
    monkeypatch.setattr("tasks.nn.row_passes._CACHED_ELEMENTS", 8 * classes)
    monkeypatch.setattr("tasks.nn.row_passes._SMALL_ELEMENTS", 1 << 30)
    monkeypatch.setattr("tasks.nn.projected._BLOCK_ELEMENTS", 16 * classes)
    batch = batch_of(torch.randn(positions, classes), torch.zeros(positions).long(), 8, (2.0, 1.0))
    with _Large(positions * classes * 4 // 2) as forward:
        value = distillation_loss(logits_of(leaf), batch, LossOptions(soft_weight=1.0)).total
    with _Large(positions * classes * 4 // 2) as backward:
        value.backward()
    return set(forward.made), set(backward.made)


def test_the_soft_loss_makes_no_dense_tensor_but_the_gradient(monkeypatch):
    torch.manual_seed(0)
    leaf = torch.randn(256, 512, requires_grad=True)
    forward, backward = _dense_storages(monkeypatch, lambda logits: logits, leaf)
    own = {leaf.untyped_storage().data_ptr()}
    assert forward <= own
    assert backward - own == {leaf.grad.untyped_storage().data_ptr()}


def test_the_output_layer_and_the_soft_loss_make_no_dense_tensor(monkeypatch):
    torch.manual_seed(0)
    hidden_PW = torch.randn(256, 16, requires_grad=True)
    weight_CW = torch.randn(512, 16, requires_grad=True)
    assert _dense_storages(monkeypatch, lambda hidden: Projected(hidden, weight_CW), hidden_PW) == (
        set(),
        set(),
    )


@pytest.mark.gpu
@pytest.mark.parametrize("projected", [False, True])
def test_cuda_gives_what_the_cpu_gives(projected):
    torch.manual_seed(0)
    parts = [torch.randn(300, 32), torch.randn(1000, 32), torch.randn(1000)]
    index_PK = torch.stack([torch.randperm(1000)[:16] for _ in range(300)])
    label_P = torch.randint(0, 1000, (300,))
    results = []
    for device in ("cpu", "cuda"):
        leaves = [part.to(device).requires_grad_() for part in parts]
        logits = Projected(*leaves) if projected else F.linear(*leaves)
        index, label = index_PK.to(device), label_P.to(device)
        found, hard_P = student_and_hard_log_probs(logits, index, index >= 0, 2.0, label, 0.1)
        (found.kept_PK.mean() + found.rest_P.mean() + hard_P.mean()).backward()
        results.append([found.kept_PK, found.rest_P, hard_P, *(leaf.grad for leaf in leaves)])
    for cpu, cuda in zip(*results, strict=True):
        torch.testing.assert_close(cpu, cuda.cpu(), rtol=1e-4, atol=1e-5)
