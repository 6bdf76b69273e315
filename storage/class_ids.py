"""Hard labels: class ids as the data give them, or the places of names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from storage.errors import DataError
from storage.rows import Array, Column, Ragged, is_text


class ClassNames:
    """The names of the classes: those of the recipe, or those that the data turn out to hold.

    In the second case ids are given as names come, and `order` tells what they become in the end:
    places in the alphabetical order, by code points.

    Attributes:
        given: whether they are the recipe's.
    """

    def __init__(self, given: Sequence[str] | None) -> None:
        self.given = given is not None
        self._place = {name: number for number, name in enumerate(given or ())}
        self._numbers = False

    def ids(self, column: Column, name: str) -> NDArray[np.int64]:
        """The class id of each sample.

        Raises:
            DataError: a label is neither a whole number nor the name of a class.
        """
        if isinstance(column, Ragged) or column.ndim != 1:
            raise DataError(f"data.label: {name!r} holds lists, expected one class a sample")
        if not is_text(column):
            self._numbers = True
            self._require_one_kind(name)
            return whole(column, name)
        texts = [str(value) for value in column]
        if self.given:
            unknown = sorted(set(texts) - set(self._place))
            if unknown:
                raise DataError(
                    f"data.label: {name!r} holds {unknown[0]!r}, which is not among data.classes"
                )
        else:
            for text in dict.fromkeys(texts):
                self._place.setdefault(text, len(self._place))
            self._require_one_kind(name)
        return np.array([self._place[text] for text in texts], np.int64)

    def _require_one_kind(self, name: str) -> None:
        if self._numbers and self._place and not self.given:
            raise DataError(f"data.label: {name!r} holds numbers and text; make them the same")

    @property
    def found(self) -> tuple[str, ...] | None:
        """The names that the data gave, in their order; None where they gave none."""
        return None if self.given or not self._place else tuple(sorted(self._place))

    @property
    def order(self) -> NDArray[np.int64] | None:
        """For each id as it was given what it becomes; None where it stays."""
        if self.found is None:
            return None
        place = {name: number for number, name in enumerate(self.found)}
        return np.array([place[name] for name in self._place], np.int64)


def whole(column: Array, name: str) -> NDArray[np.int64]:
    """Numbers as class ids.

    Raises:
        DataError: they are not whole.
    """
    if column.dtype.kind not in "biuf":
        raise DataError(f"data.label: {name!r} holds {column.dtype}, expected whole class ids")
    with np.errstate(invalid="ignore"):
        numbers = column.astype(np.int64)
    broken = numbers != column
    if broken.any():
        raise DataError(f"data.label: {name!r} holds {column[broken][0]}, expected whole class ids")
    return numbers
