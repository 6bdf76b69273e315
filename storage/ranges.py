"""A file of a store read in parts, as Parquet's readers do: each part is a request of its own."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class RangeFile(io.RawIOBase):
    """A seekable file of known size over a function that gives the bytes from start to stop."""

    def __init__(self, size_bytes: int, read: Callable[[int, int], bytes]) -> None:
        self._size = size_bytes
        self._read = read
        self._place = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """The place of the next byte."""
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place; reading behind the end gives nothing."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = max(start + offset, 0)
        return self._place

    def readall(self) -> bytes:
        """All that is left, from one request."""
        return self.read(self._size - self._place) or b""

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill the buffer from one request, as far as the file goes."""
        view = memoryview(buffer).cast("B")
        stop = min(self._place + len(view), self._size)
        if stop <= self._place:
            return 0
        content = self._read(self._place, stop)
        view[: len(content)] = content
        self._place += len(content)
        return len(content)
