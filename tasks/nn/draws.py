"""Drawing classes from a teacher's softmax: Sparse Logit Sampling (arXiv 2503.16870).

A draw depends on the position's own key and logits only, never on its neighbours, so a shard that
is made again holds the same entries. Shape letters: P positions, C classes, K entries, N draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from storage.order import mix64

_STEP = np.uint64(0x9E3779B97F4A7C15)
_UNIT = 2.0**-53


@dataclass(frozen=True)
class Draws:
    """What was drawn: the different classes of each position, the most probable first.

    Attributes:
        index_PK: class ids; places without an entry repeat the first.
        count_PK: how often each was drawn, int64; 0 where there is no entry.
        kept_P: how many different classes there are, int64.
    """

    index_PK: Tensor
    count_PK: Tensor
    kept_P: Tensor


def draw(
    logit_PC: Tensor, keys_P: NDArray[np.uint64], num_draws: int, temperature: float, width: int
) -> Draws:
    """Draw with replacement from softmax(z / temperature), by inverting its distribution function.

    Args:
        logit_PC: at least one finite logit a position.
        keys_P: one key a position: equal keys and logits give equal draws.
        num_draws: N.
        temperature: where the softmax is taken.
        width: K, at least as many as different classes can be drawn.
    """
    cumulated_PC = torch.softmax(logit_PC.double() / temperature, dim=1).cumsum(dim=1)
    cumulated_PC /= cumulated_PC[:, -1:].clone()
    uniform_PN = torch.from_numpy(uniforms(keys_P, num_draws)).to(logit_PC.device)
    drawn_PN = torch.searchsorted(cumulated_PC, uniform_PN, right=True)
    drawn_PN = drawn_PN.clamp(max=logit_PC.shape[1] - 1).sort(dim=1).values
    first_PN = torch.ones_like(drawn_PN, dtype=torch.bool)
    first_PN[:, 1:] = drawn_PN[:, 1:] != drawn_PN[:, :-1]
    place_PN = first_PN.cumsum(dim=1) - 1
    kept_P = place_PN[:, -1] + 1
    index_PK = drawn_PN[:, :1].repeat(1, width)
    index_PK.scatter_(1, place_PN, drawn_PN)
    count_PK = torch.zeros_like(index_PK).scatter_add_(1, place_PN, torch.ones_like(drawn_PN))
    logit_PK = logit_PC.gather(1, index_PK).masked_fill(count_PK == 0, -torch.inf)
    order_PK = logit_PK.argsort(dim=1, descending=True, stable=True)
    index_PK, count_PK = index_PK.gather(1, order_PK), count_PK.gather(1, order_PK)
    return Draws(torch.where(count_PK > 0, index_PK, index_PK[:, :1]), count_PK, kept_P)


def uniforms(keys_P: NDArray[np.uint64], count: int) -> NDArray[np.float64]:
    """Numbers in [0, 1), `count` for each key: hashed, so that no generator has a state."""
    with np.errstate(over="ignore"):
        places = np.arange(1, count + 1, dtype=np.uint64) * _STEP
        mixed = mix64(mix64(keys_P)[:, None] + places)
    return (mixed >> np.uint64(11)).astype(np.float64) * _UNIT
