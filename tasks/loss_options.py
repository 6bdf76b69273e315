"""What a recipe may say about a loss. Imports nothing heavy."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from storage.identity import Json
from storage.options import Options
from tasks.loss_schedules import (
    AnyOfThem,
    LossTemperature,
    TemperatureSteps,
    Weight,
    weight_at,
)
from tasks.loss_schedules import Share as Share


class SoftLoss(StrEnum):
    """Which divergence from the teacher p is minimised by the student q."""

    FORWARD_KL = "forward_kl"
    """KL(p || q): the student covers all that the teacher gives mass to."""
    REVERSE_KL = "reverse_kl"
    """KL(q || p): the student keeps to what the teacher is sure of."""
    JSD = "jsd"
    """beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q."""
    SKEW_KL = "skew_kl"
    """KL(p || alpha p + (1 - alpha) q): bounded where the student has next to no mass."""
    MSE = "mse"
    """The mean squared difference of logits, up to the constant that softmax does not see."""
    SAMPLED = "sampled"
    """Cross-entropy over the draws of `labels.keep: sample`: unbiased for the full one."""


class Tail(StrEnum):
    """What is done about the classes that are not kept."""

    REST = "rest"
    """All of them together are one entry more, for teacher and student alike."""
    RENORMALIZE = "renormalize"
    """Both models are renormalised over the kept classes: what lies elsewhere does not matter."""
    IGNORE = "ignore"
    """The sum over the kept classes alone, of probabilities as they are; no true divergence."""


class LossOptions(Options):
    """The soft loss, the hard loss, and how they are mixed."""

    soft: SoftLoss = SoftLoss.FORWARD_KL
    beta: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """For `jsd`: the teacher's share of the mixture. Over beta it tends to forward_kl for beta to
    0, over 1 - beta to reverse_kl for beta to 1."""
    alpha: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """For `skew_kl`: the teacher's share of the mixture; 0 is forward_kl."""
    soft_weight: Weight = 0.5
    hard_weight: Weight | None = None
    """None means 1 - soft_weight."""
    temperature: LossTemperature | None = None
    """One of the stored temperatures, `std` among them; None means the first of them, T. A list
    steps through stored ones. `{kind: flsw | cwsm, base: ...}` is worked out for each position and
    needs `labels.keep: all`."""
    tail: Tail = Tail.REST
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def weights(self, done: float) -> tuple[float, float]:
        """The weights of soft and hard loss when the share `done` of training is over."""
        soft = weight_at(self.soft_weight, done)
        return soft, 1.0 - soft if self.hard_weight is None else weight_at(self.hard_weight, done)

    def temperature_at(self, done: float) -> float | Literal["std"] | AnyOfThem | None:
        """The temperature when the share `done` of training is over; None means T."""
        at = self.temperature
        return at.at(done) if isinstance(at, TemperatureSteps) else at

    @property
    def learns_soft(self) -> bool:
        """Whether the soft loss ever has a weight."""
        return any(self.weights(done)[0] > 0 for done in (0.0, 1.0))

    @property
    def learns_hard(self) -> bool:
        """Whether the hard loss ever has a weight."""
        return any(self.weights(done)[1] > 0 for done in (0.0, 1.0))

    def identity(self) -> Json:
        """What decides the gradient; not options without effect."""
        unused = {"beta": self.soft is not SoftLoss.JSD, "alpha": self.soft is not SoftLoss.SKEW_KL}
        unused["tail"] = self.soft is SoftLoss.SAMPLED
        if not self.learns_soft:
            unused |= dict.fromkeys(("soft", "beta", "alpha", "temperature", "tail"), True)
        unused["label_smoothing"] = not self.learns_hard
        left_out = {name for name, is_unused in unused.items() if is_unused}
        return self.model_dump(mode="json", exclude=left_out)

    @model_validator(mode="after")
    def _something_to_learn(self) -> Self:
        for done, when in ((0.0, "at the start"), (1.0, "at the end")):
            if self.weights(done) == (0.0, 0.0):
                raise ValueError(
                    f"soft_weight and hard_weight are both 0 {when}: there is nothing to learn"
                )
        return self
