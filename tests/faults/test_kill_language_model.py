"""A causal language model, killed with -9 while it labels, in this process or in one of its own."""

import random

import pytest
import yaml

from storage.files import Folder
from storage.verify import verify
from tests.faults.command import Command, records, until, weights
from tests.faults.test_kill import files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MODEL = {"kind": "token_transformer", "layers": 1, "width": 32, "heads": 2}
TRAINING = {"epochs": 2, "batch_size": 16, "checkpoint_seconds": 0}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    content = {
        "name": "blocks",
        "data": {
            "name": "blocks",
            "source": "tests.faults.blocks:blocks",
            "version": "1",
            "task": "causal_lm",
            "inputs": "tokens",
            "classes": 61,
            "splits": {"column": "split"},
        },
        "teacher": {"kind": "fit", "model": MODEL, "training": TRAINING},
        "labels": {
            "k": 8, "temperatures": [1.0, 2.0, 4.0], "batch_size": 4, "positions_per_shard": 200,
            "layout": "compact", "codec": "uint8", "evaluation": {"k": 8},
        },
        "students": {"small": {"model": MODEL | {"width": 16}, "training": TRAINING}},
        "evaluation": {"resamples": 100, "speed": False},
    }  # fmt: skip
    path = tmp_path_factory.mktemp("recipe") / "blocks.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def reference(recipe, prefect_home, tmp_path_factory):
    command = Command(recipe, tmp_path_factory.mktemp("reference"), prefect_home)
    result = command.finish()
    until(lambda: not command.processes(), "the end of all processes", seconds=30.0)
    return result, command.store


@pytest.mark.parametrize("option", ["execution.retries=2", "execution.deadline_seconds=60"])
def test_killed_while_it_labels_it_ends_as_if_it_had_not_been(
    recipe, prefect_home, reference, tmp_path, option
):
    expected, store = reference
    command = Command(recipe, tmp_path / "store", prefect_home)
    chance = random.Random(1)
    kills = 0
    committed: dict[str, int] = {}
    for count in (0, 1, 4, 9, 15, 22):
        reached = files(command.store, "labels/*/records/*", count)
        kills += command.kill_when(reached, chance.uniform(0.0, 0.1), "--set", option)
        now = records(command.store)
        assert committed.items() <= now.items(), "a committed shard was made again"
        committed = now
    assert kills >= 4
    result = command.finish("--set", option)
    assert result["stages"]["label"]["digest"] == expected["stages"]["label"]["digest"]
    assert weights(command.store) == weights(store)
    assert list(verify(Folder.open(str(command.store)))) == []
    until(lambda: not command.processes(), "the end of all processes", seconds=30.0)
