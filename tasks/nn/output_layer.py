"""A student's logits, from its last linear layer where it has one.

Where the logits are what a linear layer gives, and nothing is done to them afterwards, the model is
run without that layer, and layer and losses are one operation (see `tasks.nn.projected`). Then
positions that do not count are left out before the logits are made, and these are no tensor that
autograd keeps: they are overwritten by their gradient, or made block by block. Which layer it is,
is found out by running the model on one sample; it needs no knowledge of the model. For few classes
it is not worth that, unless asked for.

Shape letters: P positions, Q positions that count, C classes, W the width of the layer's input.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from storage.errors import ModelError
from tasks.nn.batch import Batch, by_position
from tasks.nn.kept_log_probs import Logits
from tasks.nn.projected import Projected, Room
from tasks.nn.token_models import TiedLinear
from tasks.training_options import LogitsForm

_WHOLE_BYTES = 1 << 30
_MANY_CLASSES = 1024

Layer = nn.Linear | TiedLinear


class StudentLogits:
    """Gives the logits of batches, and the batches less the positions that need none.

    Args:
        model: the student.
        form: whether all logits are made at once.
    """

    def __init__(self, model: nn.Module, form: LogitsForm = LogitsForm.AUTO) -> None:
        self._model = model
        self._form = form
        self._layer: Layer | None = None
        self._looked = False
        self._room = Room()

    def of(self, batch: Batch) -> tuple[Logits, Batch]:
        """The logits of the positions that count, or of all, and what they are compared with.

        Raises:
            ModelError: the model gives logits for other positions than have labels.
        """
        layer = self._last_layer(batch)
        if layer is None:
            logit_PC = by_position(self._model(*batch.inputs))
            _require_positions(len(logit_PC), batch)
            return logit_PC, batch
        with withheld(layer):
            hidden_PW = by_position(self._model(*batch.inputs))
        _require_positions(len(hidden_PW), batch)
        if not batch.mask_P.all():
            place_Q = batch.mask_P.nonzero()[:, 0]
            hidden_PW, batch = hidden_PW[place_Q], batch.at_positions(place_Q)
        return self._projected(hidden_PW, layer), batch

    def _projected(self, hidden_PW: Tensor, layer: Layer) -> Projected:
        made = Projected(hidden_PW, layer.weight, layer.bias)
        size_bytes = made.shape.numel() * made.dtype.itemsize
        whole = self._form is LogitsForm.WHOLE or (
            self._form is LogitsForm.AUTO and size_bytes <= _WHOLE_BYTES
        )
        return replace(made, room=self._room) if whole else made

    def _last_layer(self, batch: Batch) -> Layer | None:
        """The layer to run apart; None where there is none, it is watched, or compiled with all."""
        if self._model._compiled_call_impl is not None:
            return None
        if not self._looked:
            least = _MANY_CLASSES if self._form is LogitsForm.AUTO else 1
            self._layer = last_layer(self._model, tuple(entry[:1] for entry in batch.inputs), least)
            self._looked = True
        watched = self._layer is not None and self._layer._forward_hooks
        return None if watched else self._layer


def last_layer(model: nn.Module, inputs: tuple[Tensor, ...], least: int = 1) -> Layer | None:
    """The linear layer whose output is the model's, whatever the inputs; None where there is none.

    The model is run once, in evaluation mode, and left as it was; not if no layer is wide enough.

    Args:
        model: any.
        inputs: [B, ...], a sample or more.
        least: the least number of classes.
    """
    calls: list[tuple[Layer, Tensor]] = []

    def keep(layer: Layer, given: Any, output: Tensor) -> None:
        calls.append((layer, output))

    layers = [entry for entry in model.modules() if _is_layer(entry)]
    if all(len(entry.weight) < least for entry in layers):
        return None
    hooks = [entry.register_forward_hook(keep) for entry in layers]
    training = {entry: entry.training for entry in model.modules()}
    try:
        with torch.no_grad():
            logits = model.eval()(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
        for entry, was in training.items():
            entry.training = was
    if not calls:
        return None
    layer, output = calls[-1]
    alone = sum(called is layer for called, _ in calls) == 1
    same = (
        len(layer.weight) >= least
        and output.shape == logits.shape
        and torch.equal(output.to(logits.dtype), logits)
    )
    return layer if alone and same else None


@contextmanager
def withheld(layer: Layer) -> Iterator[None]:
    """Have a layer give what it gets."""
    before = vars(layer).get("forward")
    layer.forward = _given  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        if before is None:
            del layer.forward
        else:
            layer.forward = before  # type: ignore[method-assign]


def _is_layer(module: nn.Module) -> TypeGuard[Layer]:
    return type(module) in (nn.Linear, TiedLinear)  # others may do more


def _given(hidden: Tensor) -> Tensor:
    return hidden


def _require_positions(count: int, batch: Batch) -> None:
    if count != len(batch.label_P):
        raise ModelError(
            f"the model gives logits for {count} positions of {batch.num_samples} samples, the "
            f"labels have {len(batch.label_P)}: [B, C] is one a sample, [B, L, C] one a token"
        )
