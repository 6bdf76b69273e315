"""An ONNX model as a teacher, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from storage.errors import ModelError, one_line
from storage.spec import InputSpec
from tasks.nn.batch import by_position
from tasks.nn.models import probe_inputs

_ERRORS_ONLY = 3


class OnnxTeacher:
    """An ONNX graph run by ONNX Runtime: on CUDA where a device is, else on the CPU."""

    def __init__(
        self,
        content: bytes,
        inputs: Sequence[InputSpec],
        device: torch.device,
        *,
        output: str | None = None,
        input_names: Sequence[str] | None = None,
        where: str = "teacher",
    ) -> None:
        model = _parse_onnx(content, where)
        self._output = _logits_output(model, output, where)
        self._session = _session(model.SerializeToString(), device, where)
        known = {entry.name: entry.type for entry in self._session.get_inputs()}
        self._names = list(input_names or known)
        if len(self._names) != len(inputs) or not set(self._names) <= set(known):
            raise ModelError(
                f"{where}.input_names: the graph has the inputs {list(known)}, the data give "
                f"{[entry.name for entry in inputs]}; name one for each of data.inputs"
            )
        self._dtypes = [_NUMPY_TYPES.get(known[name], np.float32) for name in self._names]
        probe = self.logits(probe_inputs(inputs))
        self.num_classes = int(probe.shape[-1])

    def logits(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Logits [P, C] of inputs [B, ...]."""
        feeds = {
            name: entry.numpy().astype(dtype, copy=False)
            for name, entry, dtype in zip(self._names, inputs, self._dtypes, strict=True)
        }
        try:
            (values,) = self._session.run([self._output], feeds)
        except Exception as error:
            raise ModelError(f"the ONNX teacher failed: {one_line(error)}") from error
        if values.ndim not in (2, 3):
            raise ModelError(
                f"teacher.output: {self._output!r} has shape {values.shape}, expected [B, C] or "
                "[B, L, C]; name the tensor that holds the logits"
            )
        return by_position(torch.from_numpy(values))


_NUMPY_TYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
}


def _parse_onnx(content: bytes, where: str) -> Any:
    try:
        model = onnx.load_model_from_string(content)
        onnx.checker.check_model(content)
    except Exception as error:
        raise ModelError(f"{where}: this is no readable ONNX model: {one_line(error)}") from error
    return model


def _logits_output(model: Any, output: str | None, where: str) -> str:
    """The output to take; an inner tensor of that name is made an output of the graph."""
    outputs = [entry.name for entry in model.graph.output]
    if output is None:
        if len(outputs) != 1:
            raise ModelError(
                f"{where}.output: the graph has the outputs {outputs}; name the one that holds the "
                "logits"
            )
        output = outputs[0]
    made = {name: node for node in model.graph.node for name in node.output}
    if output not in made:
        raise ModelError(
            f"{where}.output: the graph has no tensor {output!r}; its outputs are {outputs}"
        )
    source = made[output]
    while source.op_type in ("Identity", "Cast") and source.input[0] in made:
        source = made[source.input[0]]
    if source.op_type in ("Softmax", "Sigmoid"):
        raise ModelError(
            f"{where}.output: {output!r} is the result of a {source.op_type}, expected "
            f"logits; name the tensor before it: {source.input[0]!r}"
        )
    if output not in outputs:
        model.graph.output.append(onnx.ValueInfoProto(name=output))
    return output


def _session(content: bytes, device: torch.device, where: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    wanted = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
    _require_provider(wanted, onnxruntime.get_available_providers(), where)
    providers = list(dict.fromkeys([wanted, "CPUExecutionProvider"]))
    try:
        session = onnxruntime.InferenceSession(content, options, providers=providers)
    except Exception as error:
        raise ModelError(f"{where}: ONNX Runtime cannot load it: {one_line(error)}") from error
    _require_provider(wanted, session.get_providers(), where)
    return session


def _require_provider(wanted: str, found: Sequence[str], where: str) -> None:
    if wanted not in found:
        raise ModelError(
            f"{where}: ONNX Runtime did not load {wanted}, it has {list(found)}; install "
            "onnxruntime-gpu, or say execution.device: cpu"
        )
