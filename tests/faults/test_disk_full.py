"""No space in the middle of a shard: one clear line, nothing there, and a later run completes."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from storage.files import Folder
from storage.reader import LabelSet
from storage.verify import verify
from tests.faults.command import Command
from tests.storage.toy import SET_FINGERPRINT, toy_spec, write_toy_set

ROOT = Path(__file__).resolve().parents[2]

_WRITE = """
import sys
from storage.errors import StoreError
from storage.files import Folder
from tests.storage.toy import toy_spec, write_toy_shard

folder = Folder.open(sys.argv[1])
try:
    write_toy_shard(folder, toy_spec(), "train", 0, range(3000))
except StoreError as error:
    print(error)
"""


def limit(size_bytes: int) -> None:
    """No file may grow beyond; writing more is an error, and not a signal that kills."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, size_bytes))


@pytest.mark.parametrize("size_bytes", [0, 1000, 20_000])
def test_a_shard_that_does_not_fit_is_not_there(tmp_path, size_bytes):
    url = str(tmp_path / "labels" / SET_FINGERPRINT)
    done = subprocess.run(
        [sys.executable, "-c", _WRITE, url],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        preexec_fn=lambda: limit(size_bytes),
    )
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"cannot write {url}/shards/train-0000000-")
    assert line.endswith("File too large")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    labels = write_toy_set(Folder.open(tmp_path), toy_spec(), train=3000, rows_per_shard=3000)
    assert list(verify(labels.folder)) == []
    labels.close()


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.skipif(os.geteuid() != 0, reason="a small disk can be mounted by root alone")
def test_the_command_on_a_full_disk_goes_on_when_there_is_room(
    recipe,
    prefect_home,
    uninterrupted,
    tmp_path,
):
    expected, _ = uninterrupted
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], check=False
    )
    if mount.returncode != 0:
        pytest.skip("no small disk can be mounted here")
    try:
        command = Command(recipe, disk / "store", prefect_home)
        process = command.start()
        output, errors = process.communicate(timeout=600)
        assert process.returncode == 1
        assert output == b""
        last = errors.decode().splitlines()[-1]
        assert last.startswith("softlabel: ")
        assert "No space left on device" in last or "are free; make room" in last
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        result = command.finish()
        assert result["stages"]["label"]["digest"] == expected["stages"]["label"]["digest"]
        assert list(verify(Folder.open(str(command.store)))) == []
        labels = LabelSet.open(result["stages"]["label"]["url"])
        assert sum(len(rows["sample_id"]) for rows in labels.batches("train")) > 1000
        labels.close()
    finally:
        subprocess.run(["umount", str(disk)], check=True)
