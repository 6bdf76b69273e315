"""How much the pages of a Parquet file hold, as they say themselves, before anything is unpacked.

A reader reserves what the header of a page says, whatever the file's footer says of the column. So
the headers are walked: a few bytes of each page, its content passed over. The numbers of fields are
those of parquet-format's parquet.thrift. pyarrow gives none of this: it knows no pages, and ends
the process on some footers that were made up when it is asked for a column's place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from storage.errors import IntegrityError
from storage.thrift import CompactReader, Fields

_TAIL_BYTES: Final = 8
_ROW_GROUPS, _COLUMNS, _COLUMN = 4, 1, 3
_COLUMN_BYTES, _FIRST_PAGE, _FIRST_DICTIONARY = 7, 9, 11

_HEADER_BYTES: Final = (1 << 9, 1 << 17)
"""Read for a header: few bytes, and more where it holds long statistics."""

_KIND, _UNPACKED_BYTES, _PACKED_BYTES = 1, 2, 3
_DICTIONARY: Final = 2
_CONTENT: Final = {0: (5, 2), 2: (7, 2), 3: (8, 4)}
"""For data, a dictionary, and data of version 2: the field of their header, and in it the encoding.
"""

_NUM_VALUES: Final = 1
_ENCODINGS: Final = frozenset({0, 2, 3, 8, 9})
"""Plain, by a dictionary, runs, and bytes split. In others a few bytes can be of any length."""

VALUE_BYTES: Final = 4
"""What a value takes in memory at least, an empty list included: where it begins."""


@dataclass(frozen=True)
class _Page:
    is_dictionary: bool
    size_bytes: int
    num_values: int


def unpacked_bytes(file: BinaryIO, size_bytes: int) -> Iterator[int]:
    """What each column of each row group can take in memory, in bytes.

    Raises:
        IntegrityError: the file says of itself what no shard says.
    """
    for start, packed in _columns(file, size_bytes):
        if packed > size_bytes - start:
            raise IntegrityError("it has a column that lies outside of the file")
        total = longest = 0
        for page in _pages(file, start, packed):
            # A value can be as long as the dictionary that it is named from.
            longest = max(longest, page.size_bytes) if page.is_dictionary else longest
            total += page.size_bytes + page.num_values * (VALUE_BYTES + longest)
        yield total


def _columns(file: BinaryIO, size_bytes: int) -> Iterator[tuple[int, int]]:
    """Where the pages of each column begin, and how many bytes they take."""
    file.seek(max(size_bytes - _TAIL_BYTES, 0))
    length = int.from_bytes(file.read(_TAIL_BYTES)[:4], "little")
    file.seek(max(size_bytes - _TAIL_BYTES - length, 0))
    try:
        footer = CompactReader(file.read(length)).struct()
    except IndexError as error:
        raise IntegrityError("its footer is cut short") from error
    for group in _structs(footer, _ROW_GROUPS):
        for chunk in _structs(group, _COLUMNS):
            column = chunk.get(_COLUMN)
            if not isinstance(column, dict):
                raise IntegrityError("its footer does not say where a column lies")
            start = _count(column, _FIRST_PAGE)
            dictionary = column.get(_FIRST_DICTIONARY, 0)
            if isinstance(dictionary, int) and 0 < dictionary < start:
                start = dictionary
            yield start, _count(column, _COLUMN_BYTES)


def _pages(file: BinaryIO, start: int, packed: int) -> Iterator[_Page]:
    place = start
    while place < start + packed:
        header, length = _header(file, place)
        yield _page(header)
        place += length + _count(header, _PACKED_BYTES)


def _page(header: Fields) -> _Page:
    kind = _count(header, _KIND)
    if kind not in _CONTENT:
        raise IntegrityError(f"it has a page of kind {kind}, which no shard has")
    field, encoding_field = _CONTENT[kind]
    content = header.get(field)
    if not isinstance(content, dict):
        raise IntegrityError("it has a page that does not say how many values it holds")
    encoding = _count(content, encoding_field)
    if encoding not in _ENCODINGS:
        raise IntegrityError(f"it has a page of encoding {encoding}, which no shard has")
    return _Page(kind == _DICTIONARY, _count(header, _UNPACKED_BYTES), _count(content, _NUM_VALUES))


def _header(file: BinaryIO, place: int) -> tuple[Fields, int]:
    """The header of the page at `place`, and how many bytes it takes."""
    for size in _HEADER_BYTES:
        file.seek(place)
        reader = CompactReader(file.read(size))
        try:
            return reader.struct(), reader.place
        except IndexError:
            continue
    raise IntegrityError(f"it has no whole header of a page at byte {place}")


def _structs(fields: Fields, name: int) -> Iterator[Fields]:
    found = fields.get(name, [])
    for entry in found if isinstance(found, list) else [found]:
        if not isinstance(entry, dict):
            raise IntegrityError("its footer is not of the form expected")
        yield entry


def _count(fields: Fields, name: int) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or value < 0:
        raise IntegrityError(f"it lacks the number {name} of a column or a page, or it is below 0")
    return value
