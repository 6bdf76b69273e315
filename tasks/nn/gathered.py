"""What is read from the logits of some positions: numbers from which all else is worked out.

Everything that looks at all classes is in here; what is made of it costs K numbers a position.

Shape letters: P positions, C classes, K kept, T temperatures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from storage.options import STD, AnyTemperature
from tasks.nn.others import Others
from tasks.nn.positions import some_rows


@dataclass(frozen=True)
class Gathered:
    """What was read.

    Attributes:
        index_PK: class ids, int64, best first; places without an entry repeat the first.
        value_PK: their logits.
        count_PK: how often each was drawn, of a sampled set; or None.
        most_P: the largest logit of the real classes.
        label_P: the logit of the hard label, `most_P` where there is none; or None.
        others: sums over the classes that are not in `index_PK`, at `temperatures`.
        temperatures: those of `others`.
        num_classes: C, padding included.
        best_P: the best class, padding included.
        bad_P: whether there is NaN, +inf or nothing but -inf.
        statistics: by column name.
        std_P: the temperature of each position at `std`, rounded to float32; None where that is
            not among `temperatures`.
    """

    index_PK: Tensor
    value_PK: Tensor
    count_PK: Tensor | None
    most_P: Tensor
    label_P: Tensor | None
    others: Others
    temperatures: tuple[AnyTemperature, ...]
    num_classes: int
    best_P: Tensor
    bad_P: Tensor
    statistics: dict[str, Tensor]
    std_P: Tensor | None = None

    @classmethod
    def of(
        cls,
        positions: int,
        num_classes: int,
        width: int,
        temperatures: Sequence[AnyTemperature],
        like: Tensor,
        *,
        drawn: bool,
        labelled: bool,
        statistics: Sequence[str],
    ) -> Self:
        """Room for `positions`, in which nothing was read yet: classes that are all equal."""

        def zeros(*shape: int, dtype: torch.dtype = like.dtype) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=like.device)

        by_temperature = (positions, len(temperatures))
        return cls(
            index_PK=zeros(positions, width, dtype=torch.int64),
            value_PK=zeros(positions, width),
            count_PK=zeros(positions, width, dtype=torch.int64) + 1 if drawn else None,
            most_P=zeros(positions),
            label_P=zeros(positions) if labelled else None,
            others=Others(zeros(positions), zeros(*by_temperature) + 1, zeros(*by_temperature)),
            temperatures=tuple(temperatures),
            num_classes=num_classes,
            best_P=zeros(positions, dtype=torch.int64),
            bad_P=zeros(positions, dtype=torch.bool),
            statistics={name: zeros(positions) for name in statistics},
            std_P=zeros(positions) + 1 if STD in temperatures else None,
        )

    def rows(self, rows: slice) -> Gathered:
        """Some of the positions, sharing memory."""
        return some_rows(self, rows)

    def at_P(self, temperature: AnyTemperature) -> Tensor:
        """What logits are divided by at a temperature, in float64: [1], or [P] for `std`."""
        if temperature != STD:
            return self.most_P.new_full((1,), temperature, dtype=torch.float64)
        assert self.std_P is not None
        return self.std_P.double()

    def rest_PT(self, temperatures: Sequence[AnyTemperature]) -> Tensor:
        """Logsumexp over the others, relative to the largest real logit, in float64."""
        places = [self.temperatures.index(at) for at in temperatures]
        above_P = self.others.largest_P.double() - self.most_P.double()
        above_PT = torch.stack([above_P / self.at_P(at) for at in temperatures], dim=1)
        return self.others.mass_PT[:, places].double().log() + above_PT
