import sys
from pathlib import Path

import fsspec
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from storage.chunks import read_chunks
from storage.errors import DataError, RecipeError
from storage.lists import as_ragged
from storage.rows import Column, Ragged, concatenate, is_text, num_rows
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

def pieces():
    for start in range(3):
        yield {name: values[start : start + 1] for name, values in COLUMNS.items()}
def frames(): return iter([pl.DataFrame(COLUMNS).head(1), pl.DataFrame(COLUMNS).tail(2)])
def failing():
    yield COLUMNS
    raise OSError("the disk\\nis gone")
def nothing(): return iter([])
def large(): return {"x": np.arange(40_000), "n": np.arange(40_000)}
"""


@pytest.fixture
def targets(tmp_path, monkeypatch):
    """The name of a module of targets that return columns."""
    name = f"targets_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(TARGETS)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def load_columns(source: str | list[str], wanted: list[str]) -> dict[str, Column]:
    """All chunks of a source, joined."""
    sources = [source] if isinstance(source, str) else source
    chunks = list(read_chunks(sources, wanted))
    varying = {name for chunk in chunks for name in wanted if isinstance(chunk[name], Ragged)}
    return concatenate(
        [{n: as_ragged(c) if n in varying else c for n, c in chunk.items()} for chunk in chunks]
    )


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

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_files_elsewhere_are_read_too(self, tmp_path, suffix):
        content = Path(write(FRAME, tmp_path / f"data{suffix}")).read_bytes()
        url = f"memory://elsewhere/data{suffix}"
        with fsspec.open(url, "wb") as file:
            file.write(content)
        assert_the_frame(load_columns(url, ["x", "n", "text"]))

    @pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl", ".arrow"])
    def test_no_chunk_is_large(self, tmp_path, suffix):
        frame = pl.DataFrame({"n": range(40_000)})
        chunks = list(read_chunks([write(frame, tmp_path / f"data{suffix}")], ["n"]))
        assert len(chunks) > 1
        assert max(map(num_rows, chunks)) <= 20_000
        assert np.concatenate([chunk["n"] for chunk in chunks]).tolist() == list(range(40_000))

    def test_chunks_of_large_rows_are_short(self, tmp_path):
        frame = pl.DataFrame({"c": np.zeros((64, 1 << 17))})
        source = write(frame, tmp_path / "data.parquet")
        assert max(map(num_rows, read_chunks([source], ["c"]))) <= 20

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


class TestSeveralFiles:
    """Files of one source have the same columns of the same types."""

    @pytest.fixture
    def files(self, tmp_path):
        def written(suffix=".parquet", **frames):
            for name, columns in frames.items():
                write(pl.DataFrame(columns), tmp_path / f"{name}{suffix}")
            return [str(tmp_path / f"{name}{suffix}") for name in frames]

        return written

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_a_pattern_names_files_by_their_names_order(self, tmp_path, files, suffix):
        files(suffix, b={"n": [3, 4]}, a={"n": [1, 2]}, c={"n": [5]})
        (tmp_path / "other.txt").write_text("")
        assert load_columns(f"{tmp_path}/*{suffix}", ["n"])["n"].tolist() == [1, 2, 3, 4, 5]

    def test_a_pattern_may_go_through_folders_elsewhere(self):
        for name in ("b/2", "a/c/1", "1"):
            with fsspec.open(f"memory://deep/{name}.csv", "wb") as file:
                file.write(f"n\n{name[-1]}{len(name)}\n".encode())
        found = load_columns("memory://deep/**/*.csv", ["n"])["n"]
        assert found.tolist() == [11, 15, 23]

    def test_a_list_is_read_in_its_order(self, files, targets):
        first, second = files(a={"n": [1]}, b={"n": [2]})
        found = load_columns([second, f"{targets}:frame", first], ["n"])["n"]
        assert found.tolist() == [2, 1, 2, 3, 1]

    @pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl", ".arrow"])
    def test_fractions_in_one_are_fractions_in_all(self, files, suffix):
        found = load_columns(files(suffix, a={"n": [1, 2]}, b={"n": [0.5]}), ["n"])["n"]
        assert found.tolist() == [1.0, 2.0, 0.5]

    def test_another_type_is_refused(self, files):
        with refused(DataError, "b.parquet", "does not fit to", "a.parquet"):
            load_columns(files(a={"n": [1]}, b={"n": ["x"]}), ["n"])

    def test_a_column_that_one_lacks_is_refused(self, files):
        with refused(DataError, "b.parquet", "no column 'n'", "m"):
            load_columns(files(a={"n": [1]}, b={"m": [1]}), ["n"])

    def test_one_without_rows_is_passed_over(self, files):
        empty = {"n": pl.Series([], dtype=pl.Int64)}
        assert load_columns(files(a=empty, b={"n": [2]}), ["n"])["n"].tolist() == [2]

    def test_a_pattern_that_finds_nothing_is_refused(self, tmp_path):
        with refused(DataError, "no files", f"{tmp_path}/*.csv"):
            load_columns(f"{tmp_path}/*.csv", ["n"])

    def test_a_name_with_the_letters_of_a_pattern_is_a_name(self, tmp_path):
        source = write(FRAME, tmp_path / "data[1].csv")
        assert load_columns(source, ["n"])["n"].tolist() == [1, 2, 3]


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
        + ["arrow", "frame", "pandas_like", "pieces", "frames"],
    )
    def test_each_kind_of_table_is_read(self, targets, name):
        assert_the_frame(load_columns(f"{targets}:{name}", ["x", "n", "text"]))

    def test_a_large_table_comes_in_chunks(self, targets):
        chunks = list(read_chunks([f"{targets}:large"], ["n"]))
        assert [num_rows(chunk) for chunk in chunks] == [16384, 16384, 7232]

    def test_one_that_fails_on_the_way_is_refused(self, targets):
        with refused(DataError, f"{targets}:failing", "failed: OSError: the disk is gone"):
            load_columns(f"{targets}:failing", ["x"])

    def test_one_that_gives_nothing_has_no_rows(self, targets):
        with refused(DataError, f"{targets}:nothing", "no rows"):
            load_columns(f"{targets}:nothing", ["x"])

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
