"""What a recipe may say about an ONNX teacher. Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from storage.identity import Json
from storage.options import ColumnName, Options

Shape = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
PROBABILITIES = "probabilities"
"""What `output` says of a model that ends in a softmax."""


class ShapeRange(Options):
    """The shapes of one of the graph's inputs, from which TensorRT builds its engine."""

    min: Shape
    opt: Shape
    """The shape that most batches have."""
    max: Shape

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not len(self.min) == len(self.opt) == len(self.max):
            raise ValueError(
                f"min, opt and max must have one rank, got {len(self.min)}, {len(self.opt)} and "
                f"{len(self.max)} dimensions"
            )
        for low, best, high in zip(self.min, self.opt, self.max, strict=True):
            if not low <= best <= high:
                raise ValueError(f"expected min <= opt <= max, got {low}, {best} and {high}")
        return self


class TensorRtOptions(Options):
    """How TensorRT builds its engines."""

    shapes: Annotated[dict[ColumnName, ShapeRange], Field(min_length=1)]
    """For each of the graph's inputs with a free dimension: smallest, usual and largest shape."""
    cache: str
    """A folder, relative to the recipe, that keeps engines: building one takes minutes."""
    fp16: bool = False
    """Whether layers may compute in half precision; other labels then, and another label set."""


class CudaOptions(Options):
    """How ONNX Runtime uses a CUDA device."""

    memory_limit_bytes: PositiveInt | None = None
    """The most that its arena takes; None is all there is."""
    arena: Literal["as_requested", "power_of_two"] = "as_requested"
    """How the arena grows: by what is asked for, or twice as much each time. It never shrinks."""
    convolution_search: Literal["heuristic", "exhaustive", "default"] = "heuristic"
    """How algorithms are picked, at each new shape: `exhaustive` times them all."""


class OnnxTeacherOptions(Options):
    """An ONNX model. Its logits are taken from a named output."""

    kind: Literal["onnx"]
    path: str
    """The ONNX file: a path relative to the recipe, or a URL. External data lie beside it."""
    output: str | None = None
    """The output, or inner tensor, that holds the logits; None means the only output.
    `probabilities` takes the input of the softmax that the model ends in; where there is none to
    be found, the logarithm of what it gives."""
    input_names: tuple[ColumnName, ...] | None = None
    """The graph's inputs for `data.inputs`, by position; None means by name where all names are
    the graph's, else the graph's own order."""
    provider: Literal["auto", "cpu", "cuda", "tensorrt"] = "auto"
    """What of ONNX Runtime computes; `auto` goes by `execution.device`, and never is TensorRT."""
    reduce: Literal["auto", "graph", "torch"] = "auto"
    """Where kept entries and the rest are computed: by nodes appended to the graph, or by torch
    from its logits. `auto` is the graph on CUDA, torch on the CPU."""
    cuda: CudaOptions = CudaOptions()
    tensorrt: TensorRtOptions | None = None

    def identity(self) -> Json:
        """What decides the logits, but for the weights' content and where they are computed."""
        halves = self.provider == "tensorrt" and self.tensorrt and self.tensorrt.fp16
        kept: dict[str, Json] = {
            "kind": self.kind,
            "output": self.output,
            "input_names": None if self.input_names is None else list(self.input_names),
        }
        return {**kept, "precision": "float16"} if halves else kept

    def on_cpu(self) -> OnnxTeacherOptions:
        """The same model, to be tried where there may be no device."""
        return self.model_copy(update={"provider": "cpu", "tensorrt": None, "reduce": "torch"})

    @model_validator(mode="after")
    def _tensorrt_has_shapes(self) -> Self:
        if (self.provider == "tensorrt") != (self.tensorrt is not None):
            raise ValueError(
                "provider: tensorrt and tensorrt: {shapes, cache} go together; got "
                f"provider: {self.provider} and tensorrt: {self.tensorrt}"
            )
        if self.provider == "tensorrt" and self.reduce == "graph":
            raise ValueError(
                "reduce: graph is not for TensorRT, which would build an engine for each k; its "
                "logits stay on the device, and torch reduces them there"
            )
        return self
