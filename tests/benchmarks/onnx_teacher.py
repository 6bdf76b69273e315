"""What the reduction of an ONNX teacher's logits costs: in its graph, or by torch.

Magika is measured against a bare loop of `session.run` on the same batches and threads. A graph
that only multiplies shows the two reductions at the size of a vocabulary.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

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
BATCH = 64
BATCHES = 4
ROUNDS = 7
VOCABULARY = 49_152
ROWS = 128
_CPU = torch.device("cpu")


def run() -> list[Figure]:
    """Magika, then a vocabulary."""
    return [*_magika(), *_vocabulary()]


def _magika() -> list[Figure]:
    found = [numbers for _, numbers in files(magika.Magika(), BATCH * BATCHES)]
    batches = [np.stack(found[start : start + BATCH]) for start in range(0, len(found), BATCH)]
    content = MODEL.read_bytes()
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    bare = onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
    graph, by_torch = (_teacher(content, BYTES, way) for way in ("graph", "torch"))
    reduction = Reduction(top_k(K), TEMPERATURES, len(CLASSES))

    def bare_loop() -> None:
        for batch in batches:
            bare.run(None, {"bytes": batch})

    def loop(step: Callable[[Tensor], object]) -> Callable[[], object]:
        return lambda: [step(torch.from_numpy(batch)) for batch in batches]

    base, in_graph, in_torch = _in_turn(
        bare_loop, loop(_in_graph(graph, reduction)), loop(_in_torch(by_torch, reduction))
    )
    threads = torch.get_num_threads()
    how = f"{BATCHES} batches of {BATCH} files, k = {K}, 4 temperatures, {threads} threads, in turn"
    each = f"{1e3 * base / len(found):.2f} ms a file bare"
    return [
        Figure("Magika: logits, then reduced by torch, over bare `session.run`",
               f"{in_torch / base:.3f}", "at most 1.05", f"{how}; {each}"),
        Figure("Magika: reduced in its graph, over bare `session.run`",
               f"{in_graph / base:.3f}", "at most 1.05", how),
    ]  # fmt: skip


def _vocabulary() -> list[Figure]:
    spec = InputSpec(name="x", dtype="float32", shape=(8,))
    weight = np.random.default_rng(0).normal(0, 1, (8, VOCABULARY)).astype(np.float32)
    step = helper.make_node("MatMul", ["x", "weight"], ["out"])
    content = chain(step, shape=("B", 8), initializers=(numpy_helper.from_array(weight, "weight"),))
    graph, by_torch = (_teacher(content, spec, way) for way in ("graph", "torch"))
    reduction = Reduction(top_k(K), TEMPERATURES, VOCABULARY)
    x = torch.randn(ROWS, 8, generator=torch.Generator().manual_seed(0))
    bare, in_graph, in_torch = _in_turn(
        lambda: by_torch.logits((x,)),
        lambda: _in_graph(graph, reduction)(x),
        lambda: _in_torch(by_torch, reduction)(x),
    )
    how = (
        f"{ROWS} rows of {VOCABULARY:,} classes, k = {K}, 4 temperatures, less the logits' own time"
    )
    return [
        Figure(
            f"a vocabulary reduced {way}", f"{1e6 * (seconds - bare) / ROWS:.0f} us a row", "-", how
        )
        for way, seconds in (("in the graph", in_graph), ("by torch", in_torch))
    ]


def _teacher(content: bytes, spec: InputSpec, way: str) -> OnnxTeacher:
    said = options(reduce=way, output="probabilities" if spec is BYTES else None)
    return OnnxTeacher(content, (spec,), _CPU, said, proven=True)


def _in_graph(teacher: OnnxTeacher, reduction: Reduction) -> Callable[[Tensor], object]:
    def step(inputs: Tensor) -> object:
        real_P = torch.ones(len(inputs), dtype=torch.bool)
        return teacher.reduced((inputs,), real_P, None, reduction)

    return step


def _in_torch(teacher: OnnxTeacher, reduction: Reduction) -> Callable[[Tensor], object]:
    def step(inputs: Tensor) -> object:
        real_P = torch.ones(len(inputs), dtype=torch.bool)
        return reduce_logits(teacher.logits((inputs,)), real_P, None, reduction)

    return step


def _in_turn(*loops: Callable[[], object]) -> list[float]:
    """The medians of timings taken in turn, after one of each that does not count."""
    found: list[list[float]] = [[] for _ in loops]
    for loop in loops:
        loop()
    for _ in range(ROUNDS):
        for times, loop in zip(found, loops, strict=True):
            started = time.perf_counter()
            loop()
            times.append(time.perf_counter() - started)
    return [statistics.median(times) for times in found]
