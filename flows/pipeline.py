"""The whole story: teacher, label, train, evaluate. The file to open first.

Each stage is a flow of its own (`flows/teacher.py` and so on) that looks at the store, makes what
is missing, and ends as `Cached` where nothing is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect import flow

from flows import engine
from flows.evaluate import evaluate
from flows.history import RunHistory
from flows.label import label
from flows.project import Project, shared
from flows.stale import marked
from flows.teacher import teacher
from flows.train import train
from flows.watch import end_with_parent

STAGES = ("teacher", "label", "train", "evaluate")


@flow(name="pipeline", persist_result=False)
def pipeline(
    recipe: str,
    overrides: list[str] | None = None,
    store: str | None = None,
    force: bool = False,
    students: list[str] | None = None,
    stages: list[str] | None = None,
) -> dict[str, Any]:
    """Run the stages of a recipe, one after the other.

    Args:
        recipe: a path or URL.
        overrides: `path.of.field=value`.
        store: another store than the recipe's.
        force: make everything again.
        students: only these; all by default.
        stages: only these; all by default.

    Returns:
        The record of each stage, as `softlabel run --json` prints it.
    """
    end_with_parent()
    project = Project.open(recipe, overrides, store)
    engine.rename_run(f"pipeline-{project.name}")
    asked: dict[str, Any] = {
        "recipe": recipe,
        "overrides": overrides,
        "store": store,
        "force": force,
    }
    run: dict[str, Callable[[], Any]] = {
        "teacher": lambda: teacher(**asked),
        "label": lambda: label(**asked),
        "train": lambda: train(**asked, students=students),
        "evaluate": lambda: evaluate(**asked, students=students),
    }
    records: dict[str, Any] = {}
    run_id = engine.flow_run_id()
    with shared(project), marked(run_id), RunHistory.of(project, run_id) as history:
        for stage in STAGES:
            if stages is None or stage in stages:
                records[stage] = run[stage]()
                history.add(stage, records[stage])
                engine.log(f"{stage} {records[stage]['status']}: {records[stage]['url']}")
    return {"name": project.name, "store": project.store.url, "stages": records}
