"""Fitting as recipes ask for it: phases, early stopping, parts, precision, what is shown."""

import dataclasses
import re

import pytest
import torch
from torch import nn

from storage.errors import ModelError, RecipeError, StoreError
from storage.files import Folder
from tasks.checkpoints import Checkpoints
from tasks.fit import fit
from tasks.loss_options import LossOptions
from tasks.model_options import MlpOptions, TargetOptions
from tasks.progress import listening
from tasks.sources import LabelSource
from tasks.training_options import EarlyStopping, TrainingOptions
from tests.tasks.interruption import Interruption, assert_interrupted_equals_uninterrupted
from tests.tasks.test_fit import (
    CPU,
    OPTIONS,
    SAMPLES,
    STEPS,
    TRAINING,
    interrupted,
    job,
    outcome,
    stopping_after,
)
from tests.tasks.toy import TableModel, TableTeacher, label_set, numbered_corpus, random_table

HARD = LossOptions(soft_weight=0.0)
STOPS = [(4,), (5,), (6,), (10,), (STEPS,), (4, 5), (5, 5, 9), (6, 11)]


class TooSmall(nn.Module):
    """Has memory for three samples at once."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 5))

    def forward(self, row):
        if len(row) > 3 and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.network(row.float() / 40)


class Roomy(TooSmall):
    """The same with memory for all."""

    def forward(self, row):
        return self.network(row.float() / 40)


ROWS = 60


def table():
    return TableModel(torch.zeros(ROWS, 5))


@pytest.fixture
def every_step(monkeypatch):
    monkeypatch.setattr(Checkpoints, "_is_due", lambda *_: True)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    corpus = numbered_corpus({"train": SAMPLES, "validation": 9})
    store = Folder.open(tmp_path_factory.mktemp("store"))
    labels = label_set(store, corpus, TableTeacher(random_table(60)), OPTIONS)
    yield LabelSource(labels, "train"), LabelSource(labels, "validation")
    labels.close()


def training(**changes):
    return TrainingOptions(**{**TRAINING.model_dump(), **changes})


def target(name):
    return TargetOptions(kind="torch", target=f"tests.tasks.test_fit_options:{name}")


PHASES = {"phases": [{"epochs": 1, "loss": HARD}, {"epochs": 2, "learning_rate": 0.1}]}
STOPPING = {"early_stopping": {"patience": 1}, "keep": "best", "learning_rate": 3.0}
MOMENTUM = {"optimizer": "sgd", "optimizer_arguments": {"momentum": 0.9, "nesterov": True}}
VARIANTS = {
    "parts": {"micro_batch_size": 3, **MOMENTUM},
    "halves": {"precision": "bfloat16", "optimizer": "muon", "keep": "best"},
    "phases": {**PHASES, "keep": "best"},
    "stopping in phases": {**STOPPING, "phases": [{"epochs": 3}, {"epochs": 2, "loss": HARD}]},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_interrupted_equals_uninterrupted(sources, tmp_path, every_step, name):
    folders = iter(range(1000))
    the_job = job(training=training(**{"epochs": 10 if "phases" in name else 3, **VARIANTS[name]}))

    def run(stops):
        folder = Folder.open(tmp_path / f"run-{next(folders)}")
        whole = fit(the_job, *sources, Folder.open(tmp_path / f"whole-{name}"), CPU)
        reached = [stop for stop in stops if stop < whole.steps]
        fitted = interrupted(the_job, sources, folder, reached)
        return outcome(fitted), fitted.details

    assert_interrupted_equals_uninterrupted(run, STOPS)


def test_parts_give_the_weights_of_the_whole(sources, tmp_path):
    model = MlpOptions(kind="mlp", hidden=(8,), input_scale=0.05)
    found = []
    for micro in (None, 3):
        the_job = job(model=model, training=training(micro_batch_size=micro))
        fitted = fit(the_job, *sources, Folder.open(tmp_path / str(micro)), CPU)
        found.append(fitted)
    whole, parts = found
    for one, other in zip(whole.history, parts.history, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert "micro_batch_size" not in whole.details
    assert parts.details["micro_batch_size"] == 3


def test_what_does_not_fit_into_memory_is_halved_and_said(sources, tmp_path):
    notes = []
    with listening(lambda progress: notes.append(progress.note)):
        small = fit(job(model=target("TooSmall")), *sources, Folder.open(tmp_path / "small"), CPU)
    roomy = fit(job(model=target("Roomy")), *sources, Folder.open(tmp_path / "roomy"), CPU)
    assert small.details["micro_batch_size"] == 2
    assert notes[-1].endswith("in parts of 2")
    for one, other in zip(small.history, roomy.history, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)


def test_it_stops_early_and_keeps_the_weights_of_the_best_epoch(sources, tmp_path, every_step):
    the_job = job(training=training(epochs=10, **STOPPING))
    fitted = fit(the_job, *sources, Folder.open(tmp_path / "whole"), CPU)
    losses = [row["validation_loss"] for row in fitted.history if "validation_loss" in row]
    worse = [after >= min(losses[: place + 1]) for place, after in enumerate(losses[1:])]
    assert worse.index(True) == len(worse) - 1, "it goes on while it improves, and no longer"
    best = losses.index(min(losses))
    assert fitted.details["stopped_early"]
    assert fitted.steps == 5 * len(losses) < 50
    assert fitted.details["kept"]["step"] == 5 * (best + 1)
    assert fitted.details["kept"]["value"] == min(losses)
    # The same run, stopped from outside right after that epoch.
    folder = Folder.open(tmp_path / "stopped")
    at = 5 * (best + 1)
    with pytest.raises(Interruption), stopping_after(at + 1):
        fit(the_job, *sources, folder, CPU)
    kept = Checkpoints(folder / "checkpoints", 0, the_job.asked(sources[0]))
    state = kept.newest()["trainer"]["learner"]
    for name, value in fitted.model.state_dict().items():
        assert torch.equal(value, state[f"model.{name}"])


def test_without_a_validation_split_epochs_cannot_be_compared(sources, tmp_path):
    for changes, field in (({"keep": "best"}, "keep"), (STOPPING, "early_stopping")):
        with pytest.raises(
            RecipeError, match=rf"^students\.toy\.training\.{field}: expected a split 'validation'"
        ):
            fit(job(training=training(**changes)), sources[0], None, Folder.open(tmp_path), CPU)


def test_without_hard_labels_there_is_no_accuracy(sources, store, tmp_path):
    corpus = numbered_corpus({"train": 9, "validation": 9}, label=False)
    labels = label_set(store, corpus, TableTeacher(random_table(20)), OPTIONS)
    stopping = EarlyStopping(metric="validation_accuracy")
    the_job = job(loss=LossOptions(soft_weight=1.0), training=training(early_stopping=stopping))
    with pytest.raises(
        RecipeError, match=r"early_stopping\.metric: validation_accuracy needs hard"
    ):
        fit(
            the_job,
            LabelSource(labels, "train"),
            LabelSource(labels, "validation"),
            Folder.open(tmp_path / "run"),
            CPU,
        )
    labels.close()


def test_phases_follow_each_other(sources, tmp_path):
    the_job = job(training=training(epochs=10, schedule="constant", warmup=0.0, **PHASES))
    fitted = fit(the_job, *sources, Folder.open(tmp_path / "run"), CPU)
    assert [row["phase"] for row in fitted.history] == [0] * 5 + [1] * 10
    assert [row["epoch"] for row in fitted.history] == [0] * 5 + [1] * 5 + [2] * 5
    assert [row["step"] for row in fitted.history] == list(range(1, 16))
    assert [row["learning_rate"] for row in fitted.history] == [0.02] * 5 + [0.1] * 10
    assert all(row["soft_loss"] is None for row in fitted.history[:5])
    assert all(row["soft_loss"] is not None for row in fitted.history[5:])


def test_checkpoints_of_another_recipe_or_model_are_refused(
    sources, tmp_path, every_step, monkeypatch
):
    folder = Folder.open(tmp_path / "run")
    with pytest.raises(Interruption), stopping_after(4):
        fit(job(), *sources, folder, CPU)
    with pytest.raises(StoreError, match=r"another recipe: training\.epochs is 3 there and not"):
        fit(job(training=training(epochs=10, **PHASES)), *sources, folder, CPU)
    wider = MlpOptions(kind="mlp", hidden=(9,), dropout=0.3, input_scale=0.05)
    with pytest.raises(StoreError, match=r"another recipe: model\.hidden is \[8\] there and \[9\]"):
        fit(job(model=wider), *sources, folder, CPU)
    # A callable of a person's own may build something else by the same words.
    own = Folder.open(tmp_path / "own")
    with pytest.raises(Interruption), stopping_after(4):
        fit(job(model=target("table")), *sources, own, CPU)
    monkeypatch.setattr(f"{__name__}.ROWS", 70)
    with pytest.raises(StoreError, match=r"its checkpoint is of another model: .*--force"):
        fit(job(model=target("table")), *sources, own, CPU)


def test_it_says_how_it_goes(sources, tmp_path):
    told = []
    with listening(told.append):
        fit(job(training=training(epochs=10, **PHASES)), *sources, Folder.open(tmp_path), CPU)
    assert told[-1].finer_done == 3 * SAMPLES
    assert told[-1].rate.endswith(" samples/s")
    assert re.fullmatch(r"loss \d\.\d{3} epoch 3/3 phase 2/2", told[-1].note)


def test_event_files_hold_the_history(sources, tmp_path, every_step):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    the_job = job(training=training(tensorboard=True))
    with pytest.raises(Interruption), stopping_after(8):
        fit(the_job, *sources, Folder.open(tmp_path), CPU)
    fitted = fit(the_job, *sources, Folder.open(tmp_path), CPU)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = {entry.step: entry.value for entry in events.Scalars("loss")}
    assert losses == pytest.approx({row["step"]: row["loss"] for row in fitted.history})
    assert len(events.Scalars("validation_loss")) == 3


def test_event_files_of_a_remote_store_need_a_folder(sources, tmp_path):
    remote = Folder.open("memory://softlabel-events")
    with pytest.raises(RecipeError, match=r"training\.tensorboard: event files .* name a folder"):
        fit(job(training=training(tensorboard=True)), *sources, remote, CPU)
    the_job = dataclasses.replace(
        job(training=training(epochs=1, tensorboard="events")), recipe_folder=tmp_path
    )
    fit(the_job, *sources, remote, CPU)
    assert list((tmp_path / "events" / "students.toy").iterdir())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_compiled_model_learns_the_same(sources, tmp_path):
    model = MlpOptions(kind="mlp", hidden=(8,), input_scale=0.05)
    found = []
    for compiles in (False, True):
        the_job = job(model=model, training=training(compile=compiles))
        fitted = fit(the_job, *sources, Folder.open(tmp_path / str(compiles)), CPU)
        assert fitted.model._compiled_call_impl is None
        found.append([row["loss"] for row in fitted.history])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_where_torch_cannot_compile_one_line_says_so(sources, tmp_path, monkeypatch):
    from torch._dynamo.exc import BackendCompilerFailed

    def fails(self):
        def call(*_):
            raise BackendCompilerFailed(fails, RuntimeError("no C++ compiler"), None)

        self._compiled_call_impl = call

    monkeypatch.setattr(nn.Module, "compile", fails)
    with pytest.raises(
        ModelError, match=r"^students\.toy\.training\.compile: torch cannot compile .*to false$"
    ):
        fit(job(training=training(compile=True)), *sources, Folder.open(tmp_path), CPU)
