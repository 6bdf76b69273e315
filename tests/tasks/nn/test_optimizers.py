"""Optimizers: each by its name, with torch's own arguments."""

import inspect

import pytest
import torch
from torch import nn

from storage.errors import RecipeError
from tasks.nn.optimizers import optimizers_of
from tasks.optimizer_options import ARGUMENTS
from tasks.training_options import TrainingOptions
from tests.tasks.nn.test_trainer import LossOptions as Loss
from tests.tasks.nn.test_trainer import batch, linear, trainer_of

WHERE = "students.toy.training"


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_loss_goes_down(name):
    training = TrainingOptions(optimizer=name, learning_rate=0.1, epochs=1)
    trainer = trainer_of(linear(), Loss(), training, 60)
    losses = [trainer.step(batch()).loss for _ in range(60)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_arguments_are_those_of_torch(name):
    kinds = {entry.lower(): getattr(torch.optim, entry) for entry in dir(torch.optim)}
    taken = inspect.signature(kinds[name].__init__).parameters
    assert set(ARGUMENTS[name]) <= set(taken)


def test_arguments_reach_the_optimizer():
    said = {"betas": [0.8, 0.9], "amsgrad": True}
    training = TrainingOptions(optimizer="adamw", optimizer_arguments=said)
    (optimizer,) = optimizers_of(linear(), training, WHERE)
    assert optimizer.defaults["betas"] == (0.8, 0.9)
    assert optimizer.defaults["amsgrad"]


def test_arguments_that_torch_refuses_are_named():
    training = TrainingOptions(optimizer="sgd", optimizer_arguments={"nesterov": True})
    with pytest.raises(RecipeError, match=rf"^{WHERE}\.optimizer_arguments: sgd: Nesterov"):
        optimizers_of(linear(), training, WHERE)


def test_muon_learns_matrices_and_adamw_the_rest():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(5, 4)
            self.frozen = nn.Linear(4, 4).requires_grad_(False)
            self.inner = nn.Linear(4, 4)

    model = Tagger()
    muon, adamw = optimizers_of(model, TrainingOptions(optimizer="muon"), WHERE)
    assert isinstance(muon, torch.optim.Muon)
    assert [id(entry) for entry in muon.param_groups[0]["params"]] == [id(model.inner.weight)]
    rest = {id(entry) for entry in adamw.param_groups[0]["params"]}
    assert rest == {id(model.embedding.weight), id(model.inner.bias)}
