"""Sharing work: several processes make the units of one whole, each unit once.

Each takes the next unit that nobody holds, and waits for the others at the end. What is done is
decided by what is committed, not by who held what (see `storage.leases`). While others are at work,
a process meets some of their units: such a meeting costs a few small requests.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Sequence
from typing import Final, TypeVar

from storage.leases import Leases

_FIRST_WAIT_SECONDS: Final = 0.2
_LONGEST_WAIT_SECONDS: Final = 2.0
_LOOK_AGAIN_SECONDS: Final = 5.0

Unit = TypeVar("Unit")


def share(
    units: Sequence[Unit],
    name_of: Callable[[Unit], str],
    done: Callable[[Sequence[Unit]], Collection[Unit]],
    leases: Leases,
    wait: Callable[[float], None] = time.sleep,
) -> Generator[Unit, None, None]:
    """The units that this process has to make, one after the other, until all are done.

    Each one is leased until the caller releases it, once it is committed; several may be on their
    way at once. What others hold comes last: it waits until they are done, or until their leases
    end, and makes what they left.

        with Leases(folder) as leases:
            for shard in share(missing, name, done, leases):
                make_and_commit(shard)
                leases.release(name(shard))

    Args:
        units: what has to be made, in the order in which it should be.
        name_of: the name of a unit's lease: a plain file name without its ending.
        done: which of some units are done by now. Asked for one unit after each claim, so that
            should cost one look; for many of them while waiting, and each few seconds while others
            are at work.
        leases: those of this process.
        wait: waits so many seconds.

    Raises:
        StoreError: the store cannot be read or written.
    """
    left = list(units)
    seconds = _FIRST_WAIT_SECONDS
    while left:
        count = len(left)
        made, skipped = yield from _once(left, name_of, done, leases)
        finished = done(skipped) if skipped else ()
        left = [unit for unit in skipped if unit not in finished]
        if made or len(left) < count:
            seconds = _FIRST_WAIT_SECONDS
        if left and not made:
            wait(seconds)
            seconds = min(2 * seconds, _LONGEST_WAIT_SECONDS)


def _once(
    units: Sequence[Unit],
    name_of: Callable[[Unit], str],
    done: Callable[[Sequence[Unit]], Collection[Unit]],
    leases: Leases,
) -> Generator[Unit, None, tuple[bool, list[Unit]]]:
    """Go through the units once; returns whether one was made here, and what others hold."""
    made = False
    skipped = []
    looked = -math.inf
    queue = deque(units)
    while queue:
        unit = queue.popleft()
        name = name_of(unit)
        alone = False
        if not leases.claim(name):
            skipped.append(unit)
        # Somebody else may have finished it after the caller planned.
        elif done([unit]):
            leases.release(name)
        else:
            alone = True
            yield unit
            made = True
        if not alone and queue and time.monotonic() - looked >= _LOOK_AGAIN_SECONDS:
            finished = done(list(queue))
            queue = deque(unit for unit in queue if unit not in finished)
            looked = time.monotonic()
    return made, skipped
