"""The built-in models over tokens and bytes, as teachers and as students, from end to end."""

import json
import math

import pytest
import torch

from storage.files import Folder
from storage.verify import verify
from tests.flows.blobs import blobs_recipe, report_of

SIZES = {"layers": 1, "width": 16, "heads": 2}
LANGUAGE_MODEL = {"kind": "token_transformer", **SIZES}
SMALLER = {**LANGUAGE_MODEL, "width": 8}
TRAINING = {"epochs": 40, "batch_size": 8, "learning_rate": 0.02}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """The models are tiny: further threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def counting_data(task, **more):
    return {
        "name": "counting",
        "source": "tests.flows.targets:counting",
        "task": task,
        "inputs": "tokens",
        "classes": 7,
        "splits": {"column": "split"},
        **more,
    }


def run(workspace, data, teacher, student, **labels):
    workspace.write_recipe(
        blobs_recipe(
            data=data,
            teacher={"kind": "fit", "model": teacher, "training": TRAINING},
            labels={"k": 3, "positions_per_shard": 64, "positions_per_row_group": 16, **labels},
            students={"small": {"model": student, "training": TRAINING}},
        )
    )
    stages = workspace.run()
    assert not list(verify(Folder.open(workspace.store)))
    card = json.loads((workspace.only("teachers") / "card.json").read_text())
    return report_of(stages["evaluate"])["models"], card


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
def test_a_causal_language_model_teaches_a_smaller_one(workspace, masked):
    """Blocks that count up modulo 7: after the first token all is certain."""
    data = counting_data("causal_lm", attention_mask=masked)
    models, card = run(workspace, data, LANGUAGE_MODEL, SMALLER)
    teacher = card["details"]["validation"]
    assert teacher["accuracy"] > 0.9
    assert teacher["nll"] < 0.5
    assert teacher["positions"] == 5 * 6
    for name in ("teacher", "small"):
        figures = models[name]["splits"]["test"]
        assert figures["accuracy"]["value"] > 0.9
        assert figures["nll"]["value"] < 0.5
        ratio = figures["perplexity"]["value"] / math.exp(figures["nll"]["value"])
        assert ratio == pytest.approx(1.0)
    assert models["small"]["parameters"] < models["teacher"]["parameters"]
    assert models["small"]["splits"]["test"]["agreement"]["value"] > 0.9


@pytest.mark.slow
def test_a_tagger(workspace):
    data = counting_data("tagging", attention_mask=True, label="tag", classes=3)
    tagger = {**LANGUAGE_MODEL, "vocabulary": 7}
    models, card = run(workspace, data, tagger, {**tagger, "width": 8})
    assert card["details"]["validation"]["accuracy"] == 1.0
    figures = models["small"]["splits"]["test"]
    assert figures["accuracy"]["value"] > 0.9
    assert "perplexity" not in figures


@pytest.mark.slow
@pytest.mark.parametrize("student", [{"kind": "byte_mlp", "hidden": [16], "patch": 4}, None])
def test_files_of_one_length(workspace, student):
    data = counting_data("classification", inputs="bytes", label="kind", classes=3)
    data["source"] = "tests.flows.targets:small_files"
    teacher = {"kind": "byte_transformer", "patch": 4, **SIZES}
    models, card = run(workspace, data, teacher, student or {**teacher, "width": 8})
    assert card["details"]["validation"]["accuracy"] > 0.9
    assert models["small"]["splits"]["test"]["accuracy"]["value"] > 0.9
