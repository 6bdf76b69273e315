"""Checkpoints: the state of a training run that was not finished, found again after any kill.

Each file's name holds the step and a hash of the content; what does not match it is passed over, so
a damaged newest checkpoint costs the steps since the one before and nothing else.
"""

from __future__ import annotations

import io
import re
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from storage import layout
from storage.files import Folder
from storage.identity import digest_of_bytes

_NAME = re.compile(r"step-(\d{9})-([0-9a-f]{8})\.pt")
_KEPT = 2
_COST_SHARE = 0.01


@dataclass
class Checkpoints:
    """The checkpoints of one model.

    Attributes:
        folder: where they lie.
        least_seconds: at least so long between two of them.
    """

    folder: Folder
    least_seconds: float
    _last: float = field(default_factory=time.monotonic)
    _cost: float = 0.0

    def save_if_due(self, step: int, state: dict[str, Any]) -> None:
        """Save, unless the last one is too young, or they would cost over 1 % of the time."""
        pause = max(self.least_seconds, self._cost / _COST_SHARE)
        if time.monotonic() - self._last >= pause:
            self.save(step, state)

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Save the state after `step` steps, and forget all but the last two."""
        started = time.monotonic()
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        self.folder.write_bytes(layout.checkpoint_file(step, digest_of_bytes(content)), content)
        for name in self._names()[_KEPT:]:
            self.folder.delete(name)
        self._last = time.monotonic()
        self._cost = self._last - started

    def newest(self) -> dict[str, Any] | None:
        """The state of the newest checkpoint that is whole, or None."""
        for name in self._names():
            content = self.folder.read_bytes(name)
            match = _NAME.fullmatch(name)
            if match and digest_of_bytes(content).startswith(match[2]):
                state: dict[str, Any] = torch.load(
                    io.BytesIO(content), map_location="cpu", weights_only=True
                )
                return state
        return None

    def clear(self) -> None:
        """Remove them all: the model is finished, or is to be made from its first step."""
        for name in self._names():
            self.folder.delete(name)

    def _names(self) -> list[str]:
        return sorted((name for name in self.folder.sizes() if _NAME.fullmatch(name)), reverse=True)


def clear_checkpoints(product: Folder) -> None:
    """Remove the checkpoints of the model whose product lies in a folder."""
    Checkpoints(product / layout.CHECKPOINTS, least_seconds=0.0).clear()
