"""Students that take more from their teacher than its predictions, from end to end."""

import json

import pyarrow.parquet as pq
import pytest

from flows.project import Project
from flows.status import plan_stages
from storage.errors import MissingProductError
from tests.flows.blobs import blobs_recipe

MODEL = {"kind": "token_transformer", "layers": 2, "width": 16, "heads": 2, "vocabulary": 7}
DATA = {
    "name": "counting",
    "source": "tests.flows.targets:counting",
    "task": "tagging",
    "inputs": "tokens",
    "attention_mask": True,
    "label": "tag",
    "classes": 3,
    "splits": {"column": "split"},
}
TRAINING = {"epochs": 1, "batch_size": 8, "learning_rate": 0.02}
MATCH = [
    {"teacher": "hidden.-1", "loss": "cosine"},
    {"kind": "attention", "layers": {1: 2}, "loss": "ce"},
]


def recipe(**students):
    return blobs_recipe(
        data=DATA,
        teacher={"kind": "fit", "model": MODEL, "training": TRAINING},
        labels={
            "k": 2,
            "positions_per_shard": 64,
            "positions_per_row_group": 16,
            "features": [
                {"feature": name, "dtype": "float32"} for name in ("hidden.-1", "attention.2")
            ],
        },
        students={
            name: {"model": MODEL | {"layers": 1, "width": 8}, "training": TRAINING} | said
            for name, said in students.items()
        },
    )


def history(folder):
    return pq.read_table(folder / "history.parquet").to_pylist()


@pytest.mark.slow
def test_a_live_teacher_stored_features_and_weights_to_begin_with(workspace):
    begun = {"model": MODEL | {"layers": 1}, "initialise": {"from": "teacher", "layers": [2]}}
    live, stored = {"match": MATCH, "teacher": "live"}, {"match": MATCH}
    workspace.write_recipe(recipe(live=live, begun=begun, stored=stored))
    stages = workspace.run()
    teacher = json.loads((workspace.only("teachers") / "card.json").read_text())["details"]
    folders = {
        name: workspace.store / "students" / row["fingerprint"]
        for name, row in stages["train"]["students"].items()
    }
    for name, folder in folders.items():
        card = json.loads((folder / "card.json").read_text())
        known = None if name == "stored" else teacher["weights_digest"]
        assert card["intent"].get("teacher_weights") == known, name
    columns = ("loss", "matched.cosine.hidden.-1", "matched.ce.attention.1.attention.2")
    for asked, held in zip(*(history(folders[name]) for name in ("live", "stored")), strict=True):
        for column in columns:
            assert held[column] == pytest.approx(asked[column], rel=1e-4), column
    again = workspace.run()
    assert again["train"]["status"] == again["evaluate"]["status"] == "cached"
    # What is finished needs no teacher; another student like it does.
    (workspace.only("teachers") / "card.json").unlink()
    assert workspace.run(stages=["train"])["train"]["status"] == "cached"
    with pytest.raises(MissingProductError, match=r"^students\.live: it needs the teacher itself"):
        workspace.run(stages=["train"], overrides=["students.live.training.seed=1"])


def test_another_recipe_finds_the_labels_and_the_teacher_that_are_there(copied):
    """Its own name of the label set is written by the label stage, which has not run yet."""
    asked = [
        "name=other", "students.small.teacher=live",
        "students.small.match=[{teacher: module.0, student: module.0}]",
    ]  # fmt: skip
    plans = {
        plan.stage: plan for plan in plan_stages(Project.open(copied.recipe, asked), ["small"])
    }
    assert plans["teacher"].done
    assert plans["label"].done
    assert not plans["train"].done
    assert "teacher_weights" in plans["train"].why
