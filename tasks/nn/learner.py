"""A model with all that it is taught by: one forward pass gives the losses of a batch.

What has parameters beside the model, and learns with it, belongs here too; what is wrapped to train
in several processes is the learner. Shape letters: P positions, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from tasks.feature_options import Match
from tasks.loss_options import LossOptions
from tasks.nn.batch import Batch
from tasks.nn.counts import Counts
from tasks.nn.losses import LossParts, distillation_loss
from tasks.nn.matching import Matching, watched
from tasks.nn.observe import Found, watching
from tasks.nn.output_layer import StudentLogits
from tasks.training_options import LogitsForm


class Learner(nn.Module):
    """Gives the losses of a batch.

    Attributes:
        model: what is taught.
        loss: the losses of its predictions, just now.
        matching: what of its inside can be compared with the teacher's; None: nothing.
        matches: what of that is compared just now.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: LossOptions,
        matching: Matching | None = None,
        matches: Sequence[Match] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self.make_logits(LogitsForm.AUTO)
        self.matching = matching
        self.turn_to(loss, matches)

    def make_logits(self, form: LogitsForm) -> None:
        """How the model's logits are made from now on."""
        self._logits = StudentLogits(self.model, form)

    def turn_to(self, loss: LossOptions, matches: Sequence[Match]) -> None:
        """Teach by other losses from now on: another phase of training begins."""
        self.loss = loss
        self.matches = tuple(matches)

    def forward(self, batch: Batch, counts: Counts, done: float) -> LossParts:
        """This batch's part of the losses of the global batch: parts add up to its means.

        Args:
            batch: all of the global batch, or a part of it.
            counts: those of the global batch.
            done: the share of training that is done, from 0 to 1.

        Raises:
            ModelError: the model gives logits for other positions than have labels, or its inside
                does not fit the teacher's.
        """
        with watching(self.model, watched(self.matches)) as found:
            logits, counting = self._logits.of(batch)
        parts = distillation_loss(logits, counting, self.loss, counts.positions, done)
        return self._with_matches(parts, found, batch, counts)

    def _with_matches(
        self, parts: LossParts, found: Found, batch: Batch, counts: Counts
    ) -> LossParts:
        if self.matching is None or not self.matches:
            return parts
        losses: dict[str, Tensor] = self.matching(self.matches, self.model, found, batch, counts)
        total = parts.total
        for match in self.matches:
            total = total + match.options.weight * losses[match.name]
        return replace(parts, total=total, matched=losses)
