"""fastlstm's own format: a NumPy .npz of the parameters by their names, and the structure as JSON.

A file may also hold notes: a JSON object in which its writer keeps more about the model, such as
what it forecasts. A checkpoint of a training is read too, for the parameters of its model.

``np.load(path, allow_pickle=False)`` opens these files as well. It is not used here, because it
believes the header of an array: it takes the memory that the header asks for before it looks
whether the file has so many numbers.
"""

from __future__ import annotations

import json
import math
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ..checks import short
from ..npy import MOST_HEAD, Header, read_header
from . import archive, structure
from .archive import Member
from .dtypes import is_known
from .format import ANY, Choice, Content
from .source import Source, State

if TYPE_CHECKING:
    from ..arrays import Array
    from ..layers import Layer

NAME = "npz"
SUFFIXES = (".npz",)
STRUCTURED = True
ORDERED = True  # np.savez keeps the order in which it is given the arrays

TRAINING = "__training__"  # the entry of a checkpoint that says what stands in the others
_STRUCTURE = "__structure__"
_NOTES = "__notes__"
_OF_A_TRAINING = "it is a checkpoint of a training, of which the model's parameters are taken"
_NOT_PLAIN = (
    "is not a plain array of numbers as np.save writes it: Python objects, records and other "
    "headers are refused"
)


def recognises(source: Source) -> bool:
    """Tell whether a file is a zip of .npy files."""
    return source.members is not None and any(n.endswith(".npy") for n in source.members)


def read(source: Source, choice: Choice = ANY) -> Content:
    """Read a model that fastlstm wrote, or arrays that np.savez or np.savez_compressed wrote.

    Returns
    -------
    Content
        The structure is None if fastlstm did not write the file. For `state` see `read_arrays`.

    Raises
    ------
    ValueError
        If the file is damaged, or a key is given.
    """
    choice.refuse_key()
    text = _text(source, _STRUCTURE)
    state, note, model = read_arrays(source), "", ""
    if TRAINING in state:
        try:
            (state, model), note = _of_training(source, state), _OF_A_TRAINING
        except ValueError as fault:
            raise ValueError(f"{_OF_A_TRAINING}: {fault}") from fault
    return Content(state, None if text is None else structure.loads(text), note, model)


def read_arrays(source: Source) -> State:
    """Read the arrays of a file, without the structure and the notes.

    Returns
    -------
    State
        The arrays have the file's dtypes, but float16 is widened to float32, which is exact. An
        entry is refused unless it is a plain array of numbers.

    Raises
    ------
    ValueError
        If the file is damaged.
    """
    state = State()
    for member in _members(source).values():
        if member.name in (f"{_STRUCTURE}.npy", f"{_NOTES}.npy"):
            continue
        name = member.name.removesuffix(".npy")
        if name in state or name in state.refused:
            raise ValueError(
                f"its members {short(name)} and {short(name + '.npy')} are two arrays of one name"
            )
        data = archive.read(source, member)
        if header := _header(data):
            state[name] = _array(name, header, data)
        else:
            state.refused[name] = _NOT_PLAIN
    return state


def read_notes(source: Source) -> dict[str, Any] | None:
    """Read the notes of a file; None if it has none.

    Raises
    ------
    ValueError
        If the file is damaged, or its notes are not a JSON object.
    """
    text = _text(source, _NOTES)
    try:
        notes = None if text is None else json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise ValueError(f"its notes are damaged JSON: {fault}") from fault
    if not isinstance(notes, (dict, type(None))):
        raise ValueError(f"its notes must be a JSON object, got {type(notes).__name__}")
    return notes


def write(file: IO[bytes], model: Layer, notes: dict[str, Any] | None = None) -> None:
    """Write the parameters and the structure of a model, and notes that JSON can hold."""
    texts = {_STRUCTURE: structure.dumps(model)}
    if notes is not None:
        texts[_NOTES] = json.dumps(notes)
    entries: dict[str, Any] = dict(model.state_dict())
    entries |= {name: np.array(text.encode()) for name, text in texts.items()}
    np.savez(file, **entries)


def _of_training(source: Source, state: State) -> tuple[State, str]:
    """Return the parameters of the model in a checkpoint of a training, and the model in words."""
    source.budget.check("bytes of a training's JSON", state[TRAINING].nbytes)
    try:
        tree = json.loads(state[TRAINING].item())
        model = tree["kept"]["model"]
        found = State()
        found.update({name: state[str(place["__array__"])] for name, place in model.items()})
        made_for = tree.get("made_for", {})  # the first version of checkpoints lacked it
        return found, str(made_for.get("model", ""))
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as fault:
        raise ValueError(f"they are damaged: {type(fault).__name__}: {str(fault)[:200]}") from fault


def _members(source: Source) -> dict[str, Member]:
    return source.members or {}


def _text(source: Source, name: str) -> bytes | None:
    """Return the one string in the entry of this name; None if there is no such entry."""
    member = _members(source).get(f"{name}.npy")
    if member is None:
        return None
    source.budget.check("bytes of JSON", member.size)
    data = archive.read(source, member)
    header = _header(data)
    array: Array = _array(name, header, data) if header else np.zeros(0)
    text = array.item() if array.dtype.kind == "S" and not array.ndim else None
    if not isinstance(text, bytes):
        raise ValueError(f"entry {name!r} must be one string, got {array.dtype} {array.shape}")
    return text


def _header(data: bytearray) -> Header | None:
    """Return the header of a .npy file; None unless it is that of a plain array of numbers."""
    try:
        header = read_header(data[:MOST_HEAD])
    except ValueError:
        return None
    return header if is_known(header.dtype.name) or header.dtype.kind == "S" else None


def _array(name: str, header: Header, data: bytearray) -> Array:
    """Return the array behind the header of a .npy file, in native byte order."""
    dtype, order, shape, start = header
    expected, got = math.prod(shape) * dtype.itemsize, len(data) - start
    if expected != got:
        raise ValueError(
            f"entry {short(name)} of shape {shape} and type {dtype} must have {expected} bytes, "
            f"got {got}"
        )
    flat = np.frombuffer(data, dtype, offset=start) if expected else np.zeros(0, dtype)
    native = np.dtype("f4") if dtype == np.float16 else dtype.newbyteorder("=")
    return flat.astype(native, copy=False).reshape(shape, order=order)
