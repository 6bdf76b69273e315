"""Scoring: per-position results of students and of the teacher, from the stored labels alone.

The teacher is not run: its predictions, confidence and likelihood are in the label set, exactly.
Results are kept as one Parquet file for each model and split, so that an evaluation that was
stopped goes on, and others can test on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from storage import layout
from storage.cards import Card, find_card, publish, read_file
from storage.errors import IntegrityError, NotFiniteError
from storage.files import Folder
from storage.reader import LabelSet
from tasks import intents
from tasks.nn.batch import Batch, by_position
from tasks.nn.divergences import kl_terms
from tasks.nn.kept_log_probs import kept_log_probs
from tasks.nn.metrics import Results
from tasks.nn.softlabels import entry_log_probs, label_nll
from tasks.progress import track
from tasks.sources import LabelSource
from tasks.stream import Stream

_AT = 1.0
_COLUMNS = ("sample", "prediction", "confidence", "label", "nll", "agreement", "kl")


def find_predictions(store: Folder, model: str, digest: str) -> Card | None:
    """The stored results of a model on a label set, or None."""
    return find_card(store, layout.PREDICTIONS, intents.predictions(model, digest).fingerprint)


def score(
    store: Folder,
    labels: LabelSet,
    name: str,
    model_id: str,
    model: nn.Module | None,
    splits: Sequence[str],
    batch_size: int,
    device: torch.device,
) -> Card:
    """Score one model on some splits and keep its results; with what is kept, nothing is done.

    Args:
        store: where results are kept.
        labels: the label set.
        name: what the recipe calls the model.
        model_id: a student's fingerprint, or `teacher`.
        model: the student; None scores the teacher from its labels.
        splits: splits of the label set.
        batch_size: samples of a batch.
        device: where the student runs.
    """
    intent = intents.predictions(model_id, labels.digest)
    card = find_predictions(store, model_id, labels.digest)
    files = {} if card is None else {file: read_file(store, card, file) for file in card.files}
    missing = [split for split in splits if layout.prediction_file(split) not in files]
    if card is not None and not missing:
        return card
    for split in missing:
        results = run(labels, split, model, batch_size, device, f"score {name}")
        files[layout.prediction_file(split)] = _results_bytes(results, labels, split)
    return publish(
        store,
        layout.PREDICTIONS,
        intent.fingerprint,
        name=name,
        intent=intent.content,
        details={"label_set": labels.manifest.fingerprint},
        files=files,
    )


def run(
    labels: LabelSet,
    split: str,
    model: nn.Module | None,
    batch_size: int,
    device: torch.device,
    title: str,
) -> Results:
    """The results of a student, or of the teacher where `model` is None, on one split."""
    source = LabelSource(labels, split)
    if model is not None:
        model = model.to(device).eval()
    parts: list[dict[str, np.ndarray[Any, Any]]] = []
    done = 0
    with track(f"{title} on {split}", sum(source.group_sizes), "rows") as progress:
        for batch in Stream(source, batch_size, shuffle=False):
            values = (
                teacher_results(batch)
                if model is None
                else student_results(model, batch.to(device))
            )
            parts.append(_counted(values, batch, done))
            done += batch.num_samples
            progress.advance(batch.num_samples)
    joined = {name: np.concatenate([part[name] for part in parts]) for name in _COLUMNS}
    return Results(**joined)


@torch.inference_mode()
def student_results(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Per-position results of a student; each [P].

    Raises:
        NotFiniteError: a logit is NaN or infinite.
    """
    logit_PC = by_position(model(*batch.inputs)).float()
    if not torch.isfinite(logit_PC.amax(dim=1)[batch.mask_P]).all():
        ids = ", ".join(map(str, batch.sample_ids[:3]))
        raise NotFiniteError(f"the student's logits are NaN or infinite among samples {ids}, ...")
    log_p_PC = torch.log_softmax(logit_PC, dim=1)
    best_P = log_p_PC.argmax(dim=1)
    teacher_PK, teacher_rest_P = _teacher_entries(batch)
    student_PK, student_rest_P = kept_log_probs(logit_PC, batch.index_PK, batch.present_PK, _AT)
    kl_P = kl_terms(teacher_PK, student_PK).sum(dim=1)
    kl_P = kl_P + kl_terms(teacher_rest_P, student_rest_P)
    safe_label_P = batch.label_P.clamp(min=0)
    nll_P = -log_p_PC.gather(1, safe_label_P[:, None])[:, 0]
    return {
        "prediction": best_P,
        "confidence": log_p_PC.amax(dim=1).exp(),
        "nll": torch.where(batch.label_P >= 0, nll_P, torch.nan),
        "agreement": best_P == batch.teacher_best_P,
        "kl": kl_P.clamp(min=0.0),
    }


@torch.inference_mode()
def teacher_results(batch: Batch) -> dict[str, Tensor]:
    """Per-position results of the teacher, from what is stored; each [P]."""
    teacher_PK, _ = _teacher_entries(batch)
    count = len(batch.label_P)
    nll_P = torch.full((count,), torch.nan)
    if batch.label_logit_P is not None and batch.rest_PT is not None:
        exact_P = label_nll(batch, batch.temperatures, _AT)
        nll_P = torch.where(batch.label_P >= 0, exact_P, torch.nan)
    return {
        "prediction": batch.teacher_best_P,
        "confidence": teacher_PK.amax(dim=1).exp(),
        "nll": nll_P,
        "agreement": torch.ones(count, dtype=torch.bool),
        "kl": torch.zeros(count),
    }


def read_results(store: Folder, card: Card, split: str) -> Results:
    """The stored results of a model on one split."""
    content = read_file(store, card, layout.prediction_file(split))
    table = pq.read_table(pa.BufferReader(content))
    missing = [name for name in _COLUMNS if name not in table.column_names]
    if missing:
        raise IntegrityError(f"the predictions of {card.name} on {split} lack {missing[0]!r}")
    return Results(**{name: table.column(name).to_numpy() for name in _COLUMNS})


def _teacher_entries(batch: Batch) -> tuple[Tensor, Tensor]:
    assert batch.rest_PT is not None
    rest_P = batch.rest_PT[:, batch.temperatures.index(_AT)]
    return entry_log_probs(batch.logit_PK, rest_P, batch.temperature, _AT)


def _counted(
    values: dict[str, Tensor], batch: Batch, first: int
) -> dict[str, np.ndarray[Any, Any]]:
    """The positions that count, as numpy columns."""
    per_sample = len(batch.mask_P) // max(batch.num_samples, 1)
    sample_P = torch.arange(len(batch.mask_P)) // max(per_sample, 1) + first
    columns = {**values, "label": batch.label_P, "sample": sample_P}
    mask_P = batch.mask_P.cpu()
    found = {}
    for name, column in columns.items():
        array = column.cpu()[mask_P].numpy()
        found[name] = array.astype(np.float64) if array.dtype == np.float32 else array
    return found


def _results_bytes(results: Results, labels: LabelSet, split: str) -> bytes:
    """Results as Parquet, with the ids of the samples beside their numbers."""
    ids = np.concatenate(list(_sample_ids(labels, split)))
    columns = {"sample_id": ids[results.sample]}
    columns |= {name: getattr(results, name) for name in _COLUMNS}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, compression="zstd", write_page_checksum=True)
    return bytes(sink.getvalue())


def _sample_ids(labels: LabelSet, split: str) -> Iterator[np.ndarray[Any, Any]]:
    for rows in labels.batches(split, ["sample_id"]):
        yield np.asarray(rows["sample_id"])
