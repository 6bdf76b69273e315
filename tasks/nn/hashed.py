"""Random numbers that are hashed: a pure function of (seed, step, counter), bit for bit anywhere.

Integers wrap modulo 2^64 as int64, floats are IEEE operations of one rounding each, and the normal
numbers come out of a table; so device, batch and neighbours do not matter.

Shape letters: B samples.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import torch
from torch import Tensor

_UNIFORM_BITS: Final = 24
_NORMAL_BITS: Final = 16


@dataclass(frozen=True)
class Draws:
    """The random numbers of one step, by their counters.

    Attributes:
        key_B: of each sample, int64.
    """

    key_B: Tensor

    @classmethod
    def of(cls, seed_B: Tensor, step: int) -> Draws:
        """Those of a step, for samples with these seeds."""
        return cls(mix64(seed_B + step))

    def word_B(self, counter: int) -> Tensor:
        """64 random bits for each sample, int64."""
        return mix64(self.key_B + counter)

    def uniform_B(self, counter: int) -> Tensor:
        """A number in [0, 1) for each sample, a multiple of 2^-24; float64."""
        return uniform(self.word_B(counter))

    def below_B(self, counter: int, limit: int) -> Tensor:
        """A whole number below `limit`, at most 2^31, for each sample; int64."""
        return _shifted(_shifted(self.word_B(counter), 32) * limit, 32)


def mix64(value: Tensor) -> Tensor:
    """`storage.order.mix64`, of int64 whose bits are taken as unsigned."""
    mixed = value * _signed(0x9E3779B97F4A7C15)
    mixed = mixed.bitwise_xor_(_shifted(mixed, 30)).mul_(_signed(0xBF58476D1CE4E5B9))
    mixed = mixed.bitwise_xor_(_shifted(mixed, 27)).mul_(_signed(0x94D049BB133111EB))
    return mixed.bitwise_xor_(_shifted(mixed, 31))


def uniform(word: Tensor) -> Tensor:
    """Numbers in [0, 1) of 64 random bits each: their highest 24; float64."""
    return _shifted(word, 64 - _UNIFORM_BITS).double() * 2.0**-_UNIFORM_BITS


def normal(word: Tensor) -> Tensor:
    """Standard normal numbers of 64 random bits each, float32.

    The quantiles at (n + 1/2) / 65536, where n are the highest 16 bits: within 4.33 of 0.
    """
    return _quantiles(word.device)[_shifted(word, 64 - _NORMAL_BITS)]


@functools.lru_cache(maxsize=8)
def _quantiles(device: torch.device) -> Tensor:
    count = 1 << _NORMAL_BITS
    inverse = NormalDist().inv_cdf
    upper = [inverse((place + 0.5) / count) for place in range(count // 2, count)]
    return torch.tensor([-value for value in reversed(upper)] + upper, device=device)


def _shifted(value: Tensor, bits: int) -> Tensor:
    """Bits moved down, zeros above them."""
    return (value >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word
