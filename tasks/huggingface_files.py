"""Where the files of a Hugging Face model lie, and which of them decide its numbers.

A model is a local folder or a name on the hub. Of the hub only JSON, safetensors, GGUF and the
tokenizer's own files are fetched: nothing is ever unpickled, and no code is run.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from storage.errors import ModelError, one_line
from storage.files import Folder
from storage.identity import fingerprint
from storage.places import is_shipped, locate
from storage.sources import digest_of_source
from tasks.huggingface_library import library, quiet

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
PROCESSOR = "preprocessor_config.json"
_PATHLIKE = (".", "/", "~", "\\")
_TEXT_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
_WEIGHT_FILES = ("model*.safetensors",)


def local_folder(
    model: str,
    folder: Path,
    *,
    where: str,
    revision: str | None = None,
    gguf_file: str | None = None,
    weights: bool = True,
) -> Path:
    """The folder that holds a model: the user's own, or the hub's copy on this machine.

    Args:
        model: a folder, relative to `folder` or in a package (`package://`), or a name on the hub.
        folder: the recipe's.
        where: the field of the recipe, for messages.
        revision: of a name on the hub: a branch, tag or commit.
        gguf_file: the GGUF file that will be read.
        weights: whether the weights are needed too.

    Raises:
        ModelError: there is no such folder and no such name.
    """
    local = Path(locate(model)) if is_shipped(model) else folder / Path(model).expanduser()
    if local.is_dir():
        if revision is not None:
            raise ModelError(f"{where}.revision: {local} is a folder, which has no revisions")
        return local.resolve()
    if is_shipped(model) or model.startswith(_PATHLIKE) or model.count("/") > 1 or local.exists():
        raise ModelError(
            f"{where}.model: there is no folder {local}; expected one, or a name on the hub"
        )
    patterns = [*_TEXT_FILES]
    if weights:
        patterns += [gguf_file] if gguf_file else _WEIGHT_FILES
    elif gguf_file:
        patterns += [gguf_file]
    hub = library("huggingface_hub", where)
    try:
        with quiet():
            return Path(hub.snapshot_download(model, revision=revision, allow_patterns=patterns))
    except Exception as error:
        at = f" at revision {revision!r}" if revision else ""
        raise ModelError(
            f"{where}.model: there is no folder {local}, and the hub gives no {model!r}{at}: "
            f"{one_line(error)}"
        ) from error


def deciding_files(folder: Path, *, where: str, gguf_file: str | None = None) -> tuple[str, ...]:
    """The files of a model that decide its logits, in the order of their names.

    Raises:
        ModelError: it has no weights that can be read without running code.
    """
    if gguf_file is not None:
        if not (folder / gguf_file).is_file():
            found = sorted(path.name for path in folder.glob("*.gguf"))
            raise ModelError(
                f"{where}.gguf_file: {folder} holds no {gguf_file!r}; its GGUF files: "
                f"{', '.join(found) or 'none'}"
            )
        return (gguf_file,)
    if not (folder / CONFIG).is_file():
        found = sorted(path.name for path in folder.glob("*.gguf"))
        hint = f"; for its GGUF file say gguf_file: {found[0]}" if found else ""
        raise ModelError(f"{where}.model: {folder} holds no {CONFIG}{hint}")
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{where}.model: {folder} is an adapter; merge it into its model (merge_and_unload) "
            "and save that"
        )
    names = [CONFIG, *_weight_files(folder, where)]
    if (folder / PROCESSOR).is_file():
        names.append(PROCESSOR)
    return tuple(sorted(names))


def digest_of_files(folder: Path, names: Iterable[str], digest: Callable[[str], str]) -> str:
    """The sha256 over the names and the digests of some files."""
    listed = [[name, digest(str(folder / name))] for name in names]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def kept_digest(store: Folder, folder: Path, names: Iterable[str]) -> str:
    """The same, each file's digest being kept in the store by its path, size and time."""
    return digest_of_files(folder, names, lambda path: digest_of_source(store, path))


def fresh_digest(folder: Path, names: Iterable[str]) -> str:
    """The same, every file being read."""
    return digest_of_files(folder, names, sha256_of)


def sha256_of(path: str | Path) -> str:
    """The sha256 of a local file, read in pieces."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path, where: str) -> dict[str, Any]:
    """A JSON object in a model's folder.

    Raises:
        ModelError: it is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{where}.model: {path} is no readable JSON: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{where}.model: {path} holds no JSON object")
    return content


def made_once(kind: str, identity: Any, make: Callable[[Path], None]) -> Path:
    """A folder in the user's cache, made where it is not there, and never half.

    Args:
        kind: a name for what is kept.
        identity: what decides its content.
        make: fills an empty folder.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "softlabel" / kind
    target = home / fingerprint(identity)
    if target.is_dir():
        return target
    home.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".making-", dir=home))
    try:
        make(temporary)
        temporary.chmod(0o755)
        try:
            temporary.rename(target)
        except OSError:
            if not target.is_dir():  # another process was first, and made the same
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _weight_files(folder: Path, where: str) -> list[str]:
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if (folder / WEIGHTS_INDEX).is_file():
        index = read_json(folder / WEIGHTS_INDEX, where).get("weight_map")
        shards = sorted(set(index.values())) if isinstance(index, dict) else []
        gone = [name for name in shards if not (folder / name).is_file()]
        if gone or not shards:
            raise ModelError(
                f"{where}.model: {folder / WEIGHTS_INDEX} names {gone[0] if gone else 'no file'}"
                + (", which is not there" if gone else "")
            )
        return [WEIGHTS_INDEX, *shards]
    pickled = sorted(path.name for path in folder.glob("*.bin"))
    found = f", only {pickled[0]}, which is a pickle and is not loaded" if pickled else ""
    raise ModelError(
        f"{where}.model: {folder} holds no {WEIGHTS}{found}; where you trust them, load the "
        "weights once with transformers, and save_pretrained(FOLDER) writes them as safetensors"
    )
