"""What a loss needs of the labels, asked of a recipe before any work and of a label set once more.

Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from storage.options import AnyTemperature, Keep, temperature_names
from tasks.loss_options import LossOptions, SoftLoss
from tasks.loss_schedules import CwsmTemperature, FlswTemperature, TemperatureSteps


@dataclass(frozen=True)
class Misfit:
    """What a loss asks for that the labels do not hold.

    Attributes:
        field: of the loss.
        reason: what was expected, what came, what to do.
    """

    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}"


def misfit(
    loss: LossOptions,
    keep: Keep,
    stored: Sequence[AnyTemperature],
    *,
    padded: bool,
    has_label: bool,
) -> Misfit | None:
    """Why labels cannot serve a loss; None where they can.

    Args:
        loss: the loss.
        keep: how the classes were chosen of the split that is learnt from.
        stored: the stored temperatures.
        padded: whether models may have outputs beyond the classes.
        has_label: whether there are hard labels.
    """
    if loss.learns_soft:
        found = kept_set_misfit(loss.soft, drawn=keep is Keep.SAMPLE) or _temperature_misfit(
            loss, keep, stored, padded=padded
        )
        if found is not None:
            return found
    if loss.learns_hard and not has_label:
        return Misfit(
            "hard_weight",
            "expected 0 without hard labels, got "
            f"{max(loss.weights(done)[1] for done in (0.0, 1.0)):g}; name their column in "
            "data.label, or set soft_weight: 1",
        )
    return None


def kept_set_misfit(soft: SoftLoss, *, drawn: bool) -> Misfit | None:
    """Drawn classes and true kept sets are not the same."""
    if drawn == (soft is SoftLoss.SAMPLED):
        return None
    if drawn:
        return Misfit(
            "soft",
            "expected sampled with labels.keep: sample; every other loss is biased over draws, "
            f"for they are no kept set; got {soft}",
        )
    return Misfit(
        "soft", f"sampled needs draws; set labels.keep: sample, or another loss; got {soft}"
    )


def temperature_misfit(wanted: AnyTemperature, stored: Sequence[AnyTemperature]) -> Misfit | None:
    """A temperature at which no rest is stored."""
    if wanted in stored:
        return None
    return Misfit(
        "temperature",
        f"expected one of the stored temperatures {', '.join(temperature_names(stored))}, got "
        f"{temperature_names([wanted])[0]}; add it to labels.temperatures to have it stored",
    )


def any_temperature_misfit(
    at: FlswTemperature | CwsmTemperature, *, every_class: bool
) -> Misfit | None:
    """Temperatures of any value where the mass of what is not kept is known at some alone."""
    if every_class:
        return None
    return Misfit(
        "temperature",
        f"{at.kind} takes any temperature, which needs every class: set labels.keep: all (without "
        "data.padded), or name stored temperatures",
    )


def _temperature_misfit(
    loss: LossOptions, keep: Keep, stored: Sequence[AnyTemperature], *, padded: bool
) -> Misfit | None:
    at = loss.temperature
    if isinstance(at, FlswTemperature | CwsmTemperature):
        return any_temperature_misfit(at, every_class=keep is Keep.ALL and not padded)
    wanted = at.values if isinstance(at, TemperatureSteps) else () if at is None else (at,)
    found = (temperature_misfit(one, stored) for one in wanted)
    return next((one for one in found if one is not None), None)
