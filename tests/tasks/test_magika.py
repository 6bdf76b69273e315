"""Labels that Magika's model makes here, against what Magika's own tool says of the same files."""

import json
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch

from storage import schema
from storage.corpus import MemoryCorpus
from storage.options import LabelOptions, Task
from storage.spec import CorpusForm
from tasks.onnx_teacher import OnnxTeacher
from tests.tasks.onnx_graphs import options
from tests.tasks.toy import label_set

FILES = 500
TOOL = Path(sysconfig.get_path("scripts")) / "magika"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def files():
    magika = pytest.importorskip("magika")
    from tests.tasks.magika_files import files

    return files(magika.Magika(), FILES)


@pytest.fixture(scope="module")
def answers(files):
    """The model's class of each file, as the command-line tool prints it."""
    paths = [str(path) for path, _ in files]
    done = subprocess.run([TOOL, "--jsonl", *paths], capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [entry["path"] for entry in found] == paths
    return [entry["result"]["value"]["dl"]["label"] for entry in found]


@pytest.mark.parametrize("reduce", ["torch", "graph"])
def test_the_best_class_that_is_stored_is_what_magika_says(store, files, answers, reduce):
    from tests.tasks.magika_files import BYTES, CLASSES, MODEL

    said = options(output="probabilities", reduce=reduce)
    teacher = OnnxTeacher(MODEL.read_bytes(), (BYTES,), torch.device("cpu"), said)
    assert teacher.num_classes == len(CLASSES)
    assert teacher.origin.endswith("Dense_1/AddV2:0, which the softmax of target_label takes")
    rows = {
        "sample_id": np.array([str(path) for path, _ in files], dtype=object),
        "input.bytes": np.stack([numbers for _, numbers in files]),
    }
    form = CorpusForm(Task.CLASSIFICATION, (BYTES,), False, ("train",))
    kept = LabelOptions(k=16, temperature=2.0)
    labels = label_set(store, MemoryCorpus(form, {"train": rows}), teacher, kept)
    best_P = np.concatenate([rows[schema.INDEX][:, 0] for rows in labels.batches("train")])
    assert [CLASSES[best] for best in best_P] == answers
    assert len(set(answers)) > 20
