"""Phases that look inside the teacher first, and at its predictions then, as TinyBERT does."""

from storage.files import Folder
from tasks.feature_options import MatchOptions
from tasks.fit import fit
from tasks.learners import Inside
from tasks.progress import listening
from tasks.training_options import PhaseOptions
from tests.tasks.test_fit import every_step as every_step
from tests.tasks.test_learners import CPU, MATCH, TRAINING, Given, job
from tests.tasks.test_learners import source as source

PHASES = (
    PhaseOptions(epochs=1, loss="none"),
    PhaseOptions(epochs=1, match=(MatchOptions(teacher="hidden.-1", weight=0.5),)),
    PhaseOptions(epochs=1, match=()),
)


def training(**changes):
    return TRAINING.model_copy(update={"phases": PHASES, **changes})


def test_each_phase_compares_what_it_says(source, tmp_path):
    inside = Inside(MATCH, live=True, teacher=Given())
    said = []
    with listening(lambda progress: said.append(progress.note)):
        fitted = fit(job(inside, training=training()), source, source, Folder.open(tmp_path), CPU)
    assert ["(inside " in note for note in said if "loss" in note][:9] == [True] * 6 + [False] * 3
    first, second, third = (
        [row for row in fitted.history if row["phase"] == phase] for phase in range(3)
    )
    assert all(row["soft_loss"] is None for row in first)
    assert all(row["soft_loss"] is not None for row in second + third)
    matched = [{name for name in row if name.startswith("matched.")} for row in fitted.history]
    assert [len(names) for names in matched] == [5] * 3 + [1] * 3 + [0] * 3
    # Judged by its predictions all the time, those that are not learnt yet too.
    judged = [row["validation_loss"] for row in fitted.history if "validation_loss" in row]
    assert len(judged) == 3
    assert all(value > 0 for value in judged)
