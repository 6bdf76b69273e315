"""What a folder keeps, wherever it lies: a class that every back end's tests inherit."""

import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage.errors import StoreError
from storage.files import Folder
from tests.storage.refusal import refused

WRITERS = 8
ODD_NAMES = (
    "with space.bin",
    "ünïcödé-日本.bin",
    "a+b&c=d%20e.bin",
    "brackets[0]{1}*.bin",
    "hash#and?question.bin",
    "~tilde'quote.bin",
)


class FolderContract:
    """A back end gives `url`, the place of a new folder, and inherits the rest."""

    @pytest.fixture
    def url(self):
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

    def test_a_big_file_is_read_as_it_was_written(self, folder):
        content = os.urandom(20_000_000)
        folder.write_bytes("big.bin", content)
        assert folder.read_bytes("big.bin") == content
        assert folder.sizes() == {"big.bin": len(content)}

    def test_writing_again_replaces_all_of_it(self, folder):
        folder.write_bytes("a.bin", b"a long content")
        folder.write_bytes("a.bin", b"short")
        assert folder.read_bytes("a.bin") == b"short"
        assert folder.sizes() == {"a.bin": 5}

    def test_a_reader_sees_the_old_content_or_the_new(self, folder):
        contents = [bytes([number]) * 100_000 for number in range(10)]
        folder.write_bytes("a.bin", contents[0])
        ended = threading.Event()

        def write():
            for content in contents:
                folder.write_bytes("a.bin", content)
            ended.set()

        with ThreadPoolExecutor() as pool:
            writing = pool.submit(write)
            while not ended.is_set() and not writing.done():
                assert folder.read_bytes("a.bin") in contents
            writing.result()
        assert folder.read_bytes("a.bin") == contents[-1]

    def test_of_several_writers_one_content_stays_whole(self, folder):
        contents = [bytes([number]) * (50_000 + number) for number in range(WRITERS)]
        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(lambda content: folder.write_bytes("a.bin", content), contents))
        assert folder.read_bytes("a.bin") in contents
        assert list(folder.sizes()) == ["a.bin"]

    def test_writing_makes_the_folders_on_the_way(self, folder):
        folder.write_bytes("a/b/c.bin", b"1")
        assert folder.read_bytes("a/b/c.bin") == b"1"
        assert (folder / "a" / "b").read_bytes("c.bin") == b"1"
        assert (folder / "a/b").sizes() == {"c.bin": 1}

    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_odd_names_are_names(self, folder, name):
        folder.write_bytes(f"{name}/{name}", b"1")
        assert folder.folders() == [name]
        below = folder / name
        assert below.sizes() == {name: 1}
        assert below.exists(name)
        assert below.read_many([name]) == {name: b"1"}
        assert not below.create(name, b"2")
        below.delete(name)
        assert below.sizes() == {}

    def test_opening_again_finds_the_same(self, folder, url):
        folder.write_bytes("a.bin", b"1")
        (folder / "b").write_bytes("c.bin", b"22")
        assert Folder.open(url).read_bytes("a.bin") == b"1"
        assert Folder.open(folder.url).read_bytes("a.bin") == b"1"
        assert Folder.open(f"{folder.url}/").sizes() == {"a.bin": 1}
        assert Folder.open(folder.url_of("b")).sizes() == {"c.bin": 2}

    def test_a_handle_can_be_sent_to_another_process(self, folder):
        folder.write_bytes("a.bin", b"1")
        assert pickle.loads(pickle.dumps(folder)).read_bytes("a.bin") == b"1"

    def test_reading_a_missing_file_says_which(self, folder):
        with refused(StoreError, folder.url_of("none.bin"), "no such file"):
            folder.read_bytes("none.bin")

    def test_a_missing_file_does_not_exist(self, folder):
        assert not folder.exists("none.bin")
        assert not folder.exists("a/none.bin")

    def test_a_file_is_created_once(self, folder):
        assert folder.create("a/b.bin", b"first")
        assert not folder.create("a/b.bin", b"second")
        assert not folder.create("a/b.bin", b"first")
        assert folder.read_bytes("a/b.bin") == b"first"
        folder.delete("a/b.bin")
        assert folder.create("a/b.bin", b"third")
        assert (folder / "a").sizes() == {"b.bin": 5}

    def test_of_several_creators_one_succeeds(self, folder):
        contents = [bytes([number]) * 50_000 for number in range(WRITERS)]
        start = threading.Barrier(WRITERS)

        def create(content):
            start.wait()
            return folder.create("a.bin", content)

        with ThreadPoolExecutor(WRITERS) as pool:
            created = list(pool.map(create, contents))
        assert created.count(True) == 1
        assert folder.read_bytes("a.bin") == contents[created.index(True)]
        assert list(folder.sizes()) == ["a.bin"]

    def test_many_files_are_read_at_once(self, folder):
        contents = {f"below/{number}.json": b"%d" % number for number in range(40)}
        for name, content in contents.items():
            folder.write_bytes(name, content)
        names = [*contents, "none.json", "below/none.json"]
        assert folder.read_many(names) == contents
        assert list(folder.read_many(reversed(names))) == list(reversed(contents))
        assert folder.read_many([]) == {}

    def test_parts_of_a_file_are_read(self, folder):
        folder.write_bytes("a.bin", bytes(range(100)))
        with folder.open_file("a.bin", 100) as file:
            file.seek(-10, os.SEEK_END)
            assert file.read(4) == bytes(range(90, 94))
            assert file.read() == bytes(range(94, 100))
            assert file.read(1) == b""
        with refused(StoreError, folder.url_of("none.bin"), "no such file"):
            folder.open_file("none.bin", 10).read(1)

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
        assert not folder.exists("later/a.bin")
        Folder.open(url).write_bytes("later/a.bin", b"1")
        assert folder.folders() == ["later"]
        assert folder.exists("later/a.bin")
        assert folder.read_bytes("later/a.bin") == b"1"
        Folder.open(url).delete("later/a.bin")
        assert (folder / "later").sizes() == {}
        assert not folder.exists("later/a.bin")

    @pytest.mark.parametrize(
        "name", ["../a", "a/../../b", "/etc/passwd", "", ".", "..", "a\\..\\b", "a/.."]
    )
    def test_a_name_never_leaves_the_folder(self, folder, name):
        for use in (
            lambda: folder.write_bytes(name, b"1"),
            lambda: folder.create(name, b"1"),
            lambda: folder.read_bytes(name),
            lambda: folder.read_many([name]),
            lambda: folder.open_file(name, 1),
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

    def test_stale_temporaries_are_no_error(self, folder):
        folder.remove_stale_temporaries()


class TreeContract(FolderContract):
    """Where folders are things of their own, and a file is none."""

    def test_below_a_file_nothing_can_be_written(self, folder):
        folder.write_bytes("file", b"1")
        with refused(StoreError, folder.url_of("file/a.bin")):
            folder.write_bytes("file/a.bin", b"2")
        with refused(StoreError, folder.url_of("file/a.bin")):
            folder.create("file/a.bin", b"2")
        with refused(StoreError, "/file/probe-"):
            (folder / "file").require_writable()
        assert folder.read_bytes("file") == b"1"
