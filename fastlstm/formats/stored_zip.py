"""Zip files whose members are stored plainly, as torch and NumPy write them, read with distrust.

Python's zipfile finds the directory; everything in it is checked against the file before a member
is read: no compression (so no bomb: a member is as long as its bytes in the file), no encryption,
no two members of one name or over the same bytes, nothing outside the file, no wrong checksum.
"""

import struct
import zipfile
import zlib
from dataclasses import dataclass

_LOCAL_HEADER = struct.Struct("<4s22x2H")  # magic, ..., length of the name, of the extra field
_MAGIC = b"PK\x03\x04"
_ENCRYPTED = 0x1


@dataclass(frozen=True)
class Member:
    """Where a member's bytes lie, and their CRC-32 (0 if the writer did not compute it)."""

    name: str
    start: int
    size: int
    crc: int


def is_zip(file):
    """Tell whether an open file begins as a zip file does."""
    file.seek(0)
    return file.read(4) == _MAGIC


def members(file):
    """Locate and check all members of an open zip file.

    Returns
    -------
    dict of str -> Member

    Raises
    ------
    ValueError
        If the file is damaged or truncated, or a member breaks one of this module's rules.
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
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise ValueError(f"member {name!r} is compressed; it must be stored as it is")
        if info.flag_bits & _ENCRYPTED:
            raise ValueError(f"member {name!r} is encrypted")
        if name in found:
            raise ValueError(f"two members of the zip file have the name {name!r}")
        start = _data_start(file, info.header_offset, name)
        if start + info.file_size > limit:
            raise ValueError(
                f"member {name!r} of {info.file_size} bytes overlaps what follows it: "
                f"there is room for {max(0, limit - start)}"
            )
        found[name] = Member(name, start, info.file_size, info.CRC)
    return found


def read(file, member):
    """Return a member's bytes as a bytearray; ValueError if they fail their checksum."""
    data = bytearray(member.size)
    file.seek(member.start)
    file.readinto(data)
    if member.crc and zlib.crc32(data) != member.crc:
        raise ValueError(f"member {member.name!r} is damaged: its checksum is wrong")
    return data


def _data_start(file, header, name):
    file.seek(max(0, header))
    raw = file.read(_LOCAL_HEADER.size)
    if header < 0 or len(raw) < _LOCAL_HEADER.size or not raw.startswith(_MAGIC):
        raise ValueError(f"a damaged zip file: member {name!r} is not where its directory says")
    _, name_length, extra_length = _LOCAL_HEADER.unpack(raw)
    return header + _LOCAL_HEADER.size + name_length + extra_length
