import os
import sys
from pathlib import Path
from typing import ClassVar

import fsspec
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from storage.errors import DataError, RecipeError
from storage.identity import digest_of_bytes
from storage.rows import Ragged, is_text
from storage.sources import digest_of_source, load_columns, resolve, stamp
from tests.storage.refusal import refused

SUFFIXES = [".parquet", ".csv", ".jsonl", ".ndjson", ".arrow", ".feather"]
FRAME = pl.DataFrame({"x": [1.5, 2.5, 3.5], "n": [1, 2, 3], "text": ["a", "b", "é"]})

TARGETS = """
import numpy as np, polars as pl, pyarrow as pa

class PandasLike:
    columns = ["x", "n", "text"]
    def to_dict(self): ...
    def __getitem__(self, name): return Series(COLUMNS[name])

class Series:
    def __init__(self, values): self.values = values
    def to_numpy(self):
        return np.array(self.values, object if isinstance(self.values[0], str) else None)

COLUMNS = {"x": [1.5, 2.5, 3.5], "n": [1, 2, 3], "text": ["a", "b", "é"]}
def mapping_of_lists(): return COLUMNS
def mapping_of_arrays(): return {name: np.array(values) for name, values in COLUMNS.items()}
def mapping_of_arrow(): return {name: pa.array(values) for name, values in COLUMNS.items()}
def arrow(): return pa.concat_tables([pa.table(COLUMNS).slice(0, 1), pa.table(COLUMNS).slice(1)])
def frame(): return pl.DataFrame(COLUMNS)
def pandas_like(): return PandasLike()
def number(): return 3
def uneven(): return {"x": [1, 2], "y": [1, 2, 3]}
def mixed(): return {"x": [1, "a"]}
def scalar(): return {"x": 3}
"""


@pytest.fixture
def targets(tmp_path, monkeypatch):
    """The name of a module of targets that return columns."""
    name = f"targets_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(TARGETS)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def write(frame: pl.DataFrame, path: Path) -> str:
    match path.suffix:
        case ".parquet":
            frame.write_parquet(path)
        case ".csv":
            frame.write_csv(path)
        case ".jsonl" | ".ndjson":
            frame.write_ndjson(path)
        case _:
            frame.write_ipc(path)
    return str(path)


def column_of(tmp_path: Path, values, name="data.parquet"):
    """A column as it comes back from a file."""
    source = write(pl.DataFrame({"c": values}), tmp_path / name)
    return load_columns(source, ["c"])["c"]


def assert_the_frame(columns):
    assert columns["x"].tolist() == [1.5, 2.5, 3.5]
    assert columns["n"].tolist() == [1, 2, 3]
    assert columns["text"].tolist() == ["a", "b", "é"]
    assert [is_text(columns[name]) for name in ("x", "n", "text")] == [False, False, True]


class TestFiles:
    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_each_format_is_read(self, tmp_path, suffix):
        source = write(FRAME, tmp_path / f"data{suffix}")
        assert_the_frame(load_columns(source, ["x", "n", "text"]))

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_a_suffix_may_be_written_large(self, tmp_path, suffix):
        source = write(FRAME, tmp_path / f"data{suffix}")
        upper = Path(source).rename(tmp_path / f"DATA{suffix.upper()}")
        assert load_columns(str(upper), ["n"])["n"].tolist() == [1, 2, 3]

    def test_a_url_is_read(self):
        with fsspec.open("memory://sources/data.csv", "wb") as file:
            file.write(b"x\n1\n2\n")
        assert load_columns("memory://sources/data.csv", ["x"])["x"].tolist() == [1, 2]

    def test_only_the_columns_asked_for_are_given(self, tmp_path):
        assert list(load_columns(write(FRAME, tmp_path / "a.csv"), ["n"])) == ["n"]

    @pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
    def test_whole_numbers_may_turn_into_fractions_far_down(self, tmp_path, suffix):
        path = tmp_path / f"data{suffix}"
        values = [*range(1000), 0.5]
        lines = (
            [f'{{"x": {v}}}' for v in values] if suffix == ".jsonl" else ["x", *map(str, values)]
        )
        path.write_text("\n".join(lines) + "\n")
        assert load_columns(str(path), ["x"])["x"].tolist() == values

    def test_categories_are_text(self, tmp_path):
        column = column_of(tmp_path, pl.Series(["a", "b", "a"], dtype=pl.Categorical))
        assert column.tolist() == ["a", "b", "a"]
        assert is_text(column)


class TestLists:
    @pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".arrow"])
    def test_lists_of_one_length_are_an_array(self, tmp_path, suffix):
        column = column_of(tmp_path, [[1, 2], [3, 4], [5, 6]], f"data{suffix}")
        assert column.tolist() == [[1, 2], [3, 4], [5, 6]]

    def test_lists_of_lists_keep_their_shape(self, tmp_path):
        nested = np.arange(24).reshape(4, 2, 3)
        column = column_of(tmp_path, nested.tolist())
        assert column.shape == (4, 2, 3)
        assert np.array_equal(column, nested)

    def test_fixed_size_lists_keep_their_shape(self, tmp_path):
        values = np.arange(24).reshape(4, 2, 3)
        column = column_of(tmp_path, pl.Series(values, dtype=pl.Array(pl.Int64, (2, 3))))
        assert np.array_equal(column, values)

    def test_lists_of_varying_length_are_ragged(self, tmp_path):
        column = column_of(tmp_path, [[1, 2], [], [3]])
        assert isinstance(column, Ragged)
        assert column.values_NW.tolist() == [1, 2, 3]
        assert column.lengths_B.tolist() == [2, 0, 1]

    def test_slices_of_lists_begin_where_they_should(self, targets):
        whole = pa.array([[9, 9, 9], [1, 2], [3], [9]])
        fixed = pa.array([[9, 9], [1, 2], [3, 4]], pa.list_(pa.int64(), 2))
        sys.modules[targets] = type(sys)(targets)
        sys.modules[targets].sliced = lambda: {"c": whole.slice(1, 2), "f": fixed.slice(1)}
        columns = load_columns(f"{targets}:sliced", ["c", "f"])
        assert columns["c"].values_NW.tolist() == [1, 2, 3]
        assert columns["f"].tolist() == [[1, 2], [3, 4]]

    def test_uneven_lists_within_lists_are_refused(self, tmp_path):
        with refused(DataError, "'c'", "data.parquet", "uneven"):
            column_of(tmp_path, [[[1, 2], [3]], [[4]]])

    def test_missing_values_are_refused(self, tmp_path):
        with refused(DataError, "'c'", "data.parquet", "2 missing values"):
            column_of(tmp_path, [1, None, None])

    def test_missing_values_inside_lists_are_refused(self, tmp_path):
        with refused(DataError, "'c'", "data.parquet", "missing values inside"):
            column_of(tmp_path, [[1, None], [2, 3]])


class TestTargets:
    @pytest.mark.parametrize(
        "name",
        [f"mapping_of_{kind}" for kind in ("lists", "arrays", "arrow")]
        + ["arrow", "frame", "pandas_like"],
    )
    def test_each_kind_of_table_is_read(self, targets, name):
        assert_the_frame(load_columns(f"{targets}:{name}", ["x", "n", "text"]))

    def test_another_kind_is_refused(self, targets):
        with refused(DataError, f"{targets}:number", "int", "mapping of columns"):
            load_columns(f"{targets}:number", ["x"])

    def test_columns_of_several_lengths_are_refused(self, targets):
        with refused(DataError, f"{targets}:uneven", "'x': 2", "'y': 3"):
            load_columns(f"{targets}:uneven", ["x", "y"])

    @pytest.mark.parametrize("name", ["mixed", "scalar"])
    def test_what_is_no_column_is_refused(self, targets, name):
        with refused(DataError, "'x'", f"{targets}:{name}"):
            load_columns(f"{targets}:{name}", ["x"])

    def test_a_missing_target_is_refused(self, targets):
        with refused(RecipeError, f"{targets}:none"):
            load_columns(f"{targets}:none", ["x"])


class TestWrongSources:
    def test_an_unknown_column_lists_those_there(self, tmp_path):
        source = write(FRAME, tmp_path / "data.csv")
        with refused(DataError, source, "no column 'y'", "x, n, text"):
            load_columns(source, ["x", "y"])

    def test_a_missing_file_is_refused(self, tmp_path):
        source = str(tmp_path / "none.csv")
        with refused(DataError, "data.source", source, "no such file"):
            load_columns(source, ["x"])

    def test_an_unknown_protocol_is_refused(self):
        with refused(DataError, "data.source", "nowhere://a.csv", "Protocol not known"):
            load_columns("nowhere://a.csv", ["x"])

    @pytest.mark.parametrize("name", ["data.xlsx", "data", "data.csv.gz"])
    def test_an_unknown_suffix_lists_the_known(self, name):
        with refused(DataError, name, ".parquet, .csv, .jsonl", "package.module:name"):
            load_columns(f"/data/{name}", ["x"])

    @pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".arrow"])
    def test_a_damaged_file_is_refused(self, tmp_path, suffix):
        path = tmp_path / f"data{suffix}"
        path.write_bytes(b"nonsense")
        with refused(DataError, str(path), "cannot be read"):
            load_columns(str(path), ["x"])

    @pytest.mark.parametrize("suffix", [".parquet", ".csv", ".arrow"])
    def test_a_file_without_rows_is_refused(self, tmp_path, suffix):
        source = write(FRAME.clear(), tmp_path / f"data{suffix}")
        with refused(DataError, source, "no rows"):
            load_columns(source, ["x"])

    def test_an_empty_file_is_refused(self, tmp_path):
        (tmp_path / "data.csv").write_bytes(b"")
        with refused(DataError, "data.csv"):
            load_columns(str(tmp_path / "data.csv"), ["x"])


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
            load_columns(source, ["x"])


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
