"""Two processes that train together: the command, or one of them, killed with -9 in between."""

from __future__ import annotations

import signal
import subprocess
from functools import partial
from pathlib import Path

import psutil
import pytest
import yaml

from storage import layout
from tasks.history import read_history
from tests.faults.command import Command, result_of, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
TWO = ("--set", "students.distilled.training.processes=2")
ONE = ("--set", "students.distilled.training.processes=1")
TRAIN = ("--stage", "train", "--student", "distilled")


@pytest.fixture(scope="module")
def short(recipe, tmp_path_factory):
    """The recipe with a teacher of one epoch, and one student that learns slowly enough."""
    content = yaml.safe_load(recipe.read_text())
    content["teacher"]["training"]["epochs"] = 1
    content["students"] = {"distilled": content["students"]["distilled"]}
    content["students"]["distilled"]["training"] |= {"epochs": 30}
    path = tmp_path_factory.mktemp("short") / "digits.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def labelled(short, prefect_home, tmp_path_factory):
    """A store with labels, and what one process alone comes to from them."""
    command = Command(short, tmp_path_factory.mktemp("labelled"), prefect_home)
    command.finish("--stage", "teacher", "--stage", "label")
    command.finish(*TRAIN, *ONE)
    expected = losses(command.store)
    for name in command.store.glob("students/*"):
        for file in name.glob("*"):
            if file.is_file():
                file.unlink()
    return command, expected


def losses(store: Path) -> list[float]:
    (folder,) = [path.parent for path in store.glob("students/*/card.json")]
    return [row["loss"] for row in read_history((folder / layout.HISTORY).read_bytes())]


def newest(store: Path) -> str:
    """The name of the newest checkpoint, or nothing."""
    return max((path.name for path in store.glob("students/*/checkpoints/step-*")), default="")


def is_later(store: Path, before: str) -> bool:
    return newest(store) > before


def training(command: Command, *arguments: str) -> subprocess.Popen[bytes]:
    """The command at work, after its first checkpoint."""
    for left in command.store.glob("students/*/checkpoints/step-*"):
        left.unlink()
    process = command.start(*TRAIN, *TWO, "--force", *arguments)
    until(lambda: newest(command.store), "a checkpoint")
    return process


def ranks(command: Command) -> list[psutil.Process]:
    """The processes that train."""
    found = [psutil.Process(pid) for pid in command.processes()]
    return [process for process in found if "spawn_main" in " ".join(process.cmdline())]


def test_killed_and_gone_on_with_by_another_number_of_processes(labelled):
    command, expected = labelled
    for number in (TWO, ONE, TWO):
        before = newest(command.store)
        reached = partial(is_later, command.store, before)
        assert command.kill_when(reached, 0.1, *TRAIN, *number)
        assert not command.processes()
    command.finish(*TRAIN, *TWO)
    assert losses(command.store) == pytest.approx(expected, rel=1e-3)
    until(lambda: not command.processes(), "the end of all processes", seconds=30.0)


def test_a_rank_that_is_killed_is_started_again(labelled):
    command, expected = labelled
    process = training(command)
    ranks(command)[-1].kill()
    result = result_of(process)
    assert result["stages"]["train"]["students"]["distilled"]["status"] == "completed"
    assert losses(command.store) == pytest.approx(expected, rel=1e-3)
    until(lambda: not command.processes(), "the end of all processes", seconds=30.0)


def test_ctrl_c_leaves_no_process_and_no_traceback(labelled):
    command, _ = labelled
    process = training(command)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in errors, errors.decode()
    until(lambda: not command.processes(), "the end of all processes", seconds=30.0)


def test_a_rank_that_dies_again_and_again_ends_the_run_in_one_line(labelled):
    command, _ = labelled
    process = training(command, "--set", "execution.retries=0")
    ranks(command)[0].kill()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    said = errors.decode()
    assert "was ended by SIGKILL (out of memory?)" in said
    assert "Traceback" not in said
    assert len([line for line in said.splitlines() if "SIGKILL" in line]) == 1
    until(lambda: not command.processes(), "the end of all processes", seconds=30.0)
