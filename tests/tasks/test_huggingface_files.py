"""Which files are a model, where they lie, and what is refused."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from storage.errors import ModelError
from storage.files import Folder
from tasks.huggingface_files import (
    deciding_files,
    fresh_digest,
    kept_digest,
    local_folder,
    made_once,
)
from tests.tasks.hf_models import BERT, save_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def model(tmp_path) -> Path:
    return save_model(tmp_path / "model", "BertForMaskedLM", **BERT)


def test_the_files_that_decide(model):
    assert deciding_files(model, where="teacher") == ("config.json", "model.safetensors")
    (model / "tokenizer.json").write_text("{}")
    (model / "preprocessor_config.json").write_text("{}")
    assert deciding_files(model, where="teacher") == (
        "config.json", "model.safetensors", "preprocessor_config.json",
    )  # fmt: skip


def test_weights_in_shards(model):
    (model / "model.safetensors").unlink()
    shards = {"a": "model-00002-of-00002.safetensors", "b": "model-00001-of-00002.safetensors"}
    for name in shards.values():
        save_file({"x": torch.ones(1)}, model / name)
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert deciding_files(model, where="teacher") == (
        "config.json", *sorted(shards.values()), "model.safetensors.index.json",
    )  # fmt: skip
    (model / shards["b"]).unlink()
    with pytest.raises(ModelError, match=r"names model-00001.*, which is not there"):
        deciding_files(model, where="teacher")


def test_the_digest_follows_content_and_name_and_not_the_place(model, tmp_path):
    names = deciding_files(model, where="teacher")
    store = Folder.open(str(tmp_path / "store"))
    digest = fresh_digest(model, names)
    assert kept_digest(store, model, names) == digest == kept_digest(store, model, names)
    moved = shutil.copytree(model, tmp_path / "moved")
    assert fresh_digest(moved, names) == digest
    (moved / "config.json").write_text("{}")
    assert fresh_digest(moved, names) != digest


def test_a_kept_digest_does_not_read_the_file_again(model, tmp_path):
    store = Folder.open(str(tmp_path / "store"))
    before = kept_digest(store, model, ["model.safetensors"])
    path = model / "model.safetensors"
    when = path.stat()
    path.write_bytes(bytes(when.st_size))
    os.utime(path, ns=(when.st_atime_ns, when.st_mtime_ns))
    kept = kept_digest(store, model, ["model.safetensors"])
    # A file system may tell when an inode changed: then the change is seen, and that is right.
    assert kept == before or kept == fresh_digest(model, ["model.safetensors"])


@pytest.mark.parametrize(
    ("there", "message"),
    [
        ([], r"holds no config\.json$"),
        (["x.gguf"], r"holds no config\.json; for its GGUF file say gguf_file: x\.gguf"),
        (["config.json"], r"holds no model\.safetensors; where you trust"),
        (["config.json", "pytorch_model.bin"], r"only pytorch_model\.bin, which is a pickle"),
        (["config.json", "adapter_config.json"], "is an adapter; merge it"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path, there, message):
    for name in there:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ModelError, match=message) as caught:
        deciding_files(tmp_path, where="teacher")
    assert str(caught.value).startswith("teacher.model: ")


def test_a_gguf_file_has_to_be_there(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    assert deciding_files(tmp_path, where="teacher", gguf_file="a.gguf") == ("a.gguf",)
    with pytest.raises(ModelError, match=r"holds no 'b.gguf'; its GGUF files: a\.gguf"):
        deciding_files(tmp_path, where="teacher", gguf_file="b.gguf")


def test_a_folder_is_relative_to_the_recipe(model, tmp_path):
    assert local_folder("model", tmp_path, where="teacher") == model
    assert local_folder(str(model), Path("/"), where="teacher") == model
    with pytest.raises(ModelError, match="a folder, which has no revisions"):
        local_folder("model", tmp_path, where="teacher", revision="main")


@pytest.mark.parametrize("name", ["./gone", "/gone", "a/b/c", "~/gone-away"])
def test_a_path_that_is_no_folder_is_refused(tmp_path, name):
    with pytest.raises(ModelError, match=r"^teacher\.model: there is no folder .*gone|/c"):
        local_folder(name, tmp_path, where="teacher")


def _offline(home: Path, call: str) -> subprocess.CompletedProcess[str]:
    """A call in a process of its own: the hub's library reads its settings when it is imported."""
    code = (
        "from pathlib import Path\nfrom tasks.huggingface_files import local_folder\n"
        f"print(local_folder({call}, folder=Path(), where='teacher'))"
    )
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )


def test_a_name_on_the_hub_is_found_offline_in_its_cache(model, tmp_path):
    cache = tmp_path / "home" / "hub" / "models--someone--toy"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(COMMIT)
    shutil.copytree(model, cache / "snapshots" / COMMIT)
    found = _offline(tmp_path / "home", "'someone/toy'")
    assert found.stdout.strip() == str(cache / "snapshots" / COMMIT)
    pinned = _offline(tmp_path / "home", f"'someone/toy', revision={COMMIT!r}")
    assert pinned.stdout == found.stdout
    other = _offline(tmp_path / "home", "'someone/toy', revision='v2'")
    assert "the hub gives no 'someone/toy' at revision 'v2': " in other.stderr
    gone = _offline(tmp_path / "home", "'someone/else'")
    last = gone.stderr.strip().splitlines()[-1]
    assert "teacher.model: there is no folder someone/else, and the hub gives no" in last


def test_what_is_made_once_is_never_half(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def fails(target: Path) -> None:
        (target / "half").write_text("x")
        raise ModelError("no")

    def makes(target: Path) -> None:
        (target / "whole").write_text("x")

    with pytest.raises(ModelError):
        made_once("things", "a", fails)
    assert list((tmp_path / "softlabel" / "things").iterdir()) == []
    first = made_once("things", "a", makes)
    assert made_once("things", "a", fails) == first
    assert [path.name for path in first.iterdir()] == ["whole"]


def test_two_who_make_the_same_at_once_make_one(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def makes(target: Path) -> None:
        (target / "file").write_text("x")

    def second(target: Path) -> None:
        made_once("things", "a", makes)
        makes(target)

    made = made_once("things", "a", second)
    assert [path.name for path in made.parent.iterdir()] == [made.name]
