"""fastlstm's own format: a NumPy .npz of the parameters by their names, and the structure as JSON.

``np.load(path, allow_pickle=False)`` opens it too. Here it is read by hand, because np.load
believes an array's header and takes the memory that it asks for before it looks for the numbers.
"""

import math
import re

import numpy as np

from . import stored_zip, structure

SUFFIXES = (".npz",)
ORDERED = True  # np.savez keeps the caller's order

_ENTRY = "__structure__"
# What np.save writes before an array: numpy.lib.format 1.0's magic, size and a dict's repr.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '([<>|](?:f[248]|[iu][1248]|b1|S\d{1,9}))', "
    rb"'fortran_order': (True|False), 'shape': \(((?:\d{1,18}, ?)*(?:\d{1,18})?)\), \} *\n",
    re.DOTALL,
)


def recognises(file):
    """Tell whether an open file is a zip of .npy files."""
    return stored_zip.is_zip(file) and any(n.endswith(".npy") for n in stored_zip.members(file))


def read(file):
    """Read an open file, ours or one of plain arrays that np.savez wrote.

    Returns
    -------
    state : dict of str -> ndarray
        Of the file's dtypes, float16 widened to float32 (exact).
    description : dict or None
        The model's structure, if fastlstm wrote the file.

    Raises
    ------
    ValueError
        If the file is damaged, compressed, or holds anything but plain arrays.
    """
    state = {}
    for name, member in stored_zip.members(file).items():
        name = name.removesuffix(".npy")
        state[name] = _array(name, stored_zip.read(file, member))
    text = state.pop(_ENTRY, None)
    if text is None:
        return state, None
    if text.dtype.kind != "S" or text.ndim:
        raise ValueError(f"entry {_ENTRY!r} must be one string, got {text.dtype} {text.shape}")
    return state, structure.loads(text.item())


def write(file, model):
    """Write a model's parameters and structure."""
    text = structure.dumps(model)
    np.savez(file, **model.state_dict(), **{_ENTRY: np.array(text.encode())})


def _array(name, data):
    """The array in the bytes of a .npy file, in native byte order."""
    header = _HEADER.match(data)
    if header is None:
        raise ValueError(
            f"entry {name!r} is not a plain array of numbers as np.save writes it: Python objects, "
            "records and other headers are refused"
        )
    dtype = np.dtype(header[1].decode())
    shape = tuple(int(n) for n in header[3].split(b",") if n.strip())
    expected, got = math.prod(shape) * dtype.itemsize, len(data) - header.end()
    if expected != got:
        raise ValueError(
            f"entry {name!r} of shape {shape} and type {dtype} must have {expected} bytes, "
            f"got {got}"
        )
    flat = np.frombuffer(data, dtype, offset=header.end()) if expected else np.zeros(0, dtype)
    native = "f4" if dtype == np.float16 else dtype.newbyteorder("=")
    order = "F" if header[2] == b"True" else "C"
    return flat.astype(native, copy=False).reshape(shape, order=order)
