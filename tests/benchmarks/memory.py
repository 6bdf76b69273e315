"""Peak resident memory of writing and reading label sets, small and a hundred times as large."""

from __future__ import annotations

import subprocess
import sys
import tempfile

from tests.benchmarks.figures import ROOT, Figure
from tests.benchmarks.smollm2 import captured

_FEW, _MANY = 1, 100
_BLOCKS_PER_SHARD = 20
_PROGRAM = """
import re, sys
from pathlib import Path
from storage import layout
from storage.files import Folder
from storage.options import Codec, Layout
from storage.reader import LabelSet
from storage.records import Manifest, write_record
from tests.benchmarks.label_sets import NAME, rows_of, spec_of, write_shard_of
from tests.benchmarks.smollm2 import POSITIONS_PER_BLOCK, captured

what, url, shards, form, blocks = sys.argv[1:]
shards, blocks = int(shards), int(blocks)
folder = Folder.open(url) / layout.product(layout.LABELS, NAME)
spec = spec_of(64, Codec.UINT8 if form == "compact" else Codec.FLOAT16, Layout(form))
if what == "write":
    part = captured().top(64).first(blocks * POSITIONS_PER_BLOCK)
    records = [write_shard_of(folder, spec, rows_of(part, n * blocks), n) for n in range(shards)]
    write_record(folder, layout.MANIFEST, Manifest.of(NAME, spec, tuple(records), {}))
else:
    labels = LabelSet.open(folder)
    positions = sum(len(rows["index"].values_NW) for rows in labels.batches("train"))
    assert positions == shards * blocks * POSITIONS_PER_BLOCK
# The peak of this program alone: ru_maxrss begins with that of the process that started it.
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024)
"""


def run() -> list[Figure]:
    """Each measured in a process of its own."""
    captured()
    figures = []
    for form in ("plain", "compact"):
        with tempfile.TemporaryDirectory() as small, tempfile.TemporaryDirectory() as large:
            for what in ("write", "read"):
                few = _peak(what, small, _FEW, form)
                many = _peak(what, large, _MANY, form)
                figures.append(
                    Figure(
                        f"peak memory, {what}, {form}, 1 million against 10 thousand positions",
                        f"{many / few:.3f} times ({many:.0f} against {few:.0f} MiB)",
                        "within 10 %",
                        f"shards of {_BLOCKS_PER_SHARD * 512:,} positions, a new process each",
                    )
                )
    return figures


def _peak(what: str, folder: str, shards: int, form: str) -> float:
    """MiB."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, what, folder, str(shards), form, str(_BLOCKS_PER_SHARD)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stdout)
