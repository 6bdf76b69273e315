"""What comes out of training a student: its files, and the int8 variant that may be asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from storage import layout
from storage.cards import Card, extend, read_file
from storage.files import Folder
from storage.options import TRAIN, VALIDATION
from storage.reader import LabelSet
from tasks.export import onnx_bytes
from tasks.huggingface_folder import tokenizer_files
from tasks.huggingface_module import HuggingFaceModule
from tasks.inputs.tokenizers import HuggingFaceTokenizer, TextTokenizer
from tasks.models import model_files
from tasks.quantize import agreement, int8_bytes
from tasks.sources import LabelSource
from tasks.stream import Stream

_BATCH_SIZE = 16


def files_of_model(
    model: nn.Module,
    class_names: Sequence[str] | None,
    tokenizer: TextTokenizer | None,
    where: str,
) -> dict[str, bytes]:
    """The weights; of a Hugging Face model all of its folder, with the tokenizer of the data."""
    files = model_files(model, class_names)
    if isinstance(model, HuggingFaceModule) and isinstance(tokenizer, HuggingFaceTokenizer):
        files = tokenizer_files(tokenizer.loaded, where) | files
    return files


def files_of_student(
    model: nn.Module, labels: LabelSet, tokenizer: TextTokenizer | None, where: str
) -> dict[str, bytes]:
    """The same and the ONNX file.

    Raises:
        ModelError: it cannot be exported.
    """
    files = files_of_model(model, labels.spec.class_names, tokenizer, where)
    return files | {layout.ONNX_MODEL: onnx_bytes(model, labels.spec.inputs, where)}


def export_student(store: Folder, card: Card, labels: LabelSet, where: str) -> Card:
    """Add the int8 variant to a student that is there.

    Raises:
        ModelError: it cannot be quantized.
        IntegrityError: its ONNX file is damaged.
    """
    content, figures = int8_variant(read_file(store, card, layout.ONNX_MODEL), labels, where)
    return extend(store, card, {layout.INT8_MODEL: content}, {"int8": figures})


def int8_variant(onnx: bytes, labels: LabelSet, where: str) -> tuple[bytes, dict[str, Any]]:
    """An int8 variant of an ONNX file, its size, and how well both agree on stored samples.

    They are taken from the validation split, else from any other than that which it learnt from.
    """
    content = int8_bytes(onnx, where)
    splits = (VALIDATION, *(name for name in labels.splits if name != TRAIN), TRAIN)
    split = next(name for name in splits if name in labels.splits)
    batches = Stream(LabelSource(labels, split), _BATCH_SIZE, shuffle=False)
    found = agreement(onnx, content, batches, split)
    return content, {"size_bytes": len(content), **found.as_json()}
