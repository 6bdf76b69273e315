"""The processes that train one model together, each on its own part of every batch."""

from __future__ import annotations

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
        """A module whose backward pass leaves the mean over all ranks in the gradients."""

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks, on every one of them."""

    def any(self, said: bool) -> bool:
        """Whether any rank says so: each has to ask."""


class Alone:
    """One process."""

    rank = 0
    world = 1

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module itself."""
        return module

    def sum(self, values: Tensor) -> Tensor:
        """The values themselves."""
        return values

    def any(self, said: bool) -> bool:
        """What is said."""
        return said
