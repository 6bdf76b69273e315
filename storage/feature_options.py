"""What a recipe may say of features that are stored: `labels.features`.

A label set holds these options in its specification. Imports nothing heavy.
"""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
from pydantic import PositiveInt, model_validator

from storage.features import ATTENTION, FEATURE_COLUMN, FeatureName, Pool
from storage.options_base import Options


class StoredFeature(Options):
    """Something inside the teacher that is kept of each training sample."""

    feature: FeatureName
    """`hidden.<n>`, `attention.<n>` or `module.<path>`; students name it the same."""
    pool: Pool = Pool.NONE
    """What is made of a sample's positions; `none` keeps each of them."""
    size: PositiveInt | None = None
    """Numbers of a vector that are kept, by a fixed random projection; None keeps it as it is."""
    dtype: Literal["float16", "float32"] = "float16"
    """How a number is written; what is beyond it is held at its end."""

    @model_validator(mode="after")
    def _maps_are_whole(self) -> Self:
        if self.is_map and (self.pool is not Pool.NONE or self.size is not None):
            raise ValueError("an attention map is kept as it is, without pool and size")
        return self

    @property
    def column(self) -> str:
        """The column that holds it."""
        return f"{FEATURE_COLUMN}{self.feature}"

    @property
    def is_map(self) -> bool:
        """Whether it is an attention map."""
        return self.feature.startswith(ATTENTION)

    @property
    def numbers(self) -> np.dtype[np.floating]:
        """The number type of its values."""
        return np.dtype(self.dtype)
