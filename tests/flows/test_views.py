"""Augmented views through all stages."""

import numpy as np
import pytest

from storage.reader import LabelSet
from storage.verify import verify
from storage.views import Views
from tests.flows.blobs import SPLITS, Workspace, blobs_recipe, report_of

NOISE = {"kind": "noise", "deviation": 0.2}
DROP = {"kind": "drop", "p": 0.1}


@pytest.fixture
def views(tmp_path) -> Workspace:
    recipe = blobs_recipe()
    recipe["data"] |= {"views": 2, "augment": [NOISE, DROP], "original_first": True}
    return Workspace.make(tmp_path, recipe)


def test_every_stage_works_with_views_and_the_next_run_looks_only(server, views):
    first = views.run()
    labels = LabelSet.open(first["label"]["url"])
    assert labels.describe()["samples"] == SPLITS | {"train": 2 * SPLITS["train"]}
    rows = {
        name: np.concatenate([part[name] for part in labels.batches("train")])
        for name in ("sample_id", "view", "view_seed", "input.x", "rest")
    }
    assert rows["view"].tolist() == [0, 1] * SPLITS["train"]
    expected = Views(2, 0, original_first=True).seeds(rows["sample_id"].tolist(), rows["view"])
    assert rows["view_seed"].tolist() == expected.tolist()
    assert np.array_equal(rows["input.x"][::2], rows["input.x"][1::2])
    assert not np.array_equal(rows["rest"][::2], rows["rest"][1::2])
    assert list(verify(labels.folder)) == []
    labels.close()
    report = report_of(first["evaluate"])
    assert report["models"]["small"]["splits"]["test"]["accuracy"]["value"] > 0.8
    again = views.run()
    assert {record["status"] for record in again.values()} == {"cached"}
    changed = views.run(stages=["teacher", "label"], overrides=["data.augment_seed=1"])
    assert changed["label"]["status"] == "completed"
    assert changed["label"]["digest"] != first["label"]["digest"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.augment=[{kind: rotate}]", ("data.augment.0.rotate", "1 axes")),
        ("data.augment=[{kind: blur}]", ("data.augment.0", "blur")),
        ("data.augment=[]", ("data", "name augment steps")),
        ("evaluation.splits=[train]", ("evaluation.splits", "augmented views")),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(command, views, override, words):
    said = command("run", views.recipe, "--set", override)
    command.refuses(said, 2, *words)
    assert not (views.store / "labels").exists()
    assert not (views.store / "teachers").exists()
