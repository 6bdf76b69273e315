"""The tokenizer of a Hugging Face model.

Most are loaded without torch, so that looking at data stays light; the others through the library's
own choice of class, which imports it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from storage.errors import ModelError, one_line
from tasks.huggingface_files import CONFIG, local_folder, made_once, read_json, sha256_of
from tasks.huggingface_library import library, quiet

_TOKENIZER, _TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
# Without one of these the library makes a tokenizer that knows no word.
_VOCABULARIES = (_TOKENIZER, "vocab.*", "*.model", "*.tiktoken", "tekken.json")
# Classes that the library's own choice takes as they are written, with these kinds of models.
_DIRECT_CLASSES = (
    "TokenizersBackend",
    "PreTrainedTokenizer",
    "BertTokenizer",
    "GPT2Tokenizer",
    "RobertaTokenizer",
)
_DIRECT_MODELS = (None, "bert", "distilbert", "electra", "gpt2", "llama", "opt", "roberta")


def load_tokenizer(
    model: str,
    *,
    folder: Path,
    gguf_file: str | None = None,
    revision: str | None = None,
    where: str = "data.tokenizer",
) -> Any:
    """The tokenizer of a model, as transformers' `PreTrainedTokenizerBase`.

    Args:
        model: a folder, relative to `folder`, or a name on the hub.
        folder: the recipe's.
        gguf_file: the GGUF file that holds it.
        revision: of a name on the hub: a branch, tag or commit.
        where: the field of the recipe, for messages.

    Raises:
        ModelError: there is no such model, or it comes without a tokenizer.
    """
    source = local_folder(
        model, folder, where=where, revision=revision, gguf_file=gguf_file, weights=False
    )
    if gguf_file is not None:
        source = _converted(source, gguf_file, where)
    if not any(path for pattern in _VOCABULARIES for path in source.glob(pattern)):
        raise ModelError(
            f"{where}.model: {source} comes without a tokenizer; expected one of "
            f"{', '.join(_VOCABULARIES)} in it"
        )
    name = _direct_class(source, where)
    transformers = library("transformers", where)
    try:
        with quiet():
            kind = getattr(transformers, name or "AutoTokenizer")
            said = {} if name else {"trust_remote_code": False}
            tokenizer = kind.from_pretrained(source, local_files_only=True, **said)
    except Exception as error:
        raise _no_tokenizer(source, error, where) from error
    return tokenizer


def _converted(source: Path, gguf_file: str, where: str) -> Path:
    """The tokenizer of a GGUF file as a folder, which is read in a tenth of the time."""
    path = source / gguf_file
    if not path.is_file():
        raise ModelError(f"{where}.gguf_file: {source} holds no {gguf_file!r}")
    transformers = library("transformers", where)
    library("gguf", where)

    def make(target: Path) -> None:
        try:
            with quiet():
                tokenizer = transformers.AutoTokenizer.from_pretrained(source, gguf_file=gguf_file)
                tokenizer.save_pretrained(target)
        except Exception as error:
            raise _no_tokenizer(path, error, where) from error

    identity = {"gguf": sha256_of(path), "transformers": transformers.__version__}
    return made_once("tokenizers", identity, make)


def _direct_class(source: Path, where: str) -> str | None:
    """The class to load without torch; None leaves the choice to the library."""
    if not ((source / _TOKENIZER).is_file() and (source / _TOKENIZER_CONFIG).is_file()):
        return None
    said = read_json(source / _TOKENIZER_CONFIG, where)
    name = str(said.get("tokenizer_class", "")).removesuffix("Fast")
    config = read_json(source / CONFIG, where) if (source / CONFIG).is_file() else {}
    if "auto_map" in said or config.get("model_type") not in _DIRECT_MODELS:
        return None
    if name not in _DIRECT_CLASSES:
        return None
    return "PreTrainedTokenizerFast" if name == "PreTrainedTokenizer" else name


def _no_tokenizer(source: Path, error: Exception, where: str) -> ModelError:
    return ModelError(
        f"{where}.model: {source} comes without a readable tokenizer: {one_line(error)}"
    )
