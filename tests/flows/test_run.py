import shutil

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from storage.spec import InputSpec
from tasks.export import onnx_bytes
from tests.flows.blobs import NUM_FEATURES, blobs, blobs_recipe
from tests.flows.targets import EndsInSoftmax

X = InputSpec(name="x", dtype="float32", shape=(NUM_FEATURES,))
MODEL = "tests.flows.targets:blob_model"


# What is refused before anything runs


@pytest.mark.parametrize(
    ("override", "code", "words"),
    [
        ("data.source=gone.parquet", 1, ("gone.parquet", "there is no such file")),
        ("data.source=nowhere://blobs.parquet", 1, ("nowhere://blobs.parquet", "nowhere")),
        ("data.source=recipe.yaml", 1, ("data.source", "'.yaml'", ".parquet")),
        ("data.source=not_there:blobs", 2, ("cannot import 'not_there'",)),
        ("data.source=tests.flows.targets:none", 2, ("'none' is not there", "tests.flows.targets")),
        (
            "data.source=tests.flows.targets:broken_data",
            1,
            ("tests.flows.targets:broken_data", "OSError", "the archive is gone"),
        ),
        ("data.inputs=y", 1, ("blobs.parquet", "no column 'y'", "x, label, split")),
        ("data.label=class", 1, ("no column 'class'",)),
        ("data.splits.column=part", 1, ("no column 'part'",)),
        ("data.classes=2", 1, ("data.label: 'label' holds 2, expected 0 to 1",)),
        ("data.splits={column: x}", 1, ("data.splits.column", "'x'")),
        (
            "data.splits={fractions: {train: 0.9999999, test: 0.0000001}}",
            1,
            ("the split 'test' is empty", "data.splits"),
        ),
        (
            "evaluation.splits=[holdout]",
            2,
            ("evaluation.splits: expected a split of the data, got 'holdout'", "test, train"),
        ),
        ("labels.k=4", 2, ("labels.k: expected at most", "got 4")),
        ("labels.temperature=0", 2, ("labels.temperature: expected greater than 0, got 0",)),
        ("labels.temperature=-2", 2, ("labels.temperature: expected greater than 0, got -2",)),
        ("labels.batch_size=many", 2, ("labels.batch_size: expected", "'auto'", "got 'many'")),
        ("labels.keep=sample", 2, ("students.small.loss.soft: expected sampled", "got forward_kl")),
        ("students.small.loss.soft=sampled", 2, ("sampled needs draws", "labels.keep: sample")),
        (
            "students.small.loss.temperature=3",
            2,
            ("students.small.loss.temperature", "2, 1", "got 3"),
        ),
        ("data.label=null", 2, ("students.small.loss.hard_weight: expected 0", "data.label")),
        ("teacher={kind: onnx, path: gone.onnx}", 1, ("gone.onnx", "there is no such file")),
        ("store=nowhere://store", 1, ("nowhere://store", "nowhere")),
        ("students.small", 2, ("--set students.small", "path.of.field=value")),
    ],
)
def test_a_wrong_input_is_said_in_one_line_before_anything_runs(
    command, workspace, override, code, words
):
    command.refuses_run(workspace, code, words, override)
    assert not (workspace.store / "teachers").exists()
    assert not (workspace.store / "runs").exists()


def test_more_kept_than_there_are_classes_is_said_before_the_teacher_is_fitted(command, workspace):
    words = ("labels.k: expected at most the 3 classes", "got 5", "labels.keep: all")
    command.refuses_run(workspace, 2, words, "data.classes=null", "labels.k=5")
    assert not (workspace.store / "teachers").exists()


def test_numbers_that_are_not_finite_are_named(command, workspace):
    columns = blobs()
    columns["x"][3] = np.array([0, np.nan, 0, 0], np.float32)
    columns["x"][50] = np.array([0, 0, np.inf, 0], np.float32)
    workspace.write_data(columns)
    words = ("data.inputs: 'x' is NaN, infinite", "2 samples: 000000003, 000000050")
    command.refuses_run(workspace, 1, words)


def test_an_unknown_student_is_said(command, workspace):
    words = ("students: the recipe has no student 'big'", "it has: small")
    command.refuses_run(workspace, 2, words, student="big")


@pytest.mark.parametrize("below", ["store", "store/deeper"])
def test_a_store_that_cannot_be_written_is_said(command, workspace, below):
    (workspace.folder / "file").write_text("a regular file")
    said = command.run(workspace, store=workspace.folder / "file" / below)
    command.refuses(said, 1, "cannot", str(workspace.folder / "file"))
    assert (workspace.folder / "file").read_text() == "a regular file"


def test_a_recipe_that_is_a_folder_or_not_there_is_said(command, workspace):
    command.refuses(command("run", workspace.folder), 2, str(workspace.folder), "directory")
    command.refuses(command("run", workspace.folder / "no.yaml"), 2, "there is no recipe at")
    for other in ("status", "serve"):
        command.refuses(command(other, workspace.folder / "no.yaml"), 2, "there is no recipe at")


def test_each_fault_of_a_recipe_is_a_line(command, workspace):
    said = command.run(workspace, "labels.k=0", "labels.inputs=reference")
    assert said.code == 2
    lines = said.errors.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"softlabel: {workspace.recipe}: labels.") for line in lines)


# Teachers


@pytest.fixture
def weights(finished):
    """The tensors of the fitted teacher."""
    return load_file(finished.only("teachers") / "model.safetensors")


def torch_teacher(workspace, weights, **more):
    save_file(weights, workspace.folder / "teacher.safetensors")
    teacher = {"kind": "torch", "target": MODEL, "weights": "teacher.safetensors", **more}
    workspace.write_recipe(blobs_recipe(teacher=teacher))


def test_weights_that_do_not_fit_are_said(command, workspace, weights):
    torch_teacher(workspace, weights, arguments={"hidden": 9})
    words = ("teacher.safetensors", "do not fit the model", "size mismatch")
    command.refuses_run(workspace, 1, words)


def test_damaged_weights_are_said(command, workspace, weights):
    torch_teacher(workspace, weights)
    (workspace.folder / "teacher.safetensors").write_bytes(b"\x00" * 40)
    command.refuses_run(workspace, 1, ("teacher.safetensors", "do not fit the model"))


def test_a_teacher_whose_target_fails_is_said(command, workspace, weights):
    torch_teacher(workspace, weights, target="tests.flows.targets:broken_model")
    words = ("the target 'tests.flows.targets:broken_model' failed", "no such model")
    command.refuses_run(workspace, 1, words)


def test_a_teacher_that_gives_nan_is_said_with_the_samples(command, workspace, weights):
    broken = {name: torch.full_like(tensor, torch.nan) for name, tensor in weights.items()}
    torch_teacher(workspace, broken)
    command.refuses_run(workspace, 1, ("NaN", "samples", "0000000"))
    assert not list((workspace.folder / "store").glob("labels/*/shards/*"))


@pytest.mark.parametrize("damage", ["softmax", "bytes"])
def test_an_onnx_file_that_is_no_teacher_is_said(command, workspace, damage):
    content = onnx_bytes(EndsInSoftmax().eval(), (X,), "teacher")
    words = ("teacher.output", "softmax", "expected logits", "name the tensor before it")
    if damage == "bytes":
        content, words = content[:100], ("teacher: this is no readable ONNX model",)
    else:
        assert onnx.load_model_from_string(content).graph.node[-1].op_type == "Softmax"
    (workspace.folder / "teacher.onnx").write_bytes(content)
    workspace.write_recipe(blobs_recipe(teacher={"kind": "onnx", "path": "teacher.onnx"}))
    command.refuses_run(workspace, 1, words)


# Students


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            f"{{kind: torch, target: '{MODEL}', arguments: {{num_classes: 5}}}}",
            ("students.small.model: the model gives 5 classes, the labels have 3",),
        ),
        (
            "{kind: torch, target: 'tests.flows.targets:WantsImages'}",
            ("students.small.model: the model does not run on inputs x (2, 4)",),
        ),
        (
            "{kind: torch, target: 'tests.flows.targets:broken_model'}",
            ("students.small.model: the target", "failed: ValueError: no such model"),
        ),
        ("{kind: cnn}", ("students.small.model: a cnn needs one input", "data.shapes")),
    ],
)
def test_a_student_that_does_not_fit_is_said(command, copied, model, words):
    command.refuses_run(copied, 1, words, f"students.small.model={model}", stage="train")


# Stages that lack what they need


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("label", ("there is no teacher", "--stage teacher")),
        ("train", ("there is no finished label set", "--stage teacher --stage label")),
    ],
)
def test_a_stage_without_its_input_names_the_stage_to_run(command, workspace, stage, words):
    words = (*words, f"softlabel run {workspace.recipe}")
    command.refuses_run(workspace, 1, words, stage=stage)


def test_an_evaluation_without_its_student_names_the_stage_to_run(command, copied):
    words = ("there is no student 'small'", f"softlabel run {copied.recipe} --stage train")
    command.refuses_run(copied, 1, words, "students.small.training.epochs=1", stage="evaluate")


def test_a_damaged_teacher_is_said(command, copied):
    path = copied.only("teachers") / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    shutil.rmtree(copied.only("labels"))
    said = command.run(copied, stage="label")
    command.refuses(said, 1, str(path), "is damaged", "run the stage again")


def test_damaged_labels_are_said_with_the_way_out(command, copied):
    shard = next((copied.only("labels") / "shards").glob("train-0000000-*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    said = command.run(copied, "students.small.training.epochs=1", stage="train")
    words = (str(shard), "is damaged", f"softlabel verify {copied.only('labels')} --repair")
    command.refuses(said, 1, *words)


# What a run says


def test_a_gate_that_is_not_met_fails_the_run(command, copied):
    gate = "evaluation.gates={small.test.accuracy: '>= 1.1'}"
    said = command.run(copied, gate, stage="evaluate", json=True)
    assert said.code == 1
    assert said.errors.splitlines()[-1] == "softlabel: a gate of the recipe is not met"
    assert said.json["gates_passed"] is False


def test_a_gate_on_nothing_is_said(command, copied):
    gate = "evaluation.gates={large.test.accuracy: '>= 0.1'}"
    words = ("evaluation.gates.large.test.accuracy", "teacher, small", "test")
    command.refuses_run(copied, 2, words, gate, stage="evaluate")


def test_json_is_the_last_line_of_standard_output(command, copied):
    said = command.run(copied, json=True)
    assert said.code == 0
    assert len(said.output.splitlines()) == 1
    found = said.json
    assert found["name"] == "blobs"
    assert found["store"] == str(copied.store)
    assert list(found["stages"]) == ["teacher", "label", "train", "evaluate"]
    for record in found["stages"].values():
        assert record["status"] == "cached"
        assert record["seconds"] >= 0
        assert record["url"].startswith(str(copied.store))
    label = found["stages"]["label"]
    assert len(label["digest"]) == 64
    assert (label["shards_written"], label["shards_reused"], label["teacher_batches"]) == (0, 5, 0)
    assert label["positions"] >= 0
    assert found["report"].endswith("/report.json")
    assert found["gates_passed"] is True


def test_a_person_is_told_what_was_done_and_where(command, copied):
    said = command.run(copied, stage="evaluate")
    assert said.code == 0
    for word in ("evaluate", "cached", "small", "accuracy", "report.html", "Prefect UI", "passed"):
        assert word in said.output
