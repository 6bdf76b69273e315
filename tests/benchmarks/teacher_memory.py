"""Peak resident memory of the label stage, with few and with twenty times as many samples."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from flows.server import LocalServer
from tests.benchmarks.figures import ROOT, Figure

_FEW, _MANY = 20_000, 400_000
_FEATURES, _CLASSES, _SAMPLES_PER_SHARD = 128, 1000, 4096
_REPEATS = 3
_PROGRAM = """
import re, sys
from pathlib import Path
from flows.cli import main

stages = sys.argv[2:]
assert main(["run", sys.argv[1], *(word for s in stages for word in ("--stage", s)), "--json"]) == 0
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
print(peak / 1024, file=sys.stderr)
"""


def teacher() -> nn.Module:
    """The target: a small network over vectors."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(_FEATURES, 256), nn.GELU(), nn.Linear(256, _CLASSES))


def run() -> list[Figure]:
    """Each in a process of its own, with one running server; the median of some runs."""
    server = LocalServer()
    environment = {"PREFECT_API_URL": server.wait(), "PYTHONPATH": str(ROOT)}
    peaks = {count: [_peak(count, environment) for _ in range(_REPEATS)] for count in (_FEW, _MANY)}
    server.release()
    few, many = (float(np.median(peaks[count])) for count in (_FEW, _MANY))
    size = _MANY * _FEATURES * 4 / 2**20
    return [
        Figure(
            f"peak memory of the label stage, {_MANY:,} against {_FEW:,} samples",
            f"{many / few:.3f} times ({many:.0f} against {few:.0f} MiB)",
            "within 10 %",
            f"Parquet, {size:.0f} MiB of inputs; shards of {_SAMPLES_PER_SHARD:,} samples, "
            f"{_CLASSES:,} classes; `softlabel run --stage label` that has not seen the data, a "
            f"new process each, median of {_REPEATS}",
        )
    ]


def _peak(count: int, environment: dict[str, str]) -> float:
    """MiB, of labelling alone, with a teacher that was imported before."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_data(folder / "data.parquet", count)
        save_file(teacher().state_dict(), folder / "teacher.safetensors")
        recipe = folder / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(_recipe()))
        _run(recipe, environment, "teacher")
        for note in (folder / "store" / "corpora").iterdir():
            note.unlink()
        return _run(recipe, environment, "label")


def _run(recipe: Path, environment: dict[str, str], stage: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(recipe), stage],
        cwd=ROOT,
        env=os.environ | environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stderr.split()[-1])


def _write_data(path: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=count * _FEATURES).astype(np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(values), _FEATURES)
    pq.write_table(pa.table({"x": vectors, "label": np.arange(count) % _CLASSES}), path)


def _recipe() -> dict[str, object]:
    return {
        "name": "memory",
        "store": "./store",
        "data": {
            "name": "vectors",
            "source": "data.parquet",
            "inputs": "x",
            "label": "label",
            "splits": {"fractions": {"train": 0.9, "test": 0.1}},
        },
        "teacher": {
            "kind": "torch",
            "target": "tests.benchmarks.teacher_memory:teacher",
            "weights": "teacher.safetensors",
        },
        "labels": {"k": 8, "positions_per_shard": _SAMPLES_PER_SHARD},
        "evaluation": {"splits": ["test"]},
    }
