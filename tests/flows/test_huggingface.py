"""Pipelines with Hugging Face models: as teacher, as fitted teacher and as students."""

import json
import shutil
import sys

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers

from storage.errors import ModelError, RecipeError
from storage.reader import LabelSet
from tests.flows.blobs import Workspace, report_of
from tests.tasks.hf_models import BERT, LLAMA, WORDS, save_bert_tokenizer, save_model

_SIZES = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
}
_TRAINING = {"epochs": 2, "batch_size": 16, "learning_rate": 0.01}
_LABELS = {"k": 2, "codec": "float32", "batch_size": 8, "positions_per_shard": 24}
_NAMES = {"id2label": {0: "calm", 1: "glad", 2: "sad"}}
_TEXTS = {"text": "string", "label": "int64", "split": "string"}


def _texts():
    """Sentences of known words; the label of a sentence is its first word."""
    generator = np.random.default_rng(0)
    rows = []
    for place in range(60):
        words = generator.choice(WORDS[5:10], generator.integers(1, 7))
        split = "train" if place < 40 else "test"
        rows.append((" ".join(words), WORDS[5:8].index(words[0]) if words[0] in WORDS[5:8] else 0,
                     split))  # fmt: skip
    return dict(zip(_TEXTS, map(list, zip(*rows, strict=True)), strict=True))


def _recipe(**parts):
    student = {"model": {"kind": "huggingface", "model": "bert", "config": _SIZES},
               "loss": {"soft_weight": 0.8}, "training": _TRAINING}  # fmt: skip
    return {
        "name": "hugging",
        "data": {
            "name": "texts", "source": "texts.parquet", "inputs": "text", "label": "label",
            "tokens": {}, "splits": {"column": "split"},
        },
        "teacher": {"kind": "huggingface", "model": "saved"},
        "labels": _LABELS,
        "students": {"small": student},
        "evaluation": {"resamples": 100, "speed": True},
    } | parts  # fmt: skip


@pytest.fixture
def texts(server, tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    pq.write_table(pa.table(_texts()), folder / "texts.parquet")
    save_bert_tokenizer(
        save_model(folder / "saved", "BertForSequenceClassification", **BERT, **_NAMES)
    )
    workspace = Workspace(folder)
    workspace.write_recipe(_recipe())
    return workspace


@pytest.mark.slow
def test_a_teacher_with_its_tokenizer_and_a_student(texts):
    stages = texts.run()
    labels = LabelSet.open(str(texts.only("labels")))
    assert labels.spec.class_names == ("calm", "glad", "sad")
    assert [entry.name for entry in labels.spec.inputs] == ["input_ids", "attention_mask"]
    labels.close()
    card = json.loads((texts.only("teachers") / "card.json").read_text())
    assert card["details"]["class_names"] == ["calm", "glad", "sad"]
    assert card["details"]["source"] == "saved"
    student = texts.only("students")
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(student)
    assert [loaded.config.id2label[place] for place in range(3)] == ["calm", "glad", "sad"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(student)
    given = tokenizer("the cat sat", return_tensors="np")
    feeds = {name: given[name] for name in ("input_ids", "attention_mask")}
    (found,) = onnxruntime.InferenceSession(student / "model.onnx").run(["logits"], feeds)
    with torch.no_grad():
        wanted = loaded(**tokenizer("the cat sat", return_tensors="pt")).logits.numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    report = report_of(stages["evaluate"])
    for model in report["models"].values():
        assert model["samples_per_second"] > 0
        assert model["parameters"] > 0
    opened = []
    watching = True

    def watch(event, arguments):
        if watching and event == "open" and str(arguments[0]).startswith(str(texts.folder)):
            opened.append(str(arguments[0]))

    sys.addaudithook(watch)  # it stays for ever, and sees nothing later
    stages = texts.run()
    watching = False
    assert {record["status"] for record in stages.values()} == {"cached"}
    assert any(name.endswith("card.json") for name in opened)
    assert not [name for name in opened if name.endswith("safetensors")]


@pytest.mark.slow
def test_a_moved_model_is_the_same_and_a_changed_one_another(texts):
    first = texts.run()
    shutil.move(texts.folder / "saved", texts.folder / "elsewhere")
    texts.write_recipe(_recipe(teacher={"kind": "huggingface", "model": "elsewhere"}))
    moved = texts.run()
    for stage in ("teacher", "label", "train"):
        assert moved[stage]["status"] == "cached", stage
    config = texts.folder / "elsewhere" / "config.json"
    config.write_text(config.read_text().replace('"glad"', '"merry"'))
    changed = texts.run()
    assert changed["teacher"]["digest"] != first["teacher"]["digest"]
    assert changed["label"]["status"] == "completed"


def test_classes_in_another_order_than_the_teachers_are_refused(texts):
    recipe = _recipe()
    recipe["data"]["classes"] = ["glad", "calm", "sad"]
    texts.write_recipe(recipe)
    state = texts.state()
    with pytest.raises(RecipeError, match=r"'glad' is class 0 of the data and class 1 of the teac"):
        state.result()


@pytest.mark.slow
def test_a_fitted_teacher_and_a_student_from_pretrained_weights(texts):
    save_bert_tokenizer(save_model(texts.folder / "base", "BertForMaskedLM", **BERT))
    tuned = {"kind": "huggingface", "model": "base", "pretrained": True}
    student = {"model": tuned, "training": _TRAINING}
    texts.write_recipe(
        _recipe(
            teacher={"kind": "fit", "model": tuned, "training": {**_TRAINING, "epochs": 12}},
            students={"tuned": student},
        )
    )
    report = report_of(texts.run()["evaluate"])
    accuracy = report["models"]["teacher"]["splits"]["test"]["accuracy"]["value"]
    assert accuracy > 0.6  # the first word is learnt
    assert {record["status"] for record in texts.run().values()} == {"cached"}
    save_model(texts.folder / "base", "BertForMaskedLM", **BERT, initializer_range=0.5)
    changed = texts.run()
    assert changed["teacher"]["status"] == changed["train"]["status"] == "completed"


@pytest.mark.slow
def test_a_causal_language_model_and_a_smaller_one(server, tmp_path):
    folder = tmp_path / "project"
    (folder / "docs").mkdir(parents=True)
    for name in "abcdef":
        words = np.random.default_rng(ord(name)).choice(WORDS[5:10], 60)
        (folder / "docs" / f"{name}.txt").write_text(" ".join(words))
    save_bert_tokenizer(save_model(folder / "llama", "LlamaForCausalLM", **LLAMA))
    workspace = Workspace(folder)
    small = {"kind": "huggingface", "model": "llama", "config": {"num_hidden_layers": 1}}
    recipe = _recipe(
        teacher={"kind": "huggingface", "model": "llama"},
        students={"small": {"model": small, "training": _TRAINING}},
    )
    recipe["data"] = {
        "name": "docs", "source": "docs/*.txt", "format": "text", "task": "causal_lm",
        "tokens": {"block": 16}, "classes": 30, "padded": True,
        "splits": {"fractions": {"train": 0.6, "test": 0.4}},
    }  # fmt: skip
    workspace.write_recipe(recipe)
    stages = workspace.run()
    assert "perplexity" in report_of(stages["evaluate"])["models"]["small"]["splits"]["test"]
    assert stages["label"]["positions"] > 300


def test_a_model_that_is_not_there_is_one_clear_line(texts):
    texts.write_recipe(_recipe(teacher={"kind": "huggingface", "model": "./gone"}))
    with pytest.raises(ModelError, match=r"there is no folder .*gone; expected one, or a name on"):
        texts.state().result()
