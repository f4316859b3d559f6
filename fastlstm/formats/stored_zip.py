"""Zip files whose members are stored plainly, as torch and NumPy write them, read with distrust.

Python's zipfile finds the directory; everything in it is checked against the file before a member
is read: nothing outside the file, no two members of one name or over the same bytes, no bytes
without a member, which would be one that a damaged directory has lost. A member that is compressed
or encrypted is not read, so there is no bomb: each is as long as its bytes in the file. Checksums
are verified.
"""

import struct
import zipfile
import zlib
from dataclasses import dataclass

_LOCAL_HEADER = struct.Struct("<4s22x2H")  # magic, ..., length of the name, of the extra field
_MAGIC = b"PK\x03\x04"
_ENCRYPTED = 0x1
_DESCRIPTOR = 24  # bytes that may follow a member: its sizes and checksum once more


@dataclass(frozen=True)
class Member:
    """Where a member's bytes lie, whether they are stored as they are, and their CRC-32.

    The checksum is 0 if the writer did not compute it, which torch can be told.
    """

    name: str
    start: int
    size: int
    plain: bool
    crc: int


def is_zip(file):
    """Tell whether an open file begins as a zip file does."""
    file.seek(0)
    return file.read(4) == _MAGIC


def members(file):
    """Locate all members of an open zip file.

    Returns
    -------
    dict of str -> Member
        In the order of the file.

    Raises
    ------
    ValueError
        If the file is damaged or truncated, or members share a name or bytes.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
            end = archive.start_dir
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as fault:
        raise ValueError(f"a damaged or truncated zip file: {fault}") from fault
    found = {}
    for info, limit in zip(infos, [i.header_offset for i in infos[1:]] + [end], strict=True):
        name = info.filename
        if name in found:
            raise ValueError(f"two members of the zip file have the name {name!r}")
        start = _data_start(file, info)
        gap = limit - start - info.compress_size
        if gap < 0:
            raise ValueError(
                f"member {name!r} of {info.compress_size} bytes overlaps what follows it: "
                f"there is room for {max(0, limit - start)}"
            )
        if gap > _DESCRIPTOR:
            raise ValueError(f"a damaged zip file: {gap} bytes after {name!r} belong to no member")
        plain = info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & _ENCRYPTED
        if plain and info.file_size != info.compress_size:
            raise ValueError(f"a damaged zip file: member {name!r} has two sizes")
        found[name] = Member(name, start, info.file_size, plain, info.CRC)
    return found


def read(file, member):
    """Return a member's bytes as a bytearray; ValueError if they are not plain or damaged."""
    if not member.plain:
        raise ValueError(
            f"member {member.name!r} is compressed or encrypted; it must be stored as it is"
        )
    data = bytearray(member.size)
    file.seek(member.start)
    file.readinto(data)
    if member.crc and zlib.crc32(data) != member.crc:
        raise ValueError(f"member {member.name!r} is damaged: its checksum is wrong")
    return data


def _data_start(file, info):
    """Where a member's bytes begin: after the header before them, which must be its own."""
    if info.header_offset >= 0:
        file.seek(info.header_offset)
        header = file.read(_LOCAL_HEADER.size)
        if len(header) == _LOCAL_HEADER.size and header.startswith(_MAGIC):
            _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
            name = file.read(name_length)
            if info.orig_filename in (name.decode(e, "replace") for e in ("utf-8", "cp437")):
                return file.tell() + extra_length
    raise ValueError(
        f"a damaged zip file: member {info.filename!r} is not where its directory says"
    )
