"""Encoding and writing shards: positions a second of one thread."""

from __future__ import annotations

import statistics
import tempfile
import time

from storage.files import Folder
from storage.options import Codec, Layout
from tests.benchmarks.figures import Figure
from tests.benchmarks.label_sets import rows_of, spec_of, write_shard_of
from tests.benchmarks.smollm2 import POSITIONS, captured

_REPEATS = 5


def run() -> list[Figure]:
    """From soft labels in memory to a committed shard: encoded, digested, written and synced."""
    figures = []
    rows = rows_of(captured().top(64))
    for form in Layout:
        for codec in (Codec.FLOAT16, Codec.UINT8):
            spec = spec_of(64, codec, form)
            walls, busy = [], []
            with tempfile.TemporaryDirectory() as name:
                for ordinal in range(_REPEATS + 1):
                    wall, cpu = time.perf_counter(), time.process_time()
                    write_shard_of(Folder.open(name), spec, rows, ordinal)
                    walls.append(time.perf_counter() - wall)
                    busy.append(time.process_time() - cpu)
            seconds = statistics.median(walls[1:])
            cores = statistics.median(busy[1:]) / seconds
            figures.append(
                Figure(
                    f"encoding and writing, k=64, {form.value}, {codec.value}",
                    f"{POSITIONS / seconds / 1e6:.2f} M positions/s ({cores:.1f} cores busy)",
                    "at least 0.2 M a thread",
                    f"a shard of {POSITIONS:,} positions, committed; median of {_REPEATS}",
                )
            )
    return figures
