"""What the Prefect server has recorded of a flow run, asked of its API."""

import time
from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

from prefect import State
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    TaskRunFilter,
    TaskRunFilterFlowRunId,
)

Value = TypeVar("Value")


def until(condition: Callable[[], Value], what: str, seconds: float = 60.0) -> Value:
    """Wait for something that comes by itself, and give it."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}"
        time.sleep(0.05)
    return value


def flow_run_name(run: State | UUID) -> str:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(run if isinstance(run, UUID) else _id(run)).name


def stages(state: State) -> dict[str, tuple[UUID, str]]:
    """The id and the state's name of each stage of a pipeline's run, by the flow run's name."""
    ours = FlowRunFilterParentFlowRunId(any_=[_id(state)])
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(parent_flow_run_id=ours))
    return {run.name.rpartition("-")[0]: (run.id, run.state.name) for run in runs}


def task_runs(run: UUID, count: int) -> dict[str, str]:
    """The names of a flow run's `count` task runs, which arrive a little later, and their states.

    Some states are still `Running` when the name has arrived; those are waited for too.
    """
    ours = TaskRunFilter(flow_run_id=TaskRunFilterFlowRunId(any_=[run]))

    def found() -> dict[str, str]:
        with get_client(sync_client=True) as client:
            runs = client.read_task_runs(task_run_filter=ours)
        ended = {run.name: run.state.name for run in runs if run.state and run.state.is_final()}
        return ended if len(ended) >= count else {}

    return until(found, f"{count} task runs of {run}")


def artifact_keys(run: UUID) -> set[str]:
    ours = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
    with get_client(sync_client=True) as client:
        return {artifact.key for artifact in client.read_artifacts(artifact_filter=ours)}


def _id(state: State) -> UUID:
    return state.state_details.flow_run_id
