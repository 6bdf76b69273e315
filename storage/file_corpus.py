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

from storage.errors import BadSampleError, DataError, one_line
from storage.identity import Json
from storage.listing import ListedFile
from storage.rows import Array, Column, Ragged
from storage.schema import BAD, SAMPLE_ID, input_column
from storage.spec import InputSpec

_THREADS: Final = 4
_UNREADABLE: Final = "unreadable"


@dataclass(frozen=True)
class OpenFile:
    """A file whose parts can be read.

    Attributes:
        filesystem: where it lies.
        path: its path there.
        size_bytes: as listed.
    """

    filesystem: Any
    path: str
    size_bytes: int

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to `stop`.

        Raises:
            BadSampleError: it cannot be read, or is shorter than it was.
        """
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


def digest_files(filesystem: Any, files: Sequence[ListedFile], decoder: FileDecoder) -> list[str]:
    """The sha256 of what decides each sample; of a file that cannot be read, of the reason."""

    def digest(file: ListedFile) -> str:
        try:
            content = decoder.load(OpenFile(filesystem, file.path, file.size_bytes))
        except BadSampleError as error:
            content = f"{_UNREADABLE}: {error}".encode()
        return hashlib.sha256(content).hexdigest()

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(digest, files))


def decode_files(
    filesystem: Any, files: Sequence[ListedFile], decoder: FileDecoder
) -> dict[str, Column]:
    """The ids and inputs of some files, and in `bad` what is wrong with each."""

    def decode(file: ListedFile) -> tuple[tuple[Array, ...], str]:
        try:
            content = decoder.load(OpenFile(filesystem, file.path, file.size_bytes))
            return decoder.decode(content), ""
        except BadSampleError as error:
            return (), str(error)

    with ThreadPoolExecutor(_THREADS) as pool:
        decoded = list(pool.map(decode, files))
    columns: dict[str, Column] = {SAMPLE_ID: np.array([file.name for file in files], dtype=object)}
    columns |= input_columns(decoder.inputs, [values for values, _ in decoded])
    columns[BAD] = np.array([reason for _, reason in decoded], dtype=object)
    return columns


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


def folder_of(name: str, *, below_split: bool) -> str:
    """The class of a file: the folder that it lies in, right below the source (or the split)."""
    parts = name.split("/")[int(below_split) :]
    return parts[0] if len(parts) > 1 else ""


def class_ids(
    names: Sequence[str], folders: Sequence[str], classes: Sequence[str]
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The class id of each file.

    Raises:
        DataError: a file lies in a folder that is no class.
    """
    place: Mapping[str, int] = {name: number for number, name in enumerate(classes)}
    for name, folder in zip(names, folders, strict=True):
        if folder not in place:
            where = f"in the folder {folder!r}" if folder else "in no folder"
            raise DataError(
                f"data.label: the file {name!r} lies {where}, which is not among data.classes"
                if folder
                else f"data.label: the file {name!r} lies {where} of a class"
            )
    return np.array([place[folder] for folder in folders], np.int64)
