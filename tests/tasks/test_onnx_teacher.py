"""ONNX teachers: the same logits from torch and ONNX, and refusals that say what to do."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from storage.errors import ModelError
from tasks.onnx_teacher import OnnxTeacher
from tasks.teachers import TorchTeacher
from tests.tasks.onnx_graphs import WEIGHT, graph, options
from tests.tasks.toy import TOKENS, VECTOR

CPU = torch.device("cpu")
X = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, -1.0]])


def test_torch_and_onnx_give_the_same_logits(mlp, mlp_onnx, token_model, token_onnx):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9, 3, generator=generator)
    tokens = torch.randint(0, 7, (3, 5), generator=generator)
    cases = [(mlp, mlp_onnx, VECTOR, x, (9, 4)), (token_model, token_onnx, TOKENS, tokens, (15, 7))]
    for model, content, spec, inputs, shape in cases:
        by_torch = TorchTeacher(model, (spec,), CPU, "teacher")
        by_onnx = OnnxTeacher(content, (spec,), CPU)
        assert by_torch.num_classes == by_onnx.num_classes == shape[1]
        found = by_onnx.logits((inputs,))
        assert found.shape == shape
        torch.testing.assert_close(found, by_torch.logits((inputs,)), rtol=1e-5, atol=1e-5)


def test_the_only_output_is_taken():
    teacher = OnnxTeacher(graph(), (VECTOR,), CPU)
    assert teacher.num_classes == 4
    np.testing.assert_allclose(teacher.logits((X,)), X.numpy() @ WEIGHT)


def test_a_tensor_inside_the_graph_can_be_named():
    content = graph("probabilities", "Softmax")
    teacher = OnnxTeacher(content, (VECTOR,), CPU, options(output="scores"))
    np.testing.assert_allclose(teacher.logits((X,)), X.numpy() @ WEIGHT)


@pytest.mark.parametrize("kind", [TensorProto.DOUBLE, TensorProto.FLOAT16])
def test_inputs_become_what_the_graph_takes(kind):
    teacher = OnnxTeacher(graph(kind=kind), (VECTOR,), CPU)
    found = teacher.logits((X,))
    wide = {TensorProto.DOUBLE: torch.float64, TensorProto.FLOAT16: torch.float32}
    assert found.dtype == wide[kind]
    np.testing.assert_allclose(found.double(), X.double().numpy() @ WEIGHT)


def test_inputs_go_by_name_where_names_are_given():
    nodes = [helper.make_node("Sub", ["a", "b"], ["scores"])]
    made = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 3]) for name in "ab"],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["B", 3])],
    )
    content = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    ).SerializeToString()
    specs = (VECTOR, VECTOR)
    plain = OnnxTeacher(content, specs, CPU).logits((X, 2 * X))
    turned = OnnxTeacher(content, specs, CPU, options(input_names=("b", "a"))).logits((X, 2 * X))
    assert torch.equal(plain, -X)
    assert torch.equal(turned, X)


@pytest.mark.parametrize(
    ("content", "said", "message"),
    [
        (
            graph("p", "Softmax"),
            {},
            r"output: 'p' is the result of a softmax, .*probabilities, .* it: 'scores'$",
        ),
        (graph("p", "Sigmoid"), {}, r"output: 'p' is the result of a Sigmoid: .*multi-label"),
        (graph(), {"output": "other"}, r"has no tensor 'other'; its outputs are \['scores'\]"),
        (graph(), {"output": "weight"}, "has no tensor 'weight'"),
        (
            graph("p", "Relu", outputs=("p", "scores")),
            {},
            r"has the outputs \['p', 'scores'\]; name",
        ),
        (graph(inputs=("x", "y")), {}, r"also takes 'y', the data give \['x'\]; add a column"),
        (graph(), {"input_names": ("x", "x")}, r"input_names: the graph has the inputs \['x'\]"),
        (graph(), {"input_names": ("z",)}, r"input_names: the graph has the inputs \['x'\]"),
        (b"", {}, "this is no readable ONNX model"),
        (b"PK\x03\x04 not a model", {}, "this is no readable ONNX model"),
        (graph()[:40], {}, "this is no readable ONNX model"),
    ],
)
def test_what_cannot_work_is_one_clear_error(content, said, message, capfd):
    with pytest.raises(ModelError, match=message) as caught:
        OnnxTeacher(content, (VECTOR,), CPU, options(**said))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("teacher")
    assert capfd.readouterr() == ("", "")


def test_logits_of_another_rank_are_refused():
    reduced = onnx.load_model_from_string(graph("sums", "ReduceSum", classes_rank=()))
    reduced.graph.node[1].attribute.append(helper.make_attribute("keepdims", 0))
    with pytest.raises(ModelError, match=r"teacher\.output: 'sums' has shape \(\), expected"):
        OnnxTeacher(reduced.SerializeToString(), (VECTOR,), CPU)


@pytest.mark.gpu
def test_cuda_gives_the_logits_of_the_cpu(mlp, mlp_onnx):
    x = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    cuda = torch.device("cuda")
    expected = TorchTeacher(mlp, (VECTOR,), CPU, "teacher").logits((x,))
    for teacher in (
        OnnxTeacher(mlp_onnx, (VECTOR,), cuda),
        TorchTeacher(mlp, (VECTOR,), cuda, "teacher"),
    ):
        torch.testing.assert_close(teacher.logits((x,)).cpu(), expected, rtol=1e-4, atol=1e-4)
    mlp.cpu()
