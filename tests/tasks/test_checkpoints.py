"""Checkpoints: found again after any kill, never more than two, never code."""

import os
from types import SimpleNamespace

import pytest
import torch

from storage.files import Folder
from tasks import checkpoints
from tasks.checkpoints import Checkpoints


class Clock:
    """A clock that a test sets."""

    def __init__(self):
        self.seconds = 1000.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(checkpoints, "time", SimpleNamespace(monotonic=clock))
    return clock


def steps(folder):
    return sorted(int(name[5:14]) for name in folder.sizes())


def state(step):
    return {"step": step, "weights": torch.full((3,), float(step)), "nested": [{"loss": None}]}


def test_the_newest_comes_back_as_it_was(store):
    kept = Checkpoints(store, 0)
    assert kept.newest() is None
    kept.save(9, state(9))
    kept.save(10, state(10))
    found = kept.newest()
    assert found["step"] == 10
    assert torch.equal(found["weights"], torch.full((3,), 10.0))
    assert found["nested"] == [{"loss": None}]


def test_two_are_kept_and_clearing_leaves_other_files(store):
    kept = Checkpoints(store, 0)
    store.write_bytes("card.json", b"{}")
    for step in (1, 2, 30, 4000):
        kept.save(step, state(step))
    store.delete("card.json")
    assert steps(store) == [30, 4000]
    store.write_bytes("card.json", b"{}")
    kept.clear()
    assert list(store.sizes()) == ["card.json"]
    kept.clear()


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_one_is_passed_over(store, damage):
    kept = Checkpoints(store, 0)
    kept.save(1, state(1))
    kept.save(2, state(2))
    newest = max(store.sizes())
    content = store.read_bytes(newest)
    half = len(content) // 2
    changed = content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
    store.write_bytes(newest, {"cut": content[:half], "changed": changed, "empty": b""}[damage])
    assert kept.newest()["step"] == 1
    store.write_bytes(min(store.sizes()), b"nonsense")
    assert kept.newest() is None


def test_a_checkpoint_is_never_run_as_code(store, tmp_path):
    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    kept = Checkpoints(store, 0)
    kept.save(1, {"state": Code()})
    with pytest.raises(Exception, match="Weights only load failed"):
        kept.newest()
    assert not (tmp_path / "ran").exists()


def test_time_passes_between_two(store, clock):
    kept = Checkpoints(store, least_seconds=10, _last=clock())
    saved = []
    for step in range(1, 61):
        clock.seconds += 1
        kept.save_if_due(step, state(step))
        saved += [step] if step in steps(store) and step not in saved else []
    assert saved == [10, 20, 30, 40, 50, 60]


def test_slow_checkpoints_cost_a_hundredth_of_the_time(store, clock, monkeypatch):
    write = Folder.write_bytes

    def slow(folder, name, content):
        clock.seconds += 2.0
        write(folder, name, content)

    monkeypatch.setattr(Folder, "write_bytes", slow)
    kept = Checkpoints(store, least_seconds=10, _last=clock())
    clock.seconds += 10
    kept.save_if_due(1, state(1))
    assert steps(store) == [1]
    clock.seconds += 199
    kept.save_if_due(2, state(2))
    assert steps(store) == [1]
    clock.seconds += 1
    kept.save_if_due(3, state(3))
    assert steps(store) == [1, 3]
