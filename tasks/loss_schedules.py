"""What of a loss may change while training goes on: its weights and its temperature.

Each is a function of `done`, the share of training that is over, from 0 to 1, so it needs no state.
Imports nothing heavy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from storage.options import Options, Temperature

Share = Annotated[float, Field(ge=0, le=1)]


class WeightSchedule(Options):
    """A weight that goes from one value to another over all of training."""

    schedule: Literal["linear", "cosine"] = "linear"
    """`cosine` is slow at both ends."""
    start: Share
    end: Share

    def at(self, done: float) -> float:
        """The weight when the share `done` of training is over."""
        way = done if self.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * done))
        return (1 - way) * self.start + way * self.end


StoredTemperature = Temperature | Literal["std"]
"""One of `labels.temperatures`; `std` is each position's own deviation."""


class TemperatureSteps(Options):
    """Stored temperatures, one after the other. A list of them is short for even steps."""

    kind: Literal["steps"] = "steps"
    values: Annotated[tuple[StoredTemperature, ...], Field(min_length=1)]
    starts: tuple[Share, ...] | None = None
    """The share of training from which each is used, the first from 0; None divides evenly."""

    @model_validator(mode="after")
    def _one_start_each(self) -> Self:
        starts = self.starts
        if starts is None:
            return self
        if len(starts) != len(self.values) or starts[0] != 0 or list(starts) != sorted(starts):
            raise ValueError("starts: expected one for each of values, rising, the first one 0")
        return self

    def at(self, done: float) -> float | Literal["std"]:
        """The temperature when the share `done` of training is over."""
        count = len(self.values)
        starts = self.starts or [place / count for place in range(count)]
        return self.values[sum(start <= done for start in starts) - 1]


class FlswTemperature(Options):
    """A lower temperature where the student differs more from the teacher (TextBrewer's `flsw`).

    Of Wen et al., "Preparing Lessons", arXiv 1911.07471. Needs `labels.keep: all`.
    """

    kind: Literal["flsw"]
    base: Temperature
    """The mean over the positions that are computed at once: those of a process and micro-batch."""
    beta: Annotated[float, Field(ge=0)] = 1.0
    """How far temperatures spread."""
    gamma: Annotated[float, Field(ge=0)] = 2.0
    """The power of 1 - cosine of the two models' logits."""


class CwsmTemperature(Options):
    """A lower temperature where the student is less sure (TextBrewer's `cwsm`).

    Of Wen et al., "Preparing Lessons", arXiv 1911.07471. Needs `labels.keep: all`.
    """

    kind: Literal["cwsm"]
    base: Temperature
    """The mean over the positions that are computed at once: those of a process and micro-batch."""
    beta: Annotated[float, Field(ge=0)] = 1.0
    """How far temperatures spread."""


AnyOfThem = FlswTemperature | CwsmTemperature
"""Temperatures that are worked out for each position, and may be any number."""


def _form_of_weight(value: Any) -> str:
    return "schedule" if isinstance(value, Mapping | Options) else "constant"


def _form_of_temperature(value: Any) -> str:
    if isinstance(value, Mapping | Options):
        return "varying"
    return "std" if value == "std" else "constant"


def _steps_of_list(value: Any) -> Any:
    return {"kind": "steps", "values": value} if isinstance(value, list | tuple) else value


Weight = Annotated[
    Annotated[Share, Tag("constant")] | Annotated[WeightSchedule, Tag("schedule")],
    Discriminator(_form_of_weight),
]
"""A share, or `{schedule: linear | cosine, start: ..., end: ...}`."""

_Varying = Annotated[
    TemperatureSteps | FlswTemperature | CwsmTemperature, Field(discriminator="kind")
]
_Form = Annotated[
    Annotated[Temperature, Tag("constant")]
    | Annotated[Literal["std"], Tag("std")]
    | Annotated[_Varying, Tag("varying")],
    Discriminator(_form_of_temperature),
]
LossTemperature = Annotated[
    _Form,
    BeforeValidator(
        _steps_of_list,
        json_schema_input_type=_Form | Annotated[list[StoredTemperature], Field(min_length=1)],
    ),
]
"""A stored temperature, a list of them to step through, or a mapping with `kind`."""


def weight_at(weight: float | WeightSchedule, done: float) -> float:
    """A weight, constant or not, when the share `done` of training is over."""
    return weight.at(done) if isinstance(weight, WeightSchedule) else weight
