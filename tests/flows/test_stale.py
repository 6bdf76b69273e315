"""Runs of killed processes: told by a lock, and marked as crashed by the next run."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client

from flows.server_files import ServerFiles
from flows.stale import mark_crashed, marked

KILLED = """
import os, signal, sys
from flows import environment
environment.prepare()
from prefect import flow, runtime, task
from flows.stale import marked

@task
def work():
    print(runtime.flow_run.id, flush=True)
    sys.stdin.read()

@flow
def stage():
    work()

@flow
def pipeline():
    print(runtime.flow_run.id, flush=True)
    with marked(runtime.flow_run.id):
        stage()

pipeline()
"""


@pytest.fixture
def home(server, tmp_path, monkeypatch):
    """A folder of marks of its own, beside the shared server."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    return tmp_path


def state_of(run: UUID) -> str:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(run).state.name


def test_runs_of_a_killed_process_are_marked_as_crashed(home):
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED],
        env=os.environ | {"PYTHONPATH": str(root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    pipeline, stage = (UUID(process.stdout.readline().decode().strip()) for _ in range(2))
    assert mark_crashed() == 0
    assert state_of(pipeline) == state_of(stage) == "Running"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert mark_crashed() == 1
    assert state_of(pipeline) == state_of(stage) == "Crashed"
    assert mark_crashed() == 0


def test_a_run_that_has_ended_leaves_no_mark(home):
    with marked("0" * 32):
        assert [path.name for path in marks(home)] == ["0" * 32]
        assert mark_crashed() == 0
    assert marks(home) == []


def test_without_a_run_there_is_nothing_to_mark(home):
    with marked(None):
        assert marks(home) == []


def test_a_mark_of_a_run_that_the_server_does_not_know_is_forgotten(home):
    folder = ServerFiles.default().folder / "runs"
    folder.mkdir(parents=True)
    (folder / "11111111-1111-4111-8111-111111111111").touch()
    assert mark_crashed() == 1
    assert marks(home) == []


def marks(home: Path) -> list[Path]:
    return list((home / "softlabel" / "runs").glob("*"))
