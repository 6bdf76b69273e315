"""Stored features through a shard and back, in every layout, shape and number type."""

import io
from pathlib import Path

import duckdb
import numpy as np
import pandas
import polars
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import layout as paths
from storage.codebook import FEATURES_KEY, Codebook
from storage.encoding import decode, encode
from storage.errors import IntegrityError
from storage.feature_options import StoredFeature
from storage.features import Pool
from storage.files import Folder
from storage.legality import illegal
from storage.options import Layout, Task
from storage.reader import LabelSet
from storage.records import Manifest, write_record
from storage.rows import Ragged, concatenate, num_rows, take
from storage.sizes import part_sizes
from storage.spec import STD_FORMAT_VERSION, InputSpec
from storage.verify import verify
from storage.writer import groups_of, parquet_bytes, write_shard
from tests.storage import format_reader
from tests.storage.refusal import refused
from tests.storage.toy import SET_FINGERPRINT, VECTOR, token_spec, toy_plan, toy_rows, toy_spec

TEXT = InputSpec(name="tokens", dtype="int64", shape=None)
WORDS = [VECTOR, TEXT]


def stored(name: str, **changes) -> StoredFeature:
    return StoredFeature(feature=name, **changes)


@st.composite
def specs(draw):
    """Features of every shape, of samples of one length and of several."""
    dtypes = st.sampled_from(["float16", "float32"])
    names = ["hidden.-1", "hidden.0", "attention.2", "module.body.norm"]
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    features = tuple(stored(name, dtype=draw(dtypes)) for name in chosen)
    changes = {
        "features": features,
        "layout": draw(st.sampled_from(Layout)),
        "format_version": STD_FORMAT_VERSION,
        "statistics": draw(st.booleans()),
    }
    if draw(st.booleans()):
        return token_spec(**changes)
    inputs = (VECTOR, TEXT) if draw(st.booleans()) else (VECTOR,)
    return toy_spec(task=Task.CLASSIFICATION, inputs=inputs, **changes)


def rows_with_features(spec, count, seed, first=0):
    """Rows of the toy set; hidden states by position where samples vary, else vectors."""
    rng = np.random.default_rng(seed)
    rows = dict(toy_rows(spec, "train", range(first, first + count)))
    if TEXT in spec.inputs and not spec.has_many_positions:
        lengths_B = rng.integers(1, 6, count)
        rows["input.tokens"] = Ragged(rng.integers(0, 9, lengths_B.sum()), lengths_B)
    ragged = rows.get("input.tokens")
    lengths_B = ragged.lengths_B if isinstance(ragged, Ragged) else None
    for name, feature in spec.features_of("train").items():
        rows[name] = _random(rng, feature, count, lengths_B)
    return rows


def _random(rng, feature, count, lengths_B):
    def numbers(*shape):
        values = rng.normal(0, 30, shape).astype(feature.numbers)
        return np.where(rng.random(shape) < 0.1, feature.numbers.type(0), values)

    if feature.is_map:
        longest = 3 if lengths_B is None else int(lengths_B.max())
        maps = numbers(count, 2, longest, longest)
        if lengths_B is not None:
            there_BN = np.arange(longest) < lengths_B[:, None]
            maps *= (there_BN[:, :, None] & there_BN[:, None, :])[:, None]
        return maps
    if feature.feature == "hidden.0" or lengths_B is None:
        return numbers(count, 5)
    return Ragged(numbers(lengths_B.sum(), 4), lengths_B)


def assert_same(found, expected):
    assert type(found) is type(expected)
    if isinstance(found, Ragged):
        assert found.lengths_B.tolist() == expected.lengths_B.tolist()
        found, expected = found.values_NW, expected.values_NW
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert np.array_equal(found, expected)


@settings(max_examples=100)
@given(specs(), st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_what_is_encoded_is_decoded(spec, count, seed):
    rows = rows_with_features(spec, count, seed)
    encoded = encode(rows, spec, "train")
    groups = groups_of(rows, spec, "train")
    file = io.BytesIO(parquet_bytes(encoded, groups, spec, "train"))
    book = Codebook.from_metadata(pq.read_metadata(file).metadata, spec.num_classes)
    assert book.features == encoded.codebook.features
    for name in spec.features_of("train"):
        table = pq.read_table(file, columns=[name])
        assert_same(decode(table, spec, "train", [name], book)[name], rows[name])


def written(folder, spec, *parts):
    """A set of these shards, without other splits."""
    spec = spec.model_copy(update={"selections": {"train": spec.selections["train"]}})
    folder = folder / paths.product(paths.LABELS, SET_FINGERPRINT)
    write_record(folder, paths.SPEC, spec)
    shards = []
    for ordinal, rows in enumerate(parts):
        plan = toy_plan("train", ordinal, 100 * ordinal, num_rows(rows))
        shards.append(write_shard(folder, plan, spec, rows, {}))
    manifest = Manifest.of(SET_FINGERPRINT, spec, tuple(shards), {"train": {}})
    write_record(folder, f"{paths.MANIFESTS}/{manifest.digest}.json", manifest)
    write_record(folder, paths.MANIFEST, manifest)
    return LabelSet.open(folder)


@settings(max_examples=40)
@given(specs(), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_a_reader_written_from_the_format_alone_sees_the_same(tmp_path_factory, spec, count, seed):
    rows = rows_with_features(spec, count, seed)
    labels = written(Folder.open(tmp_path_factory.mktemp("set")), spec, rows)
    manifest, samples = format_reader.read_set(labels.folder.path)
    assert manifest["format_version"] == 4
    for place, sample in enumerate(samples["train"]):
        for name, feature in spec.features_of("train").items():
            found = np.array(sample["features"][name]).astype(feature.numbers)
            expected = take(rows, np.array([place]))[name]
            if isinstance(expected, Ragged):
                expected = expected.values_NW[None]
            elif feature.is_map:
                length = found.shape[-1]
                assert not expected[0, :, length:].any()
                expected = expected[:, :, :length, :length]
            assert np.array_equal(found, expected[0])
    labels.close()


def test_they_are_of_training_rows_and_named_by_what_they_are(store):
    spec = token_spec(features=(stored("hidden.-1"), stored("attention.2")))
    labels = written(store, spec, rows_with_features(spec, 5, 0))
    assert labels.columns("train")[-2:] == ["feature.hidden.-1", "feature.attention.2"]
    assert labels.feature_shapes() == {"hidden.-1": (None, 4), "attention.2": (2, None, None)}
    assert spec.features_of("test") == {}
    assert list(verify(labels.folder)) == []
    sizes = part_sizes(labels, "train")
    assert sizes.bytes["features"] > 0
    assert sum(sizes.bytes.values()) == labels.manifest.size_bytes
    labels.close()


def test_other_programs_read_lists_of_numbers(store):
    spec = toy_spec(features=(stored("hidden.0"), stored("module.a.b", dtype="float32")))
    rows = rows_with_features(spec, 5, 0)
    labels = written(store, spec, rows)
    path = f"{labels.folder.path}/shards/{labels.manifest.shards[0].file}"
    with duckdb.connect() as connection:
        frames = [connection.sql(f"SELECT * FROM '{path}'").pl(), polars.read_parquet(path)]
    frames.append(polars.from_pandas(pandas.read_parquet(path)))
    for frame in frames:
        for name in spec.features_of("train"):
            assert np.array_equal(np.array(frame[name].to_list()), rows[name].astype(np.float64))
    labels.close()


def test_a_changed_byte_among_them_is_found(store):
    spec = token_spec(features=(stored("hidden.-1"),), layout=Layout.FAST)
    labels = written(store, spec, rows_with_features(spec, 40, 0))
    shard = labels.manifest.shards[0]
    path = Path(labels.folder.path, "shards", shard.file)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    (fault,) = verify(labels.folder)
    assert fault.shard == shard
    labels.close()


def test_row_groups_hold_few_bytes_of_features(monkeypatch):
    monkeypatch.setattr("storage.writer.FEATURE_BYTES_PER_ROW_GROUP", 4 * 5 * 2 * 3)
    spec = toy_spec(features=(stored("hidden.0"),), positions_per_row_group=4096)
    rows = rows_with_features(spec, 30, 0)
    assert groups_of(rows, spec, "train") == [12, 12, 6]
    assert groups_of(rows, spec.model_copy(update={"features": ()}), "train") == [30]
    wide = {**rows, "feature.hidden.0": np.zeros((30, 500), np.float16)}
    assert groups_of(wide, spec, "train") == [1] * 30, "a sample is never divided"


def test_numbers_that_are_not_finite_are_named():
    spec = toy_spec(features=(stored("hidden.0"),))
    rows = rows_with_features(spec, 3, 0)
    assert illegal(rows, spec, spec.selections["train"]) is None
    for wrong in (np.nan, np.inf):
        rows["feature.hidden.0"][1, 2] = wrong
        assert "feature.hidden.0" in illegal(rows, spec, spec.selections["train"])


def test_features_of_another_shape_than_in_the_first_shard_are_a_fault(store):
    spec = toy_spec(features=(stored("hidden.0"),))
    other = rows_with_features(spec, 3, 1, first=10)
    other["feature.hidden.0"] = other["feature.hidden.0"][:, :4]
    labels = written(store, spec, rows_with_features(spec, 3, 0), other)
    (fault,) = verify(labels.folder)
    assert "feature.hidden.0 has the shape (4,), in the first shard (5,)" in fault.problem
    labels.close()


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b'{"a":[]}', b'{"a":[0]}', b'{"a":[2,null]}', b'{"a":[null,null]}', b'{"a":["2"]}',
     b'{"a":[true]}', b'{"a":[2,null,null,null]}', b'{"a":[4294967296]}', b'{"a":3}'],
)  # fmt: skip
def test_shapes_that_no_writer_says_are_refused(text):
    with refused(IntegrityError, "softlabel.features"):
        Codebook.from_metadata({FEATURES_KEY: text}, 5)


@pytest.mark.parametrize("shape", [(4,), (5, 2), (None, 3), (7, None, None)])
@pytest.mark.parametrize("layout", Layout)
def test_numbers_that_do_not_fit_their_shape_are_refused(layout, shape):
    spec = toy_spec(features=(stored("hidden.0"),), layout=layout)
    encoded = encode(rows_with_features(spec, 3, 0), spec, "train")
    name = "feature.hidden.0"
    with refused(IntegrityError, name):
        decode(encoded.table, spec, "train", [name], Codebook(features={name: shape}))
    with refused(IntegrityError, name, "lacks the shape"):
        decode(encoded.table, spec, "train", [name], Codebook())


def test_maps_of_parts_are_padded_to_the_longest():
    short, long = np.ones((2, 3, 2, 2), np.float16), np.ones((1, 3, 4, 4), np.float16)
    (joined,) = concatenate([{"a": short}, {"a": long}]).values()
    assert joined.shape == (3, 3, 4, 4)
    assert joined[:2].sum() == short.sum()
    assert np.array_equal(joined[2:], long)


def test_a_map_is_neither_pooled_nor_projected():
    for changes in ({"pool": Pool.MEAN}, {"size": 3}):
        with pytest.raises(ValueError, match="an attention map is kept as it is"):
            stored("attention.1", **changes)
