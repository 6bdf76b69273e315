"""The recipes that are shipped run from end to end, on a part of their data where it is large."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flows.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "deployments/recipes"

_FEW_BLOCKS = [
    "data.source=[stdlib://json/decoder.py, stdlib://json/tool.py, stdlib://json/scanner.py]",
    "data.splits.fractions={train: 0.5, test: 0.5}",
    "data.tokens.block=64",
    "teacher.training.epochs=1",
]
SMALL = {
    "distilbert": [
        *_FEW_BLOCKS,
        "students.distilled.training.epochs=1",
        "students.hard-labels.training.epochs=1",
    ],
    "tinybert": [
        *_FEW_BLOCKS,
        "students.distilled.training.phases=[{epochs: 1, loss: none, match: [{kind: hidden, "
        "layers: uniform}, {kind: attention, layers: uniform}]}, {epochs: 1, match: []}]",
        "students.hard-labels.training.epochs=1",
    ],
    "magika": [
        "data.source=[stdlib://json/*.py, stdlib://email/**, stdlib://html/**]",
        "data.splits.fractions={train: 0.5, test: 0.5}",
        "students.bytes-mlp.training.epochs=1",
        "students.bytes-transformer.training.epochs=1",
    ],
    "smollm2": [
        "data.source=[stdlib://json/decoder.py, stdlib://json/tool.py, stdlib://json/scanner.py]",
        "data.splits.fractions={train: 0.5, test: 0.5}",
        "data.tokens.block=64",
    ],
    "fashion-mnist": [
        "teacher.training.epochs=1",
        "students.distilled.training.epochs=1",
        "students.hard-labels.training.epochs=1",
    ],
}


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_recipe_is_right(path):
    assert load_recipe(str(path)).recipe.name == path.stem
    assert path.stem == "digits" or path.stem in SMALL


@pytest.fixture(scope="module")
def clothes(tmp_path_factory):
    """A folder with files such as those of Fashion-MNIST: bars, one place for each class."""
    folder = tmp_path_factory.mktemp("clothes")
    rng = np.random.default_rng(0)
    for split, count in (("train", 400), ("t10k", 100)):
        label_B = np.arange(count) % 10
        image_BHW = rng.integers(0, 100, (count, 28, 28)).astype(np.uint8)
        for place, label in enumerate(label_B):
            image_BHW[place, :, 2 * label : 2 * label + 4] = 250
        header = bytes([0, 0, 8, 3]) + np.array([count, 28, 28], ">i4").tobytes()
        images = folder / f"{split}-images-idx3-ubyte.gz"
        images.write_bytes(gzip.compress(header + image_BHW.tobytes()))
        header = bytes([0, 0, 8, 1]) + np.array([count], ">i4").tobytes()
        labels = folder / f"{split}-labels-idx1-ubyte.gz"
        labels.write_bytes(gzip.compress(header + label_B.astype(np.uint8).tobytes()))
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", sorted(SMALL))
def test_each_recipe_runs(name, clothes, tmp_path):
    overrides = list(SMALL[name])
    if name == "fashion-mnist":
        overrides.append(f"data.source={clothes}")
    command = [sys.executable, "-m", "flows.cli", "run", str(RECIPES / f"{name}.yaml"), "--json"]
    command += ["--store", str(tmp_path / "store")]
    for override in overrides:
        command += ["--set", override]
    environment = os.environ | {"PREFECT_HOME": str(tmp_path / "prefect")}
    environment.pop("PREFECT_API_URL", None)
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert {stage["status"] for stage in result["stages"].values()} == {"completed"}
    report = json.loads(Path(result["report"]).read_text())
    students = [name for name in report["models"] if name != "teacher"]
    for student in students:
        figures = report["models"][student]["splits"]["test"]
        # A few steps from random weights teach hardly more than which tokens are frequent.
        assert figures["agreement"]["value"] > 0 or name == "tinybert"
        assert figures["kl_to_teacher"]["value"] > 0
    if name == "smollm2":
        assert report["models"]["teacher"]["splits"]["test"]["perplexity"]["value"] > 1
