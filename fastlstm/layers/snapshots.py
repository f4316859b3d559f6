"""The states of a pool's streams as bytes: those of one stream, and a file of all.

Both begin with 24 bytes: what they are (8 bytes), the version of the format and the length of the
layout (4 each), and their whole length (8). The layout follows, a text that tells the type and the
shapes of all states; then whole numbers of 8 bytes, the values of the states, and at the end the
CRC-32 of all that. Numbers are little-endian on every machine. Nothing in them is executed.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import short
from .places import ROW, ROW_BITS

if TYPE_CHECKING:
    from ..arrays import Array, Floats, Integers
    from .places import Table

STREAM, POOL = b"\x93FLSTATE", b"\x93FLPOOL\n"
_NAMES = {STREAM: "the state of one stream", POOL: "a snapshot of a pool"}
_VERSION = 1
_MANY = 1 << 62  # more calls, or numbers in sids, than any pool has had: it can go on counting
_HEAD = struct.Struct("<8sIIQ")


def packed(kind: bytes, layout: str, numbers: Sequence[int], arrays: Sequence[Array]) -> list[Any]:
    """Return the parts of the bytes, one after the other.

    Parameters
    ----------
    kind : bytes
        `STREAM` or `POOL`.
    layout : str
    numbers : ints
    arrays : ndarrays
        Of int64, and then of the states' type.
    """
    text = layout.encode()
    values = [
        np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)
        for array in [np.array(numbers, np.int64), *arrays]
    ]
    size = _HEAD.size + len(text) + sum(map(len, values)) + 4
    parts: list[Any] = [_HEAD.pack(kind, _VERSION, len(text), size), text, *values]
    sum_of = 0
    for part in parts:
        sum_of = zlib.crc32(part, sum_of)
    return [*parts, struct.pack("<I", sum_of)]


class Unpacked:
    """The numbers and arrays in bytes, which are checked as a whole before.

    Parameters
    ----------
    kind : bytes
        What they must be.
    data : bytes
    layout : str
        That of the pool that is to take them.

    Raises
    ------
    ValueError
        If they are damaged, or of another kind, version or layout. It is a sentence about "it".
    """

    def __init__(self, kind: bytes, data: Any, layout: str) -> None:
        view = memoryview(data).cast("B")
        if len(view) < _HEAD.size + 4:
            raise ValueError(f"it is not {_NAMES[kind]}, or cut off: it has {len(view)} bytes")
        found, version, length, size = _HEAD.unpack_from(view)
        if found != kind:
            other = f", but {_NAMES[found]}" if found in _NAMES else ""
            raise ValueError(f"it is not {_NAMES[kind]}{other}")
        if version != _VERSION:
            raise ValueError(
                f"it has version {version} of its format, of which this fastlstm knows {_VERSION}"
            )
        if size != len(view):
            raise ValueError(f"it has {len(view)} bytes, of {size}: it is cut off or damaged")
        if zlib.crc32(view[:-4]) != int.from_bytes(view[-4:], "little"):
            raise ValueError("it is damaged: its checksum is that of other bytes")
        text = bytes(view[_HEAD.size : -4][:length]).decode("utf-8", "replace")
        if text != layout:
            raise ValueError(
                f"it is of another model: it holds {short(text)}, and this pool {short(layout)}"
            )
        self._view, self._place = view[:-4], _HEAD.size + length

    def _take(self, dtype: str, count: int) -> Array:
        end = self._place + count * np.dtype(dtype).itemsize
        if end > len(self._view):
            raise ValueError("it is damaged: it has fewer values than it says")
        values = np.frombuffer(self._view[self._place : end], dtype)
        self._place = end
        return values.astype(values.dtype.newbyteorder("="))

    def numbers(self, count: int) -> Integers:
        """Return the next whole numbers."""
        return self._take("<i8", count)

    def floats(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Floats:
        """Return the next states."""
        count = int(np.prod(shape))
        return self._take(dtype.newbyteorder("<").str, count).reshape(shape)

    def end(self) -> None:
        """Refuse bytes that are left."""
        if self._place != len(self._view):
            raise ValueError("it is damaged: it has more values than it says")


def read_pool(path: str | os.PathLike[str], layout: str, table: Table) -> Table:
    """Fill the empty table of a pool with what stands in a file, and return it.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is damaged, or not that of such a pool. It is a sentence about "it".
    """
    capacity = len(table.moved)
    values = sum(own.nbytes for own in table.states)
    bound = _HEAD.size + len(layout.encode()) + 8 * (4 + 2 * capacity) + values + 4
    with open(path, "rb") as source:
        data = source.read(bound + 1)
        if len(data) > bound:
            raise ValueError(
                f"it is longer than {bound} bytes, which a full pool of {capacity} streams of "
                "this model has"
            )
    file = Unpacked(POOL, data, layout)
    size, count, table.opened, table.clock = file.numbers(4).tolist()
    if size > capacity:
        raise ValueError(f"it is that of a pool of {size} streams, and this has {capacity}")
    if not 0 <= count <= size:
        raise ValueError(f"it is damaged: it holds {count} streams of {size}")
    sids, moved = file.numbers(count), file.numbers(count)
    rows, numbers = sids & ROW, sids >> ROW_BITS
    if (
        (rows >= size).any()
        or len(np.unique(rows)) < count
        or not 0 <= table.opened < _MANY >> ROW_BITS
        or ((numbers < 1) | (numbers > table.opened)).any()
        or not 0 <= table.clock < _MANY
        or ((moved < 0) | (moved > table.clock)).any()
    ):
        raise ValueError("it is damaged: its sids cannot be those of one pool")
    for own in table.states:
        own[:, rows] = file.floats(own.dtype, (len(own), count, own.shape[2]))
    file.end()
    table.sids[rows] = table.ready[rows] = sids
    table.moved[rows] = moved
    table.unused = int(rows.max(initial=-1)) + 1
    table.free = np.flatnonzero(table.sids[: table.unused] <= 0)[::-1].tolist()
    return table
