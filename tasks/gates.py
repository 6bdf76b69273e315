"""Gates: limits that figures of a report must meet."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from typing import Any

from storage.errors import RecipeError

_COMPARE = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
_LIMIT = re.compile(r"\s*(>=|<=|==|>|<)\s*(\S+)\s*")


def check_gates(report: Mapping[str, Any], gates: Mapping[str, str]) -> list[dict[str, Any]]:
    """Each gate with the report's value and whether it passes.

    Args:
        report: as in `report.json`.
        gates: `{path: "operator number"}`; a path is `<model>.<split>.<figure>`,
            `<model>.<figure>`, or any path of the report itself.

    Raises:
        RecipeError: a path names no number of the report.
    """
    checked = []
    for name, limit in gates.items():
        match = _LIMIT.fullmatch(limit)
        if match is None:
            raise RecipeError(
                f"evaluation.gates.{name}: expected an operator and a number, got {limit!r}"
            )
        value = find_value(report, name)
        passed = _COMPARE[match[1]](value, float(match[2]))
        checked.append({"name": name, "limit": limit.strip(), "value": value, "passed": passed})
    return checked


def find_value(report: Mapping[str, Any], name: str) -> float:
    """The number that a gate's path names.

    Raises:
        RecipeError: there is none; the message lists what is there.
    """
    models = report.get("models", {})
    parts = name.split(".")
    model = models.get(parts[0], {})
    starts: list[tuple[Any, list[str]]] = [(report, parts)]
    if parts[0] in models:
        starts = [(model.get("splits", {}), parts[1:]), (model, parts[1:]), *starts]
    for start, path in starts:
        value = _follow(start, path)
        if isinstance(value, Mapping) and "value" in value:
            value = value["value"]
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    raise RecipeError(
        f"evaluation.gates.{name}: the report has no such number; a path is "
        f"<model>.<split>.<figure>; models: {', '.join(models)}; splits: "
        f"{', '.join(sorted({split for entry in models.values() for split in entry['splits']}))}"
    )


def _follow(value: Any, path: list[str]) -> Any:
    for part in path:
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value
