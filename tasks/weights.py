"""Weights as safetensors: bytes that cannot run code."""

from __future__ import annotations

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from storage.errors import ModelError, one_line
from tasks.nn.frozen import stored_name

_METADATA = {"format": "pt"}
"""Without it transformers takes a file for one of another framework's."""


def weights_bytes(model: nn.Module) -> bytes:
    """A model's parameters and buffers; tied ones are written once, under their first name.

    Those of a Hugging Face model lie under the names that they have in transformers.
    """
    kept = {stored_name(model, name): tensor for name, tensor in untied(model).items()}
    return save(kept, _METADATA)


def untied(model: nn.Module) -> dict[str, Tensor]:
    """Copies of a model's parameters and buffers by name, each tied one under its first name."""
    firsts = _first_names(model)
    return {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in model.state_dict().items()
        if firsts[name] == name
    }


def load_weights(model: nn.Module, content: bytes, source: str) -> None:
    """Fill a module from safetensors.

    Raises:
        ModelError: the file is damaged, or made for another module.
    """
    try:
        stored = load(content)
        firsts = _first_names(model)
        places = {stored_name(model, name): name for name in firsts}
        state = {places.get(name, name): tensor for name, tensor in stored.items()}
        for name, first in firsts.items():
            if name not in state and first in state:
                state[name] = state[first]
        model.load_state_dict(state)
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise ModelError(f"the weights {source} do not fit the model: {one_line(error)}") from error


def _first_names(model: nn.Module) -> dict[str, str]:
    """For each name the first one of the same tensor."""
    firsts: dict[tuple[int, torch.Size, tuple[int, ...]], str] = {}
    return {
        name: name
        if tensor.numel() == 0
        else firsts.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), name)
        for name, tensor in model.state_dict().items()
    }
