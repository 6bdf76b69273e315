"""Mixed precision: it trains, its scale is kept, and it is refused where it is not to be had."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from storage.errors import NotFiniteError, RecipeError
from storage.options import Task
from tasks.loss_options import LossOptions
from tasks.nn import precision
from tasks.nn.learner import Learner
from tasks.nn.trainer import Trainer
from tasks.training_options import TrainingOptions
from tests.tasks.nn.sequences import CLASSES, IDS, built, tokens
from tests.tasks.nn.test_trainer import PLAIN, batch, linear, trainer_of
from tests.tasks.toy import SquareRoot, batch_of


@pytest.fixture
def float16_on_cpu(monkeypatch):
    """The scaler's arithmetic does not depend on the device."""
    monkeypatch.setattr(precision, "_SCALED_ON", ("cpu", "cuda"))


def halves(name, **changes):
    return TrainingOptions(precision=name, learning_rate=0.1, warmup=0.0, **changes)


def test_float16_is_refused_but_on_cuda():
    with pytest.raises(RecipeError, match=r"^training\.precision: float16 trains on CUDA only"):
        trainer_of(linear(), LossOptions(), halves("float16"), 10)


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
@pytest.mark.parametrize("loss", [LossOptions(), LossOptions(soft_weight=0.0)])
def test_it_learns_what_float32_does(float16_on_cpu, name, loss):
    seen = []

    class Seeing(nn.Linear):
        def forward(self, x):
            found = super().forward(x)
            seen.append(found.dtype)
            return found

    def losses(training):
        torch.manual_seed(1)
        trainer = trainer_of(Seeing(3, 3), loss, training, 60)
        found = [trainer.step(batch()).loss for _ in range(60)]
        assert all(entry.dtype == torch.float32 for entry in trainer.model.parameters())
        return found

    exact = losses(halves("float32"))
    assert set(seen) == {torch.float32}
    seen.clear()
    assert losses(halves(name)) == pytest.approx(exact, rel=0.05, abs=0.01)
    assert seen[0] == getattr(torch, name)


@pytest.mark.parametrize("form", ["whole", "blocks"])
def test_logits_made_with_their_losses_are_learnt_the_same(form):
    """Of a language model whose last layer and losses are one operation, in parts too."""
    ids = torch.arange(24).reshape(4, 6) % CLASSES
    teacher_PC = torch.randn(24, CLASSES, generator=torch.Generator().manual_seed(1))
    label_P, mask_P = torch.arange(24) % CLASSES, torch.arange(24) % 6 < 5
    whole = batch_of(teacher_PC, label_P, 3, (2.0, 1.0), mask_P, inputs=(ids,))
    data = dataclasses.replace(whole, sample_ids=list("abcd"))
    options = tokens(vocabulary=None, tie_embeddings=False)

    def losses(**changes):
        model = built(options, Task.CAUSAL_LM, (IDS,))
        training = TrainingOptions(learning_rate=0.01, warmup=0.0, logits=form, **changes)
        trainer = trainer_of(model, LossOptions(), training, 20)
        return [trainer.step(data).loss for _ in range(20)]

    exact = losses()
    assert losses(precision="bfloat16") == pytest.approx(exact, rel=0.05)
    assert losses(precision="bfloat16", micro_batch_size=3) == pytest.approx(exact, rel=0.05)


def test_gradients_that_overflow_halve_the_scale_and_are_passed_over(float16_on_cpu):
    model = linear()
    before = model.weight.detach().clone()
    trainer = trainer_of(model, LossOptions(soft_weight=0.0), halves("float16"), 10)
    trainer.precision.restore({**trainer.precision.state(), "scale": 2.0**40})
    trainer.step(batch())
    assert torch.equal(model.weight, before)
    assert trainer.precision.state()["scale"] == 2.0**39
    for _ in range(30):
        trainer.step(batch())
    assert not torch.equal(model.weight, before)


def test_a_gradient_that_no_scale_mends_stops(float16_on_cpu):
    trainer = trainer_of(SquareRoot(), LossOptions(soft_weight=0.0), halves("float16"), 50)
    for _ in range(int(math.log2(65536.0))):
        trainer.step(batch())
    with pytest.raises(NotFiniteError, match="the norm of the gradient is nan"):
        trainer.step(batch())


def test_the_scale_is_kept(float16_on_cpu):
    first = trainer_of(linear(), LossOptions(), halves("float16"), 10)
    first.step(batch())
    assert first.precision.halve()
    second = trainer_of(linear(), LossOptions(), halves("float16"), 10)
    second.restore(first.state())
    assert second.precision.state() == first.precision.state()
    assert trainer_of(linear(), LossOptions(), PLAIN, 10).precision.state() == {}


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_cuda_learns_what_float32_does(name):
    found = []
    for precision_name in ("float32", name):
        learner = Learner(linear(), LossOptions())
        trainer = Trainer(learner, halves(precision_name), 60, torch.device("cuda"))
        found.append([trainer.step(batch()).loss for _ in range(60)])
    assert found[0] == pytest.approx(found[1], rel=0.05, abs=0.01)
