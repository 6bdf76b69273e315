"""Samples that make a loss or gradient not finite are found and named."""

import math

import pytest
import torch
from torch import nn

from tasks.loss_options import LossOptions
from tasks.nn.counts import Counts
from tasks.nn.learner import Learner
from tasks.nn.not_finite import Suspects, suspects_of
from tests.tasks.nn.test_gradients import batch, network


class Rooted(nn.Module):
    """The root of a feature: its gradient is infinite where the feature is 0."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        shift = (self.scale * x[:, :1]) + (x[:, :1] != 7.0).float()
        return shift.sqrt() * torch.ones(4)


def found(data, model=None):
    learner = Learner(model or network(), LossOptions())
    suspects = suspects_of(learner, data, Counts.of(data), 0.0)
    assert learner.training
    return suspects


def test_nothing_is_found_where_all_is_finite():
    assert found(batch(6)) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_inputs(value):
    data = batch(6)
    data.inputs[0][4, 2] = value
    assert found(data) == Suspects("the stored inputs of", ["sample-4"])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_labels(value):
    for place in ("logit_PK", "rest_PT"):
        data = batch(6)
        getattr(data, place)[2, 1] = value
        assert found(data) == Suspects("the stored labels of", ["sample-2"])


def test_no_mass_is_no_fault():
    data = batch(6)
    data.rest_PT[:] = -math.inf
    assert found(data) is None


def test_the_loss_of_a_sample():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, x):
            return self.inner(x) / (x[:, :1] != 7.0).float()

    data = batch(6)
    data.inputs[0][[2, 5], 0] = 7.0
    assert found(data, Broken()) == Suspects("the logits or the loss of", ["sample-2", "sample-5"])


def test_the_gradient_of_a_sample():
    data = batch(6)
    data.inputs[0][5, 0] = 7.0
    assert found(data, Rooted()) == Suspects("the gradient of", ["sample-5"])


def test_three_are_named():
    data = batch(9)
    data.inputs[0][:] = math.nan
    suspects = found(data)
    assert str(suspects) == "the stored inputs of sample-0, sample-1, sample-2 and others"
