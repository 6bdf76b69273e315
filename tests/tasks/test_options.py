"""What a recipe may say about teachers, students and evaluation."""

import subprocess
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from tasks.feature_options import MatchOptions
from tasks.loss_options import LossOptions, SoftLoss, Tail
from tasks.model_options import ModelOptions
from tasks.options import EvaluationOptions, StudentOptions
from tasks.teacher_options import (
    FitTeacherOptions,
    OnnxTeacherOptions,
    TeacherChoice,
    TorchTeacherOptions,
)
from tasks.training_options import TrainingOptions

MODEL = TypeAdapter(ModelOptions)
TEACHER = TypeAdapter(TeacherChoice)


def refused(function, *words):
    with pytest.raises(ValidationError) as caught:
        function()
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_defaults():
    loss = LossOptions()
    assert (loss.soft, loss.tail, loss.temperature) == (SoftLoss.FORWARD_KL, Tail.REST, None)
    assert loss.weights(0.3) == (0.5, 0.5)
    student = StudentOptions.model_validate({"model": {"kind": "mlp"}})
    assert student.loss == loss
    assert student.training == TrainingOptions()


@pytest.mark.parametrize(
    "said",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"optimizer": "lion"},
        {"learning_rate": 0.0},
        {"learning_rate": float("inf")},
        {"warmup": 1.5},
        {"clip_norm": 0.0},
        {"seed": -1},
        {"window": 0},
        {"checkpoint_seconds": -1.0},
        {"micro_batch_size": 0},
        {"precision": "float8"},
        {"keep": "all"},
        {"early_stopping": {"patience": 0}},
        {"early_stopping": {"metric": "loss"}},
        {"optimizer_arguments": {"momentum": 0.9}},
    ],
)
def test_wrong_training_is_refused(said):
    refused(lambda: TrainingOptions(**said), next(iter(said)))


def test_an_argument_of_another_optimizer_is_refused_with_those_there_are():
    wrong = {"optimizer": "sgd", "optimizer_arguments": {"momentun": 0.9}}
    refused(lambda: TrainingOptions(**wrong), "sgd takes momentum, dampening, nesterov; did you")


def test_a_phase_learns_something():
    matched = {"teacher": "hidden.-1"}
    model = {"kind": "mlp"}

    def student(*phases, **said):
        return StudentOptions(model=model, training={"phases": phases}, **said)

    only_inside, both = {"epochs": 1, "loss": "none"}, {"epochs": 2}
    assert student(only_inside, {**both, "match": []}, match=[matched]).matches == (
        MatchOptions(**matched),
    )
    assert student({**only_inside, "match": [matched]}, both).matches == (MatchOptions(**matched),)
    refused(lambda: student(only_inside), "phases.0.loss: none needs a match")
    refused(lambda: student({**only_inside, "match": []}, match=[matched]), "phases.0.loss: none")


def test_all_losses_of_a_student_are_named_by_their_fields():
    hard, soft = {"soft_weight": 0.0}, {"soft_weight": 1.0}
    training = {"phases": [{"epochs": 1, "loss": hard}, {"epochs": 1, "loss": soft}]}
    options = StudentOptions(model={"kind": "mlp"}, training=training)
    assert set(options.losses) == {"training.phases.0.loss", "training.phases.1.loss"}
    training["phases"].append({"epochs": 1})
    options = StudentOptions(model={"kind": "mlp"}, training=training)
    assert options.losses["loss"] == options.loss
    assert StudentOptions(model={"kind": "mlp"}).losses == {"loss": LossOptions()}


def test_a_teacher_learns_hard_labels_in_every_phase():
    for said in ({"loss": {}}, {"match": [{"teacher": "hidden.1"}]}):
        refused(
            lambda said=said: FitTeacherOptions(
                kind="fit", model={"kind": "mlp"}, training={"phases": [{"epochs": 1, **said}]}
            ),
            "training.phases.0: a teacher learns hard labels",
        )


def test_how_weights_are_computed_is_no_part_of_their_identity():
    plain = TrainingOptions().identity()
    how = {"micro_batch_size": 2, "compile": True, "tensorboard": True, "checkpoint_seconds": 0}
    assert TrainingOptions(**how).identity() == plain
    for said in ({"precision": "bfloat16"}, {"keep": "best"}, {"early_stopping": {}}):
        assert TrainingOptions(**said).identity() != plain
        assert set(said) <= set(TrainingOptions(**said).identity())
        assert not set(said) & set(plain)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ({"kind": "fit", "model": {"kind": "mlp"}}, FitTeacherOptions),
        ({"kind": "torch", "target": "a.b:c", "weights": "w.safetensors"}, TorchTeacherOptions),
        ({"kind": "onnx", "path": "m.onnx"}, OnnxTeacherOptions),
    ],
)
def test_the_kind_of_a_teacher_decides_its_options(said, kind):
    assert type(TEACHER.validate_python(said)) is kind
    refused(lambda: TEACHER.validate_python({**said, "other": 1}), "other")


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"kind": "lstm"},
        {"kind": "mlp", "hidden": [0]},
        {"kind": "mlp", "dropout": 1.0},
        {"kind": "cnn", "hidden": [3]},
        {"kind": "torch"},
        {"kind": "torch", "target": "no/path.py"},
        {"kind": "torch", "target": "module"},
    ],
)
def test_a_wrong_model_is_refused(said):
    refused(lambda: MODEL.validate_python(said))


@pytest.mark.parametrize("limit", [">= 0.9", "<0.1", "== 1", "> -1.5e-3", "  <= .5"])
def test_a_gate_has_a_limit(limit):
    assert EvaluationOptions(gates={"a.test.nll": limit}).gates == {"a.test.nll": limit}


@pytest.mark.parametrize("limit", ["0.9", "=> 1", ">= much", "", "> 1 or so"])
def test_a_gate_without_one_is_refused(limit):
    refused(lambda: EvaluationOptions(gates={"a.test.nll": limit}), "gates")


def test_when_to_save_is_no_part_of_what_is_made():
    rare, often = TrainingOptions(checkpoint_seconds=600), TrainingOptions(checkpoint_seconds=0)
    assert rare.identity() == often.identity()
    assert TrainingOptions(window=3).identity() != rare.identity()


def test_where_weights_lie_is_no_part_of_what_they_make():
    here, there = (OnnxTeacherOptions(kind="onnx", path=path) for path in ("a.onnx", "b.onnx"))
    assert here.identity() == there.identity()
    torch_here, torch_there = (
        TorchTeacherOptions(kind="torch", target="a:b", weights=path) for path in ("a", "b")
    )
    assert torch_here.identity() == torch_there.identity()


@pytest.mark.parametrize(
    "module", ["tasks.options", "tasks.intents", "tasks.progress", "tasks.planning"]
)
def test_importing_it_loads_nothing_heavy(module):
    heavy = ["torch", "onnx", "onnxruntime", "transformers", "sklearn", "prefect", "matplotlib"]
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def team(*members, **more):
    return TEACHER.validate_python({"kind": "ensemble", "members": list(members), **more})


ONE = {"teacher": {"kind": "onnx", "path": "a.onnx"}}
OTHER = {"teacher": {"kind": "onnx", "path": "b.onnx"}, "weight": 3.0}


def test_the_weights_of_several_teachers_are_relative():
    assert team(ONE, OTHER).shares == (0.25, 0.75)
    twice = team(ONE | {"weight": 2.0}, OTHER | {"weight": 6.0})
    assert twice.identity() == team(ONE, OTHER).identity()
    assert team(ONE, OTHER | {"weight": 1.0}).identity() != team(ONE, OTHER).identity()
    assert team(ONE, OTHER, mix="logits").identity() != team(ONE, OTHER).identity()


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([ONE], ("members", "at least 2")),
        ([ONE, OTHER, ONE | {"weight": 2.0}], ("one teacher twice, as 0 and 2", "sum of their")),
        ([ONE, OTHER | {"weight": 0}], ("weight", "greater than 0")),
        ([ONE, {"teacher": {"kind": "ensemble", "members": [ONE, OTHER]}}], ("ensemble",)),
        ([ONE, {"kind": "onnx", "path": "b.onnx"}], ("teacher",)),
    ],
)
def test_wrong_members_are_refused(members, words):
    refused(lambda: team(*members), *words)


def test_what_is_mixed_leaves_a_share_to_the_own_set():
    model = {"kind": "mlp", "hidden": [4]}
    plain = StudentOptions.model_validate({"model": model})
    half = [{"labels": "s3://bucket/labels/1", "weight": 0.5}]
    assert StudentOptions.model_validate({"model": model, "mix": half}).identity() == (
        plain.identity()
    )
    with pytest.raises(ValidationError, match="leave the student's own label set a share, got 1 "):
        StudentOptions.model_validate({"model": model, "mix": half * 2})
    for weight in (0, 1, 1e-4):
        with pytest.raises(ValidationError):
            StudentOptions.model_validate(
                {"model": model, "mix": [{"labels": "x", "weight": weight}]}
            )
