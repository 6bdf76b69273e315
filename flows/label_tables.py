"""How a label set looks on the terminal: what it is line by line, then a table a subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich import box
from rich.table import Table
from rich.text import Text

from flows import console
from storage.sizes import PARTS

_LINES: Final = (
    "url", "digest", "earlier_digests", "fingerprint", "keep", "k", "p", "draws", "seed",
    "select_temperature", "codec", "layout", "temperatures", "features", "shards", "rows",
    "quarantined", "positions", "bytes",
    "bytes_per_position",
)  # fmt: skip
_WEIGHTS_DIGITS: Final = 12


def print_label_set(content: Mapping[str, Any]) -> None:
    """Print what `flows.inspect.describe` gives, and the examples if there are any."""
    shown = {key: content[key] for key in _LINES if content.get(key) not in (None, [])}
    if not content["quarantined"]:
        del shown["quarantined"]
    console.print_places([*lines(shown), *_origin(content)])
    console.print_table(_size_table(content))
    console.print_table(_fidelity_table(content["splits"]))
    if content["quarantine"]:
        console.print_table(_quarantine_table(content["quarantine"]))
    for split, entries in content.get("examples", {}).items():
        console.print_table(_example_table(split, entries))


def lines(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A name and a value for each entry, those of inner ones after one another."""
    rows: list[tuple[str, str]] = []
    for key, value in content.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, dict):
            rows += lines(value, f"{prefix}{key} ")
        elif isinstance(value, list):
            rows.append((name, ", ".join(map(str, value))))
        elif isinstance(value, float):
            rows.append((name, f"{value:.6g}"))
        else:
            rows.append((name, f"{value:,}" if isinstance(value, int) else str(value)))
    return rows


def _origin(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    if "teacher" not in content:
        return []
    teacher = content["teacher"]
    kind = teacher.get("model", {}).get("kind", "")
    return [
        ("teacher", f"{kind} with weights {str(teacher.get('weights'))[:_WEIGHTS_DIGITS]}"),
        ("data", str(content["data"].get("name"))),
        ("recipe", f"{content['recipe'].get('name')} in {content['recipe_folder']}"),
    ]


def _size_table(content: Mapping[str, Any]) -> Table:
    """Rows, positions, shards, and the bytes of a position by part."""
    table = _table(
        "bytes per position", ["split", "keeps"],
        ["rows", "positions", "shards", "bytes", "all", *PARTS],
    )  # fmt: skip
    several = {**content["splits"], "all": content} if len(content["splits"]) > 1 else None
    for split, entry in (several or content["splits"]).items():
        per_part = entry["bytes_per_position_by_part"]
        table.add_row(
            split,
            "" if entry is content else _kept(entry),
            *(f"{entry[name]:,}" for name in ("rows", "positions", "shards", "bytes")),
            f"{entry['bytes_per_position']:.1f}",
            *(f"{per_part[part]:.1f}" for part in PARTS),
        )
    if content["footers_read"] < content["shards"]:
        read, shards = content["footers_read"], content["shards"]
        table.caption = f"parts as in {read:,} of {shards:,} shards, evenly spread"
    return table


def _fidelity_table(splits: Mapping[str, Any]) -> Table:
    """How close the labels are to the full ones, at each stored temperature."""
    table = _table(
        "fidelity", ["split"],
        ["T", "mass kept", "1st percentile", "codec KL", "truncation KL", "best agrees",
         "effective draws"],
    )  # fmt: skip
    for split, entry in splits.items():
        fidelity = entry["fidelity"]
        for temperature, figures in fidelity.get("temperatures", {}).items():
            table.add_row(
                split,
                temperature,
                f"{figures['retained_mass']['mean']:.4f}",
                f"{figures['retained_mass']['p01']:.4f}",
                f"{figures['codec_kl']:.2e}",
                f"{figures['truncation_kl']:.2e}",
                f"{fidelity['agreement']:.2%}",
                f"{figures['effective_draws']:.1f}" if "effective_draws" in figures else "-",
            )
    return table


def _quarantine_table(quarantine: Mapping[str, Any]) -> Table:
    """The most frequent reasons for which samples were set aside."""
    counts = ", ".join(f"{split} {count:,}" for split, count in quarantine["samples"].items())
    table = _table(f"set aside: {counts}", ["reason"], ["samples"])
    for entry in quarantine["reasons"]:
        table.add_row(Text(entry["reason"]), f"{entry['samples']:,}")
    return table


def _example_table(split: str, entries: Sequence[Mapping[str, Any]]) -> Table:
    """Decoded soft labels: one line a position, its classes with their probabilities at T = 1."""
    blocks = any("counts" in entry for entry in entries)
    table = _table(
        f"{split}, decoded at T = 1",
        ["sample", *(["position"] if blocks else []), "label", "classes"],
        ["others"],
    )
    for entry in entries:
        place = [f"{entry['position']}{'' if entry['counts'] else ' masked'}"] if blocks else []
        label = entry["label"]
        table.add_row(
            Text(entry["sample_id"]),
            *place,
            Text(label["name"] if label else "-"),
            Text("  ".join(map(_class, entry["classes"]))),
            f"{entry['others']:.4f}",
        )
    return table


def _class(entry: Mapping[str, Any]) -> str:
    drawn = f" x{entry['draws']}" if "draws" in entry else ""
    return f"{entry['name']} {entry['probability']:.4f}{drawn}"


def _kept(entry: Mapping[str, Any]) -> str:
    details = {"top_k": "k", "all": "k", "top_p": "p", "sample": "draws"}
    name = details[entry["keep"]]
    return f"{entry['keep']} {name}={entry[name]:g}"


def _table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right")
    return table
