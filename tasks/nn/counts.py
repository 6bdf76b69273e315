"""What the losses of a global batch are divided by."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.nn.batch import Batch


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
