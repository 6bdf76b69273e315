"""Fitting a teacher here, on the hard labels of the training split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from storage import layout
from storage.cards import Card, publish
from storage.corpus import Corpus
from storage.files import Folder
from storage.identity import digest_of_bytes
from storage.options import TRAIN, VALIDATION
from tasks.checkpoints import clear_checkpoints
from tasks.fit import FitJob, fit
from tasks.history import history_bytes
from tasks.intents import Intent
from tasks.lineage import LINEAGE, NOBODY, Origin, lineage
from tasks.loss_options import LossOptions
from tasks.nn.models import num_parameters
from tasks.nn.ranks import Ranks
from tasks.options import TEACHER
from tasks.sources import CorpusSource
from tasks.student_files import files_of_model
from tasks.teacher_options import FitTeacherOptions
from tasks.validation import hard_figures


def fit_teacher(
    store: Folder,
    options: FitTeacherOptions,
    corpus: Corpus,
    num_classes: int,
    intent: Intent,
    device: torch.device,
    recipe_folder: Path = Path(),
    where: str = TEACHER,
    origin: Origin = NOBODY,
    class_names: Sequence[str] | None = None,
    ranks: Ranks | None = None,
) -> Card | None:
    """Fit a teacher on the hard labels of the training split, and keep it.

    Its card says how well it does on the validation split, where there is one. Of several `ranks`
    all call this; the first keeps it and returns the card, the others return None.

    Raises:
        NotFiniteError: its loss is NaN or infinite.
        ModelError: the model does not fit the data.
    """
    folder = store / layout.product(layout.TEACHERS, intent.fingerprint)
    validation = CorpusSource(corpus, VALIDATION) if VALIDATION in corpus.samples else None
    job = FitJob(
        title=where,
        where=where,
        model=options.model,
        loss=LossOptions(soft_weight=0.0, label_smoothing=options.label_smoothing),
        training=options.training,
        inputs=corpus.form.inputs,
        num_classes=num_classes,
        task=corpus.form.task,
        recipe_folder=recipe_folder,
    )
    fitted = fit(job, CorpusSource(corpus, TRAIN), validation, folder, device, ranks)
    if ranks is not None and ranks.rank > 0:
        return None
    files = files_of_model(fitted.model, class_names, origin.tokenizer, f"{where}.model")
    weights = files[layout.WEIGHTS]
    figures: dict[str, Any] = {}
    if validation is not None:
        batch_size = options.training.batch_size
        found = hard_figures(fitted.model, validation, batch_size, device)
        figures = {"validation": found} if found["positions"] else {}
    card = publish(
        store,
        layout.TEACHERS,
        intent.fingerprint,
        name=TEACHER,
        intent=intent.content,
        details={
            "source": "fitted here",
            "weights_digest": digest_of_bytes(weights),
            "num_classes": num_classes,
            "parameters": num_parameters(fitted.model),
            "size_bytes": len(weights),
            "seconds": round(fitted.seconds, 3),
            **fitted.details,
            **figures,
            LINEAGE: lineage(origin, options.training.seed),
        },
        files={**files, layout.HISTORY: history_bytes(fitted.history)},
    )
    clear_checkpoints(folder)
    return card
