"""Hugging Face models to train: built small, or from pretrained weights; stored and exported."""

import json
import warnings

import numpy as np
import onnxruntime
import pytest
import torch
import transformers

from storage.errors import ModelError
from storage.options import Task
from storage.spec import InputSpec
from tasks.export import onnx_bytes
from tasks.huggingface_models import build_again, build_module
from tasks.huggingface_options import HuggingFaceModelOptions
from tasks.nn.models import num_parameters, require_classes
from tasks.weights import load_weights, untied, weights_bytes
from tests.tasks.hf_models import (
    BERT,
    GPT2,
    LLAMA,
    VIT,
    VOCABULARY,
    WAV2VEC2,
    save_images,
    save_model,
    save_sounds,
)

IDS = InputSpec(name="input_ids", dtype="int64", shape=None)
MASK = InputSpec(name="attention_mask", dtype="int64", shape=None)
TEXT = (IDS, MASK)
IMAGE = InputSpec(name="image", dtype="uint8", shape=(16, 16))
WAVE = InputSpec(name="waveform", dtype="float32", shape=None)
C = 5


def build(folder, inputs, task, model=".", classes=C, padded=False, **said):
    options = HuggingFaceModelOptions(kind="huggingface", model=model, **said)
    torch.manual_seed(0)
    return build_module(options, folder, inputs, classes, task, "here", padded=padded)


def given(inputs, batch=3, length=30):
    generator = torch.Generator().manual_seed(0)
    mask_BL = (torch.arange(length) < torch.tensor([length, 20, 1])[:, None]).long()
    made = {
        "input_ids": torch.randint(1, C, (batch, length), generator=generator) * mask_BL,
        "attention_mask": mask_BL,
        "image": torch.randint(0, 256, (batch, 16, 16), generator=generator),
        "waveform": torch.randn((batch, length), generator=generator) * mask_BL,
    }
    return tuple(made[entry.name] for entry in inputs)


SMALL = {k: v for k, v in LLAMA.items() if k not in ("vocab_size", "pad_token_id")}
CASES = [
    ("bert", SMALL | {"num_key_value_heads": None}, TEXT, Task.CLASSIFICATION),
    ("llama", SMALL, TEXT, Task.CLASSIFICATION),
    ("bert", {}, TEXT, Task.TAGGING),
    ("bert", {}, TEXT, Task.MASKED_LM),
    ("llama", {**SMALL, "tie_word_embeddings": True}, (IDS,), Task.CAUSAL_LM),
    ("llama", SMALL, TEXT, Task.CAUSAL_LM),
    ("gpt2", {"n_embd": 16, "n_layer": 2, "n_head": 2}, (IDS,), Task.CAUSAL_LM),
    ("vit", VIT, (IMAGE,), Task.CLASSIFICATION),
    ("wav2vec2", WAV2VEC2, (WAVE, MASK), Task.CLASSIFICATION),
]
BERT_SMALL = {k: v for k, v in BERT.items() if k not in ("vocab_size", "pad_token_id")}


def changes_of(kind, config):
    return BERT_SMALL if kind == "bert" else config


@pytest.mark.parametrize(("kind", "config", "inputs", "task"), CASES)
def test_every_kind_is_built_stored_and_exported(tmp_path, capfd, kind, config, inputs, task):
    model = build(tmp_path, inputs, task, kind, config=changes_of(kind, config)).eval()
    require_classes(model, (IMAGE,), C, "here") if IMAGE in inputs else None
    tensors = given(inputs)
    with torch.no_grad():
        expected = model(*tensors)
    assert expected.shape == ((3, C) if task is Task.CLASSIFICATION else (3, 30, C))
    again = build_again(json.loads(json.dumps(model.saved)), inputs, task, "here").eval()
    load_weights(again, weights_bytes(model), "x")
    with torch.no_grad():
        assert torch.equal(again(*tensors), expected)
    content = onnx_bytes(model, inputs, "here")
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    feeds = {entry.name: tensor.numpy() for entry, tensor in zip(inputs, tensors, strict=True)}
    (found,) = session.run(["logits"], feeds)
    real = slice(None) if task is Task.CLASSIFICATION else tensors[-1] != 0
    np.testing.assert_allclose(found[real], expected.numpy()[real], rtol=1e-4, atol=1e-5)
    assert capfd.readouterr() == ("", "")


def test_one_seed_gives_one_model(tmp_path):
    first, second = (
        build(tmp_path, TEXT, Task.TAGGING, "bert", config=BERT_SMALL) for _ in range(2)
    )
    assert weights_bytes(first) == weights_bytes(second)


def test_a_configuration_is_made_smaller(tmp_path):
    save_model(tmp_path, "LlamaForCausalLM", **LLAMA)
    (tmp_path / "model.safetensors").unlink()  # it is not needed
    full = build(tmp_path, (IDS,), Task.CAUSAL_LM)
    small = build(tmp_path, (IDS,), Task.CAUSAL_LM, config={"num_hidden_layers": 1})
    assert len(full.model.model.layers) == 2
    assert len(small.model.model.layers) == 1
    assert small.model.config.vocab_size == C
    narrow = build(tmp_path, (IDS,), Task.CAUSAL_LM, config={"hidden_size": 8})
    assert narrow.model.config.head_dim == 4


def test_ids_of_padding_may_be_kept(tmp_path):
    save_model(tmp_path, "LlamaForCausalLM", **LLAMA)
    kept = build(tmp_path, (IDS,), Task.CAUSAL_LM, classes=VOCABULARY - 3, padded=True)
    assert kept.model.config.vocab_size == VOCABULARY
    more = build(tmp_path, (IDS,), Task.CAUSAL_LM, classes=VOCABULARY + 3, padded=True)
    assert more.model.config.vocab_size == VOCABULARY + 3


@pytest.mark.parametrize(
    ("architecture", "config"),
    [("BertForMaskedLM", BERT), ("BertForSequenceClassification", {**BERT, "num_labels": 3})],
)
def test_pretrained_weights_get_a_new_head(tmp_path, architecture, config, capfd):
    save_model(tmp_path, architecture, **config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        body = getattr(transformers, architecture).from_pretrained(tmp_path).bert.state_dict()
    capfd.readouterr()
    made = build(tmp_path, TEXT, Task.CLASSIFICATION, pretrained=True)
    found = made.model.bert.state_dict()
    for name, tensor in body.items():
        assert torch.equal(found[name], tensor), name
    assert made.model.classifier.weight.shape == (C, 16)
    again = build(tmp_path, TEXT, Task.CLASSIFICATION, pretrained=True)
    assert weights_bytes(made) == weights_bytes(again)
    assert capfd.readouterr() == ("", "")


def test_a_pretrained_language_model_goes_on(tmp_path):
    save_model(tmp_path, "GPT2LMHeadModel", **GPT2)
    made = build(tmp_path, (IDS,), Task.CAUSAL_LM, classes=VOCABULARY, pretrained=True).eval()
    ids_BL = torch.randint(0, VOCABULARY, (2, 6))
    model = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(made(ids_BL), model(ids_BL).logits)
    other = build(tmp_path, (IDS,), Task.CAUSAL_LM, pretrained=True)
    with pytest.raises(ModelError, match="the model gives 32 classes, the labels have 5"):
        require_classes(other, (IDS,), C, "here")
    fewer = build(
        tmp_path, (IDS,), Task.CAUSAL_LM, classes=VOCABULARY, pretrained=True,
        config={"n_layer": 1},
    )  # fmt: skip
    assert len(fewer.model.transformer.h) == 1


def test_pretrained_image_and_audio_models_are_prepared_as_theirs(tmp_path):
    save_images(save_model(tmp_path / "i", "ViTForImageClassification", **VIT), size={
        "height": 16, "width": 16}, image_mean=[0.1, 0.2, 0.3])  # fmt: skip
    wide = InputSpec(name="image", dtype="uint8", shape=(3, 20, 20))
    made = build(tmp_path, (wide,), Task.CLASSIFICATION, "i", pretrained=True)
    assert made.preparation.settings["mean"] == [0.1, 0.2, 0.3]
    assert onnx_bytes(made, (wide,), "here")
    save_sounds(save_model(tmp_path / "a", "Wav2Vec2ForSequenceClassification", **WAV2VEC2))
    made = build(tmp_path, (WAVE, MASK), Task.CLASSIFICATION, "a", pretrained=True)
    assert made.preparation.settings["sampling_rate"] == 16000
    assert not made.model.config.apply_spec_augment


def test_tied_weights_are_written_once(tmp_path):
    config = {**SMALL, "tie_word_embeddings": True}
    made = build(tmp_path, (IDS,), Task.CAUSAL_LM, "llama", config=config)
    names = set(made.state_dict()) - set(untied(made))
    assert names == {"model.lm_head.weight"}
    written = sum(tensor.numel() for tensor in untied(made).values())
    assert written == num_parameters(made)
    again = build(tmp_path, (IDS,), Task.CAUSAL_LM, "llama", config=config)
    torch.nn.init.zeros_(again.model.lm_head.weight)
    load_weights(again, weights_bytes(made), "x")
    assert torch.equal(again.model.lm_head.weight, made.model.lm_head.weight)
    assert again.model.lm_head.weight is again.model.model.embed_tokens.weight


@pytest.mark.parametrize(
    ("model", "said", "inputs", "task", "message"),
    [
        ("bert", {"config": {"num_layer": 3}}, TEXT, Task.TAGGING,
         r"here\.config: a bert model has no setting 'num_layer'; did you mean 'num_hidden_la"),
        ("bert", {"config": {"hidden_size": 15}}, TEXT, Task.TAGGING, "here.*15"),
        ("vit", {}, (IMAGE,), Task.TAGGING, "no 'vit' model for data.task: tagging"),
        ("t5", {}, TEXT, Task.CLASSIFICATION, "an encoder and a decoder"),
        ("no-such-kind-of-model", {}, TEXT, Task.TAGGING, "there is no folder"),
        ("bert", {"pretrained": True}, TEXT, Task.TAGGING, "there is no folder"),
        ("saved", {"pretrained": True, "config": {"hidden_size": 32}}, TEXT, Task.TAGGING,
         "do not fit at 'bert.*with pretrained: true config may not change the sizes"),
        ("bert", {}, (IDS,), Task.TAGGING, "add 'attention_mask'"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_refused(tmp_path, capfd, model, said, inputs, task, message):
    save_model(tmp_path / "saved", "BertForMaskedLM", **BERT)
    capfd.readouterr()
    with pytest.raises(ModelError, match=message) as caught:
        build(tmp_path, inputs, task, model, **said)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
