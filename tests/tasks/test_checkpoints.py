"""Checkpoints: found again after any kill, never more than two, never code."""

import io
import os
import threading
from types import SimpleNamespace

import pytest
import torch

from storage import layout
from storage.errors import StoreError
from storage.files import Folder
from storage.identity import digest_of_bytes
from storage.local import TEMPORARY_SUFFIX
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
    fake = SimpleNamespace(monotonic=clock, thread_time=clock)
    monkeypatch.setattr(checkpoints, "time", fake)
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


def test_clearing_removes_what_killed_writers_left(tmp_path):
    folder = Folder.open(str(tmp_path))
    old, young = (tmp_path / f".step-000000001-{mark}.pt.1-0{TEMPORARY_SUFFIX}" for mark in "ab")
    old.write_bytes(b"half")
    os.utime(old, (0, 0))
    young.write_bytes(b"being written")
    Checkpoints(folder, 0).clear()
    assert not old.exists()
    assert young.exists()


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
    saved = []
    with Checkpoints(store, least_seconds=10) as kept:
        for step in range(1, 61):
            clock.seconds += 1
            kept.save_if_due(step, lambda step=step: state(step))
            kept.flush()
            saved += [step] if step in steps(store) and step not in saved else []
    assert saved == [10, 20, 30, 40, 50, 60]


def test_slow_checkpoints_cost_a_hundredth_of_the_time(store, clock, monkeypatch):
    write = Folder.write_bytes

    def slow(folder, name, content):
        clock.seconds += 2.0
        write(folder, name, content)

    monkeypatch.setattr(Folder, "write_bytes", slow)
    with Checkpoints(store, least_seconds=10) as kept:
        clock.seconds += 10
        kept.save_if_due(1, lambda: state(1))
        kept.flush()
        assert steps(store) == [1]
        clock.seconds += 197
        kept.save_if_due(2, lambda: state(2))
        kept.flush()
        assert steps(store) == [1]
        clock.seconds += 1
        kept.save_if_due(3, lambda: state(3))
    assert steps(store) == [1, 3]


def test_the_first_one_of_a_large_model_waits_too(store, clock):
    def large():
        return {"weights": torch.zeros(1).expand(750_000_000)}

    with Checkpoints(store, least_seconds=1) as kept:
        clock.seconds += 999
        kept.save_if_due(1, large)
    assert steps(store) == []


def test_training_goes_on_while_one_is_written(store, monkeypatch):
    begun, may_go_on = threading.Event(), threading.Event()
    write = Folder.write_bytes

    def waiting(folder, name, content):
        begun.set()
        assert may_go_on.wait(60)
        write(folder, name, content)

    monkeypatch.setattr(Folder, "write_bytes", waiting)
    weights = torch.zeros(3)
    with Checkpoints(store, least_seconds=0) as kept:
        kept.save_if_due(1, lambda: {"step": 1, "weights": weights})
        assert begun.wait(60)
        weights += 1.0
        kept.save_if_due(2, lambda: {"step": 2, "weights": weights})
        may_go_on.set()
    assert steps(store) == [1]
    assert torch.equal(kept.newest()["weights"], torch.zeros(3))


def test_one_that_cannot_be_written_stops_training(store, monkeypatch):
    def full(*_):
        raise StoreError("no space left")

    monkeypatch.setattr(Folder, "write_bytes", full)
    monkeypatch.setattr(Checkpoints, "_is_due", lambda *_: True)
    with Checkpoints(store, least_seconds=0) as kept:
        kept.save_if_due(1, lambda: state(1))
        with pytest.raises(StoreError, match="no space left"):
            kept.flush()


def test_one_of_another_recipe_is_refused_with_what_differs(store):
    asked = {"training": {"epochs": 3, "seed": 0}, "data": "ab"}
    Checkpoints(store, 0, asked).save(7, state(7))
    assert Checkpoints(store, 0, asked).newest()["step"] == 7
    other = {"training": {"epochs": 5, "seed": 0}, "data": "ab"}
    with pytest.raises(
        StoreError,
        match=r"^.*step-000000007-\w+\.pt is a checkpoint of another recipe: training\.epochs is 3 "
        r"there and 5 here; run with --force to begin anew, or remove it$",
    ):
        Checkpoints(store, 0, other).newest()


def test_one_of_another_version_is_refused(store):
    buffer = io.BytesIO()
    torch.save({"trainer": {}}, buffer)
    content = buffer.getvalue()
    store.write_bytes(layout.checkpoint_file(3, digest_of_bytes(content)), content)
    with pytest.raises(StoreError, match="of another version of softlabel; run with --force"):
        Checkpoints(store, 0).newest()
