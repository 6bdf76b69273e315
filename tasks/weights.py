"""Weights as safetensors: bytes that cannot run code."""

from __future__ import annotations

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from storage.errors import ModelError, one_line


def weights_bytes(model: nn.Module) -> bytes:
    """A model's parameters and buffers; tied ones are written under each of their names."""
    state = model.state_dict()
    return save(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    )


def load_weights(model: nn.Module, content: bytes, source: str) -> None:
    """Fill a module from safetensors.

    Raises:
        ModelError: the file is damaged, or made for another module.
    """
    try:
        model.load_state_dict(load(content))
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise ModelError(f"the weights {source} do not fit the model: {one_line(error)}") from error
