"""The digits pipeline, run once and undisturbed, to compare with what was killed or lacked room."""

from pathlib import Path

import pytest
import yaml

from tests.faults.command import Command, until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def recipe(tmp_path_factory):
    """The digits recipe, shorter, in many shards, and with a checkpoint after every step."""
    content = yaml.safe_load((ROOT / "deployments/recipes/digits.yaml").read_text())
    trainings = [content["teacher"], *content["students"].values()]
    for trained in trainings:
        trained["training"] |= {"epochs": 6, "checkpoint_seconds": 0}
    content["labels"]["positions_per_shard"] = 32
    content["evaluation"]["gates"] = {}
    path = tmp_path_factory.mktemp("recipe") / "digits.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory):
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="session")
def uninterrupted(recipe, prefect_home, tmp_path_factory):
    command = Command(recipe, tmp_path_factory.mktemp("reference"), prefect_home)
    result = command.finish()
    until(lambda: not command.processes(), "the end of all processes", seconds=30.0)
    return result, command.store
