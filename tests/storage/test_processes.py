import os
import subprocess
import sys

import pytest

from storage import processes
from storage.processes import Process

pytestmark = pytest.mark.skipif(processes.this() is None, reason="needs /proc")


def child() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)


def process_of(pid: int) -> Process:
    state = processes._status(pid)
    assert state is not None
    return processes.this().model_copy(update={"pid": pid, "started": state[1]})


def test_this_process_is_not_gone():
    assert processes.this().pid == os.getpid()
    assert not processes.is_gone(processes.this())


def test_a_killed_process_is_gone_before_and_after_its_parent_knows():
    with child() as started:
        process = process_of(started.pid)
        assert not processes.is_gone(process)
        started.kill()
        os.waitid(os.P_PID, started.pid, os.WEXITED | os.WNOWAIT)
        assert processes.is_gone(process)
        started.wait()
        assert processes.is_gone(process)


def test_another_process_of_the_same_id_is_not_it():
    earlier = processes.this().model_copy(update={"started": "1"})
    assert processes.is_gone(earlier)


@pytest.mark.parametrize("host", ["", "other", "other/boot/pid:[1]"])
def test_a_process_elsewhere_is_never_gone(host):
    assert not processes.is_gone(Process(host=host, pid=2**31 - 1, started="1"))


def test_a_process_that_may_not_be_seen_is_not_gone(monkeypatch):
    def forbidden(pid, signal):
        raise PermissionError

    monkeypatch.setattr(processes, "_status", lambda pid: None)
    monkeypatch.setattr(os, "kill", forbidden)
    host = processes._host()
    assert not processes.is_gone(Process(host=host, pid=1, started="1"))


def test_without_proc_no_process_can_be_told(monkeypatch, tmp_path):
    this = processes.this()
    monkeypatch.setattr(processes, "_PROC", tmp_path)
    assert processes.this() is None
    assert not processes.is_gone(this)
