"""What a benchmark says: a figure, what was asked for, and how it was had."""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Figure:
    """One measured thing."""

    name: str
    value: str
    asked: str
    how: str


def seconds_of(command: Sequence[str], environment: dict[str, str]) -> float:
    """The wall time of a command that must succeed."""
    started = time.perf_counter()
    subprocess.run(
        command,
        env=os.environ | environment,
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=600,
    )
    return time.perf_counter() - started


def paired(a: Callable[[], float], b: Callable[[], float], repeats: int) -> tuple[float, float]:
    """The medians of two timings taken in turn, after one of each that does not count."""
    a(), b()
    both = [(a(), b()) for _ in range(repeats)]
    return statistics.median(x for x, _ in both), statistics.median(y for _, y in both)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Have torch compute on one thread: two wait for each other where others work too."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def machine() -> str:
    """What it was measured on."""
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"


def table(figures: Sequence[Figure]) -> str:
    """Figures as a Markdown table."""
    lines = ["| figure | measured | asked | how |", "|---|---|---|---|"]
    lines += [f"| {f.name} | {f.value} | {f.asked} | {f.how} |" for f in figures]
    return "\n".join(lines)
