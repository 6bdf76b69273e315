"""ONNX Runtime: providers, one session, and runs whose inputs and outputs lie on the device.

On the CPU a run takes and gives numpy arrays that share their memory; on CUDA inputs and outputs
are torch tensors, bound by their address, so that nothing is copied to the host and back.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import onnxruntime
import torch
from torch import Tensor

from storage.errors import ModelError, one_line
from tasks.onnx_files import Content
from tasks.onnx_options import OnnxTeacherOptions

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
TENSORRT: Final = "TensorrtExecutionProvider"

_SILENT = 4
"""What fails is raised; ONNX Runtime would print it in red as well."""
_ARENA = {"as_requested": "kSameAsRequested", "power_of_two": "kNextPowerOfTwo"}
_MEMORY_IS_SHORT = (
    "failed to allocate memory", "out of memory", "bad allocation", "bad_alloc",
    "cudaerrormemoryallocation", "cublas_status_alloc_failed", "cudnn_status_alloc_failed",
    "available memory of",
)  # fmt: skip
"""What messages say, in lower case; ONNX Runtime has no error of its own for it."""

TYPES: Final[dict[str, torch.dtype]] = {
    "tensor(float)": torch.float32,
    "tensor(double)": torch.float64,
    "tensor(float16)": torch.float16,
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
    "tensor(int8)": torch.int8,
    "tensor(uint8)": torch.uint8,
    "tensor(bool)": torch.bool,
}


def providers_of(
    options: OnnxTeacherOptions, device: torch.device, folder: Path, where: str
) -> list[tuple[str, dict[str, str]]]:
    """The providers to ask for, the best first, with their settings.

    Args:
        options: the recipe's words.
        device: what `execution.device` came to.
        folder: the recipe's, which TensorRT's cache is relative to.
        where: the field of the recipe, for messages.

    Raises:
        ModelError: CUDA or TensorRT is asked for, and `device` is none.
    """
    cpu: tuple[str, dict[str, str]] = (CPU, {})
    wanted = options.provider
    if wanted == "cpu" or (wanted == "auto" and device.type != "cuda"):
        return [cpu]
    if device.type != "cuda" or not torch.cuda.is_available():
        raise ModelError(
            f"{where}.provider: {wanted} needs a CUDA device that torch {torch.__version__} sees, "
            f"and execution.device came to {device}; say provider: cpu and execution.device: cpu"
        )
    cuda = (CUDA, cuda_settings(options, device))
    if options.tensorrt is None:
        return [cuda, cpu]
    return [(TENSORRT, tensorrt_settings(options, device, folder)), cuda, cpu]


class Session:
    """One graph, loaded, on one device: `device`."""

    def __init__(
        self,
        content: Content,
        providers: Sequence[tuple[str, dict[str, str]]],
        device: torch.device,
        where: str,
    ) -> None:
        wanted = providers[0][0]
        _require_provider(wanted, onnxruntime.get_available_providers(), where)
        self._where = where
        self.device = torch.device("cpu") if wanted == CPU else device
        try:
            self._session = onnxruntime.InferenceSession(
                content.model, _session_options(content.folder), providers=list(providers)
            )
        except Exception as error:
            raise self._translated(error, "ONNX Runtime cannot load it") from error
        _require_provider(wanted, self._session.get_providers(), where)
        self._run_options = onnxruntime.RunOptions()
        self._run_options.log_severity_level = _SILENT
        # Else the reduction would be computed where only logits are asked for, and the other way.
        self._run_options.only_execute_path_to_fetches = True

    @property
    def inputs(self) -> dict[str, Any]:
        """The graph's inputs by name, with `shape` and `type`."""
        return {entry.name: entry for entry in self._session.get_inputs()}

    def run(
        self, feeds: Mapping[str, Tensor], fetches: Mapping[str, tuple[int, ...]]
    ) -> dict[str, Tensor]:
        """The outputs that are asked for, on the session's device.

        Args:
            feeds: all inputs of the graph.
            fetches: outputs by name, with their shapes; only a device needs to know these.

        Raises:
            MemoryError: there is too little memory.
            ModelError: anything else fails.
        """
        try:
            if self.device.type == "cpu":
                return self._on_host(feeds, list(fetches))
            return self._bound(feeds, fetches)
        except Exception as error:
            raise self._translated(error, "the ONNX teacher failed") from error

    def run_on_host(self, feeds: Mapping[str, Tensor], fetches: Sequence[str]) -> dict[str, Tensor]:
        """The outputs that are asked for, of any shape, on the CPU.

        Raises:
            MemoryError: there is too little memory.
            ModelError: anything else fails.
        """
        try:
            return self._on_host(feeds, fetches)
        except Exception as error:
            raise self._translated(error, "the ONNX teacher failed") from error

    def _on_host(self, feeds: Mapping[str, Tensor], fetches: Sequence[str]) -> dict[str, Tensor]:
        arrays = {name: tensor.cpu().contiguous().numpy() for name, tensor in feeds.items()}
        found = self._session.run(list(fetches), arrays, self._run_options)
        return {name: torch.from_numpy(values) for name, values in zip(fetches, found, strict=True)}

    def _bound(
        self, feeds: Mapping[str, Tensor], fetches: Mapping[str, tuple[int, ...]]
    ) -> dict[str, Tensor]:
        binding = self._session.io_binding()
        held = {name: tensor.contiguous() for name, tensor in feeds.items()}
        for name, tensor in held.items():
            _bind(binding.bind_input, name, tensor)
        kinds = {entry.name: TYPES[entry.type] for entry in self._session.get_outputs()}
        found = {
            name: torch.empty(shape, dtype=kinds[name], device=self.device)
            for name, shape in fetches.items()
        }
        for name, tensor in found.items():
            _bind(binding.bind_output, name, tensor)
        # The runtime has a stream of its own; it waits for its own work, not for torch's.
        torch.cuda.current_stream(self.device).synchronize()
        self._session.run_with_iobinding(binding, self._run_options)
        return found

    def _translated(self, error: Exception, what: str) -> Exception:
        text = one_line(error).rpartition("Status Message: ")[2]
        if isinstance(error, MemoryError) or any(w in text.lower() for w in _MEMORY_IS_SHORT):
            return MemoryError(f"{self._where}: {text}")
        return ModelError(f"{self._where}: {what}: {text}")


def _bind(bind: Any, name: str, tensor: Tensor) -> None:
    kind = torch.empty(0, dtype=tensor.dtype).numpy().dtype.type
    bind(
        name,
        tensor.device.type,
        tensor.device.index or 0,
        kind,
        tuple(tensor.shape),
        tensor.data_ptr(),
    )


def _session_options(folder: Path | None) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    # Threads that spin for the next run take the cores from torch, which reduces meanwhile.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if folder is not None:
        key = "session.model_external_initializers_file_folder_path"
        options.add_session_config_entry(key, os.fspath(folder))
    return options


def cuda_settings(options: OnnxTeacherOptions, device: torch.device) -> dict[str, str]:
    """What ONNX Runtime's CUDA provider is told."""
    settings = {
        "device_id": str(device.index or 0),
        "arena_extend_strategy": _ARENA[options.cuda.arena],
        "cudnn_conv_algo_search": options.cuda.convolution_search.upper(),
    }
    if options.cuda.memory_limit_bytes is not None:
        settings["gpu_mem_limit"] = str(options.cuda.memory_limit_bytes)
    return settings


def tensorrt_settings(
    options: OnnxTeacherOptions, device: torch.device, folder: Path
) -> dict[str, str]:
    """What ONNX Runtime's TensorRT provider is told; the folder of its cache is made."""
    asked = options.tensorrt
    assert asked is not None
    cache = (folder / Path(asked.cache).expanduser()).resolve()
    cache.mkdir(parents=True, exist_ok=True)
    settings = {
        "device_id": str(device.index or 0),
        "trt_fp16_enable": str(asked.fp16),
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(cache),
    }
    for bound in ("min", "opt", "max"):
        shapes = {name: getattr(each, bound) for name, each in asked.shapes.items()}
        settings[f"trt_profile_{bound}_shapes"] = ",".join(
            f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items()
        )
    return settings


def _require_provider(wanted: str, found: Sequence[str], where: str) -> None:
    if wanted not in found:
        what = (
            "onnxruntime-gpu with TensorRT's libraries"
            if wanted == TENSORRT
            else ("onnxruntime-gpu with the CUDA libraries that it was built for")
        )
        raise ModelError(
            f"{where}.provider: ONNX Runtime did not load {wanted}, it has {list(found)}; install "
            f"{what}, or say provider: cpu"
        )
