"""A Hugging Face model as any model is here: inputs by position, logits [B, C] or [B, L, C].

Shape letters: B samples, L positions of a block, C classes, N samples of sound.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from storage.errors import ModelError
from storage.options import ATTENTION_MASK, Task
from storage.spec import InputSpec
from tasks.huggingface_inside import Inside, layers_of, real_positions_of
from tasks.nn.observe import Found
from tasks.nn.pixels import Pixels
from tasks.nn.waveforms import Waveforms

Arguments = dict[str, Tensor]
_TOKEN_TYPES = "token_type_ids"
_PIXELS = "pixel_values"
_MAY_BE_GIVEN = (
    "input_ids", "pixel_values", "input_values", "input_features",
    ATTENTION_MASK, _TOKEN_TYPES, "position_ids",
)  # fmt: skip


class Texts(nn.Module):
    """Token ids; what is padding by the mask becomes the model's own padding token.

    Some models find the end of a text, or count positions, by that token.
    """

    def __init__(self, pad_id: int | None) -> None:
        super().__init__()
        self.settings = {"kind": "texts", "pad_id": pad_id}
        self.pad_id = pad_id

    def forward(self, arguments: Arguments) -> Arguments:
        """The same arguments."""
        mask_BL = arguments.get(ATTENTION_MASK)
        if not self.pad_id or mask_BL is None:
            return arguments
        ids_BL = arguments["input_ids"].masked_fill(mask_BL == 0, self.pad_id)
        return {**arguments, "input_ids": ids_BL}


class Images(nn.Module):
    """Images, prepared by `Pixels`."""

    def __init__(self, pixels: Pixels) -> None:
        super().__init__()
        self.settings = {"kind": "images", **pixels.settings}
        self.pixels = pixels

    def forward(self, arguments: Arguments) -> Arguments:
        """Images [B, D, H, W] as the model wants them."""
        return {**arguments, _PIXELS: self.pixels(arguments[_PIXELS])}


class Sounds(nn.Module):
    """Waveforms, prepared by `Waveforms`.

    A model that was trained without a mask gets none: it takes padding as silence.
    """

    def __init__(
        self, waveforms: Waveforms, name: str, *, masked: bool, sampling_rate: int | None = None
    ) -> None:
        super().__init__()
        self.settings = {
            "kind": "sounds",
            "name": name,
            "masked": masked,
            "sampling_rate": sampling_rate,
            **waveforms.settings,
        }
        self.waveforms, self.name, self.masked = waveforms, name, masked
        self.sampling_rate = sampling_rate

    def forward(self, arguments: Arguments) -> Arguments:
        """Waveforms [B, N] and their mask as the model wants them."""
        wave_BN, mask_BN = self.waveforms(arguments[self.name], arguments.get(ATTENTION_MASK))
        given = {self.name: wave_BN}
        return given if mask_BN is None or not self.masked else {**given, ATTENTION_MASK: mask_BN}


class HuggingFaceModule(nn.Module):
    """A model of transformers that gets `data.inputs` by position and gives float32 logits.

    Its weights are stored under the names that they have in transformers.
    """

    stored_prefix = "model."

    def __init__(
        self, model: Any, names: Sequence[str], preparation: nn.Module, saved: dict[str, Any]
    ) -> None:
        """Wrap a model.

        Args:
            model: a transformers model with a head.
            names: the argument of its forward for each input.
            preparation: what is done to the inputs first.
            saved: what the model can be built from again, as JSON.
        """
        super().__init__()
        self.model = model
        self.names = tuple(names)
        self.preparation = preparation
        self.saved = saved
        # Audio models join many samples of sound into one position; one alone shows little.
        waveforms = getattr(preparation, "waveforms", None)
        least = int(getattr(waveforms, "least", 1))
        if least > 1:
            self.probe_length = 4 * least
        self._always = {"use_cache": False} if _takes(model, "use_cache") else {}
        self._inside: Inside | None = None

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits [B, C], or [B, L, C]."""
        arguments = self.preparation(dict(zip(self.names, inputs, strict=True)))
        moved = {
            name: entry.to(self.dtype) if entry.is_floating_point() else entry
            for name, entry in arguments.items()
        }
        asked = {} if self._inside is None else self._inside.asked
        output = self.model(**moved, **self._always, **asked)
        if self._inside is not None:
            self._inside.keep(output)
        logits: Tensor = output.logits
        return logits.float()

    @property
    def num_layers(self) -> int:
        """Layers whose hidden states and attention maps are known by number."""
        return layers_of(self.model)

    @contextmanager
    def watching(self, names: Sequence[str]) -> Iterator[Found]:
        """What is inside the model during its passes forward; `module.<path>` are paths in it.

        Raises:
            ModelError: it has no such layer or module.
        """
        inside = Inside(self.model, names)
        with inside.watching() as found:
            self._inside = inside
            try:
                yield found
            finally:
                self._inside = None

    def real_positions(self, inputs: tuple[Tensor, ...], count: int) -> Tensor | None:
        """Which of the `count` positions inside hold something of the samples; None means all."""
        given = dict(zip(self.names, inputs, strict=True))
        return real_positions_of(self.model, given.get(ATTENTION_MASK), count)


def argument_names(
    model: Any, inputs: Sequence[InputSpec], task: Task, where: str
) -> tuple[str, ...]:
    """The argument of a model's forward that each input is: by its name, else by position.

    Raises:
        ModelError: the model cannot take these inputs.
    """
    main = str(model.main_input_name)
    taken = [name for name in _MAY_BE_GIVEN if _takes(model, name)]
    order = [name for name in (main, ATTENTION_MASK, _TOKEN_TYPES) if name in taken]
    if main == _PIXELS:
        order, taken = [main], [main]
    given = [entry.name for entry in inputs]
    named = [name for name in given if name in taken]
    left = iter([name for name in order if name not in named])
    names = tuple(name if name in taken else next(left, "") for name in given)
    if main not in names or "" in names:
        raise ModelError(
            f"{where}: the model takes {', '.join(order)}; data.inputs gives {', '.join(given)}"
        )
    _require_kinds(dict(zip(names, inputs, strict=True)), main, where)
    varies = any(entry.shape is None for entry in inputs)
    if varies and task is not Task.CAUSAL_LM and ATTENTION_MASK not in names:
        raise ModelError(
            f"{where}: samples differ in length, and the model has to know what is padding; add "
            f"{ATTENTION_MASK!r} to data.inputs"
        )
    return names


def _require_kinds(given: dict[str, InputSpec], main: str, where: str) -> None:
    spec = given[main]
    fractions = spec.dtype.startswith("float")
    dimensions = 1 if spec.shape is None else len(spec.shape)
    expected = {
        "input_ids": ("token ids [length]", not fractions and dimensions == 1),
        _PIXELS: ("images [height, width] or [channels, height, width]", dimensions in (2, 3)),
    }.get(main, ("waveforms [length] of fractions", fractions and dimensions == 1))
    if not expected[1]:
        raise ModelError(
            f"{where}: the model takes {expected[0]}; the input {spec.name!r} is {spec.dtype} "
            f"{list(spec.shape) if spec.shape is not None else '[length]'}"
        )


def _takes(model: Any, name: str) -> bool:
    return name in inspect.signature(model.forward).parameters
