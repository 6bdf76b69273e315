"""Runs whose process was killed: told from running ones by a lock, and marked as crashed later.

A process that dies by kill -9 cannot say so; Prefect would show its run as `Running` for ever. Each
pipeline holds a lock on a file that is named by its run. Who finds the file without the lock knows.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Crashed

from flows.server_files import ServerFiles, try_lock

_WHY = "The process of this run was killed; run it again to go on."


@contextlib.contextmanager
def marked(flow_run_id: str | None) -> Iterator[None]:
    """Let others see, for as long as this process lives, that the run goes on."""
    if flow_run_id is None:
        yield
        return
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / flow_run_id
    lock = try_lock(path, fcntl.LOCK_EX)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        if lock is not None:
            os.close(lock)


def mark_crashed() -> int:
    """Mark the runs of dead processes, with their stages and tasks, as crashed; gives how many."""
    found = [path for path in _folder().glob("*") if _is_dead(path)]
    if not found:
        return 0
    with get_client(sync_client=True) as client:
        for path in found:
            with contextlib.suppress(
                Exception
            ):  # an old run's state is not worth failing a new one
                _mark(client, UUID(path.name))
            path.unlink(missing_ok=True)
    return len(found)


def _mark(client: SyncPrefectClient, flow_run_id: UUID) -> None:
    stages = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[flow_run_id])
        )
    )
    runs: list[FlowRun] = [*stages, client.read_flow_run(flow_run_id)]
    running = TaskRunFilterState(type=TaskRunFilterStateType(any_=[StateType.RUNNING]))
    tasks = client.read_task_runs(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id for run in runs])),
        task_run_filter=TaskRunFilter(state=running),
    )
    for task in tasks:
        client.set_task_run_state(task.id, Crashed(message=_WHY), force=True)
    for run in runs:
        if run.state is not None and not run.state.is_final():
            client.set_flow_run_state(run.id, Crashed(message=_WHY), force=True)


def _is_dead(path: Path) -> bool:
    lock = try_lock(path, fcntl.LOCK_EX)
    if lock is None:
        return False
    os.close(lock)
    return True


def _folder() -> Path:
    return ServerFiles.default().folder / "runs"
