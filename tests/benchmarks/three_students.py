"""One label set, three students: all of it over one teacher pass and three plain trainings.

SmolLM2-135M over Python's own source labels once; three small language models learn from what it
stored. Beside it, what the same three take with the teacher run in every step. Loading the teacher
counts nowhere.

Shape letters: R rounds, 4 what is timed in each, S seconds by the clock and of the processor.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from flows.project import Labels, Project
from storage import layout
from storage.corpus import Corpus
from storage.files import Folder
from storage.options import TRAIN
from storage.reader import LabelSet
from storage.records import write_record
from tasks.fit import FitJob, fit
from tasks.label import LabelJob, finish_label_set, label_shards
from tasks.loss_options import LossOptions
from tasks.models import build
from tasks.nn.batch import Batch, by_position
from tasks.planning import plan_labels
from tasks.sequence_options import TokenTransformerOptions
from tasks.sources import CorpusSource, LabelSource
from tasks.stream import Stream
from tasks.teach import import_teacher, load_teacher
from tasks.teachers import Teacher
from tasks.training_options import TrainingOptions
from tests.benchmarks.figures import ROOT, Figure

_RECIPE = str(ROOT / "deployments/recipes/smollm2.yaml")
_OVERRIDES = (
    "data.source=[stdlib://json/decoder.py, stdlib://json/scanner.py, stdlib://json/tool.py]",
    "data.splits.fractions={train: 0.75, test: 0.25}",
    "data.tokens.block=128",
)
_WIDTHS = (192, 224, 256)
_TEMPERATURE = 2.0
_LOSS = LossOptions(soft_weight=0.9, temperature=_TEMPERATURE)
_TRAINING = TrainingOptions(epochs=2, batch_size=8, learning_rate=0.002)
_REPEATS = 3
_CPU = torch.device("cpu")
Costs = NDArray[np.float64]
"""Seconds by the clock and of the processor, the last axis."""


@dataclass(frozen=True)
class _Setting:
    """A teacher, what it reads, and the form of its labels."""

    project: Project
    labels: Labels
    teacher: Teacher
    corpus: Corpus

    def job(self, width: int) -> FitJob:
        spec = self.labels.spec
        return FitJob(
            title=f"student {width}",
            where=f"students.{width}",
            model=TokenTransformerOptions(kind="token_transformer", layers=4, width=width, heads=4),
            loss=_LOSS,
            training=_TRAINING,
            inputs=spec.inputs,
            num_classes=spec.num_classes,
            task=spec.task,
        )

    def batches(self) -> Iterator[Batch]:
        """All batches of a training, in the order of the project's own stream."""
        source = CorpusSource(self.corpus, TRAIN)
        stream = Stream(source, _TRAINING.batch_size, _TRAINING.seed, _TRAINING.window)
        while stream.epoch < _TRAINING.epochs:
            yield from stream


def run() -> list[Figure]:
    with tempfile.TemporaryDirectory() as store, _setting(store) as setting:
        _plain(setting, _WIDTHS[:1])  # what torch does once
        rounds = [_round(setting, f"{store}/round-{place}") for place in range(_REPEATS)]
        with_teacher = _timed(lambda: _plain(setting, _WIDTHS, setting.teacher))
        positions = sum(shard.positions for shard in setting.labels.plan.wanted)
    cost_R4S = np.array(rounds)
    bare, plain, labelling, trained = cost_R4S.transpose(1, 0, 2)
    ours, theirs = labelling + trained, bare + plain
    students = f"{len(_WIDTHS)} students of 4 layers and widths {', '.join(map(str, _WIDTHS))}"
    how = (
        f"SmolLM2, {positions:,} positions, k=64; {students}, {_TRAINING.epochs} epochs of batches "
        f"of {_TRAINING.batch_size} blocks of 128, soft and hard loss; {_REPEATS} times in turn"
    )
    beside = "the same batches, the teacher run in every step, dense KL over 49,152 classes; once"
    name = "one label set and three students, over one teacher pass and three plain trainings"
    return [
        Figure(name, _compared(ours, theirs), "at most 1.1", how),
        Figure("of it: labelling, over the bare teacher pass", _compared(labelling, bare), "-",
               "writing the shards included"),
        Figure("of it: three students from stored labels, over three plain trainings",
               _compared(trained, plain), "-", "reading, checkpoints and history included"),
        Figure("three students with a live teacher, over one label set and three students",
               _compared(with_teacher[None], ours), "-", beside),
    ]  # fmt: skip


def _compared(first_RS: Costs, second_RS: Costs) -> str:
    """Ratios of the medians over the rounds: by the clock, and of the processor's seconds."""
    first_S, second_S = np.median(first_RS, axis=0), np.median(second_RS, axis=0)
    clock, processor = first_S / second_S
    text = f"{clock:.3f} by the clock ({first_S[0]:.1f} s over {second_S[0]:.1f} s"
    if len(first_RS) == len(second_RS):
        ratio_R = np.sort(first_RS[:, 0] / second_RS[:, 0])
        text += f"; {ratio_R[0]:.3f} to {ratio_R[-1]:.3f}"
    return f"{text}), {processor:.3f} by the processor"


def _round(setting: _Setting, store: str) -> tuple[Costs, Costs, Costs, Costs]:
    """What the bare teacher pass, the plain trainings, labelling and the students cost."""
    bare = _timed(lambda: _pass(setting))
    plain = _timed(lambda: _plain(setting, _WIDTHS))
    folder = Folder.open(store)
    labelling = _timed(lambda: _label(setting, folder))
    with closing(LabelSet.open(folder)) as labels:
        trained = _timed(lambda: _students(setting, labels, folder))
    return bare, plain, labelling, trained


def _pass(setting: _Setting) -> None:
    """The teacher alone over every sample of every split, in batches as labelling has them."""
    size = setting.labels.batch_size or 1
    for split in setting.corpus.samples:
        for batch in Stream(CorpusSource(setting.corpus, split), size, shuffle=False):
            setting.teacher.logits(batch.inputs)


def _label(setting: _Setting, folder: Folder) -> None:
    spec, index = setting.labels.spec, setting.project.index
    fingerprint = setting.labels.intent.fingerprint
    write_record(folder, layout.SPEC, spec)
    plan = plan_labels(folder, fingerprint, index)
    job = LabelJob(folder, spec, setting.corpus, setting.labels.batch_size or 1)
    label_shards(job, plan.missing, setting.teacher, lambda _: None)
    finish_label_set(folder, fingerprint, spec, plan_labels(folder, fingerprint, index).records)


def _students(setting: _Setting, labels: LabelSet, folder: Folder) -> None:
    for width in _WIDTHS:
        fit(setting.job(width), LabelSource(labels, TRAIN), None, folder / f"s{width}", _CPU)


def _plain(setting: _Setting, widths: Sequence[int], teacher: Teacher | None = None) -> None:
    """Trainings written down plainly: cross-entropy, or with dense KL to a teacher that is run."""
    for width in widths:
        torch.manual_seed(0)
        job = setting.job(width)
        model = build(job.model, job.form, job.recipe_folder, job.where).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=_TRAINING.learning_rate)
        for batch in setting.batches():
            loss = _plain_loss(model, batch, teacher)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            loss.item()


def _plain_loss(model: nn.Module, batch: Batch, teacher: Teacher | None) -> Tensor:
    logit_PC = by_position(model(*batch.inputs))
    hard = F.cross_entropy(logit_PC, batch.label_P)  # -100 where a position does not count
    if teacher is None:
        return hard
    teacher_PC = by_position(teacher.logits(batch.inputs)).clone()
    at = _TEMPERATURE
    log_q_PC, p_PC = F.log_softmax(logit_PC / at, dim=1), F.softmax(teacher_PC / at, dim=1)
    return 0.9 * at * at * F.kl_div(log_q_PC, p_PC, reduction="batchmean") + 0.1 * hard


@contextmanager
def _setting(store: str) -> Iterator[_Setting]:
    project = Project.open(_RECIPE, _OVERRIDES, store)
    recipe, folder = project.recipe, project.loaded.folder
    card = import_teacher(
        project.store, recipe.teacher, folder, project.index.inputs, project.teacher_intent
    )
    labels = project.labels(card)
    teacher = load_teacher(project.store, card, recipe.teacher, folder, labels.spec.inputs, _CPU)
    corpus = project.open_corpus()
    try:
        yield _Setting(project, labels, teacher, corpus)
    finally:
        corpus.close()


def _timed(work: Callable[[], None]) -> Costs:
    """Seconds by the clock, and of the processor over all threads; [2]."""
    started, used = time.perf_counter(), time.process_time()
    work()
    return np.array([time.perf_counter() - started, time.process_time() - used])
