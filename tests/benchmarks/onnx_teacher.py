"""What the reduction of an ONNX teacher's logits costs: in its graph, or by torch.

Magika is measured against bare calls of `session.run` with the same batches and threads. A graph
that only multiplies shows the two reductions at the size of a vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import magika
import numpy as np
import onnxruntime
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from storage.spec import InputSpec
from tasks.nn.reduction import Reduction, reduce_logits
from tasks.nn.softlabels import top_k
from tasks.onnx_teacher import OnnxTeacher
from tests.benchmarks.figures import Figure
from tests.tasks.magika_files import BYTES, CLASSES, MODEL, files
from tests.tasks.onnx_graphs import chain, options

K = 64
TEMPERATURES = (2.0, 1.0, 4.0, 0.5)
BATCH = 16
BATCHES = 8
ROUNDS = 15
VOCABULARY = 49_152
ROWS = 64
_CPU = torch.device("cpu")
_NAMES = {"torch": "torch", "graph": "its graph"}
_WAYS = tuple(_NAMES)


def run() -> list[Figure]:
    """Magika, then a vocabulary."""
    return [*_magika(), *_vocabulary()]


def _magika() -> list[Figure]:
    found = torch.from_numpy(
        np.stack([numbers for _, numbers in files(magika.Magika(), BATCH * BATCHES)])
    )
    batches = found.split(BATCH)
    content = MODEL.read_bytes()
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    # As the teacher's: beside other work, threads that spin would make the bare run slower.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    bare = onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
    reduction = Reduction(top_k(K), TEMPERATURES, len(CLASSES))
    teachers = [_teacher(content, BYTES, way) for way in _WAYS]
    base, *took = _quickest(
        batches,
        lambda batch: bare.run(None, {"bytes": batch.numpy()}),
        *(_reducing(teacher, reduction) for teacher in teachers),
    )
    threads = torch.get_num_threads()
    how = (
        f"{BATCHES} batches of {BATCH} files, k = {K}, 4 temperatures, {threads} threads; "
        f"{1e3 * base / len(found):.2f} ms a file bare"
    )
    return [
        Figure(
            f"Magika, reduced by {_NAMES[way]}",
            f"{seconds / base:.3f} of bare `session.run`",
            "at most 1.05",
            how,
        )
        for way, seconds in zip(_WAYS, took, strict=True)
    ]


def _vocabulary() -> list[Figure]:
    spec = InputSpec(name="x", dtype="float32", shape=(8,))
    weight = np.random.default_rng(0).normal(0, 1, (8, VOCABULARY)).astype(np.float32)
    step = helper.make_node("MatMul", ["x", "weight"], ["out"])
    content = chain(step, shape=("B", 8), initializers=(numpy_helper.from_array(weight, "weight"),))
    reduction = Reduction(top_k(K), TEMPERATURES, VOCABULARY)
    teachers = [_teacher(content, spec, way) for way in _WAYS]
    inputs = torch.randn(ROWS, 8, generator=torch.Generator().manual_seed(0))
    base, *took = _quickest(
        [inputs],
        lambda batch: teachers[0].logits((batch,)),
        *(_reducing(teacher, reduction) for teacher in teachers),
    )
    how = f"{ROWS} rows of {VOCABULARY:,} classes, k = {K}, 4 temperatures; the logits not counted"
    return [
        Figure(
            f"a vocabulary, reduced by {_NAMES[way]}",
            f"{1e6 * (seconds - base) / ROWS:.0f} us a row",
            "-",
            how,
        )
        for way, seconds in zip(_WAYS, took, strict=True)
    ]


def _teacher(content: bytes, spec: InputSpec, way: str) -> OnnxTeacher:
    said = options(reduce=way, output="probabilities" if spec is BYTES else None)
    return OnnxTeacher(content, (spec,), _CPU, said, proven=True)


def _reducing(teacher: OnnxTeacher, reduction: Reduction) -> Callable[[Tensor], object]:
    def step(batch: Tensor) -> object:
        real_P = torch.ones(len(batch), dtype=torch.bool)
        found = teacher.reduced((batch,), real_P, None, reduction)
        return found or reduce_logits(teacher.logits((batch,)), real_P, None, reduction)

    return step


def _quickest(batches: Sequence[Tensor], *steps: Callable[[Tensor], object]) -> list[float]:
    """Seconds of all batches, each the quickest of its rounds: the machine may be shared."""
    took = np.full((len(steps), len(batches)), np.inf)
    for _ in range(ROUNDS):
        for place, batch in enumerate(batches):
            for way, step in enumerate(steps):
                started = time.perf_counter()
                step(batch)
                took[way, place] = min(took[way, place], time.perf_counter() - started)
    return [float(seconds) for seconds in took.sum(axis=1)]
