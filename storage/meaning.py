"""What the columns of the user's data stand for."""

from __future__ import annotations

from dataclasses import dataclass

from storage.class_ids import ClassNames
from storage.options import DataOptions
from storage.preparation import Chunk
from storage.rows import Column


@dataclass(frozen=True)
class Meaning:
    """What the columns of a source stand for.

    Attributes:
        options: what the recipe says of them.
        split: the split that this source is alone, or "".
        inputs: the columns that become inputs, in their order.
        class_names: gives class ids to the names of classes.
        is_prepared: whether the columns come from a preparation, which may have given ids, a mask,
            labels, and what is bad, under their own names.
    """

    options: DataOptions
    split: str
    inputs: tuple[str, ...]
    class_names: ClassNames
    is_prepared: bool = False

    def column(self, chunk: Chunk, said: str | None, own: str) -> Column | None:
        """The column that the recipe names, or that a preparation gives under its own name."""
        if said is not None and said in chunk:
            return chunk[said]
        return chunk.get(own) if self.is_prepared else None
