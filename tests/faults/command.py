"""The real `softlabel` command in a process of its own, to be killed and started again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

MARK = "SOFTLABEL_FAULT_TEST"
_WAIT_SECONDS = 180.0


@dataclass
class Command:
    """Runs `softlabel` on one recipe; every process that it starts carries a mark."""

    recipe: Path
    store: Path
    prefect_home: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "flows.cli", "run", str(self.recipe)]
        environment = os.environ | {MARK: self.mark, "PREFECT_HOME": str(self.prefect_home)}
        environment.pop("PREFECT_API_URL", None)
        return subprocess.Popen(
            [*command, "--store", str(self.store), "--json", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def finish(self, *arguments: str) -> dict[str, Any]:
        return result_of(self.start(*arguments))

    def kill_when(self, reached: Callable[[], bool], delay: float, *arguments: str) -> bool:
        """Kill the command with -9 some time after a moment; False where it ended before."""
        process = self.start(*arguments)
        until(lambda: reached() or process.poll() is not None, "the moment to kill")
        time.sleep(delay)  # the random part of the moment, nothing is waited for
        alive = process.poll() is None
        process.kill()
        process.communicate()
        until(lambda: not self.processes(), "the end of all processes", seconds=30.0)
        return alive

    def processes(self) -> list[int]:
        """What runs of this command and of what it started."""
        return [process.pid for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(MARK) == self.mark and process.is_running()
        except psutil.Error:
            return False


def result_of(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """The JSON that a command which must succeed ends with."""
    output, errors = process.communicate(timeout=_WAIT_SECONDS)
    assert process.returncode == 0, errors.decode()
    assert b"Traceback" not in errors, errors.decode()
    result: dict[str, Any] = json.loads(output.decode().splitlines()[-1])
    return result


def until(reached: Callable[[], bool], what: str, seconds: float = _WAIT_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, f"{what} did not come in {seconds} s"
        time.sleep(0.005)


def weights(store: Path) -> dict[str, str]:
    """The sha256 of the weights of each model, by what the recipe calls it."""
    found = {}
    for card in [*store.glob("teachers/*/card.json"), *store.glob("students/*/card.json")]:
        content = json.loads(card.read_text())
        found[content["name"]] = content["files"]["model.safetensors"]
    return found


def records(store: Path) -> dict[str, int]:
    """The committed shards: file and time of each record and of its shard."""
    files = [*store.glob("labels/*/records/*.json"), *store.glob("labels/*/shards/*.parquet")]
    committed = {json.loads(f.read_text())["file"] for f in files if f.suffix == ".json"}
    return {
        str(file): file.stat().st_mtime_ns
        for file in files
        if file.suffix == ".json" or file.name in committed
    }
