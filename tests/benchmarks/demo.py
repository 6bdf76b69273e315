"""The demo after installation: the Prefect server's start and a new database included."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.benchmarks.figures import ROOT, Figure, seconds_of


def run() -> list[Figure]:
    """Time what `make demo` runs, with nothing there: no store, no server, no database."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {"PREFECT_HOME": str(Path(folder) / "prefect"), "PYTHONPATH": str(ROOT)}
        recipe = "deployments/recipes/digits.yaml"
        command = [sys.executable, "-m", "flows.cli", "run", recipe, "--store", f"{folder}/store"]
        new = seconds_of(command, environment)
        again = seconds_of(command, environment)
    return [
        Figure(
            "the demo after installation",
            f"{new:.0f} s, {new / again:.1f} times the same command again ({again:.1f} s)",
            "within 120 s",
            "`softlabel run` of the digits recipe; server start and a new database included",
        )
    ]
