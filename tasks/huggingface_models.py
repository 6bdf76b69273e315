"""Hugging Face models loaded with their weights, or built from their configuration.

What gives no softmax over classes for each position is refused, with that reason.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch

from storage.errors import ModelError, one_line
from storage.options import Task
from storage.spec import InputSpec
from tasks.huggingface_files import CONFIG, deciding_files, local_folder, read_json
from tasks.huggingface_gguf import converted
from tasks.huggingface_identity import is_kind
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

# Of each task: the library's table of models, and its loader.
_HEADS: Final[dict[Task, dict[str, str]]] = {
    Task.CLASSIFICATION: {
        "SEQUENCE_CLASSIFICATION": "AutoModelForSequenceClassification",
        "IMAGE_CLASSIFICATION": "AutoModelForImageClassification",
        "AUDIO_CLASSIFICATION": "AutoModelForAudioClassification",
    },
    Task.TAGGING: {"TOKEN_CLASSIFICATION": "AutoModelForTokenClassification"},
    Task.MASKED_LM: {"MASKED_LM": "AutoModelForMaskedLM"},
    Task.CAUSAL_LM: {"CAUSAL_LM": "AutoModelForCausalLM"},
}
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
    config = _read_config(source, where)
    _require_softmax(config, task, where)
    head = _head_of_weights(config, task, where)
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
    source, config = _config_to_train(options, folder, where)
    if config.is_encoder_decoder:
        raise ModelError(f"{where}: {_ENCODER_DECODER}")
    head = _head_of_kind(config, task, where)
    config = _changed(config, options.config, where, whole=source is not None)
    _set_classes(config, num_classes, task, padded=padded, pretrained=options.pretrained)
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


def num_outputs(config: Any, task: Task) -> int:
    """How many logits a position has."""
    if task.is_language_model:
        return int(config.get_text_config().vocab_size)
    return int(config.num_labels)


def class_names_of(config: Any, task: Task) -> tuple[str, ...] | None:
    """The names of the classes, where a configuration says more than their numbers."""
    if task.is_language_model:
        return None
    names = tuple(str(config.id2label.get(place)) for place in range(config.num_labels))
    numbered = all(name == f"LABEL_{place}" for place, name in enumerate(names))
    return None if numbered or len(set(names)) < len(names) else names


_ENCODER_DECODER = (
    "it is an encoder and a decoder; softlabel takes models with one softmax for each position of "
    "their input"
)


def _require_softmax(config: Any, task: Task, where: str) -> None:
    if config.is_encoder_decoder:
        raise ModelError(f"{where}: {_ENCODER_DECODER}")
    if task.is_language_model:
        return
    if config.problem_type == "multi_label_classification":
        raise ModelError(
            f"{where}: its classes do not exclude each other (multi_label_classification): it "
            "gives no softmax, and softlabel keeps only softmaxes"
        )
    if config.problem_type == "regression" or config.num_labels == 1:
        raise ModelError(
            f"{where}: it gives a number (regression) and no classes, of which softlabel needs two "
            "or more"
        )


def _require_pad_id(config: Any, source: Path, where: str) -> None:
    """A classifier that reads the last token finds the end of a text by its padding token."""
    if pad_id_of(config) is None:
        raise ModelError(
            f"{where}: it classifies a text by its last token, and {source / CONFIG} says no "
            "pad_token_id by which to find it; write there the one it was trained with"
        )


def _head_of_weights(config: Any, task: Task, where: str) -> str:
    """The loader for the architecture that the weights are of."""
    (architecture, *_) = config.architectures or ["unknown architecture"]
    for table, head in _HEADS[task].items():
        if architecture in _models(table, config.model_type, where):
            return head
    expected = " or ".join(head.removeprefix("Auto") for head in _HEADS[task].values())
    raise ModelError(f"{where}: it is a {architecture}; data.task: {task} takes a {expected}")


def _head_of_kind(config: Any, task: Task, where: str) -> str:
    """The loader for a kind of model that is to get a head."""
    for table in ("IMAGE_CLASSIFICATION", "AUDIO_CLASSIFICATION", *_HEADS[task]):
        if table in _HEADS[task] and _models(table, config.model_type, where):
            return _HEADS[task][table]
    raise ModelError(
        f"{where}: the library has no {config.model_type!r} model for data.task: {task}"
    )


def _models(table: str, model_type: str, where: str) -> tuple[str, ...]:
    auto = library("transformers.models.auto.modeling_auto", where)
    found = getattr(auto, f"MODEL_FOR_{table}_MAPPING_NAMES").get(model_type, ())
    return (found,) if isinstance(found, str) else tuple(found)


def _read_config(source: Path, where: str) -> Any:
    said = read_json(source / CONFIG, where)
    if "auto_map" in said:
        raise ModelError(
            f"{where}: the model brings code of its own (auto_map), which is not run; bring it as "
            "kind: torch"
        )
    transformers = library("transformers", where)
    try:
        with quiet():
            return transformers.AutoConfig.from_pretrained(source)
    except Exception as error:
        raise ModelError(f"{where}: {source / CONFIG}: {one_line(error)}") from error


def _config_to_train(
    options: HuggingFaceModelOptions, folder: Path, where: str
) -> tuple[Path | None, Any]:
    """The configuration to begin with, and the folder of its files where there is one."""
    if is_kind(options, folder):
        return None, _kind(options.model, where)
    if options.pretrained:
        source = weights_folder(options, folder, where)
        return source, _read_config(source, where)
    gguf_file, revision = options.gguf_file, options.revision
    source = local_folder(
        options.model, folder, where=where, revision=revision, gguf_file=gguf_file, weights=False
    )
    if gguf_file is None:
        return source, _read_config(source, where)
    transformers = library("transformers", where)
    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(source, gguf_file=gguf_file)
    except Exception as error:
        raise ModelError(f"{where}: {source / gguf_file}: {one_line(error)}") from error
    return source, config


def _kind(name: str, where: str) -> Any:
    """The library's own configuration of a kind of model."""
    transformers = library("transformers", where)
    try:
        with quiet():
            return transformers.AutoConfig.for_model(name)
    except Exception as error:
        raise ModelError(f"{where}.model: {name!r}: {one_line(error)}") from error


def _changed(config: Any, changes: dict[str, Any], where: str, *, whole: bool) -> Any:
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


def _set_classes(
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


def _from_pretrained(head: str, source: Path, where: str, *, attn: str, **said: Any) -> Any:
    transformers = library("transformers", where)
    if said.get("device_map"):
        library("accelerate", where)
    try:
        with quiet():
            return getattr(transformers, head).from_pretrained(
                source,
                use_safetensors=True,
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
