"""Damage of every kind to label sets of every layout: found, and never believed."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from storage.files import Folder
from storage.reader import LabelSet
from tests.faults.damage import faults, files, label_set, specs
from tests.storage.toy import write_toy_set

KINDS = ["shards", "records", "manifest.json", "manifests", "spec.json", "compacted"]


@pytest.fixture(params=list(specs()))
def labels(request, tmp_path) -> Iterator[LabelSet]:
    opened = label_set(Folder.open(tmp_path / "store"), specs()[request.param])
    yield opened
    opened.close()


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
