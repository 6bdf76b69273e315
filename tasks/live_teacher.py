"""A teacher that is run beside its student, for what is inside it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from storage.cards import Card
from storage.errors import RecipeError
from storage.features import MODULE
from storage.files import Folder
from storage.spec import InputSpec
from tasks.nn.observe import Found
from tasks.nn.output_layer import Layer, last_layer, withheld
from tasks.teach import load_teacher
from tasks.teacher_options import TeacherOptions
from tasks.teachers import ObservableTeacher


class LiveTeacher:
    """A teacher in evaluation mode, run without gradients, and without its output layer.

    Its predictions are stored; of a small language model that layer is half of the work.
    """

    def __init__(self, teacher: ObservableTeacher) -> None:
        self._teacher = teacher
        self._layer: Layer | None = None
        self._looked = False

    @property
    def module(self) -> nn.Module:
        """The model itself."""
        return self._teacher.module

    def features(self, inputs: tuple[Tensor, ...], names: Sequence[str]) -> Found:
        """What is inside it by name, [B, ...] each, on the device of the inputs.

        Raises:
            ModelError: it has no such layer or module.
        """
        unneeded = None if any(name.startswith(MODULE) for name in names) else self._layer
        with nullcontext() if unneeded is None else withheld(unneeded):
            _, found = self._teacher.observed(inputs, names)
        if not self._looked:
            # After a pass that went well; random numbers are the student's.
            with torch.random.fork_rng(devices=[]):
                self._layer = last_layer(self.module, tuple(entry[:1] for entry in inputs))
            self._looked = True
        # What inference mode made cannot be kept for a backward pass; a copy of it can.
        return {name: tensor.to(inputs[0].device).clone() for name, tensor in found.items()}


@dataclass(frozen=True)
class TeacherSource:
    """Where a student's teacher comes from; can be sent to another process.

    Attributes:
        store: that holds it.
        card: its own.
        options: what the recipe says of it.
        folder: the recipe's.
        inputs: what it gets.
    """

    store: Folder
    card: Card
    options: TeacherOptions
    folder: Path
    inputs: tuple[InputSpec, ...]

    def load(self, device: torch.device) -> LiveTeacher:
        """The teacher, ready to run.

        Raises:
            RecipeError: it is of a kind that cannot be looked into.
            IntegrityError: its weights are no longer those of the card.
        """
        # A model draws its first weights before it is filled: the student's must not depend on it.
        with torch.random.fork_rng(devices=[]):
            teacher = load_teacher(
                self.store, self.card, self.options, self.folder, self.inputs, device
            )
        if not isinstance(teacher, ObservableTeacher):
            raise RecipeError(f"teacher: a teacher of kind {self.options.kind} shows no inside")
        return LiveTeacher(teacher)
