"""From batches in any order to rows in the order of the shard; bad samples set aside."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from storage.options import LabelOptions
from storage.row_digest import digest_of_rows
from storage.rows import num_rows, take
from storage.spec import spec_of
from tasks.collate import collate
from tasks.effort import Effort
from tasks.forward import Forward
from tasks.shard_labels import NOT_FINITE, BatchLabels, assemble
from tests.tasks.toy import TableTeacher, block_corpus, random_table

BLOCKS = [[1, 2, 3, 4, 5], [6], [0, 2, 4], [3, 3], [5, 6, 0, 1, 2, 3, 4]]
CORPUS = block_corpus(BLOCKS, [[place % 3 != 1 for place, _ in enumerate(b)] for b in BLOCKS])
ROWS = CORPUS.splits["train"]
SPEC = spec_of(CORPUS.form, LabelOptions(k=2), 3, None)


def labelled(orders, teacher=None, rows=ROWS):
    forward = Forward(teacher or TableTeacher(random_table(7, 3)), SPEC, Effort())
    parts = []
    for order in orders:
        places = np.array(order)
        batch = collate(take(rows, places), ())
        lengths_B = batch.real_P.reshape(batch.num_samples, -1).sum(dim=1).numpy()
        reduced = forward.run(batch, "train").result().reduced
        parts.append(BatchLabels(places, reduced, batch.mask_P[batch.real_P], lengths_B))
    return assemble(rows, parts, SPEC, "train")


@given(st.permutations(range(5)), st.integers(1, 5))
def test_the_order_of_batches_does_not_matter(order, size):
    whole = labelled([range(5)])
    batches = [order[start : start + size] for start in range(0, 5, size)]
    other = labelled(batches)
    assert digest_of_rows(other.rows) == digest_of_rows(whole.rows)
    assert other.fidelity == whole.fidelity


def test_bad_samples_are_left_out_and_the_others_are_as_without_them():
    class Fragile(TableTeacher):
        def logits(self, inputs):
            logits = super().logits(inputs).clone()
            logits[inputs[0].reshape(-1) == 6] = torch.nan
            return logits

    table = random_table(7, 3)
    found = labelled([[4, 0], [2, 1], [3]], Fragile(table))
    assert found.bad == {1: NOT_FINITE, 4: NOT_FINITE}
    good = np.array([0, 2, 3])
    expected = labelled([range(3)], TableTeacher(table), take(ROWS, good))
    assert digest_of_rows(found.rows) == digest_of_rows(expected.rows)
    assert found.fidelity == expected.fidelity


def test_all_samples_may_be_bad():
    table = np.full((7, 3), np.nan, np.float32)
    found = labelled([[0, 1, 2], [4, 3]], TableTeacher(table))
    assert list(found.bad) == list(range(5))
    assert num_rows(found.rows) == 0
