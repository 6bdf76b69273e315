"""One way to hold a run that was interrupted against one that was not."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Run = Callable[[Sequence[int]], Any]


class Interruption(BaseException):
    """What stops the work from outside, as Ctrl-C does."""


def assert_interrupted_equals_uninterrupted(run: Run, stops: Iterable[Sequence[int]]) -> None:
    """Each of the interrupted runs ends in exactly what the uninterrupted one does.

    Args:
        run: does all the work, being stopped after each of the given numbers of units and going on
            from what it had kept; returns what it ended in, which compares with ==.
        stops: where to stop: one sequence of rising numbers for each run.
    """
    whole = run(())
    for place in stops:
        assert run(place) == whole, f"stopped after {place}"


def once_and_twice(total: int, step: int = 1) -> list[tuple[int, ...]]:
    """Stops at every unit, and pairs of stops at every `step`, neighbours and repeats included."""
    places = range(0, total + 1, step)
    pairs = [*itertools.combinations(places, 2), *((place, place) for place in places)]
    return [*((place,) for place in range(total + 1)), *pairs]
