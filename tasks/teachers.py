"""Teachers: whatever gives logits for a batch of inputs.

Labelling knows only these protocols. Shape letters: B samples, P positions, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from storage.spec import InputSpec
from tasks.nn.batch import by_position
from tasks.nn.models import count_classes
from tasks.nn.observe import Found, observe
from tasks.nn.reduction import Reduced, Reduction


class Teacher(Protocol):
    """Gives logits."""

    num_classes: int

    def logits(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Logits [P, C] of inputs [B, ...], of any floating type, on any device.

        Raises:
            MemoryError: there is too little memory; `torch.OutOfMemoryError` on an accelerator.
        """


@runtime_checkable
class ReducingTeacher(Protocol):
    """A teacher that can reduce its logits where it makes them."""

    num_classes: int

    def logits(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Logits, as of any `Teacher`."""

    def reduced(
        self,
        inputs: tuple[Tensor, ...],
        real_P: Tensor,
        label_P: Tensor | None,
        reduction: Reduction,
    ) -> Reduced | None:
        """What `reduce_logits` would make of the logits; None where it cannot for this reduction.

        Args:
            inputs: [B, ...].
            real_P: the positions that are there, bool, on the CPU; the others are padding.
            label_P: hard labels, int64, negative where there is none; or None.
            reduction: what is to be kept.
        """


@runtime_checkable
class ObservableTeacher(Protocol):
    """A teacher that can be looked into while it runs."""

    num_classes: int

    def logits(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Logits, as of any `Teacher`."""

    def observed(self, inputs: tuple[Tensor, ...], names: Sequence[str]) -> tuple[Tensor, Found]:
        """Logits [P, C], and by name of `storage.features` what is inside, [B, ...] each.

        Raises:
            ModelError: it has no such layer or module.
        """

    @property
    def module(self) -> nn.Module:
        """The model itself, in evaluation mode: for its layers, their number and shapes."""


class TorchTeacher:
    """A PyTorch module in evaluation mode."""

    def __init__(
        self, model: nn.Module, inputs: Sequence[InputSpec], device: torch.device, where: str
    ) -> None:
        self.num_classes = count_classes(model, inputs, where)
        self.module = model.to(device).eval()
        self._device = device

    @torch.inference_mode()
    def logits(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Logits [P, C] of inputs [B, ...]."""
        moved = (entry.to(self._device) for entry in inputs)
        return by_position(self.module(*moved))

    @torch.inference_mode()
    def observed(self, inputs: tuple[Tensor, ...], names: Sequence[str]) -> tuple[Tensor, Found]:
        """Logits [P, C] of inputs [B, ...], and what is inside meanwhile."""
        logits, found = observe(
            self.module, tuple(entry.to(self._device) for entry in inputs), names
        )
        return by_position(logits), found
