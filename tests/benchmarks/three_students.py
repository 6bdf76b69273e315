"""One label set, three students: all of it over one teacher pass and three plain trainings.

SmolLM2-135M over Python's own source labels once; three small language models learn from what it
stored. Beside it, what the same three take with the teacher run in every step. Loading the teacher
counts nowhere.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
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
    ratios = sorted(ours / theirs for _, _, ours, theirs in rounds)
    columns = zip(*rounds, strict=True)
    teacher, labelling, ours, theirs = (statistics.median(column) for column in columns)
    students = f"{len(_WIDTHS)} students of 4 layers and widths {', '.join(map(str, _WIDTHS))}"
    how = (
        f"SmolLM2, {positions:,} positions, k=64; {students}, {_TRAINING.epochs} epochs of batches "
        f"of {_TRAINING.batch_size} blocks of 128, soft and hard loss; {_REPEATS} times in turn"
    )
    return [
        Figure(
            "one label set and three students, over one teacher pass and three plain trainings",
            f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}; {ours:.1f} s "
            f"over {theirs:.1f} s)",
            "at most 1.1",
            how,
        ),
        Figure(
            "of it: labelling, over the bare teacher pass",
            f"{labelling / teacher:.3f} ({labelling:.1f} s over {teacher:.1f} s)",
            "-",
            "the same; writing the shards included",
        ),
        Figure(
            "of it: three students from stored labels, over three plain trainings",
            f"{(ours - labelling) / (theirs - teacher):.3f} ({ours - labelling:.1f} s over "
            f"{theirs - teacher:.1f} s)",
            "-",
            "the same; reading, checkpoints and history included",
        ),
        Figure(
            "three students with a live teacher, over one label set and three students",
            f"{with_teacher / ours:.2f} ({with_teacher:.1f} s over {ours:.1f} s)",
            "-",
            "the same batches, the teacher run in every step, dense KL over 49,152 classes; once",
        ),
    ]


def _round(setting: _Setting, store: str) -> tuple[float, float, float, float]:
    """Seconds of the bare teacher pass, of labelling, of all of ours, of all of theirs."""
    bare = _timed(lambda: _pass(setting))
    plain = _timed(lambda: _plain(setting, _WIDTHS))
    folder = Folder.open(store)
    labelling = _timed(lambda: _label(setting, folder))
    with closing(LabelSet.open(folder)) as labels:
        trained = _timed(lambda: _students(setting, labels, folder))
    return bare, labelling, labelling + trained, bare + plain


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
    logit_PC = by_position(model(*batch.inputs))[batch.mask_P]
    hard = F.cross_entropy(logit_PC, batch.label_P[batch.mask_P])
    if teacher is None:
        return hard
    teacher_PC = by_position(teacher.logits(batch.inputs))[batch.mask_P].clone()
    at = _TEMPERATURE
    log_q_PC, p_PC = F.log_softmax(logit_PC / at, dim=1), F.softmax(teacher_PC / at, dim=1)
    soft = F.kl_div(log_q_PC, p_PC, reduction="batchmean")
    return 0.9 * at * at * soft + 0.1 * hard


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


def _timed(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
