"""Resident memory of this process, and how far it rises while something is done."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.figures import ROOT

_STATUS, _FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_PEAK_OF_NOW = "5"


def rise_bytes(work: Callable[[], object]) -> int:
    """How much more is resident at the most while `work` runs than before it."""
    before = _field_bytes("VmRSS")
    _FORGET.write_text(_PEAK_OF_NOW)
    work()
    return _field_bytes("VmHWM") - before


def number_from(module: str, call: str) -> float:
    """What a function of a module gives in a process of its own."""
    program = f"import {module} as this; print(this.{call})"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=600,
    )
    return float(done.stdout.split()[-1])


def _field_bytes(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", _STATUS.read_text())
    assert found is not None
    return int(found[1]) * 1024
