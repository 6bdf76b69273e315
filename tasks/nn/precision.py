"""Mixed precision: autocast for the forward pass, and scaled losses where halves need them.

Weights, gradients and optimizers stay float32. bfloat16 has the range of float32; float16 has not,
so small gradients would vanish: the loss is scaled up before the backward pass, and the scale is
halved whenever gradients overflow.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from storage.errors import RecipeError

_DTYPES: Final = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_SCALED_ON = ("cuda",)
_LEAST_SCALE: Final = 1.0


def require_precision(name: str, device: torch.device, where: str) -> None:
    """Refuse a precision that a device does not train in.

    Raises:
        RecipeError: float16 anywhere but on CUDA.
    """
    if name == "float16" and device.type not in _SCALED_ON:
        raise RecipeError(
            f"{where}.precision: float16 trains on CUDA only, this is the device {device.type}; "
            "use bfloat16 or float32"
        )


class Precision:
    """How precise the forward pass is, and what the loss is scaled by."""

    def __init__(self, name: str, device: torch.device) -> None:
        """`name` is one of float32, bfloat16 and float16."""
        self._dtype = _DTYPES.get(name)
        self._device = device
        self._scaler = torch.amp.GradScaler(device.type) if name == "float16" else None

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """What a forward pass runs in."""
        if self._dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, self._dtype)

    def scaled(self, loss: Tensor) -> Tensor:
        """What is differentiated instead of a loss."""
        return loss if self._scaler is None else self._scaler.scale(loss)

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Give the gradients of an optimizer's parameters their own size again."""
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Let an optimizer take its step."""
        if self._scaler is None:
            optimizer.step()
        else:
            self._scaler.step(optimizer)

    def after_step(self) -> None:
        """After a step: the scale may grow again."""
        if self._scaler is not None:
            self._scaler.update()

    def halve(self) -> bool:
        """After gradients that are not finite: whether a smaller scale may mend them."""
        if self._scaler is None or self._scaler.get_scale() <= _LEAST_SCALE:
            return False
        self._scaler.update(self._scaler.get_scale() / 2)
        return True

    def state(self) -> dict[str, Any]:
        """The scale and when it grows; nothing where there is none."""
        return {} if self._scaler is None else self._scaler.state_dict()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        if self._scaler is not None and state:
            self._scaler.load_state_dict(dict(state))
