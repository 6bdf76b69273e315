"""Students that take from inside their teacher, fitted: live teachers, checkpoints, refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch

from storage.cards import publish
from storage.corpus import MemoryCorpus
from storage.errors import ModelError, RecipeError
from storage.feature_options import StoredFeature
from storage.files import Folder
from storage.identity import digest_of_bytes
from storage.options import LabelOptions, Task
from storage.rows import Ragged
from storage.spec import CorpusForm
from tasks.feature_options import InitialiseOptions, MatchOptions
from tasks.fit import FitJob, fit
from tasks.learners import Inside
from tasks.live_teacher import LiveTeacher, TeacherSource
from tasks.loss_options import LossOptions
from tasks.model_options import TargetOptions
from tasks.models import model_files
from tasks.sources import LabelSource
from tasks.teacher_options import FitTeacherOptions
from tasks.teachers import TorchTeacher
from tasks.training_options import PhaseOptions, TrainingOptions
from tests.tasks.interruption import assert_interrupted_equals_uninterrupted
from tests.tasks.nn.sequences import built, tokens
from tests.tasks.test_fit import every_step as every_step
from tests.tasks.test_fit import interrupted, outcome
from tests.tasks.toy import ATTENTION, TOKENS, TableTeacher, label_set, random_table, text_corpus

CPU = torch.device("cpu")
TEACHER = tokens(layers=4, width=24, heads=3, vocabulary=7)
STUDENT = tokens(layers=2, vocabulary=7, dropout=0.1)
TRAINING = TrainingOptions(epochs=2, batch_size=8, learning_rate=0.01, checkpoint_seconds=0.0)
TEXTS = [[(7 * place + at) % 6 + 1 for at in range(place % 5 + 1)] for place in range(20)]
MATCH = (
    MatchOptions(teacher="hidden.-1", loss="cosine"),
    MatchOptions(kind="hidden", layers="uniform"),
    MatchOptions(kind="attention", layers={1: 2}, heads="mean", loss="ce"),
)


@pytest.fixture
def source(store):
    labels = label_set(
        store,
        text_corpus(TEXTS),
        TableOfFirsts(),
        LabelOptions(k=2, batch_size=8, positions_per_shard=16),
    )
    yield LabelSource(labels, "train")
    labels.close()


class TableOfFirsts(TableTeacher):
    """Classifies a text by its first token."""

    def __init__(self):
        super().__init__(random_table(7, 6))

    def logits(self, inputs):
        return super().logits((inputs[0][:, 0],))


class Given:
    """Where a teacher comes from that is at hand."""

    def __init__(self, task=Task.CLASSIFICATION):
        self.model = built(TEACHER, task, (TOKENS, ATTENTION), seed=1)
        self.teacher = TorchTeacher(self.model, (TOKENS, ATTENTION), CPU, "teacher")

    def load(self, device):
        return LiveTeacher(self.teacher)


def texts_of(task):
    """The texts, with a class each, or one of each token."""
    corpus = text_corpus(TEXTS)
    if task is Task.CLASSIFICATION:
        return corpus
    rows = dict(corpus.splits["train"])
    tokens_NW = rows["input.tokens"]
    rows["mask"] = Ragged(np.ones(len(tokens_NW.values_NW), np.bool_), tokens_NW.lengths_B)
    rows["label"] = Ragged(tokens_NW.values_NW % 3, tokens_NW.lengths_B)
    return MemoryCorpus(CorpusForm(task, (TOKENS, ATTENTION), True, ("train",)), {"train": rows})


def job(inside, model=STUDENT, **changes):
    return FitJob(
        **{
            "title": "student toy",
            "where": "students.toy",
            "model": model,
            "loss": LossOptions(soft_weight=1.0),
            "training": TRAINING,
            "inputs": (TOKENS, ATTENTION),
            "num_classes": 6,
            "inside": inside,
            **changes,
        }
    )


def test_interrupted_equals_uninterrupted_with_projections(source, tmp_path, every_step):
    teacher = Given()
    folders = iter(range(100))

    def run(stops):
        folder = Folder.open(tmp_path / f"run-{next(folders)}")
        inside = Inside(MATCH, live=True, teacher=teacher)
        return outcome(interrupted(job(inside), (source, None), folder, stops))

    assert_interrupted_equals_uninterrupted(run, [(1,), (3,), (2, 5)])


def test_the_inside_becomes_like_the_teacher_s(source, tmp_path):
    match = (MatchOptions(teacher="hidden.-1", projection="linear"),)
    training = TRAINING.model_copy(update={"epochs": 40})
    inside = Inside(match, live=True, teacher=Given())
    fitted = fit(job(inside, training=training), source, None, Folder.open(tmp_path), CPU)
    losses = [row["matched.mse.hidden.-1"] for row in fitted.history]
    assert losses[-1] < 0.3 * losses[0]
    assert not any("project" in name for name in fitted.model.state_dict())


def test_first_the_inside_then_predictions(source, tmp_path, every_step):
    """TinyBERT's two phases, stopped in each of them and between them."""
    training = TrainingOptions(
        batch_size=8,
        checkpoint_seconds=0.0,
        phases=(
            PhaseOptions(epochs=1, loss="none", match=MATCH[1:]),
            PhaseOptions(epochs=1, match=()),
        ),
    )
    teacher = Given()
    folders = iter(range(100))

    def run(stops):
        folder = Folder.open(tmp_path / f"run-{next(folders)}")
        the_job = job(Inside(live=True, teacher=teacher), training=training)
        fitted = interrupted(the_job, (source, source), folder, stops)
        return *outcome(fitted), [
            (row["phase"], row["soft_loss"] is None, "matched.ce.attention.1.attention.2" in row)
            for row in fitted.history
        ]

    whole = run(())
    assert whole[-1] == [(0, True, True)] * 3 + [(1, False, False)] * 3
    assert_interrupted_equals_uninterrupted(run, [(2,), (3,), (1, 4)])


def test_a_student_may_begin_with_its_teacher_and_learn_nothing(source, tmp_path):
    teacher = Given()
    inside = Inside(initialise=InitialiseOptions(), teacher=teacher)
    training = TRAINING.model_copy(update={"frozen": ("*embedding*", "body*"), "epochs": 1})
    fitted = fit(job(inside, TEACHER, training=training), source, None, Folder.open(tmp_path), CPU)
    for name, weight in teacher.model.body.state_dict().items():
        assert torch.equal(fitted.model.body.state_dict()[name], weight)


STORED = (
    MatchOptions(teacher="hidden.-1", loss="cosine"),
    MatchOptions(kind="hidden", layers={0: 0, 1: 2}),
    MatchOptions(teacher="hidden.4", student="hidden.2", pool="mean", weight=0.1),
    MatchOptions(kind="attention", layers={1: 2}, heads="mean", loss="ce"),
)


@pytest.mark.parametrize("task", [Task.CLASSIFICATION, Task.TAGGING])
def test_stored_features_teach_what_a_live_teacher_does(store, tmp_path, task):
    """Step by step, within the rounding of other batches."""
    given = Given(task=task)
    pools = {"hidden.4": "mean"}
    names = ("hidden.-1", "hidden.0", "hidden.2", "hidden.4", "attention.2")
    stored = [
        StoredFeature(feature=name, dtype="float32", pool=pools.get(name, "none")) for name in names
    ]
    labels = label_set(
        store,
        texts_of(task),
        given.teacher,
        LabelOptions(k=2, batch_size=3, positions_per_shard=16, features=stored),
    )
    model = STUDENT.model_copy(update={"dropout": 0.0})
    found = []
    for live in (False, True):
        source = LabelSource(labels, "train", () if live else names)
        inside = Inside(STORED, live=live, teacher=given if live else None)
        folder = Folder.open(tmp_path / str(live))
        found.append(fit(job(inside, model, task=task), source, None, folder, CPU).history)
    columns = [name for name in found[0][0] if name.startswith("matched.")]
    assert len(columns) == 5
    for held, asked in zip(*found, strict=True):
        for name in (*columns, "loss"):
            assert held[name] == pytest.approx(asked[name], rel=2e-4, abs=1e-6), name
    labels.close()


@pytest.mark.parametrize(
    ("inside", "error"),
    [
        (
            Inside((MatchOptions(teacher="hidden.2"),)),
            r"^students\.toy\.match: the label set holds no 'hidden\.2'; add it to "
            r"labels\.features, or say teacher: live$",
        ),
        (
            Inside((MatchOptions(teacher="hidden.9"),), live=True, teacher=Given()),
            r"^students\.toy\.match: the student: hidden\.9: the model has hidden\.0 to hidden\.2$",
        ),
        (
            Inside((MatchOptions(teacher="hidden.9", student="hidden.1"),), True, None, Given()),
            r"^students\.toy\.match: the teacher: hidden\.9: the model has hidden\.0 to hidden\.4$",
        ),
        (
            Inside((MatchOptions(teacher="hidden.1", projection="none"),), True, None, Given()),
            r"^students\.toy\.match: mse\.hidden\.1: the student's is 16 wide, the teacher's 24; "
            r"say projection: linear$",
        ),
        (
            Inside((MatchOptions(kind="hidden", layers="uniform"),)),
            r"^students\.toy\.match\.0\.layers: uniform needs the teacher itself",
        ),
    ],
)
def test_what_is_not_there_is_refused_before_training(source, tmp_path, inside, error):
    with pytest.raises((RecipeError, ModelError), match=error):
        fit(job(inside), source, None, Folder.open(tmp_path), CPU)


def test_a_teacher_is_loaded_from_its_card(store):
    model = Given().model
    files = model_files(model)
    (weights,) = files.values()
    card = publish(
        store,
        "teachers",
        "0" * 16,
        name="teacher",
        intent={"data": {"task": "classification"}},
        details={"num_classes": 6, "weights_digest": digest_of_bytes(weights)},
        files=files,
    )
    options = FitTeacherOptions(kind="fit", model=TEACHER)
    found = TeacherSource(store, card, options, Path(), (TOKENS, ATTENTION)).load(CPU)
    inputs = (torch.tensor([[1, 2, 3]]), torch.ones(1, 3, dtype=torch.int64))
    again = Given().load(CPU)
    names = ["hidden.1", "attention.-1"]
    for name, tensor in found.features(inputs, names).items():
        assert torch.equal(tensor, again.features(inputs, names)[name])
        assert not tensor.is_inference()
    assert not found.module.training


def test_a_live_teacher_makes_no_logits_once_it_is_known_how():
    given = Given(Task.TAGGING)
    live = given.load(CPU)
    inputs = (torch.tensor([[1, 2, 3], [4, 5, 2]]), torch.ones(2, 3, dtype=torch.int64))
    names = ["hidden.-1", "hidden.1", "attention.2"]
    made = []
    given.model.head.register_forward_hook(lambda *passed: made.append(passed[2].shape[-1]))
    passes = [live.features(inputs, names) for _ in range(2)]
    assert made == [6, 6, 24]  # a pass, a look at one sample, and a pass without the layer
    for name in names:
        assert torch.equal(passes[0][name], passes[1][name])
    assert live.features(inputs, ["module.head"])["module.head"].shape == (2, 3, 6)


def test_a_module_by_its_path(source, tmp_path):
    match = (MatchOptions(teacher="module.body.norm", student="module.embedding"),)
    model = TargetOptions(
        kind="torch", target="tests.tasks.toy:TextModel", arguments={"num_classes": 6}
    )
    inside = Inside(match, live=True, teacher=Given())
    fitted = fit(job(inside, model), source, None, Folder.open(tmp_path), CPU)
    assert fitted.steps == 6
