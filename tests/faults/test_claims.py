"""What is sealed anew, with the right sha256, is not believed either: absurd words in records."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage import layout
from storage.compaction import committed_records
from storage.errors import IntegrityError, SoftlabelError
from storage.files import Folder
from storage.options import Codec, Layout
from storage.reader import LabelSet
from storage.records import seal, unseal
from tests.faults.damage import faults, files, label_set, reseal, specs
from tests.storage.crafted import path_of, put, with_rows, written
from tests.storage.toy import toy_spec, write_toy_set

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["plain-blocks", "compact"])
def labels(request, tmp_path) -> Iterator[LabelSet]:
    opened = label_set(Folder.open(tmp_path / "store"), specs()[request.param])
    yield opened
    opened.close()


NAMES = ["../secret.parquet", "/etc/passwd", "a/b.parquet", "..", "", "x" * 300]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_lead_elsewhere_are_refused(labels, name):
    manifest = Path(labels.folder.path) / layout.MANIFEST
    reseal(manifest, file=name)
    with pytest.raises(IntegrityError, match="file"):
        LabelSet.open(labels.folder)
    (fault, *_) = faults(labels)
    assert str(manifest) in fault


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["records", "manifests", "compacted"])
def test_names_that_lead_elsewhere_are_refused_wherever_they_stand(labels, kind, name):
    path = files(labels, kind)[0]
    reseal(path, file=name)
    (fault,) = faults(labels)
    assert fault.startswith(f"{path}: ")
    assert "file" in fault
    names = [shard.record_file for shard in labels.manifest.shards]
    there = committed_records(labels.folder, names).there.values()
    assert {shard.file for shard in there} <= {shard.file for shard in labels.manifest.shards}


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 10**15, "row_groups": [10**15], "positions": 10**15},
        {"size_bytes": 2**62},
        {"rows": -1},
        {"row_groups": [6, 10**18]},
        {"sha256": "0"},
        {"rows": 2**70},
    ],
)
def test_absurd_records_are_refused(labels, changes):
    reseal(Path(labels.folder.path) / layout.MANIFEST, **changes)
    assert faults(labels)
    with pytest.raises(SoftlabelError):
        list(LabelSet.open(labels.folder).batches("train"))


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 10**15, "row_groups": [10**15], "positions": 10**15},
        {"size_bytes": 2**62},
        {"rows": 2**70},
        {"positions": -1},
        {"fingerprint": "f" * 16},
    ],
)
def test_records_that_say_something_else_are_found(labels, changes):
    path = next(p for p in files(labels, "records") if p.name.startswith("train-0000000"))
    reseal(path, **changes)
    (fault,) = faults(labels)
    assert fault.startswith(f"{path}: ")


@pytest.mark.parametrize(
    "changes",
    [
        {"num_classes": 2**31},
        {"num_classes": 2**70},
        {"selections": {"train": {"keep": "top_k", "k": 2**40}}},
        {"inputs": [{"name": "x", "dtype": "O", "shape": [2]}]},
        {"temperatures": []},
    ],
)
def test_absurd_forms_are_refused(labels, changes):
    path = Path(labels.folder.path) / layout.MANIFEST
    content = unseal(path.read_bytes(), str(path))
    content["spec"] |= changes
    path.write_bytes(seal(content))
    assert any(fault.startswith(f"{path}: ") for fault in faults(labels))
    with pytest.raises(SoftlabelError):
        list(LabelSet.open(labels.folder).batches("train"))


def test_positions_that_are_not_there_are_found(labels):
    reseal(Path(labels.folder.path) / layout.MANIFEST, positions=2**62)
    assert any("its record says" in fault for fault in faults(labels))


_ABSURD = """
import resource, sys
from storage.errors import IntegrityError
from storage.reader import LabelSet
from storage.verify_labels import verify_label_set

idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
labels = LabelSet.open(sys.argv[1])
try:
    for rows in labels.batches("train"):
        pass
except IntegrityError as error:
    print(error)
print(len(list(verify_label_set(labels.folder))))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - idle) / 1024)
"""


def absurd_rows(labels: LabelSet) -> None:
    """The record, the footer and each column agree on a number of rows."""
    rows = labels.shards("train")[0].rows
    claims = {"rows": 2**40, "row_groups": [2**40], "positions": 2**40}
    put(labels, with_rows(path_of(labels).read_bytes(), rows, 2**40), **claims)


def absurd_text(labels: LabelSet) -> None:
    """Hundreds of mebibytes of one letter that fit into a small file."""
    with pq.ParquetFile(path_of(labels)) as file:
        table = file.read()
    column = table.schema.get_field_index("sample_id")
    huge = pa.array(["a" * (400 << 10)] * len(table))
    bomb = table.set_column(column, table.schema.field(column), huge)
    put(labels, written(bomb, row_group_size=len(bomb)))


def absurd_record(labels: LabelSet) -> None:
    claims = {"rows": 2**40, "row_groups": [2**40], "positions": 2**40}
    reseal(Path(labels.folder.path) / layout.MANIFEST, **claims)


def absurd_size(labels: LabelSet) -> None:
    reseal(Path(labels.folder.path) / layout.MANIFEST, size_bytes=2**62)


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        (absurd_record, "its record says"),
        (absurd_size, f"expected {2**62} bytes"),
        (absurd_rows, "its pages hold fewer"),
        pytest.param(absurd_text, "claims to hold", marks=pytest.mark.slow),
    ],
)
def test_absurd_sizes_are_refused_without_memory(tmp_path, claim, words):
    """A file whose record, sha256 and seal are right, and whose own words are not."""
    spec = toy_spec(positions_per_row_group=5000)
    labels = write_toy_set(Folder.open(tmp_path), spec, train=1001, rows_per_shard=1001)
    claim(labels)
    labels.close()
    done = subprocess.run(
        [sys.executable, "-c", _ABSURD, labels.folder.path],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    line, count, grown = done.stdout.splitlines()
    assert str(path_of(labels)) in line
    assert words in line
    assert int(count) >= 1
    assert float(grown) < 200


def test_a_table_that_lies_about_its_levels_is_refused(tmp_path):
    spec = toy_spec(layout=Layout.COMPACT, codec=Codec.UINT8)
    labels = write_toy_set(Folder.open(tmp_path), spec)
    path = path_of(labels)
    with pq.ParquetFile(path) as file:
        table, metadata = file.read(), dict(file.metadata.metadata)
    with pq.ParquetWriter(path, table.schema) as writer:
        for start in range(0, len(table), 4):
            writer.write_table(table.slice(start, 4))
        lie = json.dumps([1.0] * 255).encode()
        writer.add_key_value_metadata({**metadata, b"softlabel.levels": lie})
    put(labels, path.read_bytes())
    labels.close()
    with pytest.raises(IntegrityError, match=r"softlabel\.levels"):
        list(LabelSet.open(labels.folder).batches("train"))
