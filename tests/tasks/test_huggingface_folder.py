"""What is stored of a Hugging Face model: `from_pretrained` loads it, and gives the same logits."""

import json
import warnings

import pytest
import torch
import transformers
from safetensors.torch import load_file

from storage.options import Task
from storage.spec import InputSpec
from tasks.huggingface_folder import saved_of, tokenizer_files
from tasks.huggingface_models import HEAD, build_again
from tasks.models import model_files
from tasks.weights import load_weights
from tests.tasks.hf_models import VIT as VIT_CONFIG
from tests.tasks.hf_models import WORDS, save_bert_tokenizer, save_images, save_model
from tests.tasks.test_huggingface_models import (
    CASES,
    IMAGE,
    SMALL,
    TEXT,
    C,
    build,
    changes_of,
    given,
)

NAMES = ("red", "green", "blue", "grey", "black")
PICTURE = InputSpec(name="image", dtype="uint8", shape=(3, 20, 24))


def stored(folder, model, class_names=None):
    """The files of a model, written as the store writes them."""
    folder.mkdir()
    for name, content in model_files(model, class_names).items():
        (folder / name).write_bytes(content)
    return folder


def pretrained(folder, head):
    """What a stranger loads; every weight must be there, and none too many."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, info = getattr(transformers, head).from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    return model.eval()


@pytest.mark.parametrize(("kind", "config", "inputs", "task"), CASES)
def test_from_pretrained_gives_the_same_logits(tmp_path, kind, config, inputs, task):
    module = build(tmp_path, inputs, task, kind, config=changes_of(kind, config)).eval()
    names = NAMES if not task.is_language_model else None
    folder = stored(tmp_path / "out", module, names)
    model = pretrained(folder, module.saved[HEAD])
    tensors = given(inputs)
    with torch.no_grad():
        expected = module(*tensors)
        arguments = module.preparation(dict(zip(module.names, tensors, strict=True)))
        assert torch.equal(model(**arguments).logits, expected)
    if names is not None:
        assert [model.config.id2label[place] for place in range(C)] == list(NAMES)
        assert model.config.num_labels == C
        assert model.config.label2id["blue"] == 2
    files = [(folder / name).read_bytes() for name in ("config.json", "softlabel.json")]
    again = build_again(saved_of(*files), inputs, task, "here").eval()
    load_weights(again, (folder / "model.safetensors").read_bytes(), "x")
    with torch.no_grad():
        assert torch.equal(again(*tensors), expected)


def test_tied_weights_lie_there_once(tmp_path):
    config = {**SMALL, "tie_word_embeddings": True}
    module = build(tmp_path, TEXT, Task.CAUSAL_LM, "llama", config=config)
    folder = stored(tmp_path / "out", module)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    model = pretrained(folder, "AutoModelForCausalLM")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(model.lm_head.weight, module.model.lm_head.weight)


@pytest.mark.parametrize(
    "settings",
    [
        {"image_mean": [0.1, 0.2, 0.3]},
        {"resample": 3},
        {"size": {"shortest_edge": 18}, "do_center_crop": True,
         "crop_size": {"height": 16, "width": 16}},
    ],
)  # fmt: skip
def test_images_are_prepared_as_the_student_prepares_them(tmp_path, settings):
    save_images(save_model(tmp_path / "saved", "ViTForImageClassification", **VIT_CONFIG),
                **{key: value for key, value in settings.items() if "crop" not in key})  # fmt: skip
    said = tmp_path / "saved" / "preprocessor_config.json"
    kind = "CLIPImageProcessor" if "crop_size" in settings else "ViTImageProcessor"
    known = {**json.loads(said.read_text()), **settings, "image_processor_type": kind}
    said.write_text(json.dumps(known))
    module = build(tmp_path, (PICTURE,), Task.CLASSIFICATION, "saved", pretrained=True).eval()
    folder = stored(tmp_path / "out", module)
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    image_BDHW = torch.randint(0, 256, (2, 3, 20, 24), dtype=torch.uint8)
    made = processor(list(image_BDHW.numpy()), return_tensors="pt",
                     input_data_format="channels_first")  # fmt: skip
    model = pretrained(folder, "AutoModelForImageClassification")
    with torch.no_grad():
        torch.testing.assert_close(model(**made).logits, module(image_BDHW), rtol=0.05, atol=0.05)


def test_images_that_are_small_already_are_not_resized(tmp_path):
    module = build(tmp_path, (IMAGE,), Task.CLASSIFICATION, "vit", config=VIT_CONFIG).eval()
    folder = stored(tmp_path / "out", module)
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    image_BHW = given((IMAGE,))[0].to(torch.uint8)
    coloured = [image[None].expand(3, -1, -1).numpy() for image in image_BHW]
    made = processor(coloured, return_tensors="pt", input_data_format="channels_first")
    wanted = module.preparation({"pixel_values": image_BHW})
    torch.testing.assert_close(made["pixel_values"], wanted["pixel_values"])


def test_the_tokenizer_goes_along(tmp_path):
    tokenizer = transformers.BertTokenizer.from_pretrained(save_bert_tokenizer(tmp_path / "saved"))
    module = build(tmp_path, TEXT, Task.MASKED_LM, "bert", config=changes_of("bert", {}))
    folder = stored(tmp_path / "out", module)
    for name, content in tokenizer_files(tokenizer, "here").items():
        (folder / name).write_bytes(content)
    loaded = transformers.AutoTokenizer.from_pretrained(folder)
    assert loaded("the cat")["input_ids"] == tokenizer("the cat")["input_ids"]
    assert loaded.convert_ids_to_tokens(5) == WORDS[5]
