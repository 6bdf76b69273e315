"""What a person sees on the terminal: progress while it runs, tables and places at the end.

Progress goes to standard error. On a terminal it is a set of bars; elsewhere, one line for each
piece of work that has ended.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from tasks.progress import Progress as Step
from tasks.progress import listening

_WIDE = 200


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = _WIDE
    return console


output = _console(stderr=False)
errors = _console(stderr=True)


@contextlib.contextmanager
def progress() -> Iterator[None]:
    """Show all work that goes on meanwhile."""
    if not errors.is_terminal:
        with listening(_print_ended):
            yield
        return
    bars = Progress(
        SpinnerColumn(),
        TextColumn("{task.description:<18}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TextColumn("[cyan]{task.fields[speed]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("[dim]{task.fields[note]}"),
        console=errors,
    )
    known: dict[int, TaskID] = {}

    def show(step: Step) -> None:
        if step.number not in known:
            known[step.number] = bars.add_task(
                step.title,
                total=step.total,
                completed=step.done,
                unit=step.unit,
                speed="",
                note="",
            )
        bars.update(
            known[step.number],
            completed=step.done,
            speed=step.rate,
            note=step.note,
        )

    with bars, listening(show):
        yield


@contextlib.contextmanager
def waiting(text: str) -> Iterator[None]:
    """Say what is waited for."""
    if not errors.is_terminal:
        yield
        return
    with errors.status(text):
        yield


def _print_ended(step: Step) -> None:
    if step.ended:
        note = f"  {step.note}" if step.note else ""
        errors.print(
            f"{step.title}: {step.done:,} of {step.total:,} {step.unit} in {step.seconds:.1f} s, "
            f"{step.rate}{note}",
            markup=False,
        )


def stage_table(stages: Mapping[str, Mapping[str, Any]]) -> Table:
    """What each stage did."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("stage", "status", "seconds", "what"):
        table.add_column(name, justify="right" if name == "seconds" else "left")
    for stage, record in stages.items():
        colour = "green" if record["status"] == "completed" else "dim"
        table.add_row(
            stage,
            Text(record["status"], style=colour),
            f"{record['seconds']:.1f}",
            _what(stage, record),
        )
    return table


def model_table(report: Mapping[str, Any], split: str) -> Table:
    """The models of a report on one split."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"on {split}", title_justify="left")
    for name in ("model", "accuracy", "NLL", "agreement", "parameters", "samples/s"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for name, model in report["models"].items():
        figures = model["splits"][split]
        table.add_row(
            name,
            _interval(figures.get("accuracy"), percent=True),
            _interval(figures.get("nll")),
            _interval(figures.get("agreement"), percent=True),
            _whole(model.get("parameters")),
            _whole(model.get("samples_per_second")),
        )
    return table


def print_places(rows: Sequence[tuple[str, str]]) -> None:
    """A name and a place or value each; a long one is not broken, so that it can be copied."""
    width = max((len(name) for name, _ in rows), default=0)
    for name, place in rows:
        output.print(Text(f"{name:<{width}}  ", style="bold") + Text(place), soft_wrap=True)


def print_table(table: Table) -> None:
    """A table on standard output."""
    output.print(table)


def _what(stage: str, record: Mapping[str, Any]) -> str:
    if stage == "label":
        return (
            f"{record['shards_written']} shards written, {record['shards_reused']} reused, "
            f"{record['teacher_batches']} teacher batches"
        )
    if stage == "train":
        return ", ".join(f"{name} {row['status']}" for name, row in record["students"].items())
    return str(record.get("fingerprint", ""))


def _interval(figure: Mapping[str, float] | None, *, percent: bool = False) -> str:
    if figure is None:
        return "-"
    if percent:
        return f"{figure['value']:.1%} [{figure['low']:.1%}, {figure['high']:.1%}]"
    return f"{figure['value']:.3f}"


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
