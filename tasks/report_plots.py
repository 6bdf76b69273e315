"""The plots of a report as inline SVG.

matplotlib sees no name that a person chose, so no name can break a plot. Colours are CSS variables,
so that the plots follow the page's light or dark theme.
"""

import io
import math
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
)
from numpy.typing import NDArray

from tasks.report_headline import headline_subject, told_comparison
from tasks.report_models import TEACHER, Report, main_split, model_score, part, student_names
from tasks.report_numbers import estimate_ends, estimate_text, finite, human

History = Sequence[Mapping[str, float | None]]
CURVE_POINTS = 400
# What the page and the plots are coloured with: (light, dark). The first is also the mark by which
# a colour is found again in the SVG, so no two names may share it. c0 to c5 follow Okabe and Ito.
PALETTE = {
    "ink": ("#1c2530", "#e6eaef"),
    "quiet": ("#56616e", "#a3aebb"),
    "line": ("#dfe4e9", "#323b46"),
    "other": ("#a9b2bc", "#66717e"),
    "c0": ("#0069b4", "#63b3f4"),
    "c1": ("#c44e00", "#f58b45"),
    "c2": ("#00805c", "#3ecf9f"),
    "c3": ("#a8478a", "#e48cc6"),
    "c4": ("#8f6a00", "#e3b93c"),
    "c5": ("#4a56c9", "#a3aaff"),
}
GLYPHS = {"●": "o", "■": "s", "▲": "^", "◆": "D", "▼": "v", "✚": "P", "★": "*"}
PLOT_STYLE = {
    "axes.edgecolor": PALETTE["line"][0],
    "axes.grid": True,
    "axes.labelcolor": PALETTE["quiet"][0],
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "font.size": 8.5,
    "grid.color": PALETTE["line"][0],
    "grid.linewidth": 0.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "softlabel",
    "xtick.color": PALETTE["line"][0],
    "xtick.labelcolor": PALETTE["quiet"][0],
    "ytick.color": PALETTE["line"][0],
    "ytick.labelcolor": PALETTE["quiet"][0],
}
# matplotlib's settings belong to the whole process: one thread at a time may change and draw.
DRAWING = threading.Lock()


@dataclass(frozen=True)
class Plot:
    """One drawing with its caption."""

    svg: Markup
    title: str
    caption: str = ""


@dataclass(frozen=True)
class Look:
    """How one model is drawn in every plot, and in the legend."""

    colour: str
    glyph: str


def model_looks(report: Report) -> dict[str, Look]:
    """Colours for those the headline tells of and the best others, grey for the rest."""
    split = main_split(report)
    students = student_names(report, split)
    told: list[str] = [headline_subject(report, students)] if students else []
    found = told_comparison(report, split, told[0]) if told else None
    told += [found.b] if found else []
    order = dict.fromkeys([*told, *students, *part(report, "models")])
    order.pop(TEACHER, None)
    shapes = zip(("c0", "c1", "c2", "c3", "c4", "c5"), GLYPHS, strict=False)
    looks = dict(zip(order, (Look(*shape) for shape in shapes), strict=False))
    looks |= {model: Look("other", "●") for model in order if model not in looks}
    return ({TEACHER: Look("ink", "★")} if TEACHER in part(report, "models") else {}) | looks


def _ink(look: Look) -> str:
    return PALETTE[look.colour][0]


def size_plot(report: Report, looks: Mapping[str, Look]) -> list[Plot]:
    """Accuracy against parameters on the main split; nothing where sizes are unknown."""
    split = main_split(report)
    points = [
        (look, size, model_score(report, model, split, "accuracy"))
        for model, look in looks.items()
        if (size := finite(part(report, "models", model).get("parameters")))
    ]
    points = [point for point in points if finite(point[2]) is not None]
    if not points:
        return []
    figure, axes = _axes((4.4, 2.8), "parameters", "accuracy")
    places = _side_by_side([size for _, size, _ in points])
    # grey first, so that the coloured ones lie over it
    for place, (look, _, accuracy) in sorted(
        zip(places, points, strict=True), key=lambda pair: pair[1][0].colour != "other"
    ):
        _draw_point(axes, place, accuracy, look)
    _parameter_axis(axes, places)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    caption = "Bars are the intervals of the table. Models of one size stand side by side."
    label = f"Accuracy on {split} against the number of parameters, one point per model"
    return [Plot(_svg(figure, "size", label), f"Accuracy on {split} against size", caption)]


def _side_by_side(sizes: Sequence[float]) -> list[float]:
    """The sizes, with those that are equal moved apart a little on the log axis."""
    span = max(1.0, math.log10(max(sizes) / min(sizes)))
    seen: dict[float, int] = {}
    places = []
    for size in sizes:
        many, index = sizes.count(size), seen.get(size, 0)
        seen[size] = index + 1
        step = span * min(0.03, 0.4 / many)
        places.append(size * 10 ** (step * (index - (many - 1) / 2)))
    return places


def _draw_point(axes: Any, place: float, accuracy: Any, look: Look) -> None:
    value, low, high = (finite(end) for end in estimate_ends(accuracy))
    colour = _ink(look)
    if low is not None and high is not None:
        axes.plot([place, place], [low, high], color=colour, linewidth=1.1, solid_capstyle="butt")
    size = {"other": 3.5, "ink": 9.0}.get(look.colour, 6.0)
    axes.plot(
        [place], [value], GLYPHS[look.glyph], color=colour, markersize=size, markeredgewidth=0
    )


def _parameter_axis(axes: Any, places: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.set_xlim(min(places) / 2, max(places) * 2)
    wide = max(places) / min(places) > 100
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: human(x, billion="B")))
    axes.xaxis.set_minor_formatter(NullFormatter())


def training_plots(histories: Mapping[str, History], looks: Mapping[str, Look]) -> list[Plot]:
    """Training loss and validation accuracy by step, as far as they were recorded."""
    loss = "Losses of different kinds do not compare: look at the shape, not the height."
    wanted = (("loss", "Training loss", loss), ("validation_accuracy", "Validation accuracy", ""))
    plots = []
    for key, title, caption in wanted:
        curves = {name: thin(rows, key) for name, rows in histories.items()}
        curves = {name: curve for name, curve in curves.items() if len(curve)}
        if curves:
            svg = _curve_svg(curves, looks, key, title)
            plots.append(Plot(svg, title, caption))
    return plots


def thin(history: History, key: str, most: int = CURVE_POINTS) -> NDArray[np.float64]:
    """(step, value) `[N, 2]`, N <= `most`: means over equal runs of rows that have the value."""
    rows = ((row.get("step"), row.get(key)) for row in history)
    pairs = [(x, y) for x, y in rows if finite(x) is not None and finite(y) is not None]
    points = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    if len(points) <= most:
        return points
    starts = np.arange(most) * len(points) // most
    counts = np.diff(np.append(starts, len(points)))
    means: NDArray[np.float64] = np.add.reduceat(points, starts) / counts[:, None]
    return means


def _curve_svg(
    curves: Mapping[str, NDArray[np.float64]], looks: Mapping[str, Look], key: str, title: str
) -> Markup:
    figure, axes = _axes((4.4, 2.8), "step", "")
    grey = Look("other", "●")
    for name in sorted(curves, key=lambda name: looks.get(name, grey).colour != "other"):
        look, curve = looks.get(name, grey), curves[name]
        width = 0.8 if look.colour == "other" else 1.5
        axes.plot(*curve.T, color=_ink(look), linewidth=width)
        axes.plot(*curve[-1:].T, GLYPHS[look.glyph], color=_ink(look), markersize=3 * width)
    values = np.concatenate([curve[:, 1] for curve in curves.values()])
    if key == "validation_accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    elif values.min() > 0 and values.max() > 50 * values.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: human(x)))
    return _svg(figure, key.replace("_", "-"), f"{title} by training step, one line per student")


def reliability_plots(report: Report, looks: Mapping[str, Look]) -> list[tuple[str, str, Markup]]:
    """(model, ECE, drawing) of the models with a colour, on the main split."""
    split = main_split(report)
    plots = []
    for place, (model, look) in enumerate(looks.items()):
        bins = model_score(report, model, split, "reliability") or ()
        bins = [b for b in bins if finite(b.get("confidence")) is not None and b.get("count")]
        bins = [b for b in bins if finite(b.get("accuracy")) is not None]
        if bins and look.colour != "other":
            ece = estimate_text(finite(model_score(report, model, split, "ece")), percent=False)
            label = f"Reliability of {model} on {split}: accuracy by confidence"
            plots.append((model, ece, _reliability_svg(bins, look, f"reliability-{place}", label)))
    return plots


def _reliability_svg(bins: Sequence[Report], look: Look, prefix: str, label: str) -> Markup:
    figure, axes = _axes((2.5, 2.3), "confidence", "accuracy")
    x, y, low, high, count = (
        np.array([b[key] for b in bins], dtype=np.float64)
        for key in ("confidence", "accuracy", "low", "high", "count")
    )
    axes.plot([0, 1], [0, 1], color=PALETTE["quiet"][0], linewidth=0.9, linestyle=(0, (4, 3)))
    axes.bar(low, y, 0.92 * (high - low), align="edge", color=_ink(look), alpha=0.16)
    axes.plot(x, y, color=_ink(look), linewidth=1.2)
    axes.scatter(x, y, s=6 + 50 * count / count.sum(), color=_ink(look), linewidths=0, zorder=3)
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    return _svg(figure, prefix, label)


def _axes(size: tuple[float, float], x: str, y: str) -> tuple[Any, Any]:
    figure = Figure(figsize=size)
    axes = figure.add_subplot()
    axes.set(xlabel=x, ylabel=y)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Any, prefix: str, label: str) -> Markup:
    """The drawing as an element of a page: no ids shared, no fixed size, colours as variables."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue().decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", text).replace(
        "xlink:href", "href"
    )
    box = re.search(r'viewBox="([^"]*)"', text)
    head = f'<svg role="img" aria-label="{escape(label)}" viewBox="{box[1] if box else ""}">'
    for name, (light, _) in PALETTE.items():
        text = text.replace(light, f"var(--{name})")
    return Markup(head + text[text.index(">") + 1 :].strip())
