"""The tables of a report, as text: the page and the markdown print the same ones."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storage.options import temperature_names
from tasks.report_headline import Comparison, comparisons_of
from tasks.report_models import (
    METRICS,
    TEACHER,
    Metric,
    Report,
    main_split,
    model_score,
    part,
    ranking,
    student_names,
)
from tasks.report_numbers import (
    DASH,
    MINUS,
    count_text,
    estimate_text,
    finite,
    human,
    or_dash,
    p_value_text,
    seconds_text,
)


@dataclass(frozen=True)
class Row:
    """Cells of a table; a `note` under the first, a `mark` for the row's look."""

    cells: tuple[str, ...]
    note: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """A table as text; the first cell of each row names it."""

    title: str
    header: tuple[str, ...]
    rows: tuple[Row, ...]
    caption: str = ""


def data_facts(report: Report) -> list[str]:
    """What was learned, from how much."""
    data = part(report, "data")
    sizes = [f"{split} {count_text(count)}" for split, count in part(data, "samples").items()]
    classes = finite(data.get("classes"))
    facts = [data.get("name"), str(report.get("task") or "").replace("_", " ")]
    facts += [f"{count_text(classes)} classes" if classes else "", *sizes]
    return [str(fact) for fact in facts if fact]


def model_table(report: Report, split: str) -> Table:
    """Quality and cost of every model of a split."""
    models = ranking(report, split)
    metrics = _metrics(report, split, models)
    best = next(iter(student_names(report, split)), None)
    costs = ("Parameters", "Size", "Samples/s", "Latency p50 / p95")
    return Table(
        title=split,
        header=("Model", *(metric.label for metric in metrics.values()), *costs),
        rows=tuple(_model_row(report, split, model, metrics, model == best) for model in models),
        caption=_amount(report, split, models),
    )


def _metrics(report: Report, split: str, models: Sequence[str]) -> dict[str, Metric]:
    """The usual metrics, perplexity where a model has one, and any other estimate there is."""
    scores = [part(report, "models", model, "splits", split) for model in models]
    seen = {key for score in scores for key, value in score.items() if _is_estimate(value)}
    usual = {key: m for key, m in METRICS.items() if key != "perplexity" or key in seen}
    more = {key: Metric(key.replace("_", " ")) for key in sorted(seen - METRICS.keys())}
    return usual | more


def _is_estimate(value: Any) -> bool:
    return isinstance(value, Mapping) and "value" in value


def _amount(report: Report, split: str, models: Sequence[str]) -> str:
    scores = [part(report, "models", model, "splits", split) for model in models]
    samples = next((s["samples"] for s in scores if s.get("samples")), None)
    positions = next((s["positions"] for s in scores if s.get("positions")), samples)
    more = "" if positions == samples else f", {count_text(positions)} positions"
    return f"{count_text(samples)} samples{more}"


def _model_row(
    report: Report, split: str, model: str, metrics: Mapping[str, Metric], best: bool
) -> Row:
    facts = part(report, "models", model)
    scores = (
        estimate_text(model_score(report, model, split, key), percent=metric.percent)
        for key, metric in metrics.items()
    )
    latency = [seconds_text(part(facts, "latency_seconds").get(key)) for key in ("p50", "p95")]
    return Row(
        cells=(
            model,
            *scores,
            human(facts.get("parameters"), billion="B"),
            human(facts.get("size_bytes"), "B"),
            human(facts.get("samples_per_second")),
            DASH if latency == [DASH, DASH] else " / ".join(latency),
        ),
        note=_model_note(report, model),
        mark="best" if best else "",
    )


def _model_note(report: Report, model: str) -> str:
    facts, loss = part(report, "models", model), part(report, "models", model, "loss")
    teacher = part(report, "teacher").get("model") if model == TEACHER else None
    terms = [facts.get("model") or teacher]
    if finite(loss.get("soft_weight")) == 0:
        terms += ["hard labels only"]
    elif loss:
        weight, temperature = _weight(loss.get("soft_weight")), _at(loss.get("temperature"))
        terms += [loss.get("soft"), None if weight is None else f"soft weight {weight}"]
        terms += [None if temperature is None else f"T {temperature}"]
    return ", ".join(str(term) for term in terms if term)


def _weight(said: Any) -> str | None:
    """`0.9`, or `1 to 0.2` where it changes over training."""
    if isinstance(said, Mapping):
        return f"{_number(said.get('start'))} to {_number(said.get('end'))}"
    return None if finite(said) is None else _number(said)


def _at(said: Any) -> str | None:
    """`2`, `std`, `4 then 2 then 1`, or `flsw around 4`."""
    if not isinstance(said, Mapping):
        return said if isinstance(said, str) else _weight(said)
    if "values" in said:
        return " then ".join(_at(one) or DASH for one in said["values"])
    return f"{said.get('kind')} around {_number(said.get('base'))}"


def _number(value: Any) -> str:
    return DASH if finite(value) is None else f"{value:g}"


def comparison_table(report: Report, most: int) -> Table:
    """The main split first; at most `most` rows, and the caption says how many are left out."""
    split = main_split(report)
    comparisons = sorted(comparisons_of(report), key=lambda c: c.split != split)
    omitted = len(comparisons) - most
    caption = f"{omitted:,} more stand in report.json. " if omitted > 0 else ""
    if len(comparisons) > 1:
        caption += f"p-values are not corrected for {len(comparisons):,} comparisons."
    return Table(
        title="Paired comparisons",
        header=("Models", "Split", "Metric", "Difference", "p", "Reading"),
        rows=tuple(_comparison_row(comparison) for comparison in comparisons[:most]),
        caption=caption.strip(),
    )


def _comparison_row(comparison: Comparison) -> Row:
    metric = METRICS.get(comparison.metric, Metric(comparison.metric.replace("_", " ")))
    return Row(
        cells=(
            f"{comparison.a} {MINUS} {comparison.b}",
            comparison.split,
            metric.label,
            estimate_text(comparison.difference, percent=metric.percent, sign="+"),
            p_value_text(comparison.p_value),
            comparison.reading,
        )
    )


def gate_table(report: Report) -> Table:
    """Every gate; its row is marked passed or failed."""
    rows = []
    for gate in report.get("gates") or ():
        value, passed = finite(gate.get("value")), bool(gate.get("passed"))
        shown = DASH if value is None else f"{value:.4g}"
        word = "passed" if passed else "failed"
        rows.append(
            Row((or_dash(gate.get("name")), or_dash(gate.get("limit")), shown, word), mark=word)
        )
    return Table("Gates", ("Gate", "Limit", "Value", "Result"), tuple(rows))


def fidelity_table(report: Report) -> Table:
    """What the label set kept of the full logits, by temperature."""
    fidelity = part(report, "label_set", "fidelity")
    rows = []
    for temperature, record in sorted(part(fidelity, "temperatures").items(), key=_temperature):
        mass = part(record or {}, "retained_mass")
        shares = [estimate_text(mass.get(key), percent=True) for key in ("mean", "p01")]
        kinds = ("codec_kl", "truncation_kl")
        losses = [estimate_text((record or {}).get(kind), percent=False) for kind in kinds]
        rows.append(Row((f"{temperature}", *shares, *losses)))
    header = (
        "Temperature",
        "Mass kept, mean",
        "Mass kept, 1st percentile",
        "KL by codec",
        "KL by truncation",
    )
    return Table("Fidelity to the full logits", header, tuple(rows))


def _temperature(item: tuple[str, Any]) -> float:
    try:
        return float(item[0])
    except ValueError:
        return math.inf


def label_set_terms(report: Report) -> list[tuple[str, str]]:
    """What the label set is, as terms and values; empty where there is none."""
    labels = part(report, "label_set")
    if not labels:
        return []
    temperatures = ", ".join(temperature_names(labels.get("temperatures") or ()))
    splits = ", ".join(f"{k} {count_text(v)}" for k, v in part(labels, "samples").items())
    agreement = part(labels, "fidelity").get("agreement")
    aside = finite(labels.get("quarantined"))
    return [
        ("kept", _kept(report)),
        ("temperatures", or_dash(temperatures)),
        ("codec", or_dash(labels.get("codec"))),
        ("layout", or_dash(labels.get("layout"))),
        ("positions", count_text(labels.get("positions"))),
        ("shards", count_text(labels.get("shards"))),
        ("size", human(labels.get("bytes"), "B")),
        ("bytes per position", _decimal(labels.get("bytes_per_position"))),
        ("best class agrees", estimate_text(agreement, percent=True)),
        ("samples", or_dash(splits or count_text(labels.get("rows")))),
        *([("set aside", f"{count_text(aside)} samples")] if aside else []),
        ("digest", or_dash(labels.get("digest"))),
        ("url", or_dash(labels.get("url"))),
    ]


def _decimal(value: Any) -> str:
    number = finite(value)
    return DASH if number is None else f"{number:,.1f}"


def _kept(report: Report) -> str:
    labels, classes = part(report, "label_set"), part(report, "data").get("classes")
    of = f" of {count_text(classes)} classes" if finite(classes) is not None else " classes"
    phrases = {
        "top_k": f"top {labels.get('k', DASH)}{of}",
        "top_p": f"the mass {labels.get('p', DASH)}, at most {labels.get('k', DASH)}{of}",
        "sample": f"{labels.get('draws', DASH)} draws{of}",
        "all": f"all{of.removeprefix(' of')}",
    }
    keep = labels.get("keep")
    return phrases.get(str(keep), or_dash(keep))


def provenance_terms(report: Report) -> list[tuple[str, str]]:
    """What the report was made from, as terms and values."""
    teacher = part(report, "teacher")
    return [
        ("report", or_dash(report.get("fingerprint"))),
        ("label set", or_dash(part(report, "label_set").get("fingerprint"))),
        ("teacher", or_dash(teacher.get("fingerprint"))),
        ("teacher's weights", or_dash(teacher.get("weights_digest"))),
        ("teacher's kind", or_dash(teacher.get("kind"))),
        ("softlabel", or_dash(report.get("softlabel_version"))),
    ]
