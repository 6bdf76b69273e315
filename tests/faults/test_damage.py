"""Damage of every kind to label sets of every layout: found, and never believed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage import layout
from storage.compaction import write_groups
from storage.errors import IntegrityError, SoftlabelError
from storage.files import Folder
from storage.identity import digest_of_bytes
from storage.options import Codec, Layout
from storage.reader import LabelSet
from storage.records import seal, unseal
from storage.verify_labels import verify_label_set
from tests.storage.toy import token_spec, toy_spec, write_toy_set

ROOT = Path(__file__).resolve().parents[2]
KINDS = ["shards", "records", "manifest.json", "manifests", "spec.json", "compacted"]


def specs() -> dict[str, object]:
    """Small sets of each layout; blocks and single positions, each codec."""
    return {
        "plain": toy_spec(codec=Codec.FLOAT16),
        "plain-blocks": token_spec(statistics=True, codec=Codec.UINT8),
        "fast": token_spec(layout=Layout.FAST, codec=Codec.FLOAT32),
        "compact": toy_spec(layout=Layout.COMPACT, codec=Codec.UINT8),
        "compact-blocks": token_spec(layout=Layout.COMPACT, codec=Codec.FLOAT16),
    }


@pytest.fixture(params=list(specs()))
def labels(request, tmp_path) -> Iterator[LabelSet]:
    """A set with an earlier state and a group of records."""
    store = Folder.open(tmp_path / "store")
    spec = specs()[request.param]
    write_toy_set(store, spec, train=8).close()
    opened = write_toy_set(store, spec, train=10)
    write_groups(opened.folder, opened.manifest.shards)
    assert faults(opened) == []
    yield opened
    opened.close()


def faults(labels: LabelSet) -> list[str]:
    found = [str(fault) for fault in verify_label_set(labels.folder)]
    assert all("\n" not in fault for fault in found)
    return found


def files(labels: LabelSet, kind: str) -> list[Path]:
    place = Path(labels.folder.path) / kind
    return [place] if place.is_file() else sorted(place.iterdir())


def test_changed_bytes_are_found(labels):
    change_bytes(labels, 40)


@pytest.mark.slow
def test_a_thousand_changed_bytes_are_found(labels):
    """200 of each of the five sets."""
    change_bytes(labels, 200)


def change_bytes(labels: LabelSet, count: int) -> None:
    draw = random.Random(count)
    for number in range(count):
        path = draw.choice(files(labels, KINDS[number % len(KINDS)]))
        content = path.read_bytes()
        damaged = bytearray(content)
        damaged[draw.randrange(len(content))] ^= draw.randrange(1, 256)
        path.write_bytes(damaged)
        found = faults(labels)
        assert found, f"{path}: a changed byte was not found"
        assert any(str(path) in fault for fault in found)
        path.write_bytes(content)
    assert faults(labels) == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_cut_lengthened_or_gone_is_found(labels, kind):
    draw = random.Random(0)
    for path in files(labels, kind):
        content = path.read_bytes()
        for length in (0, 1, draw.randrange(len(content)), len(content) - 1):
            path.write_bytes(content[:length])
            assert any(str(path) in fault for fault in faults(labels))
        path.write_bytes(content + b"\0")
        assert any(str(path) in fault for fault in faults(labels))
        path.unlink()
        # An earlier state that is gone, or a group, is nothing that anything else speaks of.
        silent = kind == "compacted" or (kind == "manifests" and path.stem != labels.digest)
        assert bool(faults(labels)) == (not silent)
        path.write_bytes(content)


@pytest.mark.parametrize("kind", ["shards", "records"])
def test_swapped_files_are_found(labels, kind):
    one, other = files(labels, kind)[:2]
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    assert len(faults(labels)) >= 2


@pytest.mark.parametrize("kind", ["shards", "records", "manifest.json"])
def test_files_of_another_label_set_are_found(labels, tmp_path, kind):
    spec = labels.spec.model_copy(update={"temperatures": (4.0, 1.0)})
    other = write_toy_set(Folder.open(tmp_path / "other"), spec, fingerprint="f" * 16)
    theirs, ours = files(other, kind)[0], files(labels, kind)[0]
    ours.write_bytes(theirs.read_bytes())
    assert any(str(ours) in fault for fault in faults(labels))
    other.close()


def test_a_record_under_another_name_is_found(labels):
    path = next(p for p in files(labels, "records") if p.name.startswith("train-0000001"))
    path.rename(path.with_name(path.name.replace("0000001", "0000009")))
    assert any("the record is missing" in fault for fault in faults(labels))


# What is sealed anew is not believed either


def reseal(path: Path, **changes: object) -> None:
    """Change a record, or the first shard of a manifest, and seal it again."""
    content = unseal(path.read_bytes(), str(path))
    (content["shards"][0] if "shards" in content else content).update(changes)
    path.write_bytes(seal(content))


@pytest.mark.parametrize(
    "name", ["../secret.parquet", "/etc/passwd", "a/b.parquet", "..", "", "x" * 300]
)
def test_names_that_lead_elsewhere_are_refused(labels, name):
    manifest = Path(labels.folder.path) / layout.MANIFEST
    reseal(manifest, file=name)
    with pytest.raises(IntegrityError, match="file"):
        LabelSet.open(labels.folder)
    (fault, *_) = faults(labels)
    assert str(manifest) in fault


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


def test_positions_that_are_not_there_are_found(labels):
    reseal(Path(labels.folder.path) / layout.MANIFEST, positions=2**62)
    assert any("its record says" in fault for fault in faults(labels))


_ABSURD = """
import resource, sys
from storage.errors import IntegrityError
from storage.reader import LabelSet

idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
labels = LabelSet.open(sys.argv[1])
try:
    for rows in labels.batches("train"):
        pass
except IntegrityError as error:
    print(str(error).replace("\\n", "|"))
else:
    print("believed")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - idle) / 1024)
"""


@pytest.mark.parametrize("claim", ["groups", pytest.param("bomb", marks=pytest.mark.slow)])
def test_a_shard_that_claims_absurd_sizes_is_refused_without_memory(tmp_path, claim):
    """A file whose record, sha256 and seal are right, and whose own words are not."""
    labels = write_toy_set(Folder.open(tmp_path), toy_spec())
    shard = labels.shards("train")[0]
    path = Path(labels.url_of(shard))
    table = pq.read_table(path)
    changes: dict[str, object] = {}
    if claim == "groups":
        changes = {"rows": 2**40, "row_groups": [2**40], "positions": 2**40}
    else:
        column = table.schema.get_field_index("sample_id")
        # Two gibibytes of one letter that fit into a small file.
        huge = pa.array(["a" * (300 << 20)] * len(table))
        bomb = table.set_column(column, table.schema.field(column), huge)
        pq.write_table(bomb, path, compression="zstd", use_dictionary=False, row_group_size=4)
        changes = {"size_bytes": path.stat().st_size, "sha256": digest_of_bytes(path.read_bytes())}
    reseal(Path(labels.folder.path) / layout.MANIFEST, **changes)
    labels.close()
    done = subprocess.run(
        [sys.executable, "-c", _ABSURD, labels.folder.path],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    said, grown = done.stdout.splitlines()
    assert str(path) in said or shard.file in said
    assert "record says" in said or "claims to hold" in said
    assert float(grown) < 200


def test_a_table_that_lies_about_its_levels_is_refused(tmp_path):
    spec = toy_spec(layout=Layout.COMPACT, codec=Codec.UINT8)
    labels = write_toy_set(Folder.open(tmp_path), spec)
    shard = labels.shards("train")[0]
    path = Path(labels.url_of(shard))
    with pq.ParquetFile(path) as file:
        table, metadata = file.read(), dict(file.metadata.metadata)
    with pq.ParquetWriter(path, table.schema) as writer:
        for start in range(0, len(table), 4):
            writer.write_table(table.slice(start, 4))
        lie = json.dumps([1.0] * 255).encode()
        writer.add_key_value_metadata({**metadata, b"softlabel.levels": lie})
    changes = {"size_bytes": path.stat().st_size, "sha256": digest_of_bytes(path.read_bytes())}
    reseal(Path(labels.folder.path) / layout.MANIFEST, **changes)
    labels.close()
    with pytest.raises(IntegrityError, match=r"softlabel\.levels"):
        list(LabelSet.open(labels.folder).batches("train"))
