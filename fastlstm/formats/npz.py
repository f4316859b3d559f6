"""fastlstm's own format: a NumPy .npz of the parameters by their names, and the structure as JSON.

``np.load(path, allow_pickle=False)`` opens it too. Here it is read by hand, because np.load
believes an array's header and takes the memory that it asks for before it looks for the numbers.
"""

import math
import re

import numpy as np

from . import stored_zip, structure
from .dtypes import itemsize, numbers

SUFFIXES = (".npz",)
ORDERED = True  # np.savez keeps the caller's order

_ENTRY = "__structure__"
# The header of numpy.lib.format 1.0, as NumPy writes it: magic, version, size, a dict's repr.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00.."
    rb"\{'descr': '([<>|])([fiub])([1248])', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,18},? ?)*)\), \} *\n",
    re.DOTALL,
)
_TEXT_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '<U\d+', 'fortran_order': False, 'shape': \(\), \} *\n",
    re.DOTALL,
)
_NAMES = {"f": "float", "i": "int", "u": "uint", "b": "bool"}


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
    state, description = {}, None
    for member in stored_zip.members(file).values():
        name = member.name.removesuffix(".npy")
        data = stored_zip.read(file, member)
        if name == _ENTRY:
            description = structure.loads(_text(data))
        else:
            state[name] = _array(name, data)
    return state, description


def write(file, model):
    """Write a model's parameters and structure."""
    text = structure.dumps(model)
    np.savez(file, **model.state_dict(), **{_ENTRY: np.array(text)})
