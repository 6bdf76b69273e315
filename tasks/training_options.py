"""What a recipe may say about training. Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from storage.identity import Json
from storage.options import Options
from tasks.loss_options import Share


class TrainingOptions(Options):
    """How a model is trained."""

    epochs: PositiveInt = 10
    batch_size: PositiveInt = 64
    """Samples of a step."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Share = 0.05
    """The share of all steps in which the learning rate rises from 0."""
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """The largest norm of the gradient; None clips nothing."""
    frozen: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Parameters that do not learn, by patterns of their names: `bert.embeddings.*`."""
    seed: NonNegativeInt = 0
    window: PositiveInt = 16
    """Row groups that are shuffled together."""
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 15.0
    """At least so long between two checkpoints."""

    def identity(self) -> Json:
        """What decides the weights; not when they are saved meanwhile."""
        return self.model_dump(mode="json", exclude={"checkpoint_seconds"})
