"""Fitting one model to a stream of batches: the loop, its checkpoints and its history.

Students learn from stored labels and fitted teachers from hard ones; both go through here. Stopped
at any moment and called again, it goes on from the newest checkpoint; on one CPU the weights end in
the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from storage import layout
from storage.errors import ModelError, NotFiniteError, SoftlabelError, one_line
from storage.files import Folder
from storage.options import Task
from storage.spec import InputSpec
from tasks.checkpoints import Checkpoints
from tasks.learners import Inside, learner_of
from tasks.loss_options import LossOptions, SoftLoss
from tasks.model_options import ModelOptions
from tasks.models import ModelForm, build
from tasks.nn.batch import by_position
from tasks.nn.frozen import freeze
from tasks.nn.losses import distillation_loss
from tasks.nn.ranks import Alone, Ranks
from tasks.nn.trainer import StepResult, Trainer
from tasks.progress import track
from tasks.sources import Source
from tasks.stream import Stream
from tasks.training_options import TrainingOptions

_HISTORY_ROWS = 2000
HISTORY_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("epoch", pa.int64()),
        ("loss", pa.float64()),
        ("soft_loss", pa.float64()),
        ("hard_loss", pa.float64()),
        ("learning_rate", pa.float64()),
        ("validation_loss", pa.float64()),
        ("validation_accuracy", pa.float64()),
    ]
)


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


@dataclass(frozen=True)
class Fitted:
    """A fitted model on the CPU, in evaluation mode, and its history as rows by column name."""

    model: nn.Module
    history: list[dict[str, Any]]
    steps: int


def fit(
    job: FitJob,
    source: Source,
    validation: Source | None,
    folder: Folder,
    device: torch.device,
    ranks: Ranks | None = None,
) -> Fitted:
    """Fit a model, from the newest checkpoint below `folder` where there is one.

    Raises:
        NotFiniteError: a loss is NaN or infinite; the step and samples are named.
        ModelError: the model does not fit the data, or its teacher.
        RecipeError: what it is to take from inside its teacher is not there, or does not fit.
    """
    training = job.training
    torch.manual_seed(training.seed)
    model = build(job.model, job.form, job.recipe_folder, f"{job.where}.model")
    learner = learner_of(model, job.loss, job.inside, source, job.inputs, device, job.where)
    freeze(model, training.frozen, f"{job.where}.training.frozen")
    stream = Stream(source, training.batch_size, training.seed, training.window)
    total_steps = training.epochs * stream.batches_per_epoch
    ranks = ranks or Alone()
    trainer = Trainer(learner, training, total_steps, device, ranks, f"{job.where}.training")
    checkpoints = Checkpoints(folder / layout.CHECKPOINTS, training.checkpoint_seconds)
    history: list[dict[str, Any]] = []
    saved = checkpoints.newest()
    if saved is not None:
        trainer.restore(saved["trainer"])
        stream.restore(saved["stream"])
        history = saved["history"]
    every = max(1, total_steps // _HISTORY_ROWS)
    with track(job.title, total_steps, "steps") as progress:
        progress.advance(trainer.step_number)
        while stream.epoch < training.epochs:
            epoch = stream.epoch
            for batch in stream:
                result = _step(trainer, batch, job.where)
                at_end = trainer.step_number % stream.batches_per_epoch == 0
                if at_end or trainer.step_number % every == 0:
                    history.append(_row(trainer.step_number, epoch, result))
                if at_end and validation is not None:
                    history[-1] |= _validate(trainer, validation, job)
                progress.advance(1, f"epoch {epoch + 1}/{training.epochs} loss {result.loss:.3f}")
                if ranks.rank == 0:
                    checkpoints.save_if_due(trainer.step_number, _state(trainer, stream, history))
    return Fitted(trainer.model.cpu().eval(), history, trainer.step_number)


def validate(trainer: Trainer, source: Source, batch_size: int) -> dict[str, float]:
    """The loss and the accuracy on a split, the model being left as it was."""
    loss = correct = labelled = positions = 0.0
    trainer.model.eval()
    with torch.no_grad():
        for batch in Stream(source, batch_size, shuffle=False):
            moved = batch.to(trainer.device)
            logit_PC = by_position(trainer.model(*moved.inputs))
            parts = distillation_loss(logit_PC, moved, on_kept_set(trainer.learner.loss))
            counts_P = moved.mask_P & (moved.label_P >= 0)
            loss += parts.total.item() * moved.num_positions
            correct += ((logit_PC.argmax(dim=1) == moved.label_P) & counts_P).sum().item()
            labelled += counts_P.sum().item()
            positions += moved.num_positions
    trainer.model.train()
    figures = {"validation_loss": loss / max(positions, 1)}
    return figures | ({"validation_accuracy": correct / labelled} if labelled else {})


def on_kept_set(loss: LossOptions) -> LossOptions:
    """The loss where labels are a true kept set: draws have no loss there, their limit has."""
    if loss.soft is not SoftLoss.SAMPLED:
        return loss
    return loss.model_copy(update={"soft": SoftLoss.FORWARD_KL})


def history_bytes(history: list[dict[str, Any]]) -> bytes:
    """A history as a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(history, schema=HISTORY_SCHEMA), sink)
    return bytes(sink.getvalue())


def read_history(content: bytes) -> list[dict[str, Any]]:
    """The rows of a history file."""
    rows: list[dict[str, Any]] = pq.read_table(pa.BufferReader(content)).to_pylist()
    return rows


def _validate(trainer: Trainer, validation: Source, job: FitJob) -> dict[str, float]:
    figures = validate(trainer, validation, job.training.batch_size)
    if not math.isfinite(figures["validation_loss"]):
        raise NotFiniteError(
            f"{job.where}: step {trainer.step_number}: the validation loss is "
            f"{figures['validation_loss']}; lower training.learning_rate, or look at the "
            "validation split"
        )
    return figures


def _step(trainer: Trainer, batch: Any, where: str) -> StepResult:
    try:
        return trainer.step(batch)
    except NotFiniteError as error:
        raise NotFiniteError(f"{where}: {error}") from error
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        if isinstance(error, SoftlabelError):
            raise
        raise ModelError(
            f"{where}.model: step {trainer.step_number} failed on {batch.num_samples} samples: "
            f"{type(error).__name__}: {one_line(error)}"
        ) from error


def _row(step: int, epoch: int, result: StepResult) -> dict[str, Any]:
    return {
        "step": step,
        "epoch": epoch,
        "loss": result.loss,
        "soft_loss": result.soft_loss,
        "hard_loss": result.hard_loss,
        "learning_rate": result.learning_rate,
    }


def _state(trainer: Trainer, stream: Stream, history: list[dict[str, Any]]) -> dict[str, Any]:
    return {"trainer": trainer.state(), "stream": stream.state(), "history": history}
