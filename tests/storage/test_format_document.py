"""storage/FORMAT.md is enough: a reader written from it sees what `LabelSet` sees."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import layout as paths
from storage.files import Folder
from storage.options import Codec, Keep, Layout, Task
from storage.reader import LabelSet
from storage.records import Manifest, write_record
from storage.rows import Ragged, concatenate
from storage.spec import STD_FORMAT_VERSION
from storage.writer import write_shard
from tasks.views import augmented
from tests.storage import format_reader
from tests.storage.format_views import view_of
from tests.storage.kinds import spec_of_kind, write_known_set
from tests.storage.test_encoding import random_rows, specs
from tests.storage.toy import SET_FINGERPRINT, toy_plan, views_spec, write_toy_set


def assert_the_same(labels: LabelSet) -> None:
    """Every number of every position, by both readers; best first, the others in any order."""
    manifest, samples = format_reader.read_set(labels.folder.path)
    assert manifest["digest"] == labels.digest
    for split in labels.splits:
        found = iter(samples[split])
        for rows in labels.batches(split):
            for row in range(len(rows["sample_id"])):
                _assert_sample(next(found), rows, row, split, labels)
        assert next(found, None) is None
    labels.close()


def _assert_sample(sample, rows, row, split, labels):
    assert sample["sample_id"] == rows["sample_id"][row]
    for name, values in sample["inputs"].items():
        assert np.array_equal(np.ravel(values), np.ravel(_of(rows[name], row)))
    columns = {
        name: np.atleast_1d(_of(column, row)) if isinstance(column, Ragged) else [column[row]]
        for name, column in rows.items()
        if not name.startswith(("input.", "sample_id"))
    }
    for place, position in enumerate(sample["positions"]):
        at = {name: values[place] for name, values in columns.items()}
        count = at.get("kept", labels.spec.entries[split])
        names = [name for name in ("index", "logit", "count") if name in at]
        expected = list(zip(*(at[name][:count].tolist() for name in names), strict=True))
        entries = position.pop("entries")
        assert entries[0] == expected[0]
        assert sorted(entries) == sorted(expected)
        for name, value in position.items():
            assert np.array_equal(value, at[name]), name


def _of(column, row):
    if not isinstance(column, Ragged):
        return column[row]
    start = int(column.lengths_B[:row].sum())
    return column.values_NW[start : start + int(column.lengths_B[row])]


@pytest.mark.parametrize("task", [Task.CLASSIFICATION, Task.CAUSAL_LM])
@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("keep", Keep)
def test_both_readers_see_the_same(store, keep, codec, layout, task):
    spec = spec_of_kind(keep, codec, layout, task)
    assert_the_same(write_known_set(store, spec, sizes=(40, 3)).labels)


def test_views_and_how_they_are_made(store):
    labels = write_toy_set(store, views_spec())
    assert_the_same(labels)
    manifest, samples = format_reader.read_set(labels.folder.path)
    assert (manifest["format_version"], manifest["spec"]["views"]) == (3, 2)
    rows = concatenate(list(labels.batches("train")))
    views = augmented(rows, labels.spec.augment)
    for place, sample in enumerate(samples["train"]):
        assert (sample["view"], sample["view_seed"]) == (rows["view"][place], -7 * place)
        stored = sample["inputs"]["input.x"]
        view = view_of(stored, "float32", sample["view_seed"], manifest["spec"]["augment"])
        assert view.tobytes() == views["input.x"][place].tobytes()
    assert not np.array_equal(views["input.x"], rows["input.x"])
    labels.close()


@pytest.mark.parametrize("task", [Task.CLASSIFICATION, Task.CAUSAL_LM])
def test_a_temperature_of_each_position(store, task):
    spec = spec_of_kind(
        task=task, temperatures=(2.0, 1.0, "std"), format_version=STD_FORMAT_VERSION
    )
    labels = write_known_set(store, spec).labels
    assert_the_same(labels)
    manifest, samples = format_reader.read_set(labels.folder.path)
    assert manifest["format_version"] == 4
    assert all(
        position["std"] > 0 for sample in samples["train"] for position in sample["positions"]
    )


@pytest.mark.parametrize("num_classes", [256, 257, 70_000])
@pytest.mark.parametrize("layout", Layout)
def test_ids_of_every_size(store, layout, num_classes):
    spec = spec_of_kind(codec=Codec.UINT8, layout=layout, num_classes=num_classes)
    assert_the_same(write_known_set(store, spec).labels)


@settings(max_examples=60)
@given(specs(), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_whatever_a_writer_writes(tmp_path_factory, spec, count, seed):
    spec = spec.model_copy(update={"positions_per_row_group": 4})
    folder = Folder.open(tmp_path_factory.mktemp("set"))
    rows = random_rows(spec, count, seed)
    record = write_shard(folder, toy_plan("train", 0, 0, count), spec, rows, {})
    manifest = Manifest.of(SET_FINGERPRINT, spec, (record,), {"train": {}})
    write_record(folder, paths.MANIFEST, manifest)
    assert_the_same(LabelSet.open(folder))


def test_its_reader_checks_what_it_reads(store):
    labels = write_known_set(store, spec_of_kind()).labels
    path = Path(labels.folder.path) / "manifest.json"
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    with pytest.raises(AssertionError):
        format_reader.read_set(labels.folder.path)
