"""Where a graph's logits are: a softmax in any of its forms is taken off, and what it is not."""

import numpy as np
import pytest
import torch
from onnx import helper, numpy_helper

from storage.errors import ModelError
from storage.spec import InputSpec
from tasks.onnx_teacher import OnnxTeacher
from tests.tasks.onnx_graphs import chain, options

CPU = torch.device("cpu")
SPEC = InputSpec(name="x", dtype="float32", shape=(5,))
BLOCK = InputSpec(name="x", dtype="float32", shape=(5, 3))
X = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
X_BLOCK = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(1))
BY_TWO = helper.make_node("Add", ["x", "x"], ["logits"])
AXES = numpy_helper.from_array(np.array([1]), "axes")
TEMPERED = numpy_helper.from_array(np.array(0.5, np.float32), "tempered")


def node(op_type, inputs, outputs="out", **attributes):
    return helper.make_node(op_type, inputs.split(), [outputs], **attributes)


def expanded(*, shifted=True, kept=1):
    """exp(x - max x) / sum, as some exporters write it."""
    steps = [node("ReduceMax", "logits", "max", axes=[1], keepdims=1)]
    steps += [node("Identity", "max", "spread"), node("Sub", "logits spread", "shifted")]
    inside = "shifted" if shifted else "logits"
    steps = steps if shifted else []
    return [
        BY_TWO,
        *steps,
        node("Exp", inside, "weight"),
        node("ReduceSum", "weight axes", "sum", keepdims=kept),
        node("Div", "weight sum"),
    ]


def as_logits(said, spec, *steps, **values):
    return OnnxTeacher(chain(*steps, **values), (spec,), CPU, options(**said))


PROBABILITIES = {"output": "probabilities"}


@pytest.mark.parametrize(
    "steps",
    [
        [BY_TWO, node("Softmax", "logits", axis=-1)],
        [BY_TWO, node("Softmax", "logits", "p"), node("Identity", "p")],
        [BY_TWO, node("Softmax", "logits", "p"), node("Cast", "p", to=1)],
        [BY_TWO, node("LogSoftmax", "logits", "log_p"), node("Exp", "log_p")],
        expanded(),
        expanded(shifted=False),
    ],
)
def test_a_softmax_is_taken_off_in_any_form(steps):
    values = {"initializers": (AXES,), "opset": 17}
    teacher = as_logits(PROBABILITIES, SPEC, *steps, **values)
    assert teacher.origin == "logits, which the softmax of out takes"
    assert torch.equal(teacher.logits((X,)), 2 * X)
    with pytest.raises(ModelError, match="name the tensor before it: 'logits'"):
        as_logits({}, SPEC, *steps, **values)
    named = as_logits({"output": "logits"}, SPEC, *steps, **values)
    assert torch.equal(named.logits((X,)), 2 * X)


def test_changes_of_shape_behind_a_softmax_are_done_to_the_logits():
    """Exporters write a softmax over another axis as two transpositions and one over the last."""
    steps = [
        node("Transpose", "x", "turned", perm=[0, 2, 1]),
        node("Softmax", "turned", "p", axis=-1),
        node("Transpose", "p", "back", perm=[0, 2, 1]),
        node("Transpose", "back", perm=[0, 2, 1]),
    ]
    teacher = as_logits(PROBABILITIES, BLOCK, *steps, shape=("B", 5, 3), output_shape=("B", 3, 5))
    assert torch.equal(teacher.logits((X_BLOCK,)), X_BLOCK.transpose(1, 2).reshape(-1, 5))


def test_a_softmax_over_another_axis_is_refused():
    steps = [BY_TWO, node("Softmax", "logits", axis=1)]
    with pytest.raises(ModelError, match=r"over the last axis the softmax of logits, .* is not"):
        as_logits(PROBABILITIES, BLOCK, *steps, shape=("B", 5, 3), output_shape=("B", 5, 3))


def test_of_an_output_without_a_softmax_the_logarithm_is_taken():
    """x^2 / sum x^2: probabilities of another kind, some of them 0."""
    steps = [
        node("Mul", "x x", "square"),
        node("ReduceSum", "square axes", "sum", keepdims=1),
        node("Div", "square sum"),
    ]
    teacher = as_logits(PROBABILITIES, SPEC, *steps, initializers=(AXES,))
    assert teacher.origin == "log(out), for no softmax was found"
    x = torch.tensor([[0.0, 1.0, 2.0, 2.0, 1.0]])
    expected = torch.tensor([[-torch.inf, *np.log(np.array([1, 4, 4, 1]) / 10)]])
    torch.testing.assert_close(teacher.logits((x,)), expected.float())


def test_probabilities_that_come_from_elsewhere_are_told_by_what_they_are():
    """Shares of (x + 1): no softmax in the graph, and they sum to 1."""
    one = numpy_helper.from_array(np.array(1, np.float32), "one")
    steps = [
        node("Add", "x one", "more"),
        node("ReduceSum", "more axes", "sum", keepdims=1),
        node("Div", "more sum"),
    ]
    with pytest.raises(ModelError, match=r"'out' holds probabilities, .* output: probabilities to"):
        as_logits({}, SPEC, *steps, initializers=(AXES, one))


def test_log_probabilities_are_logits():
    steps = [BY_TWO, node("LogSoftmax", "logits", axis=-1)]
    for said in ({}, PROBABILITIES):
        found = as_logits(said, SPEC, *steps).logits((X,))
        torch.testing.assert_close(found, torch.log_softmax(2 * X, dim=1))


@pytest.mark.parametrize(
    "steps",
    [
        [node("Sigmoid", "x")],
        [node("Sigmoid", "x", "p"), node("Cast", "p", to=1)],
        [node("HardSigmoid", "x", "p"), node("Identity", "p")],
    ],
)
@pytest.mark.parametrize("said", [{}, PROBABILITIES, {"output": "out"}])
def test_several_decisions_are_no_softmax(steps, said):
    with pytest.raises(ModelError, match=r"teacher\.output: 'out' .* multi-label, .* one softmax"):
        as_logits(said, SPEC, *steps)


def test_a_quotient_that_is_no_softmax_is_logits():
    steps = [BY_TWO, node("Exp", "logits", "weight"), node("Div", "weight tempered")]
    teacher = as_logits({}, SPEC, *steps, initializers=(TEMPERED,))
    torch.testing.assert_close(teacher.logits((X,)), (2 * X).exp() / 0.5)
