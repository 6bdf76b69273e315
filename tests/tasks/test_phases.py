"""Phases: what each is made of, and what a recipe may say."""

import pytest
from pydantic import ValidationError

from tasks.feature_options import MatchOptions
from tasks.loss_options import LossOptions
from tasks.phases import phases_of
from tasks.training_options import PhaseOptions, TrainingOptions

HARD = LossOptions(soft_weight=0.0)
MATCH = MatchOptions(teacher="hidden.1")


def test_without_any_training_is_one():
    training = TrainingOptions(epochs=4)
    (phase,) = phases_of(HARD, [MATCH], training)
    assert (phase.index, phase.loss, phase.training) == (0, HARD, training)
    assert (phase.match, phase.judged, phase.watched) == ((MATCH,), HARD, True)


def test_each_changes_what_it_says():
    training = TrainingOptions(
        learning_rate=0.1,
        warmup=0.0,
        phases=(
            PhaseOptions(epochs=2, loss=HARD, warmup=0.5),
            PhaseOptions(epochs=3, learning_rate=0.2, schedule="constant"),
        ),
    )
    first, second = phases_of(LossOptions(), (), training)
    assert (first.loss, second.loss) == (HARD, LossOptions())
    assert (first.training.epochs, second.training.epochs) == (2, 3)
    assert (first.training.learning_rate, second.training.learning_rate) == (0.1, 0.2)
    assert (first.training.warmup, second.training.warmup) == (0.5, 0.0)
    assert (first.training.schedule, second.training.schedule) == ("cosine", "constant")
    assert training.total_epochs == 5


def test_a_phase_may_look_at_the_inside_alone():
    training = TrainingOptions(
        phases=(PhaseOptions(epochs=1, loss="none"), PhaseOptions(epochs=1, match=()))
    )
    first, second = phases_of(HARD, [MATCH], training)
    assert first.loss.weights(0.5) == (0.0, 0.0)
    assert (first.match, second.match) == ((MATCH,), ())
    assert (first.judged, first.watched) == (HARD, False)
    assert (second.loss, second.watched) == (HARD, True)


def test_epochs_are_said_once():
    phases = (PhaseOptions(epochs=2), PhaseOptions(epochs=3))
    with pytest.raises(ValidationError, match="epochs: the phases have 5 together, got 7"):
        TrainingOptions(epochs=7, phases=phases)
    one, other = TrainingOptions(phases=phases), TrainingOptions(epochs=5, phases=phases)
    assert one.identity() == other.identity()
    assert TrainingOptions.model_validate(one.model_dump()) == one
