"""Dataclasses of tensors whose first dimension is the position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

Columns = TypeVar("Columns")


def some_rows(columns: Columns, rows: slice) -> Columns:
    """Some of the positions, sharing memory; what is no tensor stays as it is."""
    changed = {
        field.name: _some(getattr(columns, field.name), rows)
        for field in fields(columns)  # type: ignore[arg-type]
    }
    return replace(columns, **changed)  # type: ignore[type-var]


def join(parts: Sequence[Columns]) -> Columns:
    """Several as one, position after position."""
    if len(parts) == 1:
        return parts[0]
    joined: dict[str, Any] = {}
    for field in fields(parts[0]):  # type: ignore[arg-type]
        values = [getattr(part, field.name) for part in parts]
        if isinstance(values[0], dict):
            joined[field.name] = {key: torch.cat([v[key] for v in values]) for key in values[0]}
        else:
            joined[field.name] = None if values[0] is None else torch.cat(values)
    return type(parts[0])(**joined)


def _some(value: Any, rows: slice) -> Any:
    if isinstance(value, Tensor):
        return value[rows]
    if isinstance(value, dict):
        return {name: _some(entry, rows) for name, entry in value.items()}
    return some_rows(value, rows) if is_dataclass(value) else value
