"""A student and all that it is taught by, made ready to learn."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from storage.errors import RecipeError
from storage.identity import Json
from storage.rows import part
from storage.spec import InputSpec
from tasks.collate import collate
from tasks.feature_options import InitialiseOptions, Match, MatchOptions, matches_of
from tasks.initialise import initialise
from tasks.loss_options import LossOptions
from tasks.nn.learner import Learner
from tasks.nn.matching import Guide, Matching, wanted_of_teacher, watched
from tasks.nn.observe import Shape, feature_shapes, num_layers
from tasks.sources import Source


class Teachers(Protocol):
    """Where a live teacher comes from."""

    def load(self, device: torch.device) -> Guide:
        """The teacher, ready to run on a device."""


@dataclass(frozen=True)
class Inside:
    """What a student takes from inside its teacher.

    Attributes:
        match: what of its inside it compares, where a phase says nothing else.
        live: whether the teacher is run for it; else the label set holds it.
        initialise: what of the teacher's weights it begins with; None: nothing.
        teacher: the teacher itself, where it is needed.
    """

    match: tuple[MatchOptions, ...] = ()
    live: bool = False
    initialise: InitialiseOptions | None = None
    teacher: Teachers | None = None

    def identity(self) -> Json:
        """What decides the weights."""
        return {
            "match": [entry.identity() for entry in self.match],
            "live": self.live,
            "initialise": None if self.initialise is None else self.initialise.identity(),
        }


def learner_of(
    model: nn.Module,
    loss: LossOptions,
    inside: Inside,
    phases: Sequence[Sequence[MatchOptions]],
    source: Source,
    inputs: Sequence[InputSpec],
    device: torch.device,
    where: str,
) -> tuple[Learner, list[tuple[Match, ...]]]:
    """A model with its losses, and what each phase compares; it may begin with teacher's weights.

    Args:
        model: with its first weights.
        loss: of its predictions.
        inside: what it takes from inside its teacher.
        phases: what each phase of training compares; they share their projections.
        source: what it learns from.
        inputs: what it gets.
        device: where the teacher runs.
        where: the student in the recipe, for messages.

    Raises:
        RecipeError: what is to be compared does not fit.
        ModelError: there is no such layer or module, or weights do not fit.
    """
    guide = None if inside.teacher is None else inside.teacher.load(device)
    if inside.initialise is not None:
        assert guide is not None
        initialise(model, guide.module, inside.initialise, f"{where}.initialise")
    live = guide if inside.live else None
    layers = num_layers(model), None if live is None else num_layers(live.module)
    of_phases = [matches_of(entry, *layers, f"{where}.match") for entry in phases]
    matches = tuple({match.name: match for entry in of_phases for match in entry}.values())
    if not matches:
        return Learner(model, loss), of_phases
    ours = feature_shapes(model, inputs, watched(matches), f"{where}.match: the student")
    names = wanted_of_teacher(matches)
    if live is None:
        theirs = stored_shapes(source)
        require_stored(names, theirs, f"{where}.match")
    else:
        theirs = feature_shapes(live.module, inputs, names, f"{where}.match: the teacher")
    matching = Matching(matches, ours, theirs, f"{where}.match", live)
    return Learner(model, loss, matching, of_phases[0]), of_phases


def stored_shapes(source: Source) -> Mapping[str, Shape]:
    """The shapes of the features that a source holds, for its first sample."""
    first = part(source.read(0), 0, 1)
    features = collate(first, source.temperatures, source.drawn_at, augment=source.augment).features
    return {name: tuple(tensor.shape[1:]) for name, tensor in features.items()}


def require_stored(names: Sequence[str], stored: Collection[str], where: str) -> None:
    """Refuse to compare with what the label set does not hold.

    Raises:
        RecipeError: it lacks a feature.
    """
    missing = [name for name in names if name not in stored]
    if missing:
        raise RecipeError(
            f"{where}: the label set holds no {missing[0]!r}; add it to labels.features, or say "
            "teacher: live"
        )
