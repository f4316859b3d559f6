"""FlatBuffers, read without a library: tables, vectors and texts at places in a file.

A table begins with how far before it its vtable lies, and the vtable says where in the table each
field is, by the field's number. A field is a number, or says how far behind it a text, a vector or
another table begins. Such a distance is never negative, so no file can lead in a circle; but many
of them may lead to the same place, and so all tables are counted.

Every place is compared with the size of the file before anything is read there. The library
`flatbuffers` does not do that: it is written for files that one trusts.

Source: https://flatbuffers.dev/internals. All numbers are little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ..arrays import Array
    from .budget import Budget

_DISTANCE = struct.Struct("<I")  # from a field to what it stands for; also the size of a vector
_BACK = struct.Struct("<i")  # from a table back to its vtable
_SIZES = struct.Struct("<HH")  # of a vtable and of its tables, in bytes
_FIELD = struct.Struct("<H")  # from the beginning of a table to a field; 0: the field is not there
_NUMBERS = {kind: struct.Struct(f"<{kind}") for kind in "?bBhHiIqQf"}
_LONGEST_TEXT = 1 << 16  # bytes


class File:
    """A file of FlatBuffers in memory.

    Parameters
    ----------
    data : bytes-like
    budget : Budget
        Its "tables" and "letters of names" are spent.
    """

    def __init__(self, data: bytes | bytearray, budget: Budget) -> None:
        self.data, self.budget = memoryview(data), budget

    def root(self) -> Table:
        """Return the table that the file is about."""
        return Table(self, self.distance(0))

    def unpack(self, form: struct.Struct, place: int) -> Any:
        """Return what stands at a place: one number, or several in a tuple.

        Raises
        ------
        ValueError
            If the file ends before.
        """
        if not 0 <= place <= len(self.data) - form.size:
            raise ValueError(
                f"it is damaged or truncated: it refers to byte {place}, and has {len(self.data)}"
            )
        found = form.unpack_from(self.data, place)
        return found[0] if len(found) == 1 else found

    def distance(self, place: int) -> int:
        """Return the place that the distance at a place leads to."""
        found = self.unpack(_DISTANCE, place)
        if found < _DISTANCE.size:
            raise ValueError(f"it is damaged: the distance at byte {place} leads to itself")
        return int(place + found)

    def vector(self, place: int, dtype: str) -> Array:
        """Return the numbers of the vector at a place, which share the file's memory."""
        count = self.unpack(_DISTANCE, place)
        kind = np.dtype(dtype).newbyteorder("<")
        start = place + _DISTANCE.size
        if count * kind.itemsize > len(self.data) - start:
            raise ValueError(
                f"it is damaged or truncated: a vector of {count} numbers at byte {place} is "
                "longer than the file"
            )
        return np.frombuffer(self.data, kind, count, start)


class Table:
    """A table of a file: its fields are asked for by their numbers.

    A field that the file leaves out has the default that the caller names.

    Parameters
    ----------
    file : File
    place : int

    Raises
    ------
    ValueError
        If there is no table at this place.
    """

    def __init__(self, file: File, place: int) -> None:
        file.budget.spend("tables")
        self.file, self.place = file, place
        vtable = place - file.unpack(_BACK, place)
        size, self._size = file.unpack(_SIZES, vtable)
        if size % 2 or size < _SIZES.size or self._size < _BACK.size:
            raise ValueError(f"it is damaged: there is no table at byte {place}")
        if vtable + size > len(file.data) or place + self._size > len(file.data):
            raise ValueError(f"it is damaged or truncated: the table at byte {place} has no end")
        self._vtable, self._fields = vtable, (size - _SIZES.size) // _FIELD.size

    def _field(self, number: int, size: int) -> int:
        """Return the place of a field of so many bytes; 0 if it is left out."""
        if number >= self._fields:
            return 0
        offset = self.file.unpack(_FIELD, self._vtable + _SIZES.size + _FIELD.size * number)
        if not offset:
            return 0
        if not _BACK.size <= offset <= self._size - size:
            raise ValueError(f"it is damaged: field {number} of the table at byte {self.place}")
        return int(self.place + offset)

    def number(self, number: int, kind: str, default: Any = 0) -> Any:
        """Return a field that is a number, of a kind as the module struct names it."""
        form = _NUMBERS[kind]
        place = self._field(number, form.size)
        return self.file.unpack(form, place) if place else default

    def _target(self, number: int) -> int:
        """Return the place that a field leads to; 0 if it is left out."""
        place = self._field(number, _DISTANCE.size)
        return self.file.distance(place) if place else 0

    def table(self, number: int) -> Table | None:
        """Return a field that is a table."""
        place = self._target(number)
        return Table(self.file, place) if place else None

    def vector(self, number: int, dtype: str) -> Array | None:
        """Return a field that is a vector of numbers; None if it is left out."""
        place = self._target(number)
        return self.file.vector(place, dtype) if place else None

    def text(self, number: int) -> str:
        """Return a field that is a text; "" if it is left out."""
        data = self.vector(number, "u1")
        if data is None:
            return ""
        if data.size > _LONGEST_TEXT:
            raise ValueError(
                f"it has a name of {data.size} bytes; at most {_LONGEST_TEXT} are read"
            )
        self.file.budget.spend("letters of names", data.size)
        try:
            return data.tobytes().decode()
        except UnicodeDecodeError as fault:
            raise ValueError(f"it is damaged: a name in it is no UTF-8 ({fault.reason})") from None

    def tables(self, number: int) -> Tables:
        """Return a field that is a vector of tables, none if it is left out."""
        place = self._target(number)
        count = self.file.vector(place, "u4").size if place else 0
        return Tables(self.file, place, count)


class Tables:
    """A vector of tables, each of which is read when it is asked for."""

    def __init__(self, file: File, place: int, count: int) -> None:
        self._file, self._place, self._count = file, place, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Table:
        """Return a table; raise IndexError if there is none of this index."""
        if not 0 <= index < self._count:
            raise IndexError(index)
        return Table(self._file, self._file.distance(self._place + _DISTANCE.size * (index + 1)))

    def __iter__(self) -> Iterator[Table]:
        return (self[index] for index in range(self._count))
