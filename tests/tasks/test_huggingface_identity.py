"""A Hugging Face model is known by the content of its files."""

import shutil

import pytest

from storage.errors import ModelError
from storage.options import Task
from tasks import intents
from tasks.huggingface_identity import model_files, teacher_digest
from tasks.huggingface_options import HuggingFaceModelOptions, HuggingFaceTeacherOptions
from tasks.model_options import MlpOptions
from tests.tasks.hf_models import BERT, save_model


def teacher(**said):
    return HuggingFaceTeacherOptions(kind="huggingface", model="bert", **said)


def model(name="bert", **said):
    return HuggingFaceModelOptions(kind="huggingface", model=name, **said)


@pytest.fixture
def folder(tmp_path):
    save_model(tmp_path / "here" / "bert", "BertForMaskedLM", **BERT)
    return tmp_path / "here"


def test_a_teacher_by_its_weights_and_not_by_its_place(store, folder, tmp_path):
    first = teacher_digest(store, teacher(), folder, "teacher")
    moved = shutil.copytree(folder, tmp_path / "there")
    (moved / "bert" / "README.md").write_text("new")
    assert teacher_digest(store, teacher(), moved, "teacher") == first
    save_model(moved / "bert", "BertForMaskedLM", **BERT, layer_norm_eps=1e-6)
    assert teacher_digest(store, teacher(), moved, "teacher") != first


def test_what_decides_a_teachers_logits_is_in_its_intent():
    def fingerprint(task=Task.MASKED_LM, **said):
        return intents.imported_teacher(teacher(**said), "0" * 64, task).fingerprint

    one = fingerprint()
    assert fingerprint(revision="main", device_map="auto") == one
    for other in ({"dtype": "bfloat16"}, {"attention": "eager"}, {"task": Task.CAUSAL_LM}):
        assert fingerprint(**other) != one


def test_a_model_by_what_of_its_files_it_begins_with(store, folder):
    configured = model_files(store, model(), folder, "m")
    weights = model_files(store, model(pretrained=True), folder, "m")
    assert configured != weights
    (folder / "bert" / "model.safetensors").write_bytes(b"other")
    assert model_files(store, model(), folder, "m") == configured
    assert model_files(store, model(pretrained=True), folder, "m") != weights
    (folder / "bert" / "config.json").write_text("{}")
    assert model_files(store, model(), folder, "m") != configured


def test_a_kind_of_model_has_no_files(store, tmp_path):
    assert model_files(store, model(), tmp_path, "m") == {"kind_of_model": "bert"}
    assert model_files(store, model("xlm-roberta"), tmp_path, "m") is not None
    assert model_files(store, MlpOptions(kind="mlp"), tmp_path, "m") is None
    with pytest.raises(ModelError, match=r"m\.model: there is no folder"):
        model_files(store, model("./bert"), tmp_path, "m")


@pytest.mark.parametrize("name", ["num_labels", "id2label", "problem_type"])
def test_classes_are_not_said_twice(name):
    with pytest.raises(ValueError, match=f"config.{name} is not to be said"):
        model(config={name: 3})
