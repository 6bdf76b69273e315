"""A model with all that it is taught by: one forward pass gives the losses of a batch.

What has parameters beside the model, and learns with it, belongs here too; what is wrapped to train
in several processes is the learner. Shape letters: P positions, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from storage.errors import ModelError
from tasks.loss_options import LossOptions
from tasks.nn.batch import Batch, by_position
from tasks.nn.losses import LossParts, distillation_loss


@dataclass(frozen=True)
class Counts:
    """What the losses of a global batch are divided by, whichever parts it is cut into.

    Attributes:
        positions: that count.
        real: positions that are no padding.
        samples: B, stand-ins left out.
    """

    positions: int
    real: int
    samples: int

    @classmethod
    def of(cls, batch: Batch) -> Counts:
        """Those of one batch."""
        lengths_B = batch.lengths_B
        return cls(batch.num_positions, int(lengths_B.sum()), int((lengths_B > 0).sum()))


class Learner(nn.Module):
    """Gives the losses of a batch."""

    def __init__(self, model: nn.Module, loss: LossOptions) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, batch: Batch, counts: Counts, done: float) -> LossParts:
        """This batch's part of the losses of the global batch: parts add up to its means.

        Args:
            batch: all of the global batch, or a part of it.
            counts: those of the global batch.
            done: the share of training that is done, from 0 to 1.

        Raises:
            ModelError: the model gives logits for other positions than have labels.
        """
        del done
        logit_PC = by_position(self.model(*batch.inputs))
        if len(logit_PC) != len(batch.label_P):
            raise ModelError(
                f"the model gives logits for {len(logit_PC)} positions of {batch.num_samples} "
                f"samples, the labels have {len(batch.label_P)}: [B, C] is one a sample, [B, L, C] "
                "one a token"
            )
        return distillation_loss(logit_PC, batch, self.loss, counts.positions)
