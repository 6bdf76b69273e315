"""Which head of a Hugging Face model a task wants, and which models give no softmax."""

from __future__ import annotations

from typing import Any, Final

from storage.errors import ModelError
from storage.options import Task
from tasks.huggingface_library import library

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


def head_of_weights(config: Any, task: Task, where: str) -> str:
    """The loader for the architecture that the weights are of.

    Raises:
        ModelError: that architecture is for another task.
    """
    (architecture, *_) = config.architectures or ["unknown architecture"]
    for table, head in _HEADS[task].items():
        if architecture in _models(table, config.model_type, where):
            return head
    expected = " or ".join(head.removeprefix("Auto") for head in _HEADS[task].values())
    raise ModelError(f"{where}: it is a {architecture}; data.task: {task} takes a {expected}")


def head_of_kind(config: Any, task: Task, where: str) -> str:
    """The loader for a kind of model that is to get a head.

    Raises:
        ModelError: the library has no such model for the task.
    """
    for table in ("IMAGE_CLASSIFICATION", "AUDIO_CLASSIFICATION", *_HEADS[task]):
        if table in _HEADS[task] and _models(table, config.model_type, where):
            return _HEADS[task][table]
    raise ModelError(
        f"{where}: the library has no {config.model_type!r} model for data.task: {task}"
    )


def require_softmax(config: Any, task: Task, where: str) -> None:
    """Refuse a model that gives no softmax over two or more classes.

    Raises:
        ModelError: it is for several labels at once, for a number, or has a decoder.
    """
    require_decoderless(config, where)
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


def require_decoderless(config: Any, where: str) -> None:
    """Refuse a model whose output has other positions than its input.

    Raises:
        ModelError: it is an encoder with a decoder.
    """
    if config.is_encoder_decoder:
        raise ModelError(
            f"{where}: it is an encoder and a decoder; softlabel takes models with one softmax for "
            "each position of their input"
        )


def _models(table: str, model_type: str, where: str) -> tuple[str, ...]:
    auto = library("transformers.models.auto.modeling_auto", where)
    found = getattr(auto, f"MODEL_FOR_{table}_MAPPING_NAMES").get(model_type, ())
    return (found,) if isinstance(found, str) else tuple(found)
