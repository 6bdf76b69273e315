"""Pixels: levels and fractions, grey and coloured, resized as Pillow does it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tasks.nn.pixels import Pixels

PLAIN = {"scale": 1.0, "mean": (0.0,), "std": (1.0,)}


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(2, 40), st.integers(2, 40)),
    st.tuples(st.integers(2, 40), st.integers(2, 40)),
    st.sampled_from([2, 3]),
    st.integers(0, 9),
)
def test_resizing_is_that_of_pillow(before, after, resample, seed):
    levels_HW = np.random.default_rng(seed).integers(0, 256, before, np.uint8)
    image = Image.fromarray(levels_HW).resize(after[::-1], Image.Resampling(resample))
    given_BHW = torch.from_numpy(levels_HW.astype(np.int64))[None]
    found = Pixels(channels=1, size=after, resample=resample, **PLAIN)(given_BHW)[0, 0]
    # torch 2.13 resizes images of a single column wrongly; nobody classifies such.
    # Pillow computes with whole numbers: levels of noise differ by a few.
    gap_HW = np.abs(found.numpy() - np.asarray(image, np.float32))
    assert gap_HW.max() <= 4
    assert gap_HW.mean() <= 1


def test_levels_are_rescaled_and_fractions_are_not():
    levels_BHW = torch.tensor([[[0, 51], [102, 255]]])
    expected = torch.tensor([[0.0, 0.2], [0.4, 1.0]]).expand(1, 3, 2, 2) * 2 - 1
    torch.testing.assert_close(Pixels()(levels_BHW), expected)
    torch.testing.assert_close(Pixels()(levels_BHW / 255), expected)


def test_mean_and_deviation_of_each_channel():
    found = Pixels(scale=1.0, mean=(1, 2, 3), std=(1, 2, 4))(torch.full((1, 3, 1, 1), 11))
    assert found.flatten().tolist() == [10, 4.5, 2]


@pytest.mark.parametrize(
    ("size", "expected"), [((20, 10), (8, 4)), ((10, 20), (4, 8)), ((7, 7), (4, 4))]
)
def test_the_shorter_edge(size, expected):
    found = Pixels(shortest_edge=4, **PLAIN)(torch.zeros(1, 3, *size, dtype=torch.int64))
    assert found.shape[-2:] == expected


def test_the_middle_is_cut_out_and_what_is_missing_is_0():
    image = torch.arange(1, 26).reshape(1, 5, 5)
    middle = Pixels(channels=1, crop=(3, 1), **PLAIN)(image)
    assert middle[0, 0].flatten().tolist() == [8, 13, 18]
    around = Pixels(channels=1, crop=(7, 5), **PLAIN)(image)[0, 0]
    assert torch.equal(around[1:6].long(), image[0])
    assert (around[[0, 6]] == 0).all()


def test_settings_make_the_same_again():
    made = Pixels(size=(4, 4), crop=(3, 3), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    image = torch.randint(0, 256, (2, 3, 6, 5))
    assert torch.equal(Pixels(**made.settings)(image), made(image))
    assert not made.state_dict()
