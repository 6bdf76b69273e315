import io
import json
from typing import ClassVar

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.codec import round_trip
from storage.errors import IntegrityError, RecipeError
from storage.options import Codec, Task
from storage.rows import Ragged
from storage.schema import METADATA_KEY, STATISTICS, arrow_schema, decode, encode, widths
from storage.spec import InputSpec, LabelSetSpec
from tests.storage.refusal import refused
from tests.storage.toy import token_spec, toy_rows, toy_spec

NUM_CLASSES = [2, 3, 255, 256, 257, 65_536, 65_537, 300_000]
INPUTS = [
    InputSpec(name="x", dtype="float32", shape=(2, 3)),
    InputSpec(name="pixels", dtype="uint8", shape=(4,)),
    InputSpec(name="plain", dtype="int64", shape=()),
]


@st.composite
def specs(draw: st.DrawFn) -> LabelSetSpec:
    num_classes = draw(st.sampled_from(NUM_CLASSES))
    task = draw(st.sampled_from([Task.CLASSIFICATION, Task.TAGGING]))
    tokens = InputSpec(name="tokens", dtype=draw(st.sampled_from(["int32", "int64"])), shape=None)
    kept = st.integers(1, min(num_classes, 8))
    return LabelSetSpec(
        task=task,
        num_classes=num_classes,
        inputs=(tokens,) if task.has_many_positions else tuple(INPUTS),
        has_label=draw(st.booleans()),
        entries={"train": draw(kept), "test": draw(kept)},
        temperatures=(2.0, 1.0, 4.0, 8.0)[: draw(st.integers(1, 4))],
        codec=draw(st.sampled_from(Codec)),
        statistics=draw(st.booleans()),
        positions_per_row_group=100,
    )


def random_rows(spec: LabelSetSpec, split: str, count: int, seed: int) -> dict:
    """Any rows that a teacher could give: masked classes and nothing left included."""
    rng = np.random.default_rng(seed)
    many = spec.has_many_positions
    lengths = rng.integers(0, 5, count) if many else np.ones(count, np.int64)
    positions = int(lengths.sum())
    columns = _random_labels(rng, spec, split, positions)
    if many:
        columns |= {"input.tokens": rng.integers(0, 9, positions).astype(spec.inputs[0].dtype)}
        columns = {name: Ragged(values, lengths) for name, values in columns.items()}
    else:
        for entry in INPUTS:
            values = rng.integers(0, 9, (positions, *entry.shape)).astype(entry.dtype)
            columns[f"input.{entry.name}"] = values
    return {"sample_id": np.array([f"é{n}" for n in range(count)], object), **columns}


def _random_labels(rng, spec, split, positions):
    k = spec.entries[split]
    index = [rng.choice(spec.num_classes, k, replace=False) for _ in range(positions)]
    logit = -np.sort(rng.exponential(50, (positions, k)).astype(np.float32), axis=1)
    logit[:, 0] = 0
    logit[rng.random(logit.shape) < 0.1] = -np.inf
    rest = -rng.exponential(9, (positions, len(spec.temperatures))).astype(np.float32)
    rest[rng.random(rest.shape) < 0.2] = -np.inf
    columns = {"index": np.array(index, np.int64).reshape(-1, k), "logit": logit, "rest": rest}
    if spec.has_label:
        columns["label"] = rng.integers(-100, spec.num_classes, positions)
        columns["label_logit"] = rest[:, 0]
    if spec.has_many_positions:
        columns["mask"] = rng.random(positions) < 0.5
    if spec.statistics:
        columns |= {name: rng.normal(size=positions).astype(np.float32) for name in STATISTICS}
    return columns


def assert_same(found, expected):
    assert type(found) is type(expected)
    if isinstance(found, Ragged):
        assert found.lengths_B.tolist() == expected.lengths_B.tolist()
        found, expected = found.values_NW, expected.values_NW
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)


def as_parquet(table: pa.Table) -> io.BytesIO:
    file = io.BytesIO()
    pq.write_table(table, file)
    file.seek(0)
    return file


class TestRoundTrip:
    @settings(max_examples=60)
    @given(
        specs(), st.integers(1, 6), st.integers(0, 2**32 - 1), st.sampled_from(["train", "test"])
    )
    def test_what_is_encoded_is_decoded(self, spec, count, seed, split):
        rows = random_rows(spec, split, count, seed)
        table = pq.read_table(as_parquet(encode(rows, spec, split)))
        decoded = decode(table, spec, split, table.column_names)
        assert decoded.keys() == rows.keys()
        logit = rows["logit"]
        if isinstance(logit, Ragged):
            rows["logit"] = Ragged(round_trip(logit.values_NW, spec.codec), logit.lengths_B)
        else:
            rows["logit"] = round_trip(logit, spec.codec)
        for name, column in rows.items():
            assert_same(decoded[name], column)

    @pytest.mark.parametrize("spec", [toy_spec(), token_spec()])
    def test_a_slice_decodes_to_its_rows(self, spec):
        table = encode(toy_rows(spec, "train", range(6)), spec, "train")
        found = decode(table.slice(2, 3), spec, "train", ["sample_id", "index"])
        expected = toy_rows(spec, "train", range(2, 5))
        assert found["sample_id"].tolist() == expected["sample_id"].tolist()
        assert_same(found["index"], expected["index"])

    def test_only_the_columns_asked_for_are_decoded(self):
        spec = toy_spec()
        table = encode(toy_rows(spec, "train", range(3)), spec, "train")
        assert list(decode(table, spec, "train", ["logit", "sample_id"])) == ["logit", "sample_id"]

    def test_columns_that_are_not_known_are_ignored(self):
        spec = toy_spec()
        table = encode(toy_rows(spec, "train", range(3)), spec, "train")
        names = table.column_names
        later = table.append_column("view_seed", pa.array([1, 2, 3])).select(["view_seed", *names])
        found = decode(later, spec, "train", names)
        for name, column in decode(table, spec, "train", names).items():
            assert_same(found[name], column)

    def test_the_numbers_can_be_worked_out_by_hand(self):
        spec = toy_spec()
        rows = decode(
            encode(toy_rows(spec, "train", [4]), spec, "train"), spec, "train",
            ["index", "logit", "rest", "label", "label_logit"],
        )  # fmt: skip
        assert rows["index"].tolist() == [[4, 0, 1]]
        assert rows["logit"].tolist() == [[0.0, -0.5, -1.0]]
        left_at_one = np.log(np.exp(-3) + np.exp(-4))
        left_at_two = np.log(np.exp(-1.5) + np.exp(-2))
        assert np.allclose(rows["rest"], [[left_at_two, left_at_one]])
        assert rows["label"].tolist() == [0]
        assert rows["label_logit"].tolist() == [-0.5]

    def test_nothing_left_is_minus_infinity(self):
        spec = toy_spec()
        table = encode(toy_rows(spec, "test", range(2)), spec, "test")
        assert np.isneginf(decode(table, spec, "test", ["rest"])["rest"]).all()


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
        return encode(toy_rows(spec, "train", range(3)), spec, "train")

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
        assert widths(toy_spec(has_label=False), "train") == {"index": 3, "logit": 3, "rest": 2}
        assert set(widths(toy_spec(statistics=True), "test")) >= set(STATISTICS)
        assert "mask" in widths(token_spec(), "train")


class TestWrongShapes:
    def test_lists_of_another_length_are_refused(self):
        spec = toy_spec()
        table = encode(toy_rows(spec, "test", range(3)), spec, "test")
        with refused(IntegrityError, "'index'", "(3,)"):
            decode(table, spec, "train", ["index"])

    def test_inputs_of_another_shape_are_refused(self):
        spec = toy_spec()
        table = encode(toy_rows(spec, "train", range(3)), spec, "train")
        other = toy_spec(inputs=(InputSpec(name="x", dtype="float32", shape=(3, 3)),))
        with refused(IntegrityError, "'x'", "(3, 3)"):
            decode(table, other, "train", ["input.x"])

    def test_blocks_that_are_no_multiple_are_refused(self):
        spec = token_spec(entries={"train": 3, "test": 5})
        table = encode(toy_rows(spec, "train", range(3)), spec, "train")
        with refused(IntegrityError, "'index'", "multiple of 5"):
            decode(table, spec, "test", ["index"])

    def test_a_shard_too_large_for_its_lists_is_refused(self):
        huge = InputSpec(name="x", dtype="uint8", shape=(1024, 1024))
        spec = toy_spec(inputs=(huge,))
        rows = dict(toy_rows(spec, "train", range(2048)))
        rows["input.x"] = np.broadcast_to(np.uint8(0), (2048, *huge.shape))
        with refused(RecipeError, "labels.positions_per_shard", "lower it"):
            encode(rows, spec, "train")
