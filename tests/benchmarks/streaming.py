"""The stream by itself against bare reading, a student that waits for it, and its memory."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time

import torch

from storage.files import Folder
from storage.options import Codec, Layout, Task
from storage.reader import LabelSet
from tasks.loss_options import LossOptions
from tasks.nn.learner import Learner
from tasks.nn.sequence_models import build_sequence_model
from tasks.nn.trainer import Trainer
from tasks.sequence_options import TokenTransformerOptions
from tasks.sources import LabelSource
from tasks.stream import Stream
from tasks.training_options import TrainingOptions
from tests.benchmarks.figures import ROOT, Figure
from tests.benchmarks.label_sets import spec_of, write_set
from tests.benchmarks.smollm2 import NUM_CLASSES, POSITIONS_PER_BLOCK, captured

_SHARDS = 32
_BATCH = 4
"""Blocks of 512 positions: 2,048 positions a step."""
_REPEATS = 5
_FEW, _MANY = 16, 320
_WINDOW = 4
_PROGRAM = """
import re, sys
from pathlib import Path
from storage.reader import LabelSet
from tasks.sources import LabelSource
from tasks.stream import Stream

url, workers, window = sys.argv[1:]
source = LabelSource(LabelSet.open(url), "train")
stream = Stream(source, 4, window=int(window), workers=int(workers))
samples = sum(batch.num_samples for batch in stream)
assert samples == stream.num_samples
# The peak of this program alone: ru_maxrss begins with that of the process that started it.
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024)
"""


def run() -> list[Figure]:
    """Rates in turn; waiting in a student's epoch; memory in processes of their own."""
    figures = []
    for form, codec in (
        (Layout.PLAIN, Codec.FLOAT16),
        (Layout.COMPACT, Codec.UINT8),
        (Layout.FAST, Codec.FLOAT16),
    ):
        with tempfile.TemporaryDirectory() as folder:
            labels = write_set(Folder.open(folder), spec_of(64, codec, form), _SHARDS)
            figures += _rates(labels, form, codec)
            if form is Layout.PLAIN:
                figures.append(_waiting(labels))
            labels.close()
    return [*figures, *_memory()]


def _rates(labels: LabelSet, form: Layout, codec: Codec) -> list[Figure]:
    source = LabelSource(labels, "train")
    kinds = {
        "one thread ahead": Stream(source, _BATCH),
        "2 processes": Stream(source, _BATCH, workers=2),
        "rank 0 of 4, its part": Stream(source, _BATCH, world=4),
    }
    bare: list[float] = []
    ratios: dict[str, list[float]] = {name: [] for name in kinds}
    for number in range(_REPEATS + 1):
        for name, stream in kinds.items():
            alone, streamed = _bare(source), _epoch(stream)
            if number:
                bare.append(alone)
                ratios[name].append(alone / streamed)
    for stream in kinds.values():
        stream.close()
    rate = labels.manifest.positions / statistics.median(bare)
    return [
        Figure(
            f"stream alone, k=64, {form.value}, {codec.value}, {name}",
            f"{statistics.median(found):.2f} of bare reading ({min(found):.2f} to "
            f"{max(found):.2f}), which is {rate / 1e6:.2f} M positions/s",
            "at least 0.7",
            f"{labels.manifest.positions:,} positions, batches of 2,048, windows of 16 row groups; "
            f"bare: every row group decoded, in one thread; in turn, median of {_REPEATS}",
        )
        for name, found in ratios.items()
    ]


def _bare(source: LabelSource) -> float:
    """Seconds to decode every row group, in the stored order."""
    started = time.perf_counter()
    for group in range(len(source.group_sizes)):
        source.read(group)
    return time.perf_counter() - started


def _epoch(stream: Stream) -> float:
    """Seconds of an epoch whose batches nobody uses."""
    started = time.perf_counter()
    for _ in stream:
        pass
    return time.perf_counter() - started


def _waiting(labels: LabelSet) -> Figure:
    """The share of a short epoch that a student of four layers waits for batches."""
    small = labels.manifest.model_copy(update={"shards": labels.manifest.shards[:1]})
    stream = Stream(LabelSource(LabelSet(labels.folder, small), "train"), _BATCH)
    options = TokenTransformerOptions(kind="token_transformer", layers=4, width=256, heads=4)
    torch.manual_seed(0)
    model = build_sequence_model(options, labels.spec.inputs, NUM_CLASSES, Task.CAUSAL_LM, "model")
    steps = stream.batches_per_epoch
    training = TrainingOptions(epochs=2, batch_size=_BATCH)
    learner = Learner(model, LossOptions(soft_weight=1.0))
    trainer = Trainer(learner, training, 2 * steps, torch.device("cpu"))
    shares = []
    for _ in range(2):
        waited, started = 0.0, time.perf_counter()
        batches = iter(stream)
        for _ in range(steps):
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            trainer.step(batch)
        shares.append(waited / (time.perf_counter() - started))
        assert next(batches, None) is None
    each = (time.perf_counter() - started) / steps
    return Figure(
        "waiting for data in a student's epoch, k=64, plain, float16",
        f"{100 * shares[1]:.2f} % (the first epoch {100 * shares[0]:.2f} %) of {each:.2f} s a step",
        "under 2 %",
        f"4 layers, width 256, vocabulary {NUM_CLASSES:,}, 2,048 positions a step; an epoch of "
        f"{steps} steps, the wait for the first window of row groups counted",
    )


def _memory() -> list[Figure]:
    captured()
    figures = []
    with tempfile.TemporaryDirectory() as small, tempfile.TemporaryDirectory() as large:
        spec = spec_of(64, Codec.FLOAT16, Layout.PLAIN)
        sets = [
            write_set(Folder.open(folder), spec, shards)
            for folder, shards in ((small, _FEW), (large, _MANY))
        ]
        for workers in (0, 2):
            few, many = (_peak(one, workers) for one in sets)
            figures.append(
                Figure(
                    f"peak memory of streaming, {_MANY // _FEW} times the samples, "
                    f"workers={workers}",
                    f"{many / few:.3f} times ({many:.0f} against {few:.0f} MiB)",
                    "constant",
                    f"plain, float16, {_MANY * 16_384:,} against {_FEW * 16_384:,} positions in "
                    f"blocks of {POSITIONS_PER_BLOCK}; windows of {_WINDOW} row groups; a new "
                    "process each, that of the workers not counted",
                )
            )
    return figures


def _peak(labels: LabelSet, workers: int) -> float:
    """MiB."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, labels.folder.url, str(workers), str(_WINDOW)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stdout)
