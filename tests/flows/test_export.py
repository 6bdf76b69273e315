"""`softlabel export` from a finished project."""

import polars
import pytest


def test_the_label_set_of_a_recipe_is_exported(command, finished, tmp_path):
    said = command("export", finished.recipe, "--to", tmp_path / "out", "--format", "portable")
    assert said.code == 0
    for words in (["export", str(tmp_path / "out")], ["temperature", "2"], ["rows of train", "72"]):
        assert any(all(w in line for w in words) for line in said.output.splitlines())
    assert "export: 120 of 120 positions" in said.errors
    found = polars.read_parquet(tmp_path / "out" / "data" / "*.parquet")
    assert found["split"].value_counts().sort("split")["count"].to_list() == [24, 72, 24]
    total = found["probabilities"].list.sum() + found["rest_probability"]
    assert total.to_list() == pytest.approx([1] * 120)


def test_a_split_at_a_stored_temperature_is_exported(command, finished, tmp_path):
    url = finished.only("labels")
    asked = ["--format", "portable", "--split", "test", "--temperature", "1", "--json"]
    found = command("export", url, "--to", tmp_path / "out", *asked).json
    assert found["url"] == str(tmp_path / "out")
    assert found["rows"] == {"test": 24}
    assert found["temperature"] == 1.0
    assert found["label_set"]["digest"] == finished.first["label"]["digest"]


@pytest.mark.parametrize(
    ("asked", "code", "words"),
    [
        (["--format", "axolotl"], 2, ["--format axolotl", "causal_lm", "classification"]),
        (["--format", "portable", "--temperature", "3"], 2, ["--temperature", "it has: 2, 1"]),
        (["--format", "portable", "--temperature", "std"], 2, ["no rest for std", "2, 1"]),
        (["--format", "portable", "--split", "dev"], 1, ["no split 'dev'", "train, test"]),
    ],
)
def test_what_does_not_fit_is_refused(command, finished, tmp_path, asked, code, words):
    said = command("export", finished.only("labels"), "--to", tmp_path / "out", *asked)
    command.refuses(said, code, *words)
    assert not (tmp_path / "out").exists()


def test_what_is_there_already_is_not_touched(command, finished, tmp_path):
    (tmp_path / "mine").write_text("mine")
    asked = ["--to", tmp_path, "--format", "portable"]
    command.refuses(command("export", finished.recipe, *asked), 2, "--to", "name a new folder")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_what_is_no_label_set_is_said(command, finished, tmp_path):
    asked = ["--to", tmp_path / "out", "--format", "portable"]
    for where in (finished.only("students"), finished.folder / "gone"):
        command.refuses(command("export", where, *asked), 1, "no label set at", str(where))


def test_a_student_is_copied_for_serving(command, finished, tmp_path):
    url, out = finished.only("students"), tmp_path / "out"
    found = command("export", url, "--to", out, "--format", "model", "--json").json
    assert set(found["files"]) == {"model.safetensors", "model.onnx"}
    assert {path.name for path in out.iterdir()} == {*found["files"], "card.json"}
    for name in found["files"]:
        assert (out / name).read_bytes() == (url / name).read_bytes()
    assert command("verify", out).code == 0
    said = command("export", url, "--to", out, "--format", "model")
    command.refuses(said, 2, "--to", "name a new folder")


def test_what_is_no_model_is_not_copied(command, finished, tmp_path):
    asked = ["--to", tmp_path / "out", "--format", "model"]
    said = command("export", finished.only("reports"), *asked)
    command.refuses(said, 1, "holds no model.safetensors")
    command.refuses(command("export", finished.only("labels"), *asked), 1, "there is no model at")
    assert not (tmp_path / "out").exists()
