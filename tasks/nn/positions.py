"""Dataclasses of tensors whose first dimension is the position."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

Columns = TypeVar("Columns")


def each_tensor(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same value with each of its tensors changed; what is no tensor stays as it is."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {name: each_tensor(entry, change) for name, entry in value.items()}
    if not is_dataclass(value) or isinstance(value, type):
        return value
    changed = {
        field.name: each_tensor(getattr(value, field.name), change) for field in fields(value)
    }
    return replace(value, **changed)


def some_rows(columns: Columns, rows: slice | Tensor) -> Columns:
    """Some of the positions; those of a slice share memory."""
    some: Columns = each_tensor(columns, lambda tensor: tensor[rows])
    return some


def join(parts: Sequence[Columns]) -> Columns:
    """Several as one, position after position."""
    if len(parts) == 1:
        return parts[0]
    return replace(
        parts[0],  # type: ignore[type-var]
        **{
            field.name: _joined([getattr(part, field.name) for part in parts])
            for field in fields(parts[0])  # type: ignore[arg-type]
        },
    )


def _joined(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(list(values))
    if isinstance(first, dict):
        return {name: _joined([value[name] for value in values]) for name in first}
    return join(values) if is_dataclass(first) else first
