"""Of the largest entries the fewest that reach a mass: what is left over joins the others.

Shape letters: P positions, K most entries, T temperatures.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from storage.options import Selection
from tasks.nn.gathered import Gathered
from tasks.nn.others import Others


def nucleus(found: Gathered, selection: Selection) -> tuple[Gathered, Tensor]:
    """The entries that stay, and how many they are, int64 [P].

    Args:
        found: the K largest; sums at the selection's temperature among others.
        selection: what mass is to be reached, at what temperature.
    """
    assert selection.p is not None
    kept_P = _kept(found, selection.p, selection.temperature)
    place_K = torch.arange(selection.k, device=kept_P.device)
    there_PK = place_K < kept_P[:, None]
    stays = replace(
        found,
        index_PK=torch.where(there_PK, found.index_PK, found.index_PK[:, :1]),
        value_PK=found.value_PK.masked_fill(~there_PK, -math.inf),
        others=_joined(found, found.value_PK.double().masked_fill(there_PK, -math.inf)),
    )
    return stays, kept_P


def _kept(found: Gathered, p: float, temperature: float) -> Tensor:
    """How many of the largest reach the mass `p`, all at most."""
    others = found.others
    mass_P = others.mass_PT[:, found.temperatures.index(temperature)].double()
    most_P = found.most_P.double()
    mass_P = mass_P * ((others.largest_P.double() - most_P) / temperature).exp()
    entry_PK = ((found.value_PK.double() - most_P[:, None]) / temperature).exp()
    total_P = entry_PK.sum(dim=1) + mass_P
    reached_PK = (entry_PK / total_P[:, None]).cumsum(dim=1) >= p
    return ((~reached_PK).sum(dim=1) + 1).clamp(max=entry_PK.shape[1])


def _joined(found: Gathered, more_PK: Tensor) -> Others:
    """The others and the logits `more_PK` (-inf where there is none), in float64."""
    before = found.others
    some_P = before.mass_PT[:, 0] > 0
    before_P = torch.where(some_P, before.largest_P.double(), -math.inf)
    largest_P = torch.maximum(before_P, more_PK.amax(dim=1))
    largest_P = torch.where(largest_P == -math.inf, 0.0, largest_P)
    shift_P = torch.where(some_P, before_P - largest_P, 0.0)
    shift_PK = torch.where(more_PK == -math.inf, 0.0, more_PK - largest_P[:, None])
    masses, moments = [], []
    for place, temperature in enumerate(found.temperatures):
        at_P = found.at_P(temperature)
        scale_P = (shift_P / at_P).exp()
        weight_PK = ((more_PK - largest_P[:, None]) / at_P[:, None]).exp()
        mass_P = before.mass_PT[:, place].double()
        moment_P = before.moment_PT[:, place].double() + mass_P * shift_P
        masses.append(weight_PK.sum(dim=1) + scale_P * mass_P)
        moments.append((weight_PK * shift_PK).sum(dim=1) + scale_P * moment_P)
    return Others(largest_P, torch.stack(masses, dim=1), torch.stack(moments, dim=1))
