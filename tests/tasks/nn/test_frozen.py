"""Frozen parameters stay what they are, bit for bit, while the others learn."""

import pytest
import torch
from torch import nn

from storage.errors import ModelError
from tasks.loss_options import LossOptions
from tasks.nn.frozen import freeze
from tasks.training_options import TrainingOptions
from tests.tasks.nn.test_trainer import batch, trainer_of

WHERE = "students.toy.training.frozen"


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 3))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize(
    ("patterns", "frozen"),
    [
        ((), set()),
        (("0.*",), {"0.weight", "0.bias"}),
        (("*.bias", "2.*"), {"0.bias", "2.weight", "2.bias", "4.bias"}),
        (("[02].weight",), {"0.weight", "2.weight"}),
    ],
)
def test_what_is_frozen_stays_and_all_else_learns(optimizer, patterns, frozen):
    model = network()
    freeze(model, patterns, WHERE)
    before = {name: entry.detach().clone() for name, entry in model.named_parameters()}
    training = TrainingOptions(optimizer=optimizer, weight_decay=0.1, warmup=0.0)
    trainer = trainer_of(model, LossOptions(), training, 10)
    for seed in range(3):
        trainer.step(batch(seed))
    same = {name for name, entry in model.named_parameters() if torch.equal(entry, before[name])}
    assert same == frozen
    learning = {name for name in before if name not in frozen}
    (optimizer,) = trainer.optimizers
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(learning)


def test_a_pattern_that_matches_nothing_is_refused():
    message = rf"^{WHERE}: .* 'encoder\.\*' matches none of the model.s 6; they are called 0\.w"
    with pytest.raises(ModelError, match=message):
        freeze(network(), ("0.*", "encoder.*"), WHERE)


def test_something_must_be_left_to_learn():
    with pytest.raises(ModelError, match="leave something to learn, all is frozen"):
        freeze(network(), ("*",), WHERE)
