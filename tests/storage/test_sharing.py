import subprocess
import sys
import threading
from contextlib import closing

import pytest

from storage import layout
from storage.errors import StoreError
from storage.files import Folder
from storage.leases import Leases
from storage.sharing import share
from tests.storage.refusal import refused
from tests.storage.test_leases import ROOT, clock, folder, move_elsewhere

__all__ = ["clock", "folder"]

UNITS = [f"unit-{number}" for number in range(12)]
WORKER = """
import os, sys, time
from contextlib import closing
from pathlib import Path
from storage.files import Folder
from storage.leases import Leases
from storage.sharing import share
where, slow = Path(sys.argv[1]), sys.argv[2] == "slow"
def done(units):
    return [unit for unit in units if (where / "done" / unit).exists()]
units = [f"unit-{number}" for number in range(12)]
with Leases(Folder.open(where)) as leases, closing(share(units, str, done, leases)) as shared:
    for unit in shared:
        print(unit, flush=True)
        if slow:
            input()
        time.sleep(0.002)
        (where / "done" / unit).write_bytes(b"")
        leases.release(unit)
"""


class Work:
    """Units that are done once they are in a list; it tells who made which."""

    def __init__(self, folder: Folder):
        self.folder = folder
        self.made: list[str] = []
        self.looks: list[int] = []

    def done(self, units):
        self.looks.append(len(units))
        return [unit for unit in units if unit in self.made]

    def shared(self, leases, units=UNITS, wait=None):
        def never(seconds):
            raise AssertionError("there was nobody to wait for")

        return closing(share(units, str, self.done, leases, wait or never))


@pytest.fixture
def work(folder) -> Work:
    return Work(folder)


def test_alone_all_units_are_made_in_their_order(work, folder):
    with Leases(folder) as leases, work.shared(leases) as units:
        for unit in units:
            assert folder.exists(layout.lease(unit))
            assert len((folder / layout.LEASES).sizes()) == 1
            work.made.append(unit)
            leases.release(unit)
    assert work.made == UNITS
    assert work.looks == [1] * len(UNITS)


def test_nothing_to_do_costs_nothing(work, folder):
    with Leases(folder) as leases, work.shared(leases, []) as units:
        assert list(units) == []
    assert work.looks == []


def test_what_another_made_meanwhile_is_not_made_again(work, folder):
    work.made += UNITS[3:7]
    with Leases(folder) as leases, work.shared(leases) as units:
        assert list(units) == UNITS[:3] + UNITS[7:]


def test_what_another_holds_comes_last(work, folder):
    with Leases(folder) as other, Leases(folder) as leases, work.shared(leases) as units:
        other.claim(UNITS[0])
        for unit in units:
            work.made.append(unit)
            other.release(UNITS[0])
    assert work.made == [*UNITS[1:], UNITS[0]]


def test_it_waits_for_what_another_makes(work, folder):
    waited: list[float] = []

    def wait(seconds):
        waited.append(seconds)
        if len(waited) == 6:
            work.made.append(UNITS[0])
            other.release(UNITS[0])

    with Leases(folder) as other, Leases(folder) as leases:
        other.claim(UNITS[0])
        with work.shared(leases, UNITS[:1], wait) as units:
            assert list(units) == []
    assert waited == [0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


def test_it_makes_what_another_gave_up(work, folder):
    with Leases(folder) as other, Leases(folder) as leases:
        other.claim(UNITS[0])
        with work.shared(leases, UNITS[:1], lambda _: other.release(UNITS[0])) as units:
            assert list(units) == UNITS[:1]


def test_it_takes_over_what_does_not_change(work, folder, clock):
    def wait(seconds):
        clock.now += seconds

    with Leases(folder, ttl_seconds=5) as other, Leases(folder, clock=clock) as leases:
        other.claim(UNITS[0])
        move_elsewhere(folder, UNITS[0])
        start = clock.now
        with work.shared(leases, UNITS[:1], wait) as units:
            assert list(units) == UNITS[:1]
    assert 5 <= clock.now - start <= 7


def test_a_unit_is_held_until_it_is_released(work, folder):
    """Several may be on their way: the loop runs ahead of what is committed."""
    with Leases(folder) as leases:
        with work.shared(leases) as units:
            ahead = [next(units) for _ in range(3)]
        names = {f"{unit}.json" for unit in ahead}
        assert set((folder / layout.LEASES).sizes()) == names
        leases.release(ahead[0])
        assert set((folder / layout.LEASES).sizes()) == names - {f"{ahead[0]}.json"}
    assert (folder / layout.LEASES).sizes() == {}


def test_a_loop_that_failed_can_be_tried_again(work, folder):
    with Leases(folder) as leases:
        failed = share(UNITS, str, work.done, leases)
        next(failed)  # and nobody closes it
        with work.shared(leases) as units:
            assert list(units) == UNITS


def test_a_store_that_cannot_be_written_is_a_store_error(store):
    store.write_bytes(layout.LEASES, b"no folder")
    work = Work(store)
    with Leases(store) as leases, work.shared(leases) as units, refused(StoreError, "leases"):
        next(units)


def test_threads_make_each_unit_once(work, folder):
    lock = threading.Lock()

    def run():
        with Leases(folder) as leases, work.shared(leases, wait=lambda _: None) as units:
            for unit in units:
                with lock:
                    work.made.append(unit)
                leases.release(unit)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(work.made) == sorted(UNITS)


def start(where, how):
    command = [sys.executable, "-c", WORKER, str(where), how]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)


def test_processes_make_each_unit_once(tmp_path):
    (tmp_path / "done").mkdir()
    with start(tmp_path, "quick") as first, start(tmp_path, "quick") as second:
        made = [process.communicate(timeout=60)[0].split() for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    assert sorted(made[0] + made[1]) == sorted(UNITS)
    assert (Folder.open(tmp_path) / layout.LEASES).sizes() == {}


def test_what_a_killed_process_held_is_made_at_once(tmp_path):
    (tmp_path / "done").mkdir()
    with start(tmp_path, "slow") as killed:
        assert killed.stdout.readline().split() == UNITS[:1]
        killed.kill()
        killed.wait()
        killed.stdin.close()
    with start(tmp_path, "quick") as process:
        made = process.communicate(timeout=30)[0].split()
    assert made == UNITS
