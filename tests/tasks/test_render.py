"""The report as a page and as markdown."""

import html.parser
import math
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tasks.options import StudentOptions
from tasks.render import render_html, render_markdown
from tasks.report import loss_facts
from tasks.report_headline import headline
from tasks.report_numbers import DASH
from tasks.report_plots import CURVE_POINTS, thin

VOID = {"meta", "br", "hr", "img", "link", "input", "wbr"}


def near(value: float, width: float = 0.02) -> dict[str, float]:
    return {"value": value, "low": value - width, "high": value + width}


def reliability(bins: int = 15) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for index in range(bins):
        low, high = index / bins, (index + 1) / bins
        count = 0 if index < 4 else 3 + index * index
        middle = (low + high) / 2
        rows.append({"low": low, "high": high, "count": count})
        rows[-1] |= {
            "confidence": middle if count else None,
            "accuracy": min(1.0, 0.08 + 0.9 * middle) if count else None,
        }
    return rows


def scores(accuracy: float, **more: Any) -> dict[str, Any]:
    return {
        "samples": 225,
        "positions": 225,
        "accuracy": near(accuracy),
        "nll": near(0.81 - 0.7 * accuracy),
        "ece": near(0.021, 0.008),
        "agreement": near(accuracy + 0.01),
        "kl_to_teacher": near(0.0421, 0.011),
        "retention": {"accuracy": near(accuracy / 0.973)},
        "reliability": reliability(),
    } | more


def student(accuracy: float, soft_weight: float, parameters: int | None = 2410) -> dict[str, Any]:
    return {
        "splits": {"test": scores(accuracy)},
        "parameters": parameters,
        "size_bytes": None if parameters is None else 4 * parameters,
        "samples_per_second": 184_300.0,
        "latency_seconds": {"p50": 0.000213, "p95": 0.00104},
        "loss": {"soft": "forward_kl", "soft_weight": soft_weight, "temperature": 2.0},
        "model": "mlp [32]",
    }


def comparison(a: str, b: str, value: float, p_value: float | None) -> dict[str, Any]:
    difference = near(value, 0.015)
    return {"split": "test", "metric": "accuracy", "a": a, "b": b} | {
        "difference": difference,
        "p_value": p_value,
    }


def example() -> dict[str, Any]:
    teacher = student(0.973, 1.0, 19_978) | {"loss": None, "model": None}
    return {
        "name": "digits",
        "created": "2026-11-23T10:00:00+00:00",
        "softlabel_version": "0.1.0",
        "fingerprint": "1f2e3d4c5b6a7988",
        "task": "classification",
        "data": {
            "name": "digits",
            "classes": 10,
            "class_names": None,
            "samples": {"train": 1347, "validation": 225, "test": 225},
        },
        "teacher": {
            "kind": "fit",
            "fingerprint": "aa55aa55aa55aa55",
            "weights_digest": "7d" * 32,
            "model": "mlp [128, 64]",
        },
        "label_set": {
            "url": "./store/labels/3f2a",
            "digest": "9c" * 32,
            "fingerprint": "3f2a3f2a3f2a3f2a",
            "keep": "top_k",
            "k": 3,
            "codec": "float16",
            "temperatures": [2.0, 1.0, 4.0],
            "shards": 15,
            "rows": 1797,
            "positions": 1797,
            "bytes": 115_367,
            "bytes_per_position": 64.2,
            "samples": {"train": 1347, "validation": 225, "test": 225},
            "fidelity": {
                "temperatures": {
                    text: {
                        "retained_mass": {"mean": 0.999 - 0.03 * t, "p01": 0.98 - 0.1 * t},
                        "codec_kl": 1.3e-7,
                        "truncation_kl": 1.2e-3 * t,
                    }
                    for text, t in (("1.0", 1.0), ("2.0", 2.0), ("4.0", 4.0))
                },
                "agreement": 1.0,
            },
        },
        "models": {
            "hard-labels": student(0.946, 0.0),
            "distilled": student(0.964, 0.9),
            "teacher": teacher,
        },
        "comparisons": [
            comparison("distilled", "hard-labels", 0.018, 0.03),
            comparison("distilled", "teacher", -0.009, 0.41),
        ],
        "gates": [
            {"name": "distilled.test.accuracy", "limit": ">= 0.9", "value": 0.964, "passed": True}
        ],
        "notes": ["KL to the teacher over k+1 entries is a lower bound of the full KL."],
    }


def history(steps: int, floor: float, rate: float = 30.0) -> list[dict[str, float | None]]:
    rows: list[dict[str, float | None]] = []
    for step in range(1, steps + 1):
        loss = floor + 2.3 * math.exp(-step / rate) + 0.04 * math.sin(7.3 * step)
        row: dict[str, float | None] = {"step": step, "epoch": step // 42, "loss": loss}
        row |= {"soft_loss": loss, "hard_loss": None, "learning_rate": 1e-3}
        ends = step % 42 == 0
        accuracy = 0.97 - floor - 0.6 * math.exp(-step / rate)
        row |= {"validation_loss": loss if ends else None}
        row |= {"validation_accuracy": accuracy if ends else None}
        rows.append(row)
    return rows


def histories() -> dict[str, list[dict[str, float | None]]]:
    return {"distilled": history(840, 0.03), "hard-labels": history(840, 0.06, 45.0)}


def sweep(students: int = 12, splits: tuple[str, ...] = ("validation", "test")) -> dict[str, Any]:
    report = example()
    for index in range(students):
        size = (1210, 2410, 4810, 9610)[index % 4]
        one = student(0.92 + 0.004 * ((index * 5) % students) / 1.5, 0.9, size)
        one["splits"] = {
            split: scores(one["splits"]["test"]["accuracy"]["value"]) for split in splits
        }
        report["models"][f"distilled-temperature-{index}"] = one
    names = [name for name in report["models"] if name != "teacher"]
    report["comparisons"] += [comparison(a, b, 0.002, 0.7) for a in names for b in names if a < b]
    return report


class _Page(html.parser.HTMLParser):
    """Collects tags, attributes and text, and checks that every tag closes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in <{tag}>"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, attribute: str) -> list[str]:
        return [attrs[attribute] or "" for _, attrs in self.tags if attribute in attrs]


@pytest.fixture(scope="module")
def page() -> str:
    return render_html(example(), histories())


def test_the_page_is_well_formed_and_ids_are_unique(page: str) -> None:
    assert page.startswith("<!DOCTYPE html>")
    parsed = _Page(page)
    ids = parsed.values("id")
    assert len(ids) == len(set(ids))
    assert set(parsed.values("aria-labelledby")) <= set(ids)
    used = re.findall(r"url\(#([^)]*)\)", page) + [
        h.removeprefix("#") for h in parsed.values("href")
    ]
    assert used
    assert set(used) <= set(ids)


def test_the_page_asks_for_nothing_outside(page: str) -> None:
    parsed = _Page(page)
    assert not {"script", "link", "img", "iframe", "object", "base"} & {
        tag for tag, _ in parsed.tags
    }
    assert not parsed.values("src")
    assert all(href.startswith("#") for href in parsed.values("href"))
    assert "http" not in page
    assert "@import" not in page
    assert re.findall(r"url\((?!#)", page) == []


def test_tables_and_plots_are_accessible(page: str) -> None:
    parsed = _Page(page)
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in parsed.tags if tag == "th")
    drawings = [attrs for tag, attrs in parsed.tags if tag == "svg"]
    assert len(drawings) == 6
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in drawings)
    tags = [tag for tag, _ in parsed.tags]
    assert tags.count("figure") == tags.count("figcaption") == 6
    assert tags.count("table") == tags.count("caption") == 4


def test_every_figure_of_every_model_is_shown(page: str) -> None:
    text = " ".join(_Page(page).text.split())
    for shown in ("97.3 % [95.3, 99.3]", "96.4 % [94.4, 98.4]", "94.6 % [92.6, 96.6]"):
        assert shown in text
    for shown in ("2.41 k", "20 k", "9.64 kB", "184 k", "213 \u00b5s / 1.04 ms", "99.1 %", "0.042"):
        assert shown in text
    for shown in ("9c" * 32, "64.2", "top 3 of 10 classes", "1.3e-7", "1 gate passed", "0.1.0"):
        assert shown in text
    assert "2026-11-23 10:00 UTC" in text
    assert "mlp [32], forward_kl, soft weight 0.9, T 2" in text
    assert "hard labels only" in text


@pytest.mark.parametrize(
    ("loss", "shown"),
    [
        ({"soft": "jsd", "soft_weight": 1.0, "temperature": "std"}, "jsd, soft weight 1, T std"),
        (
            {
                "soft_weight": {"schedule": "linear", "start": 1.0, "end": 0.2},
                "temperature": [4, 2],
            },
            "forward_kl, soft weight 1 to 0.2, T 4 then 2",
        ),
        ({"temperature": {"kind": "flsw", "base": 4.0}}, "soft weight 0.5, T flsw around 4"),
    ],
)
def test_a_loss_that_changes_is_said_in_a_few_words(loss: dict[str, Any], shown: str) -> None:
    options = StudentOptions.model_validate({"model": {"kind": "mlp"}, "loss": loss})
    report = example()
    report["models"]["distilled"]["loss"] = loss_facts(options, 2.0)
    assert shown in " ".join(_Page(render_html(report, {})).text.split())


def test_the_teacher_comes_first_and_the_best_student_is_marked(page: str) -> None:
    rows = re.findall(r'<th scope="row">([a-z-]+)', page)
    assert rows[:3] == ["teacher", "distilled", "hard-labels"]
    assert page.count("best student") == 1


def test_the_same_report_gives_the_same_bytes(page: str) -> None:
    assert render_html(example(), histories()) == page


def test_it_renders_in_threads(page: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        pages = list(pool.map(lambda _: render_html(example(), histories()), range(4)))
    assert set(pages) == {page}


def test_it_leaves_the_settings_of_matplotlib_alone() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    render_html(example(), {})
    assert dict(matplotlib.rcParams) == before


def test_names_are_escaped() -> None:
    report = example()
    evil = "<img src=x onerror=alert(1)>$x$&"
    report["name"] = report["label_set"]["url"] = report["notes"][0] = evil
    report["models"][evil] = student(0.99, 0.9)
    report["comparisons"].append(comparison(evil, "hard-labels", 0.04, 0.001))
    report["gates"].append({"name": evil, "limit": "< 1", "value": 2.0, "passed": False})
    for model in report["models"].values():
        model["splits"] = {evil: model["splits"]["test"]}
    for row in report["comparisons"]:
        row["split"] = evil
    parsed = _Page(render_html(report, {evil: history(50, 0.1)}))
    assert f"{evil} keeps" in parsed.text
    assert evil in parsed.text
    assert "img" not in {tag for tag, _ in parsed.tags}
    assert "<img" not in render_markdown(report)


def test_a_pipe_in_a_name_stays_in_its_cell() -> None:
    report = example()
    report["models"]["a|b\nc"] = report["models"].pop("distilled")
    lines = render_markdown(report).splitlines()
    row = next(line for line in lines if "a\\|b c" in line and line.startswith("|"))
    header = next(line for line in lines if line.startswith("| Model"))
    assert row.replace("\\|", "").count("|") == header.count("|")


def test_what_is_missing_is_a_dash() -> None:
    report = example()
    bare = {"splits": {"test": {"samples": 3, "accuracy": {"value": math.nan}, "nll": None}}}
    report["models"] = {"bare": bare}
    page = render_html(report, {})
    row = re.search(r'<th scope="row">bare.*?</tr>', page, re.DOTALL)
    assert row is not None
    cells = re.findall(r"<td>(.*?)</td>", row[0])
    assert len(cells) == 10
    assert set(cells) == {DASH}
    assert "nan" not in _Page(page).text.lower().split()
    assert "Models" in page
    assert "Plots" not in _Page(page).text


@pytest.mark.parametrize("report", [{}, dict.fromkeys(example()), {"models": {"teacher": {}}}])
def test_an_almost_empty_report_is_a_page(report: dict[str, Any]) -> None:
    _Page(render_html(report, {}))
    assert headline(report) == "No student was evaluated."
    assert render_markdown(report).startswith("# ")


@pytest.mark.parametrize("key", list(example()))
def test_any_key_may_be_missing(key: str) -> None:
    report = example()
    del report[key]
    _Page(render_html(report, {}))
    render_markdown(report)


def test_only_the_teacher() -> None:
    report = example() | {"comparisons": []}
    report["models"] = {"teacher": report["models"]["teacher"]}
    _Page(render_html(report, {}))
    assert headline(report) == (
        "No student was evaluated; the teacher reaches 97.3 % accuracy on test."
    )


def test_many_students_and_splits_stay_one_legible_page() -> None:
    splits = ("test", "validation", "shifted", "rare", "noisy", "old")
    report = sweep(30, splits)
    curves = {name: history(300, 0.01 * place) for place, name in enumerate(report["models"])}
    start = time.perf_counter()
    page = render_html(report, curves)
    assert time.perf_counter() - start < 20
    parsed = _Page(page)
    assert len(parsed.values("id")) == len(set(parsed.values("id")))
    tags = [tag for tag, _ in parsed.tags]
    assert tags.count("svg") == 3 + 7
    assert "26 more" in parsed.text
    assert "458 more stand in report.json." in parsed.text
    for split in splits:
        assert f"<strong>{split}</strong>" in page
    for name in report["models"]:
        assert name in parsed.text


def test_the_headline_of_a_difference_that_shows() -> None:
    assert headline(example()) == (
        "distilled keeps 99.1 % of the teacher's accuracy with 8.3 times fewer parameters, "
        "and is 1.8 points better than hard-labels (p = 0.03)."
    )


def test_the_headline_turns_a_comparison_round_and_owns_a_defeat() -> None:
    report = example()
    report["comparisons"] = [comparison("hard-labels", "distilled", 0.018, 0.0004)]
    assert headline(report).endswith(", but is 1.8 points worse than hard-labels (p < 0.001).")


def test_the_headline_claims_nothing_that_the_split_cannot_show() -> None:
    report = example()
    report["comparisons"] = [comparison("distilled", "hard-labels", 0.004, 0.41)]
    assert headline(report).endswith(
        "; against hard-labels there is no difference that this test split can show "
        "(+0.4 points [\u22121.1, +1.9], p = 0.41)."
    )


def test_without_p_the_interval_decides() -> None:
    report = example()
    report["comparisons"] = [comparison("distilled", "hard-labels", 0.018, None)]
    assert "1.8 points better than hard-labels" in headline(report)
    report["comparisons"] = [comparison("distilled", "hard-labels", 0.014, None)]
    assert "no difference that this test split can show" in headline(report)


def test_the_best_of_many_is_said_to_be_chosen() -> None:
    assert ", the best of 13 on test, keeps" in headline(sweep(12))


def test_less_is_better_for_losses() -> None:
    report = example()
    report["comparisons"] = [
        comparison("distilled", "hard-labels", -0.018, 0.01) | {"metric": "nll"}
    ]
    text = _Page(render_html(report, {})).text
    assert "distilled is better" in text
    assert "\u22120.018 [\u22120.033, \u22120.003]" in text


def test_a_language_model_shows_its_perplexity() -> None:
    report = example() | {"task": "causal_lm"}
    test = report["models"]["distilled"]["splits"]["test"]
    test |= {"perplexity": near(23.4, 1.0), "positions": 57_600, "bits_per_byte": near(1.2)}
    text = " ".join(_Page(render_html(report, {})).text.split())
    assert "Perplexity" in text
    assert "23.40 [22.40, 24.40]" in text
    assert "bits per byte" in text
    assert "next-token accuracy" in text
    assert "Perplexity" not in render_html(example(), {})


def test_a_failed_gate_shows() -> None:
    report = example()
    report["gates"][0] |= {"value": None, "passed": False}
    page = render_html(report, {})
    assert 'class="pill bad">1 of 1 gate failed<' in page
    assert "**1 of 1 gate failed**" in render_markdown(report)
    assert "pill" not in _Page(render_html(example() | {"gates": []}, {})).values("class")


def test_markdown_says_the_same_in_short() -> None:
    text = render_markdown(example())
    assert "**distilled**" in text
    assert "96.4 % [94.4, 98.4]" in text
    assert headline(example()) in text
    assert "**Label set**: kept top 3 of 10 classes" in text
    assert "| distilled.test.accuracy | >= 0.9 | 0.964 | passed |" in text
    assert max(len(line) for line in text.splitlines()) < 400


def test_a_long_history_is_averaged_to_few_points() -> None:
    rows = history(250_000, 0.05)
    points = thin(rows, "loss")
    assert points.shape == (CURVE_POINTS, 2)
    mean = sum(row["loss"] or 0.0 for row in rows) / len(rows)
    assert points[:, 1].mean() == pytest.approx(mean, rel=1e-3)
    assert (points[1:, 0] > points[:-1, 0]).all()


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"keep": "all"}, "kept all 10 classes"),
        ({"keep": "top_p", "p": 0.9, "k": 8}, "kept the mass 0.9, at most 8 of 10 classes"),
        ({"keep": "sample", "draws": 64, "k": 10}, "kept 64 draws of 10 classes"),
    ],
)
def test_what_is_kept_is_said_of_every_way_of_keeping(chosen: dict[str, Any], said: str) -> None:
    report = example()
    report["label_set"] |= {**chosen, "layout": "compact"}
    text = render_markdown(report)
    assert said in text
    assert "layout compact" in text


def test_a_short_history_is_kept_and_gaps_are_left_out() -> None:
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": None}, {"step": 3, "loss": math.nan}]
    assert thin([*rows, {"step": 4, "loss": 1.0}], "loss").tolist() == [[1.0, 2.0], [4.0, 1.0]]
    assert thin(rows, "validation_accuracy").shape == (0, 2)


def test_a_long_history_makes_a_small_page() -> None:
    page = render_html(example(), {"distilled": history(100_000, 0.05)})
    assert len(page) < 200_000


def test_importing_it_loads_no_torch() -> None:
    heavy = "{'torch', 'prefect', 'matplotlib.pyplot'}"
    code = f"import sys, tasks.render; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_samples_that_were_set_aside_are_said_where_there_are_any() -> None:
    report = example()
    assert "set aside" not in render_markdown(report)
    report["label_set"]["quarantined"] = 0
    assert "set aside" not in render_html(report, {})
    report["label_set"]["quarantined"] = 1234
    assert "set aside 1,234 samples" in render_markdown(report)
    assert "1,234 samples" in render_html(report, {})
