"""Several orders as one: of every few samples in a row, each has its share.

Which order a place belongs to is a pattern that repeats, so how many samples of each come before a
place is known without counting, and a place is all that has to be kept. Each order goes through all
of its own samples before it begins anew, however long an epoch of the mix is: that ends when the
first order has been gone through once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from storage.errors import RecipeError
from storage.order import Order, Window

_LONGEST_PATTERN: Final = 1000


@dataclass(frozen=True)
class MixedOrder:
    """The order of the samples of several data sets.

    Attributes:
        orders: those of the data sets; the first one says how long an epoch is.
        pattern: the place among `orders` that each of some samples in a row belongs to.
    """

    orders: tuple[Order, ...]
    pattern: tuple[int, ...]

    @cached_property
    def num_samples(self) -> int:
        """Samples of an epoch: until the first order has been gone through once."""
        return self._place_of(0, self.orders[0].num_samples - 1) + 1

    def windows(self, epoch: int, skip: int = 0) -> Iterator[Window]:
        """The windows of an epoch; the first `skip` samples are left out without being read.

        A window ends where that of any order does; the others go on in the next one.
        """
        whole = self._before(self.num_samples)
        place, stop = skip, self.num_samples
        drawn = self._before(place)
        forever = [
            _forever(order, int(epoch * each + some))
            for order, each, some in zip(self.orders, whole, drawn, strict=True)
        ]
        current = [next(windows) for windows in forever]
        while place < stop:
            current = [
                window if len(window.rows) else next(windows)
                for window, windows in zip(current, forever, strict=True)
            ]
            ends = [
                self._place_of(which, int(drawn[which]) + len(window.rows))
                for which, window in enumerate(current)
            ]
            end = min(*ends, stop)
            counts = self._before(end) - drawn
            left = [
                Window(window.groups, window.sizes, window.rows[count:])
                for window, count in zip(current, counts, strict=True)
            ]
            yield self._joined(current, counts, left if end < stop else [], place, end)
            place, drawn, current = end, drawn + counts, left

    def _joined(
        self,
        current: Sequence[Window],
        counts: NDArray[np.int64],
        left: Sequence[Window],
        place: int,
        end: int,
    ) -> Window:
        """The first `counts` rows of some windows, in the order of the pattern."""
        which = np.asarray(self.pattern)[np.arange(place, end) % len(self.pattern)]
        rows = np.empty(end - place, np.int64)
        before = 0
        for number, (window, count) in enumerate(zip(current, counts, strict=True)):
            rows[which == number] = window.rows[:count] + before
            before += sum(window.sizes)
        again = itertools.chain.from_iterable(
            self._renumbered(number, window)
            for number, window in enumerate(left)
            if len(window.rows)
        )
        groups = [self._renumbered(number, window) for number, window in enumerate(current)]
        sizes = itertools.chain.from_iterable(window.sizes for window in current)
        joined = Window(tuple(itertools.chain(*groups)), tuple(sizes), rows, frozenset(again))
        return joined.only(rows)

    def _renumbered(self, which: int, window: Window) -> list[int]:
        """The row groups of a window, counted through those of all orders."""
        first = sum(len(order.group_sizes) for order in self.orders[:which])
        return [first + group for group in window.groups]

    def _before(self, place: int) -> NDArray[np.int64]:
        """How many samples of each order come before a place of the epoch."""
        cycles, within = divmod(place, len(self.pattern))
        whole = np.bincount(self.pattern, minlength=len(self.orders))
        some = np.bincount(self.pattern[:within], minlength=len(self.orders))
        before: NDArray[np.int64] = cycles * whole + some
        return before

    def _place_of(self, which: int, number: int) -> int:
        """The place in the epoch of an order's sample, counted from 0."""
        own = np.flatnonzero(np.asarray(self.pattern) == which)
        cycles, within = divmod(number, len(own))
        return cycles * len(self.pattern) + int(own[within])


def mixing_pattern(weights: Sequence[float]) -> tuple[int, ...]:
    """The places of the weights in the order in which samples are taken, as even as can be.

    As short as gives each its exact share; at most 1,000 long, each share then being within a
    thousandth.

    Raises:
        RecipeError: a weight is less than a thousandth of all.
    """
    shares = [Fraction(weight).limit_denominator(10**6) for weight in weights]
    total = sum(shares)
    length = math.lcm(*((share / total).denominator for share in shares))
    length = min(length, _LONGEST_PATTERN)
    ends = [round(sum(shares[: place + 1]) / total * length) for place in range(len(shares))]
    counts = np.diff([0, *ends])
    if min(counts, default=0) < 1:
        raise RecipeError(
            f"label sets are mixed with weights of at least a thousandth of all, got "
            f"{', '.join(f'{weight:g}' for weight in weights)}"
        )
    within = [
        ((number + 0.5) / count, which)
        for which, count in enumerate(counts)
        for number in range(count)
    ]
    return tuple(which for _, which in sorted(within))


def _forever(order: Order, drawn: int) -> Iterator[Window]:
    """The windows of an order, epoch after epoch, after `drawn` samples."""
    epoch, skip = divmod(drawn, order.num_samples)
    for number in itertools.count(epoch):
        yield from (window for window in order.windows(number, skip) if len(window.rows))
        skip = 0
