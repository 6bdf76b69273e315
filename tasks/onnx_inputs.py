"""What an ONNX graph is fed: the data's inputs, and what can be made for it.

Language models are often exported with inputs that the data do not have: `position_ids` and
`token_type_ids` are made; a cache of past keys and values is empty, where it may be.

Shape letters: B samples, L positions of a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from storage.errors import ModelError
from storage.spec import InputSpec
from tasks.onnx_options import TensorRtOptions
from tasks.onnx_session import TYPES

_POSITIONS: Final = "position_ids"
_SEGMENTS: Final = "token_type_ids"
_CACHE_SWITCH: Final = "use_cache_branch"
_CACHE: Final = ("past_key_values", "past_key", "past_value", "past.")
_CACHE_RANK: Final = 4


@dataclass(frozen=True)
class Part:
    """Samples that the graph takes at once, filled up where it takes no fewer."""

    tensors: tuple[Tensor, ...]
    rows: int


@dataclass(frozen=True)
class GraphInputs:
    """A graph's inputs and where each of them comes from.

    Attributes:
        named: the graph's inputs for the data's, by position.
        made: those that are made here.
        entries: all of them, with `shape` and `type`.
        fixed_batch: how many samples the graph takes, where it takes no other number.
    """

    named: tuple[str, ...]
    made: tuple[str, ...]
    entries: Mapping[str, Any]
    fixed_batch: int | None

    @classmethod
    def of(
        cls,
        entries: Mapping[str, Any],
        inputs: Sequence[InputSpec],
        names: Sequence[str] | None,
        where: str,
    ) -> GraphInputs:
        """Match the graph's inputs with the data's.

        Raises:
            ModelError: they do not match, or the graph needs what cannot be made.
        """
        given = [entry.name for entry in inputs]
        named = _matched(entries, given, names)
        if (
            len(named) != len(given)
            or len(set(named)) != len(named)
            or not set(named) <= {*entries}
        ):
            raise ModelError(
                f"{where}.input_names: the graph has the inputs {list(entries)}, the data give "
                f"{given}; name one for each of data.inputs"
            )
        made = tuple(name for name in entries if name not in named)
        for name in made:
            _require_makeable(entries[name], where, given)
        for name in named:
            if entries[name].type not in TYPES:
                raise ModelError(
                    f"{where}: the graph's input {name!r} is {entries[name].type}; softlabel gives "
                    f"{', '.join(TYPES)}"
                )
        first = entries[named[0]].shape[:1]
        fixed = first[0] if first and isinstance(first[0], int) and first[0] > 0 else None
        return cls(tuple(named), made, entries, fixed)

    def batches(self, inputs: tuple[Tensor, ...]) -> Iterator[Part]:
        """The samples as the graph takes them: all at once, where their number is free."""
        count = len(inputs[0])
        size = self.fixed_batch
        if size is None or size == count:
            yield Part(inputs, count)
            return
        for start in range(0, count, size):
            rows = min(size, count - start)
            some = (entry[start : start + rows] for entry in inputs)
            yield Part(tuple(_filled(entry, size) for entry in some), rows)

    def feeds(self, tensors: tuple[Tensor, ...], device: torch.device) -> dict[str, Tensor]:
        """All inputs of the graph, on `device`, in the types that it takes."""
        found = {
            name: tensor.to(device, TYPES[self.entries[name].type], non_blocking=True)
            for name, tensor in zip(self.named, tensors, strict=True)
        }
        for name in self.made:
            found[name] = self._made(name, tensors).to(device, TYPES[self.entries[name].type])
        return found

    def _made(self, name: str, tensors: tuple[Tensor, ...]) -> Tensor:
        rows = len(tensors[0])
        if name == _CACHE_SWITCH:
            return torch.zeros(1)
        if _is_cache(name):
            _, heads, _, size = self.entries[name].shape
            return torch.zeros(rows, heads, 0, size)
        length = tensors[0].shape[1]
        if name == _POSITIONS:
            return torch.arange(length).expand(rows, length)
        return torch.zeros(rows, length)


def require_shapes(model: Any, options: TensorRtOptions, where: str) -> None:
    """Refuse shapes for TensorRT that leave one of the graph's inputs out, or name another.

    Raises:
        ModelError: naming the inputs.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [entry for entry in model.graph.input if entry.name not in weights]
    free = {
        entry.name
        for entry in inputs
        if not all(side.HasField("dim_value") for side in entry.type.tensor_type.shape.dim)
    }
    said = set(options.shapes)
    if not free <= said or not said <= {entry.name for entry in inputs}:
        raise ModelError(
            f"{where}.tensorrt.shapes: expected the shapes of {sorted(free)}, the graph's inputs "
            f"with free dimensions, got {sorted(said)}"
        )


def _matched(
    entries: Mapping[str, Any], given: Sequence[str], names: Sequence[str] | None
) -> list[str]:
    if names is not None:
        return list(names)
    if len(set(given)) == len(given) and set(given) <= set(entries):
        return list(given)
    return [name for name in entries if not _is_makeable(name)]


def _is_cache(name: str) -> bool:
    return name.startswith(_CACHE)


def _is_makeable(name: str) -> bool:
    return name in (_POSITIONS, _SEGMENTS, _CACHE_SWITCH) or _is_cache(name)


def _require_makeable(entry: Any, where: str, given: Sequence[str]) -> None:
    if not _is_makeable(entry.name):
        raise ModelError(
            f"{where}.input_names: the graph also takes {entry.name!r}, the data give {given}; add "
            "a column of that name to data.inputs"
        )
    if not _is_cache(entry.name):
        return
    shape = entry.shape
    is_free = len(shape) == _CACHE_RANK and not isinstance(shape[2], int)
    if not is_free or not all(isinstance(shape[place], int) for place in (1, 3)):
        raise ModelError(
            f"{where}: the graph takes the past keys and values {entry.name!r} {shape}, which "
            "cannot be empty; export the model without a cache"
        )


def _filled(tensor: Tensor, rows: int) -> Tensor:
    """[rows, ...], with the last sample again where there are too few."""
    missing = rows - len(tensor)
    return torch.cat([tensor, *[tensor[-1:]] * missing]) if missing else tensor
