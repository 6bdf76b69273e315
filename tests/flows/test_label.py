"""The label stage through the command line: every way of keeping, space, padding, other workers."""

import json
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import save_file

from flows.project import Project
from storage.files import Folder
from storage.leases import Leases
from storage.options import Keep, Layout
from storage.reader import LabelSet
from tests.flows.blobs import SHARDS, blobs_recipe
from tests.flows.targets import Choosy, blob_model

MODEL = "tests.flows.targets:blob_model"


@pytest.mark.parametrize(
    ("keep", "layout", "codec"),
    [
        (Keep.TOP_P, Layout.COMPACT, "uint8"),
        (Keep.SAMPLE, Layout.PLAIN, "float16"),
        (Keep.ALL, Layout.FAST, "uint8"),
    ],
)
def test_a_whole_run_learns_from_whatever_is_kept(command, workspace, keep, layout, codec):
    loss = "sampled" if keep is Keep.SAMPLE else "forward_kl"
    said = command.run(
        workspace,
        f"labels.keep={keep}",
        f"labels.layout={layout}",
        f"labels.codec={codec}",
        f"students.small.loss.soft={loss}",
        "students.small.training.epochs=40",
        json=True,
    )
    assert said.code == 0
    assert said.json["stages"]["label"]["shards_written"] == SHARDS
    report = json.loads((workspace.only("reports") / "report.json").read_text())
    assert report["models"]["small"]["splits"]["test"]["accuracy"]["value"] > 0.8
    labels = LabelSet.open(str(workspace.only("labels")))
    assert labels.spec.selections["train"].keep is keep
    assert labels.spec.selections["test"].keep is Keep.TOP_K
    labels.close()


def test_a_label_set_that_would_be_too_large_is_not_begun(command, workspace):
    command.run(workspace, stage="teacher")
    words = ("labels.max_bytes: the label set would take about", "1,000 are allowed")
    command.refuses_run(workspace, 1, words, "labels.max_bytes=1000", stage="label")
    assert not list(workspace.only("labels").glob("shards/*"))
    said = command.run(workspace, "labels.max_bytes=10000000", stage="label")
    assert said.code == 0


def test_a_full_disk_is_seen_before_the_work(command, workspace, monkeypatch):
    command.run(workspace, stage="teacher")
    monkeypatch.setattr("storage.local.free_bytes", lambda _: 99)
    words = ("bytes would be written, 99 are free", "make room")
    command.refuses_run(workspace, 1, words, stage="label")


def test_the_estimate_is_near_the_truth(command, workspace, monkeypatch):
    told = []
    monkeypatch.setattr("flows.engine.log", told.append)
    said = command.run(workspace, stage="label", json=True)
    said = command.run(workspace, json=True) if said.code else said
    (line,) = [line for line in told if "bytes will be written" in line]
    expected = int(line.split()[1].replace(",", ""))
    assert expected == pytest.approx(said.json["stages"]["label"]["bytes"], rel=0.3)


# Vocabularies that are padded


def padded_teacher(workspace, bias: float) -> None:
    """A teacher of five outputs over data of three classes."""
    model = blob_model(num_classes=5)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    head = max(name for name in weights if name.endswith("bias"))
    weights[head][3:] = bias
    save_file(weights, workspace.folder / "teacher.safetensors")
    recipe = blobs_recipe(
        teacher={
            "kind": "torch", "target": MODEL, "weights": "teacher.safetensors",
            "arguments": {"num_classes": 5},
        }
    )  # fmt: skip
    workspace.write_recipe(recipe)


def test_padding_is_part_of_the_rest_for_teacher_and_student(command, workspace):
    padded_teacher(workspace, bias=-3.0)
    student = (
        f"students.small.model={{kind: torch, target: '{MODEL}', arguments: {{num_classes: 4}}}}"
    )
    said = command.run(workspace, "data.padded=true", "labels.keep=all", student)
    assert said.code == 0
    labels = LabelSet.open(str(workspace.only("labels")))
    assert (labels.spec.num_classes, labels.spec.teacher_classes) == (3, 5)
    (rows, *_) = labels.batches("train")
    labels.close()
    assert rows["index"].max() == 2
    assert np.isfinite(rows["rest"]).all()


def test_ids_that_the_teacher_prefers_are_no_padding(command, workspace):
    padded_teacher(workspace, bias=30.0)
    words = ("data.padded: the teacher's best class is one of the ids 3, 4", "data.classes: 3")
    command.refuses_run(workspace, 1, words, "data.padded=true")


def test_more_outputs_than_classes_are_refused_unless_they_are_said_to_be_padding(
    command, workspace
):
    padded_teacher(workspace, bias=-3.0)
    words = ("data.classes: expected the 5 classes", "ids 3 to 4 are padding", "data.padded: true")
    command.refuses_run(workspace, 2, words)


def test_labels_beyond_the_real_ids_are_named(command, workspace):
    padded_teacher(workspace, bias=-3.0)
    words = ("data.padded: 'label' holds the ids 2", "calls padding")
    command.refuses_run(workspace, 1, words, "data.padded=true", "data.classes=2")


# Several processes


@pytest.fixture
def unmade(command, workspace):
    """A shard of a finished label set whose record is gone: its name, the digest, its content."""
    command.run(workspace, stage="teacher")
    command.run(workspace, stage="label")
    folder = workspace.only("labels")
    (record,) = folder.glob("records/train-0000001-*.json")
    content = record.read_bytes()
    record.unlink()
    return record, LabelSet.open(str(folder)).digest, content


def label_while_held(command, workspace, record, finish=lambda: None):
    """Run the label stage while another process holds a shard for a second, then does `finish`."""
    with Leases(Folder.open(workspace.only("labels"))) as other:
        assert other.claim(record.stem)

        def end() -> None:
            finish()
            other.release(record.stem)

        timer = threading.Timer(1.0, end)
        timer.start()
        said = command.run(workspace, stage="label", json=True)
        timer.join()
    assert said.code == 0
    return said.json["stages"]["label"]


def test_a_shard_that_another_process_makes_is_waited_for(command, workspace, unmade):
    """It is leased while this run begins; when the lease is given back, this run makes it."""
    record, digest, _ = unmade
    found = label_while_held(command, workspace, record)
    assert found["shards_written"] == 1
    assert found["digest"] == digest
    assert not list(workspace.only("labels").glob("leases/*"))


def test_shards_that_another_process_made_meanwhile_are_not_made_again(command, workspace, unmade):
    record, _, content = unmade
    found = label_while_held(command, workspace, record, lambda: record.write_bytes(content))
    assert found["shards_written"] == 0
    assert found["shards_reused"] == SHARDS


def test_records_that_a_killed_run_left_are_put_into_groups(command, workspace):
    shards = "labels.positions_per_shard=4"
    command.run(workspace, shards, stage="teacher")
    command.run(workspace, shards, stage="label")
    folder = workspace.only("labels")
    (folder / "manifest.json").unlink()
    next((folder / "records").glob("train-0000003-*")).unlink()
    project = Project.open(workspace.recipe, [shards])
    assert len(project.labels(project.require_teacher()).plan.missing) == 1
    assert not list(folder.glob("compacted/*"))
    assert len(project.labels(project.require_teacher(), compact=True).plan.missing) == 1
    assert len(list(folder.glob("compacted/*"))) == 1
    said = command.run(workspace, shards, stage="label", json=True)
    assert said.json["stages"]["label"]["shards_written"] == 1
    assert not list(folder.glob("compacted/*")), "the manifest holds them now"


# Bad samples, batch sizes, processes


def bad_samples(workspace, **labels):
    """Three samples have values with which the teacher gives NaN."""
    table = pq.read_table(workspace.folder / "blobs.parquet").to_pydict()
    for place in (3, 50, 100):
        table["x"][place][0] = 1000.0
    pq.write_table(pa.table(table), workspace.folder / "blobs.parquet")
    save_file(Choosy().state_dict(), workspace.folder / "teacher.safetensors")
    teacher = {"kind": "torch", "target": "tests.flows.targets:Choosy"}
    recipe = blobs_recipe(teacher={**teacher, "weights": "teacher.safetensors"})
    recipe["labels"] |= labels
    workspace.write_recipe(recipe)


def test_bad_samples_are_set_aside_counted_and_limited(command, workspace):
    bad_samples(workspace)
    options = ("labels.on_bad_sample=quarantine",)
    words = ("labels.max_bad: 2 of 120 samples are bad", "'000000050'", "NaN or infinite")
    command.refuses_run(workspace, 1, words, *options, "labels.max_bad=0.01")
    said = command.run(workspace, *options, "labels.max_bad=0.05", json=True)
    assert said.code == 0, said.errors
    assert said.json["stages"]["label"]["quarantined"] == 3
    report = json.loads((workspace.only("reports") / "report.json").read_text())
    assert report["label_set"]["quarantined"] == 3
    said = command.run(workspace, force=True)
    command.refuses(said, 1, "in 1 samples: 000000003;", "labels.on_bad_sample: quarantine")


def test_a_list_of_samples_set_aside_is_shown_and_made_again(command, workspace):
    bad_samples(workspace, on_bad_sample="quarantine", max_bad=0.05)
    command.run(workspace, stage="teacher")
    stages = command.run(workspace, stage="label", json=True).json["stages"]
    folder = workspace.only("labels")
    shown = command("inspect", folder, "--json").json
    assert shown["quarantined"] == sum(shown["quarantine"]["samples"].values()) == 3
    (reason,) = shown["quarantine"]["reasons"]
    assert reason == {"reason": "the teacher's logits are NaN or infinite", "samples": 3}
    said = command("inspect", folder).output
    assert "set aside: " in said
    assert reason["reason"] in said
    lists = sorted((folder / "quarantine").iterdir())
    before = workspace.files("labels")
    lists[0].unlink()
    lists[-1].write_bytes(lists[-1].read_bytes()[:-1])
    assert command("verify", folder).code == 1
    assert command("verify", folder, "--repair").code == 0
    assert workspace.files("labels") == before
    digest = command("inspect", folder, "--json").json["digest"]
    assert digest == stages["label"]["digest"]


def test_a_batch_size_is_found_once_and_kept(command, workspace, monkeypatch):
    said = command.run(workspace, "labels.batch_size=auto", json=True)
    assert said.code == 0
    found = said.json["stages"]["label"]["batch_size"]
    folder = workspace.only("labels")
    assert json.loads((folder / "spec.json").read_text())["batch_size"] == found
    digest = said.json["stages"]["label"]["digest"]
    (record,) = folder.glob("records/train-0000001-*.json")
    record.unlink()
    monkeypatch.setattr("tasks.labeller.find_batch_size", None)
    again = command.run(workspace, "labels.batch_size=auto", json=True).json["stages"]["label"]
    assert (again["batch_size"], again["shards_written"]) == (found, 1)
    assert again["digest"] == digest


@pytest.mark.slow
@pytest.mark.parametrize("option", ["execution.processes=2", "execution.deadline_seconds=60"])
def test_processes_make_the_same_label_set(command, workspace, option):
    said = command.run(workspace, json=True)
    there = said.json["stages"]["label"]
    other = workspace.folder / "other"
    said = command.run(workspace, option, store=other, json=True)
    assert said.code == 0, said.errors
    made = said.json["stages"]["label"]
    assert (made["digest"], made["teacher_batches"]) == (there["digest"], there["teacher_batches"])


def test_a_run_says_where_its_time_went(command, workspace):
    said = command.run(workspace, json=True)
    label = said.json["stages"]["label"]
    assert sum(label["shares"].values()) == pytest.approx(1.0, abs=1e-3)
    assert label["slowest"] in label["shares"]
    assert label["positions_per_second"] > 0
    assert "slowest: " in said.errors
