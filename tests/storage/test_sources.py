import os
import sys
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from storage.chunks import read_chunks
from storage.errors import DataError, RecipeError
from storage.identity import digest_of_bytes
from storage.sources import digest_of_source, resolve, stamp, stamps
from tests.storage.refusal import refused


@pytest.fixture
def targets(tmp_path, monkeypatch):
    """The name of a module with a target `frame`."""
    name = f"targets_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text("def frame():\n    return {'x': [1]}\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


class TestResolve:
    def test_a_path_is_relative_to_the_recipe(self, tmp_path):
        assert resolve("data/a.csv", tmp_path) == str(tmp_path / "data" / "a.csv")
        assert resolve("../a.csv", tmp_path / "recipes") == str(tmp_path / "a.csv")
        assert resolve("/data/a.csv", tmp_path) == "/data/a.csv"
        assert resolve("~/a.csv", tmp_path) == str(Path.home() / "a.csv")

    @pytest.mark.parametrize(
        "source", ["package.module:name", "s3://bucket/a.csv", "zip://a.csv::b.zip"]
    )
    def test_targets_and_urls_stay_as_they_are(self, source, tmp_path):
        assert resolve(source, tmp_path) == source


class Untold(MemoryFileSystem):
    """A file system that says of a file no more than its size."""

    protocol = "untold"
    store: ClassVar = {}
    pseudo_dirs: ClassVar = [""]

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("untold://"))

    def info(self, path, **kwargs):
        return {"name": path, "size": len(self.cat_file(path)), "type": "file"}


fsspec.register_implementation("untold", Untold, clobber=True)


class TestStamp:
    def test_it_changes_with_the_file_and_not_otherwise(self, tmp_path):
        path = tmp_path / "a.csv"
        path.write_text("x\n1\n")
        first = stamp(str(path), None)
        path.read_text()
        assert stamp(str(path), None) == first
        path.write_text("x\n1\n2\n")
        longer = stamp(str(path), None)
        os.utime(path, (1, 1))
        assert len({str(s) for s in (first, longer, stamp(str(path), None))}) == 3

    def test_a_file_put_in_its_place_changes_it(self, tmp_path):
        path, other = tmp_path / "a.csv", tmp_path / "b.csv"
        for each in (path, other):
            each.write_text("x\n1\n")
            os.utime(each, (1, 1))
        before = stamp(str(path), None)
        other.write_text("x\n2\n")
        os.utime(other, (1, 1))
        other.replace(path)
        assert stamp(str(path), None) != before

    def test_files_elsewhere_have_one_too(self):
        with fsspec.open("memory://stamp/a.csv", "wb") as file:
            file.write(b"x\n1\n")
        first = stamp("memory://stamp/a.csv", None)
        assert first == stamp("memory://stamp/a.csv", None)
        with fsspec.open("memory://stamp/a.csv", "wb") as file:
            file.write(b"x\n2\n")
        assert first is not None
        assert first != stamp("memory://stamp/a.csv", None)

    def test_where_nothing_can_tell_there_is_none(self):
        Untold().pipe_file("a.csv", b"x\n1\n")
        assert stamp("untold://a.csv", None) is None

    def test_a_missing_file_is_refused(self, tmp_path):
        with refused(DataError, str(tmp_path / "none.csv"), "no such file"):
            stamp(str(tmp_path / "none.csv"), None)

    def test_an_unknown_protocol_is_refused(self):
        with refused(DataError, "nowhere://a.csv"):
            stamp("nowhere://a.csv", None)

    def test_a_target_has_one_with_a_version_only(self, targets):
        assert stamp(f"{targets}:frame", None) is None
        one, two = (stamp(f"{targets}:frame", version) for version in ("1", "2"))
        assert one is not None
        assert one != two
        assert one == stamp(f"{targets}:frame", "1")

    def test_a_targets_stamp_changes_with_its_file(self, targets, tmp_path):
        before = stamp(f"{targets}:frame", "1")
        os.utime(tmp_path / f"{targets}.py", (1, 1))
        assert stamp(f"{targets}:frame", "1") != before

    @pytest.mark.parametrize("source", ["nothing_there:name", "nothing.there:name"])
    def test_a_missing_target_is_left_to_the_loading(self, source):
        assert stamp(source, "1") is not None
        with refused(RecipeError, source):
            list(read_chunks([source], ["x"]))


class TestStampOfSeveral:
    def test_that_of_a_pattern_changes_with_its_files(self, tmp_path):
        pattern = f"{tmp_path}/**/*.csv"
        found = []
        for name, content in (("a", "1"), ("b/c", "1"), ("b/c", "12")):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / f"{name}.csv").write_text(content)
            found.append(stamp(pattern, None))
        assert len({str(entry) for entry in found}) == 3
        (tmp_path / "a.txt").write_text("")
        assert stamp(pattern, None) == found[-1]

    def test_that_of_one_source_is_its_own(self, tmp_path):
        (tmp_path / "a.csv").write_text("x")
        source = str(tmp_path / "a.csv")
        assert stamps([source], None) == stamp(source, None)
        assert stamps([source, source], None) == [stamp(source, None)] * 2

    def test_where_nothing_can_tell_of_one_there_is_none(self, tmp_path, targets):
        (tmp_path / "a.csv").write_text("x")
        assert stamps([str(tmp_path / "a.csv"), f"{targets}:frame"], None) is None

    def test_a_pattern_that_finds_nothing_is_refused(self, tmp_path):
        with refused(DataError, "no files", f"{tmp_path}/*.csv"):
            stamp(f"{tmp_path}/*.csv", None)


class TestDigestOfSource:
    def test_it_is_the_sha256_of_the_content(self, store, tmp_path):
        (tmp_path / "weights").write_bytes(b"1")
        assert digest_of_source(store, str(tmp_path / "weights")) == digest_of_bytes(b"1")

    def test_it_is_kept_until_the_file_changes(self, store, tmp_path):
        path = tmp_path / "weights"
        path.write_bytes(b"1")
        digest_of_source(store, str(path))
        kept = _kept(store)
        assert digest_of_source(store, str(path)) == digest_of_bytes(b"1")
        assert _kept(store) == kept
        path.write_bytes(b"23")
        assert digest_of_source(store, str(path)) == digest_of_bytes(b"23")

    def test_a_damaged_note_of_it_is_made_again(self, store, tmp_path):
        path = tmp_path / "weights"
        path.write_bytes(b"1")
        digest_of_source(store, str(path))
        (note,) = _kept(store)
        sealed = note.read_bytes()
        note.write_bytes(sealed[:-9])
        assert digest_of_source(store, str(path)) == digest_of_bytes(b"1")
        assert note.read_bytes() == sealed

    def test_where_nothing_can_tell_it_is_not_kept(self, store):
        for content in (b"1", b"2"):
            Untold().pipe_file("weights", content)
            assert digest_of_source(store, "untold://weights") == digest_of_bytes(content)

    def test_a_missing_file_is_refused(self, store, tmp_path):
        with refused(DataError, str(tmp_path / "none"), "no such file"):
            digest_of_source(store, str(tmp_path / "none"))


def _kept(store) -> list[Path]:
    return [path for path in Path(store.path).rglob("*") if path.is_file()]
