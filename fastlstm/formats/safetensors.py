"""Safetensors files, read and written by the safetensors library; metadata hold the structure."""

from __future__ import annotations

import json
from typing import IO, TYPE_CHECKING, Any

from . import structure, torch_programs
from .dtypes import numbers
from .format import ANY, Choice, Content
from .source import Source, State

if TYPE_CHECKING:
    from ..layers import Layer

NAME = "safetensors"
SUFFIXES = (".safetensors",)
STRUCTURED = True
ORDERED = False  # the library sorts tensors by type and name

_ENTRY = "fastlstm"  # the name of the structure among the metadata
_BEFORE_HEADER = 8  # bytes, which hold the size of the header
_DTYPES = {"BF16": "bfloat16", "BOOL": "bool"}
_DTYPES |= {f"F{bits}": f"float{bits}" for bits in (16, 32, 64)}
_DTYPES |= {f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)}
_DTYPES |= {f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)}
_DTYPES |= {f"C{bits}": f"complex{bits}" for bits in (64, 128)}
_DTYPES |= {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
_DTYPES |= {"F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz"}


def recognises(source: Source) -> bool:
    """Tell whether a file begins as a safetensors file does, with a size and a JSON object."""
    head = source.head[: _BEFORE_HEADER + 1]
    return head.endswith(b"\0{") and len(head) > _BEFORE_HEADER  # no text contains a zero byte


def read(source: Source, choice: Choice = ANY) -> Content:
    """Read a file.

    Returns
    -------
    Content
        The arrays have the file's dtypes, but floats of 8 and 16 bits are widened to float32, which
        is exact. Types that NumPy lacks are refused. The structure is None if fastlstm did not
        write the file.

    Raises
    ------
    ValueError
        If the file is damaged, or a key is given.
    ImportError
        If the safetensors library is missing.
    """
    choice.refuse_key()
    library = _library()
    size = int.from_bytes(source.head[:_BEFORE_HEADER], "little")
    if size < source.size:
        source.budget.check("bytes of a header", size)
    data = bytes(source.read(0, source.size))
    try:
        tensors = library.deserialize(data)
    except library.SafetensorError as fault:
        raise ValueError(f"a damaged or truncated safetensors file: {fault}") from fault
    state = State()
    for name, tensor in tensors:
        if tensor["dtype"] in _DTYPES:
            array = numbers(tensor["data"], _DTYPES[tensor["dtype"]])
            state[name] = array.reshape(tensor["shape"])
        else:
            state.refused[name] = f"has numbers of type {tensor['dtype']}, which NumPy lacks"
    header = data[_BEFORE_HEADER : _BEFORE_HEADER + size]
    told: dict[str, str] = {}
    # A long header need not be parsed once more if nothing that is known here stands in it.
    if any(f'"{entry}"'.encode() in header for entry in (_ENTRY, torch_programs.ENTRY)):
        told = json.loads(header).get("__metadata__") or {}
    text = told.get(_ENTRY)
    if text is not None:
        source.budget.check("bytes of JSON", len(text))
        return Content(state, structure.loads(text))
    hyper = torch_programs.hyper_parameters(told, source.budget)
    offered = torch_programs.offered(hyper, state)
    return Content(state, None, offered=offered, notes=torch_programs.notes(hyper))


def write(file: IO[bytes], model: Layer) -> None:
    """Write the parameters and the structure of a model."""
    text = structure.dumps(model)
    file.write(_library().numpy.save(model.state_dict(), {_ENTRY: text}))


def _library() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(
            "a .safetensors file needs the safetensors library: pip install safetensors"
        ) from error
    return safetensors
