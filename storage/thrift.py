"""Structs of Thrift's compact protocol, in which Parquet writes what it says of a file.

Only what Parquet uses, and only reading. Whatever the bytes, the memory is in proportion to them.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from storage.errors import IntegrityError

_TRUE, _FALSE, _BYTE, _INT16, _INT32, _INT64, _DOUBLE, _BINARY, _LIST = range(1, 10)
_STRUCT: Final = 12
_DEEPEST: Final = 12
_LONGEST_VARINT: Final = 10
_LONG_LIST: Final = 15
_WIDTHS: Final = {_BYTE: 1, _DOUBLE: 8}

Value: TypeAlias = "int | list[Value] | dict[int, Value]"
Fields: TypeAlias = dict[int, Value]


class CompactReader:
    """Reads from `content`, at `place`; IndexError says that there are too few bytes."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.place = 0

    def struct(self, deepest: int = _DEEPEST) -> Fields:
        """The values of a struct by the numbers of their fields; texts and fractions count as 0.

        Raises:
            IntegrityError: it holds what Parquet does not.
        """
        fields: Fields = {}
        field = 0
        while head := self._byte():
            field = field + (head >> 4) if head >> 4 else self._signed()
            kind = head & 0xF
            # A truth value of a field is its type; of a list it is a byte.
            fields[field] = (
                int(kind == _TRUE) if kind in (_TRUE, _FALSE) else self._value(kind, deepest)
            )
        return fields

    def _value(self, kind: int, deepest: int) -> Value:
        if kind in (_INT16, _INT32, _INT64):
            return self._signed()
        if kind == _STRUCT and deepest:
            return self.struct(deepest - 1)
        if kind == _LIST and deepest:
            head = self._byte()
            count = head >> 4 if head >> 4 < _LONG_LIST else self._unsigned()
            return [self._value(head & 0xF, deepest - 1) for _ in range(count)]
        if kind in (_TRUE, _FALSE, *_WIDTHS, _BINARY):
            self._pass(self._unsigned() if kind == _BINARY else _WIDTHS.get(kind, 1))
            return 0
        raise IntegrityError(f"it says something of type {kind}, which Parquet has not")

    def _byte(self) -> int:
        value = self._content[self.place]
        self.place += 1
        return value

    def _pass(self, count: int) -> None:
        self.place += count
        if self.place > len(self._content):
            raise IndexError

    def _unsigned(self) -> int:
        value = 0
        for place in range(_LONGEST_VARINT):
            byte = self._byte()
            value |= (byte & 0x7F) << (7 * place)
            if byte < 0x80:
                return value
        raise IntegrityError("it says a number that does not end")

    def _signed(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)
