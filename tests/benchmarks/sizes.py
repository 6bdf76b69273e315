"""Bytes of a position and what the codec costs, for each layout, codec and k, on real logits."""

from __future__ import annotations

import tempfile

import numpy as np
import pyarrow.parquet as pq
import torch

from storage.codec import round_trip
from storage.files import Folder
from storage.options import Codec, Layout
from tasks.nn.fidelity import codec_kl
from tests.benchmarks.figures import Figure
from tests.benchmarks.label_sets import spec_of, write_set
from tests.benchmarks.smollm2 import TEMPERATURES, captured

_PACKED_BYTES = {64: 184.0, 128: 312.0}
"""What bit-packed ids and a polynomial fit of the values take, for the same entries."""
_ASKED = {
    (Codec.UINT8, 64): "at most 0.62, KL at most 3e-4",
    (Codec.UINT8, 128): "at most 0.68, KL at most 3e-4",
    (Codec.FLOAT16, 64): "at most 0.9",
    (Codec.FLOAT16, 128): "at most 0.9",
}


def run() -> list[Figure]:
    """Write one shard of each kind and look at its columns."""
    figures = []
    for codec in (Codec.UINT8, Codec.FLOAT16, Codec.FLOAT32):
        for form in Layout:
            for k in (12, 32, 64, 128):
                if codec is Codec.FLOAT32 and k != 64:
                    continue
                figures.append(_figure(codec, form, k))
    return figures


def _figure(codec: Codec, form: Layout, k: int) -> Figure:
    ids, values, total = _bytes(codec, form, k)
    share = (ids + values) / _PACKED_BYTES[k] if k in _PACKED_BYTES else None
    ratio = f"{share:.3f} of {_PACKED_BYTES[k]:.0f} B: " if share is not None else ""
    kl = " / ".join(f"{value:.1e}" for value in _kl(codec, k))
    asked = _ASKED.get((codec, k), "-") if form is Layout.COMPACT else "-"
    return Figure(
        f"bytes of a position, {codec.value}, {form.value}, k={k}",
        f"{ratio}{ids + values:.1f} B (ids {ids:.1f}, values {values:.1f}), codec KL {kl}",
        asked,
        f"SmolLM2, 16,384 positions in one shard; the file {total:.1f} B a position; KL at T = "
        + " / ".join(f"{at:g}" for at in TEMPERATURES),
    )


def _bytes(codec: Codec, form: Layout, k: int) -> tuple[float, float, float]:
    """Bytes of a position for ids, for values, and of the whole file; tables are counted in."""
    with tempfile.TemporaryDirectory() as folder:
        labels = write_set(Folder.open(folder), spec_of(k, codec, form), shards=1)
        (shard,) = labels.shards("train")
        metadata = pq.read_metadata(f"{labels.folder.path}/shards/{shard.file}")
        tables = metadata.metadata or {}
        ids = len(tables.get(b"softlabel.ids", b"")) + _column_bytes(metadata, "index")
        values = len(tables.get(b"softlabel.levels", b"")) + _column_bytes(metadata, "logit")
        labels.close()
        return ids / shard.positions, values / shard.positions, shard.size_bytes / shard.positions


def _column_bytes(metadata: pq.FileMetaData, name: str) -> int:
    columns = [
        metadata.row_group(group).column(place)
        for group in range(metadata.num_row_groups)
        for place in range(metadata.num_columns)
    ]
    return sum(c.total_compressed_size for c in columns if c.path_in_schema.split(".")[0] == name)


def _kl(codec: Codec, k: int) -> list[float]:
    kept = captured().top(k)
    decoded_NK = round_trip(kept.logit_NK, codec)
    kl_NT = codec_kl(
        torch.from_numpy(kept.logit_NK).double(),
        torch.from_numpy(decoded_NK).double(),
        torch.from_numpy(kept.rest_NT).double(),
        TEMPERATURES,
    )
    return [float(value) for value in np.asarray(kl_NT.mean(dim=0))]
