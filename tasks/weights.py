"""Weights as safetensors: bytes that cannot run code."""

from __future__ import annotations

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from storage.errors import ModelError, one_line


def weights_bytes(model: nn.Module) -> bytes:
    """A model's parameters and buffers; tied ones are written once, under their first name."""
    return save(untied(model))


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
        state = load(content)
        for name, first in _first_names(model).items():
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
