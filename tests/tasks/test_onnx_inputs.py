"""What a graph is fed: by name or by place, what can be made, and what cannot."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from storage.errors import ModelError
from storage.spec import InputSpec
from tasks.onnx_inputs import require_shapes
from tasks.onnx_options import TensorRtOptions
from tasks.onnx_teacher import OnnxTeacher
from tests.tasks.onnx_graphs import OPSET, chain, options
from tests.tasks.toy import VECTOR

CPU = torch.device("cpu")
IDS = InputSpec(name="input_ids", dtype="int64", shape=None)
MASK = InputSpec(name="attention_mask", dtype="int64", shape=None)
TOKENS = torch.tensor([[3, 1, 2], [5, 0, 0]])
PRESENT = torch.tensor([[1, 1, 1], [1, 0, 0]])
CACHE = ("B", 2, "past", 4)


def language_model(*inputs, cache_shape=CACHE):
    """Logits [B, L, 2]: the sum of all token inputs, and how long the cache is."""
    values = []
    for name in inputs:
        shape = list(cache_shape) if name.startswith("past") else ["B", "L"]
        kind = TensorProto.FLOAT if name.startswith("past") else TensorProto.INT64
        values.append(helper.make_tensor_value_info(name, kind, shape))
    tokens = [name for name in inputs if not name.startswith("past")]
    caches = [name for name in inputs if name.startswith("past")]
    # Each input has a weight of its own, so that none is taken for another.
    nodes, terms = [], []
    for place, name in enumerate(tokens):
        nodes.append(helper.make_node("Cast", [name], [f"{name}.f"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [f"{name}.f", f"w{place}"], [f"{name}.w"]))
        terms.append(f"{name}.w")
    for name in caches:
        nodes.append(helper.make_node("ReduceSum", [name], [f"{name}.w"], keepdims=0))
        terms.append(f"{name}.w")
    nodes.append(helper.make_node("Sum", terms, ["sum"]))
    nodes.append(helper.make_node("Unsqueeze", ["sum", "last"], ["one"]))
    nodes.append(helper.make_node("Concat", ["one", "one"], ["logits"], axis=2))
    weights = [
        numpy_helper.from_array(np.array(10.0**place, np.float32), f"w{place}")
        for place in range(len(tokens))
    ]
    last = numpy_helper.from_array(np.array([2]), "last")
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", "L", 2])
    graph = helper.make_graph(nodes, "toy", values, [output], [*weights, last])
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def logits_of(content, specs, inputs, **said):
    return OnnxTeacher(content, specs, CPU, options(**said)).logits(inputs)[:, 0].reshape(2, 3)


@pytest.mark.parametrize("turned", [False, True])
def test_inputs_go_by_name_where_the_graph_has_all_names(turned):
    names = ["input_ids", "attention_mask"]
    content = language_model(*(reversed(names) if turned else names))
    found = logits_of(content, (IDS, MASK), (TOKENS, PRESENT))
    expected = PRESENT + 10 * TOKENS if turned else TOKENS + 10 * PRESENT
    assert torch.equal(found, expected.float())


def test_positions_and_segments_are_made_and_a_cache_is_empty():
    content = language_model("input_ids", "position_ids", "token_type_ids", "past_key_values.0.key")
    found = logits_of(content, (IDS,), (TOKENS,))
    assert torch.equal(found, (TOKENS + 10 * torch.arange(3)).float())


def test_what_is_made_leaves_the_order_of_the_others():
    content = language_model("position_ids", "tokens", "present")
    found = logits_of(content, (IDS, MASK), (TOKENS, PRESENT))
    assert torch.equal(found, (torch.arange(3) + 10 * TOKENS + 100 * PRESENT).float())


@pytest.mark.parametrize(
    "shape", [("B", 2, 8, 4), ("B", "heads", "past", 4), ("B", 2, "past"), (2, "B", 2, "past", 4)]
)
def test_a_cache_that_cannot_be_empty_is_refused(shape):
    content = language_model("input_ids", "past_key_values.0.value", cache_shape=shape)
    with pytest.raises(ModelError, match=r"past keys and values .*; export the model without"):
        OnnxTeacher(content, (IDS,), CPU)


def test_a_mask_is_not_made_up():
    content = language_model("input_ids", "attention_mask")
    with pytest.raises(ModelError, match=r"also takes 'attention_mask', .* add a column"):
        OnnxTeacher(content, (IDS,), CPU, options(input_names=("input_ids",)))


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_a_graph_of_a_fixed_batch_gets_that_many(count):
    content = chain(helper.make_node("Identity", ["x"], ["out"]), shape=(3, 3))
    teacher = OnnxTeacher(content, (VECTOR,), CPU, options(reduce="graph"))
    x = torch.randn(count, 3)
    assert torch.equal(teacher.logits((x,)), x)
    assert teacher.num_classes == 3


@pytest.mark.parametrize("names", [["input_ids"], ["input_ids", "attention_mask", "other"]])
def test_tensorrt_has_the_shapes_of_all_inputs(names):
    model = onnx.load_model_from_string(language_model("input_ids", "attention_mask"))
    shape = {"min": [1, 1], "opt": [8, 8], "max": [8, 64]}
    said = TensorRtOptions(cache="c", shapes=dict.fromkeys(names, shape))
    with pytest.raises(ModelError, match=r"tensorrt\.shapes: expected .*'attention_mask', 'input"):
        require_shapes(model, said, "teacher")
    both = TensorRtOptions(cache="c", shapes=dict.fromkeys(["input_ids", "attention_mask"], shape))
    require_shapes(model, both, "teacher")


def test_an_input_of_no_number_is_refused():
    text = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["out"])],
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.STRING, ["B", 3])],
        [helper.make_tensor_value_info("out", TensorProto.STRING, ["B", 3])],
    )
    model = helper.make_model(text, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    with pytest.raises(ModelError, match=r"^teacher"):
        OnnxTeacher(onnx.ModelProto.SerializeToString(model), (VECTOR,), CPU)
