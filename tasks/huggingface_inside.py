"""What is inside a Hugging Face model while it runs, as the model itself tells it.

Fast attention never holds its map, so while maps are wanted attention is computed plainly; the
logits then differ by rounding. Shape letters: B samples, N positions inside a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from torch import Tensor

from storage.errors import ModelError
from storage.features import ATTENTION, HIDDEN, MODULE
from tasks.nn.observe import Found, place_of_layer, watching_modules

_PLAIN: Final = "eager"


class Inside:
    """What is wanted of a model's passes forward, and what was found.

    Attributes:
        asked: arguments with which the model tells.
        found: by name, of the last pass.
    """

    def __init__(self, model: Any, names: Sequence[str]) -> None:
        """Look whether there is what is wanted.

        Raises:
            ModelError: the model has no such layer.
        """
        self._model = model
        self._modules = [name for name in names if name.startswith(MODULE)]
        layers = layers_of(model)
        self._places = {
            name: place_of_layer(name, layers) for name in names if name not in self._modules
        }
        self._maps = any(name.startswith(ATTENTION) for name in names)
        hidden = any(name.startswith(HIDDEN) for name in names)
        asked = {"output_hidden_states": hidden, "output_attentions": self._maps}
        self.asked = {name: True for name, wanted in asked.items() if wanted}
        self.found: Found = {}

    @contextmanager
    def watching(self) -> Iterator[Found]:
        """While it is open, passes of the model are told to `keep`."""
        with (
            _attending_plainly(self._model, self._maps),
            watching_modules(self._model, self._modules) as hooked,
        ):
            self.found = hooked
            yield hooked

    def keep(self, output: Any) -> None:
        """Keep what is wanted of a model's output, and none of the rest.

        Raises:
            ModelError: the model tells nothing of its attention.
        """
        for name, place in self._places.items():
            if name.startswith(HIDDEN):
                self.found[name] = output.hidden_states[place]
                continue
            maps = output.attentions
            if not maps or maps[place - 1] is None:
                raise ModelError(f"{name}: a {self._model.config.model_type} model tells no maps")
            self.found[name] = maps[place - 1]


def layers_of(model: Any) -> int:
    """The layers of a model's body."""
    text = model.config.get_text_config()
    return int(getattr(text, "num_hidden_layers", None) or 0)


def real_positions_of(model: Any, mask_BL: Tensor | None, count: int) -> Tensor | None:
    """Which of the `count` positions inside a model hold something of the samples, bool [B, N].

    Args:
        model: of transformers.
        mask_BL: what of the inputs is no padding; None means all.
        count: N. Models of sounds join many samples of sound to one position.
    """
    if mask_BL is None or mask_BL.shape[1] == count:
        return None if mask_BL is None else mask_BL != 0
    joined = getattr(model, "_get_feature_vector_attention_mask", None)
    found: Tensor | None = None if joined is None else joined(count, mask_BL) != 0
    return found


@contextmanager
def _attending_plainly(model: Any, wanted: bool) -> Iterator[None]:
    before = model.config._attn_implementation
    if not wanted or before == _PLAIN:
        yield
        return
    model.set_attn_implementation(_PLAIN)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
