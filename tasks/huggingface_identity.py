"""Which model a recipe means: the digest of the files that decide it, and not where they lie.

Imports neither transformers nor torch, so that looking at a finished project stays light.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from storage.files import Folder
from storage.identity import Json
from tasks.huggingface_files import CONFIG, deciding_files, kept_digest, local_folder
from tasks.huggingface_options import HuggingFaceModelOptions, HuggingFaceTeacherOptions


def teacher_digest(
    store: Folder, options: HuggingFaceTeacherOptions, folder: Path, where: str
) -> str:
    """The weights' digest: over the files that decide the logits; each is read once.

    Raises:
        ModelError: there is no such model.
    """
    source = local_folder(
        options.model,
        folder,
        where=where,
        revision=options.revision,
        gguf_file=options.gguf_file,
    )
    return kept_digest(
        store, source, deciding_files(source, where=where, gguf_file=options.gguf_file)
    )


def model_files(store: Folder, options: Any, folder: Path, where: str) -> Json | None:
    """What beside its options decides a model that is trained; None for other models than these.

    Raises:
        ModelError: there is no such model.
    """
    if not isinstance(options, HuggingFaceModelOptions):
        return None
    if is_kind(options, folder):
        return {"kind_of_model": options.model}
    gguf_file = options.gguf_file
    source = local_folder(
        options.model,
        folder,
        where=where,
        revision=options.revision,
        gguf_file=gguf_file,
        weights=options.pretrained,
    )
    if options.pretrained or gguf_file is not None:
        names = deciding_files(source, where=where, gguf_file=gguf_file)
    else:
        names = (CONFIG,)
    return {"files": kept_digest(store, source, names)}


def is_kind(options: HuggingFaceModelOptions, folder: Path) -> bool:
    """Whether a kind of model is named, such as `llama`, rather than a model."""
    if options.pretrained or "/" in options.model or (folder / options.model).is_dir():
        return False
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        return False
    kind = options.model.replace("-", "_")
    return (Path(spec.origin).parent / "models" / kind / "__init__.py").is_file()
