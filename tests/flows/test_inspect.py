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
