"""Arrays that an HDF5 file has in pieces, which may be compressed, as MATLAB writes large ones.

A tree says where each piece is and which part of the array it holds. Pieces at the edges are as
large as the others, and stick out of the array.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .hdf5 import File, Message

_TREE = struct.Struct("<4s2BH16x")  # magic, kind, level, entries
_LAYOUT = struct.Struct("<3BQ")  # version, class, number of sizes, where the tree is
_OLD_LAYOUT = struct.Struct("<3B5xQ")  # version, number of sizes, class, where the data is
_FILTER = struct.Struct("<4H")  # which, length of its name, flags, how many numbers
_DEFLATE = 1
_CONTIGUOUS, _CHUNKED = 1, 2


def read(
    file: File, layout: Message, filters: Message | None, shape: tuple[int, ...], itemsize: int
) -> bytearray | None:
    """Return the bytes of an array that is stored in pieces; None if it lies in one.

    Raises
    ------
    ValueError
        If pieces are missing or damaged, or compressed by another method than deflate.
    """
    version, kind, count, tree = file.unpack(_LAYOUT, layout.start)
    sizes_at = layout.start + _LAYOUT.size
    if version < 3:  # of MATLAB's files of 2008
        _, count, kind, tree = file.unpack(_OLD_LAYOUT, layout.start)
        sizes_at = layout.start + _OLD_LAYOUT.size
    if kind != _CHUNKED:
        if filters is not None:
            raise ValueError("a damaged HDF5 file: an array in one piece is compressed")
        if version < 3 and kind == _CONTIGUOUS:
            return bytearray(file.piece(tree, math.prod(shape) * itemsize))
        return None
    if count != len(shape) + 1 or not shape:
        raise ValueError("a damaged HDF5 file: the pieces of an array have other axes than it")
    sizes = file.unpack(struct.Struct(f"<{count}I"), sizes_at)
    *piece, size = sizes
    if size != itemsize or not all(piece):
        raise ValueError("a damaged HDF5 file: the pieces of an array have other numbers than it")
    wanted = math.prod(-(-whole // part) for whole, part in zip(shape, piece, strict=True))
    each = math.prod(piece) * itemsize
    file.budget.check("inflated bytes", math.prod(shape) * itemsize)
    file.budget.spend("inflated bytes", each)
    is_packed = filters is not None and _is_deflated(file, filters)
    whole = np.zeros((*shape, itemsize), np.uint8)
    seen: set[tuple[int, ...]] = set()
    for place, stored, skipped, offsets in _pieces(file, tree, count):
        *corner, _ = offsets
        fits = all(
            at % part == 0 and at < end for at, part, end in zip(corner, piece, shape, strict=True)
        )
        if not fits or tuple(corner) in seen:
            raise ValueError("a damaged HDF5 file: the pieces of an array overlap")
        seen.add(tuple(corner))
        packed = file.piece(place, stored)
        data = _inflated(packed, each) if is_packed and not skipped & 1 else packed
        if len(data) != each:
            raise ValueError(
                f"a damaged HDF5 file: a piece of an array has {len(data)} of {each} bytes"
            )
        block = np.frombuffer(data, np.uint8).reshape(*piece, itemsize)
        target = whole[tuple(slice(at, at + part) for at, part in zip(corner, piece, strict=True))]
        target[...] = block[tuple(slice(n) for n in target.shape)]
    if len(seen) != wanted:
        raise ValueError(f"a damaged HDF5 file: an array has {len(seen)} of {wanted} pieces")
    return bytearray(whole)


def _pieces(file: File, tree: int, count: int) -> Iterator[tuple[int, int, int, tuple[int, ...]]]:
    """Yield of each piece where it is, its size there, filters left out, and where it belongs."""
    key = struct.Struct(f"<2I{count}Q")
    waiting, seen = [tree], set()
    while waiting:
        place = waiting.pop()
        if place in seen:
            raise ValueError("a damaged HDF5 file: a tree of pieces goes round in a circle")
        seen.add(place)
        magic, kind, level, entries = file.unpack(_TREE, place)
        file.magic(magic, b"TREE")
        if kind != 1:
            raise ValueError("a damaged HDF5 file: a tree holds no pieces")
        place += _TREE.size
        for _ in range(entries):
            file.budget.spend("messages of HDF5")
            stored, skipped, *offsets = file.unpack(key, place)
            (child,) = file.unpack(struct.Struct("<Q"), place + key.size)
            place += key.size + 8
            if level:
                waiting.append(child)
            else:
                yield child, stored, skipped, tuple(offsets)


def _is_deflated(file: File, filters: Message) -> bool:
    """Tell whether pieces are deflated; raise if they went through any other filter."""
    version, number = file.piece(filters.start, 2)
    place = filters.start + (8 if version == 1 else 2)
    for _ in range(number):
        which, length, _, values = file.unpack(_FILTER, place)
        if which != _DEFLATE:
            raise ValueError(
                f"an array is stored through filter {which} of HDF5; just deflate is read here"
            )
        if version == 1:
            place += _FILTER.size + -(-length // 8) * 8 + 4 * (values + values % 2)
        else:
            place += 6 + 4 * values  # a filter of HDF5's own has no name then
    if number > 1:
        raise ValueError("a damaged HDF5 file: an array is deflated several times")
    return number == 1


def _inflated(packed: memoryview, size: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(packed, size + 1)
    except zlib.error as fault:
        raise ValueError(f"a damaged HDF5 file: {fault}") from fault
    if not inflater.eof and len(data) == size:  # the checksum may still be to come
        try:
            data += inflater.decompress(inflater.unconsumed_tail, 1)
        except zlib.error as fault:
            raise ValueError(f"a damaged HDF5 file: {fault}") from fault
    if not inflater.eof:
        raise ValueError("a damaged HDF5 file: a piece of an array is cut off")
    return data
