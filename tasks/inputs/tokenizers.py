"""From texts to tokens: by a Hugging Face tokenizer, or a token for each byte.

Tokenizers are loaded when the first text comes. `digest` names what they are without loading them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from storage.errors import DataError

_WHERE = "data.tokens"
_SPECIAL_BYTE = 256


@dataclass(frozen=True)
class Encoded:
    """One text.

    Attributes:
        ids: its tokens.
        types: 0 for the first text of a pair, 1 for the second.
        words: of a list of words, the place of the word that each token comes from; None for
            tokens of no word.
    """

    ids: Sequence[int]
    types: Sequence[int]
    words: Sequence[int | None] = ()


class TextTokenizer(Protocol):
    """Makes tokens of texts."""

    @property
    def digest(self) -> str:
        """What names its files' content."""

    @property
    def num_tokens(self) -> int:
        """The size of its vocabulary."""

    @property
    def separator(self) -> int | None:
        """The token that ends a document."""

    @property
    def mask(self) -> int | None:
        """The token that stands for one to be guessed."""

    def documents(self, texts: Sequence[str]) -> list[Sequence[int]]:
        """The tokens of whole documents, without any special ones."""

    def texts(
        self, texts: Sequence[str], pairs: Sequence[str] | None, most: int | None
    ) -> list[Encoded]:
        """Texts, or pairs of texts, with the model's special tokens, cut to `most` tokens."""

    def words(self, texts: Sequence[Sequence[str]], most: int | None) -> list[Encoded]:
        """Lists of words with the model's special tokens, cut to `most` tokens."""


class ByteTokenizer:
    """A token for each byte of UTF-8, 0 to 255, and 256 for all else: the end, and the mask."""

    digest = "bytes"
    num_tokens = _SPECIAL_BYTE + 1
    separator: int | None = _SPECIAL_BYTE
    mask: int | None = _SPECIAL_BYTE

    def documents(self, texts: Sequence[str]) -> list[Sequence[int]]:
        """The bytes of each text."""
        return [list(text.encode()) for text in texts]

    def texts(
        self, texts: Sequence[str], pairs: Sequence[str] | None, most: int | None
    ) -> list[Encoded]:
        """The bytes of each text; 256 between the two of a pair."""
        firsts = self.documents(texts)
        if pairs is None:
            return [Encoded(ids[:most], [0] * len(ids[:most])) for ids in firsts]
        joined = []
        for first, second in zip(firsts, self.documents(pairs), strict=True):
            ids = [*first, _SPECIAL_BYTE, *second][:most]
            types = [0] * min(len(first) + 1, len(ids))
            joined.append(Encoded(ids, [*types, *[1] * (len(ids) - len(types))]))
        return joined

    def words(self, texts: Sequence[Sequence[str]], most: int | None) -> list[Encoded]:
        """The bytes of the words, with a space between two of them."""
        encoded = []
        for words in texts:
            ids: list[int] = []
            owners: list[int | None] = []
            for place, word in enumerate(words):
                content = word.encode()
                ids += [*([32] if place else []), *content]
                owners += [*([None] if place else []), *[place] * len(content)]
            encoded.append(Encoded(ids[:most], [0] * len(ids[:most]), owners[:most]))
        return encoded


@dataclass(frozen=True)
class HuggingFaceTokenizer:
    """A tokenizer of the transformers library.

    Attributes:
        model: a folder, relative to `folder`, or a name on the hub.
        folder: the recipe's.
        gguf_file: the GGUF file that holds it.
        revision: of a name on the hub.
        digest: the sha256 over its files.
    """

    model: str
    folder: Path
    gguf_file: str | None
    revision: str | None
    digest: str

    @property
    def loaded(self) -> Any:
        """As the transformers library has it."""
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> Any:
        from tasks.huggingface_tokenizer import load_tokenizer

        return load_tokenizer(
            self.model,
            folder=self.folder,
            gguf_file=self.gguf_file,
            revision=self.revision,
            where=_WHERE,
        )

    def __getstate__(self) -> dict[str, Any]:
        kept = ("model", "folder", "gguf_file", "revision", "digest")
        return {name: self.__dict__[name] for name in kept}

    @property
    def num_tokens(self) -> int:
        """The size of its vocabulary, special tokens too."""
        return len(self._tokenizer)

    @property
    def separator(self) -> int | None:
        """The end of a text, or what separates two."""
        ends = (self._tokenizer.eos_token_id, self._tokenizer.sep_token_id)
        return next((int(end) for end in ends if end is not None), None)

    @property
    def mask(self) -> int | None:
        """The mask token."""
        token = self._tokenizer.mask_token_id
        return None if token is None else int(token)

    def documents(self, texts: Sequence[str]) -> list[Sequence[int]]:
        """The tokens of whole documents."""
        return list(self._call(list(texts), add_special_tokens=False)["input_ids"])

    def texts(
        self, texts: Sequence[str], pairs: Sequence[str] | None, most: int | None
    ) -> list[Encoded]:
        """The tokens of texts, or of pairs of texts."""
        given = (list(texts),) if pairs is None else (list(texts), list(pairs))
        found = self._call(*given, return_token_type_ids=True, **_cut(most))
        lines = zip(found["input_ids"], found["token_type_ids"], strict=True)
        return [Encoded(ids, types) for ids, types in lines]

    def words(self, texts: Sequence[Sequence[str]], most: int | None) -> list[Encoded]:
        """The tokens of lists of words, and whose they are."""
        if not self._tokenizer.is_fast:
            raise DataError(
                f"{_WHERE}: {self.model!r} cannot tell which word a token comes from (it is no "
                "fast tokenizer); name another tokenizer"
            )
        given = [list(words) for words in texts]
        found = self._call(given, is_split_into_words=True, **_cut(most))
        return [
            Encoded(ids, [0] * len(ids), found.word_ids(place))
            for place, ids in enumerate(found["input_ids"])
        ]

    def _call(self, *texts: Any, return_token_type_ids: bool = False, **more: Any) -> Any:
        return self._tokenizer(
            *texts,
            return_attention_mask=False,
            return_token_type_ids=return_token_type_ids,
            verbose=False,
            **more,
        )


def _cut(most: int | None) -> dict[str, Any]:
    return {} if most is None else {"truncation": True, "max_length": most}
