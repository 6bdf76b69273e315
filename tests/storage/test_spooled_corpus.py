"""Samples written to the local disk come back as they were, in any range."""

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import StoreError
from storage.forms import Forms, agreed, input_specs
from storage.options import Task
from storage.row_digest import digest_of_rows
from storage.rows import Ragged, part, values_of
from storage.scratch import Scratch
from storage.spec import CorpusForm
from storage.spool import SpoolWriter
from storage.spooled_corpus import SpooledCorpus
from tests.storage.refusal import refused

ROOT = Path(__file__).resolve().parents[2]


def samples(count: int, seed: int = 0, *, wide: int = 2) -> dict:
    """Of each kind of column one."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 5, count)
    return {
        "sample_id": np.array([f"\u00e9{n}" for n in range(count)], object),
        "input.x": rng.normal(size=(count, wide, 3)).astype(np.float32),
        "input.bytes": rng.integers(0, 255, (count, 2)).astype(np.uint8),
        "input.flag": rng.random(count) < 0.5,
        "input.half": rng.normal(size=(count, 1)).astype(np.float16),
        "input.t": Ragged(rng.integers(0, 9, lengths.sum()).astype(np.int32), lengths),
        "input.on": Ragged(rng.random(lengths.sum()) < 0.5, lengths),
        "label": rng.integers(0, 7, count),
    }


def spooled(rows: dict, pieces: list[int]) -> SpooledCorpus:
    """A corpus of one split, written in pieces."""
    scratch = Scratch()
    writer = SpoolWriter(scratch.path / "train.arrow")
    forms = Forms()
    start = 0
    for stop in [*pieces, len(rows["label"])]:
        if stop > start:
            writer.append(part(rows, start, stop))
            forms.add(part(rows, start, stop))
            start = stop
    columns = agreed({"": forms})
    form = CorpusForm(Task.CLASSIFICATION, input_specs(columns), True, ("train",))
    return SpooledCorpus(form, {"train": writer.finish()}, columns, 7, scratch=scratch)


def assert_equal(found: dict, expected: dict) -> None:
    assert list(found) == list(expected)
    for name, column in expected.items():
        assert np.array_equal(values_of(found[name]), values_of(column)), name
        assert values_of(found[name]).dtype == values_of(column).dtype, name
        if isinstance(column, Ragged):
            assert np.array_equal(found[name].lengths_B, column.lengths_B), name


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 60),
    st.lists(st.integers(0, 60), max_size=6).map(sorted),
    st.sampled_from([2, 40_000]),
    st.data(),
)
def test_every_range_comes_back(count, pieces, wide, data):
    rows = samples(count, wide=wide)
    corpus = spooled(rows, [stop for stop in pieces if stop < count])
    start = data.draw(st.integers(0, count))
    stop = data.draw(st.integers(start, count + 3))
    assert_equal(corpus.read("train", start, stop), part(rows, start, stop))
    some = data.draw(st.lists(st.sampled_from(list(rows)), min_size=1, unique=True))
    expected = part({name: rows[name] for name in some}, start, stop)
    assert_equal(corpus.read("train", start, stop, some), expected)
    corpus.close()


def test_many_samples_come_back_and_their_digest_is_that_of_the_rows():
    rows = samples(5000)
    corpus = spooled(rows, [1, 700, 4096])
    assert_equal(corpus.read("train", 0, 5000), rows)
    assert_equal(corpus.read("train", 1000, 3000), part(rows, 1000, 3000))
    assert corpus.digest_of_split("train") == digest_of_rows(rows)
    assert corpus.shards(3000)["train"][1].digest == digest_of_rows(part(rows, 3000, 5000))
    corpus.close()


def test_threads_may_read_at_once():
    rows = samples(5000)
    corpus = spooled(rows, [])
    starts = list(range(0, 5000, 250)) * 3
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda start: corpus.read("train", start, start + 250), starts))
    for start, some in zip(starts, found, strict=True):
        assert_equal(some, part(rows, start, start + 250))
    corpus.close()


def test_a_copy_in_another_process_reads_and_removes_nothing(tmp_path):
    corpus = spooled(samples(30), [])
    (tmp_path / "corpus").write_bytes(pickle.dumps(corpus))
    program = (
        "import pickle, sys; corpus = pickle.loads(open(sys.argv[1], 'rb').read())\n"
        "print(corpus.digest('train', 3, 9)); corpus.close()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "corpus")],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == corpus.digest("train", 3, 9)
    corpus.close()


def test_after_closing_nothing_is_left_to_read():
    corpus = spooled(samples(3), [])
    copy = pickle.loads(pickle.dumps(corpus))
    corpus.close()
    assert corpus.is_closed
    with refused(StoreError, "scratch folder", "run it again"):
        copy.read("train", 0, 3)


@pytest.mark.parametrize("limit", [2000])
def test_a_full_disk_is_one_clear_error(limit, tmp_path, monkeypatch):
    import resource
    import signal

    monkeypatch.setenv("SOFTLABEL_SCRATCH", str(tmp_path))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with refused(StoreError, str(tmp_path), "make room", "SOFTLABEL_SCRATCH"):
            spooled(samples(5000), [])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
