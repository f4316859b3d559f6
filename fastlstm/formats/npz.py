"""fastlstm's own format: a NumPy .npz of the parameters by their names, and the structure as JSON.

Beside them the file may hold notes, a JSON object of whoever wrote it, as what a model forecasts.
``np.load(path, allow_pickle=False)`` opens it too. Here it is read by hand, because np.load
believes an array's header and takes the memory that it asks for before it looks for the numbers.
"""

import json
import math
import re

import numpy as np

from ..checks import short
from . import archive, structure
from .source import State

SUFFIXES = (".npz",)
ORDERED = True  # np.savez keeps the caller's order

_ENTRY = "__structure__"
_NOTES = "__notes__"
# What np.save writes before an array: numpy.lib.format 1.0's magic, size and a dict's repr.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '([<>|](?:f[248]|[iu][1248]|c8|c16|b1|S[1-9]\d{0,8}))', "
    rb"'fortran_order': (True|False), 'shape': \(((?:\d{1,18}, ?)*(?:\d{1,18})?)\),? ?\} *\n",
    re.DOTALL,
)

_NOT_PLAIN = (
    "is not a plain array of numbers as np.save writes it: Python objects, records and other "
    "headers are refused"
)


def recognises(source):
    """Tell whether a file is a zip of .npy files."""
    return source.members is not None and any(n.endswith(".npy") for n in source.members)


def read(source):
    """Read a file, ours or one of arrays that np.savez or np.savez_compressed wrote.

    Returns
    -------
    state : State
        Arrays of the file's dtypes, float16 widened to float32 (exact). Refused is what is no plain
        array of numbers.
    description : dict or None
        The model's structure, if fastlstm wrote the file.

    Raises
    ------
    ValueError
        If the file is damaged.
    """
    members = dict(source.members)
    members.pop(f"{_NOTES}.npy", None)
    text = _text(source, members.pop(f"{_ENTRY}.npy", None))
    state = State()
    for member in members.values():
        name = member.name.removesuffix(".npy")
        if name in state or name in state.refused:
            raise ValueError(
                f"its members {short(name)} and {short(name + '.npy')} are two arrays of one name"
            )
        data = archive.read(source, member)
        if header := _HEADER.match(data):
            state[name] = _array(name, header, data)
        else:
            state.refused[name] = _NOT_PLAIN
    return state, None if text is None else structure.loads(text)


def read_notes(source):
    """Read the notes of a file: a dict, or None if there are none.

    Raises
    ------
    ValueError
        If the file is damaged, or its notes are no JSON object.
    """
    text = _text(source, source.members.get(f"{_NOTES}.npy"))
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


def _text(source, member):
    """The one string in a member, or None if there is no such member."""
    if member is None:
        return None
    source.budget.check("bytes of JSON", member.size)
    name, data = member.name.removesuffix(".npy"), archive.read(source, member)
    header = _HEADER.match(data)
    text = _array(name, header, data) if header else np.zeros(0)
    if text.dtype.kind != "S" or text.ndim:
        raise ValueError(f"entry {name!r} must be one string, got {text.dtype} {text.shape}")
    return text.item()


def _array(name, header, data):
    """The array behind the header of a .npy file, in native byte order."""
    dtype = np.dtype(header[1].decode())
    shape = tuple(int(n) for n in header[3].split(b",") if n.strip())
    expected, got = math.prod(shape) * dtype.itemsize, len(data) - header.end()
    if expected != got:
        raise ValueError(
            f"entry {short(name)} of shape {shape} and type {dtype} must have {expected} bytes, "
            f"got {got}"
        )
    flat = np.frombuffer(data, dtype, offset=header.end()) if expected else np.zeros(0, dtype)
    native = "f4" if dtype == np.float16 else dtype.newbyteorder("=")
    order = "F" if header[2] == b"True" else "C"
    return flat.astype(native, copy=False).reshape(shape, order=order)
