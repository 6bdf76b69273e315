"""What is inside a student, compared in two processes: the losses and gradients of one."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tasks.nn.gradients import Gradients
from tasks.nn.learner import Learner
from tasks.nn.precision import Precision
from tasks.nn.ranks import Alone, Ranks
from tasks.training_group import Group, train_together
from tests.tasks.nn.test_matching import ALL, LOSS, Live, matching_of, models, some_batch

CPU = torch.device("cpu")
LENGTHS = (5, 3, 4, 2)


@dataclass(frozen=True)
class Comparing:
    """One step's losses and gradients, kept by each rank."""

    folder: Path

    def __call__(self, device: torch.device, ranks: Ranks) -> None:
        student, teacher = models()
        matching, matches = matching_of(ALL, student, teacher, Live(teacher))
        learner = Learner(student, LOSS, matching, matches[:3])  # the others rest in this phase
        gradients = Gradients(learner, Precision("float32", device), ranks, device, None)
        whole = some_batch(lengths=LENGTHS)
        each = len(LENGTHS) // ranks.world
        part = whole.part(ranks.rank * each, (ranks.rank + 1) * each)
        losses, _ = gradients.of(part, 0.0)
        grads = {
            name: weight.grad
            for name, weight in learner.named_parameters()
            if weight.grad is not None
        }
        torch.save({"losses": losses, "gradients": grads}, self.folder / f"{ranks.rank}.pt")


@pytest.mark.slow
def test_ranks_add_up(tmp_path):
    (tmp_path / "alone").mkdir()
    Comparing(tmp_path / "alone")(CPU, Alone())
    train_together(Comparing(tmp_path), Group("toy", "students.toy", [CPU] * 2), print)
    whole = torch.load(tmp_path / "alone" / "0.pt", weights_only=True)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for kind, values in whole.items():
            assert set(found[kind]) == set(values)
            for name, value in values.items():
                torch.testing.assert_close(found[kind][name], value, rtol=1e-4, atol=1e-6)
    assert "matching.projections.cosine_hidden_-1.weight" in whole["gradients"]
    assert "matching.projections.mse_hidden_2_hidden_4_mean.weight" not in whole["gradients"]
