"""Training in one process with all cores, and in two with half of them each.

Samples a second between a quarter and the end of each run, so that starting and the first steps do
not count; in turn, and the median of the ratios.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from functools import partial

import numpy as np
import torch

from storage.corpus import MemoryCorpus
from storage.files import Folder
from storage.options import TRAIN, Task
from storage.spec import CorpusForm, InputSpec
from tasks.fit import FitJob, fit
from tasks.loss_options import LossOptions
from tasks.model_options import MlpOptions, ModelOptions
from tasks.nn.ranks import Alone, Ranks
from tasks.progress import Progress, listening
from tasks.sequence_options import TokenTransformerOptions
from tasks.sources import CorpusSource
from tasks.training_group import Group, train_together
from tasks.training_options import TrainingOptions
from tests.benchmarks.figures import Figure

_REPEATS = 3
_CLASSES = 100
_CPU = torch.device("cpu")
_CASES: dict[str, tuple[ModelOptions, tuple[int, ...], int, int]] = {
    "transformer, 4 layers of 256, 32 texts of 64 tokens a step": (
        TokenTransformerOptions(
            kind="token_transformer", vocabulary=8192, layers=4, width=256, heads=4
        ),
        (64,),
        32,
        16,
    ),
    "MLP 256-1024-1024, 512 samples a step": (
        MlpOptions(kind="mlp", hidden=(1024, 1024)),
        (256,),
        512,
        40,
    ),
    "MLP 256-64, 64 samples a step": (
        MlpOptions(kind="mlp", hidden=(64,)),
        (256,),
        64,
        400,
    ),
}


def train(
    job: FitJob, corpus: MemoryCorpus, folder: str, *, device: torch.device, ranks: Ranks
) -> None:
    """One run, as a process does it."""
    fit(job, CorpusSource(corpus, TRAIN), None, Folder.open(folder), device, ranks)


def samples_per_second(
    model: ModelOptions, shape: tuple[int, ...], batch: int, steps: int, processes: int
) -> float:
    """Of one run in steady state."""
    corpus = _corpus(model, shape, batch * steps)
    job = FitJob(
        title="benchmark",
        where="benchmark",
        model=model,
        loss=LossOptions(soft_weight=0.0),
        training=TrainingOptions(epochs=1, batch_size=batch, checkpoint_seconds=3600),
        inputs=corpus.form.inputs,
        num_classes=_CLASSES,
    )
    seen: list[Progress] = []
    with tempfile.TemporaryDirectory() as folder, listening(seen.append):
        training = partial(train, job, corpus, folder)
        if processes == 1:
            training(device=_CPU, ranks=Alone())
        else:
            train_together(training, Group("benchmark", "benchmark", [_CPU] * processes), print)
    begun = next(one for one in seen if one.done >= steps // 4)
    last = next(one for one in seen if one.ended)
    return (last.done - begun.done) * batch / (last.seconds - begun.seconds)


def run() -> list[Figure]:
    """The ratio of two processes to one, on models large and small."""
    figures = []
    for name, (model, shape, batch, steps) in _CASES.items():
        measure = partial(samples_per_second, model, shape, batch, steps)
        both = [(measure(1), measure(2)) for _ in range(_REPEATS)]
        ratios = [two / one for one, two in both]
        rates = [statistics.median(rate) for rate in zip(*both, strict=True)]
        figures.append(
            Figure(
                f"samples a second of two processes over one: {name}",
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}; "
                f"{rates[1]:,.0f} and {rates[0]:,.0f})",
                "-",
                f"{torch.get_num_threads()} threads in one process, "
                f"{max(1, torch.get_num_threads() // 2)} in each of two, {os.cpu_count()} cores; "
                f"{_REPEATS} times in turn",
            )
        )
    return figures


def _corpus(model: ModelOptions, shape: tuple[int, ...], count: int) -> MemoryCorpus:
    rng = np.random.default_rng(0)
    if isinstance(model, TokenTransformerOptions):
        spec = InputSpec(name="x", dtype="int64", shape=shape)
        inputs = rng.integers(0, 8192, (count, *shape))
    else:
        spec = InputSpec(name="x", dtype="float32", shape=shape)
        inputs = rng.normal(size=(count, *shape)).astype(np.float32)
    rows = {
        "sample_id": np.array([f"sample-{place}" for place in range(count)], dtype=object),
        "input.x": inputs,
        "label": rng.integers(0, _CLASSES, count),
    }
    form = CorpusForm(Task.CLASSIFICATION, (spec,), True, (TRAIN,))
    return MemoryCorpus(form, {TRAIN: rows})


if __name__ == "__main__":
    for figure in run():
        print(figure)
