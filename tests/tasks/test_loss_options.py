"""What a recipe may say about a loss, what it changes, and what labels it needs."""

import pytest
from pydantic import ValidationError

from storage.options import STD, Keep
from tasks.loss_needs import misfit
from tasks.loss_options import LossOptions, SoftLoss
from tasks.loss_schedules import CwsmTemperature, TemperatureSteps, WeightSchedule


def of(**said):
    return LossOptions.model_validate(said)


def fault(keep=Keep.TOP_K, stored=(2.0, 1.0, STD), padded=False, has_label=True, **said):
    found = misfit(of(**said), keep, stored, padded=padded, has_label=has_label)
    return None if found is None else str(found)


@pytest.mark.parametrize(
    ("said", "hard"),
    [
        ({"soft_weight": 0.9}, 0.1),
        ({"soft_weight": 1.0}, 0.0),
        ({"soft_weight": 0.0}, 1.0),
        ({"soft_weight": 0.5, "hard_weight": 0.0}, 0.0),
        ({"soft_weight": 1.0, "hard_weight": 1.0}, 1.0),
    ],
)
def test_the_share_of_the_hard_loss(said, hard):
    loss = of(**said)
    assert loss.weights(0.4) == (said["soft_weight"], pytest.approx(hard))
    assert (loss.learns_soft, loss.learns_hard) == (said["soft_weight"] > 0, hard > 0)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [1.0, 0.8, 0.6, 0.4, 0.2]),
        ("cosine", [1.0, 0.6 + 0.4 * 0.5**0.5, 0.6, 0.6 - 0.4 * 0.5**0.5, 0.2]),
    ],
)
def test_a_weight_goes_from_value_to_value(schedule, expected):
    weight = WeightSchedule(schedule=schedule, start=1.0, end=0.2)
    assert [weight.at(done / 4) for done in range(5)] == pytest.approx(expected)
    assert (weight.at(0.0), weight.at(1.0)) == (1.0, 0.2)


def test_the_hard_weight_follows_the_soft_one_unless_said():
    loss = of(soft_weight={"start": 1.0, "end": 0.0})
    assert [loss.weights(done) for done in (0.0, 0.25, 1.0)] == [(1, 0), (0.75, 0.25), (0, 1)]
    assert loss.learns_soft
    assert loss.learns_hard
    fixed = of(soft_weight={"start": 1.0, "end": 0.0}, hard_weight=1.0)
    assert fixed.weights(1.0) == (0, 1)


@pytest.mark.parametrize(
    ("said", "when"),
    [
        ({"soft_weight": 0.0, "hard_weight": 0.0}, "at the start"),
        ({"soft_weight": {"start": 0.0, "end": 1.0}, "hard_weight": 0.0}, "at the start"),
        ({"soft_weight": {"start": 1.0, "end": 0.0}, "hard_weight": 0.0}, "at the end"),
    ],
)
def test_there_must_be_something_to_learn(said, when):
    with pytest.raises(ValidationError, match=f"{when}: there is nothing to learn"):
        of(**said)


def test_temperatures_step_from_one_to_the_next():
    evenly = of(temperature=[4.0, 2.0, "std"])
    assert evenly.temperature == TemperatureSteps(values=(4.0, 2.0, "std"))
    found = [evenly.temperature_at(done) for done in (0.0, 0.33, 0.34, 0.6, 0.7, 1.0)]
    assert found == [4.0, 4.0, 2.0, 2.0, "std", "std"]
    said = of(temperature={"values": [4.0, 1.0], "starts": [0.0, 0.9], "kind": "steps"})
    assert [said.temperature_at(done) for done in (0.0, 0.89, 0.9, 1.0)] == [4.0, 4.0, 1.0, 1.0]
    constant = [of(temperature=at).temperature_at(0.5) for at in (3.0, "std", None)]
    assert constant == [3.0, "std", None]
    cwsm = of(temperature={"kind": "cwsm", "base": 4.0})
    assert cwsm.temperature_at(0.5) == CwsmTemperature(kind="cwsm", base=4.0, beta=1.0)


@pytest.mark.parametrize("starts", [[0.0], [0.1, 0.5], [0.0, 1.1], [0.0, -0.1]])
def test_steps_begin_in_order_at_0(starts):
    with pytest.raises(ValidationError):
        of(temperature={"kind": "steps", "values": [2.0, 1.0], "starts": starts})


@pytest.mark.parametrize(
    "said",
    [
        {"soft": "kullback"},
        {"soft_weight": 1.1},
        {"soft_weight": {"start": 1.0}},
        {"soft_weight": {"start": 1.0, "end": 2.0}},
        {"hard_weight": -0.1},
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"temperature": []},
        {"temperature": "warm"},
        {"temperature": {"kind": "flsw"}},
        {"temperature": {"kind": "cwsm", "base": -1.0}},
        {"tail": "cut"},
        {"label_smoothing": 1.0},
        {"beta": 0.0},
        {"beta": 1.0},
        {"alpha": 1.0},
        {"weight": 1.0},
    ],
)
def test_a_wrong_loss_is_refused(said):
    with pytest.raises(ValidationError, match=next(iter(said))):
        of(**said)


def test_options_without_effect_do_not_name_a_student():
    assert of(beta=0.1, alpha=0.3).identity() == of().identity()
    assert of(soft="jsd", beta=0.1).identity() != of(soft="jsd").identity()
    assert of(soft="skew_kl", alpha=0.3).identity() != of(soft="skew_kl").identity()
    assert of(soft="sampled", tail="ignore").identity() == of(soft="sampled").identity()
    hard = of(soft_weight=0.0)
    assert of(soft_weight=0.0, soft="mse", temperature=4.0, tail="ignore").identity() == (
        hard.identity()
    )
    assert of(soft_weight=0.0, label_smoothing=0.1).identity() != hard.identity()
    soft = of(soft_weight=1.0)
    assert of(soft_weight=1.0, label_smoothing=0.1).identity() == soft.identity()
    assert of(temperature=[2.0, 1.0]).identity() == (
        of(temperature={"kind": "steps", "values": [2.0, 1.0]}).identity()
    )


@pytest.mark.parametrize("soft", SoftLoss)
def test_draws_are_for_sampled_alone(soft):
    is_sampled = soft is SoftLoss.SAMPLED
    assert (fault(keep=Keep.SAMPLE, soft=soft) is None) == is_sampled
    assert (fault(keep=Keep.TOP_P, soft=soft) is None) == (not is_sampled)
    assert fault(keep=Keep.SAMPLE, soft=soft, soft_weight=0.0) is None


@pytest.mark.parametrize(
    ("temperature", "got"),
    [(3.0, "3"), ([2.0, 7.5], "7.5"), ("std", "std"), ([2.0, "std"], "std")],
)
def test_temperatures_are_stored_ones(temperature, got):
    assert fault(stored=(2.0, 1.0), temperature=temperature) == (
        f"temperature: expected one of the stored temperatures 2, 1, got {got}; add it to "
        "labels.temperatures to have it stored"
    )
    assert fault(stored=(2.0, 1.0), temperature=temperature, soft_weight=0.0) is None
    assert fault(stored=(2.0, 1.0, 3.0, 7.5, STD), temperature=temperature) is None


@pytest.mark.parametrize("kind", ["flsw", "cwsm"])
def test_any_temperature_needs_every_class(kind):
    said = {"temperature": {"kind": kind, "base": 9.0}}
    assert fault(keep=Keep.ALL, **said) is None
    for found in (fault(**said), fault(keep=Keep.ALL, padded=True, **said)):
        assert found == (
            f"temperature: {kind} takes any temperature, which needs every class: set labels.keep: "
            "all (without data.padded), or name stored temperatures"
        )


def test_the_hard_loss_needs_labels():
    for weight, got in ((0.75, "0.25"), ({"start": 1.0, "end": 0.25}, "0.75")):
        found = fault(has_label=False, soft_weight=weight)
        assert found is not None
        assert found.startswith(f"hard_weight: expected 0 without hard labels, got {got}; name")
    assert fault(has_label=False, soft_weight=1.0) is None
