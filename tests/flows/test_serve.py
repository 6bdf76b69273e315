"""`softlabel serve` and `prefect.yaml`, on a server and in processes of their own."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch
import yaml
from prefect.flows import load_flow_from_entrypoint
from safetensors.torch import load_file

from storage import layout
from tests.flows.blobs import Workspace, blobs_recipe
from tests.flows.prefect_records import until

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("pipeline", "teacher", "label", "train", "evaluate")
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
MARK = "SOFTLABEL_SERVE_TEST"


class Served:
    """`softlabel serve` in a process of its own; all that it starts carries a mark."""

    def __init__(self, home: Path, *recipes: str) -> None:
        self.mark = uuid.uuid4().hex
        kept = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
        self.environment = kept | {
            "PREFECT_HOME": str(home),
            "PYTHONPATH": str(ROOT),
            MARK: self.mark,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "serve", *recipes],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        assert first.startswith("Prefect UI  http://127.0.0.1:"), first
        self.api = first.split()[-1] + "/api"
        self.lines = [self.process.stdout.readline().strip() for _ in range(6)] if recipes else []

    def post(self, path: str, content: dict[str, Any]) -> Any:
        answer = httpx.post(f"{self.api}/{path}", json=content, timeout=30, trust_env=False)
        answer.raise_for_status()
        return answer.json()

    def get(self, path: str) -> Any:
        answer = httpx.get(f"{self.api}/{path}", timeout=30, trust_env=False)
        answer.raise_for_status()
        return answer.json()

    def deployments(self, workspace: Workspace) -> dict[str, dict[str, Any]]:
        """The deployments of a project by their entrypoints, once all are registered."""
        name = yaml.safe_load(Path(workspace.recipe).read_text())["name"]

        def found() -> dict[str, dict[str, Any]]:
            entries = self.post("deployments/filter", {})
            ours = {entry["entrypoint"]: entry for entry in entries if entry["name"] == name}
            return ours if len(ours) >= len(STAGES) else {}

        return until(found, "the deployments")

    def run(self, deployment: str) -> str:
        """Start a run of a deployment, as the UI does; gives its id."""
        return self.post(f"deployments/{deployment}/create_flow_run", {})["id"]

    def ended(self, run: str) -> str:
        """The name of the state that a run ends in."""

        def name() -> str:
            state = self.get(f"flow_runs/{run}")["state"]
            return state["name"] if state["type"] in FINAL else ""

        return until(name, "the end of the run", seconds=180)

    def processes(self) -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(MARK) == self.mark
        except psutil.Error:
            return False

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def prefect(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *arguments],
            cwd=ROOT,
            env=self.environment | {"PREFECT_API_URL": self.api},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture
def scheduled(tmp_path: Path) -> Workspace:
    schedule = {"cron": "0 3 * * *", "timezone": "UTC", "active": False}
    recipe = blobs_recipe(name=new_name(), schedule=schedule)
    return Workspace.make(tmp_path / "project", recipe)


@pytest.fixture
def served(home: Path, scheduled: Workspace) -> Iterator[Served]:
    served = Served(home, scheduled.recipe)
    yield served
    if served.process.poll() is None:
        served.kill()
    until(lambda: not served.processes(), "the end of all processes", seconds=30)


def new_name() -> str:
    """A recipe's name of its own: the server's database outlives each test."""
    return f"blobs-{uuid.uuid4().hex[:8]}"


@pytest.mark.slow
def test_each_stage_is_a_deployment_and_the_pipeline_has_a_paused_schedule(served, scheduled):
    deployments = served.deployments(scheduled)
    assert [line.partition("/")[0] for line in served.lines[:5]] == list(STAGES)
    assert set(deployments) == {f"flows.{stage}.{stage}" for stage in STAGES}
    (schedule,) = deployments["flows.pipeline.pipeline"]["schedules"]
    assert schedule["schedule"]["cron"] == "0 3 * * *"
    assert not schedule["active"]
    assert not any(deployments[f"flows.{stage}.{stage}"]["schedules"] for stage in STAGES[1:])


@pytest.mark.slow
def test_a_run_that_is_started_in_the_ui_completes(served, scheduled):
    deployment = served.deployments(scheduled)["flows.pipeline.pipeline"]["id"]
    assert served.ended(served.run(deployment)) == "Completed"
    assert scheduled.only("reports").joinpath("report.html").is_file()


@pytest.mark.slow
def test_killed_in_the_middle_of_a_run_it_takes_every_process_with_it(home, tmp_path):
    recipe = blobs_recipe(name=new_name())
    recipe["teacher"]["training"] |= {"epochs": 1_000_000}
    workspace = Workspace.make(tmp_path / "endless", recipe)
    served = Served(home, workspace.recipe)
    deployment = served.deployments(workspace)["flows.teacher.teacher"]["id"]
    served.run(deployment)
    until(lambda: list(workspace.store.glob("corpora/*")), "the run", 120)
    assert len(served.processes()) >= 3  # this one, the server, the run
    served.kill()
    until(lambda: not served.processes(), "the end of all processes", seconds=30)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_is_cancelled_in_the_ui_ends_and_another_goes_on(home, tmp_path, processes):
    recipe = blobs_recipe(name=new_name())
    recipe["students"]["small"]["training"] |= {
        "epochs": 500 if processes == 1 else 250,
        "checkpoint_seconds": 0,
        "processes": processes,
    }
    workspace = Workspace.make(tmp_path / "cancelled", recipe)
    workspace.run(stages=["teacher", "label"])
    served = Served(home, workspace.recipe)
    try:
        before = len(served.processes())
        deployment = served.deployments(workspace)["flows.train.train"]["id"]
        run = served.run(deployment)
        until(lambda: list(workspace.store.glob("students/*/checkpoints/*.pt")), "training", 120)
        cancelling = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
        served.post(f"flow_runs/{run}/set_state", cancelling)
        assert served.ended(run) == "Cancelled"
        until(lambda: len(served.processes()) <= before, "the end of its processes")
        assert not list(workspace.store.glob("students/*/card.json"))
        assert served.ended(served.run(deployment)) == "Completed"
    finally:
        served.kill()
        until(lambda: not served.processes(), "the end of all processes", seconds=30)
    found = load_file(workspace.only("students") / layout.WEIGHTS)
    workspace.run(stages=["train"], force=True)
    wanted = load_file(workspace.only("students") / layout.WEIGHTS)
    for name, value in wanted.items():
        if processes == 1:
            assert torch.equal(found[name], value)
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_interrupted_it_ends_quietly(home):
    served = Served(home)
    served.process.send_signal(signal.SIGINT)
    _, errors = served.process.communicate(timeout=60)
    assert served.process.returncode == 0
    assert errors == ""
    until(lambda: not served.processes(), "the end of all processes", seconds=30)


@pytest.mark.slow
def test_the_deployments_for_work_pools_say_the_same(served):
    served.prefect("work-pool", "create", "softlabel", "--type", "process")
    served.prefect("--no-prompt", "deploy", "--prefect-file", "deployments/prefect.yaml", "--all")
    ours = [
        entry
        for entry in served.post("deployments/filter", {})
        if entry["work_pool_name"] == "softlabel"
    ]
    assert {entry["entrypoint"] for entry in ours} == {f"flows.{name}:{name}" for name in STAGES}
    (pipeline,) = (entry for entry in ours if "pipeline" in entry["entrypoint"])
    assert [schedule["active"] for schedule in pipeline["schedules"]] == [False]


@pytest.mark.parametrize("stage", STAGES)
def test_the_entrypoints_of_prefect_yaml_load(stage):
    content = yaml.safe_load((ROOT / "deployments/prefect.yaml").read_text())
    entrypoints = [entry["entrypoint"] for entry in content["deployments"]]
    assert f"flows.{stage}:{stage}" in entrypoints
    assert load_flow_from_entrypoint(f"flows.{stage}:{stage}").name == stage
