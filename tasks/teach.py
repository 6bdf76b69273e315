"""Importing a teacher by its weights' digest, joining several, and loading them again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from storage import layout
from storage.cards import Card, publish
from storage.errors import IntegrityError, MissingProductError
from storage.files import Folder
from storage.identity import digest_of_bytes
from storage.options import Task
from storage.sources import read_source
from storage.spec import InputSpec
from tasks.ensemble import EnsembleTeacher, ensemble_details
from tasks.huggingface_identity import teacher_digest
from tasks.huggingface_options import HuggingFaceTeacherOptions
from tasks.huggingface_teacher import HuggingFaceTeacher
from tasks.intents import Intent, teacher_source
from tasks.models import ModelForm, load_model
from tasks.nn.models import load_module, num_parameters
from tasks.onnx_files import read_onnx
from tasks.onnx_options import OnnxTeacherOptions
from tasks.onnx_teacher import OnnxTeacher
from tasks.options import TEACHER
from tasks.teacher_facts import MEMBERS, member_cards
from tasks.teacher_options import (
    EnsembleTeacherOptions,
    FitTeacherOptions,
    ImportedTeacherOptions,
    TeacherOptions,
    TorchTeacherOptions,
    member_place,
)
from tasks.teachers import Teacher, TorchTeacher
from tasks.weights import load_weights

_CPU = torch.device("cpu")


def import_teacher(
    store: Folder,
    options: ImportedTeacherOptions,
    folder: Path,
    inputs: tuple[InputSpec, ...],
    intent: Intent,
    where: str = TEACHER,
) -> Card:
    """Try a teacher that people bring, and keep its card: its digest and its source, no copy.

    Raises:
        ModelError: it does not load, or does not run on the data's inputs.
    """
    if isinstance(options, HuggingFaceTeacherOptions):
        details = _pretrained_details(options, folder, inputs, intent, where)
        return _imported(store, intent, details)
    url = teacher_source(options, folder)
    if isinstance(options, OnnxTeacherOptions):
        files = read_onnx(store, url, where)
        graph = OnnxTeacher(files.content, inputs, _CPU, options.on_cpu(), where=where)
        details = _details(url, files.digest, graph.num_classes, None, files.size_bytes)
        details["logits"] = graph.origin
    else:
        content = read_source(url)
        teacher, parameters = _torch_teacher(options, content, inputs, _CPU, url, where)
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
    where: str = TEACHER,
) -> Teacher:
    """The teacher that a card names, ready to run.

    Raises:
        IntegrityError: its weights are no longer those of the card.
        MissingProductError: it is several, and one of them is not there.
        ModelError: it does not load.
    """
    if isinstance(options, EnsembleTeacherOptions):
        return _load_members(store, card, options, folder, inputs, device)
    if isinstance(options, FitTeacherOptions):
        form = ModelForm(inputs, card.details["num_classes"], Task(card.intent["data"]["task"]))
        model = load_model(store, card, options.model, form, f"{where}.model")
        return TorchTeacher(model, inputs, device, where)
    if isinstance(options, HuggingFaceTeacherOptions):
        digest = teacher_digest(store, options, folder, where)
        _require_unchanged(card, digest, options.source)
        task = Task(card.intent["task"])
        return HuggingFaceTeacher(options, folder, inputs, task, device, where)
    url = teacher_source(options, folder)
    if isinstance(options, OnnxTeacherOptions):
        files = read_onnx(store, url, where)
        _require_unchanged(card, files.digest, url)
        return OnnxTeacher(
            files.content, inputs, device, options, folder=folder, where=where, proven=True
        )
    content = read_source(url)
    _require_unchanged(card, digest_of_bytes(content), url)
    return _torch_teacher(options, content, inputs, device, url, where)[0]


def join_teachers(
    store: Folder, options: EnsembleTeacherOptions, members: Sequence[Card], intent: Intent
) -> Card:
    """Keep the card of several teachers that are there, each with a card of its own.

    Raises:
        ModelError: they give different numbers of classes.
    """
    known = [{**member.details, "fingerprint": member.fingerprint} for member in members]
    return _imported(store, intent, ensemble_details(options, known))


def _load_members(
    store: Folder,
    card: Card,
    options: EnsembleTeacherOptions,
    folder: Path,
    inputs: tuple[InputSpec, ...],
    device: torch.device,
) -> Teacher:
    members = []
    for place, member in enumerate(member_cards(store, card)):
        if member is None:
            fingerprint = card.details[MEMBERS][place]["fingerprint"]
            raise MissingProductError(
                f"{member_place(place)}: there is no teacher {fingerprint} in "
                f"{store.url} with the weights that were mixed; run the teacher stage again"
            )
        said = options.members[place].teacher
        where = member_place(place)
        members.append(load_teacher(store, member, said, folder, inputs, device, where))
    return EnsembleTeacher(members, options.shares, options.mix)


def _imported(store: Folder, intent: Intent, details: dict[str, Any]) -> Card:
    return publish(
        store,
        layout.TEACHERS,
        intent.fingerprint,
        name=TEACHER,
        intent=intent.content,
        details=details,
        files={},
    )


def _pretrained_details(
    options: HuggingFaceTeacherOptions,
    folder: Path,
    inputs: tuple[InputSpec, ...],
    intent: Intent,
    where: str,
) -> dict[str, Any]:
    task, digest = Task(intent.content["task"]), str(intent.content["weights"])
    teacher = HuggingFaceTeacher(options, folder, inputs, task, _CPU, where)
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
    where: str,
) -> tuple[Teacher, int]:
    model = load_module(options.target, options.arguments, where)
    load_weights(model, content, url)
    return TorchTeacher(model, inputs, device, where), num_parameters(model)
