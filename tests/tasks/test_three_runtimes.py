"""The labels of one and the same model by Hugging Face, by PyTorch and by ONNX Runtime agree."""

import numpy as np
import pytest
import torch
import transformers

from storage.corpus import MemoryCorpus
from storage.options import Codec, LabelOptions, Task
from storage.rows import Ragged, values_of
from storage.spec import CorpusForm, InputSpec
from tasks.export import onnx_bytes
from tasks.huggingface_models import load_teacher_module
from tasks.huggingface_options import HuggingFaceTeacherOptions
from tasks.huggingface_teacher import HuggingFaceTeacher
from tasks.nn.models import load_module
from tasks.onnx_options import OnnxTeacherOptions
from tasks.onnx_teacher import OnnxTeacher
from tasks.teachers import TorchTeacher
from tasks.weights import load_weights
from tests.tasks.hf_models import BERT, LLAMA, VOCABULARY, save_model
from tests.tasks.toy import label_set

CPU = torch.device("cpu")
INPUTS = tuple(
    InputSpec(name=name, dtype="int64", shape=None) for name in ("input_ids", "attention_mask")
)


def positional(architecture, folder):
    """A target: the same model as plain PyTorch, which takes its inputs by position."""
    kind = getattr(transformers, architecture)

    class Positional(kind):
        def forward(self, input_ids, attention_mask):
            return super().forward(input_ids=input_ids, attention_mask=attention_mask).logits

    return Positional(kind.config_class.from_pretrained(folder))


def corpus(task):
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 12, 24)
    count = int(lengths.sum())
    rows = {
        "sample_id": np.array([f"text-{place}" for place in range(24)], dtype=object),
        "input.input_ids": Ragged(generator.integers(1, VOCABULARY, count), lengths),
        "input.attention_mask": Ragged(np.ones(count, np.int64), lengths),
    }
    if task is Task.CAUSAL_LM:
        rows["mask"] = Ragged(np.ones(count, np.bool_), lengths)
    return MemoryCorpus(CorpusForm(task, INPUTS, False, ("train",)), {"train": rows})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "config", "task", "k"),
    [
        ("BertForSequenceClassification", {**BERT, "num_labels": 6}, Task.CLASSIFICATION, 3),
        ("LlamaForCausalLM", LLAMA, Task.CAUSAL_LM, 8),
    ],
)
def test_their_labels_agree(store, tmp_path, architecture, config, task, k):
    folder = save_model(tmp_path / "model", architecture, **config)
    said = HuggingFaceTeacherOptions(kind="huggingface", model=str(folder))
    plain = load_module(
        "tests.tasks.test_three_runtimes:positional",
        {"architecture": architecture, "folder": folder},
        "teacher",
    )
    weights = folder / "model.safetensors"
    load_weights(plain, weights.read_bytes(), str(weights))
    graph = onnx_bytes(load_teacher_module(said, folder, INPUTS, task, "x"), INPUTS, "x")
    teachers = {
        "huggingface": HuggingFaceTeacher(said, folder, INPUTS, task, CPU, "teacher"),
        "torch": TorchTeacher(plain, INPUTS, CPU, "teacher"),
        "onnx": OnnxTeacher(
            graph, INPUTS, CPU, OnnxTeacherOptions(kind="onnx", path="x"), where="teacher"
        ),
    }
    options = LabelOptions(
        k=k, codec=Codec.FLOAT32, temperature=2.0, batch_size=5, positions_per_shard=64,
    )  # fmt: skip
    stored = {}
    for place, (name, teacher) in enumerate(teachers.items()):
        labels = label_set(store, corpus(task), teacher, options, f"{place:016x}")
        parts = list(labels.batches("train"))
        stored[name] = {
            column: np.concatenate([values_of(part[column]) for part in parts])
            for column in ("index", "logit", "rest")
        }
        labels.close()
    for name in ("torch", "onnx"):
        np.testing.assert_array_equal(stored[name]["index"], stored["huggingface"]["index"])
        for column in ("logit", "rest"):
            np.testing.assert_allclose(
                stored[name][column], stored["huggingface"][column], rtol=1e-5, atol=1e-5
            )
