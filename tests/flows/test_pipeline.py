import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from flows.project import Project
from flows.status import plan_stages
from storage.files import Folder
from storage.reader import LabelSet
from storage.records import read_record
from storage.verify import verify
from tasks.export import onnx_bytes
from tests.flows import prefect_records
from tests.flows.blobs import SHARDS, TEACHER_BATCHES, blobs, blobs_recipe, report_of
from tests.flows.flaky import fail_once
from tests.flows.targets import blob_model

TOKENS = ["data.inputs=tokens", "data.splits={column: split}", "labels.positions_per_shard=8"]


def columns(folder, split="train"):
    """The label columns of a split, all shards joined."""
    labels = LabelSet.open(str(folder))
    parts = list(labels.batches(split))
    labels.close()
    names = ("sample_id", "index", "logit", "rest", "label", "label_logit")
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def statuses(stages):
    return {stage: record["status"] for stage, record in stages.items()}


# A whole run


def test_a_whole_run_makes_every_product(finished):
    stages = finished.first
    assert statuses(stages) == dict.fromkeys(["teacher", "label", "train", "evaluate"], "completed")
    assert stages["label"]["shards_written"] == SHARDS
    assert stages["label"]["shards_reused"] == 0
    assert stages["label"]["teacher_batches"] == TEACHER_BATCHES
    assert stages["label"]["positions"] == 120
    assert stages["train"]["students"]["small"]["status"] == "completed"
    assert stages["train"]["students"]["small"]["steps"] == 18
    for kind in ("teachers", "labels", "students", "reports"):
        assert finished.only(kind).is_dir()
    for stage in ("teacher", "label", "evaluate"):
        assert Path(stages[stage]["url"]).is_dir()
    assert not list(verify(Folder.open(finished.store)))


def test_the_report_holds_what_a_script_compares(finished):
    record = finished.first["evaluate"]
    report = report_of(record)
    assert list(report["models"]) == ["teacher", "small"]
    for model in report["models"].values():
        figures = model["splits"]["test"]
        for name in ("accuracy", "nll", "ece", "agreement", "kl_to_teacher"):
            assert figures[name]["low"] <= figures[name]["value"] <= figures[name]["high"]
        assert set(figures["retention"]) == {"accuracy"}
        assert model["parameters"] > 0
        assert model["size_bytes"] > 0
        assert model["samples_per_second"] > 0
        assert 0 < model["latency_seconds"]["p50"] <= model["latency_seconds"]["p95"]
    for entry in report["comparisons"]:
        assert entry.keys() == {"split", "metric", "a", "b", "difference", "p_value"}
        assert entry["difference"].keys() == {"value", "low", "high"}
    assert report["gates"] == [
        {
            "name": "small.test.accuracy",
            "limit": ">= 0.1",
            "value": report["models"]["small"]["splits"]["test"]["accuracy"]["value"],
            "passed": True,
        }
    ]
    label_set = report["label_set"]
    assert label_set["url"] == finished.first["label"]["url"]
    assert label_set["digest"] == finished.first["label"]["digest"]
    assert label_set["bytes_per_position"] > 0
    assert label_set["fidelity"]
    assert record["gates_passed"]
    for name in ("report.html", "report.md"):
        assert "small" in (Path(record["url"]) / name).read_text()


def test_the_store_remembers_the_run(finished):
    (file,) = (finished.store / "runs").iterdir()
    run = read_record(Folder.open(finished.store), f"runs/{file.name}")
    assert file.name == f"{run['id']}.json"
    assert run["recipe"] == finished.recipe
    assert run["name"] == "blobs"
    assert run["status"] == "completed"
    assert run["error"] is None
    assert run["flow_run_id"] == str(finished.state_of_first.state_details.flow_run_id)
    assert run["stages"] == finished.first


def test_prefect_shows_what_ran(finished):
    state = finished.state_of_first
    assert prefect_records.flow_run_name(state) == "pipeline-blobs"
    stages = prefect_records.stages(state)
    fingerprint = finished.first["label"]["fingerprint"]
    assert {name: found for name, (_, found) in stages.items()} == {
        "teacher-blobs": "Completed",
        "label-blobs": "Completed",
        "train-blobs": "Completed",
        "evaluate-blobs": "Completed",
    }
    runs = {name: run for name, (run, _) in stages.items()}
    assert prefect_records.flow_run_name(runs["label-blobs"]) == f"label-blobs-{fingerprint[:4]}"
    tasks = {
        "teacher-blobs": {"teacher-fit"},
        "label-blobs": {
            "shards-train-0-to-test-0",
            "shards-validation-0-to-validation-0",
            "finish-label-set",
        },
        "train-blobs": {"student-small"},
        "evaluate-blobs": {"score-teacher", "score-small", "write-report"},
    }
    for name, expected in tasks.items():
        found = prefect_records.task_runs(runs[name], len(expected))
        assert set(found) == expected
        assert set(found.values()) == {"Completed"}
    artifacts = {
        "teacher-blobs": {"teacher-blobs"},
        "label-blobs": {"label-blobs"},
        "train-blobs": {"train-blobs"},
        "evaluate-blobs": {"report-blobs"},
    }
    for name, expected in artifacts.items():
        assert prefect_records.artifact_keys(runs[name]) == expected


def test_a_second_run_only_looks(finished):
    before = finished.files()
    state = finished.state()
    stages = state.result()["stages"]
    assert set(statuses(stages).values()) == {"cached"}
    assert stages["label"]["teacher_batches"] == 0
    assert stages["label"]["shards_reused"] == SHARDS
    assert stages["label"]["digest"] == finished.first["label"]["digest"]
    assert finished.files() == before
    assert {name for _, name in prefect_records.stages(state).values()} == {"Cached"}


# What runs again, and what does not


def test_students_need_neither_the_data_nor_the_teacher(copied):
    copied.data.unlink()
    shutil.rmtree(copied.store / "teachers")
    model = "{model: {kind: mlp, hidden: [2]}, training: {epochs: 1}}"
    stages = copied.run(
        overrides=[f"students.other={model}", f"students.third={model}"],
        stages=["train"],
        students=["small", "other"],
    )
    assert list(stages) == ["train"]
    students = stages["train"]["students"]
    assert {name: row["status"] for name, row in students.items()} == {
        "small": "cached",
        "other": "completed",
    }
    assert Path(students["other"]["url"], "model.onnx").exists()


def test_a_variant_that_is_asked_for_later_is_made_of_the_student_that_is_there(copied):
    weights = copied.only("students") / "model.safetensors"
    before = weights.stat().st_mtime_ns
    asked = ["students.small.export.int8=true"]
    plans = plan_stages(Project.open(copied.recipe, asked), ["small"])
    assert [plan.done for plan in plans if plan.stage == "train"] == [False]
    stages = copied.run(overrides=asked, stages=["train"])
    assert stages["train"]["students"]["small"]["status"] == "completed"
    assert weights.stat().st_mtime_ns == before
    card = json.loads((weights.parent / "card.json").read_text())
    assert card["details"]["int8"]["split"] == "validation"
    assert (weights.parent / "model.int8.onnx").stat().st_size == (
        card["details"]["int8"]["size_bytes"]
    )
    teacher = json.loads((copied.only("teachers") / "card.json").read_text())
    lineage = card["details"]["lineage"]
    assert lineage["teacher"] == {
        "fingerprint": teacher["fingerprint"],
        "weights_digest": teacher["details"]["weights_digest"],
    }
    assert lineage["recipe"]["name"] == teacher["details"]["lineage"]["recipe"]["name"] == "blobs"
    assert copied.run(overrides=asked, stages=["train"])["train"]["status"] == "cached"


def test_a_changed_student_alone_is_trained_again_and_reported(copied):
    stages = copied.run(overrides=["students.small.training.epochs=1"])
    assert statuses(stages) == {
        "teacher": "cached",
        "label": "cached",
        "train": "completed",
        "evaluate": "completed",
    }
    assert len(list((copied.store / "students").iterdir())) == 2
    assert (
        report_of(stages["evaluate"])["models"]["small"]["fingerprint"]
        == (stages["train"]["students"]["small"]["fingerprint"])
    )


def test_force_makes_the_same_again(copied):
    def products():
        kept = ("labels/", "students/")
        names = ("parquet", "safetensors")
        return {
            name: digest
            for name, digest in copied.files().items()
            if name.startswith(kept) and name.endswith(names) and "history" not in name
        }

    before = products()
    stages = copied.run(force=True, stages=["label", "train"])
    assert stages["label"]["status"] == "completed"
    assert stages["label"]["shards_written"] == SHARDS
    assert stages["label"]["shards_reused"] == 0
    assert stages["train"]["students"]["small"]["status"] == "completed"
    assert products() == before


def test_a_lost_shard_alone_is_made_again(copied):
    before = copied.files("labels")
    lost = next((copied.only("labels") / "shards").glob("train-0000001-*"))
    lost.unlink()
    state = copied.state()
    stages = state.result()["stages"]
    assert stages["label"]["status"] == "completed"
    assert stages["label"]["shards_written"] == 1
    assert stages["label"]["shards_reused"] == SHARDS - 1
    assert stages["label"]["teacher_batches"] == 2
    assert copied.files("labels") == before
    assert stages["train"]["status"] == stages["evaluate"]["status"] == "cached"
    run, _ = prefect_records.stages(state)["label-blobs"]
    assert prefect_records.task_runs(run, 3) == {
        "reuse-4-shards": "Cached",
        "shards-train-1-to-train-1": "Completed",
        "finish-label-set": "Completed",
    }


# Teachers that people bring


def imported(workspace, kind, finished):
    """A recipe whose teacher is the fitted one of `finished`, as a file."""
    weights = finished.only("teachers") / "model.safetensors"
    teacher = {"kind": "torch", "target": "tests.flows.targets:blob_model", "weights": weights.name}
    shutil.copy(weights, workspace.folder)
    if kind == "onnx":
        model = blob_model()
        model.load_state_dict(load_file(weights))
        inputs = LabelSet.open(str(finished.only("labels"))).spec.inputs
        (workspace.folder / "teacher.onnx").write_bytes(onnx_bytes(model.eval(), inputs, "teacher"))
        teacher = {"kind": "onnx", "path": "teacher.onnx"}
    workspace.write_recipe(blobs_recipe(teacher=teacher))


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_an_imported_teacher_agrees_with_the_fitted_one(workspace, finished, kind):
    imported(workspace, kind, finished)
    stages = workspace.run()
    assert set(statuses(stages).values()) == {"completed"}
    assert stages["teacher"]["num_classes"] == 3
    for split in ("train", "test"):
        ours, theirs = (columns(place.only("labels"), split) for place in (workspace, finished))
        assert np.array_equal(ours["index"], theirs["index"])
        assert np.array_equal(ours["sample_id"], theirs["sample_id"])
        for name in ("logit", "rest", "label_logit"):
            np.testing.assert_allclose(ours[name], theirs[name], atol=1e-5)
    if kind == "torch":
        assert stages["label"]["digest"] == finished.first["label"]["digest"]


def test_only_shards_of_new_and_changed_samples_are_made(workspace, finished):
    imported(workspace, "torch", finished)
    cut = ["labels.positions_per_shard=20"]
    first = workspace.run(overrides=cut, stages=["teacher", "label"])["label"]
    assert first["shards_written"] == 8

    workspace.write_data(blobs(extra=30))
    grown = workspace.run(overrides=cut, stages=["label"])["label"]
    # Of the training split, 12 of 20 samples filled the last shard; now there are 102 samples.
    assert (grown["shards_written"], grown["shards_reused"]) == (3, 7)
    assert grown["teacher_batches"] == 2 + 2 + 1
    assert grown["digest"] != first["digest"]

    changed = blobs(extra=30)
    changed["label"][25] = (changed["label"][25] + 1) % 3
    workspace.write_data(changed)
    last = workspace.run(overrides=cut, stages=["label"])["label"]
    assert (last["shards_written"], last["shards_reused"]) == (1, 9)
    assert last["url"] == grown["url"] == first["url"]

    # Each finished state can still be read.
    for record in (first, grown, last):
        assert LabelSet.open(record["url"], record["digest"]).digest == record["digest"]
    assert not list(verify(Folder.open(first["url"])))


def test_a_teacher_may_label_data_without_hard_labels(workspace, finished):
    imported(workspace, "torch", finished)
    unlabelled = blobs()
    del unlabelled["label"]
    workspace.write_data(unlabelled)
    stages = workspace.run(
        overrides=["data.label=null", "students.small.loss={soft_weight: 1.0}"],
    )
    report = report_of(stages["evaluate"])
    figures = report["models"]["small"]["splits"]["test"]
    assert "accuracy" not in figures
    assert figures["agreement"]["value"] > 0
    assert report["comparisons"] == []
    assert (
        "label" not in pq.read_schema(next((workspace.only("labels") / "shards").iterdir())).names
    )


# Tokens


@pytest.mark.parametrize("task", ["causal_lm", "tagging"])
def test_models_of_tokens_run_from_end_to_end(workspace, task):
    classes = 7 if task == "causal_lm" else 3
    model = {
        "kind": "torch",
        "target": "tests.tasks.toy:TokenModel",
        "arguments": {"vocabulary": 7, "num_classes": classes},
    }
    training = {"epochs": 2, "batch_size": 2, "learning_rate": 0.05}
    data = {
        "name": "blocks",
        "source": "tests.flows.targets:tagged_blocks",
        "task": task,
        "inputs": "tokens",
        "mask": "counts",
        "classes": classes,
        "splits": {"column": "split"},
    }
    if task == "tagging":
        data["label"] = "tag"
    workspace.write_recipe(
        blobs_recipe(
            data=data,
            teacher={"kind": "fit", "model": model, "training": training},
            labels={"k": 2, "positions_per_shard": 8, "positions_per_row_group": 4},
            students={"small": {"model": model, "training": training}},
        )
    )
    stages = workspace.run()
    assert set(statuses(stages).values()) == {"completed"}
    labels = LabelSet.open(stages["label"]["url"])
    assert labels.splits == ("train", "test")
    assert stages["label"]["positions"] == labels.manifest.positions == 29
    figures = report_of(stages["evaluate"])["models"]["small"]["splits"]["test"]
    assert ("perplexity" in figures) == (task == "causal_lm")
    assert figures["samples"] == 3
    # The test blocks hold 4, 5 and 3 tokens: the first does not count, or cannot be predicted.
    assert figures["positions"] == (6 if task == "causal_lm" else 9)
    assert not list(verify(Folder.open(workspace.store)))


def test_texts_of_varying_length_are_classified(workspace):
    model = {"kind": "torch", "target": "tests.tasks.toy:TextModel"}
    training = {"epochs": 8, "batch_size": 8, "learning_rate": 0.1}
    data = {
        "name": "texts",
        "source": "tests.flows.targets:texts",
        "inputs": "tokens",
        "attention_mask": True,
        "label": "label",
        "classes": 3,
        "splits": {"column": "split"},
    }
    recipe = blobs_recipe(
        data=data,
        teacher={"kind": "fit", "model": model, "training": training},
        students={"small": {"model": model, "training": training}},
    )
    recipe["evaluation"]["speed"] = True
    workspace.write_recipe(recipe)
    stages = workspace.run()
    assert set(statuses(stages).values()) == {"completed"}
    assert stages["label"]["positions"] == 60
    figures = report_of(stages["evaluate"])["models"]["small"]["splits"]["test"]
    assert figures["samples"] == figures["positions"] == 20
    assert figures["accuracy"]["value"] > 0.9
    assert figures["agreement"]["value"] > 0.9
    assert not list(verify(Folder.open(workspace.store)))


def test_data_in_several_files_whose_labels_are_names(workspace):
    columns = blobs()
    names = [("berry", "apple", "cherry")[number] for number in columns["label"]]
    features = np.stack(columns["x"])
    for part in range(3):
        rows = slice(part * 40, part * 40 + 40)
        frame = {f"x{place}": features[rows, place] for place in range(features.shape[1])}
        frame |= {"name": names[rows], "split": columns["split"][rows]}
        (workspace.folder / "parts").mkdir(exist_ok=True)
        pl.DataFrame(frame).write_csv(workspace.folder / "parts" / f"{part}.csv")
    recipe = blobs_recipe()
    inputs = [f"x{place}" for place in range(features.shape[1])]
    recipe["data"] |= {"source": "parts/*.csv", "inputs": inputs, "label": "name"}
    del recipe["data"]["classes"]
    workspace.write_recipe(recipe)
    stages = workspace.run()
    labels = LabelSet.open(stages["label"]["url"])
    assert labels.spec.class_names == ("apple", "berry", "cherry")
    rows = next(iter(labels.batches("train")))
    assert rows["label"][:3].tolist() == [1, 0, 2]
    assert (
        report_of(stages["evaluate"])["models"]["small"]["splits"]["test"]["accuracy"]["value"]
        > 0.7
    )
    assert statuses(workspace.run()) == dict.fromkeys(stages, "cached")


# What fails


def test_what_passes_by_itself_is_tried_again_and_nothing_is_made_twice(workspace):
    files = fail_once("/shards/", at=3)
    stages = workspace.run(store="flaky://blobs", stages=["teacher", "label"])
    assert stages["label"]["status"] == "completed"
    assert stages["label"]["shards_written"] == SHARDS
    assert stages["label"]["teacher_batches"] == TEACHER_BATCHES
    assert files.fail_at < 0
    shards = [path for path in files.written if "/shards/" in path]
    assert len(shards) == len(set(shards)) == SHARDS
    assert not list(verify(Folder.open(stages["label"]["url"])))


def test_a_failed_run_is_remembered_and_goes_on_later(workspace):
    recipe = blobs_recipe()
    recipe["students"]["wrong"] = {
        "model": {
            "kind": "torch",
            "target": "tests.flows.targets:blob_model",
            "arguments": {"num_classes": 5},
        }
    }
    workspace.write_recipe(recipe)
    state = workspace.state()
    assert state.is_failed()
    (file,) = (workspace.store / "runs").iterdir()
    run = json.loads(file.read_text())
    assert run["status"] == "failed"
    assert "gives 5 classes, the labels have 3" in run["error"]
    assert run["stages"].keys() == {"teacher", "label"}
    stages = workspace.run(students=["small"])
    assert statuses(stages) == {
        "teacher": "cached",
        "label": "cached",
        "train": "cached",
        "evaluate": "completed",
    }
