"""What the flows share of Prefect: tasks with retries, `Cached` states, run names, artifacts.

The units of work in `tasks` are plain functions; here they become Prefect tasks. Nothing that is
heavy passes through Prefect: tasks close over it and return small records.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar
from uuid import UUID

from prefect import State, get_run_logger, runtime, task
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.states import Completed
from prefect.tasks import exponential_backoff

from flows.recipe import ExecutionOptions
from storage.errors import StoreError
from tasks.progress import Progress, listening

_PERMANENT = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ENOSPC,
        errno.EROFS,
    }
)
_ARTIFACT_SECONDS = 5.0
Result = TypeVar("Result")
Record = dict[str, Any]


def cached(record: Record, why: str) -> State[Record]:
    """The state of a stage, or a part of one, that had nothing to do."""
    return Completed(name="Cached", message=why, data=record)


def run_task(
    name: str, work: Callable[[], Result], execution: ExecutionOptions, run_name: str | None = None
) -> Result:
    """Do some work as a Prefect task run; what fails for input or output is tried again."""
    as_task: Any = task(
        name=name,
        task_run_name=run_name or name,
        retries=execution.retries,
        retry_delay_seconds=exponential_backoff(backoff_factor=1),
        retry_jitter_factor=0.5,
        retry_condition_fn=_is_transient,
        persist_result=False,
        cache_policy=NO_CACHE,
    )(work)
    result: Any = as_task()
    return result.result() if isinstance(result, State) else result  # type: ignore[no-any-return]


def _is_transient(_task: Any, _run: Any, state: State[Any]) -> bool:
    """Whether a failure may pass by itself: input and output, but no missing right or space."""
    try:
        state.result()
    except StoreError as error:
        cause = error.__cause__
        return not (isinstance(cause, OSError) and cause.errno in _PERMANENT)
    except BaseException:  # noqa: BLE001 - whatever else failed, trying again does not mend it
        return False
    return False


def flow_run_id() -> str | None:
    """The id of the flow run that this code is in."""
    run_id: str | None = runtime.flow_run.id
    return run_id


def rename_run(name: str) -> None:
    """Give the flow run a name that says what runs."""
    run_id = flow_run_id()
    if run_id is None:
        return
    with get_client(sync_client=True) as client:
        client.update_flow_run(UUID(run_id), name=name)


def log(message: str) -> None:
    """Tell the run's log, which the Prefect UI shows."""
    get_run_logger().info(message)


def table_artifact(key: str, rows: Sequence[Record], description: str) -> None:
    """Keep a table beside the run."""
    create_table_artifact(table=list(rows), key=_key(key), description=description)


def report_artifacts(key: str, markdown: str, url: str) -> None:
    """Keep a report, and where its pages lie, beside the run."""
    create_markdown_artifact(markdown, key=_key(key), description=f"The report at {url}")
    if "://" in url:
        create_link_artifact(url, key=_key(f"{key}-link"), link_text="report.html")


@contextlib.contextmanager
def progress_artifacts() -> Iterator[None]:
    """Show work that takes longer than a few seconds as progress bars in the Prefect UI."""
    shown: dict[int, tuple[UUID | None, float]] = {}

    def show(progress: Progress) -> None:
        known, last = shown.get(progress.number, (None, time.monotonic()))
        shown.setdefault(progress.number, (None, last))
        due = progress.ended if known else False
        if not due and time.monotonic() - last < _ARTIFACT_SECONDS:
            return
        percent = 100.0 * progress.done / max(progress.total, 1)
        text = f"{progress.done}/{progress.total} {progress.unit} {progress.note}".strip()
        with contextlib.suppress(Exception):  # a bar is not worth failing the work
            if known is None:
                made: Any = create_progress_artifact(
                    percent, key=_key(progress.title), description=text
                )
                known = made
            elif known is not None:
                update_progress_artifact(known, percent, description=text)
        shown[progress.number] = (known, time.monotonic())

    with listening(show):
        yield


def quiet_libraries() -> None:
    """Keep libraries that Prefect is built on from writing to the terminal."""
    for name in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _key(text: str) -> str:
    """An artifact's key: lower case letters, digits and dashes."""
    return "".join(sign if sign.isalnum() else "-" for sign in text.lower()).strip("-")
