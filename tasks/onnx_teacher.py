"""An ONNX model as a teacher, run by ONNX Runtime.

Its logits, or what is kept of them, are computed on the session's device. One session is loaded at
a time: the weights lie in memory once.

Shape letters: B samples, L positions of a block, P positions, C classes, K kept, T temperatures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

from storage.errors import ModelError, one_line
from storage.options import Keep, numbers_among
from storage.spec import InputSpec
from tasks.nn.batch import by_position
from tasks.nn.models import probe_inputs
from tasks.nn.reduction import Reduced, Reduction
from tasks.onnx_files import Content
from tasks.onnx_graph import INDEX, LABEL, K, Layout, append_reduction, upgraded
from tasks.onnx_inputs import GraphInputs, require_shapes
from tasks.onnx_logits import expose_logits, with_probabilities
from tasks.onnx_options import PROBABILITIES, OnnxTeacherOptions
from tasks.onnx_reduced import finished
from tasks.onnx_session import Session, providers_of

_SOFTMAX_TOLERANCE = 1e-3
_IN_GRAPH = (Keep.TOP_K, Keep.ALL)
DEFAULTS = OnnxTeacherOptions(kind="onnx", path="teacher.onnx")


class OnnxTeacher:
    """An ONNX graph: on CUDA where a device is asked for, else on the CPU.

    Args:
        content: the model, and where its external data lie.
        inputs: what `data.inputs` are, by position.
        device: what `execution.device` came to.
        options: the recipe's words.
        folder: the recipe's, which TensorRT's cache is relative to.
        where: the field of the recipe, for messages.
        proven: whether it was tried before; else a softmax that was taken off is compared.

    Raises:
        ModelError: it is no ONNX model, holds no logits, or does not run on such inputs.
    """

    def __init__(
        self,
        content: bytes | Content,
        inputs: Sequence[InputSpec],
        device: torch.device,
        options: OnnxTeacherOptions = DEFAULTS,
        *,
        folder: Path = Path(),
        where: str = "teacher",
        proven: bool = False,
    ) -> None:
        self._where = where
        self._options = options
        self._device = device
        self._content = content if isinstance(content, Content) else Content(content)
        self._providers = providers_of(options, device, folder, where)
        model = _parsed(self._content, where)
        self._exposed = expose_logits(model, options.output, where)
        if options.tensorrt is not None:
            require_shapes(model, options.tensorrt, where)
        self._session = self._loaded(model)
        self._inputs = GraphInputs.of(self._session.inputs, inputs, options.input_names, where)
        self._layout: Layout | None = None
        zeros = probe_inputs(inputs)
        ragged = [entry.shape is None for entry in inputs]
        self.num_classes, self._length = self._probe(zeros, ragged)
        if not proven and self._exposed.probabilities is not None:
            self._compare_softmax(model, zeros)
        self._reduces = self._may_reduce()
        if not self._reduces:
            self._content = replace(self._content, model=b"")

    @property
    def origin(self) -> str:
        """In words, what the logits are in the graph."""
        return self._exposed.origin

    def logits(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Logits [P, C] of inputs [B, ...], float32 or float64."""
        parts = []
        for part in self._inputs.batches(inputs):
            shape = (*self._positions(part.tensors), self.num_classes)
            feeds = self._feeds(part.tensors)
            if self._layout is not None:
                feeds |= self._unused(self._layout, math.prod(shape[:-1]))
            name = self._exposed.tensor
            parts.append(by_position(self._session.run(feeds, {name: shape})[name][: part.rows]))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def reduced(
        self,
        inputs: tuple[Tensor, ...],
        real_P: Tensor,
        label_P: Tensor | None,
        reduction: Reduction,
    ) -> Reduced | None:
        """What is kept, computed in the graph; None where it is to be computed from the logits.

        Args:
            inputs: [B, ...].
            real_P: the positions that are there, bool, on the CPU; the others are padding.
            label_P: hard labels, int64, negative where there is none; or None.
            reduction: what is to be kept.
        """
        numbers = numbers_among(reduction.temperatures)
        in_graph = reduction.selection.keep in _IN_GRAPH and numbers == reduction.temperatures
        if not self._reduces or not in_graph:
            return None
        layout = Layout(
            temperatures=numbers,
            num_classes=reduction.num_classes,
            teacher_classes=self.num_classes,
            has_label=label_P is not None,
            statistics=reduction.statistics,
            double=self._exposed.double,
        )
        if not self._appended(layout):
            return None
        k = reduction.selection.k
        feeds = self._feeds(inputs) | {K: torch.tensor([k])}
        if label_P is not None:
            feeds[LABEL] = label_P.clamp(min=0)[:, None].to(self._session.device)
        rows = len(real_P)
        shapes = {name: (rows, columns or k) for name, columns in layout.outputs.items()}
        found = self._session.run(feeds, shapes)
        if len(found[INDEX]) != rows:
            raise ModelError(
                f"{self._where}: expected logits for {rows} positions, got {len(found[INDEX])}"
            )
        return finished(found, real_P, label_P, layout, reduction)

    def _loaded(self, model: Any) -> Session:
        content = Content(model.SerializeToString(), self._content.folder)
        return Session(content, self._providers, self._device, self._where)

    def _feeds(self, tensors: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return self._inputs.feeds(tensors, self._session.device)

    def _unused(self, layout: Layout, positions: int) -> dict[str, Tensor]:
        """What the reduction is fed where only logits are asked for."""
        labels = torch.zeros((positions, 1), dtype=torch.int64, device=self._session.device)
        return {K: torch.ones(1, dtype=torch.int64)} | ({LABEL: labels} if layout.has_label else {})

    def _positions(self, tensors: tuple[Tensor, ...]) -> tuple[int, ...]:
        """The shape of the logits of some inputs, but for C."""
        length = self._length
        if isinstance(length, _LengthOf):
            length = tensors[length.place].shape[1]
        return (len(tensors[0]),) if length is None else (len(tensors[0]), length)

    def _probe(
        self, zeros: tuple[Tensor, ...], ragged: Sequence[bool]
    ) -> tuple[int, int | _LengthOf | None]:
        """C, and how many positions a sample has, as the logits of two samples tell."""
        part = next(self._inputs.batches(zeros))
        name = self._exposed.tensor
        values = self._session.run_on_host(self._feeds(part.tensors), [name])[name]
        named = self._exposed.named
        if values.dim() not in (2, 3):
            raise ModelError(
                f"{self._where}.output: {named!r} has shape {tuple(values.shape)}, expected [B, C] "
                "or [B, L, C]; name the tensor that holds the logits"
            )
        if self._options.output != PROBABILITIES:
            _refuse_probabilities(values, named, self._where)
        num_classes = int(values.shape[-1])
        if values.dim() == 2:
            return num_classes, None
        places = [place for place, varies in enumerate(ragged) if varies]
        if places and values.shape[1] == zeros[places[0]].shape[1]:
            return num_classes, _LengthOf(places[0])
        return num_classes, int(values.shape[1])

    def _compare_softmax(self, model: Any, zeros: tuple[Tensor, ...]) -> None:
        """Refuse logits whose softmax over the last axis is not what the graph gave before."""
        both = onnx.ModelProto()
        both.CopyFrom(model)
        given = with_probabilities(both, self._exposed)
        part = next(self._inputs.batches(zeros))
        name = self._exposed.tensor
        found = self._loaded(both).run_on_host(self._feeds(part.tensors), [name, given])
        if found[name].shape == found[given].shape:
            gap = (torch.softmax(found[name].double(), dim=-1) - found[given]).abs().max()
            if float(gap) <= _SOFTMAX_TOLERANCE:
                return
        raise ModelError(
            f"{self._where}.output: over the last axis the softmax of {self._exposed.origin} is "
            "not what the graph gives; name the tensor that holds the logits"
        )

    def _may_reduce(self) -> bool:
        wanted = self._options.reduce
        if self._inputs.fixed_batch is not None or self._options.tensorrt is not None:
            return False
        return wanted == "graph" or (wanted == "auto" and self._session.device.type == "cuda")

    def _appended(self, layout: Layout) -> bool:
        """Load the graph with its reduction, unless it is there; whether that can be."""
        if layout == self._layout:
            return True
        model = upgraded(_parsed(self._content, self._where))
        if model is None:
            self._reduces = False
            return False
        exposed = expose_logits(model, self._options.output, self._where)
        append_reduction(model, exposed.tensor, layout)
        del self._session  # The weights of both would lie in memory together.
        self._session = self._loaded(model)
        self._layout = layout
        return True


@dataclass(frozen=True)
class _LengthOf:
    """As many positions as one of the inputs is long."""

    place: int


def _parsed(content: Content, where: str) -> Any:
    try:
        model = onnx.load_model_from_string(content.model)
        if content.folder is None:
            onnx.checker.check_model(content.model)
    except Exception as error:
        raise ModelError(f"{where}: this is no readable ONNX model: {one_line(error)}") from error
    return model


def _refuse_probabilities(values: Tensor, named: str, where: str) -> None:
    """Refuse what sums to 1 over the classes, wherever it comes from."""
    sums = values.double().sum(dim=-1)
    if values.shape[-1] > 1 and bool((values >= 0).all()) and bool(((sums - 1).abs() < 1e-4).all()):
        raise ModelError(
            f"{where}.output: {named!r} holds probabilities, expected logits; name the tensor of "
            f"the logits, or say output: {PROBABILITIES} to take their logarithm"
        )
