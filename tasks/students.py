"""Making a student from stored labels, and loading it again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from storage import layout
from storage.cards import Card, publish
from storage.errors import RecipeError
from storage.files import Folder
from storage.options import TRAIN, VALIDATION
from storage.reader import LabelSet
from storage.spec import LabelSetSpec
from tasks.checkpoints import clear_checkpoints
from tasks.fit import FitJob, fit
from tasks.history import history_bytes
from tasks.intents import Intent
from tasks.learners import Inside
from tasks.lineage import LINEAGE, NOBODY, Origin, student_lineage
from tasks.live_teacher import TeacherSource
from tasks.loss_needs import misfit
from tasks.mixed import Mixed, training_source
from tasks.models import ModelForm, load_model
from tasks.nn.models import num_parameters
from tasks.nn.ranks import Ranks
from tasks.options import StudentOptions, stored_misfit
from tasks.sources import LabelSource
from tasks.student_files import files_of_student, int8_variant


def train_student(
    store: Folder,
    name: str,
    options: StudentOptions,
    labels: LabelSet,
    intent: Intent,
    device: torch.device,
    recipe_folder: Path = Path(),
    origin: Origin = NOBODY,
    teacher: TeacherSource | None = None,
    mixed: Sequence[Mixed] = (),
    ranks: Ranks | None = None,
) -> Card | None:
    """Train a student from the shards, and keep its weights, ONNX file, history and card.

    A Hugging Face student's folder is one that `from_pretrained` loads.

    Args:
        store: that holds it all.
        name: what the recipe calls it.
        options: what the recipe says of it.
        labels: what it learns from.
        intent: what is asked for.
        device: where it is trained.
        recipe_folder: what the paths of the recipe are relative to.
        origin: where the labels come from, for its card.
        teacher: its teacher, where `options.needs_teacher`.
        mixed: further label sets that it learns from.
        ranks: the processes that train it together, all of which call this; by default this one.

    Returns:
        Its card; None on all ranks but the first, which alone keeps anything.

    Raises:
        RecipeError: it needs what the label set does not hold.
        ModelError: the model does not fit the label set.
        NotFiniteError: its loss is NaN or infinite.
    """
    where = f"students.{name}"
    require_features(options, labels.spec, where)
    source = training_source(labels, mixed, f"{where}.mix", options.stored_features)
    require_labels(options, source.spec, where)
    folder = store / layout.product(layout.STUDENTS, intent.fingerprint)
    validation = LabelSource(labels, VALIDATION) if VALIDATION in labels.splits else None
    job = FitJob(
        title=f"student {name}",
        where=where,
        model=options.model,
        loss=options.loss,
        training=options.training,
        inputs=labels.spec.inputs,
        num_classes=labels.spec.num_classes,
        task=labels.spec.task,
        padded=labels.spec.padded,
        recipe_folder=recipe_folder,
        inside=Inside(
            match=options.match,
            live=options.teacher == "live",
            initialise=options.initialise,
            teacher=teacher,
        ),
    )
    fitted = fit(job, source, validation, folder, device, ranks)
    if ranks is not None and ranks.rank > 0:
        return None
    files = files_of_student(fitted.model, labels, origin.tokenizer, f"{where}.model")
    made: dict[str, Any] = {}
    if options.export.int8:
        content, figures = int8_variant(files[layout.ONNX_MODEL], labels, f"{where}.export.int8")
        files[layout.INT8_MODEL], made["int8"] = content, figures
    card = publish(
        store,
        layout.STUDENTS,
        intent.fingerprint,
        name=name,
        intent=intent.content,
        details={
            "label_set": labels.folder.url,
            "label_set_digest": labels.digest,
            "num_classes": labels.spec.num_classes,
            "parameters": num_parameters(fitted.model),
            "size_bytes": len(files[layout.WEIGHTS]),
            "onnx_bytes": len(files[layout.ONNX_MODEL]),
            "seconds": round(fitted.seconds, 3),
            **fitted.details,
            **made,
            LINEAGE: student_lineage(origin, options.training.seed, labels)
            | ({"mixed": [one.described() for one in mixed]} if mixed else {}),
        },
        files={**files, layout.HISTORY: history_bytes(fitted.history)},
    )
    clear_checkpoints(folder)
    return card


def load_student(
    store: Folder, card: Card, options: StudentOptions, spec: LabelSetSpec
) -> nn.Module:
    """The student that a card names, in evaluation mode on the CPU.

    Raises:
        IntegrityError: its weights are damaged.
    """
    form = ModelForm(spec.inputs, spec.num_classes, spec.task, spec.padded)
    return load_model(store, card, options.model, form, f"students.{card.name}.model")


def require_labels(options: StudentOptions, spec: LabelSetSpec, where: str) -> None:
    """Refuse a loss that the label set cannot serve.

    Raises:
        RecipeError: another temperature or kept set, or hard labels that are not there.
    """
    for field, loss in options.losses.items():
        fault = misfit(
            loss,
            spec.selections[TRAIN].keep,
            spec.temperatures,
            padded=spec.padded,
            has_label=spec.has_label,
        )
        if fault is not None:
            raise RecipeError(f"{where}.{field}.{fault}")


def require_features(options: StudentOptions, spec: LabelSetSpec, where: str) -> None:
    """Refuse to compare a student with what the label set does not hold.

    Raises:
        RecipeError: it lacks a feature, or holds it pooled in another way.
    """
    lacking = stored_misfit(options, spec.features)
    if lacking is not None:
        raise RecipeError(f"{where}.{lacking}")
