"""Which positions inside a model count, and how much each one weighs in a mean over a batch.

Where the model's positions are those of the labels, each that is no padding weighs the same. Where
a sample has one label and many positions inside, each sample weighs the same.

Shape letters: B samples, N positions inside a model, P positions that have labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tasks.nn.batch import Batch
from tasks.nn.counts import Counts
from tasks.nn.observe import real_positions


@dataclass(frozen=True)
class Places:
    """The positions of a batch inside a model.

    Attributes:
        real_BN: which are no padding, bool.
        length_B: how many of each sample are, at least 1.
        weight_BN: what each position adds to a mean over the global batch.
        weight_B: what each sample adds to a mean over its samples.
    """

    real_BN: Tensor
    length_B: Tensor
    weight_BN: Tensor
    weight_B: Tensor

    @classmethod
    def of(
        cls, batch: Batch, counts: Counts, count: int, real_BN: Tensor | None, dtype: torch.dtype
    ) -> Places:
        """The positions inside a model for a batch.

        Args:
            batch: all of a global batch, or a part of it.
            counts: those of the global batch.
            count: N.
            real_BN: what the model says of its positions; None means that all are real.
            dtype: of the weights.
        """
        each_BP = batch.real_P.reshape(batch.num_samples, -1)
        there_B1 = each_BP.any(dim=1, keepdim=True)
        labelled = each_BP.shape[1] == count
        if labelled:
            real_BN = each_BP
        elif real_BN is None:
            real_BN = there_B1.expand(-1, count)
        else:
            real_BN = real_BN & there_B1
        length_B = real_BN.sum(dim=1).clamp(min=1).to(dtype)
        weight_B = there_B1[:, 0].to(dtype) / max(counts.samples, 1)
        share_B = 1 / length_B.new_tensor(max(counts.real, 1)) if labelled else weight_B / length_B
        return cls(real_BN, length_B, real_BN * share_B.reshape(-1, 1), weight_B)

    def only_real(self, x_BNW: Tensor) -> Tensor:
        """The same with zeros where nothing is real."""
        return torch.where(self.real_BN[:, :, None], x_BNW, 0.0)


def real_places(model: nn.Module, batch: Batch, count: int) -> Tensor | None:
    """Which of `count` positions inside a model are no padding, bool [B, N]; None means all.

    Where they are as many as have labels, the batch says it; else the model may.
    """
    each_BP = batch.real_P.reshape(batch.num_samples, -1)
    return each_BP if each_BP.shape[1] == count else real_positions(model, batch.inputs, count)
