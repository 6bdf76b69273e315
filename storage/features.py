"""Names of what is inside a model: hidden states, attention maps, outputs of its modules.

- `hidden.<n>`: what layer n gives, [B, L, W]; `hidden.0` are the embeddings that go into layer 1.
  Where a model has a norm after its last layer, the last one is what comes out of it.
- `attention.<n>`: the attention map of layer n, from 1, [B, H, L, L].
- `module.<path>`: what the submodule of that name gives, [B, ...].

A negative n counts from the last layer: `hidden.-1` is what the last layer gives.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

FEATURE_COLUMN: Final = "feature."
"""The columns of features are named by it and the feature's own name."""
FEATURE_PATTERN: Final = r"^(hidden\.(0|-?[1-9]\d*)|attention\.-?[1-9]\d*|module\.[\w.]+)$"
FeatureName = Annotated[str, Field(pattern=FEATURE_PATTERN)]
HIDDEN: Final = "hidden."
ATTENTION: Final = "attention."
MODULE: Final = "module."


def layer_of(name: str) -> int:
    """The number that a hidden state's or attention map's name says."""
    return int(name.partition(".")[2])


def path_of(name: str) -> str:
    """The path of the submodule that `module.<path>` means."""
    return name.removeprefix(MODULE)


class Pool(StrEnum):
    """What is made of a sample's positions."""

    NONE = "none"
    """Each position stays."""
    MEAN = "mean"
    """The mean over the positions that are no padding."""
    FIRST = "first"
    """The first position, where BERT has [CLS]."""
    LAST = "last"
    """The last position that is no padding."""
