"""Small label sets of every layout, codec and way of keeping, with rows that a teacher could give.

The numbers are random, but each position is a real softmax: `logit` and `rest` are those of dense
logits that are given back, so that a test can say what the probabilities are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from storage import layout
from storage.files import Folder
from storage.options import Codec, Keep, Layout, Selection, Task
from storage.reader import LabelSet
from storage.records import Manifest, write_record
from storage.rows import Ragged
from storage.spec import InputSpec, LabelSetSpec
from storage.writer import write_shard
from tests.storage.toy import SET_FINGERPRINT, TOKENS, VECTOR, toy_plan, toy_spec

SELECTIONS = {
    Keep.TOP_K: Selection(keep=Keep.TOP_K, k=4),
    Keep.TOP_P: Selection(keep=Keep.TOP_P, k=5, p=0.8),
    Keep.SAMPLE: Selection(keep=Keep.SAMPLE, k=6, draws=6),
    Keep.ALL: Selection(keep=Keep.ALL, k=9),
}
EVALUATION = Selection(keep=Keep.TOP_K, k=3)
NUM_CLASSES = 9


@dataclass(frozen=True)
class Known:
    """A label set, and the dense logits of its positions by split, [N, C]."""

    labels: LabelSet
    logit_NC: dict[str, np.ndarray]


def spec_of_kind(
    keep: Keep = Keep.TOP_K,
    codec: Codec = Codec.FLOAT32,
    layout: Layout = Layout.PLAIN,
    task: Task = Task.CLASSIFICATION,
    num_classes: int = NUM_CLASSES,
    **changes: Any,
) -> LabelSetSpec:
    """The form of a set; training keeps as `keep` says, the test split its top 3."""
    selection = SELECTIONS[keep]
    if keep is Keep.ALL:
        selection = selection.model_copy(update={"k": num_classes})
    inputs: tuple[InputSpec, ...] = (TOKENS,) if task.has_many_positions else (VECTOR,)
    return toy_spec(
        task=task,
        num_classes=num_classes,
        teacher_classes=num_classes,
        inputs=inputs,
        selections={"train": selection, "test": EVALUATION},
        codec=codec,
        layout=layout,
        **changes,
    )


def write_known_set(
    store: Folder, spec: LabelSetSpec, sizes: Sequence[int] = (5, 4), seed: int = 0
) -> Known:
    """Two shards to train on, of `sizes` samples, and one of 3 samples to test."""
    folder = store / layout.product(layout.LABELS, SET_FINGERPRINT)
    write_record(folder, layout.SPEC, spec)
    rng = np.random.default_rng(seed)
    shards, dense = [], {}
    for split, parts in (("train", sizes), ("test", (3,))):
        found = []
        for ordinal, size in enumerate(parts):
            rows, logit_NC = known_rows(rng, spec, split, ordinal * 100, size)
            plan = toy_plan(split, ordinal, ordinal * 100, size)
            shards.append(write_shard(folder, plan, spec, rows, {"mass": 0.5}))
            found.append(logit_NC)
        dense[split] = np.concatenate(found)
    manifest = Manifest.of(SET_FINGERPRINT, spec, tuple(shards), {"train": {}, "test": {}})
    write_record(folder, f"{layout.MANIFESTS}/{manifest.digest}.json", manifest)
    write_record(folder, layout.MANIFEST, manifest)
    return Known(LabelSet.open(folder), dense)


def known_rows(
    rng: np.random.Generator, spec: LabelSetSpec, split: str, first: int, size: int
) -> tuple[dict[str, Any], np.ndarray]:
    """Rows as the label stage makes them, and their dense logits; one class in ten is masked."""
    many = spec.has_many_positions
    lengths = rng.integers(2, 6, size) if many else np.ones(size, np.int64)
    count = int(lengths.sum())
    dense = rng.normal(0, 2, (count, spec.num_classes)).astype(np.float32)
    dense[rng.random(dense.shape) < 0.1] = -np.inf
    dense[:, 0] = np.where(np.isneginf(dense[:, 0]), 0, dense[:, 0])
    labels = _kept(rng, spec, split, dense)
    ids = np.array([f"{split}-{first + place}" for place in range(size)], object)
    if not many:
        inputs = np.array([[place, -place] for place in range(size)], np.float32)
        labels["label"] = rng.integers(0, spec.num_classes, count)
        return {"sample_id": ids, "input.x": inputs, **labels}, dense
    tokens = rng.integers(0, spec.num_classes, count)
    last = np.cumsum(lengths) - 1
    mask = rng.random(count) < 0.8
    mask[last] = False
    following = np.roll(tokens, -1)
    labels |= {"label": np.where(mask, following, -100), "mask": mask}
    columns = {"input.tokens": tokens, **labels}
    ragged = {name: Ragged(values, lengths) for name, values in columns.items()}
    return {"sample_id": ids, **ragged}, dense


def _kept(
    rng: np.random.Generator, spec: LabelSetSpec, split: str, dense: np.ndarray
) -> dict[str, np.ndarray]:
    selection = spec.selections[split]
    count, k = len(dense), selection.k
    best = dense.max(axis=1, keepdims=True)
    order = np.argsort(-dense, axis=1, kind="stable")
    kept = np.full(count, k)
    columns: dict[str, np.ndarray] = {}
    if selection.keep is Keep.TOP_P:
        kept = rng.integers(1, k + 1, count)
        columns["kept"] = kept
    if selection.keep is Keep.SAMPLE:
        p = np.exp((dense - best).astype(np.float64))
        p /= p.sum(axis=1, keepdims=True)
        drawn = np.stack([rng.multinomial(k, row) for row in p])
        kept = (drawn > 0).sum(axis=1)
        scored = np.where(drawn > 0, dense, -np.inf)
        order = np.argsort(-scored, axis=1, kind="stable")
        columns |= {"kept": kept, "count": np.take_along_axis(drawn, order, axis=1)[:, :k]}
    index = order[:, :k].copy()
    there = np.arange(k) < kept[:, None]
    index[~there] = np.broadcast_to(index[:, :1], index.shape)[~there]
    logit = np.take_along_axis(dense - best, index, axis=1) / spec.temperature
    logit = np.where(there, logit, -np.inf)
    others = dense - best
    for row, entries in enumerate(index):
        others[row, entries] = -np.inf
    std = deviation_of(dense)
    at = [std[:, None] if at == "std" else at for at in spec.temperatures]
    with np.errstate(divide="ignore"):
        rest = [np.log(np.exp(others / each).sum(axis=1)) for each in at]
    if spec.has_std:
        columns["std"] = std
    return {
        **columns,
        "index": index,
        "logit": logit.astype(np.float32),
        "rest": np.stack(rest, axis=1).astype(np.float32),
        "label_logit": np.zeros(count, np.float32),
    }


def deviation_of(dense: np.ndarray) -> np.ndarray:
    """The temperature of each position at `std`, float32 [N]."""
    finite = np.where(np.isneginf(dense), np.nan, dense.astype(np.float64))
    std = np.nanstd(finite, axis=1)
    return np.where(std > 0, std, 1).astype(np.float32)
