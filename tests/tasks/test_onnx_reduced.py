"""What a graph reduces is what `reduce_logits` makes of its logits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper

from storage.options import Keep, Selection
from storage.spec import InputSpec
from tasks.nn.reduction import Reduction, reduce_logits
from tasks.nn.softlabels import top_k
from tasks.onnx_teacher import OnnxTeacher
from tasks.teachers import ReducingTeacher, TorchTeacher
from tests.tasks.onnx_graphs import chain, graph, options
from tests.tasks.toy import TOKENS, VECTOR

CPU = torch.device("cpu")
NUM_CLASSES = 6
SEVEN = InputSpec(name="x", dtype="float32", shape=(NUM_CLASSES,))
TEMPERATURES = (2.0, 1.0, 4.0, 0.5)


def identity(**values):
    return chain(helper.make_node("Identity", ["x"], ["out"]), **values)


def teacher_of(content, spec=SEVEN, **said):
    return OnnxTeacher(content, (spec,), CPU, options(reduce="graph", **said))


@pytest.fixture(scope="module")
def mirror():
    return teacher_of(identity())


def same(found, expected, logit_PC):
    """Labels within 1e-5, and of equal logits those of the lower id."""
    good_R = ~expected.bad_R
    assert torch.equal(found.bad_R, expected.bad_R)
    assert torch.equal(found.best_R[good_R], expected.best_R[good_R])
    kept, reference = found.kept, expected.kept
    value_PK = logit_PC.gather(1, kept.index_PK)[good_R]
    expected_PK = logit_PC.gather(1, reference.index_PK)[good_R]
    assert torch.equal(value_PK, expected_PK)
    for values, ids in zip(value_PK, kept.index_PK[good_R], strict=True):
        assert len(set(ids.tolist())) == len(ids)
        equal = values[1:] == values[:-1]
        assert (ids[1:][equal] > ids[:-1][equal]).all()
    pairs = [
        (kept.logit_PK, reference.logit_PK),
        (kept.rest_PT, reference.rest_PT),
        (found.fidelity.retained_PT, expected.fidelity.retained_PT),
        (found.fidelity.truncation_PT, expected.fidelity.truncation_PT),
    ]
    if reference.label_logit_P is not None:
        pairs.append((kept.label_logit_P, reference.label_logit_P))
    assert kept.statistics.keys() == reference.statistics.keys()
    pairs += [(kept.statistics[name], reference.statistics[name]) for name in kept.statistics]
    for ours, theirs in pairs:
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours[good_R], theirs[good_R], rtol=1e-5, atol=1e-5)


def check(teacher, inputs, reduction, label_P=None, real_P=None):
    logit_PC = teacher.logits(inputs)
    real_P = torch.ones(len(logit_PC), dtype=torch.bool) if real_P is None else real_P
    found = teacher.reduced(inputs, real_P, label_P, reduction)
    assert found is not None
    same(found, reduce_logits(logit_PC, real_P, label_P, reduction), logit_PC[real_P])
    return found


ORDINARY = st.floats(-30, 30, width=32)
LEGAL = st.one_of(
    ORDINARY,
    st.sampled_from([0.0, 1.0, 1.0, -np.inf, 1e-30, -125.0]),
    st.floats(-1e6, 1e6, width=32),
)


@settings(max_examples=150, deadline=None)
@given(arrays(np.float32, (3, NUM_CLASSES), elements=LEGAL), st.integers(1, NUM_CLASSES), st.data())
def test_any_logits(mirror, logits, k, data):
    labels = st.lists(st.integers(-1, NUM_CLASSES - 1), min_size=3, max_size=3)
    label_P = torch.tensor(data.draw(labels))
    reduction = Reduction(top_k(k), TEMPERATURES, NUM_CLASSES)
    check(mirror, (torch.from_numpy(logits),), reduction, label_P)


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float32, (2, NUM_CLASSES), elements=st.one_of(ORDINARY, st.just(-np.inf))),
    st.integers(1, 4),
)
def test_padding_and_statistics(mirror, logits, k):
    logits[:, 0] = 1.0
    reduction = Reduction(top_k(k), (1.0,), NUM_CLASSES - 2, statistics=True)
    found = check(mirror, (torch.from_numpy(logits),), reduction)
    assert int(found.kept.index_PK.max()) < NUM_CLASSES - 2


def test_a_peaked_teacher_keeps_its_rest(mirror):
    logits = torch.tensor([[0.0, -125.0, -1e4, -1e4, -1e4, -1e4]])
    found = check(mirror, (logits,), Reduction(top_k(1), (1.0,), NUM_CLASSES))
    assert found.kept.rest_PT.item() == -125.0


def test_nothing_is_left_of_all_classes(mirror):
    selection = Selection(keep=Keep.ALL, k=NUM_CLASSES)
    found = check(mirror, (torch.randn(3, 6),), Reduction(selection, (2.0, 1.0), NUM_CLASSES))
    assert torch.isneginf(found.kept.rest_PT).all()
    assert (found.fidelity.truncation_PT == 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", range(NUM_CLASSES))
def test_positions_that_are_bad_are_told(mirror, bad, place):
    logits = torch.arange(18.0).reshape(3, 6)
    logits[1, place] = bad
    reduction = Reduction(top_k(2), TEMPERATURES, NUM_CLASSES - 1)
    found = check(mirror, (logits,), reduction)
    assert found.bad_R.tolist() == [False, True, False]


def test_a_position_without_any_logit_is_bad(mirror):
    logits = torch.zeros(2, 6)
    logits[0] = -torch.inf
    found = check(mirror, (logits,), Reduction(top_k(2), (1.0,), NUM_CLASSES))
    assert found.bad_R.tolist() == [True, False]


def test_selections_and_labels_follow_each_other(mirror):
    """One session serves any k; another layout loads another, and logits are had from both."""
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    for k, label_P in ((2, None), (5, None), (3, torch.tensor([0, 5, -100, 2])), (1, None)):
        check(mirror, (logits,), Reduction(top_k(k), (1.0, 2.0), NUM_CLASSES), label_P)
        assert torch.equal(mirror.logits((logits,)), logits)


@pytest.mark.parametrize(
    "selection",
    [
        Selection(keep=Keep.TOP_P, k=3, p=0.9),
        Selection(keep=Keep.SAMPLE, k=3, draws=3),
    ],
)
def test_other_selections_are_left_to_the_logits(mirror, selection):
    found = mirror.reduced(
        (torch.randn(2, 6),), torch.ones(2, dtype=torch.bool), None, Reduction(selection, (1.0,), 6)
    )
    assert found is None


def test_a_temperature_of_each_position_is_left_to_the_logits(mirror):
    reduction = Reduction(top_k(3), (1.0, "std"), 6)
    there_P = torch.ones(2, dtype=torch.bool)
    assert mirror.reduced((torch.randn(2, 6),), there_P, None, reduction) is None


def test_models_that_were_exported(mlp, mlp_onnx, token_model, token_onnx):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(9, 3, generator=generator)
    tokens = torch.randint(0, 7, (3, 5), generator=generator)
    real_P = torch.tensor([True] * 4 + [False] + [True] * 10)
    cases = [
        (mlp, mlp_onnx, VECTOR, x, 4, torch.ones(9, dtype=torch.bool)),
        (token_model, token_onnx, TOKENS, tokens, 7, real_P),
    ]
    for model, content, spec, inputs, num_classes, real in cases:
        teacher = teacher_of(content, spec)
        assert isinstance(teacher, ReducingTeacher)
        label_P = torch.arange(len(real)) % num_classes
        reduction = Reduction(top_k(2), TEMPERATURES, num_classes, statistics=True)
        found = check(teacher, (inputs,), reduction, label_P, real)
        logit_PC = TorchTeacher(model, (spec,), CPU, "teacher").logits((inputs,))
        by_torch = reduce_logits(logit_PC, real, label_P, reduction)
        assert torch.equal(found.kept.index_PK, by_torch.kept.index_PK)
        for ours, theirs in (
            (found.kept.logit_PK, by_torch.kept.logit_PK),
            (found.kept.rest_PT, by_torch.kept.rest_PT),
            (found.kept.label_logit_P, by_torch.kept.label_logit_P),
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("opset", [7, 9, 11, 12, 13, 17, 18, 21])
def test_older_and_newer_operators(opset):
    teacher = teacher_of(identity(opset=opset))
    logits = torch.randn(3, 6, generator=torch.Generator().manual_seed(opset))
    reduction = Reduction(top_k(2), TEMPERATURES, NUM_CLASSES, statistics=True)
    check(teacher, (logits,), reduction, torch.tensor([1, -1, 5]))


@pytest.mark.parametrize("kind", [TensorProto.DOUBLE, TensorProto.FLOAT16])
def test_other_precisions(kind):
    teacher = teacher_of(graph(kind=kind), VECTOR)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    check(teacher, (x,), Reduction(top_k(2), TEMPERATURES, 4), torch.arange(5) % 4)


@pytest.mark.parametrize(("said", "in_graph"), [("auto", False), ("torch", False), ("graph", True)])
def test_on_the_cpu_a_graph_reduces_where_it_is_said(mlp_onnx, said, in_graph):
    teacher = OnnxTeacher(mlp_onnx, (VECTOR,), CPU, options(reduce=said))
    real_P = torch.ones(2, dtype=torch.bool)
    found = teacher.reduced((torch.zeros(2, 3),), real_P, None, Reduction(top_k(2), (1.0,), 4))
    assert (found is not None) == in_graph


@pytest.mark.gpu
def test_cuda_reduces_as_the_cpu_does(mlp_onnx, token_onnx):
    generator = torch.Generator().manual_seed(3)
    cases = [
        (mlp_onnx, VECTOR, torch.randn(9, 3, generator=generator), 4, 9),
        (token_onnx, TOKENS, torch.randint(0, 7, (3, 5), generator=generator), 7, 15),
    ]
    for content, spec, inputs, num_classes, positions in cases:
        cuda = OnnxTeacher(content, (spec,), torch.device("cuda"))
        logit_PC = OnnxTeacher(content, (spec,), CPU).logits((inputs,))
        real_P = torch.ones(positions, dtype=torch.bool)
        label_P = torch.arange(positions) % num_classes
        reduction = Reduction(top_k(2), TEMPERATURES, num_classes, statistics=True)
        found = cuda.reduced((inputs,), real_P, label_P, reduction)
        assert found is not None
        assert found.kept.index_PK.device.type == "cuda"
        expected = reduce_logits(logit_PC, real_P, label_P, reduction)
        for ours, theirs in (
            (found.kept.logit_PK, expected.kept.logit_PK),
            (found.kept.rest_PT, expected.kept.rest_PT),
            (found.fidelity.truncation_PT, expected.fidelity.truncation_PT),
        ):
            torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-4, atol=1e-4)
