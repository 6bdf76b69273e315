"""The validation split while a model is fitted, and what a fitted teacher's card says of it."""

import math

import numpy as np
import pytest
import torch

from storage.options import LabelOptions
from tasks.loss_options import LossOptions
from tasks.nn.learner import Learner
from tasks.nn.losses import distillation_loss
from tasks.nn.trainer import Trainer
from tasks.sources import CorpusSource, LabelSource
from tasks.stream import Stream
from tasks.training_options import TrainingOptions
from tasks.validation import hard_figures, validate
from tests.tasks.dense import log_softmax
from tests.tasks.toy import (
    TableModel,
    TableTeacher,
    block_corpus,
    label_set,
    numbered_corpus,
    random_table,
)

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


@pytest.mark.parametrize(
    ("said", "at_the_end"),
    [
        ({"soft_weight": {"start": 1.0, "end": 0.2}}, {"soft_weight": 0.2}),
        ({"temperature": [4.0, 2.0, 1.0]}, {"temperature": 1.0}),
        ({"temperature": "std"}, {"temperature": "std"}),
        ({"temperature": {"kind": "flsw", "base": 4.0}}, {"temperature": 4.0}),
        ({"temperature": {"kind": "cwsm", "base": 3.0}}, {"temperature": 2.0}),
        ({"soft": "jsd", "beta": 0.2}, {"soft": "jsd", "beta": 0.2}),
    ],
)
def test_the_loss_of_the_validation_split_is_that_of_the_end_of_training(store, said, at_the_end):
    """On a kept set, where not every class is kept, and the same at whatever step it is asked."""
    options = LabelOptions(
        keep="all", temperature=2.0, temperatures=(4.0, "std"), evaluation={"k": 2}, batch_size=4
    )
    corpus = numbered_corpus({"train": 12, "validation": 9})
    labels = label_set(store, corpus, TableTeacher(random_table(30)), options)
    model = TableModel(random_table(30, seed=1))
    training = TrainingOptions(learning_rate=1e-9)
    trainer = Trainer(Learner(model, LossOptions(**said)), training, 10, CPU)
    source = LabelSource(labels, "validation")
    first = validate(trainer, source, trainer.learner.loss)["validation_loss"]
    (batch,) = Stream(source, 9, shuffle=False)
    expected = distillation_loss(model(*batch.inputs), batch, LossOptions(**at_the_end)).total
    assert first == pytest.approx(expected.item(), rel=1e-5)
    for train_batch in Stream(LabelSource(labels, "train"), 4):
        trainer.step(train_batch)
    assert validate(trainer, source, trainer.learner.loss)["validation_loss"] == pytest.approx(
        first, rel=1e-5
    )
    labels.close()
