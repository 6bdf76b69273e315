"""Repair of a label set of so many shards that looks believe its manifest and groups of records."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.compaction import write_groups
from storage.reader import LabelSet
from tests.flows.blobs import Workspace, blobs_recipe


@pytest.fixture(scope="session")
def finished_labels(server, tmp_path_factory) -> Workspace:
    """30 shards of 4 points, and nothing made of them."""
    recipe = blobs_recipe()
    recipe["labels"] |= {"positions_per_shard": 4}
    workspace = Workspace.make(tmp_path_factory.mktemp("labels"), recipe)
    workspace.run(stages=["teacher", "label"])
    return workspace


@pytest.fixture
def many(finished_labels, tmp_path) -> Workspace:
    """The set again, below folders that are called as some of its own are."""
    place = tmp_path / "manifests" / "compacted" / "shards"
    return Workspace(Path(shutil.copytree(finished_labels.folder, place)))


def change(*patterns: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for pattern in patterns:
            for path in folder.glob(pattern):
                content = bytearray(path.read_bytes())
                content[len(content) // 2] ^= 1
                path.write_bytes(content)

    return damage


def delete(*patterns: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for pattern in patterns:
            for path in folder.glob(pattern):
                path.unlink()

    return damage


def swap(kind: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        one, other = sorted((folder / kind).glob("train-*"))[3:5]
        contents = one.read_bytes(), other.read_bytes()
        other.write_bytes(contents[0])
        one.write_bytes(contents[1])

    return damage


slow = pytest.mark.slow
SHARD, RECORD = "shards/train-0000003-*", "records/train-0000003-*"
DAMAGES = [
    pytest.param(change(SHARD), id="shard changed"),
    pytest.param(delete(SHARD), id="shard gone", marks=slow),
    pytest.param(change(RECORD), id="record changed"),
    pytest.param(delete(RECORD), id="record gone", marks=slow),
    pytest.param(change("manifest.json"), id="manifest changed", marks=slow),
    pytest.param(delete("manifest.json"), id="manifest gone", marks=slow),
    pytest.param(change("manifests/*"), id="state changed", marks=slow),
    pytest.param(delete("manifests/*"), id="state gone", marks=slow),
    pytest.param(change("spec.json"), id="specification changed", marks=slow),
    pytest.param(delete("spec.json"), id="specification gone"),
    pytest.param(change("compacted/*"), id="groups changed", marks=slow),
    pytest.param(change("manifest.json", "manifests/*"), id="manifests changed", marks=slow),
    pytest.param(delete("manifest.json", "manifests/*"), id="manifests gone", marks=slow),
    pytest.param(delete("records/*", "manifest.json"), id="records gone", marks=slow),
    pytest.param(change(RECORD, SHARD, "manifest.json"), id="three things", marks=slow),
    pytest.param(swap("shards"), id="shards swapped", marks=slow),
    pytest.param(swap("records"), id="records swapped"),
    pytest.param(change("*.json", "*/*"), id="everything changed"),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_repair_ends_with_the_same_digest(command, many, damage):
    folder = many.only("labels")
    labels = LabelSet.open(str(folder))
    before = many.files("labels")
    write_groups(labels.folder, labels.manifest.shards)
    damage(folder)
    assert command("verify", folder).code == 1
    said = command("verify", folder, "--repair", many.recipe)
    assert said.code == 0
    assert LabelSet.open(str(folder)).digest == labels.digest
    after = many.files("labels")
    # A specification that is written again says where its recipe lies now.
    (specification,) = [name for name in before if name.endswith("spec.json")]
    assert before | {specification: after[specification]} == after
    assert command("verify", folder).code == 0


def test_a_specification_that_is_gone_asks_for_the_recipe(command, many):
    folder = many.only("labels")
    (folder / "spec.json").unlink()
    before = many.files("labels")
    said = command("verify", folder, "--repair")
    assert said.code == 1
    assert said.errors.splitlines()[-1].endswith("is missing; name the recipe: --repair RECIPE")
    assert many.files("labels") == before
