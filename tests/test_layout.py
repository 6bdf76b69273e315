"""The tree is as DESIGN.md says, and imports go one way: flows, tasks, storage."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("flows", "tasks", "tasks/nn", "storage")
LIGHT = (
    "flows.cli",
    "flows.recipe",
    "flows.project",
    "flows.status",
    "flows.inspect",
    "flows.verify",
    "flows.run",
    "flows.teacher",
    "flows.label",
    "flows.train",
    "flows.evaluate",
    "flows.pipeline",
    "flows.serve",
)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_says_what_it_is(package):
    text = (ROOT / package / "__init__.py").read_text()
    assert text.startswith('"""')


@pytest.mark.parametrize(
    "file",
    [
        "pyproject.toml",
        "README.md",
        "Makefile",
        "constraints.txt",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "LICENSE",
        "softlabel.py",
        "flows/cli.py",
        "flows/pipeline.py",
        "flows/recipe.py",
        "deployments/prefect.yaml",
        "deployments/recipes/digits.yaml",
        "deployments/Dockerfile",
        "deployments/docker-compose.yml",
    ],
)
def test_what_people_look_for_is_there(file):
    assert (ROOT / file).is_file()


def test_no_module_is_called_utils():
    modules = [path for package in PACKAGES for path in (ROOT / package).glob("*.py")]
    assert len(modules) > 40
    assert not {path.stem for path in modules} & {"utils", "util", "helpers", "common", "misc"}


def test_every_module_says_what_it_is():
    for package in PACKAGES:
        for path in (ROOT / package).glob("*.py"):
            assert path.read_text().startswith('"""'), path


def test_imports_go_one_way():
    lint = Path(sys.executable).with_name("lint-imports")
    command = [lint, "--config", ROOT / "pyproject.toml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_flows_and_the_command_line_load_without_torch():
    code = (
        f"import sys; [__import__(name) for name in {LIGHT!r}];"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'transformers', 'sklearn', 'matplotlib'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_line_loads_without_prefect():
    code = "import sys, flows.cli, flows.status, flows.inspect; print('prefect' in sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
