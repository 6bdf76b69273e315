"""The report for people: one HTML page that needs nothing else, and a short markdown.

Everything comes from the dict that is also `report.json`, and from the students' histories: no
model, no label set and no file but the page's template is opened. The same input gives the same
bytes, in any thread. What is unknown (missing, null, NaN) shows as an en dash.

Tables are built once, as text, and both outputs print them. Names and notes reach the page only
through Jinja's escaping; matplotlib never sees them, so no name can break a plot. Colours in the
plots are CSS variables, so that the plots follow the page's light or dark theme.

Costs about a second, most of it for drawing.
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import jinja2
import matplotlib.style

from tasks.report_headline import (
    headline,
)
from tasks.report_models import (
    Report,
    gate_verdict,
    main_split,
    split_names,
)
from tasks.report_numbers import (
    DASH,
    date_text,
    or_dash,
)
from tasks.report_plots import (
    DRAWING,
    PALETTE,
    PLOT_STYLE,
    History,
    model_looks,
    reliability_plots,
    size_plot,
    training_plots,
)
from tasks.report_tables import (
    Table,
    comparison_table,
    data_facts,
    fidelity_table,
    gate_table,
    label_set_terms,
    model_table,
    provenance_terms,
)

COMPARISON_ROWS = 40


def render_html(report: Report, histories: Mapping[str, History]) -> str:
    """The page: self-contained, with plots as inline SVG. `histories` holds rows per student."""
    looks = model_looks(report)
    with DRAWING, matplotlib.style.context(["default", PLOT_STYLE]):
        curves = [*size_plot(report, looks), *training_plots(histories, looks)]
        reliability = reliability_plots(report, looks)
    return _template().render(
        name=or_dash(report.get("name")),
        created=date_text(report.get("created")),
        verdict=gate_verdict(report),
        headline=headline(report),
        facts=data_facts(report),
        tables=[model_table(report, split) for split in split_names(report)],
        legend=[(name, look) for name, look in looks.items() if look.colour != "other"],
        unnamed=sum(look.colour == "other" for look in looks.values()),
        curves=curves,
        reliability=reliability,
        reliability_split=main_split(report),
        comparisons=comparison_table(report, COMPARISON_ROWS),
        label_set=label_set_terms(report),
        fidelity=fidelity_table(report),
        gates=gate_table(report),
        provenance=provenance_terms(report),
        notes=[str(note) for note in report.get("notes") or ()],
        palette=PALETTE,
    )


def render_markdown(report: Report) -> str:
    """The same in short, for a Prefect artifact or a comment on GitHub."""
    verdict = gate_verdict(report)
    tables = [model_table(report, split) for split in split_names(report)]
    tables = [_without_empty_columns(table) for table in tables]
    tables += [comparison_table(report, 20), gate_table(report)]
    parts = [f"# {_inline(or_dash(report.get('name')))}"]
    parts += [f"**{verdict[0]}**"] if verdict else []
    parts += [_inline(headline(report))]
    parts += [_markdown_table(table) for table in tables if table.rows]
    facts = ", ".join(f"{term} {value}" for term, value in label_set_terms(report) if value != DASH)
    parts += [f"**Label set**: {_inline(facts)}"] if facts else []
    return (
        "\n\n".join([*parts, *(f"> {_inline(note)}" for note in report.get("notes") or ())]) + "\n"
    )


def _without_empty_columns(table: Table) -> Table:
    cells = zip(*(row.cells for row in table.rows), strict=True)
    kept = [i for i, column in enumerate(cells) if set(column) != {DASH}]
    rows = tuple(replace(row, cells=tuple(row.cells[i] for i in kept)) for row in table.rows)
    return replace(table, header=tuple(table.header[i] for i in kept), rows=rows)


def _markdown_table(table: Table) -> str:
    lines = [f"## {_inline(table.title)}", "", _markdown_row(table.header)]
    lines += [_markdown_row(("---", *("---:" for _ in table.header[1:])))]
    for row in table.rows:
        first = f"**{_inline(row.cells[0])}**" if row.mark == "best" else _inline(row.cells[0])
        lines += [_markdown_row((first, *(_inline(cell) for cell in row.cells[1:])))]
    return "\n".join([*lines, *(["", _inline(table.caption)] if table.caption else [])])


def _markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _inline(text: str) -> str:
    """Text that stays in its line and cell, and is no HTML."""
    line = " ".join(text.split())
    return line.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("report.html.j2")
