import io
import json
from typing import ClassVar

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.encoding import encode
from storage.options import Codec, Keep, Layout, Selection
from storage.schema import METADATA_KEY, STATISTICS, arrow_schema, columns, stored_columns, widths
from storage.spec import LabelSetSpec
from tests.storage.toy import token_spec, toy_rows, toy_spec

DRAWN = {"train": Selection(keep=Keep.SAMPLE, k=3, draws=300)}


def as_parquet(table: pa.Table) -> io.BytesIO:
    file = io.BytesIO()
    pq.write_table(table, file)
    file.seek(0)
    return file


class TestFile:
    """The documented columns, as any reader of Parquet finds them."""

    TYPES: ClassVar = {
        "sample_id": "string",
        "input.x": "list<element: float not null>",
        "index": "list<element: uint8 not null>",
        "logit": "list<element: halffloat not null>",
        "rest": "list<element: float not null>",
        "label": "int32",
        "label_logit": "float",
    }

    def table(self, spec=None):
        spec = spec or toy_spec(codec=Codec.FLOAT16)
        return encode(toy_rows(spec, "train", range(3)), spec, "train").table

    def test_pyarrow_finds_the_documented_types(self):
        schema = pq.read_schema(as_parquet(self.table()))
        assert {field.name: str(field.type) for field in schema} == self.TYPES
        assert not any(field.nullable for field in schema)

    def test_blocks_are_flat_lists(self):
        schema = pq.read_schema(as_parquet(self.table(token_spec(statistics=True))))
        expected = self.TYPES | {
            "input.tokens": "list<element: int64 not null>",
            "label": "list<element: int32 not null>",
            "label_logit": "list<element: float not null>",
            "mask": "list<element: bool not null>",
        }
        del expected["input.x"]
        expected |= dict.fromkeys(STATISTICS, "list<element: float not null>")
        assert {field.name: str(field.type) for field in schema} == expected

    def test_polars_reads_it(self):
        frame = pl.read_parquet(as_parquet(self.table(toy_spec(codec=Codec.FLOAT32))))
        assert frame.columns == list(self.TYPES)
        assert frame["index"].dtype == pl.List(pl.UInt8)
        assert frame["logit"].to_list() == [[0.0, -0.5, -1.0]] * 3
        assert frame["label"].to_list() == [1, 2, 3]

    def test_polars_reads_half_floats(self):
        frame = pl.read_parquet(as_parquet(self.table()))
        assert frame["logit"].to_list() == [[0.0, -0.5, -1.0]] * 3

    def test_the_specification_is_in_the_file(self):
        schema = pq.read_schema(as_parquet(self.table()))
        assert LabelSetSpec.model_validate(json.loads(schema.metadata[METADATA_KEY])) == toy_spec()

    @pytest.mark.parametrize(
        ("num_classes", "kind"), [(256, "uint8"), (257, "uint16"), (65_537, "uint32")]
    )
    def test_class_ids_take_the_smallest_type(self, num_classes, kind):
        schema = arrow_schema(toy_spec(num_classes=num_classes), "train")
        assert str(schema.field("index").type.value_type) == kind

    def test_columns_follow_the_specification(self):
        assert widths(toy_spec(has_label=False)) == {"rest": 2}
        assert set(widths(toy_spec(statistics=True))) >= set(STATISTICS)
        assert "mask" in widths(token_spec())
        assert columns(toy_spec(), "train") == list(self.TYPES)

    def test_the_fast_layout_has_bytes(self):
        schema = arrow_schema(toy_spec(layout=Layout.FAST, num_classes=300), "train")
        assert str(schema.field("index").type) == "fixed_size_binary[6]"
        assert str(schema.field("logit").type) == "fixed_size_binary[6]"
        schema = arrow_schema(token_spec(layout=Layout.FAST), "train")
        assert str(schema.field("index").type) == "binary"

    @pytest.mark.parametrize(
        ("num_classes", "codec", "ids", "logits"),
        [(256, Codec.UINT8, 1, 1), (257, Codec.FLOAT16, 2, 2), (300_000, Codec.FLOAT32, 3, 4)],
    )
    def test_the_compact_layout_has_planes_of_bytes(self, num_classes, codec, ids, logits):
        spec = toy_spec(layout=Layout.COMPACT, num_classes=num_classes, codec=codec)
        names = arrow_schema(spec, "train").names
        assert [name for name in names if name.startswith("index")] == [
            f"index.{plane}" for plane in range(ids)
        ]
        assert [name for name in names if name.startswith("logit")] == [
            f"logit.{plane}" for plane in range(logits)
        ]
        assert stored_columns(spec, "train", ["rest", "index"])[0] == "rest"

    def test_entries_that_vary_say_how_many(self):
        assert columns(toy_spec(selections=DRAWN), "train")[2:6] == [
            "index", "logit", "count", "kept",
        ]  # fmt: skip
        assert "kept" not in arrow_schema(toy_spec(selections=DRAWN), "train").names
        schema = arrow_schema(token_spec(selections=DRAWN), "train")
        assert str(schema.field("kept").type) == "list<element: uint8 not null>"
        assert str(schema.field("count").type) == "list<element: uint16 not null>"
        assert stored_columns(token_spec(selections=DRAWN), "train", ["index"]) == ["index", "kept"]
