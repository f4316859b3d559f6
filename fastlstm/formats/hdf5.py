"""HDF5 files as Keras and MATLAB write them, read without a library.

An HDF5 file can do much that no file of Keras does: name other files, load filters from libraries,
put arrays together from others. The HDF5 library has met damaged files with endless loops that
nothing can interrupt. Here just that part of the format is read which h5py writes when nobody asks
for more, as Keras does: groups of names, arrays that lie in one piece, texts as attributes. MATLAB
adds references to other objects, and arrays in pieces, which `hdf5_chunks` puts together.
Everything else is refused. All arrays and texts together may take what the budget allows, however
often a file refers to one.

Source of the format: "HDF5 File Format Specification", version 3.0, superblock 0 and object headers
of version 1. Numbers in it are little-endian, addresses count from the beginning of the file.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from ..checks import short
from .dtypes import numbers

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..arrays import Array
    from .budget import Budget

    Pieces = Callable[
        ["File", "Message", "Message | None", tuple[int, ...], int], "bytearray | None"
    ]

MAGIC = b"\x89HDF\r\n\x1a\n"

_SUPERBLOCK = struct.Struct("<8s5B2Bx2H4x4Q8xQ")  # up to where the header of the root stands
_HEADER = struct.Struct("<BxH4xI4x")  # version, number of messages, their size
_MESSAGE = struct.Struct("<2HB3x")  # kind, size, flags
_TABLE = struct.Struct("<2Q")  # where the tree of a group's names is, and its heap
_TREE = struct.Struct("<4s2BH16x")  # magic, kind, level, entries
_NODE = struct.Struct("<4sBxH")  # magic, version, entries
_ENTRY = struct.Struct("<2QI20x")  # place of the name in the heap, header, kind
_HEAP = struct.Struct("<4sB3xQ8xQ")  # magic, version, size and place of the names
_COLLECTION = struct.Struct("<4sB3xQ")  # magic, version, size
_OBJECT = struct.Struct("<H6xQ")  # index, size
_TEXT = struct.Struct("<IQI")  # length, collection, index
_DATATYPE = struct.Struct("<4BI")  # class and version, three bytes of bits, size
_FLOAT_BITS = struct.Struct("<4x4BI")  # place and length of exponent and fraction, bias
_SIZES = struct.Struct("<3H")  # of the name, the type and the shape of an attribute
_LONGEST_NAME = 1024  # bytes
_NOWHERE = (1 << 64) - 1

# Kinds of messages, and of types.
_SPACE, _TYPE, _EXTERNAL, _LAYOUT, _FILTERS, _ATTRIBUTE = 0x1, 0x3, 0x7, 0x8, 0xB, 0xC
_CONTINUED, _GROUP = 0x10, 0x11
_INTEGER, _FLOAT, _STRING, _OPAQUE, _REFERENCE, _ENUM, _VARIABLE = 0, 1, 3, 5, 7, 8, 9
# The bits of floats: where exponent and fraction are and how long, and the bias.
_FLOATS: dict[tuple[int, ...], str] = {
    (2, 10, 5, 0, 10, 15): "float16",
    (2, 7, 8, 0, 7, 127): "bfloat16",
    (4, 23, 8, 0, 23, 127): "float32",
    (8, 52, 11, 0, 52, 1023): "float64",
}


class UnknownType(ValueError):
    """An array is of a type that is not read."""


class Message(NamedTuple):
    """A message of an object's header: where its data is, and its size."""

    kind: int
    start: int
    size: int


class _Type(NamedTuple):
    """A type of numbers, by its name, or of texts: "text" of so many bytes, or "texts" of any.

    A "reference" is where the header of another object is.
    """

    name: str
    size: int
    is_big_endian: bool = False


class File:
    """A whole file in memory, and what its reading may cost.

    Parameters
    ----------
    data : bytes-like
        From where the HDF5 file begins.
    budget : Budget
    base : int
        How many bytes of something else stood before it.
    maker : str
        The program that writes such files, for sentences.

    Raises
    ------
    ValueError
        If the file does not begin as one that this program wrote.
    """

    def __init__(
        self, data: bytes | bytearray, budget: Budget, base: int = 0, maker: str = "Keras"
    ) -> None:
        self.data, self.budget, self.maker = memoryview(data), budget, maker
        self._names: dict[int, dict[str, int]] = {}  # of groups that have been read
        self._texts: dict[int, dict[int, tuple[int, int]]] = {}  # of collections
        if len(data) < 9 or bytes(self.data[:8]) != MAGIC or data[8] != 0:
            raise ValueError(f"an HDF5 file of a newer form than that which {maker} writes")
        fields = self.unpack(_SUPERBLOCK, 0)
        *_, offsets, lengths, _, _, place, _, end, _, header = fields
        if (offsets, lengths, place) != (8, 8, base):
            raise ValueError(f"an HDF5 file of another form than that which {maker} writes")
        if end > len(data) + base:
            raise ValueError(f"a truncated HDF5 file: it has {len(data) + base} of {end} bytes")
        self.root = Group(self, header)

    def unpack(self, form: struct.Struct, place: int) -> tuple[int, ...]:
        """Return the numbers that stand at a place."""
        try:
            return form.unpack_from(self.piece(place, form.size))
        except struct.error as fault:
            raise ValueError(f"a damaged HDF5 file: {fault}") from fault

    def piece(self, place: int, size: int) -> memoryview:
        """Return some bytes."""
        if place + size > len(self.data):
            raise ValueError(
                f"a damaged HDF5 file: {size} bytes are wanted from byte {place} on, it has "
                f"{len(self.data)}"
            )
        return self.data[place : place + size]

    def magic(self, found: object, wanted: bytes) -> None:
        """Raise unless the first bytes of a structure are these."""
        if found != wanted:
            raise ValueError(f"a damaged HDF5 file: {wanted.decode()!r} is not where it should be")

    def messages(self, header: int) -> Iterator[Message]:
        """Yield the messages of an object's header."""
        version, count, size = self.unpack(_HEADER, header)
        if version != 1:
            raise ValueError(
                f"an HDF5 file with headers of another form than that of {self.maker}'s files"
            )
        blocks, at = [(header + _HEADER.size, size)], 0
        while at < len(blocks):
            place, size = blocks[at]
            end, at = place + size, at + 1
            while count and place + _MESSAGE.size <= end:
                self.budget.spend("messages of HDF5")
                kind, length, flags = self.unpack(_MESSAGE, place)
                place += _MESSAGE.size
                if flags & 2 and kind in (_SPACE, _TYPE, _ATTRIBUTE, _LAYOUT):
                    raise ValueError("an HDF5 file with types that have names of their own")
                if kind == _CONTINUED:
                    block = self.unpack(_TABLE, place)
                    blocks.append((block[0], block[1]))
                else:
                    yield Message(kind, place, length)
                place, count = place + length, count - 1

    def names_of(self, table: int) -> dict[str, int]:
        """Return the headers of what is inside a group, by names; a link has none, but 0."""
        if table not in self._names:
            tree, heap = self.unpack(_TABLE, table)
            found, version, size, place = self.unpack(_HEAP, heap)
            self.magic(found, b"HEAP")
            names: dict[str, int] = {}
            for node in self._nodes(tree):
                found, version, count = self.unpack(_NODE, node)
                self.magic(found, b"SNOD")
                for n in range(count):
                    self.budget.spend("names of modules and their tensors")
                    entry = self.unpack(_ENTRY, node + _NODE.size + n * _ENTRY.size)
                    name = self._name(place, size, entry[0])
                    names[name] = 0 if entry[2] == 2 else entry[1]
            self._names[table] = names
        return self._names[table]

    def _nodes(self, tree: int) -> Iterator[int]:
        """Yield where the nodes are that the leaves of a tree name."""
        waiting, seen = [tree], set()
        while waiting:
            place = waiting.pop()
            if place in seen:
                raise ValueError("a damaged HDF5 file: a tree of names goes round in a circle")
            seen.add(place)
            found, kind, level, count = self.unpack(_TREE, place)
            self.magic(found, b"TREE")
            self.budget.spend("names of modules and their tensors", 1 + count)
            if kind != 0:
                raise ValueError("a damaged HDF5 file: a tree holds no names")
            place += _TREE.size + 8  # children and keys take turns, 8 bytes each
            table = self.piece(place, max(0, 16 * count - 8))
            children = [
                int.from_bytes(table[n : n + 8], "little") for n in range(0, 16 * count, 16)
            ]
            if level:
                waiting += children[::-1]
            else:
                yield from children

    def _name(self, place: int, size: int, offset: int) -> str:
        """Return the name that begins at an offset of a heap."""
        if offset >= size:
            raise ValueError("a damaged HDF5 file: a name lies outside its heap")
        names = self.piece(place + offset, min(size - offset, _LONGEST_NAME))
        return self.decoded(bytes(names).split(b"\0", 1)[0], "letters of names")

    def decoded(self, text: bytes, what: str) -> str:
        """Return a text, which is counted."""
        self.budget.spend(what, len(text))
        try:
            return text.decode()
        except UnicodeDecodeError as fault:
            raise ValueError(f"a damaged HDF5 file: {fault}") from fault

    def shape(self, message: Message) -> tuple[int, ...] | None:
        """Return the shape that a message tells; None for nothing at all."""
        version, axes, _, kind = self.piece(message.start, 4)
        if version not in (1, 2) or axes > 32 or (version == 2 and kind == 2):
            return None
        place = message.start + (8 if version == 1 else 4)
        if place + 8 * axes > message.start + message.size:
            raise ValueError("a damaged HDF5 file: a shape is longer than its message")
        return tuple(np.frombuffer(self.piece(place, 8 * axes), "<u8").tolist())

    def type(self, message: Message) -> _Type:
        """Return the type that a message tells; raise if it is none that Keras writes."""
        first, bits, _, _, size = self.unpack(_DATATYPE, message.start)
        kind, properties = first & 15, message.start + _DATATYPE.size
        if kind == _FLOAT:
            precision = self.unpack(_FLOAT_BITS, properties)
            name = _FLOATS.get((size, *precision))
            if name:
                return _Type(name, size, bool(bits & 1))
        if kind == _INTEGER and size in (1, 2, 4, 8):
            return _Type(f"{'int' if bits & 8 else 'uint'}{8 * size}", size, bool(bits & 1))
        if kind == _ENUM and size == 1:
            return _Type("bool", size)
        if kind == _OPAQUE and size == 2:
            return _Type("bfloat16", size)  # the only one that h5py has no type for
        if kind == _STRING:
            return _Type("text", size)
        if kind == _REFERENCE and size == 8 and bits & 15 == 0:
            return _Type("reference", size)
        if kind == _VARIABLE and bits & 15 == 1 and size == _TEXT.size:
            return _Type("texts", size)
        raise UnknownType(f"an HDF5 file with a type of numbers that {self.maker} does not write")

    def text(self, place: int) -> bytes:
        """Return the text of any length to which a reference at a place leads."""
        length, collection, index = self.unpack(_TEXT, place)
        if not length:
            return b""
        if collection not in self._texts:
            self._texts[collection] = dict(self._objects(collection))
        start, size = self._texts[collection].get(index, (0, 0))
        if length > size:
            raise ValueError("a damaged HDF5 file: a text is not where it should be")
        return bytes(self.piece(start, length))

    def _objects(self, collection: int) -> Iterator[tuple[int, tuple[int, int]]]:
        """Yield the texts of a collection by their indices: where they are, and their sizes."""
        found, _, size = self.unpack(_COLLECTION, collection)
        self.magic(found, b"GCOL")
        place, end = collection + _COLLECTION.size, collection + size
        while place + _OBJECT.size <= end:
            self.budget.spend("names of modules and their tensors")
            index, length = self.unpack(_OBJECT, place)
            if not index:  # what is free, to the end
                return
            yield index, (place + _OBJECT.size, length)
            place += _OBJECT.size + -(-length // 8) * 8

    def array(self, header: int, path: str, pieces: Pieces | None = None) -> Array:
        """Return an array of numbers, a copy; floats of 16 bits are widened to float32.

        An array that is compressed or in pieces is read by the function `pieces`, if there is one.
        References are read by that of MATLAB's files alone.
        """
        found = {message.kind: message for message in self.messages(header)}
        if _EXTERNAL in found or (_FILTERS in found and not pieces):
            raise ValueError(f"array {short(path)} is compressed, or stored outside the file")
        if not {_SPACE, _TYPE, _LAYOUT} <= found.keys():
            raise ValueError(f"{short(path)} is no array")
        shape, kind = self.shape(found[_SPACE]), self.type(found[_TYPE])
        if shape is None or kind.name in ("text", "texts", *["reference"] * (pieces is None)):
            raise ValueError(f"array {short(path)} holds no numbers")
        size = math.prod(shape) * kind.size
        data: bytes | bytearray | memoryview | None = None
        if pieces:
            data = pieces(self, found[_LAYOUT], found.get(_FILTERS), shape, kind.size)
        if data is None:
            data = self._stored(found[_LAYOUT], size, path)
        self.budget.spend("inflated bytes", size)
        if kind.is_big_endian:
            swapped = np.frombuffer(data, f">u{kind.size}").astype(f"<u{kind.size}")
            data = memoryview(swapped.tobytes())
        name = "uint64" if kind.name == "reference" else kind.name
        return numbers(bytearray(data), name).reshape(shape)

    def _stored(self, layout: Message, size: int, path: str) -> memoryview:
        """Return the bytes of an array, which lie in the header or in one piece elsewhere."""
        version, kind = self.piece(layout.start, 2)
        if version < 3 or kind > 1:
            raise ValueError(f"array {short(path)} is stored in several pieces")
        if kind == 0:
            place, length = (
                layout.start + 4,
                int.from_bytes(self.piece(layout.start + 2, 2), "little"),
            )
        else:
            place, length = self.unpack(_TABLE, layout.start + 2)
        if length < size or (size and place == _NOWHERE):
            raise ValueError(f"array {short(path)} of {size} bytes has {length} in the file")
        return self.piece(place, size) if size else memoryview(b"")


class Group:
    """A group of an HDF5 file: named groups and arrays, with texts as attributes."""

    def __init__(self, file: File, header: int) -> None:
        self._file, self._header = file, header

    @property
    def is_group(self) -> bool:
        """Whether it is a group, and not an array with attributes."""
        return self._inside(self._header) is not None

    def headers(self) -> dict[str, int]:
        """Return where the headers of what is inside are, by names; a link has none, but 0."""
        return self._inside(self._header) or {}

    def names(self) -> list[str]:
        """Return the names of what is inside."""
        return list(self._inside(self._header) or ())

    def group(self, path: str) -> Group | None:
        """Return a group inside, or inside groups inside; None if there is none."""
        header = self._find(path)
        if header is None or self._inside(header) is None:
            return None
        return Group(self._file, header)

    def has_array(self, path: str) -> bool:
        """Tell whether there is an array."""
        header = self._find(path)
        return header is not None and self._inside(header) is None

    def array(self, path: str) -> Array:
        """Return an array of numbers, a copy; floats of 16 bits are widened to float32."""
        header = self._find(path)
        if header is None:
            raise ValueError(f"it has no array {short(path)}")
        return self._file.array(header, path)

    def text(self, name: str) -> str | None:
        """Return an attribute that is one text; None if there is none."""
        found = self._attribute(name)
        if found is None:
            return None
        shape, texts = found
        if shape:
            raise ValueError(f"attribute {short(name)} is not one text")
        return texts[0]

    def texts(self, name: str) -> list[str] | None:
        """Return an attribute that is a list of texts; None if there is none.

        Keras stores a long list in parts, under the names name0, name1 and so on.
        """
        if (whole := self._attribute(name)) is not None:
            return whole[1]
        found: list[str] = []
        number = 0
        while (part := self._attribute(f"{name}{number}")) is not None:
            found += part[1]
            number += 1
        return found if number else None

    def number(self, name: str) -> int | None:
        """Return an attribute that is one whole number; None if there is none."""
        found = self._found(name)
        if found is None:
            return None
        shape, message, place = found
        kind = self._file.type(message)
        if shape is None or math.prod(shape) != 1 or not kind.name.startswith(("int", "uint")):
            raise ValueError(f"attribute {short(name)} is not one number")
        order: Literal["big", "little"] = "big" if kind.is_big_endian else "little"
        return int.from_bytes(self._file.piece(place, kind.size), order)

    def _attribute(self, name: str) -> tuple[tuple[int, ...], list[str]] | None:
        """Return the shape and the texts of an attribute; None if there is none."""
        found = self._found(name)
        shape, message, place = found or (None, None, 0)
        if shape is None or message is None:
            return None
        if not math.prod(shape):
            return shape, []  # NumPy has no empty list of texts: Keras writes one of floats
        return shape, self._texts(name, shape, self._file.type(message), place)

    def _found(self, name: str) -> tuple[tuple[int, ...] | None, Message, int] | None:
        """Return the shape of an attribute, its type and where its value is; None if none is."""
        wanted = name.encode()
        for message in self._file.messages(self._header):
            if message.kind != _ATTRIBUTE:
                continue
            version, flags = self._file.piece(message.start, 2)
            sizes = self._file.unpack(_SIZES, message.start + 2)
            place = message.start + 8 + (version == 3)
            ends = []
            for size in sizes:  # of the name, the type and the shape
                ends.append(Message(0, place, size))
                place += -(-size // 8) * 8 if version == 1 else size
            own = bytes(self._file.piece(ends[0].start, ends[0].size)).split(b"\0", 1)[0]
            if own != wanted:
                continue
            if version not in (1, 2, 3) or (version > 1 and flags & 3):
                raise ValueError(
                    f"attribute {short(name)} has a form that {self._file.maker} does not write"
                )
            return self._file.shape(ends[2]), ends[1], place
        return None

    def _texts(self, name: str, shape: tuple[int, ...], kind: _Type, place: int) -> list[str]:
        """Return the texts that stand at a place, or to which references there lead."""
        count = math.prod(shape)
        if kind.name not in ("text", "texts") or len(shape) > 1 or not kind.size:
            raise ValueError(f"attribute {short(name)} is no text")
        self._file.piece(place, count * kind.size)  # before anything is made of that size
        texts = []
        for at in range(place, place + count * kind.size, kind.size):
            if kind.name == "texts":
                text = self._file.text(at)
            else:
                text = bytes(self._file.piece(at, kind.size)).rstrip(b"\0")
            texts.append(self._file.decoded(text, "inflated bytes"))
        return texts

    def _inside(self, header: int) -> dict[str, int] | None:
        """Return the headers of what is inside a group, by names; None if it is no group."""
        for message in self._file.messages(header):
            if message.kind == _GROUP:
                return self._file.names_of(message.start)
        return None

    def _find(self, path: str) -> int | None:
        """Return the header of what a path of names leads to; None if it leads nowhere."""
        header: int | None = self._header
        for name in path.split("/"):
            inside = self._inside(header) if header is not None else None
            if inside is None or name not in inside:
                return None
            header = inside[name]
            if not header:
                raise ValueError(f"{short(path)} is a link, which may lead anywhere")
        return header
