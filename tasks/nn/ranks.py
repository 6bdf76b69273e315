"""The processes that train one model together, each on its own part of every batch.

Whoever asks `sum`, `any` or `gather` waits for the others: all ranks ask the same in the same
order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn


class Ranks(Protocol):
    """What one process knows of all that train with it.

    Attributes:
        rank: which of them this is, from 0; it alone writes.
        world: how many there are.
    """

    rank: int
    world: int

    def wrap(self, module: nn.Module) -> nn.Module:
        """A module whose backward pass leaves the mean over all ranks in the gradients.

        Its forward pass waits for no other rank, so that one may fail and be tried again.
        """

    def local(self, wrapped: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Passes meanwhile leave the gradients as this rank's own, and wait for nobody.

        The first pass after it takes the mean of all that has been added up.
        """

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks, on every one of them."""

    def any(self, said: bool) -> bool:
        """Whether any rank says so: each has to ask."""

    def gather(self, said: Sequence[str]) -> list[str]:
        """What all ranks say, in the order of the ranks, on every one of them."""


class Alone:
    """One process."""

    rank = 0
    world = 1

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module itself."""
        return module

    def local(self, wrapped: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Nothing to do."""
        del wrapped
        return contextlib.nullcontext()

    def sum(self, values: Tensor) -> Tensor:
        """The values themselves."""
        return values

    def any(self, said: bool) -> bool:
        """What is said."""
        return said

    def gather(self, said: Sequence[str]) -> list[str]:
        """What is said."""
        return list(said)
