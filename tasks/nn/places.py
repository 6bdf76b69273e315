"""Which positions inside a model count, and how much each one weighs in a mean over a batch.

Where the model's positions are those of the labels, each that is no padding weighs the same. Where
a sample has one label and many positions inside, each sample weighs the same.

Shape letters: B samples, N positions inside a model, P positions that have labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.nn.batch import Batch


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
    def of(cls, batch: Batch, real_BN: Tensor | None, count: int, real: int, samples: int) -> Places:
        """The positions inside a model for a batch.

        Args:
            batch: all of a global batch, or a part of it.
            real_BN: what the model says of its positions; None means that all are real.
            count: N.
            real: positions of the global batch that are no padding.
            samples: those of the global batch.
        """
        each_BP = batch.real_P.reshape(batch.num_samples, -1)
        there_B = each_BP.any(dim=1)
        labelled = each_BP.shape[1] == count
        if labelled:
            real_BN = each_BP
        elif real_BN is None:
            real_BN = there_B[:, None].expand(-1, count)
        else:
            real_BN = real_BN & there_B[:, None]
        length_B = real_BN.sum(dim=1).clamp(min=1).to(torch.float32)
        weight_B = there_B.to(torch.float32) / max(samples, 1)
        share_B = weight_B / length_B
        weight_BN = real_BN / max(real, 1) if labelled else real_BN * share_B[:, None]
        return cls(real_BN, length_B, weight_BN, weight_B)

    def only_real(self, x_BNW: Tensor) -> Tensor:
        """The same with zeros where nothing is real."""
        return torch.where(self.real_BN[:, :, None], x_BNW, 0.0)
