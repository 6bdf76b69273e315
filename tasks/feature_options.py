"""What a recipe may say about what is inside a student and its teacher. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

from storage.errors import RecipeError
from storage.features import ATTENTION, FeatureName, Pool
from storage.identity import Json
from storage.options import Options


class MatchLoss(StrEnum):
    """How something inside the student is compared with something inside the teacher."""

    MSE = "mse"
    """The mean squared difference; of attention maps, of their probabilities."""
    COSINE = "cosine"
    """1 - the cosine of the two vectors of a position (DistilBERT)."""
    CE = "ce"
    """Of attention maps: the cross-entropy of each row."""
    GRAM = "gram"
    """The mean squared difference of the matrices width x width of products over the positions of a
    sample (TextBrewer's fsp)."""
    MMD = "mmd"
    """The mean squared difference of the matrices position x position of products; widths may
    differ (TextBrewer's nst)."""


_OF_MAPS = (MatchLoss.MSE, MatchLoss.CE)
_OF_PAIRS = (MatchLoss.GRAM, MatchLoss.MMD)

Names = FeatureName | tuple[FeatureName, FeatureName]
Weight = Annotated[float, Field(gt=0)]


class MatchOptions(Options):
    """Something inside the student that is to become like something inside the teacher.

    Either two names, `{teacher: hidden.-1, student: hidden.-1}`, or a map of layers,
    `{kind: hidden, layers: {1: 3, 2: 6}}`.
    """

    teacher: Names | None = None
    """`hidden.<n>`, `attention.<n>` or `module.<path>`; a pair of them for gram and mmd."""
    student: Names | None = None
    """The same of the student; None means the same name as the teacher's."""
    kind: Literal["hidden", "attention"] | None = None
    """With `layers`: what of them is compared."""
    layers: Literal["uniform"] | dict[NonNegativeInt, NonNegativeInt] | None = None
    """The teacher's layer for each of the student's, counted from 1; `hidden` has a 0, the
    embeddings. `uniform` means all of the student's, spread evenly (TinyBERT's g(m) = 3m)."""
    loss: MatchLoss = MatchLoss.MSE
    weight: Weight = 1.0
    """Of each layer."""
    projection: Literal["auto", "none", "linear"] = "auto"
    """A learned linear map from the student's width to the teacher's; `auto`: where they differ."""
    pool: Pool = Pool.NONE
    """What is made of a sample's positions before they are compared; of stored features the same as
    they were stored with."""
    heads: Literal["each", "mean"] = "each"
    """Of attention maps: each head, or their mean, where the numbers of heads differ."""

    @model_validator(mode="after")
    def _names_or_layers(self) -> Self:
        if self.layers is None and (self.teacher is None or self.kind is not None):
            raise ValueError("expected teacher: <feature>, or kind: and layers:")
        if self.layers is not None and (self.kind is None or self.teacher or self.student):
            raise ValueError("layers goes with kind: hidden or attention, and no other names")
        if self.kind == "attention" and isinstance(self.layers, dict) and 0 in _both(self.layers):
            raise ValueError("layers of attention maps are counted from 1")
        return self

    @model_validator(mode="after")
    def _the_loss_fits(self) -> Self:
        named = (*_tuple(self.teacher), *_tuple(self.student))
        maps = [name.startswith(ATTENTION) for name in named] or [self.kind == "attention"]
        if any(maps) and not (all(maps) and self.loss in _OF_MAPS):
            raise ValueError("an attention map is compared with another one, by mse or ce")
        if self.loss is MatchLoss.CE and not all(maps):
            raise ValueError("ce compares attention maps")
        if any(maps) and (self.projection == "linear" or self.pool is not Pool.NONE):
            raise ValueError("an attention map is neither projected nor pooled; say heads: mean")
        sizes = {len(_tuple(names)) for names in (self.teacher, self.student) if names}
        if len(sizes) > 1 or (2 in sizes and self.loss not in _OF_PAIRS):
            raise ValueError("pairs of features are for gram and mmd, and of both models alike")
        if self.loss in _OF_PAIRS and self.pool is not Pool.NONE:
            raise ValueError(f"{self.loss} compares the positions of a sample: pool them not")
        return self

    def identity(self) -> Json:
        """What decides the weights: what is not said is not there."""
        return self.model_dump(mode="json", exclude_none=True)


class InitialiseOptions(Options):
    """What a student begins with: its teacher's weights, of some of the layers."""

    model_config = ConfigDict(populate_by_name=True)

    source: Annotated[Literal["teacher"], Field(alias="from")] = "teacher"
    layers: Literal["uniform"] | Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = "uniform"
    """The teacher's layer for each of the student's, in order, counted from 1; `uniform` spreads
    them evenly, the last one being the teacher's last."""


@dataclass(frozen=True)
class Match:
    """One comparison.

    Attributes:
        name: what its loss is called.
        student: one or two features of the student.
        teacher: as many of the teacher.
        options: how they are compared, and how much that weighs.
    """

    name: str
    student: tuple[str, ...]
    teacher: tuple[str, ...]
    options: MatchOptions


def matches_of(
    options: Sequence[MatchOptions], student_layers: int, teacher_layers: int | None, where: str
) -> tuple[Match, ...]:
    """The single comparisons, layer maps being written out.

    Args:
        options: what the recipe says.
        student_layers: of the student.
        teacher_layers: of the teacher; None where it is not at hand.
        where: the field of the recipe, for messages.

    Raises:
        RecipeError: one is there twice, or layers cannot be spread evenly.
    """
    found: dict[str, Match] = {}
    for place, entry in enumerate(options):
        for match in _written_out(entry, student_layers, teacher_layers, f"{where}.{place}"):
            if match.name in found:
                raise RecipeError(f"{where}.{place}: {match.name} is matched already; leave it out")
            found[match.name] = match
    return tuple(found.values())


def uniform_layers(student: int, teacher: int, where: str) -> dict[int, int]:
    """The teacher's layer for each of the student's, counted from 1: g(m) = m * teacher / student.

    Raises:
        RecipeError: one number of layers does not divide the other.
    """
    if not student or not teacher or teacher % student:
        raise RecipeError(
            f"{where}.layers: uniform needs a number of teacher's layers that the student's "
            f"divides, got {teacher} and {student}; write the layers out"
        )
    return {layer: layer * (teacher // student) for layer in range(1, student + 1)}


def wanted_features(options: Sequence[MatchOptions]) -> tuple[str, ...]:
    """The teacher's features that are needed, as far as the words alone say: none of `uniform`."""
    names: dict[str, None] = {}
    for entry in options:
        names |= dict.fromkeys(_tuple(entry.teacher))
        if isinstance(entry.layers, Mapping):
            names |= dict.fromkeys(f"{entry.kind}.{layer}" for layer in entry.layers.values())
    return tuple(names)


def _written_out(
    options: MatchOptions, student_layers: int, teacher_layers: int | None, where: str
) -> list[Match]:
    if options.layers is None:
        teacher = _tuple(options.teacher)
        return [_match(_tuple(options.student) or teacher, teacher, options)]
    if isinstance(options.layers, Mapping):
        layers = dict(options.layers)
    elif teacher_layers is None:
        raise RecipeError(
            f"{where}.layers: uniform needs the teacher itself; say teacher: live, or write the "
            "layers out"
        )
    else:
        layers = uniform_layers(student_layers, teacher_layers, where)
        if options.kind == "hidden":
            layers = {0: 0} | layers
    kind = options.kind
    return [
        _match((f"{kind}.{student}",), (f"{kind}.{teacher}",), options)
        for student, teacher in layers.items()
    ]


def _match(student: tuple[str, ...], teacher: tuple[str, ...], options: MatchOptions) -> Match:
    of_teacher = () if student == teacher else teacher
    pool = () if options.pool is Pool.NONE else (options.pool.value,)
    return Match(".".join((options.loss, *student, *of_teacher, *pool)), student, teacher, options)


def _tuple(names: Names | None) -> tuple[str, ...]:
    if names is None:
        return ()
    return (names,) if isinstance(names, str) else names


def _both(layers: Mapping[int, int]) -> tuple[int, ...]:
    return (*layers, *layers.values())
