"""Scratch folders go with their owner, however it ends."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from storage.errors import StoreError
from storage.scratch import SCRATCH, Scratch, remove_abandoned
from tests.storage.refusal import refused

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import os, signal, sys
from storage.scratch import Scratch
scratch = Scratch()
(scratch.path / "file").write_text("x")
print(scratch.path)
sys.stdout.flush()
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "failed":
    raise ValueError
"""


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setenv(SCRATCH, str(tmp_path / "scratch"))
    return tmp_path / "scratch"


def ended(how: str) -> Path:
    """The folder of a process that has ended."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], cwd=ROOT, check=False, capture_output=True, text=True
    )
    return Path(done.stdout.strip())


def test_it_goes_when_its_object_goes(base):
    scratch = Scratch()
    assert scratch.path.parent == base
    (scratch.path / "file").write_text("x")
    del scratch
    gc.collect()
    assert list(base.iterdir()) == []


def test_it_can_be_removed_early_and_again(base):
    scratch = Scratch()
    scratch.remove()
    scratch.remove()
    assert list(base.iterdir()) == []


@pytest.mark.parametrize("how", ["done", "failed"])
def test_it_goes_when_its_process_ends(base, how):
    assert ended(how).parent == base
    assert list(base.iterdir()) == []


def test_what_a_killed_process_left_is_removed_by_the_next(base):
    left = ended("killed")
    assert (left / "file").exists()
    scratch = Scratch()
    assert list(base.iterdir()) == [scratch.path]


def test_what_is_in_use_or_not_ours_stays(base):
    scratch = Scratch()
    (base / "spool-of-nobody").mkdir()
    (base / "other").mkdir()
    remove_abandoned(base)
    assert {path.name for path in base.iterdir()} == {scratch.path.name, "spool-of-nobody", "other"}


def test_a_fork_does_not_remove_it(base):
    scratch = Scratch()
    program = (
        "import os, sys; from storage.scratch import Scratch; s = Scratch()\n"
        "if os.fork() == 0: sys.exit()\n"
        "os.wait(); print(s.path.exists())"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == "True"
    assert scratch.path.exists()


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(SCRATCH, str(tmp_path / "file"))
    with refused(StoreError, str(tmp_path / "file"), SCRATCH, "another folder"):
        Scratch()
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
