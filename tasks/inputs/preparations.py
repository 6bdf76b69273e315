"""What makes samples of the columns of a table or of text files: see `storage.preparation`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import fsspec
import numpy as np

from storage.data_options import DataOptions
from storage.errors import BadSampleError, DataError, one_line
from storage.file_corpus import FileDecoder, OpenFile, input_columns
from storage.identity import Json
from storage.options_base import Task
from storage.preparation import Chunk
from storage.rows import INPUT, Ragged
from storage.schema import BAD
from storage.sources import resolve
from tasks.inputs.blocks import packed
from tasks.inputs.text import classified, outputs_of, tagged
from tasks.inputs.tokenizers import TextTokenizer

CODE_VERSION: Final = 1
"""Raised by hand when the same content comes to other samples."""


@dataclass(frozen=True)
class TextPreparation:
    """Tokens of texts: a text a sample, or blocks of many texts.

    Attributes:
        options: the recipe's.
        tokenizer: makes the tokens.
    """

    options: DataOptions
    tokenizer: TextTokenizer

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns of tokens."""
        return outputs_of(self.options)

    @property
    def num_classes(self) -> int | None:
        """The vocabulary of a language model."""
        return self.tokenizer.num_tokens if self.options.task.is_language_model else None

    def identity(self) -> Json:
        """The tokenizer by its files; the options are the recipe's."""
        return {"code_version": CODE_VERSION, "tokenizer": self.tokenizer.digest}

    def __call__(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """The samples that `chunks` become."""
        if self.options.task.is_language_model:
            yield from packed(chunks, self.options, self.tokenizer)
            return
        make = tagged if self.options.task is Task.TAGGING else classified
        for chunk in chunks:
            yield make(chunk, self.options, self.tokenizer)


@dataclass(frozen=True)
class DecodedColumn:
    """Images, sounds or bytes out of one column of a table: their content, or paths to it.

    A value may be bytes, a path or URL (relative to the recipe), or a record of `bytes` and `path`.

    Attributes:
        options: the recipe's.
        decoder: makes numbers of a content.
        folder: the recipe's.
    """

    options: DataOptions
    decoder: FileDecoder
    folder: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the decoder makes."""
        return tuple(spec.name for spec in self.decoder.inputs)

    @property
    def num_classes(self) -> int | None:
        """The classes are others'."""
        return None

    def identity(self) -> Json:
        """The options are the recipe's."""
        return {"code_version": CODE_VERSION}

    def __call__(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """The samples that `chunks` become, with numbers for the content."""
        (name,) = self.options.inputs
        for chunk in chunks:
            column = chunk.pop(name)
            if isinstance(column, Ragged) or column.ndim != 1:
                raise DataError(f"data.inputs: the column {name!r} must hold a content or a path")
            made = [self._made(value) for value in column]
            columns = input_columns(self.decoder.inputs, [values for values, _ in made])
            plain = {key.removeprefix(INPUT): column for key, column in columns.items()}
            yield {**chunk, **plain, BAD: np.array([reason for _, reason in made], dtype=object)}

    def _made(self, value: Any) -> tuple[tuple[Any, ...], str]:
        """The inputs of one sample, and what is wrong with it."""
        try:
            return self.decoder.decode(self.decoder.load(self._opened(value))), ""
        except BadSampleError as error:
            return (), str(error)

    def _opened(self, value: Any) -> OpenFile:
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            return OpenFile.of_content(value)
        if not isinstance(value, str) or not value:
            raise BadSampleError("there is neither content nor a path")
        try:
            filesystem, path = fsspec.core.url_to_fs(resolve(value, Path(self.folder)))
            return OpenFile(filesystem, path, int(filesystem.size(path) or 0))
        except Exception as error:
            raise BadSampleError(f"the file {value!r} cannot be read: {one_line(error)}") from error
