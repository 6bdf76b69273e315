"""The base of everything that a recipe may say: frozen values, strict about unknown keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from storage.identity import Json

Name = Annotated[str, Field(pattern=r"^[a-z0-9-]+$", max_length=80)]
SPLIT_NAME_PATTERN: Final = r"^[a-z0-9_]{1,40}$"
SplitName = Annotated[str, Field(pattern=SPLIT_NAME_PATTERN)]
ColumnName = Annotated[str, Field(min_length=1, max_length=200)]
ColumnNames = Annotated[tuple[ColumnName, ...], Field(min_length=1)]
Temperature = Annotated[float, Field(gt=0, le=1000)]
STD: Final = "std"
"""In place of a temperature: the deviation of each position's own logits."""
AnyTemperature = float | Literal["std"]
"""A temperature that is stored, as the program passes it."""


def numbers_among(temperatures: Iterable[AnyTemperature]) -> tuple[float, ...]:
    """The temperatures that are the same at every position."""
    return tuple(at for at in temperatures if at != STD)


def temperature_names(temperatures: Iterable[AnyTemperature]) -> tuple[str, ...]:
    """Temperatures as people write them: `2`, `0.5`, `std`."""
    return tuple(at if at == STD else f"{at:g}" for at in temperatures)


class Options(BaseModel):
    """Base of all options: frozen, strict about unknown keys, finite numbers only."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    def identity(self) -> Json:
        """What these options contribute to a fingerprint."""
        return self.model_dump(mode="json")


def built(*values: str, planned: tuple[str, ...]) -> Callable[[Any], Any]:
    """A check for a choice: a planned value is refused as not built yet, never ignored."""

    def check(value: Any) -> Any:
        if isinstance(value, str) and value in planned:
            raise ValueError(f"{value!r} is not built yet; there is: {', '.join(values)}")
        return value

    return check


class Task(StrEnum):
    """What one prediction of the teacher is about."""

    CLASSIFICATION = "classification"
    TAGGING = "tagging"
    MASKED_LM = "masked_lm"
    CAUSAL_LM = "causal_lm"

    @property
    def has_many_positions(self) -> bool:
        """Whether a sample holds a prediction per token."""
        return self is not Task.CLASSIFICATION

    @property
    def is_language_model(self) -> bool:
        """Whether the classes are a vocabulary."""
        return self in (Task.MASKED_LM, Task.CAUSAL_LM)
