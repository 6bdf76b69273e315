"""`softlabel serve`: the Prefect server with its UI, and each stage as a deployment.

Runs are processes of their own. They end with this one, however it ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from typing import Any

from flows import console, environment
from flows.prefect_home import configured_api_url
from flows.recipe import LoadedRecipe, load_recipe
from flows.server import LocalServer
from flows.watch import PARENT_VARIABLE
from storage.targets import append_import_path

_POLL_SECONDS = 0.5


def serve(recipes: Sequence[str]) -> int:
    """Serve until it is stopped; returns the exit code."""
    loaded = [load_recipe(recipe) for recipe in recipes]
    environment.prepare()
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with contextlib.suppress(KeyboardInterrupt):
        url = configured_api_url() or _start_server()
        page = url.removesuffix("/api")
        console.output.print(f"Prefect UI  {page}", markup=False)
        if loaded:
            _serve_deployments(loaded, page)
        else:
            _wait()
    return 0


def _start_server() -> str:
    with console.waiting("starting the Prefect server"):
        return LocalServer().wait()


def _serve_deployments(loaded: Sequence[LoadedRecipe], page: str) -> None:
    from prefect import serve as serve_flows

    deployments = [deployment for recipe in loaded for deployment in _deployments(recipe)]
    for deployment in deployments:
        console.output.print(f"  {deployment.flow_name}/{deployment.name}", markup=False)
    console.output.print(f"  start one at {page}/deployments; Ctrl-C ends all", markup=False)
    serve_flows(*deployments, limit=1, pause_on_shutdown=False, print_starting_message=False)


def _deployments(loaded: LoadedRecipe) -> list[Any]:
    """The four stages and the pipeline of a recipe; the pipeline with its schedule."""
    from prefect.schedules import Cron
    from prefect.types.entrypoint import EntrypointType

    from flows.evaluate import evaluate
    from flows.label import label
    from flows.pipeline import pipeline
    from flows.teacher import teacher
    from flows.train import train

    append_import_path(loaded.folder)
    schedule = loaded.recipe.schedule
    made = []
    for flow in (pipeline, teacher, label, train, evaluate):
        schedules = []
        if flow is pipeline and schedule is not None:
            schedules = [Cron(schedule.cron, timezone=schedule.timezone, active=schedule.active)]
        made.append(
            flow.to_deployment(
                loaded.recipe.name,
                parameters={"recipe": _absolute(loaded)},
                schedules=schedules,
                tags=["softlabel", loaded.recipe.name],
                description=(flow.description or "").splitlines()[0],
                entrypoint_type=EntrypointType.MODULE_PATH,
            )
        )
    return made


def _absolute(loaded: LoadedRecipe) -> str:
    if "://" in loaded.source:
        return loaded.source
    return str(loaded.folder / loaded.source.rpartition("/")[2])


def _wait() -> None:
    console.output.print("  no recipe is served; Ctrl-C ends the server", markup=False)
    while True:
        time.sleep(_POLL_SECONDS)
