"""Figures of hand-made results, their intervals, and paired comparisons."""

import dataclasses
import math

import numpy as np
import pytest

from tasks.nn.metrics import NUM_BINS, Bootstrap, Results, compare, figures, reliability

BOOTSTRAP = Bootstrap(resamples=200, confidence=0.95, seed=0)


def results(correct, label=None, sample=None, nll=None, confidence=0.5, agreement=True, kl=0.0):
    """The label of every position is 0, unless it is given; a wrong prediction is 1."""
    correct = np.asarray(correct, bool)
    count = len(correct)
    return Results(
        sample=np.arange(count) if sample is None else np.asarray(sample),
        prediction=np.where(correct, 0, 1),
        confidence=np.broadcast_to(np.asarray(confidence, float), count),
        label=np.zeros(count, np.int64) if label is None else np.asarray(label),
        nll=np.broadcast_to(np.asarray(1.0 if nll is None else nll, float), count),
        agreement=np.broadcast_to(np.asarray(agreement, bool), count),
        kl=np.broadcast_to(np.asarray(kl, float), count),
    )


def test_figures_by_hand():
    model = results(
        [1, 1, 0, 1],
        nll=[0.1, 0.2, 2.0, 0.1],
        confidence=[0.9, 0.8, 0.7, 0.95],
        agreement=[1, 0, 0, 1],
        kl=[0.0, 0.5, 1.0, 0.1],
    )
    teacher = results([1, 1, 1, 1])
    found = figures(model, teacher, BOOTSTRAP, language_model=True)
    assert (found["samples"], found["positions"]) == (4, 4)
    values = {name: found[name]["value"] for name in ("accuracy", "nll", "agreement", "perplexity")}
    assert values == pytest.approx(
        {"accuracy": 0.75, "nll": 0.6, "agreement": 0.5, "perplexity": math.exp(0.6)}
    )
    assert found["kl_to_teacher"]["value"] == pytest.approx(0.4)
    assert found["retention"]["accuracy"]["value"] == pytest.approx(0.75)
    # Each in a bin of its own, but for 0.95 and ... 0.9, which 15 bins tell apart too.
    assert found["ece"]["value"] == pytest.approx((0.1 + 0.2 + 0.7 + 0.05) / 4)


def test_calibration_is_by_bin_not_by_position():
    model = results([1, 0, 1, 0], confidence=0.5)
    found = figures(model, model, BOOTSTRAP, language_model=False)
    assert found["ece"]["value"] == 0.0
    assert "perplexity" not in found


def test_reliability_has_a_row_for_each_bin():
    model = results([1, 0, 1], confidence=[0.55, 0.58, 1.0], label=[0, 0, 0])
    table = reliability(model)
    assert len(table) == NUM_BINS
    assert [row["count"] for row in table] == [0] * 8 + [2] + [0] * 5 + [1]
    assert table[8]["confidence"] == pytest.approx(0.565)
    assert table[8]["accuracy"] == 0.5
    assert table[14] == {
        "low": 14 / 15,
        "high": 1.0,
        "count": 1,
        "confidence": 1.0,
        "accuracy": 1.0,
    }
    assert table[0]["accuracy"] is None


def test_positions_without_a_label_count_for_agreement_alone():
    model = results(
        [1, 0, 1], label=[0, 0, -100], nll=[1.0, 3.0, np.nan], agreement=[1, 1, 0], kl=[0, 0, 3]
    )
    found = figures(model, model, BOOTSTRAP, language_model=False)
    assert found["accuracy"]["value"] == 0.5
    assert found["nll"]["value"] == 2.0
    assert found["agreement"]["value"] == pytest.approx(2 / 3)
    assert found["kl_to_teacher"]["value"] == 1.0
    assert np.isfinite(list(found["nll"].values())).all()


def test_without_any_label_there_is_agreement_and_kl():
    model = results([1, 1], label=[-100, -100], nll=np.nan)
    found = figures(model, model, BOOTSTRAP, language_model=False)
    assert set(found) == {"samples", "positions", "agreement", "kl_to_teacher"}


def test_retention_is_the_ratio_of_the_two():
    model, teacher = results([1, 1, 0, 0, 0]), results([1, 1, 1, 1, 0])
    found = figures(model, teacher, BOOTSTRAP, language_model=False)["retention"]["accuracy"]
    assert found["value"] == 0.5
    assert 0 <= found["low"] <= 0.5 <= found["high"]
    assert (
        figures(model, results([0] * 5), BOOTSTRAP, language_model=False)["retention"]["accuracy"][
            "value"
        ]
        == 0.0
    )


def _random(count, rate=0.7, seed=0):
    generator = np.random.default_rng(seed)
    return results(
        generator.random(count) < rate,
        nll=generator.exponential(1, count),
        confidence=generator.uniform(0.3, 1, count),
        kl=generator.exponential(0.1, count),
    )


def test_intervals_hold_their_value_and_are_decided_by_the_seed():
    model = _random(300)
    found = figures(model, model, BOOTSTRAP, language_model=True)
    for name in ("accuracy", "nll", "agreement", "kl_to_teacher", "perplexity"):
        assert found[name]["low"] <= found[name]["value"] <= found[name]["high"]
    assert found["accuracy"]["low"] < found["accuracy"]["high"]
    assert figures(model, model, BOOTSTRAP, language_model=True) == found
    other = dataclasses.replace(BOOTSTRAP, seed=1)
    assert figures(model, model, other, language_model=True) != found


def test_blocks_of_resamples_give_what_the_whole_gives(monkeypatch):
    model = _random(50)
    whole = figures(model, model, BOOTSTRAP, language_model=False)
    monkeypatch.setattr("tasks.nn.metrics._BLOCK_ELEMENTS", 1000)
    assert figures(model, model, BOOTSTRAP, language_model=False) == whole


def test_an_interval_covers_the_truth_as_often_as_it_says():
    covered = 0
    for seed in range(200):
        model = _random(200, rate=0.7, seed=seed)
        bootstrap = Bootstrap(resamples=200, confidence=0.95, seed=seed)
        found = figures(model, model, bootstrap, language_model=False)["accuracy"]
        covered += found["low"] <= 0.7 <= found["high"]
    assert 0.90 <= covered / 200 <= 0.99


def test_samples_are_resampled_not_positions():
    # All positions of a sample are alike: 20 samples of 50 positions tell as much as 20 positions.
    alike = np.random.default_rng(0).random(20) < 0.5
    blocks = results(np.repeat(alike, 50), sample=np.repeat(np.arange(20), 50))
    single = results(alike)
    wide = figures(blocks, blocks, BOOTSTRAP, language_model=False)["accuracy"]
    narrow = figures(single, single, BOOTSTRAP, language_model=False)["accuracy"]
    assert wide == pytest.approx(narrow)


def test_equal_models_do_not_differ():
    found = compare(_random(100), _random(100), "accuracy", BOOTSTRAP)
    assert found == {"difference": {"value": 0.0, "low": 0.0, "high": 0.0}, "p_value": 1.0}


def test_a_clear_difference_has_a_small_p_value_and_a_sign():
    good, bad = _random(300, 0.9, 1), _random(300, 0.6, 2)
    found = compare(good, bad, "accuracy", BOOTSTRAP)
    assert found["p_value"] == pytest.approx(1 / 201)
    assert found["difference"]["low"] > 0
    reverse = compare(bad, good, "accuracy", BOOTSTRAP)
    assert reverse["difference"]["value"] == -found["difference"]["value"]
    assert reverse["p_value"] == found["p_value"]


def test_nll_is_compared_where_there_are_labels():
    a = results([1, 1], label=[0, -100], nll=[1.0, np.nan])
    b = results([1, 1], label=[0, -100], nll=[3.0, np.nan])
    assert compare(a, b, "nll", BOOTSTRAP)["difference"]["value"] == -2.0


def test_another_metric_is_no_silent_nll():
    with pytest.raises(KeyError):
        compare(_random(5), _random(5), "kl", BOOTSTRAP)


def test_chance_alone_gives_even_p_values():
    found = np.array(
        [
            compare(
                _random(200, 0.7, 2 * seed),
                _random(200, 0.7, 2 * seed + 1),
                "nll",
                Bootstrap(resamples=200, confidence=0.95, seed=seed),
            )["p_value"]
            for seed in range(200)
        ]
    )
    assert 0.4 <= found.mean() <= 0.6
    assert 0.05 <= (found <= 0.1).mean() <= 0.16
    assert 0.4 <= (found <= 0.5).mean() <= 0.6


def test_no_position_at_all_is_no_failure():
    empty = results(np.zeros(0))
    found = figures(empty, empty, BOOTSTRAP, language_model=False)
    assert (found["samples"], found["positions"]) == (0, 0)
