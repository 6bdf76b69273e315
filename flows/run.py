"""`softlabel run`: bring up Prefect, run the pipeline, and say what came of it.

The server starts while the rest is imported. What a run made stays, however it ends.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import Any

from flows import console, environment
from flows.prefect_home import configured_api_url
from flows.project import Project, shared
from flows.server import LocalServer
from flows.status import plan_stages
from storage import layout
from storage.cards import read_card
from storage.files import Folder


def run(
    recipe: str,
    overrides: Sequence[str],
    *,
    store: str | None,
    stages: Sequence[str] | None,
    students: Sequence[str] | None,
    force: bool,
    as_json: bool,
) -> int:
    """Run the stages of a recipe; returns the exit code."""
    project = Project.open(recipe, list(overrides) or None, store)
    names = project.chosen_students(students)
    environment.prepare()
    server = None if configured_api_url() else LocalServer()
    with console.waiting("starting"):
        _start(server, project, names, stages, force=force)
    asked = {
        "recipe": recipe,
        "overrides": list(overrides) or None,
        "store": store,
        "force": force,
        "students": list(students) if students else None,
        "stages": list(stages) if stages else None,
    }
    with shared(project):
        result, flow_run = _run_pipeline(asked)
    return _finish(project, result, flow_run, local=server is not None, as_json=as_json)


def _start(
    server: LocalServer | None,
    project: Project,
    students: Sequence[str],
    stages: Sequence[str] | None,
    *,
    force: bool,
) -> None:
    """Bring up the server; meanwhile look at the data and import what will be needed."""
    if server is not None:
        server.start()
    # Students are trained and compared without the data, which may be gone by then.
    uses_data = stages is None or "teacher" in stages or "label" in stages
    if force or not uses_data or not all(plan.done for plan in plan_stages(project, students)):
        threading.Thread(target=_import_models, daemon=True).start()
    from flows import engine
    from flows.stale import mark_crashed

    engine.quiet_libraries()
    if server is not None:
        server.wait()
        mark_crashed()


def _import_models() -> None:
    """What the stages need takes seconds to import: do it while the server starts."""
    import tasks.students  # noqa: F401


def _run_pipeline(asked: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Run the pipeline; gives its result and the id of its flow run."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from flows.pipeline import pipeline

    # A heartbeat costs a second at the end of every flow run; nobody waits for it here.
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}), console.progress():
        state: Any = pipeline(**asked, return_state=True)
        return state.result(), str(state.state_details.flow_run_id)


def _finish(
    project: Project, result: dict[str, Any], flow_run: str, *, local: bool, as_json: bool
) -> int:
    """Say what was done and where it is; a gate that is not met fails the run."""
    stages = result["stages"]
    evaluated = stages.get("evaluate")
    if evaluated is not None:
        result |= {"report": evaluated["report"], "gates_passed": evaluated["gates_passed"]}
    if as_json:
        print(json.dumps(result))
    else:
        _show(project, stages, flow_run, local=local)
    failed = evaluated is not None and not evaluated["gates_passed"]
    if failed:
        console.errors.print("softlabel: a gate of the recipe is not met", style="red")
    return 1 if failed else 0


def _show(
    project: Project, stages: dict[str, dict[str, Any]], flow_run: str, *, local: bool
) -> None:
    console.print_table(console.stage_table(stages))
    rows = []
    if "evaluate" in stages:
        report = _read_report(stages["evaluate"]["url"])
        for split in project.recipe.evaluation.splits:
            console.print_table(console.model_table(report, split))
        for gate in report["gates"]:
            passed = "passed" if gate["passed"] else "NOT MET"
            rows.append(("gate", f"{gate['name']} {gate['limit']}: {gate['value']:.4g}, {passed}"))
        rows.append(("report", stages["evaluate"]["html"]))
    if "label" in stages:
        rows.append(("label set", stages["label"]["url"]))
    rows.append(("Prefect UI", _ui_page(flow_run, local=local)))
    console.print_places(rows)


def _read_report(url: str) -> dict[str, Any]:
    folder = Folder.open(url)
    read_card(folder)
    report: dict[str, Any] = json.loads(folder.read_bytes(layout.REPORT_JSON))
    return report


def _ui_page(flow_run: str, *, local: bool) -> str:
    from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL

    page = f"runs/flow-run/{flow_run}"
    if local:
        return f"softlabel serve, then http://127.0.0.1:4200/{page}"
    api = PREFECT_UI_URL.value() or str(PREFECT_API_URL.value()).removesuffix("/api")
    return f"{api}/{page}"
