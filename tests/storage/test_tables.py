from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.tables import digest_of_table


def _list_of(kind: pa.DataType) -> pa.DataType:
    return pa.list_(pa.field("element", kind))


VALUES = {
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.uint8(): st.integers(0, 255),
    pa.bool_(): st.booleans(),
    pa.float32(): st.floats(width=32, allow_nan=False),
    pa.string(): st.text(max_size=4),
    pa.large_string(): st.text(max_size=4),
    pa.binary(): st.binary(max_size=4),
    pa.binary(3): st.binary(min_size=3, max_size=3),
    _list_of(pa.int32()): st.lists(st.integers(0, 9), max_size=3),
    _list_of(pa.string()): st.lists(st.text(max_size=2), max_size=3),
    _list_of(_list_of(pa.uint8())): st.lists(st.lists(st.integers(0, 9), max_size=2), max_size=2),
    pa.list_(pa.field("element", pa.int16()), 2): st.lists(
        st.integers(0, 9), min_size=2, max_size=2
    ),
}


@st.composite
def tables(draw: st.DrawFn, min_rows: int = 0) -> pa.Table:
    rows = draw(st.integers(min_rows, 6))
    columns = {}
    for number, kind in enumerate(
        draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=3))
    ):
        values = st.lists(st.none() | VALUES[kind], min_size=rows, max_size=rows)
        columns[f"c{number}"] = pa.array(draw(values), type=kind)
    return pa.table(columns)


class TestDigestOfTable:
    def test_it_stays_the_same_over_versions(self):
        table = pa.table(
            {
                "id": pa.array(["a", "b"]),
                "index": pa.array([[1, 2], [3]], _list_of(pa.uint8())),
                "logit": pa.array([[0.0, -0.5], [-float("inf")]], _list_of(pa.float32())),
            }
        )
        assert (
            digest_of_table(table)
            == "79d75334ec76213cca4c123ce512059adce9a6c9359561693d9fa2e70d669872"
        )

    @given(tables(), st.lists(st.integers(0, 6), max_size=3))
    def test_it_does_not_depend_on_chunks(self, table, cuts):
        edges = sorted({0, table.num_rows, *(min(cut, table.num_rows) for cut in cuts)})
        parts = [table.slice(a, b - a) for a, b in pairwise(edges)]
        chunked = pa.concat_tables([table.slice(0, 0), *parts])
        assert digest_of_table(chunked) == digest_of_table(table)

    @given(tables())
    def test_it_does_not_depend_on_where_a_slice_begins(self, table):
        longer = pa.concat_tables([table, table, table]).combine_chunks()
        middle = longer.slice(table.num_rows, table.num_rows)
        assert digest_of_table(middle) == digest_of_table(table)

    @given(tables())
    def test_it_survives_a_file(self, table):
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        assert digest_of_table(pq.read_table(pa.BufferReader(sink.getvalue()))) == digest_of_table(
            table
        )

    @given(tables())
    def test_it_does_not_depend_on_metadata(self, table):
        assert digest_of_table(table.replace_schema_metadata({"a": "b"})) == digest_of_table(table)

    @given(tables(), tables())
    def test_two_tables_have_one_digest_only_if_they_are_equal(self, a, b):
        if digest_of_table(a) == digest_of_table(b):
            assert a.equals(b)

    @given(tables(min_rows=1), st.data())
    def test_any_other_value_changes_it(self, table, data):
        place = data.draw(st.integers(0, table.num_columns - 1))
        row = data.draw(st.integers(0, table.num_rows - 1))
        kind = table.schema.field(place).type
        values = table.column(place).to_pylist()
        old, values[row] = values[row], data.draw(st.none() | VALUES[kind])
        changed = table.set_column(place, f"c{place}", pa.array(values, type=kind))
        same = old == values[row] and str(old) == str(values[row])
        assert (digest_of_table(changed) == digest_of_table(table)) == same

    def test_the_order_of_rows_changes_it(self):
        table = pa.table({"a": [1, 2, 3]})
        assert digest_of_table(table.take([0, 2, 1])) != digest_of_table(table)

    def test_the_name_of_a_column_changes_it(self):
        assert digest_of_table(pa.table({"a": [1]})) != digest_of_table(pa.table({"b": [1]}))

    def test_the_type_of_a_column_changes_it(self):
        a, b = (pa.table({"a": pa.array([1], kind)}) for kind in (pa.int32(), pa.int64()))
        assert digest_of_table(a) != digest_of_table(b)

    def test_where_a_list_ends_changes_it(self):
        a, b = pa.table({"a": [[1], [2, 3]]}), pa.table({"a": [[1, 2], [3]]})
        assert digest_of_table(a) != digest_of_table(b)

    def test_where_a_text_ends_changes_it(self):
        a, b = pa.table({"a": ["x", "yz"]}), pa.table({"a": ["xy", "z"]})
        assert digest_of_table(a) != digest_of_table(b)

    def test_a_null_is_neither_zero_nor_empty(self):
        for null, value in ((None, 0), (None, ""), (None, []), (None, False)):
            kind = pa.array([value]).type
            a, b = (pa.table({"a": pa.array([v, value], kind)}) for v in (null, value))
            assert digest_of_table(a) != digest_of_table(b)

    def test_what_lies_below_a_null_does_not_count(self):
        mask = np.array([False, True])
        a, b = (pa.array([1, hidden], pa.int64(), mask=mask) for hidden in (2, 3))
        assert digest_of_table(pa.table({"a": a})) == digest_of_table(pa.table({"a": b}))

    def test_large_numbers_beside_a_null_keep_all_their_digits(self):
        a, b = (pa.table({"a": [2**53 + more, None]}) for more in (0, 1))
        assert digest_of_table(a) != digest_of_table(b)

    def test_categories_are_digested_by_value(self):
        whole = pa.table({"a": pa.array(["x", "y", "x"]).dictionary_encode()})
        part = pa.table({"a": pa.array(["y", "x", "y", "x"]).dictionary_encode()}).slice(1)
        assert digest_of_table(whole) == digest_of_table(part)

    def test_a_type_without_fixed_bytes_is_refused(self):
        with pytest.raises(TypeError, match="struct"):
            digest_of_table(pa.table({"a": [{"b": 1}]}))
