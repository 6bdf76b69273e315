"""Probabilities of decoded soft labels, against the softmax of the dense logits."""

import numpy as np
import pytest

from storage.errors import RecipeError
from storage.options import Codec, Keep, Layout, Task
from storage.positions import positions_of, renormalised, stored_temperature
from storage.rows import concatenate
from tests.storage.kinds import deviation_of, spec_of_kind, write_known_set
from tests.storage.refusal import refused
from tests.storage.toy import toy_spec

TOLERANCE = {Codec.FLOAT32: 1e-5, Codec.FLOAT16: 2e-3, Codec.UINT8: 0.06}


def softmax(logit_NC, at):
    p_NC = np.exp((logit_NC - logit_NC.max(axis=1, keepdims=True)) / at)
    return p_NC / p_NC.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("at", [2.0, 1.0, "std"])
@pytest.mark.parametrize("task", [Task.CLASSIFICATION, Task.CAUSAL_LM])
@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("keep", Keep)
def test_they_are_those_of_the_teacher(store, keep, codec, layout, task, at):
    spec = spec_of_kind(keep, codec, layout, task, temperatures=(2.0, 1.0, "std"))
    known = write_known_set(store, spec)
    rows = concatenate(list(known.labels.batches("train")))
    positions = positions_of(rows, known.labels.spec, at)
    dense_NC = known.logit_NC["train"]
    expected_NC = softmax(dense_NC, deviation_of(dense_NC)[:, None] if at == "std" else at)
    expected_NK = np.take_along_axis(expected_NC, positions.index_NK, axis=1)
    there = positions.present_NK
    p_NK = np.exp(positions.log_p_NK)
    assert np.allclose(p_NK[there], expected_NK[there], atol=TOLERANCE[codec])
    assert (positions.log_p_NK[~there] == -np.inf).all()
    assert (positions.log_p_NK[:, 1:] <= positions.log_p_NK[:, :-1]).all()
    total_N = p_NK.sum(axis=1) + np.exp(positions.log_rest_N)
    assert np.allclose(total_N, 1)
    kept_N = np.where(there, expected_NK, 0).sum(axis=1)
    assert np.allclose(np.exp(positions.log_rest_N), 1 - kept_N, atol=TOLERANCE[codec])
    among_N = np.exp(renormalised(positions)).sum(axis=1)
    assert np.allclose(among_N, 1)
    known.labels.close()


def test_places_count_within_samples(store):
    known = write_known_set(store, spec_of_kind(task=Task.CAUSAL_LM))
    rows = next(known.labels.batches("train"))
    positions = positions_of(rows, known.labels.spec, 1.0)
    lengths = rows["index"].lengths_B
    assert positions.place_N.tolist() == [p for length in lengths for p in range(length)]
    assert np.bincount(positions.sample_N).tolist() == lengths.tolist()
    known.labels.close()


def test_a_position_without_any_mass_stays_finite():
    spec = toy_spec()
    rows = {
        "sample_id": np.array(["a"], object),
        "index": np.array([[0, 1, 2]]),
        "logit": np.full((1, 3), -np.inf, np.float32),
        "rest": np.full((1, 2), -np.inf, np.float32),
    }
    positions = positions_of(rows, spec, 1.0)
    assert (positions.log_p_NK == -np.inf).all()
    assert (renormalised(positions) == -np.inf).all()


def test_only_stored_temperatures_can_be_had():
    assert stored_temperature(toy_spec(), None) == 2.0
    assert stored_temperature(toy_spec(), 1) == 1.0
    with refused(RecipeError, "--temperature", "no rest for 3", "it has: 2, 1"):
        stored_temperature(toy_spec(), 3.0)
    with_std = toy_spec(temperatures=(2.0, 1.0, "std"))
    assert stored_temperature(with_std, "std") == "std"
    with refused(RecipeError, "no rest for 3", "it has: 2, 1, std"):
        stored_temperature(with_std, 3.0)
    with refused(RecipeError, "no rest for std", "it has: 2, 1"):
        stored_temperature(toy_spec(), "std")
