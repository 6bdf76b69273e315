"""Plain shards in programs that know nothing of label sets: DuckDB, polars and pandas."""

import json
from pathlib import Path

import duckdb
import numpy as np
import pandas
import polars
import pyarrow.parquet as pq
import pytest

from storage.options import Codec, Keep, Task
from tests.storage.kinds import spec_of_kind, write_known_set
from tests.storage.test_positions import TOLERANCE, softmax

T = 2.0


def by_duckdb(pattern):
    with duckdb.connect() as connection:
        query = f"SELECT index, logit, rest, label FROM '{pattern}'"
        return connection.sql(query).fetchall()


def by_polars(pattern):
    return polars.read_parquet(pattern).select("index", "logit", "rest", "label").rows()


def by_pandas(pattern):
    folder, _, name = pattern.rpartition("/")
    split = name.removesuffix("-*.parquet")
    found = [pandas.read_parquet(file) for file in sorted(Path(folder).glob(f"{split}-*"))]
    frame = pandas.concat(found)[["index", "logit", "rest", "label"]]
    return list(frame.itertuples(index=False, name=None))


READERS = pytest.mark.parametrize("read", [by_duckdb, by_polars, by_pandas])


def pattern_of(known, split="train"):
    known.labels.close()
    return f"{known.labels.folder.path}/shards/{split}-*.parquet"


def assert_probabilities(rows, logit_NC, tolerance, levels=None):
    """Softmax over the kept logits and the rest is what the teacher said, at T and at 1."""
    assert len(rows) == len(logit_NC)
    for place, at in ((0, T), (1, 1.0)):
        for (index, logit, rest, _), expected_C in zip(rows, softmax(logit_NC, at), strict=True):
            values = np.asarray(logit if levels is None else [levels[code] for code in logit])
            scaled = np.append(values.astype(float) * T / at, rest[place])
            p = np.exp(scaled) / np.exp(scaled).sum()
            expected = expected_C[np.asarray(index)]
            assert p[:-1] == pytest.approx(expected, abs=tolerance)
            assert p[-1] == pytest.approx(1 - expected.sum(), abs=tolerance)


@pytest.mark.parametrize("keep", Keep)
@pytest.mark.parametrize(
    ("read", "codec"),
    [
        (by_duckdb, Codec.FLOAT32),
        (by_duckdb, Codec.FLOAT16),
        (by_polars, Codec.FLOAT32),
        (by_polars, Codec.FLOAT16),
        (by_pandas, Codec.FLOAT32),
        (by_pandas, Codec.FLOAT16),
    ],
)
def test_they_read_lists_of_ids_and_logits(store, read, keep, codec):
    known = write_known_set(store, spec_of_kind(keep, codec))
    assert_probabilities(read(pattern_of(known)), known.logit_NC["train"], TOLERANCE[codec])


@READERS
def test_they_read_levels_with_the_table_of_the_shard(store, read):
    known = write_known_set(store, spec_of_kind(codec=Codec.UINT8))
    pattern = pattern_of(known, "test")
    (shard,) = known.labels.shards("test")
    metadata = pq.read_metadata(known.labels.url_of(shard)).metadata
    levels = [*json.loads(metadata[b"softlabel.levels"]), -np.inf]
    assert_probabilities(read(pattern), known.logit_NC["test"], TOLERANCE[Codec.UINT8], levels)


def test_duckdb_reads_the_table_of_levels_too(store):
    known = write_known_set(store, spec_of_kind(codec=Codec.UINT8))
    (shard,) = known.labels.shards("test")
    url = known.labels.url_of(shard)
    query = f"""
        WITH levels AS (
            SELECT from_json(decode(value), '["FLOAT"]') AS level
            FROM parquet_kv_metadata('{url}') WHERE decode(key) = 'softlabel.levels'
        )
        SELECT list_transform(logit, lambda code: CASE code WHEN 255 THEN '-inf'::FLOAT
                                                       ELSE level[code::INT + 1] END)
        FROM '{url}', levels
    """
    with duckdb.connect() as connection:
        found = [row[0] for row in connection.sql(query).fetchall()]
    rows = next(known.labels.batches("test"))
    assert np.allclose(found, rows["logit"])
    known.labels.close()


def test_blocks_are_flat_lists(store):
    known = write_known_set(store, spec_of_kind(task=Task.CAUSAL_LM))
    pattern = pattern_of(known)
    found = polars.read_parquet(pattern)
    lengths = found["mask"].list.len()
    assert found["index"].list.len().to_list() == (lengths * 4).to_list()
    assert found["rest"].list.len().to_list() == (lengths * 2).to_list()
    index = np.concatenate(found["index"].to_list()).reshape(-1, 4)
    logit_NC = known.logit_NC["train"]
    best_N1 = logit_NC.max(axis=1, keepdims=True)
    expected = (np.take_along_axis(logit_NC, index.astype(int), axis=1) - best_N1) / T
    assert np.allclose(np.concatenate(found["logit"].to_list()).reshape(-1, 4), expected)
