import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import storage.files
from storage.errors import StoreError
from storage.files import Folder
from tests.storage.refusal import refused

ROOT = Path(storage.files.__file__).parents[1]


class FolderContract:
    """What a folder keeps, wherever it lies. A back end says where."""

    @pytest.fixture
    def url(self, tmp_path):
        raise NotImplementedError

    @pytest.fixture
    def folder(self, url):
        return Folder.open(url)

    def test_what_is_written_is_read(self, folder):
        folder.write_bytes("a.bin", b"\x00\xff")
        assert folder.read_bytes("a.bin") == b"\x00\xff"

    def test_an_empty_file_is_a_file(self, folder):
        folder.write_bytes("empty", b"")
        assert folder.exists("empty")
        assert folder.read_bytes("empty") == b""
        assert folder.sizes() == {"empty": 0}

    def test_writing_again_replaces_all_of_it(self, folder):
        folder.write_bytes("a.bin", b"a long content")
        folder.write_bytes("a.bin", b"short")
        assert folder.read_bytes("a.bin") == b"short"
        assert folder.sizes() == {"a.bin": 5}

    def test_writing_makes_the_folders_on_the_way(self, folder):
        folder.write_bytes("a/b/c.bin", b"1")
        assert folder.read_bytes("a/b/c.bin") == b"1"
        assert (folder / "a" / "b").read_bytes("c.bin") == b"1"
        assert (folder / "a/b").sizes() == {"c.bin": 1}

    def test_opening_again_finds_the_same(self, folder, url):
        folder.write_bytes("a.bin", b"1")
        assert Folder.open(url).read_bytes("a.bin") == b"1"
        assert Folder.open(folder.url).read_bytes("a.bin") == b"1"
        assert Folder.open(f"{folder.url}/").sizes() == {"a.bin": 1}

    def test_reading_a_missing_file_says_which(self, folder):
        with refused(StoreError, folder.url_of("none.bin"), "no such file"):
            folder.read_bytes("none.bin")

    def test_a_missing_file_does_not_exist(self, folder):
        assert not folder.exists("none.bin")
        assert not folder.exists("a/none.bin")

    def test_delete_removes_one_file(self, folder):
        folder.write_bytes("a.bin", b"1")
        folder.write_bytes("b.bin", b"2")
        folder.delete("a.bin")
        assert folder.sizes() == {"b.bin": 1}

    def test_deleting_a_missing_file_is_no_error(self, folder):
        folder.delete("none.bin")

    def test_sizes_are_of_this_folder_only(self, folder):
        folder.write_bytes("a.bin", b"123")
        folder.write_bytes("below/b.bin", b"12345")
        assert folder.sizes() == {"a.bin": 3}

    def test_folders_are_those_right_below(self, folder):
        for name in ("z/1/file", "a/file", "file"):
            folder.write_bytes(name, b"1")
        assert folder.folders() == ["a", "z"]
        assert folder.exists("z/1")

    def test_a_folder_that_is_not_there_is_empty(self, folder):
        assert (folder / "none").sizes() == {}
        assert (folder / "none").folders() == []

    def test_what_another_writes_is_seen(self, folder, url):
        assert folder.sizes() == {}
        Folder.open(url).write_bytes("later/a.bin", b"1")
        assert folder.folders() == ["later"]
        assert folder.exists("later/a.bin")

    @pytest.mark.parametrize(
        "name", ["../a", "a/../../b", "/etc/passwd", "", ".", "..", "a\\..\\b", "a/.."]
    )
    def test_a_name_never_leaves_the_folder(self, folder, name):
        for use in (
            lambda: folder.write_bytes(name, b"1"),
            lambda: folder.read_bytes(name),
            lambda: folder.delete(name),
            lambda: folder.exists(name),
            lambda: folder / name,
        ):
            with refused(StoreError, repr(name), folder.url):
                use()

    def test_a_writable_folder_proves_it_and_is_left_as_it_was(self, folder):
        folder.write_bytes("a.bin", b"1")
        folder.require_writable()
        assert folder.sizes() == {"a.bin": 1}

    def test_below_a_file_nothing_can_be_written(self, folder):
        folder.write_bytes("file", b"1")
        with refused(StoreError, folder.url_of("file/a.bin")):
            folder.write_bytes("file/a.bin", b"2")
        with refused(StoreError, folder.url_of("file")):
            (folder / "file").require_writable()
        assert folder.read_bytes("file") == b"1"

    def test_stale_temporaries_are_no_error(self, folder):
        folder.remove_stale_temporaries()


class TestLocalFolder(FolderContract):
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


class TestMemoryFolder(FolderContract):
    @pytest.fixture
    def url(self):
        url = f"memory://contract-{secrets.token_hex(4)}"
        yield url
        folder = Folder.open(url)
        if folder.filesystem.exists(folder.path):
            folder.filesystem.rm(folder.path, recursive=True)

    def test_it_is_written_as_a_url(self, folder):
        assert not folder.is_local
        assert folder.url.startswith("memory://")
        assert folder.url_of("a/b.bin") == f"{folder.url}/a/b.bin"


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
