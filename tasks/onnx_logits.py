"""Which tensor of an ONNX graph holds the logits; a softmax that it ends in is taken off.

Exporters write a softmax as one node, or as what it is made of: exp(x - max x) / sum. Around it
there may be casts and changes of shape; those of shape are done to the logits instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto, helper

from storage.errors import ModelError
from tasks.onnx_options import PROBABILITIES

_SAME_NUMBERS = ("Identity", "Cast", "Dropout")
_OTHER_SHAPE = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose")
_SPREAD = (*_SAME_NUMBERS, *_OTHER_SHAPE, "Expand", "Max")
_SIGMOIDS = ("Sigmoid", "HardSigmoid")
_LOWEST = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
NAMESPACE = "softlabel/"
"""What the tensors that are added to a graph begin with."""


@dataclass(frozen=True)
class Logits:
    """Where a graph's logits are.

    Attributes:
        tensor: the output that holds them; the only one that is left.
        named: what the recipe names.
        origin: in words, how they come from what the graph gives.
        double: whether they are float64, else float32.
        probabilities: what their softmax must be equal to, where a softmax was taken off.
    """

    tensor: str
    named: str
    origin: str
    double: bool
    probabilities: str | None = None


def expose_logits(model: Any, output: str | None, where: str) -> Logits:
    """Make the logits the only output of a graph, as float32 or float64.

    Args:
        model: is changed.
        output: an output or inner tensor; `probabilities` of a model that ends in a softmax; or
            None for the only output.
        where: the field of the recipe, for messages.

    Raises:
        ModelError: there is no such tensor, or it holds no logits.
    """
    nodes = _Nodes(model)
    wants_probabilities = output == PROBABILITIES
    named = _named_output(model, nodes, output, where)
    path, end = nodes.trace(named)
    if end.op_type in _SIGMOIDS:
        raise ModelError(
            f"{where}.output: {named!r} is the result of a {end.op_type}: one decision for each "
            "class, multi-label, which softlabel does not distil; bring a model with one softmax "
            "over all classes"
        )
    inner = nodes.softmax_input(end)
    probabilities = None
    if inner is not None and not wants_probabilities:
        raise ModelError(
            f"{where}.output: {named!r} is the result of a softmax, expected logits; say output: "
            f"{PROBABILITIES}, or name the tensor before it: {inner!r}"
        )
    if inner is not None:
        tensor, origin = _follow(model, path, inner), f"{inner}, which the softmax of {named} takes"
        probabilities = named
    elif wants_probabilities and end.op_type == "LogSoftmax":
        tensor, origin = named, f"{named}, logarithms already"
    elif wants_probabilities:
        tensor, origin = _logarithm(model, named), f"log({named}), for no softmax was found"
    else:
        tensor, origin = named, named
    kind = _element_type(model, tensor)
    if kind != TensorProto.DOUBLE:
        tensor = _append(model, "Cast", tensor, "logits", to=TensorProto.FLOAT)
        kind = TensorProto.FLOAT
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(tensor, kind, None))
    return Logits(tensor, named, origin, kind == TensorProto.DOUBLE, probabilities)


def with_probabilities(model: Any, logits: Logits) -> str:
    """Make what the graph gave before an output again, beside the logits; the output's name."""
    assert logits.probabilities is not None
    tensor = _append(model, "Cast", logits.probabilities, "probabilities", to=TensorProto.FLOAT)
    model.graph.output.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None))
    return tensor


class _Nodes:
    """The nodes of a graph, by what they make."""

    def __init__(self, model: Any) -> None:
        self.made = {name: node for node in model.graph.node for name in node.output if name}

    def trace(self, tensor: str) -> tuple[list[Any], Any]:
        """The casts and changes of shape that end in a tensor, the last first; what they take."""
        path = []
        node = self.made[tensor]
        while node.op_type in (*_SAME_NUMBERS, *_OTHER_SHAPE) and node.input[0] in self.made:
            path.append(node)
            node = self.made[node.input[0]]
        return path, node

    def softmax_input(self, node: Any) -> str | None:
        """What goes into the softmax that ends in `node`, if it is one."""
        if node.op_type == "Softmax":
            return str(node.input[0])
        if node.op_type == "Exp":
            inner = self._before(node.input[0], _SAME_NUMBERS)
            return str(inner.input[0]) if inner and inner.op_type == "LogSoftmax" else None
        if node.op_type != "Div":
            return None
        weight, total = (self._before(name, _SPREAD) for name in node.input)
        if weight is None or total is None or weight.op_type != "Exp":
            return None
        if total.op_type != "ReduceSum" or self._before(total.input[0], _SAME_NUMBERS) != weight:
            return None
        return self._unshifted(weight.input[0])

    def _unshifted(self, tensor: str) -> str:
        """X where the tensor is x - max x; else the tensor."""
        shift = self.made.get(tensor)
        if shift is None or shift.op_type != "Sub":
            return tensor
        largest = self._before(shift.input[1], _SPREAD)
        if largest and largest.op_type == "ReduceMax" and largest.input[0] == shift.input[0]:
            return str(shift.input[0])
        return tensor

    def _before(self, tensor: str, passed: tuple[str, ...]) -> Any:
        """The node that makes a tensor, before those that only pass it on."""
        node = self.made.get(tensor)
        while node is not None and node.op_type in passed:
            made = [self.made[name] for name in node.input if name in self.made]
            node = made[0] if made else None
        return node


def _named_output(model: Any, nodes: _Nodes, output: str | None, where: str) -> str:
    outputs = [entry.name for entry in model.graph.output]
    if output is not None and output in nodes.made:
        return output
    if output is None or output == PROBABILITIES:
        if len(outputs) == 1 and outputs[0] in nodes.made:
            return str(outputs[0])
        raise ModelError(
            f"{where}.output: the graph has the outputs {outputs}; name the one that holds the "
            "logits"
        )
    raise ModelError(
        f"{where}.output: the graph has no tensor {output!r}; its outputs are {outputs}"
    )


def _follow(model: Any, path: list[Any], tensor: str) -> str:
    """Do to a tensor what `path` does to the shape of another, the last step first in it."""
    for step, node in enumerate(reversed(path)):
        if node.op_type not in _OTHER_SHAPE:
            continue
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = copy.output[0] = f"{NAMESPACE}shape-{step}"
        copy.input[0] = tensor
        model.graph.node.append(copy)
        tensor = copy.output[0]
    return tensor


def _logarithm(model: Any, tensor: str) -> str:
    if _element_type(model, tensor) in _LOWEST:
        tensor = _append(model, "Cast", tensor, "wide", to=TensorProto.FLOAT)
    return _append(model, "Log", tensor, "log")


def _append(model: Any, op_type: str, tensor: str, name: str, **attributes: Any) -> str:
    made = NAMESPACE + name
    model.graph.node.append(helper.make_node(op_type, [tensor], [made], **attributes))
    return made


def _element_type(model: Any, tensor: str) -> int:
    """What a tensor's elements are, as far as the graph says or lets us infer; else 0."""
    for infer in (False, True):
        graph = onnx.shape_inference.infer_shapes(model).graph if infer else model.graph
        for entry in (*graph.output, *graph.value_info, *graph.input):
            if entry.name == tensor and entry.type.tensor_type.elem_type:
                return int(entry.type.tensor_type.elem_type)
    return 0
