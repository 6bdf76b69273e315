"""Fitting: it learns, it is interrupted and goes on with the same bits, it stops at NaN."""

import math

import pyarrow.parquet as pq
import pytest
import torch

from storage import layout
from storage.errors import ModelError, NotFiniteError
from storage.files import Folder
from storage.options import LabelOptions
from tasks.checkpoints import Checkpoints
from tasks.fit import FitJob, fit
from tasks.history import HISTORY_SCHEMA, history_bytes, read_history
from tasks.loss_options import LossOptions
from tasks.model_options import MlpOptions, TargetOptions
from tasks.progress import listening
from tasks.sources import CorpusSource, LabelSource
from tasks.training_options import TrainingOptions
from tests.tasks.interruption import Interruption, assert_interrupted_equals_uninterrupted
from tests.tasks.toy import (
    ROW,
    TableTeacher,
    TokenModel,
    block_corpus,
    label_set,
    numbered_corpus,
    random_table,
)

CPU = torch.device("cpu")
OPTIONS = LabelOptions(
    k=2, temperature=2.0, batch_size=8, positions_per_shard=16, positions_per_row_group=5
)
TRAINING = TrainingOptions(
    epochs=3, batch_size=8, learning_rate=0.02, window=2, checkpoint_seconds=0.0, seed=3
)
SAMPLES = 37
STEPS = 15


@pytest.fixture
def every_step(monkeypatch):
    """Save after each step, however much of the time it takes."""
    monkeypatch.setattr(Checkpoints, "_is_due", lambda *_: True)


@pytest.fixture
def sources(store):
    corpus = numbered_corpus({"train": SAMPLES, "validation": 9})
    labels = label_set(store, corpus, TableTeacher(random_table(60)), OPTIONS)
    yield LabelSource(labels, "train"), LabelSource(labels, "validation")
    labels.close()


def job(**changes):
    values = {
        "title": "student toy",
        "where": "students.toy",
        "model": MlpOptions(kind="mlp", hidden=(8,), dropout=0.3, input_scale=0.05),
        "loss": LossOptions(),
        "training": TRAINING,
        "inputs": (ROW,),
        "num_classes": 5,
    }
    return FitJob(**{**values, **changes})


def outcome(fitted):
    """Weights as bytes and the history: what must be the same bit by bit."""
    weights = {name: value.numpy().tobytes() for name, value in fitted.model.state_dict().items()}
    return weights, fitted.history, fitted.steps


def stopping_after(steps):
    """Listens to progress, and stops the work when so many steps are done."""

    def listen(progress):
        if progress.done == steps and not progress.ended:
            raise Interruption

    return listening(listen)


def interrupted(the_job, sources, folder, stops):
    for stop in stops:
        with pytest.raises(Interruption), stopping_after(stop):
            fit(the_job, *sources, folder, CPU)
    return fit(the_job, *sources, folder, CPU)


def newest(folder):
    kept = folder / layout.CHECKPOINTS
    return kept, max(kept.sizes())


def test_interrupted_equals_uninterrupted(sources, tmp_path, every_step):
    folders = iter(range(1000))

    def run(stops):
        folder = Folder.open(tmp_path / f"run-{next(folders)}")
        return outcome(interrupted(job(), sources, folder, stops))

    # 5 steps make an epoch. Stopped at n, step n is done and not yet saved.
    stops = [(n,) for n in range(STEPS + 1)]
    stops += [(1, 1), (2, 9), (5, 6), (5, 10), (6, 11), (14, 15), (3, 7, 12), (5, 5, 5)]
    assert_interrupted_equals_uninterrupted(run, stops)


def test_a_damaged_newest_checkpoint_costs_steps_and_no_bits(sources, tmp_path, every_step):
    whole = outcome(fit(job(), *sources, Folder.open(tmp_path / "whole"), CPU))
    folder = Folder.open(tmp_path / "damaged")
    with pytest.raises(Interruption), stopping_after(9):
        fit(job(), *sources, folder, CPU)
    kept, name = newest(folder)
    assert name.startswith("step-000000008-")
    kept.write_bytes(name, kept.read_bytes(name)[:-7])
    began = []
    with listening(lambda progress: began.append(progress.done)):
        assert outcome(fit(job(), *sources, folder, CPU)) == whole
    # The steps of the checkpoint before the damaged one.
    assert began[:3] == [7, 8, 9]


def test_what_is_finished_is_not_trained_again(sources, tmp_path, every_step):
    folder = Folder.open(tmp_path / "run")
    first = fit(job(), *sources, folder, CPU)
    steps = []
    with listening(lambda progress: steps.append((progress.title, progress.done))):
        second = fit(job(), *sources, folder, CPU)
    assert outcome(first) == outcome(second)
    assert steps == [("student toy", STEPS), ("student toy", STEPS)]


def test_another_seed_gives_other_weights(sources, tmp_path):
    found = [
        outcome(
            fit(
                job(training=TRAINING.model_copy(update={"seed": seed})),
                *sources,
                Folder.open(tmp_path / str(seed)),
                CPU,
            )
        )
        for seed in (0, 1)
    ]
    assert found[0][0] != found[1][0]


def test_the_history_says_how_it_went(sources, tmp_path):
    fitted = fit(job(), *sources, Folder.open(tmp_path / "run"), CPU)
    assert fitted.steps == STEPS
    assert not fitted.model.training
    history = fitted.history
    assert [row["step"] for row in history] == list(range(1, STEPS + 1))
    assert [row["epoch"] for row in history] == [0] * 5 + [1] * 5 + [2] * 5
    ends = [row["step"] for row in history if "validation_loss" in row]
    assert ends == [5, 10, 15]
    for row in history:
        assert row["loss"] == pytest.approx(0.5 * row["soft_loss"] + 0.5 * row["hard_loss"])
    assert 0 <= history[-1]["validation_accuracy"] <= 1


def test_a_long_history_is_thinned_but_keeps_the_ends_of_epochs(sources, tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.fitting.HISTORY_ROWS", 4)
    fitted = fit(job(), *sources, Folder.open(tmp_path / "run"), CPU)
    assert [row["step"] for row in fitted.history] == [3, 5, 6, 9, 10, 12, 15]


def test_a_history_file_is_parquet_and_comes_back(sources, tmp_path):
    history = fit(job(), *sources, Folder.open(tmp_path / "run"), CPU).history
    content = history_bytes(history)
    path = tmp_path / "history.parquet"
    path.write_bytes(content)
    assert pq.read_schema(path).equals(HISTORY_SCHEMA)
    rows = read_history(content)
    assert [{key: row[key] for key in line} for row, line in zip(rows, history, strict=True)] == (
        history
    )


def test_a_student_learns_what_its_teacher_knows(store, tmp_path):
    table = random_table(40, scale=4.0)
    corpus = numbered_corpus({"train": 40})
    labels = label_set(store, corpus, TableTeacher(table), OPTIONS)
    source = LabelSource(labels, "train")
    the_job = job(
        model=TargetOptions(
            kind="torch",
            target="tests.tasks.toy:TableModel",
            arguments={"table_NC": [[0.0] * 5] * 40},
        ),
        loss=LossOptions(soft_weight=1.0),
        training=TRAINING.model_copy(
            update={"epochs": 60, "learning_rate": 0.3, "weight_decay": 0.0}
        ),
    )
    fitted = fit(the_job, source, None, Folder.open(tmp_path / "run"), CPU)
    losses = [row["soft_loss"] for row in fitted.history]
    assert losses[-1] < 0.05 * losses[0]
    with torch.no_grad():
        found = fitted.model(torch.arange(40)[:, None]).argmax(dim=1)
    assert (found == torch.tensor(table.argmax(axis=1))).float().mean() == 1.0
    labels.close()


def test_a_teacher_is_fitted_to_hard_labels(tmp_path):
    corpus = numbered_corpus({"train": 20, "validation": 5})
    the_job = job(
        title="teacher",
        where="teacher",
        model=TargetOptions(
            kind="torch",
            target="tests.tasks.toy:TableModel",
            arguments={"table_NC": [[0.0] * 5] * 25},
        ),
        loss=LossOptions(soft_weight=0.0),
        training=TRAINING.model_copy(update={"epochs": 20, "learning_rate": 0.3}),
    )
    fitted = fit(
        the_job,
        CorpusSource(corpus, "train"),
        CorpusSource(corpus, "validation"),
        Folder.open(tmp_path),
        CPU,
    )
    assert fitted.history[-1]["loss"] < 0.2
    assert fitted.history[-1]["soft_loss"] is None
    with torch.no_grad():
        logits = fitted.model(torch.arange(20)[:, None])
    assert logits.argmax(dim=1).tolist() == [n % 5 for n in range(20)]
    # No table line of a validation sample was learnt: its label is a guess.
    assert fitted.history[-1]["validation_loss"] == pytest.approx(math.log(5), rel=1e-5)


def test_blocks_of_tokens_are_learnt_too(store, tmp_path):
    blocks = [[(a + b) % 7 for b in range(1 + a % 4)] for a in range(12)]
    mask = [[place % 2 == 0 for place, _ in enumerate(block)] for block in blocks]
    corpus = block_corpus(blocks, mask)
    labels = label_set(store, corpus, TableTeacher(random_table(7, 3)), OPTIONS)
    source = LabelSource(labels, "train")
    the_job = job(
        model=TargetOptions(
            kind="torch", target="tests.tasks.toy:TokenModel", arguments={"num_classes": 3}
        ),
        inputs=corpus.form.inputs,
        num_classes=3,
        training=TRAINING.model_copy(update={"epochs": 30}),
    )
    fitted = fit(the_job, source, source, Folder.open(tmp_path / "run"), CPU)
    assert isinstance(fitted.model, TokenModel)
    assert fitted.history[-1]["validation_loss"] < 0.7 * fitted.history[0]["loss"]
    labels.close()


def test_nan_stops_and_names_step_and_samples(tmp_path):
    corpus = numbered_corpus({"train": 20})
    table = [[0.0] * 5] * 20
    table[13] = [math.nan] * 5
    the_job = job(
        model=TargetOptions(
            kind="torch", target="tests.tasks.toy:TableModel", arguments={"table_NC": table}
        ),
        loss=LossOptions(soft_weight=0.0),
        training=TRAINING.model_copy(update={"batch_size": 1}),
    )
    with pytest.raises(
        NotFiniteError,
        match=r"^students\.toy: step \d+: the loss is nan, from .* loss of train-13; ",
    ):
        fit(the_job, CorpusSource(corpus, "train"), None, Folder.open(tmp_path), CPU)


def test_a_validation_loss_that_is_not_finite_stops_too(tmp_path):
    corpus = numbered_corpus({"train": 4, "validation": 3})
    table = [[0.0] * 5] * 7
    table[5] = [math.nan] * 5
    the_job = job(
        model=TargetOptions(
            kind="torch", target="tests.tasks.toy:TableModel", arguments={"table_NC": table}
        ),
        loss=LossOptions(soft_weight=0.0),
    )
    with pytest.raises(NotFiniteError, match=r"students\.toy: step 1: the validation loss is nan"):
        fit(
            the_job,
            CorpusSource(corpus, "train"),
            CorpusSource(corpus, "validation"),
            Folder.open(tmp_path),
            CPU,
        )


def test_a_model_that_does_not_fit_is_named(sources, tmp_path):
    with pytest.raises(ModelError, match=r"^students\.toy\.model: "):
        fit(
            job(model=TargetOptions(kind="torch", target="tests.tasks.toy:failing")),
            *sources,
            Folder.open(tmp_path / "run"),
            CPU,
        )


@pytest.mark.gpu
def test_cuda_learns_what_the_cpu_does(sources, tmp_path):
    the_job = job(model=MlpOptions(kind="mlp", hidden=(8,), input_scale=0.05))
    found = [
        fit(the_job, *sources, Folder.open(tmp_path / name), torch.device(name)).history
        for name in ("cpu", "cuda")
    ]
    for cpu, cuda in zip(*found, strict=True):
        assert cpu["loss"] == pytest.approx(cuda["loss"], rel=1e-3)
