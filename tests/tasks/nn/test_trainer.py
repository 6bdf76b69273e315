"""One training step after another."""

import math

import pytest
import torch
from torch import nn

from storage.errors import ModelError, NotFiniteError
from tasks.loss_options import LossOptions
from tasks.model_options import MlpOptions
from tasks.nn.learner import Learner
from tasks.nn.models import Mlp
from tasks.nn.trainer import Trainer, learning_rate
from tasks.training_options import TrainingOptions
from tests.tasks.toy import SquareRoot, batch_of

CPU = torch.device("cpu")
HARD = LossOptions(soft_weight=0.0)
PLAIN = TrainingOptions(
    optimizer="sgd",
    learning_rate=0.5,
    weight_decay=0.0,
    schedule="constant",
    warmup=0.0,
    clip_norm=None,
)


def batch(seed=0, size=8, classes=3):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 3, generator=generator)
    teacher_PC = torch.randn(size, classes, generator=generator)
    label_P = torch.randint(0, classes, (size,), generator=generator)
    return batch_of(teacher_PC, label_P, 2, (2.0, 1.0), inputs=(x,))


def linear():
    torch.manual_seed(1)
    return nn.Linear(3, 3)


def trainer_of(model, loss, training, total_steps, device=CPU):
    return Trainer(Learner(model, loss), training, total_steps, device)


def test_logits_for_other_positions_than_have_labels_are_refused():
    class PerToken(nn.Module):
        def forward(self, x):
            return x[:, None].expand(-1, 2, -1)

    trainer = trainer_of(nn.Sequential(linear(), PerToken()), HARD, PLAIN, 10)
    with pytest.raises(ModelError, match="16 positions of 8 samples, the labels have 8"):
        trainer.step(batch())


def test_a_step_goes_down_the_gradient():
    model = linear()
    trainer = trainer_of(model, HARD, PLAIN, 10)
    data = batch()
    expected = linear()
    loss = nn.functional.cross_entropy(expected(data.inputs[0]), data.label_P)
    loss.backward()
    result = trainer.step(data)
    assert result.loss == pytest.approx(loss.item())
    assert (result.soft_loss, result.hard_loss) == (None, result.loss)
    assert result.learning_rate == 0.5
    assert trainer.step_number == 1
    for found, start in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found, start - 0.5 * start.grad)


def test_the_gradient_is_clipped_to_its_norm():
    model = linear()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    trainer_of(model, HARD, PLAIN.model_copy(update={"clip_norm": 0.01}), 10).step(batch())
    moved = [after - start for after, start in zip(model.parameters(), before, strict=True)]
    norm = torch.cat([entry.flatten() for entry in moved]).norm().item()
    assert norm == pytest.approx(0.5 * 0.01, rel=1e-3)


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_the_loss_goes_down(optimizer):
    training = TrainingOptions(optimizer=optimizer, learning_rate=0.1, epochs=1)
    trainer = trainer_of(linear(), LossOptions(), training, 60)
    losses = [trainer.step(batch()).loss for _ in range(60)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 0.0, [1, 1, 1, 1, 1, 1, 1, 1]),
        ("constant", 0.5, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]),
        ("linear", 0.0, [1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        ("linear", 0.5, [0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25]),
        ("cosine", 0.0, [0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]),
        ("cosine", 1.0, [step / 8 for step in range(1, 9)]),
    ],
)
def test_the_learning_rate_of_each_step(schedule, warmup, expected):
    training = TrainingOptions(schedule=schedule, warmup=warmup, learning_rate=2.0)
    found = [learning_rate(training, step, 8) for step in range(8)]
    assert found == pytest.approx([2.0 * value for value in expected])


def test_the_optimizer_gets_that_learning_rate():
    training = PLAIN.model_copy(update={"schedule": "linear"})
    trainer = trainer_of(linear(), HARD, training, 4)
    assert [trainer.step(batch()).learning_rate for _ in range(4)] == [0.5, 0.375, 0.25, 0.125]
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.125


def test_a_loss_that_is_not_finite_names_step_and_samples_and_changes_nothing():
    model = linear()
    trainer = trainer_of(model, HARD, PLAIN, 10)
    trainer.step(batch())
    before = [parameter.detach().clone() for parameter in model.parameters()]
    bad = batch(1)
    bad.inputs[0][4, 1] = math.nan
    with pytest.raises(
        NotFiniteError, match=r"^step 1: the loss is nan, from the stored inputs of sample-4; "
    ):
        trainer.step(bad)
    assert trainer.step_number == 1
    pairs = zip(model.parameters(), before, strict=True)
    assert all(torch.equal(after, start) for after, start in pairs)


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_gradient_that_is_not_finite_does_the_same(clip_norm):
    model = SquareRoot()
    training = PLAIN.model_copy(update={"clip_norm": clip_norm})
    trainer = trainer_of(model, HARD, training, 10)
    with pytest.raises(
        NotFiniteError,
        match=r"^step 0: the norm of the gradient is nan, from the gradient of sample-0, ",
    ):
        trainer.step(batch())
    assert (model.weight == 0).all()


def test_state_and_restore_continue_with_the_same_bits():
    def new(seed):
        torch.manual_seed(seed)
        model = Mlp(3, 3, MlpOptions(kind="mlp", hidden=(8,), dropout=0.4))
        return trainer_of(model, LossOptions(), TrainingOptions(), 12)

    whole = new(0)
    losses = [whole.step(batch(step)).loss for step in range(12)]
    first = new(0)
    before = [first.step(batch(step)).loss for step in range(5)]
    state = first.state()
    second = new(99)
    second.restore(state)
    after = [second.step(batch(step)).loss for step in range(5, 12)]
    assert before + after == losses
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name])


@pytest.mark.gpu
def test_cuda_takes_the_steps_of_the_cpu():
    found = []
    for device in ("cpu", "cuda"):
        trainer = trainer_of(linear(), LossOptions(), TrainingOptions(), 10, torch.device(device))
        found.append([trainer.step(batch(step)).loss for step in range(10)])
    assert found[0] == pytest.approx(found[1], rel=1e-4)
