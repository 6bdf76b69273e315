"""The losses and gradients of one step in two processes: those of one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tasks.loss_options import LossOptions
from tasks.nn.batch import Batch
from tasks.nn.gradients import Gradients
from tasks.nn.learner import Learner
from tasks.nn.precision import Precision
from tasks.nn.ranks import Alone, Ranks
from tasks.training_group import Group, train_together
from tasks.training_options import LogitsForm
from tests.tasks.nn import test_output_layer
from tests.tasks.nn.test_matching import ALL, LOSS, Live, matching_of, models, some_batch

CPU = torch.device("cpu")
LENGTHS = (5, 3, 4, 2)


def matching() -> tuple[Learner, Batch]:
    """Compares what is inside; a part of the comparisons rests in this phase."""
    student, teacher = models()
    matching, matches = matching_of(ALL, student, teacher, Live(teacher))
    return Learner(student, LOSS, matching, matches[:3]), some_batch(lengths=LENGTHS)


def whole() -> tuple[Learner, Batch]:
    """A model that makes all its logits."""
    torch.manual_seed(0)
    return Learner(test_output_layer.model(), LossOptions()), test_output_layer.batch(samples=4)


def blocks() -> tuple[Learner, Batch]:
    """The same, its last layer apart."""
    learner, batch = whole()
    learner.make_logits(LogitsForm.BLOCKS)
    return learner, batch


@dataclass(frozen=True)
class Step:
    """One step's losses and gradients, kept by each rank."""

    made: Callable[[], tuple[Learner, Batch]]
    folder: Path

    def __call__(self, device: torch.device, ranks: Ranks) -> None:
        learner, batch = self.made()
        gradients = Gradients(learner, Precision("float32", device), ranks, device, None)
        each = batch.num_samples // ranks.world
        part = batch.part(ranks.rank * each, (ranks.rank + 1) * each)
        losses, _ = gradients.of(part, 0.0)
        grads = {
            name: weight.grad
            for name, weight in learner.named_parameters()
            if weight.grad is not None
        }
        torch.save({"losses": losses, "gradients": grads}, self.folder / f"{ranks.rank}.pt")


@pytest.mark.slow
@pytest.mark.parametrize(("alone", "together"), [(matching, matching), (whole, blocks)])
def test_ranks_add_up(tmp_path, alone, together):
    (tmp_path / "alone").mkdir()
    Step(alone, tmp_path / "alone")(CPU, Alone())
    train_together(Step(together, tmp_path), Group("toy", "students.toy", [CPU] * 2), print)
    wanted = torch.load(tmp_path / "alone" / "0.pt", weights_only=True)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for kind, values in wanted.items():
            assert set(found[kind]) == set(values)
            for name, value in values.items():
                torch.testing.assert_close(found[kind][name], value, rtol=1e-4, atol=1e-6)
    if alone is matching:
        assert "matching.projections.cosine_hidden_-1.weight" in wanted["gradients"]
        assert "matching.projections.mse_hidden_2_hidden_4_mean.weight" not in wanted["gradients"]
