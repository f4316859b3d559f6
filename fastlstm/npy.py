"""Arrays in .npy files: mapped into memory where they are read, written piece by piece.

A file may come from anyone, so its header is checked before memory is taken for it, and none of its
text is evaluated.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

_MOST_HEADER = 10_000  # bytes; NumPy reads no longer header either
MOST_HEAD = 12 + _MOST_HEADER  # bytes: with the magic, the version and the header's own size
# One item of the dict. It begins with a quote and not with spaces, because headers are filled up
# with spaces, and a search from each of them to the last would take the square of their number.
_ITEM = re.compile(
    r"""['"] (?: descr ['"] \s* : \s* ['"] (?P<descr> [^'"]{1,40} ) ['"]
        | fortran_order ['"] \s* : \s* (?P<fortran_order> True | False )
        | shape ['"] \s* : \s* [(] (?P<shape> [^()]* ) [)] ) \s* ,? \s*""",
    re.VERBOSE,
)
# Numbers and bytes alone, because np.dtype evaluates parts of some other texts.
_PLAIN_TYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f(2|4|8|16)|c(8|16|32)|S\d{1,8})", re.ASCII)
_NUMBER = r"\s*\d{1,18}L?\s*"  # Python 2 wrote the L
_NUMBERS = re.compile(rf"(?:{_NUMBER},)*(?:{_NUMBER})?", re.ASCII)
_BYTES_OF_SIZE = {b"\x01\x00": 2, b"\x02\x00": 4, b"\x03\x00": 4}  # by the version


class Header(NamedTuple):
    """What stands before the values of a .npy file, and at which byte these begin."""

    dtype: np.dtype[Any]
    order: Literal["C", "F"]
    shape: tuple[int, ...]
    start: int


def read_header(head: bytes | bytearray) -> Header:
    """Read the header of a .npy file of version 1 to 3.

    Parameters
    ----------
    head : bytes
        How the file begins: its first `MOST_HEAD` bytes, or the whole file if it has fewer.

    Raises
    ------
    ValueError
        If the header is damaged, or is that of anything but numbers or bytes.
    """
    wide = _BYTES_OF_SIZE.get(bytes(head[6:8]))
    if head[:6] != b"\x93NUMPY" or wide is None:
        raise ValueError("it does not begin as a .npy file of version 1, 2 or 3 does")
    size = int.from_bytes(head[8 : 8 + wide], "little")
    start = 8 + wide + size
    if size > _MOST_HEADER or start > len(head):
        raise ValueError(f"its header of {size} bytes is cut off or longer than {_MOST_HEADER}")
    text = head[8 + wide : start].decode("latin-1")
    items = {str(item.lastgroup): item[str(item.lastgroup)] for item in _ITEM.finditer(text)}
    whole = "".join(_ITEM.sub("", text).split()) == "{}" and len(items) == 3
    if not whole or not _NUMBERS.fullmatch(items["shape"]):
        raise ValueError("its header does not tell the type, order and shape of an array")
    if not _PLAIN_TYPE.fullmatch(items["descr"]):
        raise ValueError(f"it holds {items['descr']!r}; expected numbers")
    try:
        dtype = np.dtype(items["descr"])
    except TypeError as fault:  # this machine may lack the longest floats
        raise ValueError(f"its header is damaged: {fault}") from fault
    shape = tuple(map(int, re.findall(r"\d+", items["shape"])))
    return Header(dtype, "F" if items["fortran_order"] == "True" else "C", shape, start)


def map_array(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Return the array in a .npy file of version 1 to 3, read from the file only as it is used.

    Raises
    ------
    ValueError
        If the file is damaged, cut off or holds anything but one plain array.
    OSError
        If the file cannot be opened.
    """
    with open(path, "rb") as file:
        try:
            dtype, order, shape, start = read_header(file.read(MOST_HEAD))
            end = os.fstat(file.fileno()).st_size
            size = math.prod(shape) * dtype.itemsize
            if size > end - start:
                raise ValueError(
                    f"an array of shape {shape} and type {dtype} takes {size} bytes, there are "
                    f"{end - start}"
                )
            if not size:
                return np.zeros(shape, dtype, order)
            mapped: NDArray[Any] = np.memmap(file, dtype, "r", start, shape, order)
            return mapped.view(np.ndarray)
        except ValueError as fault:
            raise ValueError(f"{Path(path)} cannot be read as .npy: {fault}") from fault


def write_pieces(
    file: IO[bytes], pieces: Iterable[NDArray[Any]], axis: int, length: int | None
) -> None:
    """Write an array that comes in pieces, cut along `axis`, along which all have `length` values.

    Where `length` is None, there is one piece, and it is the whole array.

    The values are not written through a memory map: on a full disk, that would end the process,
    where writing to a file raises an OSError.
    """
    start = 0
    for piece in pieces:
        if length is None:
            axis, length = 0, len(piece)  # written at once
        if not start:
            shape = (*piece.shape[:axis], length, *piece.shape[axis + 1 :])
            header = {"descr": piece.dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            values, width = file.tell(), piece.itemsize * math.prod(shape[axis + 1 :])
        for row, part in enumerate(piece if axis else piece[None]):
            file.seek(values + (row * length + start) * width)
            file.write(np.ascontiguousarray(part).data)
        start += piece.shape[axis]
