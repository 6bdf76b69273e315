"""What a recipe may say of augmentation: a list of steps, each a small change of an input.

A step is random, and every random number in it comes from the seed of one view of one sample (see
`tasks.nn.augment`), so a student sees again what the teacher saw. A label set holds these options
in its specification. What a step does to which number is said in storage/FORMAT.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal, Self

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from storage.errors import RecipeError
from storage.options_base import ColumnName, Options, Task

if TYPE_CHECKING:
    from storage.spec import InputSpec

Probability = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, lt=1)]
Clip = tuple[float, float]
Fill = Literal["zero", "reflect", "wrap"]

_ARITHMETIC_DTYPES: Final = ("uint8", "int8", "int16", "float16", "float32", "float64")
_MOST_OFFSET: Final = 1 << 30


class _Step(Options):
    """What all steps have."""

    moves: ClassVar[bool] = False
    """Whether values change their places; then labels must not belong to places."""
    calculates: ClassVar[bool] = False
    """Whether values are calculated with, so that they must not be ids."""

    input: ColumnName | None = None
    """Which input is changed. Without it, the first."""

    def problem(self, shape: tuple[int, ...] | None, dtype: str) -> str | None:
        """Why an input of that shape (None: its length varies) cannot be changed so, or nothing."""
        return self._problem_of_shape(shape) or self._problem_of_dtype(shape, dtype)

    def _axes(self) -> tuple[int, ...]:
        """The least length of each of the last axes; empty where any shape will do."""
        return ()

    def _problem_of_shape(self, shape: tuple[int, ...] | None) -> str | None:
        axes = self._axes()
        if not axes:
            return None
        if shape is None:
            return "its samples vary in length, which this step cannot change"
        if len(shape) < len(axes):
            return f"its samples have {len(shape)} axes, expected at least {len(axes)}"
        for length, least in zip(shape[-len(axes) :], axes, strict=True):
            if length < least:
                return f"its samples are of shape {shape}, expected at least {axes} at the end"
        return None

    def _problem_of_dtype(self, shape: tuple[int, ...] | None, dtype: str) -> str | None:
        if not self.calculates:
            return None
        whole = np.dtype(dtype).kind != "f"
        if dtype not in _ARITHMETIC_DTYPES or (whole and shape is None and dtype != "int16"):
            return f"it holds {dtype}, expected float, uint8, int8 or int16: others may be ids"
        return None


class _SampleStep(_Step):
    """A step that is taken for a whole sample, or not."""

    p: Probability = 1.0
    """How likely it is taken."""


class FlipStep(_SampleStep):
    """The last axis backwards, or the one before it."""

    kind: Literal["flip"]
    moves: ClassVar[bool] = True
    p: Probability = 0.5
    axis: Literal["horizontal", "vertical"] = "horizontal"

    def _axes(self) -> tuple[int, ...]:
        return (1,) if self.axis == "horizontal" else (1, 1)


class CropStep(_SampleStep):
    """As if the last two axes were padded on all sides and a part of the first size cut out."""

    kind: Literal["crop"]
    moves: ClassVar[bool] = True
    padding: Annotated[PositiveInt, Field(le=_MOST_OFFSET)]
    """How much is padded on each side."""
    fill: Fill = "zero"

    def _axes(self) -> tuple[int, ...]:
        least = self.padding + 1 if self.fill == "reflect" else 1
        return (least, least)


class ShiftStep(_SampleStep):
    """The last axes moved by random numbers of places."""

    kind: Literal["shift"]
    moves: ClassVar[bool] = True
    by: Annotated[
        tuple[Annotated[NonNegativeInt, Field(le=_MOST_OFFSET)], ...], Field(min_length=1)
    ]
    """The most places, either way, for each of the last axes: one number for sounds, rows and
    columns for images."""
    fill: Fill = "zero"

    def _axes(self) -> tuple[int, ...]:
        return tuple(most + 1 if self.fill == "reflect" else 1 for most in self.by)

    def _problem_of_shape(self, shape: tuple[int, ...] | None) -> str | None:
        if shape is None and len(self.by) == 1 and self.fill != "reflect":
            return None
        return super()._problem_of_shape(shape)


class RotateStep(_SampleStep):
    """The last two axes, equally long, turned by none to three quarters."""

    kind: Literal["rotate"]
    moves: ClassVar[bool] = True

    def _axes(self) -> tuple[int, ...]:
        return (1, 1)

    def _problem_of_shape(self, shape: tuple[int, ...] | None) -> str | None:
        if shape is not None and len(shape) > 1 and shape[-1] != shape[-2]:
            return f"its samples are of shape {shape}, expected squares at the end"
        return super()._problem_of_shape(shape)


class EraseStep(_SampleStep):
    """A part of the last axes, at a random place, set to one value."""

    kind: Literal["erase"]
    moves: ClassVar[bool] = True
    size: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    """Its length along each of the last axes."""
    value: float = 0.0

    def _axes(self) -> tuple[int, ...]:
        return self.size

    def _problem_of_dtype(self, shape: tuple[int, ...] | None, dtype: str) -> str | None:
        return _problem_of_value(self.value, dtype) or super()._problem_of_dtype(shape, dtype)


class _ArithmeticStep(_SampleStep):
    calculates: ClassVar[bool] = True

    clip: Clip | None = None
    """The least and the largest value of the result. Whole numbers stay within their type."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.clip is not None and self.clip[0] >= self.clip[1]:
            raise ValueError(f"clip: expected two rising numbers, got {self.clip}")
        return self


class BrightnessStep(_ArithmeticStep):
    """All values times one number around 1."""

    kind: Literal["brightness"]
    amount: Amount
    """The number lies between 1 - amount and 1 + amount."""


class ContrastStep(_ArithmeticStep):
    """All distances from the middle times one number around 1."""

    kind: Literal["contrast"]
    amount: Amount
    """The number lies between 1 - amount and 1 + amount."""
    middle: float | None = None
    """What stays as it is. Without it 127.5 for uint8, and 0 for others."""


class GainStep(_ArithmeticStep):
    """A sound made louder or softer."""

    kind: Literal["gain"]
    decibels: Annotated[float, Field(gt=0, le=100)]
    """At most so much, either way."""


class NoiseStep(_ArithmeticStep):
    """A normal random number added to each value."""

    kind: Literal["noise"]
    deviation: Annotated[float, Field(gt=0)]
    """The standard deviation, in units of the values."""


class DropStep(_Step):
    """Some values replaced by one."""

    kind: Literal["drop"]
    p: Probability
    """How likely each value is replaced."""
    value: float = 0.0

    def _problem_of_dtype(self, shape: tuple[int, ...] | None, dtype: str) -> str | None:
        return _problem_of_value(self.value, dtype)


class TokenDropStep(_Step):
    """Some tokens replaced by one, such as the mask token."""

    kind: Literal["token_drop"]
    p: Probability
    """How likely each token is replaced."""
    id: NonNegativeInt
    """The token that replaces them."""

    def _problem_of_dtype(self, shape: tuple[int, ...] | None, dtype: str) -> str | None:
        if np.dtype(dtype).kind not in "iu":
            return f"it holds {dtype}, expected the whole numbers of tokens"
        return _problem_of_value(self.id, dtype)


AugmentStep = Annotated[
    FlipStep
    | CropStep
    | ShiftStep
    | RotateStep
    | EraseStep
    | BrightnessStep
    | ContrastStep
    | GainStep
    | NoiseStep
    | DropStep
    | TokenDropStep,
    Field(discriminator="kind"),
]
"""One step of augmentation."""


class ViewOptions(Options):
    """How many forms of each training sample are labelled; other splits are left as they are."""

    views: PositiveInt = 1
    """How many forms of each training sample are labelled, each augmented by a seed of its own."""
    augment: tuple[AugmentStep, ...] = ()
    """The steps that make a view, one after the other; teacher and student see the same."""
    augment_seed: Annotated[int, Field(ge=0)] = 0
    """Another seed makes other views."""
    original_first: bool = False
    """The first view of each sample is the sample as it is."""

    @model_validator(mode="after")
    def _views_differ(self) -> Self:
        if self.views > 1 and not self.augment:
            raise ValueError("views: several of a sample would all be the same; name augment steps")
        if self.original_first and self.views == 1:
            raise ValueError("original_first: goes with views of 2 or more, got 1")
        return self


def require_fitting(steps: Sequence[AugmentStep], inputs: Sequence[InputSpec], task: Task) -> None:
    """Refuse steps that the inputs or the task do not allow.

    Raises:
        RecipeError: naming the step, counted from 0.
    """
    if steps and task.is_language_model:
        raise RecipeError(
            "data.augment: the labels of a language model are its own tokens, which must stay as "
            "they are; leave data.augment and data.views out"
        )
    by_name = {entry.name: entry for entry in inputs}
    for number, step in enumerate(steps):
        where = f"data.augment.{number}.{step.kind}"
        name = step.input or inputs[0].name
        if name not in by_name:
            raise RecipeError(f"{where}.input: expected one of {', '.join(by_name)}, got {name!r}")
        if task.has_many_positions and step.moves:
            raise RecipeError(
                f"{where}: each place of a {task.value} sample has a label of its own, so values "
                "must stay in their places; leave this step out"
            )
        problem = step.problem(by_name[name].shape, by_name[name].dtype)
        if problem:
            raise RecipeError(f"{where}: the input {name!r} cannot be changed so: {problem}")


def _problem_of_value(value: float, dtype: str) -> str | None:
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return None
    low, high = (0, 1) if kind.kind == "b" else (np.iinfo(kind).min, np.iinfo(kind).max)
    if value != int(value) or not low <= value <= high:
        return f"it holds {dtype}, which has no {value:g}"
    return None
