"""What a recipe may say about training. Imports nothing heavy.

What decides the weights is part of a student's identity; how they are computed is not: how many
samples go through the model at once, or what is kept and shown meanwhile.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from storage.identity import Json
from storage.options import Options
from tasks.feature_options import MatchOptions
from tasks.loss_options import LossOptions
from tasks.loss_schedules import Share
from tasks.optimizer_options import OptimizerName, require_arguments

# How, and not what, is computed: the weights are the same within rounding.
_NO_IDENTITY: Final = (
    "checkpoint_seconds", "micro_batch_size", "logits", "compile", "tensorboard", "workers",
    "processes",
)  # fmt: skip
# Left out where nothing is said, so that what is asked for stays short to read.
_ONLY_IF_SAID: Final = (
    "optimizer_arguments", "frozen", "precision", "early_stopping", "keep", "phases",
)  # fmt: skip
Rate = Annotated[float, Field(gt=0)]
Schedule = Literal["cosine", "linear", "constant"]


class LogitsForm(StrEnum):
    """How a student's logits are made."""

    AUTO = "auto"
    WHOLE = "whole"
    BLOCKS = "blocks"


class EarlyStopping(Options):
    """When training ends before its last epoch."""

    patience: PositiveInt = 3
    """Epochs without an improvement after which it ends."""
    metric: Literal["validation_loss", "validation_accuracy"] = "validation_loss"
    """The figure of the validation split that is to improve."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """What improves by no more than this counts as no improvement."""


class PhaseOptions(Options):
    """One phase of training; what is not said is as it is for all of them."""

    epochs: PositiveInt
    loss: LossOptions | Literal["none"] | None = None
    """`none`: predictions do not count in this phase, only what is matched."""
    match: tuple[MatchOptions, ...] | None = None
    """What of a student's inside is compared in this phase; `[]` is nothing."""
    learning_rate: Rate | None = None
    schedule: Schedule | None = None
    warmup: Share | None = None

    def identity(self) -> Json:
        """What decides the weights: what is not said is not there."""
        said = self.model_dump(mode="json", exclude_none=True)
        if isinstance(self.loss, LossOptions):
            said["loss"] = self.loss.identity()
        if self.match is not None:
            said["match"] = [entry.identity() for entry in self.match]
        return said


class TrainingOptions(Options):
    """How a model is trained."""

    epochs: PositiveInt = 10
    batch_size: PositiveInt = 64
    """Samples of a step, over all processes."""
    micro_batch_size: PositiveInt | None = None
    """Samples through the model at once; a step's gradient is added up from such parts. None is all
    of a step. Where memory does not suffice it is halved."""
    logits: LogitsForm = LogitsForm.AUTO
    """How logits are made where a student's last layer is linear. `whole`: at once. `blocks`: of
    some positions at a time, twice, so that they take next to no memory. `auto`: in blocks where
    they would take more than 1 GiB."""
    optimizer: OptimizerName = "adamw"
    """`muon` is for matrices; embeddings, biases and norms learn by AdamW beside it."""
    optimizer_arguments: dict[str, Any] = Field(default_factory=dict)
    """What torch's optimizer takes besides, such as `{momentum: 0.9}` for `sgd`."""
    learning_rate: Rate = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    schedule: Schedule = "cosine"
    warmup: Share = 0.05
    """The share of all steps in which the learning rate rises from 0."""
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """The largest norm of the gradient; None clips nothing."""
    frozen: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Parameters that do not learn, by patterns of their names: `bert.embeddings.*`."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the forward pass, by autocast; float16 on CUDA only."""
    compile: bool = False
    """Whether torch compiles the model; it needs a C++ compiler."""
    early_stopping: EarlyStopping | None = None
    """Ends training when the validation split says so."""
    keep: Literal["last", "best"] = "last"
    """Which weights are kept: those of the last step, or those of the epoch that is best by
    `early_stopping.metric`, which without early stopping is the validation loss."""
    phases: tuple[PhaseOptions, ...] = ()
    """Instead of `epochs`: one phase after the other, each with an optimizer and schedule anew."""
    seed: NonNegativeInt = 0
    window: PositiveInt = 16
    """Row groups that are shuffled together."""
    processes: PositiveInt = 1
    """Processes on each machine that train together, each on its part of every batch; on CUDA one
    for each device."""
    workers: NonNegativeInt = 0
    """Processes that read ahead, for each that trains; 0 reads in a thread, which is enough unless
    steps are very short."""
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 15.0
    """At least so long between two checkpoints."""
    tensorboard: bool | str = False
    """Write event files for TensorBoard, beside the model; or into a folder that is named."""

    @property
    def total_epochs(self) -> int:
        """Of all phases; early stopping may end them sooner."""
        return sum(phase.epochs for phase in self.phases) or self.epochs

    @property
    def metric(self) -> str:
        """The figure by which epochs are compared."""
        return "validation_loss" if self.early_stopping is None else self.early_stopping.metric

    @property
    def needs_validation(self) -> bool:
        """Whether there has to be a validation split."""
        return self.early_stopping is not None or self.keep == "best"

    def identity(self) -> Json:
        """What decides the weights; not how they are computed, and what is kept meanwhile."""
        said = self.model_dump(mode="json", exclude=set(_NO_IDENTITY))
        fields = type(self).model_fields
        for name in _ONLY_IF_SAID:
            if getattr(self, name) == fields[name].get_default(call_default_factory=True):
                del said[name]
        if self.phases:
            del said["epochs"]
            said["phases"] = [phase.identity() for phase in self.phases]
        return said

    @model_validator(mode="after")
    def _arguments_of_the_optimizer(self) -> Self:
        require_arguments(self.optimizer, self.optimizer_arguments)
        return self

    @model_validator(mode="after")
    def _epochs_are_said_once(self) -> Self:
        usual = type(self).model_fields["epochs"].default
        if self.phases and self.epochs not in (usual, self.total_epochs):
            raise ValueError(
                f"epochs: the phases have {self.total_epochs} together, got {self.epochs}; leave "
                "it out beside phases"
            )
        return self
