"""Files in the IDX format of MNIST and its relatives, plain or gzipped, read piece by piece.

Two bytes of 0, one for the type, one for the number of dimensions, these as big-endian 32-bit
numbers, and the values.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO, Any, Final

import fsspec
import numpy as np

from storage.errors import DataError, one_line
from storage.input_options import IMAGE
from storage.rows import Array, Column

LABEL_COLUMN: Final = "label"
_DTYPES: Final = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_IMAGES: Final = "images-idx"
_LABELS: Final = "labels-idx"
_SPLITS: Final = {"t10k": "test"}
_ROWS_OF_CHUNK: Final = 4096


def idx_pairs(folder: str) -> dict[str, tuple[str, str]]:
    """The images and labels in a folder, by split: `<split>-images-idx3-ubyte.gz` and its labels.

    Raises:
        DataError: there is no folder, or no pair in it.
    """
    try:
        filesystem, path = fsspec.core.url_to_fs(folder)
        names = sorted(str(name) for name in filesystem.ls(path, detail=False))
    except Exception as error:
        raise DataError(f"data.source {folder!r} cannot be listed: {one_line(error)}") from error
    found = {}
    for images in (name for name in names if _IMAGES in PurePosixPath(name).name):
        prefix = PurePosixPath(images).name.split(_IMAGES)[0]
        labels = [name for name in names if PurePosixPath(name).name.startswith(prefix + _LABELS)]
        split = _SPLITS.get(prefix.rstrip("-."), prefix.rstrip("-."))
        if labels:
            pair = (filesystem.unstrip_protocol(images), filesystem.unstrip_protocol(labels[0]))
            found[split] = pair
    if not found:
        raise DataError(
            f"data.source {folder!r} holds no files such as train-images-idx3-ubyte.gz and "
            "train-labels-idx1-ubyte.gz"
        )
    return found


def read_idx_pair(images: str, labels: str | None) -> Iterator[dict[str, Column]]:
    """The images [B, 1, H, W], or [B, ...] as they are, and their labels [B], in pieces.

    Raises:
        DataError: a file is no IDX file, is cut off, or both do not have the same length.
    """
    label_N = None if labels is None else np.concatenate([*_pieces(labels)]).astype(np.int64)
    start = 0
    for piece in _pieces(images):
        chunk: dict[str, Column] = {IMAGE: piece[:, None] if piece.ndim == 3 else piece}
        stop = start + len(piece)
        if label_N is not None:
            chunk[LABEL_COLUMN] = label_N[start:stop]
            if len(label_N) < stop:
                raise DataError(f"data.source: {labels!r} has fewer labels than {images!r} images")
        start = stop
        yield chunk
    if label_N is not None and len(label_N) != start:
        raise DataError(
            f"data.source: {labels!r} has {len(label_N):,} labels, {images!r} {start:,} images"
        )


def _pieces(url: str) -> Iterator[Array]:
    try:
        with fsspec.open(url, "rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            yield from _values(gzip.GzipFile(fileobj=file) if packed else file, url)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"data.source {url!r} cannot be read: {one_line(error)}") from error


def _values(file: IO[bytes] | Any, url: str) -> Iterator[Array]:
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _DTYPES or not head[3]:
        raise DataError(f"data.source {url!r} is no IDX file")
    sizes = np.frombuffer(_exactly(file, 4 * head[3], url), ">u4").astype(np.int64)
    dtype = np.dtype(_DTYPES[head[2]])
    width = int(np.prod(sizes[1:])) * dtype.itemsize
    for start in range(0, int(sizes[0]), _ROWS_OF_CHUNK):
        count = min(_ROWS_OF_CHUNK, int(sizes[0]) - start)
        values = np.frombuffer(_exactly(file, count * width, url), dtype)
        yield values.reshape(count, *sizes[1:]).astype(dtype.newbyteorder("="))
    if file.read(1):
        raise DataError(f"data.source {url!r} goes on after its last value")


def _exactly(file: IO[bytes] | Any, count: int, url: str) -> bytes:
    content: bytes = file.read(count)
    if len(content) < count:
        raise DataError(f"data.source {url!r} is cut off")
    return content
