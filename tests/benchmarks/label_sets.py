"""Label sets of real logits, as the benchmarks of the format write and read them."""

from __future__ import annotations

from typing import Any

import numpy as np

from storage import layout
from storage.files import Folder
from storage.identity import fingerprint
from storage.options import Codec, Keep, Layout, Selection, Task
from storage.reader import LabelSet
from storage.records import Manifest, ShardRecord, write_record
from storage.rows import Ragged, Rows
from storage.spec import InputSpec, LabelSetSpec
from storage.writer import ShardPlan, write_shard
from tests.benchmarks.smollm2 import (
    NUM_CLASSES,
    POSITIONS_PER_BLOCK,
    TEMPERATURES,
    Captured,
    captured,
)

NAME = fingerprint("benchmark")
POSITIONS_PER_ROW_GROUP = 4096


def spec_of(k: int, codec: Codec, form: Layout, temperatures: Any = TEMPERATURES) -> LabelSetSpec:
    """The form of a label set of blocks of tokens."""
    return LabelSetSpec(
        task=Task.CAUSAL_LM,
        num_classes=NUM_CLASSES,
        teacher_classes=NUM_CLASSES,
        inputs=(InputSpec(name="tokens", dtype="uint16", shape=None),),
        has_label=False,
        selections={"train": Selection(keep=Keep.TOP_K, k=k)},
        temperatures=temperatures,
        codec=codec,
        layout=form,
        positions_per_row_group=POSITIONS_PER_ROW_GROUP,
    )


def rows_of(kept: Captured, first: int = 0) -> Rows:
    """Blocks of tokens with their soft labels."""
    count = len(kept.tokens_N) // POSITIONS_PER_BLOCK
    lengths_B = np.full(count, POSITIONS_PER_BLOCK)
    ids = np.array([f"block-{first + place:09d}" for place in range(count)], dtype=object)
    columns = {
        "input.tokens": kept.tokens_N.astype(np.uint16),
        "index": kept.index_NK,
        "logit": kept.logit_NK,
        "rest": kept.rest_NT,
        "mask": np.ones(len(kept.tokens_N), np.bool_),
    }
    return {"sample_id": ids, **{name: Ragged(c, lengths_B) for name, c in columns.items()}}


def write_shard_of(folder: Folder, spec: LabelSetSpec, rows: Rows, ordinal: int) -> ShardRecord:
    """Commit some blocks as one shard."""
    count = len(rows["sample_id"])
    name = fingerprint([NAME, ordinal])
    plan = ShardPlan(name, "train", ordinal, ordinal * count, count, count * POSITIONS_PER_BLOCK)
    return write_shard(folder, plan, spec, rows, {})


def write_set(store: Folder, spec: LabelSetSpec, shards: int) -> LabelSet:
    """A finished label set: the captured positions, `shards` times over."""
    folder = store / layout.product(layout.LABELS, NAME)
    kept = captured().top(spec.entries["train"])
    size = len(kept.tokens_N) // POSITIONS_PER_BLOCK
    records = [
        write_shard_of(folder, spec, rows_of(kept, ordinal * size), ordinal)
        for ordinal in range(shards)
    ]
    manifest = Manifest.of(NAME, spec, tuple(records), {})
    write_record(folder, layout.MANIFEST, manifest)
    return LabelSet.open(folder)
