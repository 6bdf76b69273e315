"""A student's inside held against its teacher's: projections, and the losses by name.

Shape letters: B samples, N positions inside a model, W width, H heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from storage.errors import ModelError, RecipeError
from storage.features import ATTENTION, Pool
from tasks.feature_options import Match, MatchLoss
from tasks.nn.batch import Batch
from tasks.nn.counts import Counts
from tasks.nn.match_losses import match_loss
from tasks.nn.observe import Found, Shape, real_positions
from tasks.nn.places import Places, real_places
from tasks.nn.pooling import by_place, pooled


class Guide(Protocol):
    """A live teacher."""

    @property
    def module(self) -> nn.Module:
        """The model itself."""

    def features(self, inputs: tuple[Tensor, ...], names: Sequence[str]) -> Found:
        """What is inside it by name, [B, ...] each, on the device of the inputs; no gradient."""


class Matching(nn.Module):
    """The comparisons of a student with its teacher, and the projections that learn with it."""

    def __init__(
        self,
        matches: Sequence[Match],
        student: Mapping[str, Shape],
        teacher: Mapping[str, Shape],
        where: str,
        guide: Guide | None = None,
    ) -> None:
        """Make the projections.

        Args:
            matches: all that are ever compared.
            student: the shapes of the student's features, without B.
            teacher: those of the teacher's.
            where: the field of the recipe, for messages.
            guide: the live teacher; None where batches hold its features.

        Raises:
            RecipeError: widths or heads differ, and nothing is to be done about it.
        """
        super().__init__()
        self._guides = (guide,)  # in a tuple: the teacher's weights are not this module's
        self.projections = nn.ModuleDict()
        for match in matches:
            sizes = _width(student[match.student[0]]), _width(teacher[match.teacher[0]])
            if _is_projected(match, *sizes, f"{where}: {match.name}"):
                self.projections[_key(match)] = nn.Linear(*sizes)

    def forward(
        self, matches: Sequence[Match], model: nn.Module, found: Found, batch: Batch, counts: Counts
    ) -> dict[str, Tensor]:
        """The losses by name, without their weights: this batch's part of the global means.

        Args:
            matches: those that are compared now.
            model: the student.
            found: what was inside it.
            batch: what it got.
            counts: those of the global batch.

        Raises:
            ModelError: the student's features have other positions than the teacher's.
        """
        theirs = self._of_teacher(matches, batch)
        return {
            match.name: self._loss(match, model, found, theirs, batch, counts) for match in matches
        }

    def _loss(
        self,
        match: Match,
        model: nn.Module,
        found: Found,
        theirs: Found,
        batch: Batch,
        counts: Counts,
    ) -> Tensor:
        pool = match.options.pool
        student = tuple(_placed(name, found[name], model, batch, pool) for name in match.student)
        if _key(match) in self.projections:
            project = self.projections[_key(match)]
            dtype = next(project.parameters()).dtype
            student = tuple(project(entry.to(dtype)) for entry in student)
        guide = self._guides[0]
        teacher = tuple(
            _placed(name, theirs[name], None if guide is None else guide.module, batch, pool)
            for name in match.teacher
        )
        count = student[0].shape[-2]
        if {entry.shape[-2] for entry in (*student, *teacher)} != {count}:
            raise ModelError(
                f"{match.name}: the student's has {count} positions, the teacher's "
                f"{teacher[0].shape[-2]}; pool: mean, or compare what has the same"
            )
        real_BN = None if pool is not Pool.NONE else real_positions(model, batch.inputs, count)
        dtype = torch.promote_types(student[0].dtype, torch.float32)
        places = Places.of(batch, counts, count, real_BN, dtype)
        return match_loss(match, student, teacher, places)

    def _of_teacher(self, matches: Sequence[Match], batch: Batch) -> Found:
        guide = self._guides[0]
        if guide is None:
            return batch.features
        return guide.features(batch.inputs, wanted_of_teacher(matches))


def wanted_of_teacher(matches: Sequence[Match]) -> tuple[str, ...]:
    """What is needed of the teacher's inside."""
    return tuple(dict.fromkeys(name for match in matches for name in match.teacher))


def watched(matches: Sequence[Match]) -> tuple[str, ...]:
    """What has to be watched in the student."""
    return tuple(dict.fromkeys(name for match in matches for name in match.student))


def _placed(
    name: str, feature: Tensor, model: nn.Module | None, batch: Batch, pool: Pool
) -> Tensor:
    """A feature as [B, N, W], or a map; what is stored was pooled before."""
    if name.startswith(ATTENTION):
        return feature
    x_BNW = by_place(name, feature)
    if pool is Pool.NONE or model is None:
        return x_BNW
    return pooled(x_BNW, real_places(model, batch, x_BNW.shape[1]), pool)[:, None]


def _is_projected(match: Match, ours: int, theirs: int, where: str) -> bool:
    said = match.options.projection
    if match.teacher[0].startswith(ATTENTION):
        if match.options.heads == "each" and ours != theirs:
            raise RecipeError(
                f"{where}: the student has {ours} heads, the teacher {theirs}; say heads: mean"
            )
        return False
    if said == "linear":
        return True
    if ours == theirs or match.options.loss is MatchLoss.MMD:
        return False
    if said == "none":
        raise RecipeError(
            f"{where}: the student's is {ours} wide, the teacher's {theirs}; say projection: linear"
        )
    return True


def _width(shape: Shape) -> int:
    """W of [N, W] or [W], the channels of an image, the heads of a map."""
    width = shape[0] if len(shape) == 3 else shape[-1]
    assert width is not None
    return width


def _key(match: Match) -> str:
    """A name as torch allows it for a module."""
    return match.name.replace(".", "_")
