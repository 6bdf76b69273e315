"""Hugging Face models loaded with their weights, or built from their configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from storage.errors import ModelError, one_line
from storage.options import Task
from storage.spec import InputSpec
from tasks.huggingface_config import (
    changed,
    config_to_train,
    read_config,
    set_classes,
    weights_folder,
)
from tasks.huggingface_files import CONFIG
from tasks.huggingface_heads import (
    head_of_kind,
    head_of_weights,
    require_decoderless,
    require_softmax,
)
from tasks.huggingface_library import library, quiet
from tasks.huggingface_module import HuggingFaceModule, argument_names
from tasks.huggingface_options import HuggingFaceModelOptions, HuggingFaceTeacherOptions
from tasks.huggingface_preparation import (
    IDS,
    pad_id_of,
    prepared_again,
    prepared_by_default,
    prepared_by_folder,
)

HEAD, CONFIGURATION, PREPARATION = "head", "config", "preparation"


def load_teacher_module(
    options: HuggingFaceTeacherOptions,
    folder: Path,
    inputs: Sequence[InputSpec],
    task: Task,
    where: str,
) -> HuggingFaceModule:
    """A teacher with its weights, in evaluation mode.

    Args:
        options: the recipe's words.
        folder: the recipe's.
        inputs: what it gets.
        task: what is predicted.
        where: the field of the recipe, for messages.

    Raises:
        ModelError: it is not there, is damaged, or is no model for this task.
    """
    source = weights_folder(options, folder, where)
    config = read_config(source, where)
    require_softmax(config, task, where)
    head = head_of_weights(config, task, where)
    said = {} if options.device_map is None else {"device_map": options.device_map}
    dtype = options.dtype
    model, info = _from_pretrained(head, source, where, dtype=dtype, attn=options.attention, **said)
    lost = sorted(entry if isinstance(entry, str) else entry[0] for entry in _not_loaded(info))
    if lost:
        raise ModelError(
            f"{where}: the weights in {source} hold no {lost[0]!r}"
            + (f" and {len(lost) - 1} more" if len(lost) > 1 else "")
            + "; they are not those of a finished model"
        )
    main = str(model.main_input_name)
    if main == IDS and task is Task.CLASSIFICATION and hasattr(model, "score"):
        _require_pad_id(config, source, where)
    preparation = prepared_by_folder(source, config, main, where, for_training=False)
    names = argument_names(model, inputs, task, where)
    return HuggingFaceModule(model, names, preparation, {}).eval()


def build_module(
    options: HuggingFaceModelOptions,
    folder: Path,
    inputs: Sequence[InputSpec],
    num_classes: int,
    task: Task,
    where: str,
    *,
    padded: bool = False,
) -> HuggingFaceModule:
    """A model to train, with its first weights; those that are random come from torch's generator.

    Args:
        options: the recipe's words.
        folder: the recipe's.
        inputs: what it gets.
        num_classes: C.
        task: what is predicted.
        where: the field of the recipe, for messages.
        padded: whether a language model may know more ids than C.

    Raises:
        ModelError: it is not there, or cannot be built so.
    """
    source, config = config_to_train(options, folder, where)
    require_decoderless(config, where)
    head = head_of_kind(config, task, where)
    config = changed(config, options.config, where, whole=source is not None)
    set_classes(config, num_classes, task, padded=padded, pretrained=options.pretrained)
    if options.pretrained and source is not None:
        model, info = _from_pretrained(head, source, where, config=config, attn=options.attention)
        _require_body(model, info, source, where)
    else:
        model = _from_config(head, config, options.attention, where)
    main = str(model.main_input_name)
    preparation = (
        prepared_by_folder(source, config, main, where, for_training=True)
        if options.pretrained and source is not None
        else prepared_by_default(config, main)
    )
    saved = {
        HEAD: head,
        CONFIGURATION: config.to_dict(),
        PREPARATION: preparation.settings,
        "attention": options.attention,
    }
    names = argument_names(model, inputs, task, where)
    return HuggingFaceModule(model, names, preparation, saved)


def build_again(
    saved: dict[str, Any], inputs: Sequence[InputSpec], task: Task, where: str
) -> HuggingFaceModule:
    """A model from what was stored with its trained weights, which are still to be filled in.

    Raises:
        ModelError: this version of the library cannot build it.
    """
    transformers = library("transformers", where)
    said = dict(saved[CONFIGURATION])
    try:
        with quiet():
            config = transformers.AutoConfig.for_model(said.pop("model_type"), **said)
    except Exception as error:
        raise ModelError(f"{where}: its stored configuration: {one_line(error)}") from error
    model = _from_config(saved[HEAD], config, saved["attention"], where)
    names = argument_names(model, inputs, task, where)
    return HuggingFaceModule(model, names, prepared_again(saved[PREPARATION]), saved)


def _require_pad_id(config: Any, source: Path, where: str) -> None:
    """A classifier that reads the last token finds the end of a text by its padding token."""
    if pad_id_of(config) is None:
        raise ModelError(
            f"{where}: it classifies a text by its last token, and {source / CONFIG} says no "
            "pad_token_id by which to find it; write there the one it was trained with"
        )


def _from_pretrained(head: str, source: Path, where: str, *, attn: str, **said: Any) -> Any:
    transformers = library("transformers", where)
    if said.get("device_map"):
        library("accelerate", where)
    try:
        with quiet():
            return getattr(transformers, head).from_pretrained(
                source,
                use_safetensors=True,
                trust_remote_code=False,
                attn_implementation=attn,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **({"dtype": "float32"} | said),
            )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ModelError(f"{where}: {source} does not load: {one_line(error)}") from error


def _from_config(head: str, config: Any, attention: str, where: str) -> Any:
    transformers = library("transformers", where)
    try:
        with quiet():
            loader = getattr(transformers, head)
            return loader.from_config(config, attn_implementation=attention, dtype=torch.float32)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ModelError(
            f"{where}: a {config.model_type} model cannot be built so: {one_line(error)}"
        ) from error


def _require_body(model: Any, info: dict[str, Any], source: Path, where: str) -> None:
    """A new head is what was asked for; a new body would be a random model called pretrained."""
    fresh = {entry if isinstance(entry, str) else entry[0] for entry in _not_loaded(info)}
    body = f"{model.base_model_prefix}."
    wrong = sorted(name for name in fresh if name.startswith(body) and "pooler" not in name)
    if wrong:
        raise ModelError(
            f"{where}: the weights in {source} do not fit at {wrong[0]!r}; with pretrained: true "
            "config may not change the sizes of the model"
        )


def _not_loaded(info: dict[str, Any]) -> list[Any]:
    return [*info["missing_keys"], *info["mismatched_keys"]]
