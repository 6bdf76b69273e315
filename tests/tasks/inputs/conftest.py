from pathlib import Path

import pytest

from tasks.inputs.tokenizers import HuggingFaceTokenizer


@pytest.fixture(scope="session")
def words_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    from tests.tasks.inputs.hugging import save_tokenizer

    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def words(words_folder: Path) -> HuggingFaceTokenizer:
    """A tokenizer of a few words, with [CLS], [SEP] and [MASK]."""
    return HuggingFaceTokenizer(str(words_folder), Path(), None, None, digest="0" * 64)
