"""Checkpoints: the state of a training run that was not finished, found again after any kill.

Each file's name holds the step and a hash of the content; what does not match it is passed over, so
a damaged newest checkpoint costs the steps since the one before and nothing else. A file also holds
what was asked for, so that one of another recipe is refused and never gone on from.

Training waits only for a copy of its state in memory: serialising, hashing and writing, or sending
to an object store, happen in a thread meanwhile.
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Self

import torch
from torch import Tensor

from storage import layout
from storage.errors import StoreError
from storage.files import Folder
from storage.identity import Json, digest_of_bytes
from tasks.background import Behind

State = dict[str, Any]
_NAME = re.compile(r"step-(\d{9})-([0-9a-f]{8})\.pt")
_VERSION: Final = 2
_KEPT = 2
_COST_SHARE = 0.01
# Of copying, serialising and hashing together, on one slow core: for the first one's cost.
_ASSUMED_BYTES_PER_SECOND: Final = 300e6


class Checkpoints:
    """The checkpoints of one model; as a context manager, those that are due are written behind.

    Attributes:
        folder: where they lie.
        least_seconds: at least so long between two of them.
        asked: what decides the weights.
    """

    def __init__(self, folder: Folder, least_seconds: float, asked: Json = None) -> None:
        self.folder = folder
        self.least_seconds = least_seconds
        self.asked = asked
        self._last = time.monotonic()
        self._cost: float | None = None
        self._pending = False
        self._writer: Behind[tuple[int, State], None] = Behind(self._write, 1, "checkpoints")

    def __enter__(self) -> Self:
        self._last = time.monotonic()
        self._writer.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """What is being written is written to its end."""
        self._writer.__exit__(kind, error, traceback)

    def save_if_due(self, step: int, state: Callable[[], State]) -> None:
        """Save behind, unless the last one is too young, or they would cost over 1 % of the time.

        Raises:
            StoreError: the last one could not be written.
        """
        if not self._is_due(state):
            return
        started = time.monotonic()
        kept = copied(state())
        self._last = time.monotonic()
        self._cost = self._last - started
        self._pending = True
        self._writer.put((step, kept))

    def flush(self) -> None:
        """Wait until what is being written is there."""
        self._writer.flush()

    def save(self, step: int, state: State) -> None:
        """Save the state after `step` steps at once, and forget all but the last two."""
        buffer = io.BytesIO()
        torch.save({"version": _VERSION, "asked": self.asked, "state": state}, buffer)
        content = buffer.getvalue()
        self.folder.write_bytes(layout.checkpoint_file(step, digest_of_bytes(content)), content)
        for name in self._names()[_KEPT:]:
            self.folder.delete(name)

    def newest(self) -> State | None:
        """The state of the newest checkpoint that is whole, or None.

        Raises:
            StoreError: it is one of another recipe.
        """
        for name in self._names():
            content = self.folder.read_bytes(name)
            match = _NAME.fullmatch(name)
            if match and digest_of_bytes(content).startswith(match[2]):
                saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
                self._require_own(name, saved)
                state: State = saved["state"]
                return state
        return None

    def clear(self) -> None:
        """Remove them all, and what killed writers left.

        The model is finished, or is to be made from its first step.
        """
        for name in self._names():
            self.folder.delete(name)
        self.folder.remove_stale_temporaries()

    def _is_due(self, state: Callable[[], State]) -> bool:
        waited = time.monotonic() - self._last
        if self._pending or waited < self.least_seconds:
            return False
        if self._cost is None:
            self._cost = _size_bytes(state()) / _ASSUMED_BYTES_PER_SECOND
        return waited >= self._cost / _COST_SHARE

    def _write(self, given: tuple[int, State]) -> None:
        started = time.thread_time()
        try:
            self.save(*given)
        finally:
            self._cost = (self._cost or 0.0) + time.thread_time() - started
            self._pending = False

    def _require_own(self, name: str, saved: Mapping[str, Any]) -> None:
        if saved.get("version") != _VERSION:
            why = "another version of softlabel"
        else:
            other = next(_differences(saved["asked"], self.asked), None)
            if other is None:
                return
            why = f"another recipe: {other}"
        raise StoreError(
            f"{self.folder.url_of(name)} is a checkpoint of {why}; run with --force to begin anew, "
            "or remove it"
        )

    def _names(self) -> list[str]:
        return sorted((name for name in self.folder.sizes() if _NAME.fullmatch(name)), reverse=True)


def clear_checkpoints(product: Folder) -> None:
    """Remove the checkpoints of the model whose product lies in a folder."""
    Checkpoints(product / layout.CHECKPOINTS, least_seconds=0.0).clear()


def copied(value: Any) -> Any:
    """A value of tensors, dicts and lists that later training leaves as it is; on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: copied(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [copied(entry) for entry in value]
    return value


def _size_bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(_size_bytes(entry) for entry in value.values())
    return sum(map(_size_bytes, value)) if isinstance(value, list) else 0


def _differences(there: Json, here: Json, path: str = "") -> Iterator[str]:
    """What differs, field by field."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in {**there, **here}:
            yield from _differences(there.get(key), here.get(key), f"{path}.{key}".lstrip("."))
    elif there != here:
        yield f"{path} is {_said(there)} there and {_said(here)} here"


def _said(value: Json) -> str:
    return "not said" if value is None else repr(value)
