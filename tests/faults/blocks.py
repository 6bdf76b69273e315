"""Blocks of tokens of varying length, for a language model that is killed."""

from typing import Any

import numpy as np


def blocks() -> dict[str, Any]:
    """A target: 240 blocks of 8 to 48 tokens, each token a small step from the one before."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(8, 49, 240)
    tokens = [np.cumsum(rng.integers(1, 4, length)) % 61 for length in lengths]
    return {"tokens": tokens, "split": ["train"] * 200 + ["test"] * 40}
