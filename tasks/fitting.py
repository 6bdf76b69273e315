"""A training run under way: its phases and epochs, step after step, from any point on.

What it goes on from is one state: which phase, the trainer, the position in the stream, which epoch
was best, and the history.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from storage.errors import ModelError, NotFiniteError, SoftlabelError, StoreError, one_line
from tasks.early_stopping import Watch
from tasks.feature_options import Match
from tasks.history import HISTORY_ROWS, Row, history_row
from tasks.nn.batch import Batch
from tasks.nn.compiling import is_compiler_error
from tasks.nn.learner import Learner
from tasks.nn.ranks import Ranks
from tasks.nn.trainer import StepResult, Trainer
from tasks.phases import Phase
from tasks.sources import Source
from tasks.stream import Stream
from tasks.validation import validate


@dataclass(frozen=True)
class Step:
    """A step that is done.

    Attributes:
        result: what came of it.
        epoch: in which it was, from 0 over all phases.
        row: what is recorded of it, or None.
    """

    result: StepResult
    epoch: int
    row: Row | None


class Fitting:
    """One model on its way through the phases.

    Attributes:
        model: what is trained.
        stream: where the batches come from.
        phases: all there are.
        phase: the one it is in.
        trainer: what takes its steps.
        watch: compares the epochs of that phase.
        history: what is recorded.
        total_steps: of all phases, if none ends early.
    """

    def __init__(
        self,
        learner: Learner,
        phases: tuple[Phase, ...],
        matches: Sequence[Sequence[Match]],
        stream: Stream,
        validation: Source | None,
        device: torch.device,
        ranks: Ranks,
        where: str,
    ) -> None:
        """Begin with the first phase.

        Args:
            learner: the model with all that it is taught by.
            phases: how it is taught.
            matches: what each of them compares of its inside.
            stream: where the batches come from.
            validation: what epochs are compared on; None: nothing.
            device: where to compute.
            ranks: the processes that do.
            where: the field of the recipe, for messages.
        """
        self.model = learner.model
        self.phases = phases
        self.stream = stream
        self.history: list[Row] = []
        self.total_steps = sum(map(self._steps_of, phases))
        self.trainer = Trainer(
            learner,
            phases[0].training,
            self._steps_of(phases[0]),
            device,
            ranks,
            f"{where}.training",
        )
        self._matches = matches
        self._validation = validation
        self._where = where
        self._steps_before = 0
        self._begin(0)

    @property
    def step_number(self) -> int:
        """The steps that are done, over all phases."""
        return self._steps_before + self.trainer.step_number

    def steps(self) -> Iterator[Step]:
        """Train to the end; between two steps the state is whole."""
        while True:
            yield from self._phase()
            self.watch.put_best(self.model)
            if self.phase is self.phases[-1]:
                return
            self._steps_before = self.step_number
            self._begin(self.phase.index + 1)

    def details(self) -> dict[str, Any]:
        """What a card says of how it went."""
        found: dict[str, Any] = {"steps": self.step_number}
        if self.watch.stopped:
            found["stopped_early"] = True
        if "weights" in self.watch.best:
            best = self.watch.best
            found["kept"] = {name: best[name] for name in ("step", "epoch", "value")}
        size = self.trainer.gradients.micro_batch_size
        if size is not None:
            found["micro_batch_size"] = size
        return found

    def state(self) -> dict[str, Any]:
        """All that training goes on from."""
        return {
            "phase": self.phase.index,
            "first_epoch": self._first_epoch,
            "steps_before": self._steps_before,
            "trainer": self.trainer.state(),
            "stream": self.stream.state(),
            "watch": self.watch.state(),
            "history": list(self.history),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave.

        Raises:
            StoreError: it is of other data or of another model.
        """
        if state["phase"] != self.phase.index:
            self._begin(state["phase"])
        self._first_epoch = state["first_epoch"]
        self._steps_before = state["steps_before"]
        try:
            self.trainer.restore(state["trainer"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise StoreError(
                f"{self._where}: its checkpoint is of another model: {one_line(error)}; run with "
                "--force to begin anew"
            ) from error
        self.stream.restore(state["stream"])
        self.watch.restore(state["watch"])
        self.history = list(state["history"])

    def _begin(self, index: int) -> None:
        """Enter a phase, with an optimizer and a schedule of its own."""
        self.phase = self.phases[index]
        self.trainer.learner.turn_to(self.phase.loss, self._matches[index])
        self.trainer.begin(self.phase.training, self._steps_of(self.phase))
        self.watch = Watch(self.phase.training)
        self._first_epoch = self.stream.epoch

    def _steps_of(self, phase: Phase) -> int:
        return phase.training.epochs * self.stream.batches_per_epoch

    def _phase(self) -> Iterator[Step]:
        # Stopped right after the last batch of an epoch, the stream still stands in that epoch.
        while self.stream.consumed or not self._is_over():
            epoch = self.stream.epoch
            for batch in self.stream:
                yield self._step(batch, epoch)

    def _is_over(self) -> bool:
        epochs = self.stream.epoch - self._first_epoch
        return self.watch.stopped or epochs >= self.phase.training.epochs

    def _step(self, batch: Batch, epoch: int) -> Step:
        result = self._learn(batch)
        at_end = self.trainer.step_number % self.stream.batches_per_epoch == 0
        every = max(1, self.total_steps // HISTORY_ROWS)
        if not at_end and self.step_number % every:
            return Step(result, epoch, None)
        row = history_row(self.step_number, epoch, self.phase.index, result)
        if at_end and self._validation is not None:
            figures = self._validate(self._validation)
            row |= figures
            if self.phase.watched:
                self.watch.see(figures, self.model, self.step_number, epoch)
        self.history.append(row)
        return Step(result, epoch, row)

    def _validate(self, validation: Source) -> dict[str, float]:
        figures = validate(self.trainer, validation, self.phase.judged)
        if not math.isfinite(figures["validation_loss"]):
            raise NotFiniteError(
                f"{self._where}: step {self.step_number}: the validation loss is "
                f"{figures['validation_loss']}; lower training.learning_rate, or look at the "
                "validation split"
            )
        return figures

    def _learn(self, batch: Batch) -> StepResult:
        try:
            return self.trainer.step(batch)
        except (ModelError, NotFiniteError) as error:
            field = ".model" if isinstance(error, ModelError) else ""
            phase = f" phase {self.phase.index}:" if len(self.phases) > 1 else ""
            raise type(error)(f"{self._where}{field}:{phase} {error}") from error
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            if isinstance(error, SoftlabelError):
                raise
            raise self._failed(error, batch) from error

    def _failed(self, error: Exception, batch: Batch) -> ModelError:
        what = f"{type(error).__name__}: {one_line(error)}"
        if is_compiler_error(error):
            return ModelError(
                f"{self._where}.training.compile: torch cannot compile this model here: {what}; "
                "set it to false"
            )
        return ModelError(
            f"{self._where}.model: step {self.step_number} failed on {batch.num_samples} samples: "
            f"{what}"
        )
