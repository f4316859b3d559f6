"""The wire format of protobuf messages, as far as large numbers can stay in the file.

A message is a row of fields: a tag (the field's number and how it is stored), a length where it has
one, and the value. Source: https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from .source import Source

_LONGEST_NUMBER = 10  # bytes
_WINDOW = 1 << 16  # bytes that are read at once
_SMALL = 1 << 12  # bytes; what is not larger is copied as it is
_FIXED = {1: 8, 5: 4}  # bytes of a value by its wire type
_LENGTH = 2  # the wire type of what has a length

# Which messages are inside a message, by the numbers of their fields; "" for bytes that may stay in
# the file.
Layout: TypeAlias = Mapping[str, Mapping[int, str]]


class Field(NamedTuple):
    """A field of a message: where it begins, and its value begins and ends."""

    number: int
    wire: int
    begin: int
    start: int
    end: int


class Reader:
    """Reads small pieces of a file that lie close together.

    Parameters
    ----------
    source : Source
    """

    def __init__(self, source: Source) -> None:
        self._source, self._start, self._data = source, 0, bytearray()

    def bytes(self, start: int, end: int) -> bytearray:
        """Return the bytes of the file from `start` to `end`."""
        if end - start > _WINDOW:
            return self._source.read(start, end - start)
        if not (self._start <= start and end <= self._start + len(self._data)):
            size = min(_WINDOW, self._source.size - start)
            self._start, self._data = start, self._source.read(start, max(size, end - start))
        return self._data[start - self._start : end - self._start]

    def fields(self, place: int, end: int) -> Iterator[Field]:
        """Yield the fields of a message that lies between two places.

        Raises
        ------
        ValueError
            If it is no message, or is truncated.
        """
        while place < end:
            begin = place
            tag, place = self._number(place, end)
            number, wire = tag >> 3, tag & 7
            if wire == 0:
                start = place
                _, place = self._number(place, end)
            elif wire == _LENGTH:
                size, start = self._number(place, end)
                place = start + size
            elif wire in _FIXED:
                start = place
                place = start + _FIXED[wire]
            else:
                raise ValueError("a field of a protobuf message has no known type")
            if not number or place > end:
                raise ValueError("a field of a protobuf message goes beyond its end")
            yield Field(number, wire, begin, start, place)

    def _number(self, place: int, end: int) -> tuple[int, int]:
        """Return the number that begins at a place, and where it ends."""
        data = self.bytes(place, min(place + _LONGEST_NUMBER, end))
        if data and data[0] < 0x80:
            return data[0], place + 1
        value = 0
        for count, byte in enumerate(data):
            value |= (byte & 0x7F) << (7 * count)
            if byte < 0x80:
                return value, place + count + 1
        raise ValueError("a number of a protobuf message has no end")


def thinned(
    source: Source, layout: Layout, kind: str, stand_in: Callable[[int, int], bytes]
) -> bytes:
    """Return the message in a file with something else in the place of large bytes.

    Parameters
    ----------
    source : Source
    layout : Layout
    kind : str
        Which of the layout's messages the file is.
    stand_in : function
        It takes where the large bytes begin and end, and returns the fields that replace theirs.

    Raises
    ------
    ValueError
        If the file is damaged, or messages are nested too deep.
    """
    reader = Reader(source)

    def message(place: int, end: int, kind: str, depth: int) -> bytearray:
        source.budget.check("levels of messages", depth)
        result = bytearray()
        copied = place  # up to here the message is in the result
        inside = layout[kind]
        for field in reader.fields(place, end):
            inner = inside.get(field.number)
            if field.end - field.start <= _SMALL or field.wire != _LENGTH or inner is None:
                continue
            result += reader.bytes(copied, field.begin)
            copied = field.end
            if inner:
                data = message(field.start, field.end, inner, depth + 1)
                result += _written(field.number << 3 | _LENGTH) + _written(len(data)) + data
            else:
                result += stand_in(field.start, field.end)
        return result + reader.bytes(copied, end)

    return bytes(message(0, source.size, kind, 0))


def entry(number: int, value: bytes) -> bytes:
    """Return a field that has a length."""
    return _written(number << 3 | _LENGTH) + _written(len(value)) + value


def _written(number: int) -> bytes:
    """Return a number as messages have it."""
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)
