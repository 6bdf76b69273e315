"""What is made of a sample's positions inside a model.

Shape letters: B samples, N positions inside a model, W width, D channels, X and Y places.
"""

from __future__ import annotations

import torch
from torch import Tensor

from storage.errors import ModelError
from storage.features import Pool
from tasks.nn.transformer import mean_of_real


def by_place(name: str, feature: Tensor) -> Tensor:
    """A feature as [B, N, W]: a vector is one position, an image [B, D, X, Y] has X * Y of them.

    Raises:
        ModelError: it has another form.
    """
    if feature.dim() == 2:
        return feature[:, None]
    if feature.dim() == 4:
        return feature.flatten(2).transpose(1, 2)
    if feature.dim() != 3:
        raise ModelError(f"{name}: expected [B, W], [B, N, W] or images, got {list(feature.shape)}")
    return feature


def pooled(x_BNW: Tensor, real_BN: Tensor | None, pool: Pool) -> Tensor:
    """What is kept of positions: [B, N, W] as it is, or [B, W].

    Args:
        x_BNW: of each position.
        real_BN: which are no padding; None means all.
        pool: what is made of them.
    """
    if pool is Pool.NONE:
        return x_BNW
    if pool is Pool.MEAN:
        return mean_of_real(x_BNW, real_BN)
    if pool is Pool.FIRST or real_BN is None:
        return x_BNW[:, 0 if pool is Pool.FIRST else -1]
    place_N = torch.arange(x_BNW.shape[1], device=x_BNW.device)
    last_B = torch.where(real_BN, place_N, 0).amax(dim=1)
    return x_BNW[torch.arange(len(x_BNW), device=x_BNW.device), last_B]
