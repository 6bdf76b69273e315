import random
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.errors import IntegrityError, SoftlabelError
from storage.files import Folder
from storage.options import Codec, Layout
from storage.reader import LabelSet
from storage.shards import check_bytes, open_shard
from tests.storage.crafted import path_of, put, with_rows, with_small_words, written
from tests.storage.refusal import refused
from tests.storage.toy import token_spec, toy_spec, write_toy_set

ROOT = Path(__file__).resolve().parents[2]
SPECS = {
    "plain": toy_spec(codec=Codec.FLOAT16),
    "plain-blocks": token_spec(statistics=True, codec=Codec.UINT8),
    "fast": token_spec(layout=Layout.FAST, codec=Codec.FLOAT32),
    "compact": toy_spec(layout=Layout.COMPACT, codec=Codec.UINT8),
    "compact-blocks": token_spec(layout=Layout.COMPACT, codec=Codec.FLOAT16),
}


def table_of(labels: LabelSet) -> pa.Table:
    with pq.ParquetFile(path_of(labels)) as file:
        return file.read()


def with_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, values)


def read(labels: LabelSet) -> None:
    """All of the first split, as whoever opens the set anew sees it."""
    again = LabelSet.open(labels.folder)
    try:
        for _ in again.batches("train"):
            pass
    finally:
        again.close()


class TestBytes:
    def test_a_file_that_is_there_and_whole_is_not_kept_in_memory(self, labels):
        assert check_bytes(labels.folder, labels.shards("train")[0]) is None

    def test_a_small_one_from_afar_is(self):
        labels = write_toy_set(Folder.open("memory://shards"))
        shard = labels.shards("train")[0]
        content = check_bytes(labels.folder, shard)
        assert content is not None
        assert len(content) == shard.size_bytes
        open_shard(labels.folder, shard, labels.spec, content).close()
        open_shard(labels.folder, shard, labels.spec).close()

    @pytest.mark.parametrize("change", ["changed", "cut", "longer", "gone"])
    def test_any_other_bytes_are_refused(self, labels, change):
        content = path_of(labels).read_bytes()
        if change == "gone":
            path_of(labels).unlink()
        else:
            other = {"changed": b"x" + content[1:], "cut": content[:-1], "longer": content + b"x"}
            path_of(labels).write_bytes(other[change])
        with refused(IntegrityError, str(path_of(labels)), "softlabel verify"):
            check_bytes(labels.folder, labels.shards("train")[0])


class TestWords:
    """The bytes are those of the record; what the file says of itself is not what shards say."""

    def refuse(self, labels, content, *words):
        shard = put(labels, content)
        with refused(IntegrityError, str(path_of(labels)), "softlabel verify", *words):
            open_shard(labels.folder, shard, labels.spec)

    def test_other_row_groups_are_refused(self, labels):
        self.refuse(labels, written(table_of(labels)), "groups of 6 rows", "says 4, 2")

    def test_sizes_that_no_shard_has_are_refused(self, labels):
        huge = pa.array(["x" * 5_000_000] * 6)
        table = with_column(table_of(labels), "sample_id", huge)
        content = written(table, row_group_size=4)
        self.refuse(labels, content, "claims to hold", f"in {len(content)}")
        self.refuse(labels, with_small_words(content), "claims to hold", f"in {len(content)}")

    @pytest.mark.parametrize("layout", Layout)
    @pytest.mark.parametrize("rows", [2**20, 2**28, 2**40, 2**62])
    def test_rows_that_are_not_there_are_refused(self, store, layout, rows):
        """Record, footer and columns all agree on it."""
        spec = toy_spec(positions_per_row_group=5000, layout=layout)
        labels = write_toy_set(store, spec, train=3001, rows_per_shard=3001)
        content = with_rows(path_of(labels).read_bytes(), 3001, rows)
        claims = {"rows": rows, "row_groups": (rows,), "positions": rows}
        put(labels, content, **claims)
        with refused(IntegrityError, str(path_of(labels)), f"{rows} rows, its pages hold fewer"):
            read(labels)

    def test_pages_that_no_shard_has_are_refused(self, labels):
        content = written(
            table_of(labels), row_group_size=4, column_encoding={"sample_id": "DELTA_BYTE_ARRAY"}
        )
        self.refuse(labels, content, "encoding")

    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("sample_id", pa.array(range(6))),
            ("rest", pa.array(["text"] * 6)),
            ("rest", pa.array([[1.0, 2.0]] * 6, pa.list_(pa.float64()))),
            ("index", pa.array([[1, None]] * 6, pa.list_(pa.uint8()))),
            ("label", pa.array([None] * 6, pa.int32())),
        ],
    )
    def test_columns_of_another_type_are_refused(self, labels, name, values):
        content = written(with_column(table_of(labels), name, values), row_group_size=4)
        self.refuse(labels, content, f"expected the column {name} of")

    def test_a_column_that_is_not_there_is_refused(self, labels):
        content = written(table_of(labels).drop_columns("rest"), row_group_size=4)
        self.refuse(labels, content, "expected the column rest of", "got none")

    def test_a_name_that_is_no_text_is_refused(self, labels):
        content = written(table_of(labels), row_group_size=4)
        self.refuse(labels, content.replace(b"label_logit", b"label_\xff\xff\xff\xff\xff"), "text")

    def test_columns_of_a_later_version_are_passed_over(self, labels):
        table = table_of(labels).append_column("view", pa.array(np.arange(6)))
        put(labels, written(table, row_group_size=4))
        read(labels)

    def test_a_file_from_afar_is_looked_at_too(self):
        labels = write_toy_set(Folder.open("memory://shards-afar"))
        shard = labels.shards("train")[0]
        content = written(pa.table({"sample_id": ["x" * 5_000_000] * 6}), row_group_size=4)
        with refused(IntegrityError, "claims to hold"):
            open_shard(labels.folder, shard, labels.spec, content)


def change_words(labels: LabelSet, count: int) -> None:
    """Random bytes anywhere, and in the footer more often; the sha256 is made right each time."""
    draw = random.Random(count)
    good = path_of(labels).read_bytes()
    footer = len(good) - int.from_bytes(good[-8:-4], "little") - 8
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refusals: list[str] = []
    for number in range(count):
        content = bytearray(good)
        for _ in range(draw.choice([1, 1, 2, 4])):
            place = draw.randrange(footer if number % 2 else 0, len(good))
            content[place] = draw.choice([draw.randrange(256), 0x00, 0x80, 0xFF])
        put(labels, bytes(content))
        try:
            read(labels)
        except SoftlabelError as error:
            refusals.append(str(error))
    assert len(refusals) > count // 3
    assert all("\n" not in line and str(path_of(labels)) in line for line in refusals)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024
    assert grown < 200


@pytest.fixture(params=list(SPECS))
def any_labels(request, store):
    labels = write_toy_set(store, SPECS[request.param], train=6)
    yield labels
    labels.close()


def test_changed_words_end_in_labels_or_one_clear_line(any_labels):
    change_words(any_labels, 60)


@pytest.mark.slow
def test_ten_thousand_changed_words_end_in_labels_or_one_clear_line(any_labels):
    change_words(any_labels, 2000)


_READ = """
import resource, sys
from storage.errors import IntegrityError
from storage.reader import LabelSet

idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    for rows in LabelSet.open(sys.argv[1]).batches("train"):
        pass
except IntegrityError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - idle) / 1024)
"""


@pytest.mark.slow
def test_a_small_file_of_two_gibibytes_takes_no_memory(labels):
    """A footer of small words, over pages that unpack to 300 MiB each."""
    table = with_column(table_of(labels), "sample_id", pa.array(["x" * (300 << 20)] * 6))
    content = with_small_words(written(table, row_group_size=4, data_page_size=1))
    del table
    assert len(content) < 200_000
    put(labels, content)
    done = subprocess.run(
        [sys.executable, "-c", _READ, labels.folder.path],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    line, grown = done.stdout.splitlines()
    assert "claims to hold" in line
    assert float(grown) < 100
