"""The file that holds a model for C: its bytes, made of nodes, and its nodes, taken from bytes.

``docs/reference/fl_format.md`` describes it. `fl_nodes` says what a node is, and which there can
be.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from ..checks import check_not_newer
from .fl_nodes import KINDS, MOST_ARRAYS, MOST_NODES, Model, Node, check, require

if TYPE_CHECKING:
    from ..arrays import Array

MAGIC = b"\x89FL\r\n\x1a\n\0"
_ORDER = 0x01020304  # reads otherwise where the order of bytes is another
_VERSION = 1
_ALIGNED = 64

_HEAD = struct.Struct("<8s2Iq4I2q2Id2q40s")
_CRC_AT = 24
_NODE = struct.Struct("<6I2q9q12d")
_ARRAY = struct.Struct("<2q")


def _up(size: int) -> int:
    """Return the next multiple of 64."""
    return -(-size // _ALIGNED) * _ALIGNED


def encode(model: Model) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a file, piece by piece; the model has been checked.

    The first piece holds the checksum, so all arrays are gone through before it.
    """
    stored = model.dtype.newbyteorder("<")
    arrays = [array for node in model.nodes for array in node.arrays]
    start = _up(_HEAD.size) + _up(_NODE.size * len(model.nodes)) + _up(_ARRAY.size * len(arrays))
    end = start + _up(len(model.text))
    places = []
    for array in arrays:
        places.append((0, 0) if array is None else (end, array.size * model.dtype.itemsize))
        end += _up(places[-1][1])
    head = _HEAD.pack(
        MAGIC, _ORDER, _VERSION, end, 0, model.dtype.itemsize, len(model.nodes), len(arrays),
        model.takes, model.gives, model.indices, 0, model.sample_rate, start, len(model.text), b"",
    )  # fmt: skip
    records, first = [], 0
    for node in map(Node.padded, model.nodes):
        sources = (*node.sources, 0)[:2]
        records.append(
            _NODE.pack(
                node.kind,
                *sources,
                first,
                len(node.arrays),
                0,
                node.takes,
                node.gives,
                *node.whole,
                *node.numbers,
            )  # fmt: skip
        )
        first += len(node.arrays)
    tables = b"".join(records), b"".join(_ARRAY.pack(*place) for place in places), model.text

    def behind_the_head() -> Iterator[bytes | memoryview]:
        for table in tables:
            yield table
            yield bytes(_up(len(table)) - len(table))
        for array in arrays:
            if array is not None:
                flat = np.ascontiguousarray(array, stored).reshape(-1)
                yield flat.view(np.uint8).data
                yield bytes(_up(flat.nbytes) - flat.nbytes)

    crc = zlib.crc32(head)
    for piece in behind_the_head():
        crc = zlib.crc32(piece, crc)
    yield head[:_CRC_AT] + struct.pack("<I", crc) + head[_CRC_AT + 4 :]
    yield from behind_the_head()


def parse(data: bytearray) -> Model:
    """Check the bytes of a file, of unknown origin, and return what it holds.

    The arrays of the nodes are views of `data`. Little more memory is taken than they have.

    Raises
    ------
    ValueError
        If they are not the bytes of a model, or not those that were written, or if what they say
        cannot be.
    """
    require(
        data[:8] == MAGIC,
        "its first 8 bytes are not those of a model: a transfer as text may have changed it",
    )
    require(
        len(data) >= _HEAD.size, f"it is truncated: it has {len(data)} bytes, a head {_HEAD.size}"
    )
    (
        _, order, version, size, crc, itemsize, node_count, array_count, takes, gives, indices,
        zero, rate, text_start, text_size, zeros,
    ) = _HEAD.unpack_from(data)  # fmt: skip
    swapped = int.from_bytes(_ORDER.to_bytes(4, "little"), "big")
    require(order != swapped, "it was written for the other order of bytes")
    require(order == _ORDER, f"its mark of the order of bytes is {order:#x}")
    check_not_newer("it", version, _VERSION)
    require(version == _VERSION, f"its version must be {_VERSION}, got {version}")
    require(
        size == len(data),
        f"it is truncated, or longer than it was: it says {size} bytes, it has {len(data)}",
    )
    view = memoryview(data)
    found = zlib.crc32(view[_CRC_AT + 4 :], zlib.crc32(bytes(4), zlib.crc32(view[:_CRC_AT])))
    require(
        found == crc,
        f"it is damaged: its checksum is {found:#010x}, it says {crc:#010x}",
    )
    require(itemsize in (4, 8), f"its values must have 4 or 8 bytes, got {itemsize}")
    require(
        1 <= node_count <= MOST_NODES, f"it must have 1 to {MOST_NODES} nodes, got {node_count}"
    )
    require(
        array_count <= MOST_ARRAYS,
        f"it must have at most {MOST_ARRAYS} arrays, got {array_count}",
    )
    require(indices in (0, 1), f"whether it takes indices must be 0 or 1, got {indices}")
    require(not zero and not any(zeros), "its head has numbers where zeros should be")
    sizes = _HEAD.size, _NODE.size * node_count, _ARRAY.size * array_count, text_size
    require(0 <= text_size <= size, f"its text cannot have {text_size} bytes")
    starts = [*accumulate(map(_up, sizes), initial=0)]
    require(
        starts[-1] <= size,
        f"it has {size} bytes, in which {node_count} nodes, {array_count} arrays and a text of "
        f"{text_size} bytes have no place",
    )
    require(text_start == starts[3], f"its text must begin at byte {starts[3]}, got {text_start}")
    for start, length, end in zip(starts, sizes, starts[1:], strict=False):
        _check_padding(view, start + length, end)

    nodes, counts, total = [], [], 0
    for n in range(node_count):
        kind, a, b, first, count, zero, into, out, *rest = _NODE.unpack_from(
            data, starts[1] + _NODE.size * n
        )
        require(first == total, f"node {n}: its first array must be number {total}, got {first}")
        two = KINDS[kind].sources == 2 if kind in KINDS else False
        require(not zero and (two or not b), f"node {n}: it has numbers where zeros should be")
        nodes.append(
            Node(kind, (a, b) if two else (a,), into, out, tuple(rest[:9]), tuple(rest[9:]))
        )
        counts.append(count)
        total += count
    require(total == array_count, f"its nodes have {total} arrays, it has {array_count}")
    dtype = np.dtype(f"f{itemsize}")
    model = Model(nodes, takes, bool(indices), dtype, rate, bytes(view[starts[3] :][:text_size]))
    wanted = check(model)
    require(
        gives == model.gives,
        f"it says that it gives {gives} values, its last node gives {model.gives}",
    )
    records = range(starts[2], starts[2] + sizes[2], _ARRAY.size)
    places = (_ARRAY.unpack_from(data, at) for at in records)
    full, end = [], starts[4]
    for n, (node, count, shapes) in enumerate(zip(nodes, counts, wanted, strict=True)):
        what = f"node {n} ({node.name})"
        require(count == len(shapes), f"{what}: it must have {len(shapes)} arrays, got {count}")
        arrays: list[Array | None] = []
        for shape, optional in shapes:
            start, length = next(places)
            if (start, length) == (0, 0) and optional:
                arrays.append(None)
                continue
            bytes_ = math.prod(shape) * itemsize
            require(bytes_ > 0, f"{what}: it has an array that it has no use for")
            require(
                length == bytes_,
                f"{what}: an array of shape {shape} has {bytes_} bytes, got {length}",
            )
            require(
                start == end and end + _up(length) <= size,
                f"{what}: an array must begin at byte {end} and end in the file, got {start}",
            )
            flat = np.frombuffer(data, dtype.newbyteorder("<"), math.prod(shape), start)
            arrays.append(flat.astype(dtype, copy=False).reshape(shape))
            _check_padding(view, start + length, end := end + _up(length))
        full.append(node._replace(arrays=tuple(arrays)))
    require(end == size, f"behind its last array, at byte {end}, it has more bytes")
    return model._replace(nodes=full)


def _check_padding(view: memoryview, start: int, end: int) -> None:
    require(not any(view[start:end]), f"from byte {start} to {end} it has others than zeros")
