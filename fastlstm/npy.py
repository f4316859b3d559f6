"""Arrays in .npy files, mapped into memory; their headers may be of anyone's making."""

import math
import os
import re
from pathlib import Path

import numpy as np

_MOST_HEADER = 10_000  # bytes; NumPy reads no longer ones either
_ITEM = re.compile(  # of a dict's text: read as such, for nothing in a file is evaluated
    r"""\s* ['"] (?: descr ['"] \s* : \s* ['"] (?P<descr> [\w<>=|[\]]{1,40} ) ['"]
        | fortran_order ['"] \s* : \s* (?P<fortran_order> True | False )
        | shape ['"] \s* : \s* [(] (?P<shape> [^()]* ) [)] ) \s* ,?""",
    re.VERBOSE,
)
_NUMBER = r"\s*\d{1,18}L?\s*"  # Python 2 wrote the L
_NUMBERS = re.compile(rf"(?:{_NUMBER},)*(?:{_NUMBER})?", re.ASCII)
_SIZES = {b"\x01\x00": 2, b"\x02\x00": 4, b"\x03\x00": 4}  # bytes of the header's size, by version


def map_array(path):
    """Return the array in a .npy file of version 1 to 3: what is used of it is read when it is.

    Raises
    ------
    ValueError
        If the file is damaged, cut off or holds anything but one plain array.
    OSError
        If it cannot be opened.
    """
    with open(path, "rb") as file:
        try:
            dtype, order, shape = _header(file)
            start, end = file.tell(), os.fstat(file.fileno()).st_size
            size = math.prod(shape) * dtype.itemsize
            if size > end - start:
                raise ValueError(
                    f"an array of shape {shape} and type {dtype} takes {size} bytes, there are "
                    f"{end - start}"
                )
            if not size:
                return np.zeros(shape, dtype, order)
            return np.memmap(file, dtype, "r", start, shape, order).view(np.ndarray)
        except ValueError as fault:
            raise ValueError(f"{Path(path)} cannot be read as .npy: {fault}") from fault


def _header(file):
    """Return dtype, order and shape."""
    head = file.read(8)
    if head[:6] != b"\x93NUMPY" or head[6:] not in _SIZES:
        raise ValueError("it does not begin as a .npy file of version 1, 2 or 3 does")
    size = int.from_bytes(file.read(_SIZES[head[6:]]), "little")
    text = file.read(min(size, _MOST_HEADER + 1))
    if len(text) != size:
        raise ValueError(f"its header of {size} bytes is cut off or longer than {_MOST_HEADER}")
    text = text.decode("latin-1")
    items = {item.lastgroup: item[item.lastgroup] for item in _ITEM.finditer(text)}
    whole = "".join(_ITEM.sub("", text).split()) == "{}" and len(items) == 3
    if not whole or not _NUMBERS.fullmatch(items["shape"]):
        raise ValueError("its header does not tell the type, order and shape of an array")
    try:
        dtype = np.dtype(items["descr"])
    except (TypeError, ValueError, OverflowError) as fault:
        raise ValueError(f"its header is damaged: {fault}") from fault
    if dtype.kind in "OV":
        raise ValueError(f"it holds {dtype}; expected numbers")
    order = "F" if items["fortran_order"] == "True" else "C"
    return dtype, order, tuple(map(int, re.findall(r"\d+", items["shape"])))
