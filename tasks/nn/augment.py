"""Augmentation of a batch: each view of a sample is made from its seed alone.

Every random number is hashed from (seed, step, counter), see `tasks.nn.hashed`, and a value is
calculated with one rounding at a time. So a view has the same bits on every device, in every batch
and beside any neighbours; storage/FORMAT.md says which number does what, for others to do the same.

A seed of 0 leaves a sample as it is. Costs a pass or two over the values for each step; `noise`,
`drop` and `token_drop` hash a number for each value. Memory is that of pieces of a million values.

Shape letters: B samples, N values of all samples, L places along an axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from storage.augment_options import (
    AugmentStep,
    BrightnessStep,
    ContrastStep,
    CropStep,
    DropStep,
    EraseStep,
    FlipStep,
    GainStep,
    NoiseStep,
    RotateStep,
    ShiftStep,
    TokenDropStep,
)
from tasks.nn.hashed import Draws, mix64, normal, uniform

_TAKEN: Final = 0
"""The counter that says whether a step is taken for a sample."""
_FIRST: Final = 1
"""The counter of a sample's first number; there is another one for each further axis."""
_FIRST_OF_VALUES: Final = 16
"""The counter of the value at place n is this + n."""
_PIECE: Final = 1 << 20
_MIDDLE_OF_UINT8: Final = 127.5


@dataclass(frozen=True)
class _Samples:
    """Some samples' values of one input.

    Attributes:
        values: [B, ...]; or [N], sample by sample, where samples vary in length.
        lengths_B: values of each sample, where they vary.
    """

    values: Tensor
    lengths_B: Tensor | None

    def spread(self, number_B: Tensor) -> Tensor:
        """A number of each sample, for each of its values; broadcasts with the values."""
        if self.lengths_B is not None:
            return number_B.repeat_interleave(self.lengths_B)
        return number_B.reshape(-1, *[1] * (self.values.dim() - 1))

    def places(self) -> Tensor:
        """The place of each value in its sample, in row-major order; int64."""
        device = self.values.device
        if self.lengths_B is None:
            shape = self.values.shape[1:]
            return torch.arange(shape.numel(), device=device).reshape(1, *shape)
        starts_B = self.lengths_B.cumsum(0) - self.lengths_B
        return torch.arange(len(self.values), device=device) - self.spread(starts_B)

    def words(self, draws: Draws) -> Tensor:
        """64 random bits for each value."""
        return mix64(self.spread(draws.key_B) + (self.places() + _FIRST_OF_VALUES))


def augment(
    values: Tensor,
    seed_B: Tensor,
    steps: Sequence[tuple[int, AugmentStep]],
    lengths_B: Tensor | None = None,
) -> Tensor:
    """The views of some samples' values of one input; of the same shape and type.

    Args:
        values: [B, ...]; or [N], sample by sample, where samples vary in length.
        seed_B: the seeds of the views, int64.
        steps: each with its place in the list of all steps.
        lengths_B: values of each sample, int64, where they vary.
    """
    if not steps or values.numel() == 0:
        return values
    parts = []
    for samples, seeds in _pieces(_Samples(values, lengths_B), seed_B):
        for place, step in steps:
            changed = _changed(samples, Draws.of(seeds, place), step)
            original = samples.spread(seeds == 0)
            samples = _Samples(torch.where(original, samples.values, changed), samples.lengths_B)
        parts.append(samples.values)
    return torch.cat(parts)


def _pieces(samples: _Samples, seed_B: Tensor) -> Iterator[tuple[_Samples, Tensor]]:
    """So few samples at a time that their values are few."""
    values, lengths_B = samples.values, samples.lengths_B
    largest = values[0].numel() if lengths_B is None else int(lengths_B.max())
    size = max(1, _PIECE // max(largest, 1))
    first = 0
    for start in range(0, len(seed_B), size):
        chosen = slice(start, start + size)
        if lengths_B is None:
            yield _Samples(values[chosen], None), seed_B[chosen]
            continue
        count = int(lengths_B[chosen].sum())
        yield _Samples(values[first : first + count], lengths_B[chosen]), seed_B[chosen]
        first += count


def _changed(samples: _Samples, draws: Draws, step: AugmentStep) -> Tensor:
    changed = _CHANGES[type(step)](samples, draws, step)
    if isinstance(step, DropStep | TokenDropStep):
        return changed
    taken = samples.spread(draws.uniform_B(_TAKEN) < step.p)
    return torch.where(taken, changed, samples.values)


def _flip(samples: _Samples, draws: Draws, step: FlipStep) -> Tensor:
    return samples.values.flip(-1 if step.axis == "horizontal" else -2)


def _crop(samples: _Samples, draws: Draws, step: CropStep) -> Tensor:
    return _shifted(samples, draws, (step.padding, step.padding), step.fill)


def _shift(samples: _Samples, draws: Draws, step: ShiftStep) -> Tensor:
    return _shifted(samples, draws, step.by, step.fill)


def _shifted(samples: _Samples, draws: Draws, by: Sequence[int], fill: str) -> Tensor:
    """Values moved along the last axes: that at place i comes from place i - offset."""
    values = samples.values
    for number, most in enumerate(by):
        offset_B = draws.below_B(_FIRST + number, 2 * most + 1) - most
        if samples.lengths_B is not None:
            return _shifted_in_lists(samples, offset_B, fill)
        axis = values.dim() - len(by) + number
        length = values.shape[axis]
        place_L = torch.arange(length, device=values.device)
        source_BL, inside_BL = _source(place_L - offset_B[:, None], length, fill)
        shape = [len(values), *[1] * (values.dim() - 1)]
        shape[axis] = length
        moved = values.gather(axis, source_BL.reshape(shape).expand(values.shape))
        values = torch.where(inside_BL.reshape(shape), moved, torch.zeros_like(moved))
    return values


def _shifted_in_lists(samples: _Samples, offset_B: Tensor, fill: str) -> Tensor:
    assert samples.lengths_B is not None
    place_N = samples.places()
    length_N = samples.spread(samples.lengths_B)
    source_N, inside_N = _source(place_N - samples.spread(offset_B), length_N, fill)
    first_N = torch.arange(len(place_N), device=place_N.device) - place_N
    moved_N = samples.values[first_N + source_N]
    return torch.where(inside_N, moved_N, torch.zeros_like(moved_N))


def _source(place: Tensor, length: Any, fill: str) -> tuple[Tensor, Tensor]:
    """Where the value for a place comes from that may lie outside, and whether there is one."""
    if fill == "wrap":
        return place % length, torch.ones_like(place, dtype=torch.bool)
    if fill == "reflect":
        return length - 1 - (length - 1 - place.abs()).abs(), torch.ones_like(
            place, dtype=torch.bool
        )
    inside = (place >= 0) & (place < length)
    return torch.where(inside, place, 0), inside


def _rotate(samples: _Samples, draws: Draws, step: RotateStep) -> Tensor:
    turned = samples.values
    quarters = samples.spread(draws.below_B(_FIRST, 4))
    for number in (1, 2, 3):
        turn = samples.values.rot90(number, (-2, -1))
        turned = torch.where(quarters == number, turn, turned)
    return turned


def _erase(samples: _Samples, draws: Draws, step: EraseStep) -> Tensor:
    values = samples.values
    erased = torch.ones((), dtype=torch.bool, device=values.device)
    for number, size in enumerate(step.size):
        axis = values.dim() - len(step.size) + number
        length = values.shape[axis]
        start = samples.spread(draws.below_B(_FIRST + number, length - size + 1))
        shape = [1] * values.dim()
        shape[axis] = length
        place = torch.arange(length, device=values.device).reshape(shape)
        erased = erased & (place >= start) & (place < start + size)
    return torch.where(erased, _value(step.value, values), values)


def _brightness(samples: _Samples, draws: Draws, step: BrightnessStep) -> Tensor:
    factor = samples.spread(_around_one(draws, step.amount))
    return _stored(samples.values.float() * factor, samples.values.dtype, step.clip)


def _contrast(samples: _Samples, draws: Draws, step: ContrastStep) -> Tensor:
    middle = step.middle
    if middle is None:
        middle = _MIDDLE_OF_UINT8 if samples.values.dtype == torch.uint8 else 0.0
    factor = samples.spread(_around_one(draws, step.amount))
    away = (samples.values.float() - middle) * factor
    return _stored(away + middle, samples.values.dtype, step.clip)


def _gain(samples: _Samples, draws: Draws, step: GainStep) -> Tensor:
    decibels_B = (draws.uniform_B(_FIRST) * 2 - 1) * step.decibels
    # A power is no exact operation: made number by number, so that none depends on its neighbours.
    factors = [10.0 ** (decibels / 20) for decibels in decibels_B.tolist()]
    factor = samples.spread(torch.tensor(factors, device=samples.values.device))
    return _stored(samples.values.float() * factor, samples.values.dtype, step.clip)


def _noise(samples: _Samples, draws: Draws, step: NoiseStep) -> Tensor:
    noise = normal(samples.words(draws)) * step.deviation
    return _stored(samples.values.float() + noise, samples.values.dtype, step.clip)


def _drop(samples: _Samples, draws: Draws, step: DropStep) -> Tensor:
    dropped = uniform(samples.words(draws)) < step.p
    return torch.where(dropped, _value(step.value, samples.values), samples.values)


def _token_drop(samples: _Samples, draws: Draws, step: TokenDropStep) -> Tensor:
    dropped = uniform(samples.words(draws)) < step.p
    return torch.where(dropped, _value(step.id, samples.values), samples.values)


def _around_one(draws: Draws, amount: float) -> Tensor:
    """A number between 1 - amount and 1 + amount for each sample, float32."""
    return ((draws.uniform_B(_FIRST) * 2 - 1) * amount + 1).float()


def _value(value: float, like: Tensor) -> Tensor:
    return torch.tensor(value, device=like.device).to(like.dtype)


def _stored(result: Tensor, dtype: torch.dtype, clip: tuple[float, float] | None) -> Tensor:
    """float32 as the type of the values: to the nearest whole number, halves to the even one."""
    if clip is not None:
        result = result.clamp(*clip)
    if dtype.is_floating_point:
        return result.to(dtype)
    limits = torch.iinfo(dtype)
    return result.round().clamp(limits.min, limits.max).to(dtype)


_CHANGES: Final[dict[type, Callable[[_Samples, Draws, Any], Tensor]]] = {
    FlipStep: _flip,
    CropStep: _crop,
    ShiftStep: _shift,
    RotateStep: _rotate,
    EraseStep: _erase,
    BrightnessStep: _brightness,
    ContrastStep: _contrast,
    GainStep: _gain,
    NoiseStep: _noise,
    DropStep: _drop,
    TokenDropStep: _token_drop,
}
