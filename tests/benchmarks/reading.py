"""Reading a label set to ready tensors, against pyarrow alone reading the same columns."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq
import torch

from storage import schema
from storage.files import Folder
from storage.options import Codec, Layout
from storage.reader import LabelSet
from storage.rows import Ragged
from tests.benchmarks.figures import Figure
from tests.benchmarks.label_sets import spec_of, write_set

_SHARDS = 16
_REPEATS = 9
_COLUMNS = ("index", "logit")
_OTHER_DECODER = 0.039e6
"""Positions a second that DistillKit 1.0 decoded at k=64 on two cores of another machine."""


def run() -> list[Figure]:
    """Both in turn, for each layout, with one thread and with two."""
    figures = []
    for form in Layout:
        for codec in Codec:
            with tempfile.TemporaryDirectory() as folder:
                labels = write_set(Folder.open(folder), spec_of(64, codec, form), _SHARDS)
                figures += [_compare(labels, form, codec, threads) for threads in (1, 2)]
    return figures


def _compare(labels: LabelSet, form: Layout, codec: Codec, threads: int) -> Figure:
    opened = [LabelSet.open(labels.folder) for _ in range(threads)]
    for one in opened:
        for shard in one.shards("train"):
            one.check(shard)
    ours = [lambda one=one, place=place: _read(one, place, threads) for place, one in _each(opened)]
    bare = [
        lambda one=one, place=place: _read_bare(one, place, threads) for place, one in _each(opened)
    ]
    _together(ours), _together(bare)
    rounds = [(_together(ours), _together(bare)) for _ in range(_REPEATS)]
    for one in opened:
        one.close()
    positions = labels.manifest.positions
    seconds = statistics.median(mine for mine, _ in rounds)
    ratio = statistics.median(theirs / mine for mine, theirs in rounds)
    rate = positions / seconds
    asked = "at least 0.7"
    plural = "s" if threads > 1 else ""
    if form is Layout.FAST and threads == 2:
        asked += ", at least 1.5 M positions/s"
    return Figure(
        f"reading to tensors, k=64, {form.value}, {codec.value}, {threads} thread{plural}",
        f"{ratio:.2f} of pyarrow alone: {rate / 1e6:.2f} M positions/s, "
        f"{rate / _OTHER_DECODER:.0f} times DistillKit's decoder as measured elsewhere",
        asked,
        f"{positions:,} positions, row groups of 4,096, checksums of pages verified by both, "
        f"in turn, median of {_REPEATS}",
    )


def _each(opened: Sequence[LabelSet]) -> list[tuple[int, LabelSet]]:
    return list(enumerate(opened))


def _together(works: Sequence[Callable[[], None]]) -> float:
    """Seconds that all works take at once, a thread each."""
    started = time.perf_counter()
    if len(works) == 1:
        works[0]()
    else:
        with ThreadPoolExecutor(len(works)) as threads:
            list(threads.map(lambda work: work(), works))
    return time.perf_counter() - started


def _read(labels: LabelSet, place: int, threads: int) -> None:
    """Every row group of this thread's shards, as tensors: ids int64, logits float32."""
    for shard in labels.shards("train")[place::threads]:
        for group in range(len(shard.row_groups)):
            rows = labels.read(shard, group, _COLUMNS)
            index, logit = (_tensor(rows[name]) for name in _COLUMNS)
            assert index.dtype is torch.int64
            assert logit.dtype is torch.float32


def _tensor(column: Ragged | np.ndarray) -> torch.Tensor:
    return torch.from_numpy(column.values_NW if isinstance(column, Ragged) else column)


def _read_bare(labels: LabelSet, place: int, threads: int) -> None:
    """The same row groups and columns by pyarrow alone, into memory."""
    columns = schema.stored_columns(labels.spec, "train", _COLUMNS)
    for shard in labels.shards("train")[place::threads]:
        path = f"{labels.folder.path}/shards/{shard.file}"
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                file.read_row_group(group, columns=columns, use_threads=False)
