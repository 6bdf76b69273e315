"""A PyTorch model as one ONNX file with a dynamic batch, its outputs checked against PyTorch."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from storage.errors import ModelError
from storage.options import ATTENTION_MASK
from storage.spec import InputSpec
from tasks.nn.models import probe_inputs, probe_length

_TOLERANCE = 1e-4
_CHECKED = ((1, 3), (3, 0))
"""Batch sizes, and how much longer than at the export blocks are."""
LOGITS = "logits"


def onnx_bytes(model: nn.Module, inputs: Sequence[InputSpec], where: str) -> bytes:
    """Export a model and compare it with PyTorch on random inputs of two sizes.

    Raises:
        ModelError: it cannot be exported, or the exported one gives other logits.
    """
    model = model.cpu().eval()
    try:
        with quiet_export():
            content = _export(model, inputs)
    except Exception as error:
        raise ModelError(f"{where}: cannot be exported to ONNX: {_reason(error)}") from error
    _check(model, content, inputs, where)
    return content


def session_of(content: bytes) -> Any:
    """A model as ONNX Runtime runs it, on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run_session(session: Any, inputs: Sequence[Tensor]) -> NDArray[np.float32]:
    """The logits of inputs by position."""
    names = [entry.name for entry in session.get_inputs()]
    feeds = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
    (logits,) = session.run([LOGITS], feeds)
    found: NDArray[np.float32] = logits
    return found


def _export(model: nn.Module, inputs: Sequence[InputSpec]) -> bytes:
    batch = torch.export.Dim("batch")
    length = torch.export.Dim("length")
    # One argument, `*inputs`, takes them all: hence the tuple around the shapes.
    shapes = tuple({0: batch, 1: length} if entry.shape is None else {0: batch} for entry in inputs)
    program = torch.onnx.export(
        _Positional(model, len(inputs)),
        probe_inputs(inputs, length=probe_length(model)),
        dynamo=True,
        input_names=[entry.name for entry in inputs],
        output_names=[LOGITS],
        dynamic_shapes=(shapes,),
        verbose=False,
    )
    assert program is not None
    buffer = io.BytesIO()
    onnx.save_model(program.model_proto, buffer)
    return buffer.getvalue()


def _reason(error: BaseException) -> str:
    """The first line of what lies at the bottom; what torch wraps around it is pages long."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}"


class _Positional(nn.Module):
    """Gives a model of any signature one that the exporter can name shapes for."""

    def __init__(self, model: nn.Module, num_inputs: int) -> None:
        super().__init__()
        self.model = model
        self.num_inputs = num_inputs

    def forward(self, *inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(*inputs)
        return logits


def _check(model: nn.Module, content: bytes, inputs: Sequence[InputSpec], where: str) -> None:
    session = session_of(content)
    generator = torch.Generator().manual_seed(0)
    for batch, longer in _CHECKED:
        zeros = probe_inputs(inputs, batch, probe_length(model) + longer)
        tensors = [_random(entry, generator) for entry in zeros]
        for place, entry in enumerate(inputs):
            if entry.name == ATTENTION_MASK:  # a sample without any token has no right answer
                tensors[place] = zeros[place]
                tensors[place][1:, -1] = 0
        found = run_session(session, tensors)
        with torch.no_grad():
            expected = model(*tensors).numpy()
        gap = float(np.abs(found - expected).max())
        if not gap <= _TOLERANCE * max(1.0, float(np.abs(expected).max())):
            raise ModelError(f"{where}: the exported ONNX model's logits differ by {gap:.2g}")


def _random(zeros: Tensor, generator: torch.Generator) -> Tensor:
    if zeros.is_floating_point():
        return torch.rand(zeros.shape, generator=generator)
    return torch.randint(0, 2, zeros.shape, generator=generator)


@contextlib.contextmanager
def quiet_export() -> Iterator[None]:
    """Exporters speak of their own deprecations and steps; none of it concerns the user."""
    loggers = [logging.getLogger(name) for name in ("", "torch", "onnxscript", "onnx_ir")]
    levels = [entry.level for entry in loggers]
    silence = io.StringIO()
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(silence),
        contextlib.redirect_stderr(silence),
    ):
        warnings.simplefilter("ignore")
        for entry in loggers:
            entry.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for entry, level in zip(loggers, levels, strict=True):
                entry.setLevel(level)
