"""The reduction of logits as nodes of an ONNX graph, so that k numbers, not C, leave the device.

The graph gives sums relative to the largest class that is not kept; what is left to do on [P, K]
and [P, T] is done in torch. The rest is never computed as 1 - sum, nor relative to the best class:
beside a peaked teacher it would vanish.

Shape letters: P positions, C classes, K kept, T temperatures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tasks.onnx_logits import NAMESPACE

K: Final = f"{NAMESPACE}k"
LABEL: Final = f"{NAMESPACE}label"
INDEX: Final = f"{NAMESPACE}index"
VALUE: Final = f"{NAMESPACE}value"
LARGEST: Final = f"{NAMESPACE}largest"
MASS: Final = f"{NAMESPACE}mass"
MOMENT: Final = f"{NAMESPACE}moment"
BEST: Final = f"{NAMESPACE}best"
LABEL_VALUE: Final = f"{NAMESPACE}label_value"
STATISTICS: Final = f"{NAMESPACE}statistics"

_OLDEST_OPSET = 11
"""TopK and ScatterElements as they are used here; older graphs are upgraded."""
_UPGRADED_TO = 13
_SUM_TAKES_AXES = 13
_OTHERS_TAKE_AXES = 18
_LOWEST: Final = -1e30
"""Stands for -inf where it is multiplied by its weight, which is 0."""


@dataclass(frozen=True)
class Layout:
    """What the nodes depend on; K is an input of the graph.

    Attributes:
        temperatures: T first.
        num_classes: the real classes.
        teacher_classes: C, with padding.
        has_label: whether hard labels are looked up.
        statistics: whether moments of the logits are given.
        double: whether logits are float64, else float32.
    """

    temperatures: tuple[float, ...]
    num_classes: int
    teacher_classes: int
    has_label: bool
    statistics: bool
    double: bool

    @property
    def outputs(self) -> dict[str, int | None]:
        """The outputs [P, n] by name, with n; K is None."""
        times = len(self.temperatures)
        found = {INDEX: None, VALUE: None, LARGEST: 1, MASS: times, MOMENT: times}
        found |= {BEST: 1} if self.num_classes < self.teacher_classes else {}
        found |= {LABEL_VALUE: 1} if self.has_label else {}
        return found | ({STATISTICS: 4} if self.statistics else {})


def is_whole(name: str) -> bool:
    """Whether an output holds class ids, int64, rather than logits."""
    return name in (INDEX, BEST)


def upgraded(model: Any) -> Any | None:
    """The model, in an operator set that knows what `append_reduction` adds; None if none does."""
    if opset_of(model) >= _OLDEST_OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, _UPGRADED_TO)
    except RuntimeError:
        return None


def opset_of(model: Any) -> int:
    """The version of ONNX's own operators that a model uses."""
    return max(
        int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")
    )


def append_reduction(model: Any, logits: str, layout: Layout) -> None:
    """Append the reduction of a tensor [P, C] or [B, L, C] to a graph, with its outputs.

    Inputs are added: K [1] int64, and LABEL [P, 1] int64, not negative, where there are labels.
    """
    _Appended(model, layout).reduce(logits)
    graph = model.graph
    graph.input.append(helper.make_tensor_value_info(K, TensorProto.INT64, [1]))
    if layout.has_label:
        graph.input.append(helper.make_tensor_value_info(LABEL, TensorProto.INT64, ["P", 1]))
    number = TensorProto.DOUBLE if layout.double else TensorProto.FLOAT
    for name, columns in layout.outputs.items():
        kind = TensorProto.INT64 if is_whole(name) else number
        shape = ["P", "K" if columns is None else columns]
        graph.output.append(helper.make_tensor_value_info(name, kind, shape))


class _Appended:
    """Adds nodes to a graph, in its own operator set."""

    def __init__(self, model: Any, layout: Layout) -> None:
        self._graph = model.graph
        self._opset = opset_of(model)
        self._layout = layout
        self._dtype = np.dtype(np.float64 if layout.double else np.float32)
        self._count = 0

    def reduce(self, logits: str) -> None:
        """All outputs of the layout."""
        layout = self._layout
        flat_PC = self._add("Flatten", logits, axis=-1)
        self._kept(flat_PC)
        infinite = numpy_helper.from_array(np.asarray([-np.inf], self._dtype))
        infinite_PK = self._add("ConstantOfShape", self._add("Shape", INDEX), value=infinite)
        others_PC = self._add("ScatterElements", flat_PC, INDEX, infinite_PK, axis=1)
        self._reduce("ReduceMax", others_PC, LARGEST)
        none_P1 = self._add("Equal", LARGEST, self._number(-np.inf))
        safe_P1 = self._add("Where", none_P1, self._number(0), LARGEST)
        below_PC = self._add("Sub", others_PC, safe_P1)
        below_PC = self._add("Max", below_PC, self._number(_LOWEST))
        sums = [self._at(below_PC, temperature) for temperature in layout.temperatures]
        self._add("Concat", *(mass for mass, _ in sums), made=MASS, axis=1)
        self._add("Concat", *(moment for _, moment in sums), made=MOMENT, axis=1)
        if BEST in layout.outputs:
            self._add("ArgMax", flat_PC, made=BEST, axis=1, keepdims=1)
        if layout.has_label:
            self._add("GatherElements", flat_PC, LABEL, made=LABEL_VALUE, axis=1)
        if layout.statistics:
            self._statistics(flat_PC)

    def _kept(self, flat_PC: str) -> None:
        """The K largest of the real classes; of equal ones those of the lower id."""
        layout = self._layout
        real_PC = flat_PC
        if layout.num_classes < layout.teacher_classes:
            start, end, axis = (self._integers(each) for each in (0, layout.num_classes, 1))
            real_PC = self._add("Slice", flat_PC, start, end, axis)
        node = helper.make_node("TopK", [real_PC, K], [VALUE, INDEX], axis=1, sorted=1)
        self._graph.node.append(node)

    def _at(self, below_PC: str, temperature: float) -> tuple[str, str]:
        """Of exp(x / T) the sum, and the sum weighted by x / T; [P, 1] each."""
        scaled_PC = below_PC
        if temperature != 1:
            scaled_PC = self._add("Div", below_PC, self._number(temperature))
        weight_PC = self._add("Exp", scaled_PC)
        moment_PC = self._add("Mul", weight_PC, scaled_PC)
        return self._reduce("ReduceSum", weight_PC), self._reduce("ReduceSum", moment_PC)

    def _statistics(self, flat_PC: str) -> None:
        """The largest logit, mean and deviation of the finite ones, and the sum of p squared."""
        zero = self._number(0)
        infinite_PC = self._add("Equal", flat_PC, self._number(-np.inf))
        finite_PC = self._add("Where", infinite_PC, zero, self._number(1))
        count_P1 = self._reduce("ReduceSum", finite_PC)
        there_PC = self._add("Where", infinite_PC, zero, flat_PC)
        mean_P1 = self._add("Div", self._reduce("ReduceSum", there_PC), count_P1)
        centred_PC = self._add("Where", infinite_PC, zero, self._add("Sub", flat_PC, mean_P1))
        square_PC = self._add("Mul", centred_PC, centred_PC)
        spread_P1 = self._add("Div", self._reduce("ReduceSum", square_PC), count_P1)
        largest_P1 = self._reduce("ReduceMax", flat_PC)
        weight_PC = self._add("Exp", self._add("Sub", flat_PC, largest_P1))
        total_P1 = self._reduce("ReduceSum", weight_PC)
        share_PC = self._add("Div", weight_PC, total_P1)
        squares_P1 = self._reduce("ReduceSum", self._add("Mul", share_PC, share_PC))
        deviation_P1 = self._add("Sqrt", spread_P1)
        columns = (largest_P1, mean_P1, deviation_P1, squares_P1)
        self._add("Concat", *columns, made=STATISTICS, axis=1)

    def _reduce(self, op_type: str, tensor: str, made: str | None = None) -> str:
        """Over the last axis, which stays as 1."""
        since = _SUM_TAKES_AXES if op_type == "ReduceSum" else _OTHERS_TAKE_AXES
        if self._opset >= since:
            return self._add(op_type, tensor, self._integers(1), made=made, keepdims=1)
        return self._add(op_type, tensor, made=made, axes=[1], keepdims=1)

    def _add(self, op_type: str, *inputs: str, made: str | None = None, **attributes: Any) -> str:
        made = made or self._name(op_type)
        self._graph.node.append(helper.make_node(op_type, list(inputs), [made], **attributes))
        return made

    def _number(self, value: float) -> str:
        return self._constant(np.asarray(value, self._dtype))

    def _integers(self, *values: int) -> str:
        return self._constant(np.asarray(values, np.int64))

    def _constant(self, value: np.ndarray[Any, Any]) -> str:
        name = self._name("constant")
        self._graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{NAMESPACE}{self._count}/{kind}"
