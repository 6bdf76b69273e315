"""How well a fitted teacher does on the hard labels of a split: what its card says of it.

Shape letters: P positions, C classes.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from storage.schema import NO_LABEL
from tasks.nn.batch import by_position
from tasks.sources import Source
from tasks.stream import Stream


@torch.inference_mode()
def hard_figures(
    model: nn.Module, source: Source, batch_size: int, device: torch.device
) -> dict[str, float]:
    """Mean negative log-likelihood in nats, accuracy, and how many positions these are of.

    The likelihood is the model's own, without the smoothing that it may have been fitted with; for
    a language model it is that of each token, and the accuracy is that of the next one.

    Args:
        model: it is left on `device`, in evaluation mode.
        source: a split.
        batch_size: samples of a batch.
        device: where to run.
    """
    model = model.to(device).eval()
    nll = correct = 0.0
    positions = 0
    for batch in Stream(source, batch_size, shuffle=False):
        moved = batch.to(device)
        label_P = moved.label_P.masked_fill(~moved.mask_P, NO_LABEL)
        logit_PC = by_position(model(*moved.inputs)).float()
        nll += F.cross_entropy(logit_PC, label_P, ignore_index=NO_LABEL, reduction="sum").item()
        correct += (logit_PC.argmax(dim=1) == label_P).sum().item()
        positions += int((label_P != NO_LABEL).sum())
    count = max(positions, 1)
    return {"nll": nll / count, "accuracy": correct / count, "positions": positions}
