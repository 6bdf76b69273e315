import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from storage import layout, processes
from storage.errors import StoreError
from storage.files import Folder
from storage.leases import Leases, LeaseState, clear_leases
from storage.records import seal, unseal
from tests.storage.refusal import refused

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import sys
from storage.files import Folder
from storage.leases import Leases
with Leases(Folder.open(sys.argv[1])) as leases:
    print(leases.claim("a"), flush=True)
    input()
"""


class Clock:
    """Seconds that pass when told."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path) -> Folder:
    if request.param == "local":
        return Folder.open(tmp_path / "labels")
    folder = Folder.open("memory://leases")
    if folder.filesystem.exists(folder.path):
        folder.filesystem.rm(folder.path, recursive=True)
    return folder


def lease_of(folder: Folder, name: str = "a") -> dict:
    return unseal(folder.read_bytes(layout.lease(name)), name)


def move_elsewhere(folder: Folder, name: str = "a") -> None:
    """As if a process of another machine had written the lease."""
    lease = lease_of(folder, name)
    lease["process"] = {"host": "elsewhere", "pid": 1, "started": "1"}
    folder.write_bytes(layout.lease(name), seal(lease))


def lease_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "leases"]


class TestClaim:
    def test_only_one_gets_a_unit(self, folder):
        with Leases(folder) as first, Leases(folder) as second:
            assert first.claim("a")
            assert not second.claim("a")
            assert second.claim("b")
            assert first.state("a") is LeaseState.OURS
            assert second.state("a") is LeaseState.HELD
            assert second.state("c") is LeaseState.FREE

    def test_what_was_released_is_free(self, folder):
        with Leases(folder) as first, Leases(folder) as second:
            first.claim("a")
            assert not second.claim("a")
            first.release("a")
            assert second.state("a") is LeaseState.FREE
            assert second.claim("a")

    def test_at_the_end_all_is_free(self, folder):
        with Leases(folder) as leases:
            leases.claim("a")
            leases.claim("b")
        assert (folder / layout.LEASES).sizes() == {}

    def test_at_the_end_all_is_free_though_the_work_failed(self, folder):
        def work():
            with Leases(folder) as leases:
                leases.claim("a")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            work()
        assert (folder / layout.LEASES).sizes() == {}

    def test_a_thread_may_take_again_what_it_has_and_another_may_not(self, folder):
        with Leases(folder) as leases:
            leases.claim("a")
            assert leases.claim("a")
            found = []
            thread = threading.Thread(target=lambda: found.append(leases.claim("a")))
            thread.start()
            thread.join()
            assert found == [False]

    def test_releasing_what_is_not_held_does_nothing(self, folder):
        with Leases(folder) as first, Leases(folder) as second:
            first.claim("a")
            second.release("a")
            second.release("b")
            assert not second.claim("a")

    def test_many_threads_get_each_unit_once(self, folder):
        names = [str(number) for number in range(20)]
        found: list[str] = []

        def work():
            with Leases(folder) as leases:
                taken = [name for name in names if leases.claim(name)]
                everyone_tried.wait()
                found.extend(taken)

        everyone_tried = threading.Barrier(4)
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(found) == sorted(names)

    def test_a_lease_says_who_holds_it(self, folder):
        with Leases(folder, ttl_seconds=30) as leases:
            leases.claim("a")
            lease = lease_of(folder)
            assert lease["process"] == json.loads(processes.this().model_dump_json())
            assert lease["ttl_seconds"] == 30
            assert abs(lease["written"] - time.time()) < 60

    def test_a_store_that_cannot_be_written_is_a_store_error(self, store):
        store.write_bytes(layout.LEASES, b"no folder")
        with Leases(store) as leases, refused(StoreError, layout.LEASES):
            leases.claim("a")


class TestExpiry:
    def test_a_lease_from_elsewhere_ends_after_its_time_unchanged(self, folder, clock):
        with Leases(folder, ttl_seconds=30) as holder, Leases(folder, clock=clock) as other:
            holder.claim("a")
            move_elsewhere(folder)
            assert not other.claim("a")
            clock.now += 29.9
            assert not other.claim("a")
            clock.now += 0.2
            assert other.state("a") is LeaseState.EXPIRED
            assert other.claim("a")
            assert lease_of(folder)["owner"] == other._owner

    def test_a_clock_that_is_wrong_elsewhere_does_not_matter(self, folder, clock):
        with Leases(folder) as holder, Leases(folder, clock=clock) as other:
            holder.claim("a")
            lease = lease_of(folder)
            lease |= {"written": 0.0, "process": None}
            folder.write_bytes(layout.lease("a"), seal(lease))
            assert not other.claim("a")

    def test_a_slow_holder_keeps_what_it_renews(self, folder, clock):
        with Leases(folder) as holder, Leases(folder, clock=clock) as other:
            holder.claim("a")
            for _ in range(10):
                move_elsewhere(folder)
                assert not other.claim("a")
                clock.now += 40
                holder.renew()
            assert lease_of(folder)["renewals"] == 10

    def test_a_thread_renews_them(self, folder):
        with Leases(folder, ttl_seconds=0.02) as holder:
            holder.claim("a")
            deadline = time.monotonic() + 10
            while lease_of(folder)["renewals"] < 2:
                assert time.monotonic() < deadline
                time.sleep(0.002)

    @pytest.mark.parametrize("damage", [b"", b"{}", b"nonsense", seal({"ttl_seconds": 1e9})])
    def test_a_damaged_lease_ends_after_the_time_of_who_looks(self, folder, clock, damage):
        folder.write_bytes(layout.lease("a"), damage)
        with Leases(folder, ttl_seconds=10, clock=clock) as leases:
            assert not leases.claim("a")
            clock.now += 9
            assert not leases.claim("a")
            clock.now += 1
            assert leases.claim("a")

    @pytest.mark.parametrize("ttl_seconds", [0, -1, 1e9, "long"])
    def test_a_lease_without_end_is_damaged(self, folder, clock, ttl_seconds):
        with Leases(folder) as holder, Leases(folder, ttl_seconds=10, clock=clock) as other:
            holder.claim("a")
            folder.write_bytes(
                layout.lease("a"), seal(lease_of(folder) | {"ttl_seconds": ttl_seconds})
            )
            assert not other.claim("a")
            clock.now += 10
            assert other.claim("a")

    def test_a_holder_that_was_killed_is_taken_over_at_once(self, tmp_path):
        folder = Folder.open(tmp_path)
        command = [sys.executable, "-c", HOLDER, str(tmp_path)]
        pipe = subprocess.PIPE
        with (
            subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe) as holder,
            Leases(folder) as leases,
        ):
            assert holder.stdout.readline() == b"True\n"
            assert not leases.claim("a")
            holder.kill()
            holder.wait()
            assert leases.state("a") is LeaseState.EXPIRED
            assert leases.claim("a")
            assert leases.state("a") is LeaseState.OURS

    def test_of_two_who_take_over_the_second_sees_the_first(self, folder, clock):
        with (
            Leases(folder) as gone,
            Leases(folder, clock=clock) as first,
            Leases(folder, clock=clock) as second,
        ):
            gone.claim("a")
            move_elsewhere(folder)
            first.claim("a")
            second.claim("a")
            clock.now += 60
            assert second.state("a") is LeaseState.EXPIRED
            assert first.claim("a")
            assert not second.claim("a")


class TestRenewal:
    def test_the_thread_starts_with_the_first_lease_and_ends_with_the_block(self, folder):
        with Leases(folder) as leases:
            assert lease_threads() == []
            leases.claim("a")
            leases.claim("b")
            assert len(lease_threads()) == 1
        assert lease_threads() == []

    def test_what_was_released_is_not_written_again(self, folder):
        with Leases(folder) as leases:
            leases.claim("a")
            leases.release("a")
            leases.renew()
            assert not folder.exists(layout.lease("a"))

    def test_one_that_fails_is_tried_again(self, folder, monkeypatch):
        with Leases(folder) as leases:
            leases.claim("a")
            with monkeypatch.context() as broken:
                broken.setattr(Folder, "write_bytes", failing)
                leases.renew()
            leases.renew()
            assert lease_of(folder)["renewals"] == 2


def failing(folder, name, content):
    raise StoreError("no connection")


def test_what_was_left_behind_is_cleared(folder):
    folder.write_bytes(layout.lease("a"), b"")
    clear_leases(folder)
    assert (folder / layout.LEASES).sizes() == {}
    clear_leases(folder)
