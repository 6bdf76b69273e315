"""Any model that a recipe may describe: built with its first weights, stored, and loaded again.

The built-in ones and people's own are pure torch (`tasks.nn.models`); those of Hugging Face need
their library and, to be built again, the configuration that is stored beside the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from storage import layout
from storage.cards import Card, read_file
from storage.files import Folder
from storage.options import Task
from storage.spec import InputSpec
from tasks.huggingface_folder import folder_files, saved_of
from tasks.huggingface_models import build_again, build_module
from tasks.huggingface_module import HuggingFaceModule
from tasks.huggingface_options import HuggingFaceModelOptions
from tasks.model_options import ModelOptions
from tasks.nn.models import build_model, require_classes
from tasks.weights import load_weights, weights_bytes


@dataclass(frozen=True)
class ModelForm:
    """What the data and labels decide about a model.

    Attributes:
        inputs: what it gets.
        num_classes: C.
        task: what is predicted.
        padded: whether it may have outputs beyond C.
    """

    inputs: Sequence[InputSpec]
    num_classes: int
    task: Task = Task.CLASSIFICATION
    padded: bool = False


def build(options: ModelOptions, form: ModelForm, folder: Path, where: str) -> nn.Module:
    """A model with its first weights, which come from torch's generator or are pretrained.

    Args:
        options: the recipe's words.
        form: what the data decide.
        folder: the recipe's.
        where: the field of the recipe, for messages.

    Raises:
        ModelError: it cannot be built so, or gives another number of classes.
    """
    inputs, classes = form.inputs, form.num_classes
    if not isinstance(options, HuggingFaceModelOptions):
        return build_model(options, inputs, classes, where, task=form.task, padded=form.padded)
    model = build_module(options, folder, inputs, classes, form.task, where, padded=form.padded)
    require_classes(model, inputs, classes, where, padded=form.padded)
    return model


def model_files(model: nn.Module, class_names: Sequence[str] | None = None) -> dict[str, bytes]:
    """The files of a product from which `load_model` makes its model again.

    Those of a Hugging Face model are such that its own `from_pretrained` loads them too.
    """
    files = {layout.WEIGHTS: weights_bytes(model)}
    if isinstance(model, HuggingFaceModule):
        files |= folder_files(model, class_names)
    return files


def load_model(
    store: Folder, card: Card, options: ModelOptions, form: ModelForm, where: str
) -> nn.Module:
    """The model of a product, on the CPU and in evaluation mode.

    Raises:
        IntegrityError: its files are damaged.
        ModelError: it cannot be built any more.
    """
    if isinstance(options, HuggingFaceModelOptions):
        parts = (layout.MODEL_CONFIG, layout.MODEL_FORM)
        saved = saved_of(*(read_file(store, card, name) for name in parts))
        model: nn.Module = build_again(saved, form.inputs, form.task, where)
    else:
        model = build(options, form, Path(), where)
    load_weights(model, read_file(store, card, layout.WEIGHTS), card.fingerprint)
    return model.eval()
