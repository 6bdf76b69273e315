"""Making a teacher: fit it here, or import it by its weights' digest; and loading it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from storage import layout
from storage.cards import Card, publish
from storage.corpus import Corpus
from storage.errors import IntegrityError
from storage.files import Folder
from storage.identity import digest_of_bytes
from storage.options import TRAIN, VALIDATION, Task
from storage.sources import read_source
from storage.spec import InputSpec
from tasks.checkpoints import clear_checkpoints
from tasks.fit import FitJob, fit, history_bytes
from tasks.huggingface_identity import teacher_digest
from tasks.huggingface_options import HuggingFaceTeacherOptions
from tasks.huggingface_teacher import HuggingFaceTeacher
from tasks.intents import Intent, teacher_source
from tasks.models import ModelForm, load_model, model_files
from tasks.nn.models import load_module, num_parameters
from tasks.onnx_files import read_onnx
from tasks.onnx_options import OnnxTeacherOptions
from tasks.onnx_teacher import OnnxTeacher
from tasks.options import LossOptions
from tasks.stream import CorpusSource
from tasks.teacher_options import (
    FitTeacherOptions,
    ImportedTeacherOptions,
    TeacherOptions,
    TorchTeacherOptions,
)
from tasks.teachers import Teacher, TorchTeacher
from tasks.weights import load_weights

WHERE = "teacher"
_CPU = torch.device("cpu")


def fit_teacher(
    store: Folder,
    options: FitTeacherOptions,
    corpus: Corpus,
    num_classes: int,
    intent: Intent,
    device: torch.device,
    recipe_folder: Path = Path(),
) -> Card:
    """Fit a teacher on the hard labels of the training split, and keep it.

    Raises:
        NotFiniteError: its loss is NaN or infinite.
        ModelError: the model does not fit the data.
    """
    folder = store / layout.product(layout.TEACHERS, intent.fingerprint)
    validation = CorpusSource(corpus, VALIDATION) if VALIDATION in corpus.samples else None
    job = FitJob(
        title="teacher",
        where=WHERE,
        model=options.model,
        loss=LossOptions(soft_weight=0.0, label_smoothing=options.label_smoothing),
        training=options.training,
        inputs=corpus.form.inputs,
        num_classes=num_classes,
        task=corpus.form.task,
        recipe_folder=recipe_folder,
    )
    fitted = fit(job, CorpusSource(corpus, TRAIN), validation, folder, device)
    files = model_files(fitted.model)
    weights = files[layout.WEIGHTS]
    card = publish(
        store,
        layout.TEACHERS,
        intent.fingerprint,
        name=WHERE,
        intent=intent.content,
        details={
            "source": "fitted here",
            "weights_digest": digest_of_bytes(weights),
            "num_classes": num_classes,
            "parameters": num_parameters(fitted.model),
            "size_bytes": len(weights),
            "steps": fitted.steps,
        },
        files={**files, layout.HISTORY: history_bytes(fitted.history)},
    )
    clear_checkpoints(folder)
    return card


def import_teacher(
    store: Folder,
    options: ImportedTeacherOptions,
    folder: Path,
    inputs: tuple[InputSpec, ...],
    intent: Intent,
) -> Card:
    """Try a teacher that people bring, and keep its card: its digest and its source, no copy.

    Raises:
        ModelError: it does not load, or does not run on the data's inputs.
    """
    if isinstance(options, HuggingFaceTeacherOptions):
        details = _pretrained_details(options, folder, inputs, intent)
        return _imported(store, intent, details)
    url = teacher_source(options, folder)
    if isinstance(options, OnnxTeacherOptions):
        files = read_onnx(store, url, WHERE)
        graph = OnnxTeacher(files.content, inputs, _CPU, options.on_cpu(), where=WHERE)
        details = _details(url, files.digest, graph.num_classes, None, files.size_bytes)
        details["logits"] = graph.origin
    else:
        content = read_source(url)
        teacher, parameters = _torch_teacher(options, content, inputs, _CPU, url)
        digest = digest_of_bytes(content)
        details = _details(url, digest, teacher.num_classes, parameters, len(content))
    return _imported(store, intent, details)


def load_teacher(
    store: Folder,
    card: Card,
    options: TeacherOptions,
    folder: Path,
    inputs: tuple[InputSpec, ...],
    device: torch.device,
) -> Teacher:
    """The teacher that a card names, ready to run.

    Raises:
        IntegrityError: its weights are no longer those of the card.
        ModelError: it does not load.
    """
    if isinstance(options, FitTeacherOptions):
        form = ModelForm(inputs, card.details["num_classes"], Task(card.intent["data"]["task"]))
        model = load_model(store, card, options.model, form, f"{WHERE}.model")
        return TorchTeacher(model, inputs, device, WHERE)
    if isinstance(options, HuggingFaceTeacherOptions):
        digest = teacher_digest(store, options, folder, WHERE)
        _require_unchanged(card, digest, options.source)
        task = Task(card.intent["task"])
        return HuggingFaceTeacher(options, folder, inputs, task, device, WHERE)
    url = teacher_source(options, folder)
    if isinstance(options, OnnxTeacherOptions):
        files = read_onnx(store, url, WHERE)
        _require_unchanged(card, files.digest, url)
        return OnnxTeacher(
            files.content, inputs, device, options, folder=folder, where=WHERE, proven=True
        )
    content = read_source(url)
    _require_unchanged(card, digest_of_bytes(content), url)
    return _torch_teacher(options, content, inputs, device, url)[0]


def _imported(store: Folder, intent: Intent, details: dict[str, Any]) -> Card:
    return publish(
        store,
        layout.TEACHERS,
        intent.fingerprint,
        name=WHERE,
        intent=intent.content,
        details=details,
        files={},
    )


def _pretrained_details(
    options: HuggingFaceTeacherOptions,
    folder: Path,
    inputs: tuple[InputSpec, ...],
    intent: Intent,
) -> dict[str, Any]:
    task, digest = Task(intent.content["task"]), str(intent.content["weights"])
    teacher = HuggingFaceTeacher(options, folder, inputs, task, _CPU, WHERE)
    classes, size_bytes = teacher.num_classes, teacher.size_bytes
    details = _details(options.source, digest, classes, teacher.parameters, size_bytes)
    return details | teacher.facts


def _details(
    url: str, digest: str, num_classes: int, parameters: int | None, size_bytes: int
) -> dict[str, Any]:
    return {
        "source": url,
        "weights_digest": digest,
        "num_classes": num_classes,
        "parameters": parameters,
        "size_bytes": size_bytes,
    }


def _require_unchanged(card: Card, digest: str, url: str) -> None:
    if digest != card.details["weights_digest"]:
        raise IntegrityError(
            f"the teacher at {url} changed since its card was written; run the teacher stage again"
        )


def _torch_teacher(
    options: TorchTeacherOptions,
    content: bytes,
    inputs: tuple[InputSpec, ...],
    device: torch.device,
    url: str,
) -> tuple[Teacher, int]:
    model = load_module(options.target, options.arguments, WHERE)
    load_weights(model, content, url)
    return TorchTeacher(model, inputs, device, WHERE), num_parameters(model)
