import shutil

import pytest

from flows.project import Project
from flows.status import plan_stages
from tests.flows.blobs import blobs

# A position of the training split keeps 2 entries (id and logit: 1 + 4 bytes), the rest at two
# temperatures, the label and its logit (4 bytes each); of the others it keeps 3 entries. The input
# of a sample is 4 numbers of 4 bytes.
BYTES = 72 * (2 * 5 + 16) + 48 * (3 * 5 + 16) + 120 * 16


def plans(workspace, *overrides, students=("small",)):
    project = Project.open(workspace.recipe, list(overrides))
    found = plan_stages(project, list(students))
    return {f"{plan.stage} {plan.name}".strip(): plan for plan in found}


def done(found):
    return {name: plan.done for name, plan in found.items()}


def test_a_new_project_would_run_everything(command, workspace):
    found = plans(workspace)
    assert done(found) == {
        "teacher": False,
        "label": False,
        "train small": False,
        "evaluate": False,
    }
    assert found["teacher"].why == "nothing of the kind is stored yet"
    assert found["label"].why == "the teacher has to be made first"
    assert found["train small"].why == "the label set has to be finished first"
    assert found["evaluate"].why == "what it compares has to be made first"
    assert not (workspace.store / "teachers").exists()


def test_a_finished_project_has_nothing_to_do(command, finished):
    found = plans(finished)
    assert all(done(found).values())
    assert finished.first["label"]["digest"][:12] in found["label"].why
    assert found["train small"].fingerprint == finished.only("students").name
    before = finished.files()
    said = command("status", finished.recipe)
    assert said.code == 0
    assert said.errors == ""
    for word in ("teacher", "train small", "done", "5 shards", str(finished.store)):
        assert word in said.output
    assert "would run" not in said.output
    assert finished.files() == before


def test_json_holds_every_stage(command, finished):
    said = command("status", finished.recipe, "--json", "--set", "labels.k=1")
    assert said.code == 0
    assert said.json["name"] == "blobs"
    assert said.json["store"] == str(finished.store)
    label = said.json["stages"][1]
    assert label.keys() == {"stage", "name", "done", "why", "fingerprint", "bytes_to_write"}
    assert label["stage"] == "label"
    assert label["done"] is False
    assert label["bytes_to_write"] == BYTES - 72 * 5


@pytest.mark.parametrize(
    ("override", "stage", "why"),
    [
        (
            "teacher.training.epochs=7",
            "teacher",
            "teacher.training.epochs: 7 is asked for, 6 is stored",
        ),
        ("labels.k=1", "label", "labels.k: 1 is asked for, 2 is stored"),
        (
            "students.small.training.seed=5",
            "train small",
            "student.training.seed: 5 is asked for, 0 is stored",
        ),
        ("evaluation.seed=3", "evaluate", "evaluation.seed: 3 is asked for, 0 is stored"),
    ],
)
def test_the_input_that_differs_is_named(finished, override, stage, why):
    plan = plans(finished, override)[stage]
    assert not plan.done
    assert plan.why == why


def test_only_the_first_few_differences_are_shown(finished):
    overrides = [f"labels.{change}" for change in ("k=1", "codec=float16", "batch_size=8")]
    plan = plans(finished, *overrides, "labels.temperature=3", "labels.statistics=true")["label"]
    assert plan.why.count("is asked for") == 3
    assert plan.why.endswith(" more")


def test_a_changed_corpus_is_named(copied):
    columns = blobs()
    columns["label"][0] = 2
    copied.write_data(columns)
    found = plans(copied)
    assert found["teacher"].why.startswith("content.train: ")
    kept = plans(copied, "teacher.refit=never")["teacher"]
    assert not kept.done


def test_lost_shards_and_what_they_weigh_are_counted(copied):
    for shard in (copied.only("labels") / "shards").glob("train-*"):
        shard.unlink()
    found = plans(copied)
    assert found["label"].why == "3 of 5 shards are missing, damaged or of changed samples"
    assert found["label"].bytes_to_write == 72 * (2 * 5 + 16 + 16)
    assert found["train small"].why == "the label set has to be finished first"


def test_a_lost_manifest_is_said(copied):
    (copied.only("labels") / "manifest.json").unlink()
    plan = plans(copied)["label"]
    assert (plan.done, plan.why) == (False, "all shards are there, the manifest is not of them")


def test_a_lost_file_of_a_student_is_said(copied):
    (copied.only("students") / "model.onnx").unlink()
    assert plans(copied)["train small"].why == "its files are missing or damaged"
    shutil.rmtree(copied.only("students"))
    assert plans(copied)["train small"].why == "nothing of the kind is stored yet"


def test_an_interrupted_student_goes_on(copied):
    folder = copied.only("students")
    (folder / "card.json").unlink()
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / "step-000000001-00000000.pt").write_bytes(b"")
    assert plans(copied)["train small"].why == "it was interrupted and goes on from its checkpoint"


def test_a_wrong_recipe_is_said(command, workspace):
    said = command("status", workspace.recipe, "--set", "labels.k=0")
    command.refuses(said, 2, "labels.k: expected greater than 0, got 0")
    said = command("status", workspace.recipe, "--set", "data.source=gone.parquet", "--json")
    command.refuses(said, 1, "gone.parquet", "no such file")


@pytest.mark.parametrize("lost", ["manifests", "spec.json"])
def test_a_label_set_that_lacks_what_later_stages_read_is_not_finished(copied, lost):
    path = copied.only("labels") / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert not plans(copied)["label"].done
