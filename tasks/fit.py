"""Fitting one model to a stream of batches: from the recipe's words to the weights that are kept.

Students learn from stored labels and fitted teachers from hard ones; both go through here. Stopped
at any moment and called again, it goes on from the newest checkpoint; on one CPU the weights end in
the same bits.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from storage import layout, schema
from storage.errors import RecipeError
from storage.files import Folder
from storage.identity import Json
from storage.options import VALIDATION, Task
from storage.spec import InputSpec
from tasks.checkpoints import Checkpoints
from tasks.event_files import event_files, events_folder
from tasks.fitting import Fitting, Step
from tasks.history import Row
from tasks.learners import Inside, learner_of
from tasks.loss_options import LossOptions
from tasks.model_options import ModelOptions
from tasks.models import ModelForm, build
from tasks.nn.compiling import compiled
from tasks.nn.frozen import freeze
from tasks.nn.precision import require_precision
from tasks.nn.ranks import Alone, Ranks
from tasks.phases import Phase, phases_of
from tasks.progress import track
from tasks.sources import Source
from tasks.stream import Stream
from tasks.training_options import TrainingOptions


@dataclass(frozen=True)
class FitJob:
    """What is fitted.

    Attributes:
        title: for progress, such as `student distilled`.
        where: the field of the recipe, for messages.
        model: the model's options.
        loss: the loss.
        training: how it is trained.
        inputs: what the model gets.
        num_classes: C.
        task: what is predicted.
        padded: whether the model may have outputs beyond C.
        recipe_folder: what the paths of the recipe are relative to.
        inside: what the model takes from inside its teacher.
    """

    title: str
    where: str
    model: ModelOptions
    loss: LossOptions
    training: TrainingOptions
    inputs: Sequence[InputSpec]
    num_classes: int
    task: Task = Task.CLASSIFICATION
    padded: bool = False
    recipe_folder: Path = Path()
    inside: Inside = field(default_factory=Inside)

    @property
    def form(self) -> ModelForm:
        """What the data and labels decide about the model."""
        return ModelForm(self.inputs, self.num_classes, self.task, self.padded)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """What it goes through."""
        return phases_of(self.loss, self.inside.match, self.training)

    def asked(self, source: Source) -> Json:
        """What decides the weights, for a checkpoint to say."""
        return {
            "model": self.model.identity(),
            "loss": self.loss.identity(),
            "inside": self.inside.identity(),
            "training": self.training.identity(),
            "num_classes": self.num_classes,
            "task": self.task.value,
            "data": source.digest,
        }


@dataclass(frozen=True)
class Fitted:
    """A fitted model.

    Attributes:
        model: on the CPU, in evaluation mode.
        history: what was recorded, row by row.
        steps: that were taken.
        details: what a card says of how it went.
        seconds: that it took.
    """

    model: nn.Module
    history: list[Row]
    steps: int
    details: dict[str, Any]
    seconds: float


def fit(
    job: FitJob,
    source: Source,
    validation: Source | None,
    folder: Folder,
    device: torch.device,
    ranks: Ranks | None = None,
) -> Fitted:
    """Fit a model, from the newest checkpoint below `folder` where there is one.

    Args:
        job: what is fitted.
        source: what it learns from.
        validation: what epochs are compared on.
        folder: of the product; checkpoints lie below it.
        device: where to compute.
        ranks: the processes that fit it together, all of which call this; by default this one.

    Raises:
        RecipeError: what is asked for is not to be had with these data or on this device.
        NotFiniteError: a loss is NaN or infinite; the step and samples are named.
        ModelError: the model does not fit the data or its teacher, or memory suffices for no
            sample.
        StoreError: the checkpoint that is there belongs to another recipe.
    """
    where, training = f"{job.where}.training", job.training
    started = time.monotonic()
    ranks = ranks or Alone()
    _require(job, validation, device)
    torch.manual_seed(training.seed)
    model = build(job.model, job.form, job.recipe_folder, f"{job.where}.model")
    phases = job.phases
    learner, matches = learner_of(
        model,
        job.loss,
        job.inside,
        [phase.match for phase in phases],
        source,
        job.inputs,
        device,
        job.where,
    )
    freeze(model, training.frozen, f"{where}.frozen")
    fitting = Fitting(
        learner,
        phases,
        matches,
        Stream(
            source,
            training.batch_size,
            training.seed,
            training.window,
            rank=ranks.rank,
            world=ranks.world,
            workers=training.workers,
        ),
        validation,
        device,
        ranks,
        job.where,
    )
    own = folder / layout.CHECKPOINTS
    checkpoints = Checkpoints(own, training.checkpoint_seconds, job.asked(source))
    saved = checkpoints.newest()
    if saved is not None:
        fitting.restore(saved)
    _run(job, fitting, folder, checkpoints, writes=ranks.rank == 0)
    model = model.cpu().eval()
    seconds = time.monotonic() - started
    return Fitted(model, fitting.history, fitting.step_number, fitting.details(), seconds)


def _run(
    job: FitJob, fitting: Fitting, folder: Folder, checkpoints: Checkpoints, *, writes: bool
) -> None:
    """Train to the end and say how it goes; keep checkpoints, if this process writes."""
    where, training = f"{job.where}.training", job.training
    said = writes and training.tensorboard
    events = events_folder(said, folder, job.recipe_folder, where)
    begun = fitting.step_number
    with (
        contextlib.closing(fitting.stream),
        compiled(fitting.model, wanted=training.compile),
        track(job.title, fitting.total_steps, "steps", done=begun, finer="samples") as progress,
        event_files(events, begun, where) as write,
        checkpoints,
    ):
        for step in fitting.steps():
            if step.row is not None:
                write(step.row)
            progress.advance(1, _note(fitting, step), step.result.samples)
            if writes:
                checkpoints.save_if_due(fitting.step_number, fitting.state)


def _note(fitting: Fitting, step: Step) -> str:
    epochs = sum(phase.training.epochs for phase in fitting.phases)
    phase = f" phase {fitting.phase.index + 1}/{len(fitting.phases)}" * (len(fitting.phases) > 1)
    halved = fitting.trainer.gradients.micro_batch_size != fitting.phase.training.micro_batch_size
    size = f" in parts of {fitting.trainer.gradients.micro_batch_size}" * halved
    loss = f"loss {step.result.loss:.3f}{_matched_share(fitting, step)}"
    return f"{loss} epoch {step.epoch + 1}/{epochs}{phase}{size}"


def _matched_share(fitting: Fitting, step: Step) -> str:
    """What of the loss is about the model's inside, in words."""
    losses, matches = step.result.matched, fitting.trainer.learner.matches
    share = sum(match.options.weight * losses[match.name] for match in matches)
    return f" (inside {share:.3f})" if matches else ""


def _require(job: FitJob, validation: Source | None, device: torch.device) -> None:
    """Refuse what these data or this device cannot give, before anything is built."""
    where, training = f"{job.where}.training", job.training
    require_precision(training.precision, device, where)
    if validation is None and training.needs_validation:
        field = "early_stopping" if training.early_stopping else "keep"
        raise RecipeError(
            f"{where}.{field}: expected a split {VALIDATION!r} to compare epochs on, there is "
            "none; name one in data.splits"
        )
    by_accuracy = training.needs_validation and training.metric == "validation_accuracy"
    if by_accuracy and validation is not None and schema.LABEL not in validation.read(0):
        raise RecipeError(
            f"{where}.early_stopping.metric: validation_accuracy needs hard labels, there are "
            "none; use validation_loss"
        )
