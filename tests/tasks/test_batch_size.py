"""`batch_size: auto`: fast enough, no larger than needed, within memory."""

import time

import numpy as np
import pytest

from storage.options import LabelOptions
from storage.spec import spec_of
from tasks.batch_size import find_batch_size
from tests.tasks.toy import TableTeacher, block_corpus, numbered_corpus, random_table

TABLE = random_table(2000)


class Timed(TableTeacher):
    """Takes a time for each call and for each sample, by a clock of its own."""

    def __init__(self, call, sample, most=None):
        super().__init__(TABLE)
        self.call, self.sample, self.most, self.now = call, sample, most, 0.0

    def logits(self, inputs):
        if self.most is not None and len(inputs[0]) > self.most:
            raise MemoryError
        self.now += self.call + self.sample * len(inputs[0])
        return super().logits(inputs)


def found(monkeypatch, teacher, corpus=None):
    corpus = corpus or numbered_corpus({"train": 1500, "test": 3})
    spec = spec_of(corpus.form, LabelOptions(k=2), 5, None)
    monkeypatch.setattr(time, "perf_counter", lambda: teacher.now)
    return find_batch_size(teacher, spec, corpus)


@pytest.mark.parametrize(
    ("call", "sample", "expected"),
    [
        (1e-3, 1e-3, 32),  # 32 of 33 ms are the samples'; of 16 they would be 94 %
        (1e-6, 1e-3, 1),
        (1e-2, 1e-6, 1024),
        (0.1, 2.0, 1),  # one sample takes long enough
    ],
)
def test_the_smallest_that_is_about_as_fast_as_any(monkeypatch, call, sample, expected):
    assert found(monkeypatch, Timed(call, sample)) == expected


def test_memory_is_a_limit(monkeypatch):
    teacher = Timed(1e-2, 1e-6, most=100)
    assert found(monkeypatch, teacher) == 64


def test_there_may_be_few_samples(monkeypatch):
    assert found(monkeypatch, Timed(1e-2, 1e-6), numbered_corpus({"train": 5})) == 4


def test_the_longest_samples_decide(monkeypatch):
    seen = []

    class Watching(Timed):
        def logits(self, inputs):
            seen.append(inputs[0].shape)
            return super().logits(inputs)

    rng = np.random.default_rng(0)
    blocks = [rng.integers(0, 7, length).tolist() for length in (3, 9, 1, 5)]
    corpus = block_corpus(blocks, [[True] * len(block) for block in blocks])
    teacher = Watching(1e-2, 1e-6)
    spec = spec_of(corpus.form, LabelOptions(k=2), 5, None)
    monkeypatch.setattr(time, "perf_counter", lambda: teacher.now)
    assert find_batch_size(teacher, spec, corpus) == 4
    assert {tuple(shape) for shape in seen} == {(1, 9), (2, 9), (4, 9)}
