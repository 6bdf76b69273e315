"""The deviation of a position's own logits: its temperature at `std`.

Logit standardisation (arXiv 2403.01427) divides a teacher's logits by their standard deviation
over the classes, the student's by its own, so that they meet in shape and not in size.

Shape letters: P positions, C classes, W the width of scratch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.nn.others import Scratch


def std_temperature(logit_PC: Tensor, most_P: Tensor, scratch: Scratch) -> Tensor:
    """What the logits of each position are divided by at `std`, rounded to float32; [P].

    The population deviation sqrt(mean (z - mean z)^2) of the finite logits, in two passes. It is
    1 where that is 0 (one finite logit, or all of them equal) or more than a float32 holds: so the
    softmax is defined everywhere. A position's number depends on its own logits alone.

    Args:
        logit_PC: of the real classes, float32 or float64.
        most_P: the largest of them.
        scratch: for P positions at least.
    """
    positions, num_classes = logit_PC.shape
    distance_PW = scratch.distance_PW[:positions]
    square_PW = scratch.power_PW[:positions]
    torch.sub(logit_PC, most_P[:, None], out=distance_PW[:, :num_classes])
    distance_PW[:, num_classes:] = 0
    count_P = torch.full_like(most_P, num_classes)
    sum_P = distance_PW.sum(dim=1)
    infinite_PW = None
    if not bool(sum_P.isfinite().all()):
        infinite_PW = distance_PW.isinf()
        count_P -= infinite_PW.sum(dim=1)
        sum_P = distance_PW.masked_fill_(infinite_PW, 0.0).sum(dim=1)
    torch.sub(distance_PW, (sum_P / count_P)[:, None], out=square_PW)
    square_PW[:, num_classes:] = 0
    if infinite_PW is not None:
        square_PW.masked_fill_(infinite_PW, 0.0)
    deviation_P = (square_PW.square_().sum(dim=1) / count_P).sqrt().float()
    usable_P = (deviation_P > 0) & deviation_P.isfinite()
    return torch.where(usable_P, deviation_P, 1.0).to(most_P.dtype)
