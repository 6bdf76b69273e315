import os
import zipfile
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import DataError
from storage.input_options import FileOptions
from storage.listing import list_files, pattern_of
from tests.storage.refusal import refused

ALL = FileOptions()
TREE = {
    "a.txt": "1",
    "b/c.txt": "22",
    "b/d.py": "333",
    "b/e/f.txt": "4444",
    "b/e/g.TXT": "55555",
    ".hidden/x.txt": "6",
    "b/.x.txt": "7",
}


@pytest.fixture
def tree(tmp_path) -> Path:
    for name, content in TREE.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path / "tree"


def names(*sources, options=ALL, suffixes=()) -> list[str]:
    return [file.name for file in list_files([str(s) for s in sources], options, suffixes).files]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("**/*.txt", ["a.txt", "b/c.txt", "b/e/f.txt"]),
        ("*.txt", ["a.txt"]),
        ("**", ["a.txt", "b/c.txt", "b/d.py", "b/e/f.txt", "b/e/g.TXT"]),
        ("*/?.txt", ["b/c.txt"]),
        ("b/[!d].*", ["c.txt"]),
        ("b/[cd].*", ["c.txt", "d.py"]),
        ("**/e/*", ["b/e/f.txt", "b/e/g.TXT"]),
    ],
)
def test_a_pattern_finds_files_named_after_where_it_begins(tree, pattern, expected):
    assert names(tree / pattern) == expected


def test_a_folder_is_searched_for_suffixes_in_either_case(tree):
    assert names(tree, suffixes=(".txt",)) == ["a.txt", "b/c.txt", "b/e/f.txt", "b/e/g.TXT"]
    assert names(f"{tree}/b/e/") == ["f.txt", "g.TXT"]


def test_a_file_alone_is_named_after_itself(tree):
    assert names(tree / "b/d.py") == ["d.py"]
    assert names(tree / "b/d.py", tree / "a.txt") == ["a.txt", "b/d.py"]


def test_several_patterns_share_a_root_and_find_each_file_once(tree):
    assert names(tree / "b/*.txt", tree / "b/e/*.txt", tree / "b/**/c.txt") == ["c.txt", "e/f.txt"]


def test_names_and_the_choice_stay_when_the_folder_moves(tree, tmp_path):
    before = names(tree / "**", options=FileOptions(limit=3))
    moved = tree.rename(tmp_path / "elsewhere")
    assert names(moved / "**", options=FileOptions(limit=3)) == before
    assert len(before) == 3


def test_a_limit_chooses_the_same_files_of_a_folder_that_grows(tree):
    before = set(names(tree, options=FileOptions(limit=3)))
    (tree / "new.txt").write_text("8")
    after = set(names(tree, options=FileOptions(limit=3)))
    assert len(before & after) >= 2


def test_sizes_and_patterns_leave_files_out(tree):
    assert names(tree, options=FileOptions(min_bytes=2, max_bytes=3)) == ["b/c.txt", "b/d.py"]
    assert names(tree, options=FileOptions(exclude=("**/*.txt", "b/e/**"))) == ["b/d.py"]


def test_links_pipes_and_links_to_folders_are_no_files(tree):
    (tree / "link.txt").symlink_to(tree / "a.txt")
    (tree / "loop").symlink_to(tree, target_is_directory=True)
    os.mkfifo(tree / "pipe.txt")
    assert names(tree / "**/*.txt") == ["a.txt", "b/c.txt", "b/e/f.txt"]


def test_a_name_that_is_no_utf8_is_written_with_escapes(tmp_path):
    (tmp_path / os.fsdecode(b"x\xff.txt")).write_text("1")
    assert names(tmp_path) == [r"x\xff.txt"]


def test_the_stamp_changes_with_a_file_and_with_the_choice(tree):
    def stamp(options=ALL):
        return list_files([str(tree)], options).stamp

    before = stamp()
    assert stamp() == before
    assert stamp(FileOptions(limit=2)) != before
    (tree / "a.txt").write_text("longer")
    assert stamp() != before


def test_files_inside_a_zip_and_on_other_file_systems(tree, tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name in TREE:
            archive.write(tree / name, name)
    url = f"zip://**/*.txt::{tmp_path}/all.zip"
    assert names(url) == ["a.txt", "b/c.txt", "b/e/f.txt"]
    memory = MemoryFileSystem()
    memory.pipe({f"/listing/{name}": content.encode() for name, content in TREE.items()})
    assert names("memory://listing/b/**/*.txt") == ["c.txt", "e/f.txt"]
    memory.rm("/listing", recursive=True)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nowhere/", ["there is no such folder", "nowhere"]),
        ("*.nothing", ["no files", ".nothing"]),
        ("nope://y", ["nope://y", "cannot be opened"]),
    ],
)
def test_what_cannot_be_listed_is_said(tree, source, words):
    where = source if "://" in source else str(tree / source)
    with refused(DataError, *words):
        list_files([where], ALL)


LETTERS = st.text("ab.[]*?", min_size=1, max_size=4)


@given(
    st.lists(
        LETTERS.filter(lambda part: "*" not in part and "?" not in part and "[" not in part),
        min_size=1,
        max_size=4,
    )
)
def test_a_path_without_wildcards_is_its_own_pattern(parts):
    path = "/".join(parts)
    assert pattern_of(path).fullmatch(path)
    assert not pattern_of(path).fullmatch(path + "x")
    assert pattern_of("**/" + parts[-1]).fullmatch(path)
