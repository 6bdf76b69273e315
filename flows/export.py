"""`softlabel export`: a label set in another form, for programs that know nothing of softlabel."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing

from flows import console
from flows.inspect import open_label_set
from storage.export import ExportFormat, ExportPlan, export
from storage.files import Folder
from storage.options import AnyTemperature, temperature_names
from tasks.progress import track


def export_labels(
    where: str,
    to: str,
    form: str,
    *,
    splits: Sequence[str] | None,
    temperature: AnyTemperature | None,
    as_json: bool,
) -> int:
    """Export the label set at a URL, or the newest one of a recipe; returns the exit code.

    Args:
        where: a label set's URL, or a recipe.
        to: a folder that holds nothing yet.
        form: the name of an `ExportFormat`.
        splits: which splits; all by default.
        temperature: a stored one; the first by default.
        as_json: end with what stands in `export.json`.

    Raises:
        MissingProductError: there is no such label set or split.
        RecipeError: the set does not fit the form, or the folder holds files.
    """
    with closing(open_label_set(where)) as labels:
        plan = ExportPlan.of(labels, ExportFormat(form), splits, temperature)
        destination = Folder.open(to)
        positions = sum(shard.positions for shard in plan.shards)
        with console.progress(), track("export", positions, "positions") as progress:
            index = export(plan, destination, lambda shard: progress.advance(shard.positions))
    content = {"url": destination.url, **index}
    if as_json:
        print(json.dumps(content))
        return 0
    rows = [
        ("export", destination.url),
        ("format", plan.form.value),
        ("temperature", temperature_names([plan.temperature])[0]),
        *((f"rows of {split}", f"{count:,}") for split, count in index["rows"].items()),
        ("bytes", f"{index['size_bytes']:,}"),
    ]
    settings = index.get("settings", {})
    rows += [(f"set {name}", json.dumps(value)) for name, value in settings.items()]
    console.print_places(rows)
    return 0
