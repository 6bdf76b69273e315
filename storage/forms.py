"""The form of each column of a corpus, as it turns out chunk by chunk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from storage.errors import DataError
from storage.rows import INPUT, Column, Ragged, Rows, values_of
from storage.spec import InputSpec


@dataclass(frozen=True)
class ColumnForm:
    """What a sample has in a column.

    Attributes:
        dtype: of its values.
        shape: of them; None for a list whose length varies.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...] | None


class Forms:
    """The forms of the columns of one source."""

    def __init__(self) -> None:
        self.of: dict[str, ColumnForm] = {}
        self._lengths: dict[str, Any] = {}

    def add(self, rows: Rows) -> None:
        """Look at further samples.

        Raises:
            DataError: a column has another type or another kind of shape than before.
        """
        if self.of and set(rows) != set(self.of):
            raise DataError(
                f"data: some samples have the columns {', '.join(sorted(self.of))}, others "
                f"{', '.join(sorted(rows))}; make them the same"
            )
        for name, column in rows.items():
            found = _form_of(column)
            before = self.of.setdefault(name, found)
            self.of[name] = _joined(name, before, found)
            if name.startswith(INPUT) and (found.shape is None or len(found.shape) == 1):
                self._note_lengths(name, column)

    def _note_lengths(self, name: str, column: Column) -> None:
        state = self._lengths.setdefault(name, hashlib.sha256())
        if isinstance(column, Ragged):
            state.update(column.lengths_B.astype(np.int64).tobytes())
        else:
            state.update(np.full(len(column), column.shape[1], np.int64).tobytes())

    def require_same_lengths(self) -> None:
        """Refuse inputs whose lists are not as long as those of the first that varies.

        Raises:
            DataError: naming the column.
        """
        varying = [name for name, form in self.of.items() if form.shape is None]
        known = [name for name in varying if name in self._lengths]
        for name in known[1:]:
            if self._lengths[name].digest() != self._lengths[known[0]].digest():
                raise DataError(
                    f"data: the lists of {name.removeprefix(INPUT)!r} are not as long as those of "
                    "the inputs"
                )


def agreed(sources: Mapping[str, Forms]) -> dict[str, ColumnForm]:
    """The forms of a corpus: lists that vary in one source vary in all of them.

    Raises:
        DataError: the sources, each of which is a split, hold other inputs than each other.
    """
    varying = {
        name for forms in sources.values() for name, form in forms.of.items() if form.shape is None
    }
    found: dict[str, dict[str, ColumnForm]] = {}
    for split, forms in sources.items():
        found[split] = {
            name: ColumnForm(form.dtype, None) if name in varying else form
            for name, form in forms.of.items()
        }
        forms.of = found[split]
        forms.require_same_lengths()
    first, *others = found
    for other in others:
        if found[other] != found[first]:
            raise DataError(
                f"data.inputs: the split {other!r} holds {_said(found[other])}, while the split "
                f"{first!r} holds {_said(found[first])}; make them the same"
            )
    return found[first]


def input_specs(forms: Mapping[str, ColumnForm]) -> tuple[InputSpec, ...]:
    """The inputs among some columns."""
    return tuple(
        InputSpec(name=name.removeprefix(INPUT), dtype=form.dtype.name, shape=form.shape)
        for name, form in forms.items()
        if name.startswith(INPUT)
    )


def _form_of(column: Column) -> ColumnForm:
    values = values_of(column)
    return ColumnForm(values.dtype, None if isinstance(column, Ragged) else column.shape[1:])


def _joined(name: str, before: ColumnForm, found: ColumnForm) -> ColumnForm:
    if before == found:
        return before
    said = name.removeprefix(INPUT)
    if before.dtype != found.dtype:
        raise DataError(
            f"data: the column {said!r} holds {before.dtype} in some chunks and {found.dtype} in "
            "others; give it one type"
        )
    for form in (before, found):
        if form.shape is not None and len(form.shape) != 1:
            raise DataError(
                f"data: the samples of {said!r} have the shapes {before.shape} and {found.shape}, "
                "expected one for all"
            )
    return ColumnForm(before.dtype, None)


def _said(forms: Mapping[str, ColumnForm]) -> str:
    specs = input_specs(forms)
    return ", ".join(f"{spec.name} {spec.dtype} {spec.shape or ''}".strip() for spec in specs)
