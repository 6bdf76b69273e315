"""A tiny project: 120 points around three centres, and a recipe that runs in a second or two.

72 points train, 24 validate, 24 test; a shard holds 24. The hard label of point n is n modulo 3.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from prefect import State
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from flows.pipeline import pipeline

SPLITS = {"train": 72, "validation": 24, "test": 24}
NUM_FEATURES = 4
NUM_CLASSES = 3
SHARDS = 5
TEACHER_BATCHES = 10

_TRAINING = {"epochs": 6, "batch_size": 24, "learning_rate": 0.05}
_RECIPE: dict[str, Any] = {
    "name": "blobs",
    "data": {
        "name": "blobs",
        "source": "blobs.parquet",
        "inputs": "x",
        "label": "label",
        "classes": NUM_CLASSES,
        "splits": {"column": "split"},
    },
    "teacher": {"kind": "fit", "model": {"kind": "mlp", "hidden": [8]}, "training": _TRAINING},
    "labels": {
        "k": 2,
        "temperature": 2.0,
        "codec": "float32",
        "batch_size": 16,
        "positions_per_shard": 24,
        "positions_per_row_group": 12,
    },
    "students": {
        "small": {
            "model": {"kind": "mlp", "hidden": [4]},
            "loss": {"soft_weight": 0.9},
            "training": _TRAINING,
        },
    },
    "evaluation": {"resamples": 100, "speed": False},
}


def blobs_recipe(**parts: Any) -> dict[str, Any]:
    """The recipe as plain values; `parts` replace whole parts."""
    return json.loads(json.dumps(_RECIPE)) | parts


def blobs(extra: int = 0) -> dict[str, Any]:
    """The columns; `extra` more points come last, for training."""
    count = sum(SPLITS.values()) + extra
    label = np.arange(count) % NUM_CLASSES
    noise = np.random.default_rng(0).normal(0, 0.5, (count, NUM_FEATURES))
    x = np.eye(NUM_CLASSES, NUM_FEATURES)[label] * 3 + noise
    split = [name for name, size in SPLITS.items() for _ in range(size)] + ["train"] * extra
    return {"x": list(x.astype(np.float32)), "label": label, "split": split}


@dataclass(frozen=True)
class Workspace:
    """A folder with a recipe, its data, and the store beside them."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, recipe: Mapping[str, Any] | None = None) -> "Workspace":
        folder.mkdir(parents=True, exist_ok=True)
        made = cls(folder)
        made.write_data(blobs())
        made.write_recipe(recipe or blobs_recipe())
        return made

    @property
    def recipe(self) -> str:
        return str(self.folder / "recipe.yaml")

    @property
    def data(self) -> Path:
        return self.folder / "blobs.parquet"

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def write_recipe(self, recipe: Mapping[str, Any]) -> None:
        Path(self.recipe).write_text(yaml.safe_dump(dict(recipe), sort_keys=False))

    def write_data(self, columns: Mapping[str, Any]) -> None:
        pq.write_table(pa.table(dict(columns)), self.data)

    def files(self, below: str = "") -> dict[str, str]:
        """What the store holds: the sha256 of each file by its name."""
        root = self.store / below
        return {
            str(path.relative_to(self.store)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }

    def only(self, kind: str) -> Path:
        """The folder of the one product of a kind."""
        (folder,) = (self.store / kind).iterdir()
        return folder

    def run(self, **asked: Any) -> dict[str, Any]:
        """Run the pipeline; gives the records of the stages."""
        return self.state(**asked).result()["stages"]

    def state(self, **asked: Any) -> State[Any]:
        """Run the pipeline; gives the state that it ended in."""
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            return pipeline(self.recipe, **asked, return_state=True)


@dataclass(frozen=True)
class Finished(Workspace):
    """A project that ran once, and the state that its run ended in."""

    state_of_first: State[Any]

    @property
    def first(self) -> dict[str, Any]:
        """The records of the stages of the first run."""
        return self.state_of_first.result()["stages"]


def report_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The report that an evaluate stage's record names."""
    return json.loads(Path(record["report"]).read_text())
