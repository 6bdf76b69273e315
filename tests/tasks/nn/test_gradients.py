"""The gradient of a batch: the same from parts of any size, on any number of ranks."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from storage.errors import ModelError, NotFiniteError
from tasks.loss_options import LossOptions
from tasks.nn.gradients import Gradients
from tasks.nn.learner import Learner
from tasks.nn.precision import Precision
from tasks.nn.ranks import Alone
from tasks.nn.trainer import Trainer
from tasks.training_options import TrainingOptions
from tests.tasks.nn.threads import together
from tests.tasks.toy import batch_of

CPU = torch.device("cpu")
PLAIN = TrainingOptions(optimizer="sgd", learning_rate=0.5, weight_decay=0.0, clip_norm=None)


def batch(size=9, seed=0, masked=3):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 3, generator=generator)
    teacher_PC = torch.randn(size, 4, generator=generator)
    label_P = torch.randint(0, 4, (size,), generator=generator)
    mask_P = torch.arange(size) % masked > 0
    return batch_of(teacher_PC, label_P, 2, (2.0, 1.0), mask_P, inputs=(x,))


def network(dropout=0.0):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Dropout(dropout), nn.Linear(8, 4))


class Small(nn.Module):
    """Has memory for so many samples at once."""

    def __init__(self, most, error=MemoryError, dropout=0.0):
        super().__init__()
        self.network = network(dropout)
        self.most, self.error = most, error
        self.sizes = []

    def forward(self, x):
        self.sizes.append(len(x))
        found = self.network(x)
        if len(x) > self.most:
            raise self.error("DefaultCPUAllocator: can't allocate memory")
        return found


def gradients_of(model, micro_batch_size=None, ranks=None):
    learner = Learner(model, LossOptions())
    return Gradients(learner, Precision("float32", CPU), ranks or Alone(), CPU, micro_batch_size)


def numbers(losses):
    return {name: value.item() for name, value in losses.items()}


def flat(model):
    return torch.cat([entry.grad.flatten() for entry in model.parameters()])


@given(st.integers(1, 12), st.integers(1, 13))
def test_parts_add_up_to_the_whole(size, micro):
    whole, parts = network(), network()
    expected, _ = gradients_of(whole).of(batch(size), 0.0)
    found, counts = gradients_of(parts, micro).of(batch(size), 0.0)
    assert numbers(found) == pytest.approx(numbers(expected), rel=1e-6)
    assert counts.samples == size
    torch.testing.assert_close(flat(parts), flat(whole), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("error", [MemoryError, RuntimeError, torch.OutOfMemoryError])
def test_what_does_not_fit_is_halved_and_stays_so(error):
    whole = network()
    expected, _ = gradients_of(whole).of(batch(), 0.0)
    model = Small(2, error)
    gradients = gradients_of(model)
    found, _ = gradients.of(batch(), 0.0)
    assert numbers(found) == pytest.approx(numbers(expected), rel=1e-6)
    torch.testing.assert_close(flat(model.network), flat(whole), rtol=1e-5, atol=1e-7)
    assert model.sizes == [9, 5, 3, 2, 2, 2, 2, 1]
    assert gradients.micro_batch_size == 2
    gradients.of(batch(), 0.0)
    assert model.sizes[8:] == [2, 2, 2, 2, 1]


def test_after_halving_random_numbers_are_those_of_smaller_parts_at_once():
    found = []
    for micro in (None, 3):
        gradients = gradients_of(Small(4, dropout=0.5), micro)
        torch.manual_seed(6)
        found.append(numbers(gradients.of(batch(), 0.0)[0]))
    assert found[0] == found[1]


def test_a_sample_that_is_too_large_alone_is_named():
    with pytest.raises(ModelError, match=r"out of memory for the sample sample-0 alone: .*shorter"):
        gradients_of(Small(0)).of(batch(), 0.0)


def test_other_errors_are_not_taken_for_memory():
    with pytest.raises(KeyError):
        gradients_of(Small(3, KeyError)).of(batch(), 0.0)


def test_ranks_add_up_to_the_whole():
    whole = network()
    expected, counts = gradients_of(whole).of(batch(), 0.0)
    cuts = (0, 3, 6, 9)
    # Made one after the other: threads share the generator.
    models = [network() for _ in range(3)]

    def work(ranks):
        model = models[ranks.rank]
        own = batch().part(cuts[ranks.rank], cuts[ranks.rank + 1])
        return *gradients_of(model, 2, ranks).of(own, 0.0), flat(model)

    for found, found_counts, gradient in together(3, work):
        assert found_counts == counts
        assert numbers(found) == pytest.approx(numbers(expected), rel=1e-6)
        torch.testing.assert_close(gradient, flat(whole), rtol=1e-5, atol=1e-7)


def test_a_rank_without_memory_keeps_none_waiting():
    whole = network()
    gradients_of(whole).of(batch(8), 0.0)

    models = [Small(2), Small(8)]

    def work(ranks):
        model = models[ranks.rank]
        gradients = gradients_of(model, None, ranks)
        gradients.of(batch(8).part(4 * ranks.rank, 4 * ranks.rank + 4), 0.0)
        return gradients.micro_batch_size, flat(model.network)

    for size, gradient in together(2, work):
        assert size == 2
        torch.testing.assert_close(gradient, flat(whole), rtol=1e-5, atol=1e-7)


def test_every_rank_names_the_samples_of_one():
    bad = batch(8)
    bad.inputs[0][5, 1] = math.nan

    def work(ranks):
        learner = Learner(network(), LossOptions())
        trainer = Trainer(learner, PLAIN, 3, CPU, ranks)
        trainer.step(bad.part(4 * ranks.rank, 4 * ranks.rank + 4))

    for error in together(2, work):
        assert isinstance(error, NotFiniteError)
        assert str(error).startswith("step 0: the loss is nan, from the stored inputs of sample-5;")


class Choosy(nn.Module):
    """Uses its second layer only where a sample of the batch wants it, and never its third."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, 4) for _ in range(3))

    def forward(self, x):
        found = self.layers[0](x)
        wanted = x[:, 0] > 1
        return found + wanted[:, None] * self.layers[1](x) if wanted.any() else found


def test_a_parameter_that_one_rank_uses_has_its_gradient_on_all():
    def model():
        torch.manual_seed(2)
        return Choosy()

    whole = model()
    wanting = batch(4)
    wanting.inputs[0][:, 0] = torch.tensor([0.0, 0.0, 0.0, 2.0])
    gradients_of(whole).of(wanting, 0.0)

    owns = [model(), model()]

    def work(ranks):
        part = wanting.part(2 * ranks.rank, 2 * ranks.rank + 2)
        gradients_of(owns[ranks.rank], ranks=ranks).of(part, 0.0)

    together(2, work)
    for own in owns:
        for layer, expected in zip(own.layers[:2], whole.layers[:2], strict=True):
            torch.testing.assert_close(layer.weight.grad, expected.weight.grad)
        assert own.layers[2].weight.grad is None
