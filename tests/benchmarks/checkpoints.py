"""What checkpoints cost of training: blocks of steps with one and without, in turn.

A block with a checkpoint begins with it and ends when it is written and as many steps are done, so
that all of its cost falls into the block; what is beyond the time of its steps is lost. The share
is that loss over the time between two checkpoints at the default interval: longer runs are not
measured, since nothing in them differs but their number. Steps take one thread. Beside the time on
the clock stands that of the processor, of all threads, which other work hardly changes.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from storage.files import Folder
from storage.options import Task
from tasks.checkpoints import Checkpoints
from tasks.loss_options import LossOptions
from tasks.nn.learner import Learner
from tasks.nn.models import num_parameters
from tasks.nn.trainer import Trainer
from tasks.training_options import TrainingOptions
from tests.benchmarks.figures import Figure, one_thread
from tests.tasks.nn.sequences import CLASSES, ones, random_ids, tokens
from tests.tasks.nn.sequences import built as built_model
from tests.tasks.toy import batch_of

PAIRS = 5
STEPS = 8
BATCH, LENGTH, VOCABULARY = 8, 32, 8192
SLOW_BYTES_PER_SECOND = 20e6
Save = Callable[[Checkpoints, Trainer], None]


class Forced(Checkpoints):
    """Due whenever it is asked."""

    def _is_due(self, state: Callable[[], dict[str, Any]]) -> bool:
        return True

    @property
    def is_writing(self) -> bool:
        """Whether one is still on its way."""
        return self._pending

    @property
    def pause(self) -> float:
        """Seconds from one to the next, at the least."""
        assert self._cost is not None
        return max(self.least_seconds, self._cost / 0.01)


def run() -> list[Figure]:
    with one_thread():
        return _figures()


def _figures() -> list[Figure]:
    trainer, batch = student()
    size = num_parameters(trainer.model) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        where = Folder.open(folder)
        figures = [
            measured(trainer, batch, where, behind, "written behind", "under 2 %"),
            measured(trainer, batch, where, at_once, "training waits, as before", "-"),
        ]
        with slow_store():
            figures += [
                measured(trainer, batch, where, behind, "20 MB/s store, behind", "under 2 %"),
            ]
    how = f"{size:.1f} M parameters, AdamW; {PAIRS} pairs of blocks of {STEPS} steps or more"
    return [Figure(f.name, f.value, f.asked, how) for f in figures]


def student() -> tuple[Trainer, Any]:
    """A transformer of a few million parameters, and a batch for it."""
    options = tokens(vocabulary=VOCABULARY, layers=4, width=256, heads=4, feed_forward=4)
    model = built_model(options, Task.CLASSIFICATION)
    training = TrainingOptions()
    trainer = Trainer(Learner(model, LossOptions()), training, 100_000, torch.device("cpu"))
    ids = random_ids(BATCH, LENGTH, VOCABULARY)
    teacher_PC, label_P = torch.randn(BATCH, CLASSES), torch.arange(BATCH) % CLASSES
    return trainer, batch_of(teacher_PC, label_P, 3, (2.0, 1.0), inputs=(ids, ones(ids)))


def behind(checkpoints: Checkpoints, trainer: Trainer) -> None:
    checkpoints.save_if_due(trainer.step_number, trainer.state)


def at_once(checkpoints: Checkpoints, trainer: Trainer) -> None:
    checkpoints.save(trainer.step_number, trainer.state())


def measured(
    trainer: Trainer, batch: Any, where: Folder, save: Save, name: str, asked: str
) -> Figure:
    """What one checkpoint costs, and its share of the time between two."""
    lost, busy, pauses = [], [], []
    with Forced(where, TrainingOptions().checkpoint_seconds) as checkpoints:
        trainer.step(batch)
        for _ in range(PAIRS):
            without = block(trainer, batch, checkpoints, None)
            one = block(trainer, batch, checkpoints, save)
            lost.append(one.clock - without.clock / without.steps * one.steps)
            busy.append(one.processor - without.processor / without.steps * one.steps)
            pauses.append(checkpoints.pause if save is behind else checkpoints.least_seconds)
    pause = statistics.median(pauses)
    clock, processor = statistics.median(lost), statistics.median(busy)
    value = (
        f"{100 * max(clock, 0) / pause:.2f} % by the clock, {100 * processor / pause:.2f} % of one "
        f"core; {1000 * clock:.0f} ms ({1000 * min(lost):.0f} to {1000 * max(lost):.0f}) and "
        f"{1000 * processor:.0f} ms each, {pause:.0f} s apart"
    )
    return Figure(f"checkpoints at the default interval: {name}", value, asked, "")


@dataclass(frozen=True)
class Block:
    """Steps, and what they took: by the clock, and of the processor in all threads."""

    steps: int
    clock: float
    processor: float


def block(trainer: Trainer, batch: Any, checkpoints: Forced, save: Save | None) -> Block:
    clock, processor, steps = time.perf_counter(), time.process_time(), 0
    if save is not None:
        save(checkpoints, trainer)
    while steps < STEPS or checkpoints.is_writing:
        trainer.step(batch)
        steps += 1
    return Block(steps, time.perf_counter() - clock, time.process_time() - processor)


@contextmanager
def slow_store() -> Iterator[None]:
    """Writing takes as long as sending to a store of so many bytes a second."""
    write = Folder.write_bytes

    def slow(folder: Folder, name: str, content: bytes) -> None:
        time.sleep(len(content) / SLOW_BYTES_PER_SECOND)
        write(folder, name, content)

    Folder.write_bytes = slow  # type: ignore[method-assign]
    try:
        yield
    finally:
        Folder.write_bytes = write  # type: ignore[method-assign]
