"""Any file as numbers: its first bytes, or its first and last ones as Google's Magika takes them.

Of a large file only both ends are read, and only they make its content.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from storage.file_corpus import OpenFile
from storage.identity import Json
from storage.input_options import BYTES, BytesOptions
from storage.rows import Array
from storage.spec import InputSpec

_DTYPE = np.int16
_SIZE_BYTES = 8


@dataclass(frozen=True)
class BytesDecoder:
    """The bytes of a file as int16 numbers, padded to a fixed length."""

    options: BytesOptions

    suffixes: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """One vector."""
        return (InputSpec(name=BYTES, dtype=np.dtype(_DTYPE).name, shape=(self.options.width,)),)

    @property
    def identity(self) -> Json:
        """What decides the numbers."""
        return self.options.identity()

    def load(self, file: OpenFile) -> bytes:
        """The size of the file, its first bytes, and, where they are others, its last ones."""
        options, size = self.options, file.size_bytes
        if options.length is not None:
            return file.read(0, min(size, options.length))
        count = min(size, options.block)
        head = file.read(0, count)
        tail = file.read(size - count, size) if size > count else b""
        return size.to_bytes(_SIZE_BYTES) + head + tail

    def decode(self, content: bytes) -> tuple[Array, ...]:
        """The numbers [width] of what was loaded."""
        options = self.options
        numbers = np.full(options.width, options.pad, _DTYPE)
        if options.length is not None:
            numbers[: len(content)] = np.frombuffer(content, np.uint8)
            return (numbers,)
        count = min(int.from_bytes(content[:_SIZE_BYTES]), options.block)
        head = content[_SIZE_BYTES : _SIZE_BYTES + count]
        tail = content[_SIZE_BYTES + count :] or head
        if options.strip:
            head, tail = head.lstrip(), tail.rstrip()
        head = head[: options.begin]
        tail = tail[max(0, len(tail) - options.end) :]
        numbers[: len(head)] = np.frombuffer(head, np.uint8)
        numbers[options.width - len(tail) :] = np.frombuffer(tail, np.uint8)
        return (numbers,)
