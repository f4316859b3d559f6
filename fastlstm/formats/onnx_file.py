"""ONNX files: whole networks as graphs of operators, read with the onnx package.

What `onnx_writer` wrote becomes the same model again; other files become a `GraphModel`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..graphs import GraphModel
from ..graphs.limits import Limits
from ..graphs.plan import Draft, Node
from ..layers import LSTM
from . import structure
from .format import ANY, Choice, Content, Wish
from .onnx_graph import Reader
from .onnx_states import states
from .onnx_tensors import Tensors
from .onnx_writer import told, write
from .source import Source, State

if TYPE_CHECKING:
    from ..layers import Layer

__all__ = ["NAME", "ORDERED", "STRUCTURED", "SUFFIXES", "read", "recognises", "write"]

NAME = "ONNX"
SUFFIXES = (".onnx",)
STRUCTURED = True
ORDERED = True

# The fields of a ModelProto, and their wire types: 0 is a number, 2 has a length.
_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
_GRAPH = 7
_LONGEST_NUMBER = 10  # bytes of a number in a protobuf message


def recognises(source: Source) -> bool:
    """Tell whether a file is a protobuf message with the fields of an ONNX model, and a graph.

    A few bytes of each field are read, as there are a few fields.
    """
    place, has_graph = 0, False
    for _ in range(10000):
        if place == source.size:
            return has_graph
        try:
            tag, place = _number(source, place)
            if _FIELDS.get(tag >> 3) != tag & 7:
                return False
            value, place = _number(source, place)
        except ValueError:
            return False
        if tag & 7 == 2:
            has_graph = has_graph or tag >> 3 == _GRAPH
            place += value
            if place > source.size:  # truncated
                return has_graph
    return has_graph


def _number(source: Source, place: int) -> tuple[int, int]:
    """Return the number that begins at a place of a protobuf message, and where it ends."""
    data = source.read(place, min(_LONGEST_NUMBER, source.size - place))
    value = 0
    for count, byte in enumerate(data):
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, place + count + 1
    raise ValueError("a number of a protobuf message has no end")


def read(source: Source, choice: Choice = ANY) -> Content:
    """Read a file.

    Raises
    ------
    ValueError
        If the file is damaged or hostile, or a key is given.
    ImportError
        If the onnx package is missing.
    """
    choice.refuse_key()
    model = _parsed(source)
    if not model.graph.output:
        raise ValueError("its graph has no outputs")
    limits = Limits.for_file(source.size)
    tensors = Tensors(source, limits)
    if found := told(model, tensors.array):
        description, arrays = found
        own = State()
        own.update(arrays)
        return Content(own, description)
    draft = Draft(choice.engine, limits, limits.most)
    reader = Reader(model, tensors, draft, source.budget)
    state, recurrent = State(), {}
    for name, layer in draft.layers.items():
        state.update((f"{name}.{local}", array) for local, array in layer.state_dict().items())
        if isinstance(layer, LSTM):
            recurrent[f"{name}."] = structure.describe(layer)

    def build(wish: Wish) -> Layer:
        if reader.faults:
            raise ValueError("; ".join(list(reader.faults.values())[:5]))
        names = [_own(draft, name, reader.inputs) for name in reader.names]
        plan = draft.plan([port.name for port in reader.inputs], names)
        values = dict(zip((port.name for port in reader.outputs), reader.names, strict=True))
        pairs = states(reader.inputs, reader.outputs, values, reader.flow)
        network = GraphModel(plan, reader.inputs, reader.outputs, pairs, draft.layers, limits)
        if wish.dtype is not None and wish.dtype != network.dtype:
            raise ValueError(
                f"dtype={str(wish.dtype)!r}: an ONNX graph has types of its own; load_lstm takes "
                "an LSTM out of it in another one"
            )
        limits.most = wish.max_bytes
        return network

    return Content(state, None, build=build, recurrent=recurrent)


def _parsed(source: Source) -> Any:
    """Return the ModelProto of a file."""
    try:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError(
            'an ONNX file needs the onnx package: pip install "fastlstm[onnx]"'
        ) from error
    try:
        return onnx.ModelProto.FromString(bytes(source.read(0, source.size)))
    except DecodeError as fault:
        raise ValueError("a damaged or truncated ONNX file") from fault


def _own(draft: Draft, name: str, inputs: Any) -> str:
    """Return a value for an output that is neither an input nor a constant itself."""
    if name in draft.constants or any(port.name == name for port in inputs):
        own = f"{name} (output)"
        draft.nodes.append(Node(name, "Identity", np.copy, (name,), (own,)))
        return own
    return name
