"""What a fitted teacher's card says: likelihood and accuracy against a plain float64 count."""

import math

import numpy as np
import pytest
import torch

from tasks.sources import CorpusSource
from tasks.validation import hard_figures
from tests.tasks.dense import log_softmax
from tests.tasks.toy import TableModel, block_corpus, numbered_corpus, random_table

CPU = torch.device("cpu")


def expected(table_NC, numbers, labels):
    log_p = [log_softmax(table_NC[number].astype(np.float64), 1.0) for number in numbers]
    nll = -sum(row[label] for row, label in zip(log_p, labels, strict=True)) / len(labels)
    right = sum(int(row.argmax()) == label for row, label in zip(log_p, labels, strict=True))
    return nll, right / len(labels)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_of_classified_samples(batch_size):
    table = random_table(9)
    source = CorpusSource(numbered_corpus({"validation": 9}), "validation")
    found = hard_figures(TableModel(table), source, batch_size, CPU)
    nll, accuracy = expected(table, range(9), [number % 5 for number in range(9)])
    assert found["nll"] == pytest.approx(nll, rel=1e-6)
    assert found["accuracy"] == pytest.approx(accuracy)
    assert found["positions"] == 9


def test_only_positions_that_count_do():
    blocks = [[0, 1, 2], [3, 4], [5]]
    mask = [[True, False, True], [False, True], [True]]
    table = random_table(7, num_classes=3)
    source = CorpusSource(block_corpus(blocks, mask), "train")
    found = hard_figures(TableModel(table, blocks=True), source, 2, CPU)
    numbers = [0, 2, 4, 5]
    nll, accuracy = expected(table, numbers, [number % 3 for number in numbers])
    assert found["positions"] == 4
    assert found["nll"] == pytest.approx(nll, rel=1e-6)
    assert found["accuracy"] == pytest.approx(accuracy)


def test_without_labels_there_is_nothing_to_say():
    source = CorpusSource(numbered_corpus({"validation": 5}, label=False), "validation")
    found = hard_figures(TableModel(random_table(5)), source, 2, CPU)
    assert found["positions"] == 0
    assert math.isclose(found["nll"], 0.0)
