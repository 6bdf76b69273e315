"""Small ONNX graphs, written by hand."""

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tasks.onnx_options import OnnxTeacherOptions

WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4) / 8
OPSET = 18


def options(**values: Any) -> OnnxTeacherOptions:
    """What a recipe says."""
    return OnnxTeacherOptions.model_validate({"kind": "onnx", "path": "m.onnx", **values})


def graph(
    output="scores",
    last=None,
    inputs=("x",),
    outputs=None,
    kind=TensorProto.FLOAT,
    classes_rank=("B", 4),
):
    """x @ WEIGHT as `scores`, then perhaps one more operation, as an ONNX file."""
    nodes = [helper.make_node("MatMul", [inputs[0], "weight"], ["scores"])]
    if last is not None:
        nodes.append(helper.make_node(last, ["scores"], [output]))
    made = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info(name, kind, ["B", 3]) for name in inputs],
        [
            helper.make_tensor_value_info(name, kind, list(classes_rank))
            for name in (outputs or (output,))
        ],
        [numpy_helper.from_array(WEIGHT.astype(helper.tensor_dtype_to_np_dtype(kind)), "weight")],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return model.SerializeToString()


def chain(
    *steps: Any,
    opset: int = OPSET,
    kind: int = TensorProto.FLOAT,
    shape: tuple[Any, ...] = ("B", "C"),
    initializers: tuple[Any, ...] = (),
    output: str = "out",
    output_shape: tuple[Any, ...] = ("P", "N"),
) -> bytes:
    """The input `x` of a shape, and the given nodes; the last one makes `output`."""
    made = helper.make_graph(
        list(steps),
        "toy",
        [helper.make_tensor_value_info("x", kind, list(shape))],
        [helper.make_tensor_value_info(output, kind, list(output_shape))],
        list(initializers),
    )
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(made, opset_imports=opsets, ir_version=8)
    return model.SerializeToString()
