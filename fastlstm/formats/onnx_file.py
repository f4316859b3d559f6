"""ONNX files: whole networks as graphs of operators, read with the onnx package.

What `onnx_writer` wrote becomes the same model again; other files become a `GraphModel`.
"""

from __future__ import annotations

import secrets
from itertools import islice
from typing import TYPE_CHECKING, Any

from ..graphs import GraphModel
from ..graphs.cells import Step
from ..graphs.limits import Limits
from ..graphs.plan import Draft
from ..graphs.products import put_back
from ..layers import LSTM
from . import protobuf, structure
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
_VERSION, _GRAPH = 1, 7
_MOST_FIELDS = 10000
_EXTERNAL_DATA = 13  # a field of a TensorProto
# Where the numbers of tensors lie in a file: those in the field raw_data stay there, if they are
# large, until they are wanted.
_LAYOUT = {
    "Model": {7: "Graph", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor",
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {9: ""},
}  # fmt: skip


def recognises(source: Source) -> bool:
    """Tell whether a file is a protobuf message with the fields of an ONNX model, and a graph.

    All of them have their version. A few bytes of each field are read. The last field may be
    cut off.
    """
    seen = set()
    try:
        for field in islice(protobuf.Reader(source).fields(0, source.size), _MOST_FIELDS):
            if _FIELDS.get(field.number) != field.wire:
                return False
            seen.add(field.number)
    except ValueError:
        pass
    return {_VERSION, _GRAPH} <= seen


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
    key = secrets.token_hex(16)  # which no file can know
    model = _parsed(source, key)
    if not model.graph.output:
        raise ValueError("its graph has no outputs")
    limits = Limits.for_file(source.size)
    tensors = Tensors(source, limits, key)
    if found := told(model, tensors.array):
        description, arrays = found
        own = State()
        own.update(arrays)
        return Content(own, description)
    draft = Draft(choice.engine, limits, limits.most)
    reader = Reader(model, tensors, draft, source.budget)
    plan = None
    if not reader.faults:  # cells that the file spells out become LSTMs in the plan
        plan = draft.plan([port.name for port in reader.inputs], reader.names)
        put_back(draft, plan)
    state, recurrent = State(), {}
    for name, layer in draft.layers.items():
        state.update((f"{name}.{local}", getattr(layer, local)) for local in layer._views)
        if isinstance(layer, LSTM):
            recurrent[f"{name}."] = structure.describe(layer)

    for name, fault in reader.faults.items():
        if fault.startswith("operator LSTM "):
            state.refused[f"{name}.weight_ih_l0"] = f"cannot be read: {fault}"

    def build(wish: Wish) -> Layer:
        if plan is None:
            said = list(reader.faults.values())[:5]
            if recurrent:
                said.append("its LSTMs are loaded alone by fastlstm.load_lstm(path, prefix=...)")
            raise ValueError("; ".join(said))
        for node in plan.nodes:
            if isinstance(node.compute, Step):
                reader.flow.lstm(node.inputs[1:], node.outputs)
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


def _parsed(source: Source, key: str) -> Any:
    """Return the ModelProto of a file, in which large tensors say where their numbers lie.

    They say it by this key among what they say of external data.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError("an ONNX file needs the onnx package: pip install onnx") from error

    def stand_in(start: int, end: int) -> bytes:
        place = protobuf.entry(1, key.encode()) + protobuf.entry(2, f"{start} {end}".encode())
        return protobuf.entry(_EXTERNAL_DATA, place)

    try:
        data = protobuf.thinned(source, _LAYOUT, "Model", stand_in)
        return onnx.ModelProto.FromString(data)
    except (DecodeError, ValueError) as fault:
        raise ValueError(f"a damaged or truncated ONNX file: {fault}") from fault
