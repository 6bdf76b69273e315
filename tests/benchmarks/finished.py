"""A finished pipeline against an empty one of the same shape, on one running Prefect server."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from flows.server import LocalServer
from tests.benchmarks.figures import ROOT, Figure, paired, seconds_of

_RECIPE = "deployments/recipes/digits.yaml"
_REPEATS = 5
_EMPTY = """
from flows import environment
environment.prepare()
from prefect import flow
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

@flow
def teacher(): return {}

@flow
def label(): return {}

@flow
def train(): return {}

@flow
def evaluate(): return {}

@flow
def pipeline(): return [teacher(), label(), train(), evaluate()]

with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
    pipeline()
"""


def run() -> list[Figure]:
    """Time both as whole processes, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "store")
        server = LocalServer()
        environment = {"PREFECT_API_URL": server.wait(), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "flows.cli", "run", _RECIPE, "--store", store]
        first = seconds_of(command, environment)
        again, empty = paired(
            lambda: seconds_of(command, environment),
            lambda: seconds_of([sys.executable, "-c", _EMPTY], environment),
            _REPEATS,
        )
        server.release()
    how = "`softlabel run` of the finished digits recipe, and a flow with four empty subflows"
    return [
        Figure(
            "finished pipeline beyond an empty one",
            f"{again - empty:.1f} s ({again:.1f} against {empty:.1f} s, {again / empty:.2f} times)",
            "at most 3 s",
            f"{how}: whole processes in turn, median of {_REPEATS}, one running server",
        ),
        Figure(
            "first run of the digits recipe on that server",
            f"{first:.1f} s, {first / empty:.1f} times the empty pipeline",
            "-",
            "one run",
        ),
    ]
