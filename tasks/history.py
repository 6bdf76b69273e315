"""How training went: a row for each recorded step, and the validation figures of each epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.nn.trainer import StepResult

Row = dict[str, Any]
MATCHED: Final = "matched."
HISTORY_ROWS = 2000
"""Steps that are recorded, about; beside them the last one of each epoch is."""
HISTORY_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("epoch", pa.int64()),
        ("phase", pa.int64()),
        ("loss", pa.float64()),
        ("soft_loss", pa.float64()),
        ("hard_loss", pa.float64()),
        ("learning_rate", pa.float64()),
        ("validation_loss", pa.float64()),
        ("validation_accuracy", pa.float64()),
    ]
)
"""What every history has; losses of matched features follow, each in a column of its own."""


def history_row(step: int, epoch: int, phase: int, result: StepResult) -> Row:
    """What is recorded of a step; epochs and phases count from 0."""
    return {
        "step": step,
        "epoch": epoch,
        "phase": phase,
        "loss": result.loss,
        "soft_loss": result.soft_loss,
        "hard_loss": result.hard_loss,
        "learning_rate": result.learning_rate,
        **{f"{MATCHED}{name}": value for name, value in result.matched.items()},
    }


def history_bytes(history: Sequence[Row]) -> bytes:
    """A history as a Parquet file."""
    matched = sorted({name for row in history for name in row if name.startswith(MATCHED)})
    schema = pa.schema([*HISTORY_SCHEMA, *((name, pa.float64()) for name in matched)])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(history), schema=schema), sink)
    return bytes(sink.getvalue())


def read_history(content: bytes) -> list[Row]:
    """The rows of a history file."""
    rows: list[Row] = pq.read_table(pa.BufferReader(content)).to_pylist()
    return rows


def figures_of(row: Mapping[str, Any]) -> dict[str, float]:
    """The losses, rates and validation figures of a row, without what is not there."""
    places = ("step", "epoch", "phase")
    return {name: value for name, value in row.items() if name not in places and value is not None}
