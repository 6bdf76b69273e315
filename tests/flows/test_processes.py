"""Models that several processes train, in whole flows: what they come to, and what is said."""

import pytest
from safetensors.torch import load_file

from storage import layout
from tasks.history import read_history

TWO = "students.small.training.processes=2"


def losses(folder):
    return [row["loss"] for row in read_history((folder / layout.HISTORY).read_bytes())]


def validation(folder):
    rows = read_history((folder / layout.HISTORY).read_bytes())
    return [row["validation_loss"] for row in rows if row["validation_loss"] is not None]


def test_two_processes_come_to_what_one_does(copied, capfd):
    """24 samples a step of one process, 12 of each of two."""
    folder = copied.only("students")
    alone, weights = losses(folder), load_file(folder / layout.WEIGHTS)
    found = validation(folder)
    stages = copied.run(stages=["train"], overrides=[TWO])
    assert stages["train"]["status"] == "cached", "how many processes is no part of what is asked"
    stages = copied.run(stages=["train"], overrides=[TWO], force=True)
    assert stages["train"]["students"]["small"]["steps"] == len(alone)
    assert losses(folder) == pytest.approx(alone, rel=1e-5)
    assert validation(folder) == pytest.approx(found, rel=1e-5)
    for name, value in load_file(folder / layout.WEIGHTS).items():
        assert value.numpy() == pytest.approx(weights[name].numpy(), rel=1e-4, abs=1e-6)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_a_teacher_is_fitted_by_several_too(finished, workspace, count):
    alone = losses(finished.only("teachers"))
    workspace.run(stages=["teacher"], overrides=[f"teacher.training.processes={count}"])
    assert losses(workspace.only("teachers")) == pytest.approx(alone, rel=1e-5)
