"""Logits that are not made yet: the inputs and the weights of a model's output layer.

Shape letters: P positions, C classes, W the width of the output layer's input, R rows of a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

_BLOCK_ELEMENTS = 1 << 23
_DEVICE_BLOCK_ELEMENTS = 1 << 26


class Room:
    """Memory for the logits of all positions, used again from step to step.

    Fresh pages cost 0.15 s for 400 MB, and more on some virtual machines. Who takes the room has it
    alone until it is given back; meanwhile others get new memory. On CUDA torch's own cache does
    the same.
    """

    def __init__(self) -> None:
        self._free: Tensor | None = None

    def __deepcopy__(self, memo: object) -> Room:
        """A room of its own: what is in it means nothing."""
        return Room()

    def take(self, shape: torch.Size, like: Tensor) -> Tensor:
        """A tensor that is not filled, of the dtype and device of `like`."""
        free, self._free = self._free, None
        fits = free is not None and free.dtype == like.dtype and len(free) >= shape.numel()
        if free is None or not fits or free.device != like.device:
            return like.new_empty(shape)
        return free[: shape.numel()].view(shape)

    def give_back(self, logit_PC: Tensor) -> None:
        """Nobody uses it any longer."""
        if logit_PC.device.type == "cpu":
            self._free = logit_PC.new_empty(0).set_(logit_PC.untyped_storage())


@dataclass(frozen=True)
class Projected:
    """Stands for the logits hidden weight^T + bias.

    Attributes:
        hidden_PW: what the output layer gets.
        weight_CW: its weight.
        bias_C: its bias, or None.
        room: where the logits of all positions are made at once, and kept for the gradient, which
            overwrites them; None: those of a block of positions are made at a time, twice.
    """

    hidden_PW: Tensor
    weight_CW: Tensor
    bias_C: Tensor | None = None
    room: Room | None = None

    def __len__(self) -> int:
        """P."""
        return len(self.hidden_PW)

    @property
    def shape(self) -> torch.Size:
        """[P, C]."""
        return torch.Size((len(self.hidden_PW), len(self.weight_CW)))

    @property
    def dtype(self) -> torch.dtype:
        """Of the logits; under autocast as `F.linear` would give them."""
        kind, dtype = self.hidden_PW.device.type, self.hidden_PW.dtype
        if torch.is_autocast_enabled(kind) and dtype != torch.float64:
            return torch.get_autocast_dtype(kind)
        return dtype

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.hidden_PW.device

    def new_zeros(self, size: Sequence[int]) -> Tensor:
        """Zeros of at least float32, for sums of losses."""
        return self.hidden_PW.new_zeros(size, dtype=torch.promote_types(self.dtype, torch.float32))

    def cast(self) -> Projected:
        """All of one dtype: that of the logits."""
        dtype = self.dtype
        bias_C = None if self.bias_C is None else self.bias_C.to(dtype)
        return replace(
            self,
            hidden_PW=self.hidden_PW.to(dtype),
            weight_CW=self.weight_CW.to(dtype),
            bias_C=bias_C,
        )


class Projection:
    """Makes the logits of blocks of positions, and collects gradients from theirs.

    One matrix of a block's logits is used again and again; the weight's gradient is made once.

    Args:
        hidden_PW: what the output layer gets.
        weight_CW: its weight.
        bias_C: its bias, or None.
        room: for one block of all positions; None: for several blocks.
        logit_PC: its logits, where they are made already.
        wanted: which gradients are: of hidden, weight and bias.
    """

    def __init__(
        self,
        hidden_PW: Tensor,
        weight_CW: Tensor,
        bias_C: Tensor | None,
        *,
        room: Room | None,
        logit_PC: Tensor | None = None,
        wanted: Sequence[bool] = (False, False, False),
    ) -> None:
        self.hidden_PW, self.weight_CW, self.bias_C = hidden_PW, weight_CW, bias_C
        self.room, self.logit_PC = room, logit_PC
        # What blocks are added to is float32 at least.
        added = hidden_PW.dtype if room else torch.promote_types(hidden_PW.dtype, torch.float32)
        self._hidden_grad_PW = torch.empty_like(hidden_PW) if wanted[0] else None
        self._weight_grad_CW = torch.zeros_like(weight_CW, dtype=added) if wanted[1] else None
        self._bias_grad_C = (
            torch.zeros_like(bias_C, dtype=added) if wanted[2] and bias_C is not None else None
        )

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Rows and their logits [R, C], which are overwritten by those of the next block."""
        positions, classes = len(self.hidden_PW), len(self.weight_CW)
        if self.logit_PC is not None:
            yield slice(0, positions), self.logit_PC
            return
        if self.room is not None:
            size = positions
            shape = torch.Size((positions, classes))
            self.logit_PC = buffer_RC = self.room.take(shape, self.hidden_PW)
        else:
            on_cpu = self.hidden_PW.device.type == "cpu"
            most = (_BLOCK_ELEMENTS if on_cpu else _DEVICE_BLOCK_ELEMENTS) // classes
            size = min(positions, max(1, most))
            buffer_RC = self.hidden_PW.new_empty(size, classes)
        for start in range(0, positions, max(size, 1)):
            rows = slice(start, min(start + size, positions))
            logit_RC = buffer_RC[: rows.stop - start]
            self._multiply(self.hidden_PW[rows], logit_RC)
            yield rows, logit_RC

    def collect(self, rows: slice, grad_RC: Tensor) -> None:
        """Add what the gradient of a block's logits gives to those of hidden, weight and bias."""
        with torch.autocast(grad_RC.device.type, enabled=False):
            if self._hidden_grad_PW is not None:
                torch.mm(grad_RC, self.weight_CW, out=self._hidden_grad_PW[rows])
            if self._weight_grad_CW is not None:
                _add_product(self._weight_grad_CW, grad_RC.T, self.hidden_PW[rows])
            if self._bias_grad_C is not None:
                self._bias_grad_C += grad_RC.sum(dim=0, dtype=self._bias_grad_C.dtype)

    def give_back(self) -> None:
        """The logits are not needed any longer."""
        if self.room is not None and self.logit_PC is not None:
            self.room.give_back(self.logit_PC)
            self.logit_PC = None

    def grads(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The gradients of hidden, weight and bias; None where not wanted."""
        dtype = self.hidden_PW.dtype
        weight_CW, bias_C = self._weight_grad_CW, self._bias_grad_C
        return (
            self._hidden_grad_PW,
            None if weight_CW is None else weight_CW.to(dtype),
            None if bias_C is None else bias_C.to(dtype),
        )

    def _multiply(self, hidden_RW: Tensor, out_RC: Tensor) -> None:
        with torch.autocast(out_RC.device.type, enabled=False):
            if self.bias_C is None:
                torch.mm(hidden_RW, self.weight_CW.T, out=out_RC)
            else:
                torch.addmm(self.bias_C, hidden_RW, self.weight_CW.T, out=out_RC)


def _add_product(sum_CW: Tensor, left_CR: Tensor, right_RW: Tensor) -> None:
    if sum_CW.dtype == left_CR.dtype:
        sum_CW.addmm_(left_CR, right_RW)
    else:
        sum_CW += left_CR @ right_RW
