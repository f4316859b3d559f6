"""Safetensors files, through the safetensors library; the structure stands in their metadata."""

import json

from . import structure
from .dtypes import numbers

SUFFIXES = (".safetensors",)
ORDERED = False  # the library sorts tensors by type and name

_ENTRY = "fastlstm"  # of the metadata
_BEFORE_HEADER = 8  # bytes, which hold the header's size
_DTYPES = {"BF16": "bfloat16", "BOOL": "bool"}
_DTYPES |= {f"F{bits}": f"float{bits}" for bits in (16, 32, 64)}
_DTYPES |= {f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)}
_DTYPES |= {f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)}


def recognises(file):
    """Tell whether an open file begins as a safetensors file does: a size, a JSON object."""
    file.seek(0)
    return file.read(_BEFORE_HEADER + 1)[_BEFORE_HEADER:] == b"{"


def read(file):
    """Read an open file.

    Returns
    -------
    state : dict of str -> ndarray
        Of the file's dtypes, half types widened to float32 (exact).
    description : dict or None
        The model's structure, if fastlstm wrote the file.

    Raises
    ------
    ValueError
        If the file is damaged or holds a type that NumPy lacks.
    ImportError
        If the safetensors library is missing.
    """
    library = _library()
    file.seek(0)
    data = file.read()
    try:
        tensors = library.deserialize(data)
    except library.SafetensorError as fault:
        raise ValueError(f"a damaged or truncated safetensors file: {fault}") from fault
    state = {}
    for name, tensor in tensors:
        if tensor["dtype"] not in _DTYPES:
            raise ValueError(f"tensor {name!r} has type {tensor['dtype']}, which NumPy lacks")
        array = numbers(tensor["data"], _DTYPES[tensor["dtype"]])
        state[name] = array.reshape(tensor["shape"])
    end = _BEFORE_HEADER + int.from_bytes(data[:_BEFORE_HEADER], "little")
    metadata = json.loads(data[_BEFORE_HEADER:end]).get("__metadata__") or {}
    text = metadata.get(_ENTRY)
    return state, None if text is None else structure.loads(text)


def write(file, model):
    """Write a model's parameters and structure."""
    text = structure.dumps(model)
    file.write(_library().numpy.save(model.state_dict(), {_ENTRY: text}))


def _library():
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(
            "a .safetensors file needs the safetensors library: pip install safetensors"
        ) from error
    return safetensors
