import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import storage.files
from storage.errors import StoreError
from storage.files import Folder
from tests.storage.folder_contract import TreeContract
from tests.storage.refusal import refused

ROOT = Path(storage.files.__file__).parents[1]


class TestLocalFolder(TreeContract):
    @pytest.fixture
    def url(self, tmp_path):
        return str(tmp_path / "store")

    def test_it_is_written_as_a_path(self, folder, url):
        assert folder.is_local
        assert folder.url == url
        assert folder.url_of("a/b.bin") == f"{url}/a/b.bin"
        assert Folder.open(f"file://{url}").url == url

    def test_a_relative_path_is_made_absolute(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert Folder.open("store").path == str(tmp_path / "store")

    def test_an_error_in_the_middle_leaves_the_old_file(self, folder, url, monkeypatch):
        folder.write_bytes("a.bin", b"old")

        def fail(descriptor):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", fail)
        with refused(StoreError, folder.url_of("a.bin"), "No space left on device"):
            folder.write_bytes("a.bin", b"new")
        assert folder.read_bytes("a.bin") == b"old"
        assert _names(url) == ["a.bin"]

    @pytest.mark.parametrize("moment", ["fsync", "replace"])
    def test_a_kill_in_the_middle_leaves_the_old_file(self, folder, url, moment):
        folder.write_bytes("a.bin", b"old")
        process = _run(
            f"""
            import os, signal
            os.{moment} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            Folder.open(where).write_bytes("a.bin", b"new" * 1000)
            """,
            url,
        )
        assert process.returncode == -signal.SIGKILL
        assert folder.read_bytes("a.bin") == b"old"
        assert folder.sizes() == {"a.bin": 3}
        assert len(_names(url)) == 2
        folder.remove_stale_temporaries()
        assert _names(url) == ["a.bin"]

    def test_what_is_being_written_stays(self, folder, url, monkeypatch):
        def removing(_):
            folder.remove_stale_temporaries()
            assert len(_names(url)) == 1

        monkeypatch.setattr(os, "fsync", removing)
        folder.write_bytes("a.bin", b"1")
        assert folder.read_bytes("a.bin") == b"1"

    def test_a_kill_while_creating_leaves_no_file(self, folder, url):
        process = _run(
            """
            import os, signal
            os.link = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
            Folder.open(where).create("a.bin", b"new" * 1000)
            """,
            url,
        )
        assert process.returncode == -signal.SIGKILL
        assert folder.sizes() == {}
        assert folder.create("a.bin", b"next")

    def test_a_file_is_created_once_without_hard_links_too(self, folder, url, monkeypatch):
        def fail(*_, **__):
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", fail)
        assert folder.create("a.bin", b"first")
        assert not folder.create("a.bin", b"second")
        assert folder.read_bytes("a.bin") == b"first"
        assert _names(url) == ["a.bin"]

    def test_what_killed_writers_left_is_removed_after_an_hour(self, folder, url):
        left = [Path(url, "deep", f".a.bin.1-{age}.tmp") for age in ("old", "new")]
        folder.write_bytes("deep/a.bin", b"1")
        for path in left:
            path.write_bytes(b"half")
        os.utime(left[0], (0, 0))
        folder.remove_stale_temporaries()
        assert [path.exists() for path in left] == [False, True]
        assert folder.read_bytes("deep/a.bin") == b"1"

    def test_a_full_disk_publishes_nothing(self, folder, url):
        folder.write_bytes("a.bin", b"old")
        process = _run(
            """
            import resource
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
            try:
                Folder.open(where).write_bytes("a.bin", b"x" * 2000)
            except StoreError as error:
                print(error)
            """,
            url,
        )
        assert process.stdout == f"cannot write {url}/a.bin: File too large\n"
        assert folder.read_bytes("a.bin") == b"old"
        assert _names(url) == ["a.bin"]

    def test_a_file_in_the_place_of_the_folder_is_no_folder(self, tmp_path):
        (tmp_path / "store").write_bytes(b"")
        with refused(StoreError, str(tmp_path / "store")):
            Folder.open(tmp_path / "store").require_writable()


class TestOpen:
    def test_an_unknown_protocol_is_refused(self):
        with refused(StoreError, "'nowhere://bucket/x'", "nowhere"):
            Folder.open("nowhere://bucket/x")

    def test_a_folder_need_not_be_there(self, tmp_path):
        assert Folder.open(tmp_path / "none").sizes() == {}
        assert not (tmp_path / "none").exists()

    def test_an_unreachable_store_is_a_store_error(self, tmp_path):
        (tmp_path / "broken.zip").write_bytes(b"no archive")
        with refused(StoreError, "zip"):
            Folder.open(f"zip://below::{tmp_path}/broken.zip").read_bytes("a.bin")


def _names(folder: str) -> list[str]:
    return [path.name for path in Path(folder).iterdir()]


def _run(script: str, where: str) -> subprocess.CompletedProcess[str]:
    lines = [line.removeprefix(" " * 12) for line in script.splitlines()]
    head = f"from storage.files import Folder, StoreError\nwhere = {where!r}\n"
    return subprocess.run(
        [sys.executable, "-c", head + "\n".join(lines)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
