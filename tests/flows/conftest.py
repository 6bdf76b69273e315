"""One Prefect server for all tests of flows, and a project that was run once."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import environment

environment.prepare()  # before anything imports Prefect

from flows.server import LocalServer  # noqa: E402
from flows.server_files import ServerFiles  # noqa: E402
from tests.flows.blobs import Finished, Workspace, blobs_recipe  # noqa: E402
from tests.flows.command import CommandLine  # noqa: E402


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Prefect server with a home of its own, which flows use.

    It is held until this process ends, and ends with it: Prefect sends its last logs at exit.
    """
    home = tmp_path_factory.mktemp("prefect")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(home))
        patch.setenv("PREFECT_API_URL", "")
        yield LocalServer(ServerFiles(home / "softlabel")).wait()


@pytest.fixture(scope="session")
def finished(server: str, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A project that ran once, to look at."""
    recipe = blobs_recipe()
    recipe["evaluation"] |= {"speed": True, "gates": {"small.test.accuracy": ">= 0.1"}}
    workspace = Workspace.make(tmp_path_factory.mktemp("finished"), recipe)
    return Finished(workspace.folder, workspace.state())


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Workspace:
    """The finished project again, to change."""
    return Workspace(Path(shutil.copytree(finished.folder, tmp_path / "copied")))


@pytest.fixture
def workspace(server: str, tmp_path: Path) -> Workspace:
    """A project that has not run."""
    return Workspace.make(tmp_path / "project")


@pytest.fixture
def command(server: str, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """The command line, in this process."""
    return CommandLine(capsys)
