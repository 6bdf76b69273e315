"""Labelling in processes of their own: one digest, and nothing lost when one hangs or dies."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import save
from torch import nn

from storage import layout
from storage.errors import DataError, ModelError, NotFiniteError
from storage.feature_options import StoredFeature
from storage.files import Folder
from storage.options import KeptSetOptions, LabelOptions
from storage.records import write_record
from storage.spec import spec_of
from tasks.effort import Effort
from tasks.intents import imported_teacher
from tasks.label import finish_label_set
from tasks.labeller import Labeller, LabelRequest
from tasks.planning import plan_labels
from tasks.teach import import_teacher
from tasks.teacher_options import TorchTeacherOptions
from tasks.workers import Workers, threads_of
from tests.tasks.toy import FINGERPRINT, numbered_corpus, random_table

OPTIONS = LabelOptions(
    features=(StoredFeature(feature="module.inner", dtype="float32"),),
    k=2,
    positions_per_shard=8,
    positions_per_row_group=4,
    evaluation=KeptSetOptions(k=3),
)


class Fickle(nn.Module):
    """Looks its logits up; at sample 13 it misbehaves: once, or always."""

    def __init__(self, once: str | None, misdeed: str) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.from_numpy(random_table(40)))
        self.inner = nn.Identity()
        self.once = Path(once) if once else None
        self.misdeed = misdeed

    def forward(self, numbers):
        if 13 in numbers and self.once is not None and not self.once.exists():
            if self.misdeed != "always":
                self.once.touch()
            if self.misdeed in ("hang", "always"):
                time.sleep(600)
            if self.misdeed == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("out of luck")
        return self.inner(self.table[numbers.long()][:, 0])


def fickle(once: str | None = None, misdeed: str = "") -> nn.Module:
    """A target."""
    return Fickle(once, misdeed)


class Work:
    """A label set that is made by a teacher of weights on disk."""

    def __init__(self, tmp_path, name="store", misdeed="", corpus=None, weights=None):
        self.store = Folder.open(tmp_path / name)
        self.corpus = corpus or numbered_corpus({"train": 21, "test": 10})
        path = tmp_path / "weights.safetensors"
        path.write_bytes(save(weights or fickle().state_dict()))
        once = str(tmp_path / f"{name}-once") if misdeed else None
        teacher = TorchTeacherOptions(
            kind="torch",
            target="tests.tasks.test_workers:fickle",
            arguments={"once": once, "misdeed": misdeed},
            weights=str(path),
        )
        inputs = self.corpus.form.inputs
        intent = imported_teacher(teacher, "0" * 64)
        card = import_teacher(self.store, teacher, tmp_path, inputs, intent)
        self.folder = self.store / layout.product(layout.LABELS, FINGERPRINT)
        self.spec = spec_of(self.corpus.form, OPTIONS, 5, None)
        write_record(self.folder, layout.SPEC, self.spec)
        self.request = LabelRequest(
            store=self.store.url,
            card=card,
            teacher=teacher,
            recipe_folder=tmp_path,
            label_set=self.folder.url,
            spec=self.spec,
            corpus=self.corpus,
            quarantine=False,
            device=torch.device("cpu"),
        )

    @property
    def plan(self):
        return plan_labels(self.folder, FINGERPRINT, self.corpus.index(8))

    def label(self, labeller, told=None, effort=None):
        told = [] if told is None else told
        return labeller.label(self.plan.missing, 3, told.append, effort or Effort(), lambda _: None)

    def finish(self):
        return finish_label_set(self.folder, FINGERPRINT, self.spec, self.plan.records)


@pytest.fixture
def expected(tmp_path):
    work = Work(tmp_path, "here")
    work.label(Labeller(work.request))
    return work.finish().digest


def children():
    return psutil.Process().children(recursive=True)


@pytest.mark.parametrize("count", [1, 2])
def test_processes_make_what_one_makes_here(tmp_path, expected, count):
    work = Work(tmp_path)
    told, effort = [], Effort()
    with Workers([work.request] * count, None, 3) as workers:
        probe = workers.probe(work.plan.missing, None)
        assert probe.batch_size >= 1
        assert probe.size_bytes > 0
        made = work.label(workers, told, effort)
        assert work.label(workers) == ()
    assert sorted(record.file for record in made) == sorted(record.file for record in told)
    assert len(told) == 5
    assert effort.positions == 31
    assert work.finish().digest == expected
    assert not [child for child in children() if "resource_tracker" not in str(child.cmdline())]


@pytest.mark.parametrize("misdeed", [pytest.param("hang", marks=pytest.mark.slow), "die"])
def test_a_shard_is_tried_again_after_its_process_hung_or_died(tmp_path, expected, misdeed):
    work = Work(tmp_path, misdeed=misdeed)
    told = []
    with Workers([work.request], 3.0, 2) as workers:
        work.label(workers, told)
    assert len(told) == 5
    assert work.finish().digest == expected


@pytest.mark.slow
def test_a_teacher_that_hangs_again_and_again_ends_the_run_and_keeps_what_was_made(tmp_path):
    work = Work(tmp_path, misdeed="always")
    words = r"its process gave no sign for 2 s 2 times at shard 1 of train \(samples 8 to 15\)"
    with Workers([work.request], 2.0, 2) as workers, pytest.raises(ModelError, match=words):
        work.label(workers)
    assert [shard.ordinal for shard in work.plan.records] == [0]


def test_an_error_in_a_process_is_said_as_here(tmp_path):
    corpus = numbered_corpus({"train": 9})
    corpus.splits["train"]["input.row"] = np.where(
        corpus.splits["train"]["input.row"] == 4, 99, corpus.splits["train"]["input.row"]
    )
    work = Work(tmp_path, corpus=corpus)
    with Workers([work.request], None, 2) as workers:
        with pytest.raises(ModelError, match="process of the teacher failed: IndexError"):
            work.label(workers)
        # Another call starts the process again.
        with pytest.raises(ModelError, match="process of the teacher failed: IndexError"):
            work.label(workers)


def test_nan_in_a_process_names_the_samples(tmp_path):
    table = fickle().state_dict()["table"].clone()
    table[12] = torch.nan
    work = Work(tmp_path, weights={"table": table})
    told = []
    with (
        Workers([work.request], None, 2) as workers,
        pytest.raises(NotFiniteError, match="in 1 samples: train-12;"),
    ):
        work.label(workers, told)
    assert [record.ordinal for record in told] == [0]


def test_a_teacher_that_does_not_load_is_said(tmp_path):
    work = Work(tmp_path)
    (tmp_path / "weights.safetensors").unlink()
    words = r"weights\.safetensors"
    with Workers([work.request], None, 2) as workers, pytest.raises(DataError, match=words):
        workers.probe(work.plan.missing, 3)


def test_threads_are_shared_on_the_cpu_only():
    cpu, cuda = torch.device("cpu"), torch.device("cuda", 0)
    assert threads_of([cpu]) is None
    assert threads_of([cuda, cuda]) is None
    assert threads_of([cpu] * 64) == 1
