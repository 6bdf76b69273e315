import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from safetensors.torch import save_file

from flows.cli import main
from flows.recipe import recipe_schema
from tests.flows.blobs import blobs_recipe
from tests.flows.targets import blob_model

SOFTLABEL = Path(sys.executable).with_name("softlabel")


def softlabel(*arguments, **variables):
    """The real command."""
    return subprocess.run(
        [SOFTLABEL, *map(str, arguments)],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["COMMAND"]),
        (["walk"], ["invalid choice: 'walk'", "run"]),
        (
            ["export", "a", "--to", "b", "--format", "portable", "--temperature", "hot"],
            ["--temperature: expected a number or std, got 'hot'"],
        ),
        (["run"], ["RECIPE"]),
        (["run", "recipe.yaml", "--stage", "deploy"], ["--stage", "'deploy'", "evaluate"]),
        (["run", "recipe.yaml", "--fast"], ["--fast"]),
        (["inspect"], ["URL|RECIPE"]),
        (["inspect", "store", "--samples", "few"], ["--samples", "whole number", "'few'"]),
        (["export", "store", "--format", "portable"], ["--to"]),
        (["export", "store", "--to", "out", "--format", "csv"], ["--format", "portable"]),
    ],
)
def test_wrong_usage_ends_with_2(capsys, arguments, words):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    for word in words:
        assert word in said.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--version"], f"softlabel {version('softlabel')}"),
        (["--help"], "run what a recipe needs"),
        (["run", "--help"], "labels.k=32"),
    ],
)
def test_help_and_version_end_with_0(capsys, arguments, expected):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    assert expected in capsys.readouterr().out


def test_the_schema_is_printed(capsys):
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == recipe_schema()


def test_a_run_in_a_process_of_its_own_keeps_its_words_apart(copied):
    done = softlabel("run", copied.recipe, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["stages"]["train"]["status"] == "cached"


def test_a_failing_run_in_a_process_of_its_own_shows_no_traceback(workspace):
    weights = {name: tensor * float("nan") for name, tensor in blob_model().state_dict().items()}
    save_file(weights, workspace.folder / "teacher.safetensors")
    teacher = {
        "kind": "torch",
        "target": "tests.flows.targets:blob_model",
        "weights": "teacher.safetensors",
    }
    workspace.write_recipe(blobs_recipe(teacher=teacher))
    root = str(Path(__file__).resolve().parents[2])
    done = softlabel("run", workspace.recipe, "--json", PYTHONPATH=root)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("softlabel: ")
    assert "NaN" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ["tasks", "storage"])
def test_another_package_in_the_way_is_said(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    done = softlabel("schema", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"softlabel: the package '{name}' that Python finds is {tmp_path}")
    assert "PYTHONPATH" in line


def test_a_reader_that_stops_early_is_no_error():
    command = [SOFTLABEL, "schema"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
