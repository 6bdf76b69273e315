"""Hashed random numbers: those of the document, whatever the batch, and random enough.

Shape letters: B samples.
"""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from storage import order
from tasks.nn.hashed import Draws, mix64, normal, uniform

WORDS = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20)


@given(WORDS)
def test_the_mix_is_that_of_the_order(words):
    value = torch.tensor(words)
    expected = order.mix64(value.numpy().view(np.uint64)).view(np.int64)
    assert mix64(value).tolist() == expected.tolist()
    assert value.tolist() == words


@given(WORDS, st.integers(0, 9), st.integers(0, 9), st.integers(1, 2**31))
def test_numbers_are_those_that_can_be_worked_out(seeds, step, counter, limit):
    draws = Draws.of(torch.tensor(seeds), step)
    for place, seed in enumerate(seeds):
        word = _mix((_mix((seed + step) % 2**64) + counter) % 2**64)
        assert int(draws.word_B(counter)[place]) % 2**64 == word
        assert float(draws.uniform_B(counter)[place]) == (word >> 40) / 2**24
        assert int(draws.below_B(counter, limit)[place]) == (word >> 32) * limit >> 32


def _mix(value):
    value = value * 0x9E3779B97F4A7C15 % 2**64
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
    return value ^ value >> 31


def test_numbers_are_evenly_spread():
    word = mix64(torch.arange(100_000))
    number = uniform(word)
    assert abs(float(number.mean()) - 0.5) < 0.005
    assert 0 <= float(number.min()) < 0.001
    assert 0.999 < float(number.max()) < 1
    below_B = Draws.of(word, 0).below_B(0, 7)
    assert (torch.bincount(below_B, minlength=7) / 100_000 - 1 / 7).abs().max() < 0.005


def test_normal_numbers_are_normal():
    number = normal(mix64(torch.arange(200_000)))
    assert number.dtype == torch.float32
    assert abs(float(number.mean())) < 0.01
    assert abs(float(number.std()) - 1) < 0.01
    assert abs(float(number.pow(4).mean()) - 3) < 0.1
    assert 4 < float(number.abs().max()) < 4.33


def test_normal_numbers_are_symmetric():
    words = (torch.arange(65536) << 48) - 2**63
    number = normal(words ^ (-(2**63)))
    assert torch.equal(number, -number.flip(0))
    assert (number.diff() > 0).all()
