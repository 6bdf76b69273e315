"""The stages over every kind of data: images, sounds, texts, packed text files, any files."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from storage.reader import LabelSet
from tests.flows.blobs import Workspace, blobs_recipe

TRAINING = {"epochs": 20, "batch_size": 8, "learning_rate": 0.03}


def made(folder, data, model, **labels) -> Workspace:
    """A project of a fitted teacher and its labels."""
    recipe = blobs_recipe(
        data={"name": "kinds", **data},
        teacher={"kind": "fit", "model": model, "training": TRAINING},
    )
    recipe["students"] = {}
    recipe["evaluation"]["splits"] = ["test"]
    recipe["labels"] |= {"positions_per_shard": 16, "k": 2, **labels}
    workspace = Workspace(folder)
    workspace.write_recipe(recipe)
    return workspace


def labelled(command, workspace: Workspace, *overrides: str) -> dict:
    """The record of the label stage, both stages having run."""
    for stage in ("teacher", "label"):
        said = command.run(workspace, *overrides, stage=stage, json=True)
        assert said.code == 0, said.errors
    return said.json["stages"]["label"]


def rows_of(record, split: str) -> dict:
    """All rows of a split of the label set that a record names."""
    labels = LabelSet.open(record["url"])
    parts = list(labels.batches(split))
    ids = [str(name) for part in parts for name in part["sample_id"]]
    spec = labels.spec
    labels.close()
    return {"ids": ids, "parts": parts, "spec": spec}


def photos(folder) -> None:
    """Bright and dark pictures, in folders of their names below those of the splits."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 6)):
        for name, middle in (("bright", 200), ("dark", 50)):
            below = folder / "photos" / split / name
            below.mkdir(parents=True)
            for number in range(count):
                pixels = rng.normal(middle, 20, (10, 12, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(below / f"{number}.png")


IMAGES = {
    "source": "photos/",
    "format": "images",
    "image": {"size": [8, 8]},
    "label": "folder",
    "splits": {"folder": True},
}
CNN = {"kind": "cnn", "channels": [4], "input_scale": 0.004}


def test_folders_of_images(command, server, tmp_path):
    photos(tmp_path)
    workspace = made(tmp_path, IMAGES, CNN)
    record = labelled(command, workspace)
    found = rows_of(record, "test")
    assert found["spec"].class_names == ("bright", "dark")
    assert found["ids"][:2] == ["test/bright/0.png", "test/bright/1.png"]
    assert len(found["ids"]) == 12
    assert found["parts"][0]["input.image"].shape[1:] == (3, 8, 8)
    best = np.concatenate([part["index"][:, 0] for part in found["parts"]])
    label = np.concatenate([part["label"] for part in found["parts"]])
    assert label.tolist() == [0] * 6 + [1] * 6
    assert (best == label).mean() > 0.9
    again = labelled(command, workspace)
    assert again["status"] == "cached"
    assert again["digest"] == record["digest"]


def test_a_folder_of_images_that_moves_keeps_its_labels_and_one_that_grows_keeps_its_shards(
    command, server, tmp_path
):
    photos(tmp_path)
    workspace = made(tmp_path, IMAGES, CNN)
    before = labelled(command, workspace, "teacher.refit=never")
    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    moved = ("data.source=elsewhere", "teacher.refit=never")
    assert labelled(command, workspace, *moved)["status"] == "cached"
    shutil.copy(tmp_path / "elsewhere/train/dark/0.png", tmp_path / "elsewhere/train/dark/99.png")
    after = labelled(command, workspace, *moved)
    assert (after["shards_written"], after["shards_reused"]) == (1, before["shards_written"] - 1)
    assert len(rows_of(after, "train")["ids"]) == 25


def test_a_damaged_image_stops_the_stage_or_is_set_aside(command, server, tmp_path):
    photos(tmp_path)
    broken = tmp_path / "photos/test/dark/3.png"
    broken.write_bytes(broken.read_bytes()[:100])
    workspace = made(tmp_path, IMAGES, CNN)
    assert command.run(workspace, stage="teacher").code == 0
    said = command.run(workspace, stage="label")
    assert said.code == 1
    assert "test/dark/3.png" in said.errors
    assert "damaged" in said.errors
    aside = ("labels.on_bad_sample=quarantine", "labels.max_bad=0.1")
    record = labelled(command, workspace, *aside)
    assert "test/dark/3.png" not in rows_of(record, "test")["ids"]
    assert len(rows_of(record, "test")["ids"]) == 11


def test_folders_of_sounds(command, server, tmp_path):
    soundfile = pytest.importorskip("soundfile")
    for hertz in (200, 1200):
        below = tmp_path / "sounds" / f"at-{hertz}"
        below.mkdir(parents=True)
        for number in range(20):
            time = np.arange(900 + number) / 8000
            soundfile.write(below / f"{number}.wav", 0.3 * np.sin(2 * np.pi * hertz * time), 8000)
    data = {
        "source": "sounds",
        "format": "audio",
        "audio": {"rate": 8000, "seconds": 0.1},
        "label": "folder",
        "splits": {"fractions": {"train": 0.7, "test": 0.3}},
    }
    record = labelled(command, made(tmp_path, data, {"kind": "mlp", "hidden": [8]}))
    found = rows_of(record, "test")
    assert found["spec"].class_names == ("at-1200", "at-200")
    assert found["parts"][0]["input.waveform"].shape[1:] == (800,)
    assert found["parts"][0]["input.waveform"].dtype == np.float32
    assert 0 < len(found["ids"]) < 40


def test_texts_of_a_table(command, server, tmp_path):
    words = {"happy": "good great fine", "sad": "bad awful poor"}
    lines = [
        json.dumps({"text": " ".join(words[mood].split()[n % 3 :]), "mood": mood, "part": part})
        for part, count in (("train", 20), ("test", 6))
        for n in range(count)
        for mood in words
    ]
    (tmp_path / "moods.jsonl").write_text("\n".join(lines))
    data = {
        "source": "moods.jsonl",
        "inputs": "text",
        "label": "mood",
        "classes": ["happy", "sad"],
        "splits": {"column": "part"},
        "tokens": {"tokenizer": "bytes", "max_length": 12},
    }
    model = {"kind": "token_transformer", "vocabulary": 257, "width": 16, "layers": 1, "heads": 2}
    record = labelled(command, made(tmp_path, data, model))
    found = rows_of(record, "test")
    assert [entry.name for entry in found["spec"].inputs] == ["input_ids", "attention_mask"]
    assert [entry.shape for entry in found["spec"].inputs] == [None, None]
    first = found["parts"][0]["input.input_ids"]
    assert bytes(first.values_NW[: first.lengths_B[0]].tolist()) == b"good great f"


def test_text_files_packed_into_blocks(command, server, tmp_path):
    (tmp_path / "lib/deep").mkdir(parents=True)
    for number in range(6):
        below = tmp_path / "lib" / ("deep" if number % 2 else ".")
        (below / f"{number}.py").write_text(f"x = {number}\n" * (5 + number))
    data = {
        "source": "lib/**/*.py",
        "format": "text",
        "task": "causal_lm",
        "tokens": {"tokenizer": "bytes", "block": 32},
        "splits": {"fractions": {"train": 0.7, "test": 0.3}},
    }
    model = {"kind": "token_transformer", "width": 16, "layers": 1, "heads": 2}
    record = labelled(command, made(tmp_path, data, model, positions_per_shard=64))
    spec = rows_of(record, "train")["spec"]
    assert spec.num_classes == 257
    assert [entry.name for entry in spec.inputs] == ["input_ids"]
    seen = b""
    for split in ("train", "test"):
        found = rows_of(record, split)
        for part in found["parts"]:
            tokens, label = part["input.input_ids"].values_NW, part["label"].values_NW
            counts = part["mask"].values_NW
            assert (tokens[1:][counts[:-1]] == label[:-1][counts[:-1]]).all()
            assert not counts[tokens == 256].any()
            seen += bytes(tokens[tokens < 256].tolist())
        assert found["ids"][0].endswith(":0")
    everything = b"".join(path.read_bytes() for path in (tmp_path / "lib").rglob("*.py"))
    assert sorted(seen) == sorted(everything)
    assert (
        labelled(command, made(tmp_path, data, model, positions_per_shard=64))["status"] == "cached"
    )


def test_any_files_without_labels_are_labelled_by_a_teacher_that_is_brought(
    command, server, tmp_path
):
    from safetensors.torch import save_file

    from tests.flows.targets import byte_counter

    (tmp_path / "things").mkdir()
    for number in range(10):
        (tmp_path / "things" / f"{number}.bin").write_bytes(bytes([number]) * number)
    save_file(byte_counter().state_dict(), tmp_path / "weights.safetensors")
    data = {
        "source": "things/**",
        "format": "files",
        "bytes": {"begin": 4, "end": 4},
        "files": {"min_bytes": 1, "limit": 8},
        "splits": {"fractions": {"train": 1.0}},
    }
    workspace = made(tmp_path, data, CNN)
    recipe = blobs_recipe(data={"name": "kinds", **data})
    recipe["teacher"] = {
        "kind": "torch",
        "target": "tests.flows.targets:byte_counter",
        "weights": "weights.safetensors",
    }
    recipe["students"], recipe["evaluation"]["splits"] = {}, ["train"]
    workspace.write_recipe(recipe)
    found = rows_of(labelled(command, workspace), "train")
    assert not found["spec"].has_label
    assert len(found["ids"]) == 8
    assert "0.bin" not in found["ids"]
    by_id = dict(zip(found["ids"], found["parts"][0]["input.bytes"].tolist(), strict=True))
    name = found["ids"][0]
    number = int(name.removesuffix(".bin"))
    head = ([number] * number)[:4]
    assert by_id[name] == head + [256] * (4 - len(head)) + [256] * (4 - len(head)) + head
