"""A batch in memory: what models get and what losses need, as tensors.

Shape letters: B samples, L positions of a block, P = B * L positions (P = B for classification),
K kept classes, T temperatures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
from torch import Tensor

from storage.options import STD, AnyTemperature

_BY_POSITION: Final = (
    "index_PK", "logit_PK", "rest_PT", "weight_PK", "label_P", "label_logit_P", "mask_P", "real_P",
    "std_P",
)  # fmt: skip


@dataclass(frozen=True)
class Batch:
    """P positions with their soft and hard labels.

    Attributes:
        inputs: tensors [B, ...] that the model gets, by position.
        index_PK: kept class ids, int64; K is 0 where there are no soft labels.
        logit_PK: (z - m) / T, float32, padded with -inf.
        rest_PT: what is not kept, at each stored temperature; or None.
        weight_PK: of a sampled set the share of the draws, count / n; or None.
        label_P: hard labels, int64, -100 where there is none.
        label_logit_P: (z_y - m) / T of the hard label; or None.
        mask_P: the positions that count.
        real_P: the positions that are there; the others pad blocks to one length.
        temperatures: those of `rest_PT`; the first is T.
        sample_ids: the B samples.
        drawn_at: of a sampled set, the stored temperature at which it was drawn; or None.
        std_P: the deviation of the teacher's logits, float32 and above 0: the temperature of each
            position at `std`, 1 where none is stored; None where that is no stored temperature.
        features: what is stored of the teacher's inside, [B, ...] by `storage.features` name.
    """

    inputs: tuple[Tensor, ...]
    index_PK: Tensor
    logit_PK: Tensor
    rest_PT: Tensor | None
    weight_PK: Tensor | None
    label_P: Tensor
    label_logit_P: Tensor | None
    mask_P: Tensor
    real_P: Tensor
    temperatures: tuple[AnyTemperature, ...]
    sample_ids: Sequence[str]
    drawn_at: float | None = None
    std_P: Tensor | None = None
    features: dict[str, Tensor] = field(default_factory=dict)

    @property
    def num_samples(self) -> int:
        """B."""
        return len(self.sample_ids)

    @property
    def lengths_B(self) -> Tensor:
        """Positions of each sample that are there, int64; 0 of a stand-in that counts nowhere."""
        return self.real_P.reshape(self.num_samples, -1).sum(dim=1)

    @property
    def temperature(self) -> float:
        """T: logits are stored as (z - m) / T."""
        first = self.temperatures[0]
        assert first != STD
        return first

    def at(self, temperature: AnyTemperature) -> float | Tensor:
        """What logits are divided by at a stored temperature: a number, or each position's own [P].

        Raises:
            ValueError: the deviations of positions are not stored.
        """
        if temperature != STD:
            return temperature
        if self.std_P is None:
            raise ValueError("the temperature std is not stored; it has to be in temperatures")
        return self.std_P

    def rest_at(self, temperature: AnyTemperature) -> Tensor:
        """What is stored of all classes that are not kept, at a stored temperature; [P]."""
        assert self.rest_PT is not None
        return self.rest_PT[:, self.temperatures.index(temperature)]

    @property
    def present_PK(self) -> Tensor:
        """The entries that are kept classes with mass; the first one of each row always is."""
        present_PK = ~torch.isneginf(self.logit_PK)
        present_PK[:, :1] = True
        return present_PK

    @property
    def teacher_best_P(self) -> Tensor:
        """The teacher's best class."""
        return self.index_PK.gather(1, self.logit_PK.argmax(dim=1, keepdim=True))[:, 0]

    @property
    def num_positions(self) -> int:
        """Positions that count."""
        return int(self.mask_P.sum())

    def at_positions(self, place_Q: Tensor) -> Batch:
        """Some of the positions, for losses: samples and inputs stay, so blocks have no length."""
        return replace(self, **self._positions(place_Q))

    def emptied(self) -> Batch:
        """The same samples as padding: none of their positions is there, and none counts."""
        nowhere_P = torch.zeros_like(self.mask_P)
        return replace(self, mask_P=nowhere_P, real_P=nowhere_P)

    def part(self, start: int, stop: int) -> Batch:
        """The samples from `start` to `stop`."""
        each = len(self.mask_P) // max(self.num_samples, 1)
        return replace(
            self,
            inputs=tuple(tensor[start:stop] for tensor in self.inputs),
            sample_ids=self.sample_ids[start:stop],
            features={name: tensor[start:stop] for name, tensor in self.features.items()},
            **self._positions(slice(start * each, stop * each)),
        )

    def pinned(self) -> Batch:
        """The same batch with its inputs in pinned memory, for copies to CUDA that do not wait."""
        return replace(self, inputs=tuple(tensor.pin_memory() for tensor in self.inputs))

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        if device.type == "cpu":
            return self

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return replace(
            self,
            inputs=tuple(tensor.to(device, non_blocking=True) for tensor in self.inputs),
            index_PK=self.index_PK.to(device),
            logit_PK=self.logit_PK.to(device),
            rest_PT=move(self.rest_PT),
            weight_PK=move(self.weight_PK),
            label_P=self.label_P.to(device),
            label_logit_P=move(self.label_logit_P),
            mask_P=self.mask_P.to(device),
            real_P=self.real_P.to(device),
            std_P=move(self.std_P),
            features={
                name: tensor.to(device, non_blocking=True) for name, tensor in self.features.items()
            },
        )

    def _positions(self, places: slice | Tensor) -> dict[str, Any]:
        """What is there of each position, at some of them."""
        there = {name: getattr(self, name) for name in _BY_POSITION}
        return {name: tensor[places] for name, tensor in there.items() if tensor is not None}


def by_position(logits: Tensor) -> Tensor:
    """A model's output [B, C] or [B, L, C] as [P, C]."""
    return logits if logits.dim() == 2 else logits.reshape(-1, logits.shape[-1])
