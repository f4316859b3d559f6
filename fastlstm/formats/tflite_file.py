"""TFLite files (LiteRT): whole networks as graphs of operators, read without a library."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from ..checks import quoted, short
from ..graphs import GraphModel
from ..graphs.limits import Limits
from ..graphs.plan import Draft
from ..layers import LSTM
from . import structure
from .format import ANY, Choice, Content, Wish
from .onnx_states import states
from .source import Source, State
from .tflite_graph import Reader
from .tflite_operators import MAKERS
from .tflite_schema import IDENTIFIER
from .tflite_tables import Model, Signature

if TYPE_CHECKING:
    from ..graphs.plan import Plan
    from ..layers import Layer
    from .tflite_rows import Row

NAME = "TFLite"
ORDERED = True

_MOST_SAID = 5  # faults that an error lists


def recognises(source: Source) -> bool:
    """Tell by its bytes 4 to 8 whether a file is one of TFLite."""
    return source.head[4:8] == IDENTIFIER


def read(source: Source, choice: Choice = ANY) -> Content:
    """Read a file; `choice.key` is the key of one of its signatures, if it has several.

    Returns
    -------
    Content
        With the structure of a `Sequential` if the graph is a row of layers that fastlstm has; with
        ``build``, which makes a `GraphModel`, otherwise.

    Raises
    ------
    ValueError
        If the file is damaged or hostile, or has no such signature.
    """
    model = Model(source.read(0, source.size), source.budget)
    signature = _signature(model.signatures, choice.key)
    graph = model.subgraph(signature.subgraph if signature else 0)
    if not graph.outputs:
        raise ValueError("its graph has no outputs")
    limits = Limits.for_file(source.size)
    draft = Draft(choice.engine, limits, limits.most)
    reader = Reader(model, graph, signature, draft, MAKERS)
    notes = {"description": model.description} if model.description else {}
    if row := _row(reader):
        return _of_row(row, notes)
    return _of_graph(reader, limits, notes)


def _signature(signatures: list[Signature], key: str | None) -> Signature | None:
    """Return the signature of a key; without one, that of the first graph, if it has one."""
    if key is not None:
        for signature in signatures:
            if signature.key == key:
                return signature
        known = quoted(signature.key for signature in signatures) or "none"
        raise ValueError(f"it has no signature key={short(key)}; it has {known}")
    return next((signature for signature in signatures if signature.subgraph == 0), None)


def _row(reader: Reader) -> Row | None:
    """Return the row of layers that the whole graph is, if it is one."""
    if reader.faults or len(reader.inputs) != 1 or len(reader.names) != 1:
        return None
    row = reader.rows.get(reader.names[0])
    return row if row is not None and row.is_whole else None


def _of_row(row: Row, notes: dict[str, Any]) -> Content:
    """Return the content of a file whose graph is a row of layers."""
    state, children = State(), {}
    counts: Counter[str] = Counter()
    for description, arrays in row.parts:
        kind = description["layer"].lower()
        counts[kind] += 1
        name = kind if counts[kind] == 1 else f"{kind}_{counts[kind]}"
        children[name] = description
        state.update((f"{name}.{local}", array) for local, array in arrays.items())
    return Content(state, {"layer": "Sequential", "children": children}, notes=notes)


def _of_graph(reader: Reader, limits: Limits, notes: dict[str, Any]) -> Content:
    """Return the content of a file whose graph is more than a row of layers."""
    draft = reader.draft
    state, recurrent = State(), {}
    for name, layer in draft.layers.items():
        state.update((f"{name}.{local}", getattr(layer, local)) for local in layer._views)
        if isinstance(layer, LSTM):
            recurrent[f"{name}."] = structure.describe(layer)
    for number, fault in enumerate(reader.lstm_faults, len(recurrent) + 1):
        state.refused[f"lstm_{number}.weight_ih_l0"] = f"cannot be read: {fault}"
    plan: Plan | None = None
    inputs = [*reader.inputs, *(state.input for state in reader.states)]
    if not reader.faults:
        plan = draft.plan([port.name for port in inputs], [*reader.names, *reader.finals])

    def build(wish: Wish) -> Layer:
        if plan is None:
            said = reader.faults[:_MOST_SAID]
            if more := len(reader.faults) - len(said):
                said.append(f"and {more} more")
            if recurrent:
                said.append("its LSTMs are loaded alone by fastlstm.load_lstm(path, prefix=...)")
            raise ValueError("; ".join(said))
        finals = [state.input._replace(name=state.output) for state in reader.states]
        values = dict(zip((port.name for port in reader.outputs), reader.names, strict=True))
        pairs = states(reader.inputs, reader.outputs, values, reader.flow) + reader.states
        outputs = [*reader.outputs, *finals]
        network = GraphModel(plan, inputs, outputs, pairs, draft.layers, limits)
        if wish.dtype is not None and wish.dtype != network.dtype:
            raise ValueError(
                f"dtype={str(wish.dtype)!r}: a graph of TFLite has types of its own; load_lstm "
                "takes an LSTM out of it in another one"
            )
        limits.most = wish.max_bytes
        return network

    return Content(state, None, build=build, recurrent=recurrent, notes=notes)
