"""Logits reduced in one line, as the label stage does."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from storage.options import Selection
from tasks.nn.reduction import Reduced, Reduction, reduce_logits
from tasks.nn.softlabels import top_k


def reduced(
    logit_PC: Tensor,
    label_P: Tensor | None,
    selection: Selection | int,
    temperatures: Sequence[float],
    *,
    keys_P: np.ndarray | None = None,
    num_classes: int | None = None,
    statistics: bool = False,
) -> Reduced:
    """What is kept of all positions, and how faithful it is."""
    reduction = Reduction(
        top_k(selection) if isinstance(selection, int) else selection,
        tuple(temperatures),
        num_classes or logit_PC.shape[1],
        statistics,
    )
    real_P = torch.ones(len(logit_PC), dtype=torch.bool)
    return reduce_logits(logit_PC, real_P, label_P, reduction, keys_P)
