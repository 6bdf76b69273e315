"""Waveforms: each clip by itself, padding is silence, and short ones are long enough."""

import pytest
import torch

from tasks.nn.waveforms import Waveforms


def test_clips_get_mean_0_and_deviation_1():
    wave_BN = torch.randn(3, 500, generator=torch.Generator().manual_seed(0)) * 3 + 2
    found, mask = Waveforms()(wave_BN, None)
    assert mask is None
    torch.testing.assert_close(found.mean(dim=1), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.std(dim=1, correction=0), torch.ones(3), rtol=0, atol=1e-5)


def test_a_clip_does_not_depend_on_what_pads_it():
    wave = torch.randn(1, 50, generator=torch.Generator().manual_seed(0)) + 1
    alone, _ = Waveforms()(wave, None)
    padded = torch.nn.functional.pad(wave, (0, 30))
    mask_BN = (torch.arange(80) < 50).long()[None]
    together, mask = Waveforms()(padded, mask_BN)
    torch.testing.assert_close(together[:, :50], alone, rtol=1e-5, atol=1e-5)
    assert (together[:, 50:] == 0).all()
    assert torch.equal(mask, mask_BN)


def test_silence_stays_silence_and_not_nan():
    found, _ = Waveforms()(torch.zeros(2, 9), torch.zeros(2, 9, dtype=torch.int64))
    assert (found == 0).all()


@pytest.mark.parametrize(("length", "becomes"), [(3, 25), (25, 25), (40, 40)])
def test_what_is_too_short_is_filled_with_silence_that_counts(length, becomes):
    wave_BN = torch.rand(2, length)
    mask_BN = torch.ones(2, length, dtype=torch.int64)
    mask_BN[1, 2:] = 0
    found, mask = Waveforms(normalize=False, least=25)(wave_BN, mask_BN)
    assert found.shape == mask.shape == (2, becomes)
    assert torch.equal(found[:, :length], wave_BN)
    assert (found[:, length:] == 0).all()
    assert mask.sum(dim=1).tolist() == [becomes, 25]
