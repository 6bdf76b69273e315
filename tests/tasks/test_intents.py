"""Fingerprints: what decides a product's bytes changes them, and nothing else does."""

import dataclasses
from pathlib import Path

import pytest

from storage.errors import DataError, RecipeError
from storage.options import Codec, DataOptions, KeptSetOptions, LabelOptions, SplitOptions
from tasks import intents
from tasks.loss_options import LossOptions
from tasks.model_options import MlpOptions
from tasks.options import EvaluationOptions, StudentOptions
from tasks.teacher_options import (
    EnsembleTeacherOptions,
    FitTeacherOptions,
    OnnxTeacherOptions,
    TorchTeacherOptions,
)
from tasks.training_options import TrainingOptions
from tests.tasks.toy import numbered_corpus

DATA = DataOptions(
    name="digits",
    source="digits.parquet",
    inputs=("pixels",),
    label="digit",
    splits=SplitOptions(column="split"),
)
LABELS = LabelOptions(k=8, temperature=2.0)
FIT = FitTeacherOptions(kind="fit", model=MlpOptions(kind="mlp"))
TORCH = TorchTeacherOptions(kind="torch", target="a.b:c", weights="w.safetensors")
ONNX = OnnxTeacherOptions(kind="onnx", path="m.onnx")
STUDENT = StudentOptions(model=MlpOptions(kind="mlp"))


def changed(options, **changes):
    return options.model_copy(update=changes)


def index(splits=("train", "validation", "test"), grown=0, label=True):
    sizes = dict.fromkeys(splits, 6)
    sizes[splits[-1]] += grown
    return numbered_corpus(sizes, label=label).index(100)


def label_set(data=DATA, labels=LABELS, teacher=ONNX, weights="ab" * 32):
    architecture = intents.teacher_architecture(teacher)
    return intents.label_set(data, labels, architecture, weights).fingerprint


def test_a_fingerprint_is_16_hex_digits_and_stays():
    assert label_set() == label_set()
    assert len(label_set()) == 16
    assert set(label_set()) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    "changes",
    [
        {"data": changed(DATA, source="/elsewhere/digits.parquet")},
        {"data": changed(DATA, version="2")},
        {"labels": changed(LABELS, on_bad_sample="quarantine")},
        {"labels": changed(LABELS, max_bad=0.5)},
        {"teacher": changed(ONNX, path="/elsewhere/m.onnx")},
    ],
)
def test_where_things_lie_does_not_name_a_label_set(changes):
    assert label_set(**changes) == label_set()


@pytest.mark.parametrize(
    "changes",
    [
        {"data": changed(DATA, name="letters")},
        {"data": changed(DATA, inputs=("pixels", "age"))},
        {"data": changed(DATA, splits=SplitOptions(fractions={"train": 1.0}))},
        {"labels": changed(LABELS, k=9)},
        {"labels": LabelOptions(k=8, temperature=4.0)},
        {"labels": LabelOptions(k=8, temperature=2.0, temperatures=(3.0,))},
        {"labels": changed(LABELS, codec=Codec.FLOAT32)},
        {"labels": changed(LABELS, batch_size=32)},
        {"labels": changed(LABELS, statistics=True)},
        {"labels": changed(LABELS, positions_per_shard=9)},
        {"labels": changed(LABELS, evaluation=KeptSetOptions(k=3))},
        {"teacher": changed(ONNX, output="scores")},
        {"teacher": TORCH},
        {"weights": "cd" * 32},
    ],
)
def test_what_decides_its_bytes_does(changes):
    assert label_set(**changes) != label_set()


@pytest.mark.parametrize("name", ["LABEL_CODE_VERSION", "FORMAT_VERSION", "PRECISION"])
def test_a_bumped_version_makes_another_label_set(monkeypatch, name):
    before = label_set()
    monkeypatch.setattr(intents, name, "next")
    assert label_set() != before


def test_how_a_teacher_was_fitted_is_in_its_weights():
    trained_longer = changed(FIT, training=TrainingOptions(epochs=99))
    assert label_set(teacher=trained_longer) == label_set(teacher=FIT)
    wider = changed(FIT, model=MlpOptions(kind="mlp", hidden=(128,)))
    assert label_set(teacher=wider) != label_set(teacher=FIT)


def fitted(options=FIT, data=DATA, content=None):
    return intents.fitted_teacher(options, data, content or index()).fingerprint


def test_a_fitted_teacher_is_named_by_what_it_learns_from():
    assert fitted() == fitted(data=changed(DATA, source="elsewhere.parquet"))
    assert fitted(content=index(grown=1)) == fitted()
    assert fitted(content=index(("train", "test", "validation"), grown=1)) != fitted()
    assert fitted(changed(FIT, training=TrainingOptions(seed=1))) != fitted()
    assert fitted(changed(FIT, label_smoothing=0.1)) != fitted()
    saved_often = changed(FIT, training=TrainingOptions(checkpoint_seconds=0))
    assert fitted(saved_often) == fitted()


def test_one_that_is_never_fitted_again_survives_a_growing_corpus():
    never = changed(FIT, refit="never")
    grown = index(("test", "train"), grown=5)
    assert fitted(never, content=grown) == fitted(never, content=index(("test", "train")))
    assert fitted(FIT, content=grown) != fitted(FIT, content=index(("test", "train")))


def test_a_fitted_teacher_needs_a_training_split_and_labels():
    with pytest.raises(DataError, match=r"data\.splits: .*'train'; there is: validation, test"):
        fitted(content=index(("validation", "test")))
    with pytest.raises(DataError, match=r"data\.label: a fitted teacher learns from hard labels"):
        fitted(content=index(label=False))


def test_an_imported_teacher_is_named_by_its_weights():
    one = intents.imported_teacher(TORCH, "ab" * 32).fingerprint
    moved = changed(TORCH, weights="/elsewhere/w.safetensors")
    assert intents.imported_teacher(moved, "ab" * 32).fingerprint == one
    assert intents.imported_teacher(TORCH, "cd" * 32).fingerprint != one
    other = changed(TORCH, arguments={"size": 3})
    assert intents.imported_teacher(other, "ab" * 32).fingerprint != one


def team(*members, **more):
    said = [{"teacher": teacher, "weight": weight} for teacher, weight in members]
    return EnsembleTeacherOptions(kind="ensemble", members=said, **more)


def mixed(options, digests=("ab" * 32, "cd" * 32)):
    members = [
        intents.imported_teacher(member.teacher, digest)
        for member, digest in zip(options.members, digests, strict=True)
    ]
    return intents.ensemble(options, members)


def test_several_teachers_are_named_by_each_and_by_how_they_are_mixed():
    one = mixed(team((TORCH, 1), (ONNX, 2))).fingerprint
    moved = team((changed(TORCH, weights="/elsewhere"), 2), (ONNX, 4))
    assert mixed(moved).fingerprint == one
    others = [
        mixed(team((TORCH, 1), (ONNX, 1))),
        mixed(team((TORCH, 1), (ONNX, 2), mix="logits")),
        mixed(team((TORCH, 1), (ONNX, 2)), ("ab" * 32, "ef" * 32)),
        mixed(team((ONNX, 1), (TORCH, 2))),
    ]
    assert len({one, *(other.fingerprint for other in others)}) == 5


def test_one_teacher_from_two_places_is_refused():
    options = team((ONNX, 1), (changed(ONNX, path="copy.onnx"), 1))
    with pytest.raises(RecipeError, match=r"teacher\.members: 0 and 1 have the same weights"):
        mixed(options, ("ab" * 32, "ab" * 32))


def test_a_label_set_of_several_teachers_knows_their_architectures_and_shares():
    options = team((FIT, 1), (ONNX, 3))
    assert intents.teacher_architecture(options) == {
        "mix": "probabilities",
        "members": {
            "0": {"share": 0.25, "model": FIT.model.identity()},
            "1": {"share": 0.75, "model": ONNX.identity()},
        },
    }


def test_what_was_asked_for_names_the_weights_by_where_they_lie():
    def asked(*members):
        return intents.asked_teacher(team(*members))

    assert asked((FIT, 1), (ONNX, 1)) == asked((FIT, 2), (ONNX, 2))
    assert asked((FIT, 1), (ONNX, 1)) != asked((FIT, 1), (changed(ONNX, path="b.onnx"), 1))
    assert asked((FIT, 1), (ONNX, 1)) != asked((FIT, 1), (ONNX, 2))


def test_where_an_imported_teacher_lies_is_relative_to_the_recipe():
    folder = Path("/recipes")
    assert intents.teacher_source(TORCH, folder) == "/recipes/w.safetensors"
    assert intents.teacher_source(changed(ONNX, path="s3://b/m.onnx"), folder) == "s3://b/m.onnx"


def test_a_student_is_named_by_its_options_and_the_state_it_learns_from():
    def named(options=STUDENT, fingerprint="00" * 8, digest="ab" * 32):
        return intents.student(options, fingerprint, digest).fingerprint

    other = [
        named(changed(STUDENT, loss=LossOptions(soft_weight=0.9))),
        named(changed(STUDENT, training=TrainingOptions(epochs=3))),
        named(changed(STUDENT, model=MlpOptions(kind="mlp", hidden=(3,)))),
        named(fingerprint="11" * 8),
        named(digest="cd" * 32),
    ]
    assert len({named(), *other}) == 6
    often = changed(STUDENT, training=TrainingOptions(checkpoint_seconds=0))
    assert named(often) == named()


def test_a_shard_is_named_by_the_set_and_its_samples():
    names = {intents.shard(a, b) for a in ("00" * 8, "11" * 8) for b in ("ab", "cd")}
    assert len(names) == 4


def test_predictions_and_reports():
    assert len({intents.predictions(m, d).fingerprint for m in "ab" for d in "cd"}) == 4

    def report(**changes):
        values = {
            "name": "digits",
            "evaluation": EvaluationOptions(),
            "digest": "ab",
            "teacher": "00",
            "students": {"a": "1", "b": "2"},
        }
        return intents.report(**{**values, **changes}).fingerprint

    assert report(students={"b": "2", "a": "1"}) == report()
    for changes in (
        {"name": "letters"},
        {"evaluation": EvaluationOptions(seed=1)},
        {"digest": "cd"},
        {"teacher": "11"},
        {"students": {"a": "1"}},
    ):
        assert report(**changes) != report()


def test_an_intent_is_a_value():
    intent = intents.predictions("teacher", "ab")
    with pytest.raises(dataclasses.FrozenInstanceError):
        intent.content = {}
    assert intent == intents.predictions("teacher", "ab")
