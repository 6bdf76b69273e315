"""Hugging Face teachers give the library's own logits, and say what they cannot do."""

import json
import re

import numpy as np
import pytest
import torch
import transformers

from storage.errors import ModelError
from storage.options import Task
from storage.spec import InputSpec
from tasks.huggingface_options import HuggingFaceTeacherOptions
from tasks.huggingface_teacher import HuggingFaceTeacher
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

CPU = torch.device("cpu")
IDS = InputSpec(name="input_ids", dtype="int64", shape=None)
MASK = InputSpec(name="attention_mask", dtype="int64", shape=None)
TYPES = InputSpec(name="token_type_ids", dtype="int64", shape=None)
TEXT = (IDS, MASK)
LENGTHS = (7, 4, 1)
NAMES = {"id2label": {0: "neg", 1: "neutral", 2: "pos"}}


def blocks(low=1):
    """Padded token ids and their mask."""
    torch.manual_seed(1)
    mask_BL = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    return torch.randint(low, VOCABULARY, mask_BL.shape) * mask_BL, mask_BL


def teacher(folder, inputs, task, **said):
    options = HuggingFaceTeacherOptions(kind="huggingface", model=str(folder), **said)
    return HuggingFaceTeacher(options, folder, inputs, task, CPU, "teacher")


def library_logits(folder, architecture, **arguments):
    model = getattr(transformers, architecture).from_pretrained(folder).eval()
    with torch.no_grad():
        return model(**arguments).logits


@pytest.mark.parametrize(
    ("architecture", "config", "task", "classes"),
    [
        ("BertForSequenceClassification", {**BERT, **NAMES}, Task.CLASSIFICATION, 3),
        ("LlamaForSequenceClassification", {**LLAMA, **NAMES}, Task.CLASSIFICATION, 3),
        ("BertForTokenClassification", {**BERT, **NAMES}, Task.TAGGING, 3),
        ("BertForMaskedLM", BERT, Task.MASKED_LM, VOCABULARY),
        ("LlamaForCausalLM", LLAMA, Task.CAUSAL_LM, VOCABULARY),
        ("LlamaForCausalLM", {**LLAMA, "tie_word_embeddings": True}, Task.CAUSAL_LM, VOCABULARY),
        ("GPT2LMHeadModel", GPT2, Task.CAUSAL_LM, VOCABULARY),
    ],
)
def test_texts(tmp_path, capfd, architecture, config, task, classes):
    save_model(tmp_path, architecture, **config)
    ids_BL, mask_BL = blocks()
    expected = library_logits(tmp_path, architecture, input_ids=ids_BL, attention_mask=mask_BL)
    capfd.readouterr()
    found = teacher(tmp_path, TEXT, task)
    logit_PC = found.logits((ids_BL, mask_BL))
    assert found.num_classes == classes
    assert logit_PC.shape == (3 if task is Task.CLASSIFICATION else 21, classes)
    torch.testing.assert_close(logit_PC, expected.reshape(-1, classes), rtol=1e-6, atol=1e-6)
    assert float(logit_PC.std()) > 0.1
    assert found.facts == ({"class_names": ["neg", "neutral", "pos"]} if classes == 3 else {})
    assert capfd.readouterr() == ("", "")


def test_padding_changes_no_logit(tmp_path):
    """Of a model that finds the end of a text by a padding token that is not 0, too."""
    config = {**LLAMA, "pad_token_id": 5, "num_labels": 3}
    save_model(tmp_path, "LlamaForSequenceClassification", **config)
    found = teacher(tmp_path, TEXT, Task.CLASSIFICATION)
    ids_BL, mask_BL = blocks(low=6)
    together = found.logits((ids_BL, mask_BL))
    for row, length in enumerate(LENGTHS):
        alone = found.logits((ids_BL[row : row + 1, :length], mask_BL[row : row + 1, :length]))
        torch.testing.assert_close(alone[0], together[row], rtol=1e-5, atol=1e-5)


def test_inputs_go_by_name_and_else_by_position(tmp_path):
    save_model(tmp_path, "BertForTokenClassification", **BERT, num_labels=3)
    ids_BL, mask_BL = blocks()
    types_BL = (torch.arange(7) > 2).long() * mask_BL
    by_name = teacher(tmp_path, (TYPES, MASK, IDS), Task.TAGGING)
    expected = by_name.logits((types_BL, mask_BL, ids_BL))
    said = [InputSpec(name=name, dtype="int64", shape=None) for name in "abc"]
    by_place = teacher(tmp_path, said, Task.TAGGING)
    assert torch.equal(by_place.logits((ids_BL, mask_BL, types_BL)), expected)
    mixed = teacher(tmp_path, (TYPES, said[0], said[1]), Task.TAGGING)
    assert torch.equal(mixed.logits((types_BL, ids_BL, mask_BL)), expected)


@pytest.mark.parametrize(
    ("settings", "size", "levels"),
    [
        ({}, (16, 16), 1e-4),
        ({}, (20, 28), 1.01),
        ({"resample": 3, "image_mean": [0.4, 0.5, 0.6]}, (20, 28), 1.01),
        ({"size": {"shortest_edge": 18}, "do_center_crop": True,
          "crop_size": {"height": 16, "width": 16}}, (20, 28), 1.01),
        ({"do_rescale": False, "do_normalize": False}, (16, 16), 1e-4),
        ({"resample": 0}, (20, 28), 1e-4),  # the library's own processor is called
        ({"do_resize": False}, (16, 16), 1e-4),
    ],
)  # fmt: skip
def test_images(tmp_path, settings, size, levels, capfd):
    save_images(save_model(tmp_path, "ViTForImageClassification", **VIT, num_labels=4), **settings)
    image_BDHW = np.random.default_rng(0).integers(0, 256, (3, 3, *size), np.uint8)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    pixels = processor(list(image_BDHW), return_tensors="pt")["pixel_values"]
    expected = library_logits(tmp_path, "ViTForImageClassification", pixel_values=pixels)
    capfd.readouterr()
    spec = InputSpec(name="image", dtype="uint8", shape=(3, *size))
    found = teacher(tmp_path, (spec,), Task.CLASSIFICATION)
    given = torch.from_numpy(image_BDHW.astype(np.int64))
    logit_PC = found.logits((given,))
    if levels < 1:
        torch.testing.assert_close(logit_PC, expected, rtol=1e-4, atol=1e-4)
    prepared = found.module.preparation({"pixel_values": given})["pixel_values"]
    step = (processor.rescale_factor if processor.do_rescale else 1.0) / min(
        processor.image_std if processor.do_normalize else [1.0]
    )
    assert float((prepared - pixels).abs().max()) <= levels * step
    assert capfd.readouterr() == ("", "")


def test_grey_images_and_fractions(tmp_path):
    save_images(save_model(tmp_path, "ViTForImageClassification", **VIT, num_labels=4))
    grey_BHW = torch.randint(0, 256, (2, 16, 16))
    spec = InputSpec(name="image", dtype="uint8", shape=(16, 16))
    expected = teacher(tmp_path, (spec,), Task.CLASSIFICATION).logits((grey_BHW,))
    three_BDHW = grey_BHW[:, None].expand(-1, 3, -1, -1)
    for given, dtype in ((three_BDHW, "uint8"), (three_BDHW / 255, "float32")):
        spec = InputSpec(name="image", dtype=dtype, shape=(3, 16, 16))
        found = teacher(tmp_path, (spec,), Task.CLASSIFICATION).logits((given,))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("masked", [True, False])
def test_sounds(tmp_path, masked, capfd):
    save_model(tmp_path, "Wav2Vec2ForSequenceClassification", **WAV2VEC2, num_labels=4)
    save_sounds(tmp_path, return_attention_mask=masked, sampling_rate=8000)
    torch.manual_seed(0)
    lengths = torch.tensor([400, 250])
    mask_BN = (torch.arange(400) < lengths[:, None]).long()
    wave_BN = (torch.randn(2, 400) + 1) * mask_BN
    wave = InputSpec(name="waveform", dtype="float32", shape=None)
    found = teacher(tmp_path, (wave, MASK), Task.CLASSIFICATION)
    logit_PC = found.logits((wave_BN, mask_BN))
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
    waves = [row[:length].numpy() for row, length in zip(wave_BN, lengths, strict=True)]
    made = extractor(waves, sampling_rate=8000, return_tensors="pt", padding=True,
                     return_attention_mask=True)  # fmt: skip
    given = dict(made) if masked else {"input_values": made["input_values"]}
    expected = library_logits(tmp_path, "Wav2Vec2ForSequenceClassification", **given)
    torch.testing.assert_close(logit_PC, expected, rtol=1e-5, atol=1e-5)
    assert found.facts == {"sampling_rate": 8000}
    short = found.logits((torch.randn(2, 3), torch.ones(2, 3, dtype=torch.int64)))
    assert bool(short.isfinite().all())


def test_spectrograms_by_the_librarys_extractor(tmp_path):
    spectrogram = {"max_length": 64, "num_mel_bins": 16}
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
    config = {**sizes, **spectrogram, "num_hidden_layers": 1, "num_labels": 3}
    save_model(tmp_path, "ASTForAudioClassification", **config)
    extractor = transformers.ASTFeatureExtractor(**spectrogram)
    extractor.save_pretrained(tmp_path)
    wave_BN = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    spec = InputSpec(name="waveform", dtype="float32", shape=(4000,))
    logit_PC = teacher(tmp_path, (spec,), Task.CLASSIFICATION).logits((wave_BN,))
    made = extractor(list(wave_BN.numpy()), sampling_rate=16000, return_tensors="pt")
    expected = library_logits(tmp_path, "ASTForAudioClassification", **made)
    torch.testing.assert_close(logit_PC, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "auto"])
def test_other_precisions_give_float32(tmp_path, dtype):
    save_model(tmp_path, "LlamaForCausalLM", **LLAMA)
    ids_BL, _ = blocks()
    expected = teacher(tmp_path, (IDS,), Task.CAUSAL_LM).logits((ids_BL,))
    found = teacher(tmp_path, (IDS,), Task.CAUSAL_LM, dtype=dtype)
    logit_PC = found.logits((ids_BL,))
    assert logit_PC.dtype == torch.float32
    gap = float((logit_PC - expected).abs().max())
    assert gap == 0 if dtype == "auto" else 0 < gap < 0.3
    stored = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    assert found.module.dtype == stored


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_is_computed_as_said(tmp_path, attention):
    save_model(tmp_path, "BertForMaskedLM", **BERT)
    found = teacher(tmp_path, TEXT, Task.MASKED_LM, attention=attention)
    assert found.module.model.config._attn_implementation == attention
    expected = teacher(tmp_path, TEXT, Task.MASKED_LM).logits(blocks())
    real_P = blocks()[1].reshape(-1) == 1
    torch.testing.assert_close(
        found.logits(blocks())[real_P], expected[real_P], rtol=1e-5, atol=1e-5
    )


def test_a_model_may_be_spread_over_devices(tmp_path, capfd):
    save_model(tmp_path, "LlamaForCausalLM", **LLAMA)
    ids_BL, _ = blocks()
    expected = teacher(tmp_path, (IDS,), Task.CAUSAL_LM).logits((ids_BL,))
    capfd.readouterr()
    found = teacher(tmp_path, (IDS,), Task.CAUSAL_LM, device_map="auto")
    torch.testing.assert_close(found.logits((ids_BL,)).cpu(), expected, rtol=1e-4, atol=1e-4)
    assert capfd.readouterr() == ("", "")


def _edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("architecture", "changes", "inputs", "task", "message"),
    [
        ("BertForMaskedLM", {}, TEXT, Task.CLASSIFICATION,
         "it is a BertForMaskedLM; data.task: classification takes a ModelForSequenceClassif"),
        ("BertForSequenceClassification", {}, TEXT, Task.CAUSAL_LM, "takes a ModelForCausalLM"),
        ("BertForSequenceClassification", {"problem_type": "multi_label_classification"}, TEXT,
         Task.CLASSIFICATION, "gives no softmax"),
        ("BertForSequenceClassification", {"id2label": {"0": "x"}, "label2id": {"x": 0}}, TEXT,
         Task.CLASSIFICATION, r"gives a number \(regression\)"),
        ("BertForMaskedLM", {"is_encoder_decoder": True}, TEXT, Task.MASKED_LM,
         "an encoder and a decoder"),
        ("BertForMaskedLM", {"model_type": "own", "auto_map": {"AutoConfig": "x.Y"}},
         TEXT, Task.MASKED_LM,
         "code of its own"),
        ("BertForMaskedLM", {"num_hidden_layers": 3}, TEXT, Task.MASKED_LM,
         "hold no 'bert.encoder.layer.2.*and 15 more; they are not"),
        ("BertForMaskedLM", {"hidden_size": 32}, TEXT, Task.MASKED_LM, "hold no 'bert.*and"),
        ("BertForMaskedLM", {"model_type": "nonsense"}, TEXT, Task.MASKED_LM, r"config\.json: "),
        ("BertForMaskedLM", {}, (IDS,), Task.MASKED_LM,
         "know what is padding; add 'attention_mask' to data.inputs"),
        ("BertForMaskedLM", {}, (MASK,), Task.MASKED_LM, "takes input_ids, attention_mask, tok"),
        ("BertForMaskedLM", {}, (*TEXT, TYPES, IDS.model_copy(update={"name": "x"})),
         Task.MASKED_LM, "data.inputs gives input_ids, attention_mask, token_type_ids, x"),
        ("BertForMaskedLM", {}, (IDS.model_copy(update={"dtype": "float32"}), MASK),
         Task.MASKED_LM, r"takes token ids \[length\]; the input 'input_ids' is float32"),
        ("LlamaForSequenceClassification", {"pad_token_id": None}, TEXT, Task.CLASSIFICATION,
         "says no pad_token_id"),
    ],
)  # fmt: skip
def test_what_is_no_such_teacher_is_refused(
    tmp_path, capfd, architecture, changes, inputs, task, message
):
    save_model(tmp_path, architecture, **(LLAMA if "Llama" in architecture else BERT))
    _edit(tmp_path, **changes)
    capfd.readouterr()
    with pytest.raises(ModelError, match=message) as caught:
        teacher(tmp_path, inputs, task)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("teacher")
    assert capfd.readouterr() == ("", "")


def test_images_need_the_files_that_say_how_they_are_prepared(tmp_path):
    save_model(tmp_path, "ViTForImageClassification", **VIT, num_labels=4)
    spec = InputSpec(name="image", dtype="uint8", shape=(16, 16))
    with pytest.raises(ModelError, match=r"holds no preprocessor_config\.json"):
        teacher(tmp_path, (spec,), Task.CLASSIFICATION)
    save_images(tmp_path)
    flat = InputSpec(name="image", dtype="uint8", shape=(256,))
    with pytest.raises(ModelError, match=re.escape("images [height, width] or [channels,")):
        teacher(tmp_path, (flat,), Task.CLASSIFICATION)


def test_damaged_weights_are_one_clear_error(tmp_path, capfd):
    save_model(tmp_path, "BertForMaskedLM", **BERT)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    capfd.readouterr()
    with pytest.raises(ModelError, match=r"^teacher: .* does not load: ") as caught:
        teacher(tmp_path, TEXT, Task.MASKED_LM)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_ids_that_the_model_does_not_know_are_one_clear_error(tmp_path):
    save_model(tmp_path, "BertForMaskedLM", **BERT)
    found = teacher(tmp_path, TEXT, Task.MASKED_LM)
    ids_BL, mask_BL = blocks()
    with pytest.raises(ModelError, match=r"inputs \[3, 7\], \[3, 7\] \(it knows the ids 0 to 31 "):
        found.logits((ids_BL + VOCABULARY, mask_BL))
    many = torch.ones(1, 40, dtype=torch.int64)
    with pytest.raises(ModelError, match="at most 32 positions"):
        found.logits((many, many))


@pytest.mark.gpu
def test_cuda_gives_the_logits_of_the_cpu(tmp_path):
    save_model(tmp_path, "LlamaForCausalLM", **LLAMA)
    ids_BL, _ = blocks()
    expected = teacher(tmp_path, (IDS,), Task.CAUSAL_LM).logits((ids_BL,))
    options = HuggingFaceTeacherOptions(kind="huggingface", model=str(tmp_path))
    cuda = torch.device("cuda")
    found = HuggingFaceTeacher(options, tmp_path, (IDS,), Task.CAUSAL_LM, cuda, "teacher")
    torch.testing.assert_close(found.logits((ids_BL,)).cpu(), expected, rtol=1e-4, atol=1e-4)
