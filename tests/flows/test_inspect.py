import shutil

import pytest


def test_a_label_set_says_what_it_is(command, finished):
    url = finished.only("labels")
    found = command("inspect", url, "--json").json
    assert found["url"] == str(url)
    assert found["digest"] == finished.first["label"]["digest"]
    assert found["fingerprint"] == url.name
    assert (found["keep"], found["k"], found["codec"]) == ("top_k", 2, "float32")
    assert found["temperatures"] == [2.0, 1.0]
    assert (found["shards"], found["rows"], found["positions"]) == (5, 120, 120)
    assert found["bytes"] == sum(file.stat().st_size for file in (url / "shards").iterdir())
    assert found["samples"] == {"train": 72, "test": 24, "validation": 24}
    assert 0.5 < found["fidelity"]["temperatures"]["1"]["retained_mass"]["mean"] <= 1
    assert sum(found["bytes_by_part"].values()) == found["bytes"]
    assert found["footers_read"] == 5
    assert found["splits"]["test"]["k"] == 3
    assert found["splits"]["test"]["rows"] == 24
    assert found["earlier_digests"] == []
    assert found["recipe"]["name"] == found["data"]["name"] == "blobs"
    assert found["teacher"]["model"]["kind"] == "mlp"
    assert "examples" not in found


def test_people_see_the_parts_of_the_bytes_and_the_fidelity(command, finished):
    said = command("inspect", finished.only("labels"))
    lines = said.output.splitlines()
    for words in (
        ["split", "keeps", "rows", "positions", "shards", "ids", "values", "rest", "inputs"],
        ["train", "top_k k=2", "72", "3"],
        ["split", "mass kept", "codec KL", "truncation KL"],
        ["teacher", "mlp with weights"],
        ["recipe", "blobs in"],
    ):
        assert any(all(word in line for word in words) for line in lines), words


def test_samples_are_shown_decoded(command, finished):
    url = finished.only("labels")
    found = command("inspect", url, "--samples", "3", "--split", "test", "--json").json
    entries = found["examples"]["test"]
    assert [entry["position"] for entry in entries] == [0, 0, 0]
    for entry in entries:
        assert [shown["id"] for shown in entry["classes"]]
        total = sum(shown["probability"] for shown in entry["classes"]) + entry["others"]
        assert total == pytest.approx(1)
        assert entry["label"]["id"] in (0, 1, 2)
    said = command("inspect", finished.recipe, "--samples", "2")
    assert said.code == 0
    first, second = said.output.splitlines()[-3:-1]
    best = entries[0]["classes"][0]
    assert best["name"] == str(best["id"])
    assert "train, decoded at T = 1" in said.output
    assert first.split()[0] != second.split()[0]


def test_samples_that_are_not_there_are_refused(command, finished):
    url = finished.only("labels")
    said = command("inspect", url, "--samples", "1", "--split", "valid")
    command.refuses(said, 1, "no split 'valid'", "train, test, validation")
    for kind in ("students", "reports"):
        said = command("inspect", finished.only(kind), "--samples", "1")
        command.refuses(said, 2, "--samples", "is no label set")


def test_a_recipe_stands_for_its_label_set(command, finished):
    by_recipe = command("inspect", finished.recipe, "--json").json
    assert by_recipe == command("inspect", finished.only("labels"), "--json").json


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("teachers", ["weights digest", "num classes", "parameters"]),
        ("students", ["label set digest", "steps", "model.onnx"]),
        ("reports", ["gates passed", "models", "teacher, small"]),
        ("predictions", ["label set", "test.parquet"]),
        ("labels", ["digest", "bytes per position", "fidelity"]),
    ],
)
def test_every_product_is_shown_to_people(command, finished, kind, words):
    for folder in (finished.store / kind).iterdir():
        said = command("inspect", folder)
        assert said.code == 0
        assert said.errors == ""
        assert str(folder) in said.output
        for word in words:
            assert word in said.output


def test_what_is_not_there_is_said(command, copied, workspace):
    command.refuses(command("inspect", copied.store), 1, "no label set, model", "card.json")
    command.refuses(command("inspect", copied.folder / "gone"), 1, "no label set, model or report")
    command.refuses(command("inspect", "nowhere://x"), 1, "nowhere://x")
    command.refuses(command("inspect", workspace.recipe), 1, "no finished label set", "--stage")
    command.refuses(command("inspect", copied.folder / "gone.yaml"), 2, "there is no recipe at")
    (copied.only("labels") / "manifest.json").unlink()
    shutil.rmtree(copied.only("labels") / "manifests")
    command.refuses(command("inspect", copied.only("labels")), 1, "is not finished")


def test_a_damaged_product_is_said(command, copied):
    for folder, file in (("labels", "manifest.json"), ("students", "card.json")):
        path = copied.only(folder) / file
        path.write_text(path.read_text()[:-9])
        command.refuses(command("inspect", path.parent), 1, str(path))
