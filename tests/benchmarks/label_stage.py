"""The label stage over the bare forward loop of the same teacher: same batches, same threads.

SmolLM2-135M over Python's own source, and Magika over files of this machine. Beside it, how long
the first shard takes beyond loading the model and the shard's own forward passes.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flows.project import Project
from storage.rows import lengths_of, num_rows
from storage.writer import ShardPlan
from tasks.batches import plan_batches
from tasks.effort import Effort
from tasks.label import LabelJob, label_shards, planned_batch
from tasks.label_checks import set_aside
from tasks.nn.batch import Batch
from tasks.teach import import_teacher, load_teacher
from tests.benchmarks.figures import ROOT, Figure

_FOLDER = ROOT / "deployments/recipes"
_RECIPES = {name: _FOLDER / f"{name}.yaml" for name in ("smollm2", "magika")}
_OVERRIDES = {
    "smollm2": ("labels.temperatures=[1.0, 2.0, 4.0, 8.0]", "labels.positions_per_shard=2048"),
    "magika": ("data.files.limit=2000", "labels.positions_per_shard=500"),
}
_FEW_FILES = "data.source=[stdlib://json/*.py, stdlib://tomllib/*.py]"
_SHARDS = {"smollm2": 2, "magika": 3}
_REPEATS = 5
_ASKED = "at most 1.05"


@dataclass(frozen=True)
class _Case:
    """A teacher, the batches of some shards, and how to make these shards."""

    bare: Callable[[], None]
    stage: Callable[[], Effort]
    positions: int


def run() -> list[Figure]:
    figures = []
    for name in _RECIPES:
        with tempfile.TemporaryDirectory() as store, _case(name, store) as case:
            figures.append(_ratio(name, case))
    figures += [_first_shard(name) for name in _RECIPES]
    return figures


def _ratio(name: str, case: _Case) -> Figure:
    case.bare()
    case.stage()
    bare, stage, effort = [], [], Effort()
    for _ in range(_REPEATS):
        started = time.perf_counter()
        case.bare()
        bare.append(time.perf_counter() - started)
        started = time.perf_counter()
        effort.merge(case.stage())
        stage.append(time.perf_counter() - started)
    ratios = sorted(b / a for a, b in zip(bare, stage, strict=True))
    rate = case.positions / statistics.median(stage)
    return Figure(
        f"label stage over the bare forward loop, {name}",
        f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}; {rate:,.0f} "
        "positions/s)",
        _ASKED,
        f"{case.positions:,} positions, {_REPEATS} times in turn; {effort.said()}",
    )


@contextmanager
def _case(name: str, store: str) -> Iterator[_Case]:
    project = Project.open(str(_RECIPES[name]), _OVERRIDES[name], store)
    recipe, folder = project.recipe, project.loaded.folder
    card = import_teacher(
        project.store, recipe.teacher, folder, project.index.inputs, project.teacher_intent
    )
    labels = project.labels(card)
    teacher = load_teacher(
        project.store, card, recipe.teacher, folder, labels.spec.inputs, torch.device("cpu")
    )
    plans = labels.plan.wanted[: _SHARDS[name]]
    batch_size = labels.batch_size
    assert batch_size is not None
    corpus = project.open_corpus()
    try:
        job = LabelJob(labels.folder, labels.spec, corpus, batch_size, quarantine=True)
        batches = [batch for plan in plans for batch in _batches(job, plan)]

        def bare() -> None:
            for batch in batches:
                teacher.logits(batch.inputs)

        def stage() -> Effort:
            effort = Effort()
            label_shards(job, plans, teacher, lambda _: None, effort)
            return effort

        yield _Case(bare, stage, sum(plan.positions for plan in plans))
    finally:
        corpus.close()


def _batches(job: LabelJob, plan: ShardPlan) -> Iterator[Batch]:
    rows = job.corpus.read(plan.split, plan.start, plan.start + plan.rows)
    good, _, _ = set_aside(rows, plan.start, quarantine=job.quarantine)
    for planned in plan_batches(num_rows(good), lengths_of(good), job.batch_size):
        yield planned_batch(good, planned, job.spec, plan.split)


def _first_shard(name: str) -> Figure:
    """From the start of the label stage, its teacher being there, to the first committed shard."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"PREFECT_HOME": f"{folder}/prefect"}
        command = [
            sys.executable, "-m", "flows.cli", "run", str(_RECIPES[name]), "--json",
            "--store", f"{folder}/store",
        ]  # fmt: skip
        few = [_FEW_FILES] if name == "smollm2" else []
        for override in (*_OVERRIDES[name], "students={}", *few):
            command += ["--set", override]
        said: dict[str, Any] = {}
        for stage in ("teacher", "label"):
            done = subprocess.run(
                [*command, "--stage", stage], env=environment, cwd=ROOT, capture_output=True,
                text=True, check=True,
            )  # fmt: skip
            said = json.loads(done.stdout.splitlines()[-1])["stages"][stage]
        shards = Path(folder, "store").glob("labels/*/records/*")
        rows = sorted(shards)
        whole = said["seconds_by_step"]
        share = 1 / max(len(rows), 1)
        own = share * sum(whole[step] for step in ("forward", "top-k", "encode", "write"))
        beyond = said["first_shard_seconds"] - said["load_seconds"] - own
    return Figure(
        f"first committed shard, {name}, beyond loading and its own work",
        f"{beyond:.1f} s ({said['first_shard_seconds']:.1f} s with loading in "
        f"{said['load_seconds']:.1f} s)",
        "under 5 s",
        "the label stage alone, a new process and store; index of the data, probe and server calls",
    )
