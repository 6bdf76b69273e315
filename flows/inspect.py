"""`softlabel inspect`: what a product is, how big, how faithful, and its digest."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any

from flows import console, label_tables
from flows.project import Project
from storage import layout
from storage.cards import Card, read_card
from storage.errors import MissingProductError, RecipeError
from storage.examples import examples
from storage.files import Folder
from storage.reader import LabelSet
from storage.sizes import part_sizes, together
from storage.summary import (
    describe_origin,
    describe_quarantine,
    describe_selection,
    describe_splits,
    earlier_digests,
)
from tasks.lineage import LINEAGE


def inspect(where: str, *, as_json: bool, samples: int = 0, split: str | None = None) -> int:
    """Print what lies at a URL, or what a recipe's newest label set is; returns the exit code.

    Args:
        where: a product's URL, or a recipe.
        as_json: one JSON object.
        samples: of a label set, how many decoded samples to show.
        split: which split they are of; by default the one to train on.

    Raises:
        MissingProductError: there is no product at that URL, or no such split.
        RecipeError: only a label set has samples.
    """
    folder = _product(where)
    if folder is not None:
        if samples or split:
            raise RecipeError(f"--samples: {folder.url} is no label set; only these hold samples")
        content = _describe_card(read_card(folder), folder)
    else:
        labels = open_label_set(where)
        content = describe(labels)
        if samples or split:
            shown = split or labels.splits[0]
            content["examples"] = {shown: examples(labels, shown, samples or 1)}
    if as_json:
        print(json.dumps(content))
    elif folder is not None:
        content.get(LINEAGE, {}).pop("recipe", None)  # pages of it
        console.print_places(label_tables.lines(content))
    else:
        label_tables.print_label_set(content)
    return 0


def open_label_set(where: str) -> LabelSet:
    """The label set at a URL, or the newest one of a recipe.

    Raises:
        MissingProductError: there is none.
    """
    if _is_recipe(where):
        return Project.open(where).require_labels()[0]
    folder = Folder.open(where)
    if folder.exists(layout.MANIFEST):
        return LabelSet.open(folder)
    if folder.exists(layout.SPEC):
        raise MissingProductError(
            f"the label set at {folder.url} is not finished; run the label stage again"
        )
    raise MissingProductError(f"there is no label set at {folder.url}; expected {layout.MANIFEST}")


def describe(labels: LabelSet) -> dict[str, Any]:
    """A label set as plain values, with the parts of its bytes, its origin and its other states."""
    sizes = {split: part_sizes(labels, split) for split in labels.splits}
    whole = together(list(sizes.values()))
    splits = describe_splits(labels)
    return {
        **describe_selection(labels.spec.selections[labels.splits[0]]),
        **labels.describe(),
        **whole.as_json(),
        "earlier_digests": earlier_digests(labels),
        "splits": {split: splits[split] | sizes[split].as_json() for split in labels.splits},
        "quarantine": describe_quarantine(labels),
        **describe_origin(labels),
    }


def _is_recipe(where: str) -> bool:
    return PurePosixPath(where).suffix in (".yaml", ".yml")


def _product(where: str) -> Folder | None:
    """The model, report or other product at a URL; None where a label set is expected.

    Raises:
        MissingProductError: there is nothing at that URL.
    """
    if _is_recipe(where):
        return None
    folder = Folder.open(where)
    if folder.exists(layout.MANIFEST):
        return None
    if folder.exists(layout.CARD):
        return folder
    if folder.exists(layout.SPEC):
        return None
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
