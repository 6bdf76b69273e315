"""Every command and example of the README runs, in the order in which it is written there."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import torch
import yaml

from storage.corpus import MemoryCorpus
from storage.data_options import DataOptions
from storage.files import Folder
from storage.options import Keep, LabelOptions, Task
from storage.spec import CorpusForm, InputSpec
from tasks.loss_options import LossOptions
from tasks.options import StudentOptions
from tasks.training_options import TrainingOptions
from tests.storage.kinds import spec_of_kind, write_known_set
from tests.storage.test_positions import softmax
from tests.tasks.toy import label_set

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MAKE_TARGETS = ("demo", "demo-magika", "demo-smollm2", "demo-distilbert", "demo-tinybert", "test")


def blocks(language: str) -> list[str]:
    return [content for kind, content in BLOCK.findall(README) if kind == language]


def commands() -> list[str]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [line.split("  #")[0].strip() for line in lines if line.strip()]


def command_line(command: str) -> list[str]:
    """A command of the README with the programs of this environment."""
    words = shlex.split(command)
    programs = {"softlabel": ["-m", "flows.cli"], "prefect": ["-m", "prefect"]}
    return [sys.executable, *programs[words[0]], *words[1:]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The repository's recipes, and the README's files, where the commands are given."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "deployments", folder / "deployments")
    (folder / "wine.py").write_text(next(b for b in blocks("python") if "def data" in b))
    (folder / "wine.yaml").write_text(next(b for b in blocks("yaml") if "wine" in b))
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    home = tmp_path_factory.mktemp("prefect")
    kept = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    return kept | {"PREFECT_HOME": str(home), "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}


def run(command: list[str], folder: Path, environment: dict[str, str], target: str = "") -> str:
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    if target:
        (folder / target).write_text(done.stdout)
    return done.stdout


def confused_pairs(query: str, folder: Path) -> list[tuple[int, int, float]]:
    """What DuckDB finds for a query of the README in a folder."""
    with contextlib.chdir(folder), duckdb.connect() as connection:
        return connection.sql(query).fetchall()


def serve_until_it_answers(folder: Path, environment: dict[str, str], command: list[str]) -> None:
    served = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert served.stdout is not None
    try:
        lines = [served.stdout.readline().decode() for _ in range(6)]
        assert lines[0].startswith("Prefect UI  http://127.0.0.1:")
        flows = ("pipeline", "teacher", "label", "train", "evaluate")
        assert [line.strip() for line in lines[1:]] == [f"{flow}/digits" for flow in flows]
    finally:
        served.send_signal(signal.SIGINT)
        served.communicate(timeout=60)


def test_the_make_targets_of_the_readme_exist():
    named = [command.split()[1] for command in commands() if command.startswith("make ")]
    assert sorted(named) == sorted(MAKE_TARGETS)
    makefile = (ROOT / "Makefile").read_text()
    for target in named:
        needs = "$(MODELS)" if target.startswith("demo-") else "install"
        assert f"\n{target}: {needs}\n" in makefile


def test_every_file_that_the_readme_links_to_exists():
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_recipes_of_the_readme_are_right(folder):
    from flows.recipe import ExecutionOptions, load_recipe

    assert load_recipe(str(folder / "wine.yaml")).recipe.name == "wine"
    kinds = [yaml.safe_load(block) for block in blocks("yaml") if "splits:" in block]
    parts = [said for said in kinds if "format" in said or "tokens" in said]
    assert len(parts) >= 6
    for said in parts:
        assert DataOptions.model_validate(said)
    for block in blocks("yaml"):
        said = yaml.safe_load(block)
        assert said
        if list(said) == ["loss"]:
            assert LossOptions.model_validate(said["loss"])
        if list(said) == ["execution"]:
            assert ExecutionOptions.model_validate(said["execution"])
        if list(said) == ["training"]:
            assert TrainingOptions.model_validate(said["training"])
        for student in said.get("students", {}).values() if list(said) == ["students"] else ():
            if "model" in student:
                assert StudentOptions.model_validate(student)
        if list(said) == ["labels"]:
            assert LabelOptions.model_validate(said["labels"])


@pytest.mark.parametrize("num_classes", [3, 9])
def test_the_most_confused_pairs_of_the_readme_are_right(tmp_path, num_classes):
    spec = spec_of_kind(Keep.ALL, num_classes=num_classes)
    known = write_known_set(Folder.open(tmp_path / "wine-sql"), spec, sizes=(50, 30))
    (query,) = blocks("sql")
    found = confused_pairs(query, tmp_path)
    label_N = np.concatenate([rows["label"] for rows in known.labels.batches("train")])
    known.labels.close()
    p_NC = softmax(known.logit_NC["train"], 1.0)
    mean_CC = np.array([p_NC[label_N == label].mean(axis=0) for label in range(num_classes)])
    pairs = [
        (label, other, mean_CC[label, other])
        for label in range(num_classes)
        for other in range(num_classes)
        if label != other
    ]
    expected = sorted(pairs, key=lambda pair: -pair[2])[:10]
    assert [pair[:2] for pair in found] == [pair[:2] for pair in expected]
    assert [pair[2] for pair in found] == pytest.approx([pair[2] for pair in expected], rel=1e-5)


def test_the_three_lines_of_the_readme_open_describe_and_decode_a_set(tmp_path, capsys):
    known = write_known_set(Folder.open(tmp_path / "store"), spec_of_kind())
    known.labels.close()
    (block,) = [block for block in blocks("python") if "labels.describe()" in block]
    lines = [line for line in block.splitlines() if "open_labels(" not in line]
    code = compile("\n".join(lines), "README.md", "exec")
    exec(code, {"url": known.labels.folder.url})
    printed = capsys.readouterr().out
    assert known.labels.digest in printed
    assert "train-0" in printed


class Centres:
    """A teacher of three classes: the sums of the first and the next few numbers, and 0."""

    num_classes = 3

    def logits(self, inputs):
        (measured,) = inputs
        return torch.stack([measured[:, :6].sum(1), measured[:, 6:].sum(1), 0 * measured[:, 0]], 1)


@pytest.mark.parametrize(("what", "epochs"), [("optimizer.step()", 20), ("trainer.train()", 5)])
def test_the_training_loops_of_the_readme_run(tmp_path, monkeypatch, capsys, what, epochs):
    form = CorpusForm(
        Task.CLASSIFICATION,
        (InputSpec(name="measured", dtype="float32", shape=(13,)),),
        True,
        ("train",),
    )
    measured = np.random.default_rng(0).normal(0, 1, (40, 13)).astype(np.float32)
    rows = {
        "sample_id": np.array([f"wine-{n}" for n in range(40)], dtype=object),
        "input.measured": measured,
        "label": np.arange(40) % 3,
    }
    options = LabelOptions(keep="all", temperature=2.0, batch_size=16, positions_per_shard=20)
    store = Folder.open(tmp_path / "store")
    labels = label_set(store, MemoryCorpus(form, {"train": rows}), Centres(), options)
    monkeypatch.setattr("softlabel.open_labels", lambda recipe: labels)
    monkeypatch.chdir(tmp_path)
    (block,) = [block for block in blocks("python") if what in block]
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)
    labels.close()
    assert names["stream"].epoch * 40 + names["stream"].consumed == epochs * 40


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_command_of_the_readme_runs(folder, environment):
    ran = 0
    for command in commands():
        if command.startswith("make "):
            continue
        words, _, target = command.partition(" > ")
        if words.startswith("softlabel serve"):
            serve_until_it_answers(folder, environment, command_line(words))
        elif words.startswith("prefect "):
            continue  # these need a running server: see test_serve.py
        else:
            run(command_line(words), folder, environment, target)
        ran += 1
    assert ran >= 9
    for block in blocks("python"):
        run([sys.executable, "-W", "ignore", "-c", block], folder, environment)
    for block in blocks("sql"):
        assert len(confused_pairs(block, folder)) == 6


@pytest.mark.slow
def test_the_finished_example_only_looks(folder, environment):
    started = time.monotonic()
    output = run(command_line("softlabel run wine.yaml"), folder, environment)
    assert "completed" not in output, time.monotonic() - started
