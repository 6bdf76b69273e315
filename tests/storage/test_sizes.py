"""The parts of a label set's bytes, against the footers themselves."""

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from storage import sizes
from storage.errors import IntegrityError
from storage.files import Folder
from storage.options import Codec, Keep, Layout
from storage.sizes import PARTS, part_sizes, together
from tests.storage.kinds import spec_of_kind, write_known_set
from tests.storage.refusal import refused

PATTERNS = {
    "ids": r"^(index|count)\b",
    "values": r"^logit\b",
    "rest": r"^rest\b",
    "inputs": r"^input\.",
}


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("keep", [Keep.TOP_K, Keep.SAMPLE])
def test_each_column_belongs_to_one_part(store, keep, codec, layout):
    labels = write_known_set(store, spec_of_kind(keep, codec, layout)).labels
    found = part_sizes(labels, "train")
    assert tuple(found.bytes) == PARTS
    assert sum(found.bytes.values()) == sum(s.size_bytes for s in labels.shards("train"))
    expected = dict.fromkeys(PATTERNS, 0)
    for shard in labels.shards("train"):
        metadata = pq.read_metadata(labels.url_of(shard))
        for group in (metadata.row_group(n) for n in range(metadata.num_row_groups)):
            for column in (group.column(n) for n in range(group.num_columns)):
                for part, pattern in PATTERNS.items():
                    if re.match(pattern, column.path_in_schema):
                        expected[part] += column.total_compressed_size
        keys = metadata.metadata
        expected["ids"] += sum(len(k + v) for k, v in keys.items() if k == b"softlabel.ids")
        expected["values"] += sum(len(k + v) for k, v in keys.items() if k == b"softlabel.levels")
    assert {part: found.bytes[part] for part in PATTERNS} == expected
    assert found.per_position()["rest"] == expected["rest"] / 9


def test_splits_are_put_together(store):
    labels = write_known_set(store, spec_of_kind()).labels
    whole = together([part_sizes(labels, split) for split in labels.splits])
    assert sum(whole.bytes.values()) == labels.manifest.size_bytes
    assert (whole.positions, whole.shards, whole.shards_read) == (12, 3, 3)


def test_from_afar_only_some_footers_are_read(monkeypatch):
    monkeypatch.setattr(sizes, "_MOST_REMOTE_FOOTERS", 3)
    store = Folder.open("memory://sizes")
    labels = write_known_set(store, spec_of_kind(), sizes=[1] * 8).labels
    found = part_sizes(labels, "train")
    assert (found.shards_read, found.shards, found.positions) == (3, 8, 3)
    chosen = [labels.shards("train")[place] for place in (0, 3, 7)]
    assert sum(found.bytes.values()) == sum(shard.size_bytes for shard in chosen)


def test_a_damaged_footer_is_said(store):
    labels = write_known_set(store, spec_of_kind()).labels
    path = Path(labels.url_of(labels.shards("test")[0]))
    path.write_bytes(path.read_bytes()[:-9])
    with refused(IntegrityError, str(path), "cannot be read", "--repair"):
        part_sizes(labels, "test")
