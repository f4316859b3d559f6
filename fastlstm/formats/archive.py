"""Zip files as torch and NumPy write them, stored or deflated, read with distrust.

The directory is checked against the file before a member is read. No member may lie outside the
file, no two may have one name or share bytes, and all bytes must belong to a member: others could
be a member that a damaged directory has lost. A deflated member is inflated to the size that the
directory gives and no further, and all members together to what the budget allows. Checksums are
verified.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from ..checks import short

if TYPE_CHECKING:
    from .budget import Budget
    from .source import Source

MAGIC = b"PK\x03\x04"

_LOCAL = struct.Struct("<4s22x2H")  # before a member: magic, lengths of its name and extra field
_ENTRY = struct.Struct("<4s4x2H4x3I3H8xI")  # an entry of the directory
_ENTRY_MAGIC = b"PK\x01\x02"
_END = struct.Struct("<4s8x2I2x")  # size and place of the directory
_END_MAGIC = b"PK\x05\x06"
_LONGEST_COMMENT = 1 << 16
_LOCATOR = struct.Struct("<4s4xQ4x")  # tells where the end of a zip of 64 bits is
_END64 = struct.Struct("<4s36x2Q")
_EXTRA64 = 1  # marks the extra field that has numbers of 64 bits
_ABSENT = 0xFFFFFFFF  # stands in the place of a number that is in that field
_ENCRYPTED, _UTF8 = 0x1, 0x800
_STORED, _DEFLATED = 0, 8
_DESCRIPTOR = 24  # so many bytes may follow a member: its sizes and checksum once more


class Member(NamedTuple):
    """Where the packed bytes of a member lie, how they are packed, and the CRC-32 of its content.

    The checksum is 0 if the writer did not compute it; torch has an option for that. The method is
    None if the member is encrypted.
    """

    name: str
    start: int
    packed: int
    size: int
    method: int | None
    crc: int


def members(source: Source) -> dict[str, Member]:
    """Locate all members of a zip file.

    Returns
    -------
    dict of str -> Member
        In the order of the file, without folders and without the files that macOS adds.

    Raises
    ------
    ValueError
        If the file is damaged or truncated, or members share a name or bytes.
    """
    end, length = _directory(source)
    try:
        entries = list(_entries(source.read(end, length), source.budget))
    except (struct.error, UnicodeDecodeError) as fault:
        raise ValueError(f"a damaged or truncated zip file: {fault}") from fault
    entries.sort(key=itemgetter(0))
    found: dict[str, Member] = {}
    limits = [entry[0] for entry in entries[1:]] + [end]
    for (place, raw, name, packed, size, method, crc), limit in zip(entries, limits, strict=True):
        if name in found:
            raise ValueError(f"two members of the zip file have the name {short(name)}")
        start = _data_start(source, place, raw, name)
        member = Member(name, start, packed, size, method, crc)
        gap = limit - start - member.packed
        if gap < 0:
            raise ValueError(
                f"member {short(name)} of {member.packed} bytes overlaps what follows it: "
                f"there is room for {max(0, limit - start)}"
            )
        if gap > _DESCRIPTOR:
            raise ValueError(
                f"a damaged zip file: {gap} bytes after {short(name)} belong to no member"
            )
        if member.method == _STORED and member.size != member.packed:
            raise ValueError(f"a damaged zip file: member {short(name)} has two sizes")
        found[name] = member
    return {
        name: member
        for name, member in found.items()
        if not name.endswith("/") and not name.startswith("__MACOSX/")
    }


def read(source: Source, member: Member) -> bytearray:
    """Return the content of a member; raise ValueError if it is damaged or packed otherwise."""
    if member.method not in (_STORED, _DEFLATED):
        raise ValueError(
            f"member {short(member.name)} is encrypted or compressed by another method than deflate"
        )
    if member.method == _DEFLATED:
        source.budget.spend("inflated bytes", member.size)
    data = source.read(member.start, member.packed)
    if member.method == _DEFLATED:
        data = _inflated(data, member)
    if member.crc and zlib.crc32(data) != member.crc:
        raise ValueError(f"member {short(member.name)} is damaged: its checksum is wrong")
    return data


def _inflated(packed: bytearray, member: Member) -> bytearray:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = bytearray(inflater.decompress(packed, member.size + 1))
    except zlib.error as fault:
        raise ValueError(f"member {short(member.name)} is damaged: {fault}") from fault
    if len(data) != member.size or not inflater.eof:
        raise ValueError(
            f"member {short(member.name)} is damaged: it does not inflate to {member.size} bytes"
        )
    return data


def _directory(source: Source) -> tuple[int, int]:
    """Return where the directory of a zip file begins, and its size."""
    start = max(0, source.size - _END.size - _LONGEST_COMMENT)
    tail = source.read(start, source.size - start)
    at = tail.rfind(_END_MAGIC)
    if not 0 <= at <= len(tail) - _END.size:
        raise ValueError("a damaged or truncated zip file: its directory is missing")
    _, size, place = _END.unpack_from(tail, at)
    if at >= _LOCATOR.size and tail.startswith(b"PK\x06\x07", at - _LOCATOR.size):
        _, end = _LOCATOR.unpack_from(tail, at - _LOCATOR.size)
        magic, size, place = _END64.unpack(source.read(end, _END64.size))
        if magic != b"PK\x06\x06":
            raise ValueError("a damaged or truncated zip file: its directory is missing")
    if place + size > start + at:
        raise ValueError("a damaged or truncated zip file: its directory ends behind the file")
    return place, size


def _entries(
    data: bytearray, budget: Budget
) -> Iterator[tuple[int, bytes, str, int, int, int | None, int]]:
    """Yield (place, raw name, name, packed size, size, method, checksum) of each member."""
    at = 0
    while at < len(data):
        budget.spend("members of a zip file")
        entry = _ENTRY.unpack_from(data, at)
        magic, flags, method, crc, packed, size, name_size, extra_size, comment_size, place = entry
        if magic != _ENTRY_MAGIC:
            raise ValueError("a damaged or truncated zip file: its directory is damaged")
        at += _ENTRY.size
        raw = bytes(data[at : at + name_size])
        name = raw.decode("utf-8" if flags & _UTF8 else "cp437")
        at += name_size
        if _ABSENT in (size, packed, place):
            extra = data[at : at + extra_size]
            size, packed, place = _long_numbers(extra, (size, packed, place))
        at += extra_size + comment_size
        yield place, raw, name, packed, size, None if flags & _ENCRYPTED else method, crc
    if at > len(data):
        raise ValueError("a damaged or truncated zip file: its directory is damaged")


def _long_numbers(extra: bytearray, numbers: tuple[int, ...]) -> tuple[int, ...]:
    """Return the numbers, those that did not fit into 32 bits from the extra fields of an entry."""
    at = 0
    while at < len(extra):
        kind, size = struct.unpack_from("<2H", extra, at)
        if kind == _EXTRA64:
            field = struct.iter_unpack("<Q", extra[at + 4 : at + 4 + size // 8 * 8])
            return tuple(next(field, (n,))[0] if n == _ABSENT else n for n in numbers)
        at += 4 + size
    return numbers


def _data_start(source: Source, place: int, raw: bytes, name: str) -> int:
    """Return where the bytes of a member begin; the header before them must be its own."""
    if place + _LOCAL.size + len(raw) <= source.size:
        header = source.read(place, _LOCAL.size + len(raw))
        magic, name_size, extra_size = _LOCAL.unpack_from(header)
        if magic == MAGIC and header[_LOCAL.size :] == raw and name_size == len(raw):
            return place + len(header) + int(extra_size)
    raise ValueError(f"a damaged zip file: member {short(name)} is not where its directory says")
