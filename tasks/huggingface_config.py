"""The configurations of Hugging Face models: read, made smaller, and fitted to the labels."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from storage.errors import ModelError, one_line
from storage.options import Task
from tasks.huggingface_files import CONFIG, deciding_files, local_folder, read_json
from tasks.huggingface_gguf import converted
from tasks.huggingface_identity import is_kind
from tasks.huggingface_library import library, quiet
from tasks.huggingface_options import HuggingFaceModelOptions, HuggingFaceTeacherOptions
from tasks.huggingface_preparation import pad_id_of


def weights_folder(
    options: HuggingFaceTeacherOptions | HuggingFaceModelOptions, folder: Path, where: str
) -> Path:
    """The local folder with a model's configuration and safetensors.

    Raises:
        ModelError: there is none.
    """
    gguf_file = options.gguf_file
    source = local_folder(
        options.model, folder, where=where, revision=options.revision, gguf_file=gguf_file
    )
    deciding_files(source, where=where, gguf_file=gguf_file)
    return source if gguf_file is None else converted(source, gguf_file, where)


def read_config(source: Path, where: str) -> Any:
    """The configuration in a folder.

    Raises:
        ModelError: it cannot be read, or is of a kind that only code beside it knows.
    """
    said = read_json(source / CONFIG, where)
    transformers = library("transformers", where)
    try:
        with quiet():
            return transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as error:
        if "auto_map" in said:
            raise ModelError(
                f"{where}: the model brings code of its own (auto_map), which is not run; bring it "
                "as kind: torch"
            ) from error
        raise ModelError(f"{where}: {source / CONFIG}: {one_line(error)}") from error


def config_to_train(
    options: HuggingFaceModelOptions, folder: Path, where: str
) -> tuple[Path | None, Any]:
    """The configuration to begin with, and the folder of its files where there is one."""
    if is_kind(options, folder):
        return None, _kind(options.model, where)
    if options.pretrained:
        source = weights_folder(options, folder, where)
        return source, read_config(source, where)
    gguf_file, revision = options.gguf_file, options.revision
    source = local_folder(
        options.model, folder, where=where, revision=revision, gguf_file=gguf_file, weights=False
    )
    if gguf_file is None:
        return source, read_config(source, where)
    transformers = library("transformers", where)
    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(source, gguf_file=gguf_file)
    except Exception as error:
        raise ModelError(f"{where}: {source / gguf_file}: {one_line(error)}") from error
    return source, config


def changed(config: Any, changes: dict[str, Any], where: str, *, whole: bool) -> Any:
    """A configuration with changes; what follows from other settings follows from the new ones.

    Args:
        config: what to begin with.
        changes: settings by name.
        where: the field of the recipe, for messages.
        whole: whether `config` says more than its kind.
    """
    known = config.to_dict()
    for name in changes:
        if name not in known and not hasattr(config, name):
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ModelError(
                f"{where}.config: a {config.model_type} model has no setting {name!r}{hint}"
            )
    said = (_kept(known, changes) if whole else {}) | changes
    said.pop("model_type", None)
    transformers = library("transformers", where)
    try:
        with quiet():
            return transformers.AutoConfig.for_model(config.model_type, **said)
    except Exception as error:
        raise ModelError(f"{where}.config: {one_line(error)}") from error


def set_classes(
    config: Any, num_classes: int, task: Task, *, padded: bool, pretrained: bool
) -> None:
    """Give a configuration the labels' classes; pretrained ids stay what they are."""
    text = config.get_text_config()
    if not task.is_language_model:
        config.num_labels = num_classes
    elif not pretrained and not (padded and text.vocab_size > num_classes):
        text.vocab_size = num_classes
    pad_id = pad_id_of(config)
    vocabulary = getattr(text, "vocab_size", None)
    if vocabulary and (pad_id is None or pad_id >= vocabulary):
        # Classifiers of texts need one; language models must not have one beyond their ids.
        text.pad_token_id = None if task.is_language_model else 0
    if getattr(config, "apply_spec_augment", False):
        config.apply_spec_augment = False  # its numbers are drawn outside of torch
    config.problem_type = None


def _kind(name: str, where: str) -> Any:
    """The library's own configuration of a kind of model."""
    transformers = library("transformers", where)
    try:
        with quiet():
            return transformers.AutoConfig.for_model(name)
    except Exception as error:
        raise ModelError(f"{where}.model: {name!r}: {one_line(error)}") from error


def _kept(known: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """What of a configuration still holds with these changes."""
    kept = dict(known)
    heads = known.get("num_attention_heads")
    follows = heads and known.get("head_dim") == known.get("hidden_size", 0) // heads
    if follows and {"hidden_size", "num_attention_heads"} & set(changes):
        del kept["head_dim"]
    layers, kinds = changes.get("num_hidden_layers"), known.get("layer_types")
    if layers and kinds:
        kept["layer_types"] = kinds[:layers]
    return kept
