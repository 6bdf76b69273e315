"""`softlabel inspect`: what a product is, how big, how faithful, and its digest."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any

from flows import console
from flows.project import Project
from storage import layout
from storage.cards import Card, read_card
from storage.errors import MissingProductError
from storage.files import Folder
from storage.reader import LabelSet
from storage.summary import describe_label_set


def inspect(where: str, *, as_json: bool) -> int:
    """Print what lies at a URL, or what a recipe's newest label set is; returns the exit code."""
    content = describe(where)
    if as_json:
        print(json.dumps(content))
    else:
        console.print_places(_rows(content))
    return 0


def describe(where: str) -> dict[str, Any]:
    """A product as plain values.

    Raises:
        MissingProductError: there is none at that URL.
    """
    if PurePosixPath(where).suffix in (".yaml", ".yml"):
        labels, _ = Project.open(where).require_labels()
        return describe_label_set(labels)
    folder = Folder.open(where)
    if folder.exists(layout.MANIFEST):
        return describe_label_set(LabelSet.open(folder))
    if folder.exists(layout.CARD):
        return _describe_card(read_card(folder), folder)
    if folder.exists(layout.SPEC):
        raise MissingProductError(
            f"the label set at {folder.url} is not finished; run the label stage again"
        )
    raise MissingProductError(
        f"there is no label set, model or report at {folder.url}; expected {layout.MANIFEST} or "
        f"{layout.CARD} there"
    )


def _describe_card(card: Card, folder: Folder) -> dict[str, Any]:
    content = card.model_dump(mode="json", exclude={"intent", "format_version", "details"})
    content = {"url": folder.url, **content, **card.details}
    if card.kind == layout.REPORTS:
        content["models"] = list(json.loads(folder.read_bytes(layout.REPORT_JSON))["models"])
    return content


def _rows(content: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in content.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, dict):
            rows += _rows(value, f"{prefix}{key} ")
        elif isinstance(value, list):
            rows.append((name, ", ".join(map(str, value))))
        elif isinstance(value, float):
            rows.append((name, f"{value:.6g}"))
        else:
            rows.append((name, f"{value:,}" if isinstance(value, int) else str(value)))
    return rows
