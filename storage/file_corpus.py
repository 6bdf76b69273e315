"""Samples that are files: listed once, digested by what they hold, decoded when they are read.

Nothing is decoded to know what there is: shapes are known from the recipe. What a file holds is
kept by its path, size and time, so that a later run reads only what is new. A file that cannot be
read or decoded is a sample with the reason in the column `bad` and zeros for inputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from storage.corpus import Corpus
from storage.errors import BadSampleError, DataError, one_line
from storage.identity import Json, canonical_json
from storage.listing import ListedFile
from storage.options_base import Task
from storage.rows import INPUT, Array, Column, Ragged
from storage.schema import BAD, LABEL, SAMPLE_ID, input_column
from storage.spec import CorpusForm, InputSpec

_THREADS: Final = 4
_UNREADABLE: Final = "unreadable"


@dataclass(frozen=True)
class OpenFile:
    """A file whose parts can be read.

    Attributes:
        filesystem: where it lies.
        path: its path there; or its content, where that is in memory.
        size_bytes: as listed.
    """

    filesystem: Any
    path: str | bytes
    size_bytes: int

    @classmethod
    def of_content(cls, content: bytes) -> OpenFile:
        """What is in memory, as a file."""
        return cls(None, content, len(content))

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to `stop`.

        Raises:
            BadSampleError: it cannot be read, or is shorter than it was.
        """
        if isinstance(self.path, bytes):
            return self.path[start:stop]
        try:
            with self.filesystem.open(self.path, "rb") as file:
                file.seek(start)
                content = bytes(file.read(stop - start))
        except Exception as error:
            raise BadSampleError(f"the file cannot be read: {one_line(error)}") from error
        if len(content) < stop - start:
            raise BadSampleError(
                f"the file ends at byte {start + len(content):,}, it had {self.size_bytes:,}"
            )
        return content


@dataclass(frozen=True)
class SplitFiles:
    """The files of a split.

    Attributes:
        files: sorted by name.
        digests: of what each holds.
        label_B: the class id of each, where they have any.
    """

    files: tuple[ListedFile, ...]
    digests: tuple[str, ...]
    label_B: NDArray[np.int64] | None


class FileDecoder(Protocol):
    """Makes the inputs of a sample of a file."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Of the files that a folder is searched for; none for all files."""

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """What it makes."""

    @property
    def identity(self) -> Json:
        """What decides the numbers."""

    def load(self, file: OpenFile) -> bytes:
        """All of a file that decides the sample.

        Raises:
            BadSampleError: it cannot be read.
        """

    def decode(self, content: bytes) -> tuple[Array, ...]:
        """The inputs of what was loaded, one array each.

        Raises:
            BadSampleError: it cannot be decoded; the message is the reason.
        """


class FileCorpus(Corpus):
    """Samples that are files of one file system.

    Attributes:
        filesystem: where they lie.
        splits: the files of each split, and what is known of them.
        decoder: makes their inputs.
    """

    def __init__(
        self,
        filesystem: Any,
        splits: Mapping[str, SplitFiles],
        decoder: FileDecoder,
        class_names: tuple[str, ...] | None,
    ) -> None:
        has_label = class_names is not None
        form = CorpusForm(Task.CLASSIFICATION, decoder.inputs, has_label, tuple(splits))
        samples = {split: len(known.files) for split, known in splits.items()}
        super().__init__(form, samples, len(class_names or ()), class_names)
        self.filesystem = filesystem
        self.splits = dict(splits)
        self.decoder = decoder

    def columns(self, split: str) -> tuple[str, ...]:
        """The names of all columns."""
        inputs = (input_column(spec.name) for spec in self.decoder.inputs)
        return (SAMPLE_ID, *inputs, *((LABEL,) if self.form.has_label else ()), BAD)

    def read(
        self, split: str, start: int, stop: int, columns: Sequence[str] | None = None
    ) -> dict[str, Column]:
        """Some samples; their files are read only where what they hold is wanted.

        Raises:
            DataError: a file changed since it was digested.
        """
        known = self.splits[split]
        files = known.files[start:stop]
        wanted = columns or self.columns(split)
        found: dict[str, Column] = {SAMPLE_ID: np.array([f.name for f in files], dtype=object)}
        if any(name == BAD or name.startswith(INPUT) for name in wanted):
            found |= self._decoded(files, known.digests[start:stop])
        if known.label_B is not None:
            found[LABEL] = known.label_B[start:stop]
        return {name: found[name] for name in wanted}

    def digest(self, split: str, start: int, stop: int) -> str:
        """The sha256 over ids, labels and content of some samples: nothing is decoded for it."""
        known = self.splits[split]
        names = [file.name for file in known.files[start:stop]]
        labels = None if known.label_B is None else known.label_B[start:stop].tolist()
        content = canonical_json([names, labels, list(known.digests[start:stop])])
        return hashlib.sha256(content).hexdigest()

    def digest_of_split(self, split: str) -> str:
        """The same over all samples of a split."""
        return self.digest(split, 0, self.samples[split])

    def _decoded(self, files: Sequence[ListedFile], digests: Sequence[str]) -> dict[str, Column]:
        with ThreadPoolExecutor(_THREADS) as pool:
            made = list(pool.map(self._decode, files, digests))
        columns = input_columns(self.decoder.inputs, [values for values, _ in made])
        return {**columns, BAD: np.array([reason for _, reason in made], dtype=object)}

    def _decode(self, file: ListedFile, digest: str) -> tuple[tuple[Array, ...], str]:
        """The inputs of a file, and what is wrong with it."""
        content, reason = load_file(self.filesystem, file, self.decoder)
        if digest_of_content(content, reason) != digest:
            raise DataError(
                f"data.source: {file.name!r} changed since this run looked at the data"
                f"{f' ({reason})' if reason else ''}; run it again"
            )
        if reason:
            return (), reason
        try:
            return self.decoder.decode(content), ""
        except BadSampleError as error:
            return (), str(error)


def load_file(filesystem: Any, file: ListedFile, decoder: FileDecoder) -> tuple[bytes, str]:
    """What decides a sample, or why it cannot be read."""
    try:
        return decoder.load(OpenFile(filesystem, file.path, file.size_bytes)), ""
    except BadSampleError as error:
        return b"", str(error)


def digest_of_content(content: bytes, reason: str) -> str:
    """The sha256 of what decides a sample; of one that cannot be read, of the reason."""
    return hashlib.sha256(f"{_UNREADABLE}: {reason}".encode() if reason else content).hexdigest()


def digest_files(filesystem: Any, files: Sequence[ListedFile], decoder: FileDecoder) -> list[str]:
    """The digest of each file's content; costs reading it."""

    def digest(file: ListedFile) -> str:
        return digest_of_content(*load_file(filesystem, file, decoder))

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(digest, files))


def input_columns(
    specs: Iterable[InputSpec], samples: Sequence[tuple[Array, ...]]
) -> dict[str, Column]:
    """The inputs of some samples as columns; zeros for those that are empty tuples."""
    columns: dict[str, Column] = {}
    for place, spec in enumerate(specs):
        zeros = np.zeros(spec.shape if spec.shape is not None else (1,), spec.dtype)
        values = [sample[place] if sample else zeros for sample in samples]
        if spec.shape is not None:
            columns[input_column(spec.name)] = np.stack(values)
        else:
            lengths_B = np.array([len(value) for value in values], np.int64)
            columns[input_column(spec.name)] = Ragged(np.concatenate(values), lengths_B)
    return columns
