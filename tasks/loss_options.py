"""What a recipe may say about a loss. Imports nothing heavy."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from storage.options import Options, Temperature, built

Share = Annotated[float, Field(ge=0, le=1)]


class SoftLoss(StrEnum):
    """Which divergence from the teacher is minimised."""

    FORWARD_KL = "forward_kl"
    SAMPLED = "sampled"
    """Cross-entropy over the draws of `labels.keep: sample`: unbiased for the full one."""


class Tail(StrEnum):
    """What is done about the classes that are not kept."""

    REST = "rest"
    RENORMALIZE = "renormalize"
    IGNORE = "ignore"


def kept_set_fault(*, drawn: bool) -> str:
    """Why a loss does not fit what is kept: drawn classes and true kept sets are not the same."""
    if drawn:
        return (
            "expected sampled with labels.keep: sample; every other loss is biased over draws, for "
            "they are no kept set"
        )
    return "sampled needs draws; set labels.keep: sample, or another loss"


SoftLossChoice = Annotated[
    SoftLoss,
    BeforeValidator(built(*SoftLoss, planned=("reverse_kl", "jsd", "skew_kl", "mse"))),
]


class LossOptions(Options):
    """The soft loss, the hard loss, and how they are mixed."""

    soft: SoftLossChoice = SoftLoss.FORWARD_KL
    soft_weight: Share = 0.5
    hard_weight: Share | None = None
    """None means 1 - soft_weight."""
    temperature: Temperature | None = None
    """One of the stored temperatures; None means the first of them, T."""
    tail: Tail = Tail.REST
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @property
    def hard_share(self) -> float:
        """The weight of the hard loss."""
        return 1.0 - self.soft_weight if self.hard_weight is None else self.hard_weight

    @model_validator(mode="after")
    def _something_to_learn(self) -> Self:
        if self.soft_weight == 0 and self.hard_share == 0:
            raise ValueError("soft_weight and hard_weight are both 0: there is nothing to learn")
        return self
