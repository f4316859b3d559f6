"""fastlstm's own format: a NumPy .npz of the parameters by their names, and the structure as JSON.

Beside them the file may hold notes, a JSON object of whoever wrote it, as what a model forecasts.
``np.load(path, allow_pickle=False)`` opens it too. Here it is read by hand, because np.load
believes an array's header and takes the memory that it asks for before it looks for the numbers.
"""

import json
import math
import re

import numpy as np

from . import stored_zip, structure

SUFFIXES = (".npz",)
ORDERED = True  # np.savez keeps the caller's order

_ENTRY = "__structure__"
_NOTES = "__notes__"
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
    members = stored_zip.members(file)
    members.pop(f"{_NOTES}.npy", None)
    text = _text(file, members.pop(f"{_ENTRY}.npy", None))
    state = {}
    for name, member in members.items():
        name = name.removesuffix(".npy")
        state[name] = _array(name, stored_zip.read(file, member))
    return state, None if text is None else structure.loads(text)


def read_notes(file):
    """Read the notes of an open file: a dict, or None if there are none.

    Raises
    ------
    ValueError
        If the file is damaged, or its notes are no JSON object.
    """
    text = _text(file, stored_zip.members(file).get(f"{_NOTES}.npy"))
    try:
        notes = None if text is None else json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise ValueError(f"its notes are damaged JSON: {fault}") from fault
    if not isinstance(notes, (dict, type(None))):
        raise ValueError(f"its notes must be a JSON object, got {type(notes).__name__}")
    return notes


def write(file, model, notes=None):
    """Write a model's parameters and structure, and the notes, a dict that JSON can hold."""
    texts = {_ENTRY: structure.dumps(model)}
    if notes is not None:
        texts[_NOTES] = json.dumps(notes)
    texts = {name: np.array(text.encode()) for name, text in texts.items()}
    np.savez(file, **model.state_dict(), **texts)


def _text(file, member):
    """The one string in a member, or None if there is no such member."""
    if member is None:
        return None
    name = member.name.removesuffix(".npy")
    text = _array(name, stored_zip.read(file, member))
    if text.dtype.kind != "S" or text.ndim:
        raise ValueError(f"entry {name!r} must be one string, got {text.dtype} {text.shape}")
    return text.item()


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
