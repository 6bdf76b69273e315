import json
import shutil
from pathlib import Path

import pytest

from storage.reader import LabelSet
from storage.records import ShardRecord, seal
from tests.flows.blobs import Workspace, blobs, blobs_recipe


def change_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def labels_of(workspace: Workspace) -> Path:
    return workspace.only("labels")


def test_what_is_whole_is_said_to_be(command, finished):
    for place in (finished.store, labels_of(finished), finished.only("students")):
        said = command("verify", place)
        assert (said.code, said.errors) == (0, "")
        assert said.output == f"{place}: all files are as they were written\n"


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [
        ("labels", "shards/train-0000001-*"),
        ("labels", "records/test-0000000-*"),
        ("labels", "manifest.json"),
        ("labels", "manifests/*.json"),
        ("labels", "spec.json"),
        ("students", "model.safetensors"),
        ("students", "card.json"),
        ("reports", "report.html"),
        ("teachers", "history.parquet"),
    ],
)
def test_a_changed_byte_is_found(command, copied, kind, pattern):
    (path,) = copied.only(kind).glob(pattern)
    change_a_byte(path)
    for place in (copied.store, copied.only(kind)):
        said = command("verify", place)
        assert said.code == 1
        assert all(line.startswith(str(copied.only(kind))) for line in said.output.splitlines())
        assert str(path) in said.output
        assert said.errors.startswith("softlabel: ")
        assert "fault" in said.errors


@pytest.mark.parametrize("by", ["recipe", "specification"])
def test_repair_makes_damaged_shards_again_and_nothing_else(command, copied, by):
    before = copied.files("labels")
    folder = labels_of(copied)
    change_a_byte(next((folder / "shards").glob("train-0000001-*")))
    next((folder / "shards").glob("train-0000002-*")).unlink()
    change_a_byte(next((folder / "records").glob("test-0000000-*")))
    kept = {path: path.stat().st_mtime_ns for path in (folder / "shards").glob("train-0000000-*")}
    repair = ["--repair", copied.recipe] if by == "recipe" else ["--repair"]
    said = command("verify", folder, *repair)
    assert said.code == 0
    assert "3 shards written, 2 reused" in said.output
    assert copied.files("labels") == before
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert command("verify", folder).code == 0


@pytest.mark.parametrize("lost", ["manifest.json", "manifests/*.json"])
def test_repair_writes_the_manifest_again(command, copied, lost):
    before = copied.files("labels")
    (path,) = labels_of(copied).glob(lost)
    change_a_byte(path)
    said = command("verify", labels_of(copied), "--repair", copied.recipe)
    assert said.code == 0
    assert copied.files("labels") == before


def test_a_damaged_shard_below_a_damaged_manifest_is_mended_too(command, copied):
    before = copied.files("labels")
    folder = labels_of(copied)
    change_a_byte(next((folder / "shards").glob("train-0000001-*")))
    change_a_byte(folder / "manifest.json")
    assert command("verify", folder, "--repair", copied.recipe).code == 0
    assert copied.files("labels") == before


def test_a_damaged_specification_is_written_again(command, copied):
    change_a_byte(labels_of(copied) / "spec.json")
    assert command("verify", labels_of(copied), "--repair", copied.recipe).code == 0
    assert command("verify", labels_of(copied)).code == 0
    content = json.loads((labels_of(copied) / "spec.json").read_text())
    assert content["recipe_folder"] == str(copied.folder)


def test_a_damaged_specification_asks_for_the_recipe(command, copied):
    folder = labels_of(copied)
    change_a_byte(folder / "spec.json")
    change_a_byte(next((folder / "shards").glob("train-0000001-*")))
    before = copied.files("labels")
    said = command("verify", folder, "--repair")
    assert said.code == 1
    assert said.errors.splitlines()[-1].endswith("name the recipe: --repair RECIPE")
    assert copied.files("labels") == before


def test_a_specification_whose_folder_is_gone_asks_for_the_recipe(command, copied):
    folder = labels_of(copied)
    spec = json.loads((folder / "spec.json").read_text())
    spec.pop("checksum")
    (folder / "spec.json").write_bytes(seal(spec | {"recipe_folder": str(copied.folder / "gone")}))
    change_a_byte(next((folder / "shards").glob("train-0000001-*")))
    said = command("verify", folder, "--repair")
    assert said.code == 2
    assert said.errors.splitlines()[-1].endswith("is gone; name the recipe: --repair RECIPE")


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ("no recipe", 2, ["there is no recipe at"]),
        ("another recipe", 2, ["asks for the label set", "name the recipe that made it"]),
        ("no data", 1, ["blobs.parquet", "no such file"]),
        ("no teacher", 1, ["there is no teacher", "--stage teacher"]),
    ],
)
def test_nothing_is_forgotten_before_it_can_be_made_again(command, copied, change, code, words):
    folder = labels_of(copied)
    change_a_byte(next((folder / "shards").glob("train-0000001-*")))
    recipe = Path(copied.recipe)
    if change == "no recipe":
        recipe = copied.folder / "gone.yaml"
    elif change == "another recipe":
        recipe.write_text(recipe.read_text().replace("k: 2", "k: 1"))
    elif change == "no data":
        copied.data.unlink()
    else:
        shutil.rmtree(copied.store / "teachers")
    before = copied.files()
    said = command("verify", folder, "--repair", recipe)
    assert said.code == code
    last = said.errors.splitlines()[-1]
    assert last.startswith("softlabel: ")
    for word in words:
        assert word in last
    assert copied.files("labels") == {k: v for k, v in before.items() if k.startswith("labels/")}


def test_only_a_label_set_can_be_repaired(command, copied):
    change_a_byte(copied.only("reports") / "report.md")
    for place in (copied.only("reports"), copied.store):
        said = command("verify", place, "--repair")
        assert said.code == 2
        assert "is no label set" in said.errors.splitlines()[-1]


def test_what_is_not_there_is_said(command, workspace):
    command.refuses(command("verify", workspace.store), 1, "there is no label set, model, report")
    command.refuses(command("verify", "nowhere://x"), 1, "nowhere://x")


def test_a_damaged_group_of_records_is_deleted(command, copied):
    before = copied.files("labels")
    group = labels_of(copied) / "compacted" / "train-0000000-3-00000000.json"
    group.parent.mkdir()
    group.write_bytes(b"{")
    assert command("verify", labels_of(copied)).code == 1
    assert command("verify", labels_of(copied), "--repair", copied.recipe).code == 0
    assert copied.files("labels") == before


@pytest.fixture(scope="session")
def grown_once(server, tmp_path_factory) -> Workspace:
    """Data that grew, and a sample that changed: its old shard is of the earlier state alone."""
    teacher = blobs_recipe()["teacher"] | {"refit": "never"}
    workspace = Workspace.make(tmp_path_factory.mktemp("grown"), blobs_recipe(teacher=teacher))
    workspace.run(stages=["teacher", "label"])
    columns = blobs(extra=10)
    columns["x"][60] = columns["x"][60] + 1
    workspace.write_data(columns)
    workspace.run(stages=["teacher", "label"])
    return workspace


class TestEarlierStates:
    @pytest.fixture
    def grown(self, grown_once, tmp_path) -> Workspace:
        return Workspace(Path(shutil.copytree(grown_once.folder, tmp_path / "copied")))

    def states(self, workspace: Workspace) -> tuple[LabelSet, LabelSet]:
        """The earlier state, and the newest."""
        folder = labels_of(workspace)
        newest = LabelSet.open(str(folder))
        digests = {path.stem for path in (folder / "manifests").iterdir()}
        (first,) = digests - {newest.digest}
        return LabelSet.open(str(folder), first), newest

    def only_earlier(self, workspace: Workspace) -> ShardRecord:
        earlier, newest = self.states(workspace)
        known = {shard.file for shard in newest.manifest.shards}
        return next(shard for shard in earlier.manifest.shards if shard.file not in known)

    def test_they_stay_readable(self, command, grown):
        earlier, newest = self.states(grown)
        assert earlier.digest != newest.digest
        assert sum(len(rows["sample_id"]) for rows in earlier.batches("train")) == 72
        earlier.close()
        assert command("verify", labels_of(grown)).code == 0

    @pytest.mark.parametrize("damage", [change_a_byte, Path.unlink])
    def test_a_shard_that_only_they_name_cannot_be_made_from_todays_data(
        self, command, grown, damage
    ):
        earlier, newest = self.states(grown)
        damage(labels_of(grown) / "shards" / self.only_earlier(grown).file)
        before = grown.files("labels")
        said = command("verify", labels_of(grown))
        assert said.code == 1
        assert f"of the earlier state {earlier.digest[:12]}" in said.output
        said = command("verify", labels_of(grown), "--repair", grown.recipe)
        assert said.code == 1
        last = said.errors.splitlines()[-1]
        assert "cannot be made again from today's data; the newest state is whole" in last
        assert LabelSet.open(str(labels_of(grown))).digest == newest.digest
        assert grown.files("labels") == before

    @pytest.mark.parametrize("damage", [change_a_byte, Path.unlink])
    def test_a_record_that_only_they_name_is_written_again(self, command, grown, damage):
        before = grown.files("labels")
        damage(labels_of(grown) / "records" / self.only_earlier(grown).record_file)
        assert command("verify", labels_of(grown)).code == 1
        assert command("verify", labels_of(grown), "--repair", grown.recipe).code == 0
        assert grown.files("labels") == before

    def test_a_list_of_theirs_is_not_thrown_away(self, command, grown):
        earlier, _ = self.states(grown)
        path = labels_of(grown) / "manifests" / f"{earlier.digest}.json"
        change_a_byte(path)
        damaged = path.read_bytes()
        said = command("verify", labels_of(grown), "--repair", grown.recipe)
        assert said.code == 1
        assert "cannot be made again from today's data" in said.errors.splitlines()[-1]
        assert path.read_bytes() == damaged

    def test_a_shard_that_they_share_is_made_again(self, command, grown):
        before = grown.files("labels")
        earlier, newest = self.states(grown)
        names = {shard.file for shard in earlier.manifest.shards}
        shared = next(shard for shard in newest.manifest.shards if shard.file in names)
        change_a_byte(labels_of(grown) / "shards" / shared.file)
        change_a_byte(labels_of(grown) / "manifest.json")
        assert command("verify", labels_of(grown), "--repair", grown.recipe).code == 0
        assert grown.files("labels") == before
