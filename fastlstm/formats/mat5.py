"""MATLAB's files of the versions 5 to 7.2, read without a library.

A file is a header of 128 bytes and a row of elements: a tag, which tells the kind and the size, and
the data, filled up to 8 bytes. An element of the kind "matrix" has elements inside: flags with the
class, sizes, name, and the numbers or what else the class has. Version 7 compresses each variable
by zlib.

scipy.io.loadmat reads these files too, and says of itself that it is not made for files of unknown
origin: it inflates whatever a few bytes ask for. Here every size is checked against what there is,
and what is inflated and how many values there are is counted by the file's budget.

Source of the format: MathWorks, "MAT-File Format", 2019.
"""

from __future__ import annotations

import math
import struct
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..checks import short
from .mat_values import Cell, Closed, Struct, Variable

if TYPE_CHECKING:
    from ..arrays import Array
    from .budget import Budget
    from .source import Source

_HEADER = 128
_INT8, _UINT8, _UINT16, _INT32, _UINT32 = 1, 2, 4, 5, 6
_MATRIX, _COMPRESSED, _UTF8, _UTF16, _UTF32 = 14, 15, 16, 17, 18
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8"}
_STORED |= {12: "i8", 13: "u8"}
_CELL, _STRUCT, _OBJECT, _CHAR, _SPARSE, _FUNCTION, _OPAQUE = 1, 2, 3, 4, 5, 16, 17
_KINDS = {_CELL: "cell", _STRUCT: "struct", _OBJECT: "object", _CHAR: "char"}
_KINDS |= {_SPARSE: "sparse matrix", _FUNCTION: "function handle", _OPAQUE: "object"}
_NUMBERS = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4"}
_NUMBERS |= {14: "i8", 15: "u8"}
_COMPLEX = 0x08
_MOST_AXES = 32
_HEAD = 4096  # bytes of a variable, in which its class and its name stand
_CHUNK = 1 << 20  # bytes that are inflated at once


class _Part(NamedTuple):
    """An element: its kind, where its data is, and where the next element begins."""

    kind: int
    start: int
    end: int
    after: int


class _Matrix(NamedTuple):
    """The beginning of a matrix: its class and flags, sizes, name, and where the rest begins."""

    kind: int
    flags: int
    shape: tuple[int, ...]
    name: str
    start: int


def recognises(head: bytes) -> bool:
    """Tell whether a file begins as one of these versions does."""
    end = head[124:_HEADER]
    return head.startswith(b"MATLAB") and end in (b"\0\1IM", b"\1\0MI")


def variables(source: Source) -> dict[str, Variable]:
    """Return the variables of a file, by their names in its order.

    Raises
    ------
    ValueError
        If the file is damaged.
    """
    order = "<" if source.head[126:_HEADER] == b"IM" else ">"
    found: dict[str, Variable] = {}
    place = _HEADER
    while place < source.size:
        source.budget.spend("values of MATLAB")
        kind, size = struct.unpack(f"{order}2I", _bytes(source, place, 8))
        start, place = place + 8, place + 8 + size
        if place > source.size:
            raise ValueError(
                f"it is truncated: a variable ends at byte {place}, the file at byte {source.size}"
            )
        if kind == _COMPRESSED:
            packed = (start, size)
            head = _inflated_head(source, start, size)
        elif kind == _MATRIX:
            packed = None
            head = _bytes(source, start - 8, min(_HEAD, size + 8))
        else:
            raise ValueError(f"a damaged MATLAB file: an element of kind {kind} is no variable")
        reader = _Reader(head, order, source.budget, is_head=True)
        part = reader.part(0, len(head))
        if part.kind != _MATRIX:
            raise ValueError(f"a damaged MATLAB file: an element of kind {kind} is no variable")
        matrix = reader.matrix(part.start, part.end)
        if not matrix.name:  # what objects refer to has no name
            continue
        if matrix.name in found:
            raise ValueError(f"two of its variables are called {short(matrix.name)}")
        what = (start - 8, size + 8) if packed is None else packed
        found[matrix.name] = Variable(
            reader.kind(matrix), _value_reader(source, order, *what, packed is not None)
        )
    return found


def _bytes(source: Source, start: int, size: int) -> bytes:
    return bytes(source.read(start, size))


def _value_reader(source: Source, order: str, start: int, size: int, is_packed: bool) -> Any:
    """Return a function that reads the value of a variable, which lies in these bytes."""

    def read() -> Any:
        data: bytes | bytearray
        if is_packed:
            data = _inflated(source, start, size, order)
        else:
            data = source.read(start, size)
        reader = _Reader(data, order, source.budget)
        part = reader.part(0, len(data))
        return reader.value(part.start, part.end, 0)

    return read


def _inflated_head(source: Source, start: int, size: int) -> bytes:
    packed = _bytes(source, start, min(size, _HEAD))
    try:
        return zlib.decompressobj().decompress(packed, _HEAD)
    except zlib.error as fault:
        raise ValueError(f"a damaged MATLAB file: {fault}") from fault


def _inflated(source: Source, start: int, size: int, order: str) -> bytearray:
    """Return a compressed variable, which its own tag says the size of."""
    inflater = zlib.decompressobj()
    data = bytearray()
    wanted, place = 8, start
    try:
        while len(data) < wanted:
            piece = inflater.unconsumed_tail
            if not piece and place < start + size:
                piece = _bytes(source, place, min(_CHUNK, start + size - place))
                place += len(piece)
            if inflater.eof or not piece:
                raise ValueError(
                    f"a damaged MATLAB file: a variable inflates to {len(data)} of {wanted} bytes"
                )
            data += inflater.decompress(piece, wanted - len(data))
            if wanted == 8 and len(data) == 8:
                wanted += struct.unpack(f"{order}2I", data)[1]
                source.budget.spend("inflated bytes", wanted)
        if not inflater.eof:  # the checksum stands at the end, behind what is left
            rest = inflater.unconsumed_tail + _bytes(source, place, start + size - place)
            inflater.decompress(rest, 8)
    except zlib.error as fault:
        raise ValueError(f"a damaged MATLAB file: {fault}") from fault
    return data


class _Reader:
    """The bytes of one variable, in the byte order of the file.

    With `is_head` the bytes are just those of the beginning, and elements may end behind them.
    """

    def __init__(
        self, data: bytes | bytearray, order: str, budget: Budget, is_head: bool = False
    ) -> None:
        self._data, self._order, self._budget = memoryview(data), order, budget
        self._is_head = is_head

    def part(self, at: int, end: int) -> _Part:
        """Return the element that begins at a place, and must end before another."""
        if at + 8 > end:
            raise ValueError("a damaged MATLAB file: an element is cut off")
        first, second = struct.unpack_from(f"{self._order}2I", self._data, at)
        if first >> 16:  # four bytes or less stand in the tag itself
            kind, size, start, after = first & 0xFFFF, first >> 16, at + 4, at + 8
            if size > 4:
                raise ValueError(f"a damaged MATLAB file: {size} bytes in a tag with room for 4")
        else:
            kind, size, start = first, second, at + 8
            after = start + size + (-size) % 8
        if start + size > end:
            if not (self._is_head and kind == _MATRIX):
                raise ValueError(
                    f"a damaged MATLAB file: an element of {size} bytes in {max(0, end - start)}"
                )
            size = end - start
        return _Part(kind, start, start + size, min(after, end))

    def matrix(self, start: int, end: int) -> _Matrix:
        """Return the beginning of the matrix in these bytes."""
        flags = self.part(start, end)
        if flags.kind != _UINT32 or flags.end - flags.start != 8:
            raise ValueError("a damaged MATLAB file: a matrix does not begin with its flags")
        bits = struct.unpack_from(f"{self._order}I", self._data, flags.start)[0]
        kind = bits & 0xFF
        if kind == _OPAQUE:  # an object has no sizes
            shape, after = (), flags.after
        else:
            sizes = self.part(flags.after, end)
            count = (sizes.end - sizes.start) // 4
            if sizes.kind not in (_INT32, _UINT32) or not 2 <= count <= _MOST_AXES:
                raise ValueError("a damaged MATLAB file: a matrix has no sizes")
            shape = struct.unpack_from(f"{self._order}{count}i", self._data, sizes.start)
            if min(shape) < 0:
                raise ValueError(f"a damaged MATLAB file: a matrix of sizes {short(shape)}")
            after = sizes.after
        name = self.part(after, end)
        return _Matrix(kind, bits >> 8 & 0xFF, shape, self._name(name), name.after)

    def kind(self, matrix: _Matrix) -> str:
        """Return the name of the class of a matrix."""
        if matrix.kind in _NUMBERS:
            return "numbers"
        return _KINDS.get(matrix.kind, f"class {matrix.kind}")

    def value(self, start: int, end: int, depth: int) -> Any:
        """Return the value of the matrix in these bytes."""
        self._budget.check("levels of modules", depth)
        self._budget.spend("values of MATLAB")
        if start == end:  # so MATLAB writes an empty array inside another
            return np.zeros((0, 0))
        matrix = self.matrix(start, end)
        count = math.prod(matrix.shape)
        if matrix.kind in _NUMBERS:
            return self._numbers(matrix, count, end)
        if matrix.kind == _CHAR:
            return self._text(matrix, count, end)
        if matrix.kind == _CELL:
            return Cell(matrix.shape, self._elements(matrix.start, end, count, depth))
        if matrix.kind == _STRUCT:
            return self._struct(matrix, count, end, depth)
        if matrix.kind == _OPAQUE:
            return Closed(self._object(matrix, end))
        if matrix.kind == _OBJECT:
            name = self._name(self.part(matrix.start, end))
            return Closed(f"an object of MATLAB's class {short(name)}")
        return Closed(f"a {self.kind(matrix)}")

    def _numbers(self, matrix: _Matrix, count: int, end: int) -> Any:
        if matrix.flags & _COMPLEX:
            return Closed("an array of complex numbers")
        part, dtype = self.part(matrix.start, end), _NUMBERS[matrix.kind]
        if part.kind not in _STORED:
            raise ValueError(f"a damaged MATLAB file: numbers are stored as kind {part.kind}")
        stored = np.dtype(self._order + _STORED[part.kind])
        if part.end - part.start != count * stored.itemsize:
            raise ValueError(
                f"a damaged MATLAB file: an array of {count} numbers has "
                f"{part.end - part.start} bytes, not {count * stored.itemsize}"
            )
        self._budget.spend("inflated bytes", count * np.dtype(dtype).itemsize)
        flat: Array = np.frombuffer(self._data[part.start : part.end], stored).astype(dtype)
        return flat.reshape(matrix.shape, order="F")

    def _text(self, matrix: _Matrix, count: int, end: int) -> Any:
        part = self.part(matrix.start, end) if matrix.start < end else None
        if part is None or not count:
            return ""
        if len(matrix.shape) != 2 or matrix.shape[0] != 1:
            return Closed("an array of several texts")
        names = {_UTF8: "utf-8", _UTF16: "utf-16", _UINT16: "utf-16", _UTF32: "utf-32"}
        coding = names.get(part.kind, "latin-1")
        if coding in ("utf-16", "utf-32"):
            coding += "-le" if self._order == "<" else "-be"
        if part.kind not in (*names, _INT8, _UINT8):
            raise ValueError(f"a damaged MATLAB file: a text is stored as kind {part.kind}")
        self._budget.spend("inflated bytes", part.end - part.start)
        try:
            return bytes(self._data[part.start : part.end]).decode(coding)
        except UnicodeDecodeError as fault:
            raise ValueError(f"a damaged MATLAB file: {fault}") from fault

    def _elements(self, at: int, end: int, count: int, depth: int) -> list[Any]:
        """Return so many values that follow each other."""
        if count * 8 > end - at:  # each has a tag
            raise ValueError(
                f"a damaged MATLAB file: {count} elements are to be in {end - at} bytes"
            )
        found = []
        for _ in range(count):
            part = self.part(at, end)
            if part.kind != _MATRIX:
                raise ValueError(f"a damaged MATLAB file: an element is of kind {part.kind}")
            found.append(self.value(part.start, part.end, depth + 1))
            at = part.after
        return found

    def _struct(self, matrix: _Matrix, count: int, end: int, depth: int) -> Struct:
        length = self.part(matrix.start, end)
        if length.kind != _INT32 or length.end - length.start != 4:
            raise ValueError("a damaged MATLAB file: a struct has no names")
        each = struct.unpack_from(f"{self._order}i", self._data, length.start)[0]
        names = self.part(length.after, end)
        letters = names.end - names.start
        if letters and (each < 1 or letters % each):
            raise ValueError("a damaged MATLAB file: a struct has no names")
        fields = [
            self._decoded(self._data[at : at + each])
            for at in range(names.start, names.end, max(each, 1))
        ]
        if len(set(fields)) != len(fields):
            raise ValueError("a damaged MATLAB file: two fields of a struct have one name")
        if not fields:
            count = 0
        values = self._elements(names.after, end, count * len(fields), depth)
        taken = iter(values)
        elements = [{field: next(taken) for field in fields} for _ in range(count)]
        return Struct(matrix.shape, elements)

    def _object(self, matrix: _Matrix, end: int) -> str:
        """Return what is said of an object: its class stands behind the name of its kind."""
        try:
            system = self.part(matrix.start, end)
            name = self._name(self.part(system.after, end))
        except ValueError:
            name = ""
        return f"an object of MATLAB's class {short(name)}" if name else "an object of MATLAB"

    def _name(self, part: _Part) -> str:
        if part.kind not in (_INT8, _UINT8, _UTF8):
            raise ValueError(f"a damaged MATLAB file: a name is stored as kind {part.kind}")
        return self._decoded(self._data[part.start : part.end])

    def _decoded(self, text: memoryview) -> str:
        self._budget.spend("letters of names", len(text))
        return bytes(text).split(b"\0", 1)[0].decode("utf-8", "replace")
