"""One batch through the teacher: halves where memory does not suffice, and what is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import ModelError
from storage.options import Keep, KeptSetOptions, LabelOptions
from storage.spec import spec_of
from tasks.collate import collate
from tasks.effort import Effort
from tasks.forward import Forward
from tasks.nn.positions import some_rows
from tests.tasks.toy import TableTeacher, block_corpus, numbered_corpus, random_table

TABLE = random_table(40)


class Small(TableTeacher):
    """Has memory for so many positions."""

    def __init__(self, table, most, error=MemoryError):
        super().__init__(table)
        self.most = most
        self.error = error

    def logits(self, inputs):
        if inputs[0].numel() > self.most:
            self.batch_sizes.append(-len(inputs[0]))
            raise self.error("CUDA out of memory. Tried to allocate 20 GiB")
        return super().logits(inputs)


def spec(corpus, **options):
    options = LabelOptions(k=2, temperature=2.0, evaluation=KeptSetOptions(k=3), **options)
    return spec_of(corpus.form, options, 5, None)


def tensors(reduced):
    kept = reduced.kept
    found = [kept.index_PK, kept.logit_PK, kept.rest_PT, kept.label_logit_P]
    return [*found, reduced.fidelity.retained_PT, reduced.bad_R, reduced.best_R]


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError, RuntimeError])
@pytest.mark.parametrize("keep", [Keep.TOP_K, Keep.TOP_P])
def test_halves_give_the_same_labels(error, keep):
    corpus = numbered_corpus({"train": 13})
    batch = collate(corpus.splits["train"], ())
    form = spec(corpus, keep=keep)
    whole = Forward(TableTeacher(TABLE), form, Effort()).run(batch, "train").result().reduced
    forward = Forward(Small(TABLE, 4, error), form, Effort())
    halves = forward.run(batch, "train").result().reduced
    assert forward.halved == 3
    for a, b in zip(tensors(whole), tensors(halves), strict=True):
        assert torch.equal(a, b)


def test_what_was_too_large_once_is_not_tried_again():
    corpus = numbered_corpus({"train": 8})
    batch = collate(corpus.splits["train"], ())
    teacher = Small(TABLE, 2)
    forward = Forward(teacher, spec(corpus), Effort())
    forward.run(batch, "train")
    assert teacher.batch_sizes == [-8, -4, 2, 2, 2, 2]
    forward.run(batch, "train")
    assert teacher.batch_sizes[6:] == [2, 2, 2, 2]


def test_a_single_sample_that_is_too_large_is_named():
    corpus = numbered_corpus({"train": 3})
    forward = Forward(Small(TABLE, 0), spec(corpus), Effort())
    with pytest.raises(ModelError, match=r"out of memory for the sample train-0 alone: .*shorter"):
        forward.run(collate(corpus.splits["train"], ()), "train")


@given(st.integers(1, 6), st.integers(0, 6))
def test_parts_of_a_batch_are_its_samples(stop, start):
    blocks = [[1, 2, 3, 4, 5], [6], [0, 2, 4], [3, 3], [5, 6], [1]]
    corpus = block_corpus(blocks, [[True] * len(block) for block in blocks])
    batch = collate(corpus.splits["train"], ())
    start, stop = min(start, stop), max(start, stop)
    part = batch.part(start, stop)
    assert part.num_samples == stop - start
    rows = slice(start * 5, stop * 5)
    for name in ("label_P", "mask_P", "real_P", "logit_PK", "index_PK"):
        assert torch.equal(getattr(part, name), getattr(batch, name)[rows])
    assert torch.equal(part.inputs[0], batch.inputs[0][start:stop])


def test_positions_are_taken_from_everything():
    corpus = numbered_corpus({"train": 9})
    forward = Forward(TableTeacher(TABLE), spec(corpus, statistics=True), Effort())
    reduced = forward.run(collate(corpus.splits["train"], ()), "train").result().reduced
    order = torch.tensor([4, 0, 8])
    taken = some_rows(reduced, order)
    for a, b in zip(tensors(reduced), tensors(taken), strict=True):
        assert torch.equal(a[order], b)
    for name, column in reduced.kept.statistics.items():
        assert torch.equal(column[order], taken.kept.statistics[name])
