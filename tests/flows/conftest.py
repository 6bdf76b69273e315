"""One Prefect server for all tests of flows, and a project that was run once."""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import environment

environment.prepare()  # before anything imports Prefect

from flows.server import LocalServer  # noqa: E402
from flows.server_files import ServerFiles, try_lock  # noqa: E402
from tests.flows.blobs import Workspace  # noqa: E402


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Prefect server with a home of its own, which flows use."""
    home = tmp_path_factory.mktemp("prefect")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(home))
        patch.delenv("PREFECT_API_URL", raising=False)
        local = LocalServer(ServerFiles(home / "softlabel"))
        url = local.wait()
        patch.setenv("PREFECT_API_URL", url)
        yield url
        local.release()
        wait_until_free(home / "softlabel" / "server.lock")
    os.environ.pop("PREFECT_API_URL", None)


def wait_until_free(lock: Path, seconds: float = 30.0) -> None:
    """Wait until the server that holds the lock has ended."""
    deadline = time.monotonic() + seconds
    while (taken := try_lock(lock, fcntl.LOCK_EX)) is None:
        assert time.monotonic() < deadline, "the server did not end"
        time.sleep(0.05)
    os.close(taken)


@pytest.fixture(scope="session")
def finished(server: str, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A project that ran once, to look at."""
    workspace = Workspace.make(tmp_path_factory.mktemp("finished"))
    workspace.run()
    return workspace


@pytest.fixture
def copied(finished: Workspace, tmp_path: Path) -> Workspace:
    """The finished project again, to change."""
    return Workspace(Path(shutil.copytree(finished.folder, tmp_path / "copied")))


@pytest.fixture
def workspace(server: str, tmp_path: Path) -> Workspace:
    """A project that has not run."""
    return Workspace.make(tmp_path / "project")
