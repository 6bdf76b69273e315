"""Killed with -9 at any moment and started again: same digest, same weights, nothing twice."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.files import Folder
from storage.verify import verify
from tests.faults.command import Command, records, result_of, until, weights

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def files(store: Path, pattern: str, count: int) -> Callable[[], bool]:
    return lambda: len(list(store.glob(pattern))) >= count


def moments(store: Path) -> list[Callable[[], bool]]:
    """Moments of all stages, in the order in which a run meets them."""
    return [
        lambda: True,
        files(store, "corpora/*.json", 0),
        files(store, "teachers/*/checkpoints/*", 1),
        files(store, "teachers/*/checkpoints/*", 2),
        files(store, "teachers/*/card.json", 1),
        files(store, "labels/*/spec.json", 1),
        files(store, "labels/*/records/*", 3),
        files(store, "labels/*/records/*", 20),
        files(store, "labels/*/manifest.json", 1),
        files(store, "students/*/checkpoints/*", 1),
        files(store, "students/*/card.json", 1),
        files(store, "students/*/checkpoints/*", 2),
        files(store, "students/*/card.json", 2),
        files(store, "predictions/*/card.json", 1),
        files(store, "reports/*/report.json", 1),
    ]


def test_killed_at_moments_of_all_stages_it_ends_as_if_it_had_not_been(
    recipe, prefect_home, uninterrupted, tmp_path
):
    expected, reference = uninterrupted
    command = Command(recipe, tmp_path / "store", prefect_home)
    chance = random.Random(0)
    kills = 0
    committed: dict[str, int] = {}
    for reached in moments(command.store):
        kills += command.kill_when(reached, delay=chance.uniform(0.0, 0.3))
        now = records(command.store)
        assert committed.items() <= now.items(), "a committed shard was made again"
        committed = now
    assert kills >= 10
    result = command.finish()
    assert committed.items() <= records(command.store).items()
    assert result["stages"]["label"]["digest"] == expected["stages"]["label"]["digest"]
    assert weights(command.store) == weights(reference)
    assert list(verify(Folder.open(str(command.store)))) == []
    assert not list(command.store.glob("*/*/checkpoints/*"))
    until(lambda: not command.processes(), "the end of all processes", seconds=30.0)


def test_a_finished_pipeline_only_looks(recipe, prefect_home, uninterrupted):
    expected, store = uninterrupted
    before = {file: file.stat().st_mtime_ns for file in store.rglob("*") if file.is_file()}
    result = Command(recipe, store, prefect_home).finish()
    assert {stage["status"] for stage in result["stages"].values()} == {"cached"}
    assert result["stages"]["label"]["teacher_batches"] == 0
    assert result["stages"]["label"]["digest"] == expected["stages"]["label"]["digest"]
    after = {file: file.stat().st_mtime_ns for file in store.rglob("*") if file.is_file()}
    assert before == after


def test_two_runs_at_once_make_one_label_set(recipe, prefect_home, uninterrupted, tmp_path):
    expected, reference = uninterrupted
    command = Command(recipe, tmp_path / "store", prefect_home)
    both = [command.start(), command.start()]
    results = [result_of(process) for process in both]
    digests = {result["stages"]["label"]["digest"] for result in results}
    assert digests == {expected["stages"]["label"]["digest"]}
    written = [result["stages"]["label"]["shards_written"] for result in results]
    assert sum(written) == expected["stages"]["label"]["shards_written"], "a shard was made twice"
    assert not list(command.store.glob("labels/*/leases/*"))
    assert weights(command.store) == weights(reference)
    assert list(verify(Folder.open(str(command.store)))) == []
    until(lambda: not command.processes(), "the end of all processes", seconds=30.0)
