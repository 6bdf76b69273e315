"""Rows through a table and back, in every layout, codec and way of keeping."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.codebook import Codebook, Renumbering
from storage.codec import round_trip
from storage.encoding import EncodedRows, decode, encode
from storage.entries import level_scale
from storage.errors import IntegrityError, RecipeError
from storage.options import Codec, Keep, Layout, Selection, Task
from storage.rows import Column, Ragged, Rows
from storage.schema import STATISTICS, columns, stored_columns
from storage.spec import InputSpec, LabelSetSpec
from storage.writer import parquet_bytes, row_groups
from tests.storage.refusal import refused
from tests.storage.toy import kept, token_spec, toy_rows, toy_spec

NUM_CLASSES = [2, 3, 255, 256, 257, 65_536, 65_537, 300_000]
INPUTS = [
    InputSpec(name="x", dtype="float32", shape=(2, 3)),
    InputSpec(name="pixels", dtype="uint8", shape=(4,)),
    InputSpec(name="plain", dtype="int64", shape=()),
]
LAYOUTS = pytest.mark.parametrize("layout", Layout)


@st.composite
def selections(draw: st.DrawFn, num_classes: int) -> Selection:
    keep = draw(st.sampled_from(Keep))
    if keep is Keep.ALL and num_classes < 10:
        return Selection(keep=keep, k=num_classes)
    k = draw(st.integers(1, min(num_classes, 9)))
    if keep is Keep.SAMPLE:
        return Selection(keep=keep, k=k, draws=draw(st.sampled_from([k, 255, 256, 60_000])))
    return Selection(keep=Keep.TOP_P if keep is Keep.TOP_P else Keep.TOP_K, k=k, p=0.5)


@st.composite
def specs(draw: st.DrawFn) -> LabelSetSpec:
    num_classes = draw(st.sampled_from(NUM_CLASSES))
    task = draw(st.sampled_from([Task.CLASSIFICATION, Task.TAGGING]))
    tokens = InputSpec(name="tokens", dtype=draw(st.sampled_from(["int32", "int64"])), shape=None)
    texts = [tokens, InputSpec(name="attention_mask", dtype="int64", shape=None)]
    one = draw(st.sampled_from([INPUTS, texts, [INPUTS[0], *texts]]))
    return LabelSetSpec(
        task=task,
        num_classes=num_classes,
        teacher_classes=num_classes,
        inputs=(tokens,) if task.has_many_positions else tuple(one),
        has_label=draw(st.booleans()),
        selections={"train": draw(selections(num_classes))},
        temperatures=(2.0, 1.0, "std", 4.0, 0.5)[: draw(st.integers(1, 5))],
        codec=draw(st.sampled_from(Codec)),
        layout=draw(st.sampled_from(Layout)),
        statistics=draw(st.booleans()),
        positions_per_row_group=100,
    )


def random_rows(spec: LabelSetSpec, count: int, seed: int) -> dict[str, Column]:
    """Any rows that a teacher could give: ties, masked classes and nothing left included."""
    rng = np.random.default_rng(seed)
    many = spec.has_many_positions
    lengths = rng.integers(1, 5, count) if many else np.ones(count, np.int64)
    positions = int(lengths.sum())
    labels = _random_labels(rng, spec, positions)
    if many:
        labels |= {"input.tokens": rng.integers(0, 9, positions).astype(spec.inputs[0].dtype)}
        labels = {name: Ragged(values, lengths) for name, values in labels.items()}
    else:
        lengths = rng.integers(0, 5, count)
        for entry in spec.inputs:
            shape = (lengths.sum(),) if entry.shape is None else (positions, *entry.shape)
            values = rng.integers(0, 9, shape).astype(entry.dtype)
            ragged = entry.shape is None
            labels[f"input.{entry.name}"] = Ragged(values, lengths) if ragged else values
    rows = {"sample_id": np.array([f"é{n}" for n in range(count)], object), **labels}
    return {name: rows[name] for name in columns(spec, "train")}


def _random_labels(rng, spec, positions):
    selection = spec.selections["train"]
    k = selection.k
    index = np.array([rng.choice(spec.num_classes, k, replace=False) for _ in range(positions)])
    logit = -rng.exponential(50, (positions, k)).astype(np.float32).round(rng.integers(0, 5))
    logit[rng.random(logit.shape) < 0.1] = -np.inf
    logit = -np.sort(-logit, axis=1)
    if selection.keep is not Keep.SAMPLE:
        logit[:, 0] = 0
    rest = -rng.exponential(9, (positions, len(spec.temperatures))).astype(np.float32)
    rest[rng.random(rest.shape) < 0.2] = -np.inf
    labels = {"index": index, "logit": logit, "rest": rest}
    if selection.varies:
        labels["kept"] = rng.integers(1, k + 1, positions)
        gone = np.arange(k) >= labels["kept"][:, None]
        index[gone], logit[gone] = 0, -np.inf
        if selection.keep is Keep.SAMPLE:
            labels["count"] = np.where(gone, 0, rng.integers(1, selection.draws + 1, gone.shape))
    if spec.has_std:
        labels["std"] = rng.exponential(size=positions).astype(np.float32) + np.float32(1e-3)
    if spec.has_label:
        labels["label"] = rng.integers(-100, spec.num_classes, positions)
        labels["label_logit"] = rest[:, 0]
    if spec.has_many_positions:
        labels["mask"] = rng.random(positions) < 0.5
    if spec.statistics:
        labels |= {name: rng.normal(size=positions).astype(np.float32) for name in STATISTICS}
    return labels


def through_parquet(
    encoded: EncodedRows, spec: LabelSetSpec, wanted: list[str], split: str = "train"
) -> dict[str, Column]:
    """What a reader of the shard's file decodes."""
    groups = row_groups(np.ones(encoded.table.num_rows, np.int64), 4)
    file = io.BytesIO(parquet_bytes(encoded, groups, spec, split))
    metadata = pq.read_metadata(file).metadata
    table = pq.read_table(file, columns=stored_columns(spec, split, wanted))
    return decode(table, spec, split, wanted, Codebook.from_metadata(metadata, spec.num_classes))


def as_sets(rows: Rows) -> list[list[tuple]]:
    """The entries of each position, the first one apart, the others in no order."""
    names = [name for name in ("index", "logit", "count") if name in rows]
    values = {name: _values(rows[name]) for name in names}
    width = values["index"].shape[1]
    positions = len(values["index"])
    kept_N = _values(rows["kept"]) if "kept" in rows else np.full(positions, width)
    found = []
    for place in range(positions):
        entries = [tuple(values[name][place, e].item() for name in names) for e in range(width)]
        there = entries[: kept_N[place]]
        assert all(entry[1] == -np.inf for entry in entries[kept_N[place] :])
        found.append([there[0], *sorted(there[1:])])
    return found


def _values(column: Column) -> np.ndarray:
    return column.values_NW if isinstance(column, Ragged) else column


def assert_same(found, expected):
    assert type(found) is type(expected)
    if isinstance(found, Ragged):
        assert found.lengths_B.tolist() == expected.lengths_B.tolist()
        found, expected = found.values_NW, expected.values_NW
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)


class TestRoundTrip:
    @settings(max_examples=300)
    @given(specs(), st.integers(1, 9), st.integers(0, 2**32 - 1))
    def test_what_is_encoded_is_decoded(self, spec, count, seed):
        rows = random_rows(spec, count, seed)
        decoded = through_parquet(encode(rows, spec, "train"), spec, list(rows))
        assert list(decoded) == list(rows)
        logit = rows["logit"]
        written = round_trip(_values(logit), spec.codec, level_scale(spec.temperatures))
        rows["logit"] = Ragged(written, logit.lengths_B) if isinstance(logit, Ragged) else written
        assert as_sets(decoded) == as_sets(rows)
        assert _values(decoded["index"]).dtype == np.int64
        assert _values(decoded["logit"]).dtype == np.float32
        assert all(_values(decoded[name]).flags.writeable for name in ("index", "logit"))
        for name, column in rows.items():
            if name not in ("index", "logit", "count"):
                assert_same(decoded[name], column)

    @settings(max_examples=60)
    @given(specs(), st.integers(1, 6), st.integers(0, 2**32 - 1), st.data())
    def test_each_column_is_decoded_alone(self, spec, count, seed, data):
        rows = random_rows(spec, count, seed)
        encoded = encode(rows, spec, "train")
        whole = through_parquet(encoded, spec, list(rows))
        name = data.draw(st.sampled_from(list(rows)))
        assert_same(through_parquet(encoded, spec, [name])[name], whole[name])

    @settings(max_examples=60)
    @given(specs(), st.integers(1, 6), st.integers(0, 2**32 - 1))
    def test_best_first_where_the_layout_says_so(self, spec, count, seed):
        rows = random_rows(spec, count, seed)
        logit = _values(through_parquet(encode(rows, spec, "train"), spec, ["logit"])["logit"])
        assert (logit[:, 0] == logit.max(axis=1)).all()
        if spec.layout is not Layout.COMPACT:
            assert (logit == -np.sort(-logit, axis=1)).all()

    @LAYOUTS
    @pytest.mark.parametrize("spec", [toy_spec(), token_spec()])
    def test_a_slice_decodes_to_its_rows(self, spec, layout):
        spec = spec.model_copy(update={"layout": layout})
        encoded = encode(toy_rows(spec, "train", range(6)), spec, "train")
        asked = ["sample_id", "index"]
        found = decode(encoded.table.slice(2, 3), spec, "train", asked, encoded.codebook)
        expected = toy_rows(spec, "train", range(2, 5))
        assert found["sample_id"].tolist() == expected["sample_id"].tolist()
        assert_same(found["index"], expected["index"])

    @LAYOUTS
    def test_chunks_are_put_together(self, layout):
        spec = token_spec(layout=layout)
        encoded = encode(toy_rows(spec, "train", range(6)), spec, "train")
        parts = pa.concat_tables([encoded.table.slice(0, 1), encoded.table.slice(1)])
        found = decode(parts, spec, "train", ["index", "logit"], encoded.codebook)
        assert_same(found["index"], toy_rows(spec, "train", range(6))["index"])

    def test_only_the_columns_asked_for_are_decoded(self):
        spec = toy_spec()
        encoded = encode(toy_rows(spec, "train", range(3)), spec, "train")
        found = decode(encoded.table, spec, "train", ["logit", "sample_id"], encoded.codebook)
        assert list(found) == ["logit", "sample_id"]

    def test_columns_that_are_not_known_are_ignored(self):
        spec = toy_spec()
        encoded = encode(toy_rows(spec, "train", range(3)), spec, "train")
        names = encoded.table.column_names
        later = encoded.table.append_column("view_seed", pa.array([1, 2, 3]))
        found = decode(later.select(["view_seed", *names]), spec, "train", names, encoded.codebook)
        for name, column in decode(encoded.table, spec, "train", names, encoded.codebook).items():
            assert_same(found[name], column)

    def test_the_numbers_can_be_worked_out_by_hand(self):
        spec = toy_spec()
        rows = through_parquet(
            encode(toy_rows(spec, "train", [4]), spec, "train"), spec,
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
        encoded = encode(toy_rows(spec, "test", range(2)), spec, "test")
        assert np.isneginf(through_parquet(encoded, spec, ["rest"], "test")["rest"]).all()


class TestWrongShapes:
    def decoded(self, rows, spec, split, name, read_as=None, read_split=None):
        encoded = encode(rows, spec, split)
        decode(encoded.table, read_as or spec, read_split or split, [name], encoded.codebook)

    def test_lists_of_another_length_are_refused(self):
        spec = toy_spec()
        with refused(IntegrityError, "multiple of 3"):
            self.decoded(toy_rows(spec, "test", range(3)), spec, "test", "index", None, "train")

    def test_inputs_of_another_shape_are_refused(self):
        spec = toy_spec()
        other = toy_spec(inputs=(InputSpec(name="x", dtype="float32", shape=(3, 3)),))
        with refused(IntegrityError, "'x'", "(3, 3)"):
            self.decoded(toy_rows(spec, "train", range(3)), spec, "train", "input.x", other)

    @LAYOUTS
    def test_blocks_that_are_no_multiple_are_refused(self, layout):
        spec = token_spec(selections=kept(train=3, test=5), layout=layout)
        with refused(IntegrityError, "multiple of 5"):
            self.decoded(toy_rows(spec, "train", range(3)), spec, "train", "index", None, "test")

    @LAYOUTS
    def test_blocks_that_lie_about_their_entries_are_refused(self, layout):
        chosen = {"train": Selection(keep=Keep.TOP_P, k=3, p=0.9)}
        spec = token_spec(selections=chosen, layout=layout)
        rows = dict(toy_rows(spec, "train", range(3)))
        rows["kept"] = Ragged(np.full(6, 2), rows["index"].lengths_B)
        encoded = encode(rows, spec, "train")
        names = encoded.table.column_names
        for lie in ([[2], [1, 2], [2, 2, 2]], [[2], [2], [2, 2, 2]], [[9], [2, 2], [2, 2, 2]]):
            field = encoded.table.schema.field("kept")
            wrong = encoded.table.set_column(names.index("kept"), field, pa.array(lie, field.type))
            with pytest.raises(IntegrityError):
                decode(wrong, spec, "train", ["index"], encoded.codebook)

    def test_a_shard_without_its_codebook_is_refused(self):
        spec = toy_spec(codec=Codec.UINT8, layout=Layout.COMPACT)
        encoded = encode(toy_rows(spec, "train", range(3)), spec, "train")
        with refused(IntegrityError, "lack their levels"):
            decode(encoded.table, spec, "train", ["logit"], Codebook())
        with refused(IntegrityError, "lack their table"):
            decode(encoded.table, spec, "train", ["index"], Codebook())

    def test_codes_beyond_the_classes_are_refused(self):
        few = Renumbering(np.array([], np.int64), 70_000)
        with refused(IntegrityError, "70000 entries", "a code of 80000"):
            few.ids(np.array([80_000], np.uint32))

    def test_a_shard_too_large_for_its_lists_is_refused(self):
        huge = InputSpec(name="x", dtype="uint8", shape=(1024, 1024))
        spec = toy_spec(inputs=(huge,))
        rows = dict(toy_rows(spec, "train", range(2048)))
        rows["input.x"] = np.broadcast_to(np.uint8(0), (2048, *huge.shape))
        with refused(RecipeError, "labels.positions_per_shard", "lower it"):
            encode(rows, spec, "train")
