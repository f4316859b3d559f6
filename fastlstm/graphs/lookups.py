"""Rows of a constant table that an LSTM takes: they are looked up, and not made.

An LSTM of ours takes a `Lookup` in place of an array, and then takes b + W_ih x of each row of the
table as it was computed once (see `fastlstm.layers.lookup`). Exporters put further operators
between the table and the LSTM: its steps come first, or its sequences are sorted. These bring the
indices into another order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..layers import Embedding
from ..layers.lookup import Lookup
from ..layers.parameters import undrawn

if TYPE_CHECKING:
    from ..arrays import Array, Integers
    from .limits import Limits
    from .plan import Draft, Node

_LSTMS = "LSTM", "DynamicQuantizeLSTM", "CuDNNLSTM", "Bidirectional"
_ORDERS = "Gather", "Transpose"  # a `Lookup` has the methods that they need


def looked_up(draft: Draft, nodes: Sequence[Node], outputs: Collection[str]) -> list[Node]:
    """Return nodes that compute the same outputs; those that look rows up for LSTMs are others."""
    takers: dict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        for name in {*node.inputs}:
            takers[name].append(node)
    embeddings: dict[str, Embedding] = {}
    result = []
    for node in nodes:
        if _is_lookup(draft, node) and _is_for_lstms(node.outputs[0], takers, outputs):
            if node.type == "Gather":
                node = _gather(draft, node, embeddings)
            else:
                node = node._replace(compute=partial(_look_up, node.compute.args[0]))  # type: ignore[attr-defined]
        result.append(node)
    return result


def _is_lookup(draft: Draft, node: Node) -> bool:
    """Whether a node takes rows out of a table of floats that is known."""
    if not isinstance(node.compute, partial):
        return False
    if node.type == "Embedding":
        return isinstance(node.compute.args[0], Embedding)
    table = draft.constants.get(node.inputs[0]) if node.type == "Gather" else None
    return (
        isinstance(table, np.ndarray)
        and table.ndim == 2
        and table.size > 0
        and table.dtype in (np.float32, np.float64)
        and node.compute.args[0] == 0  # the axis
    )


def _is_for_lstms(name: str, takers: Mapping[str, list[Node]], outputs: Collection[str]) -> bool:
    """Whether a value comes to LSTMs as it is, or in another order, and to nothing else."""
    found, names = False, [name]
    while names:
        name = names.pop()
        if name in outputs:
            return False
        for taker in takers[name]:
            if taker.inputs[0] != name or name in taker.inputs[1:]:
                return False
            is_lstm = taker.type in _LSTMS and taker.by == "fastlstm"
            if taker.type in _ORDERS and (taker.type != "Gather" or len(taker.inputs) == 2):
                names.append(taker.outputs[0])
            elif taker.type != "Shape" and not is_lstm:
                return False
            found |= is_lstm
    return found


def _gather(draft: Draft, node: Node, embeddings: dict[str, Embedding]) -> Node:
    """Return the node for a Gather of rows of a constant, which becomes a layer of the model."""
    name, indices = node.inputs
    if name not in embeddings:
        table = draft.constants[name]
        with undrawn():
            embedding = Embedding(*table.shape, dtype=table.dtype.name)
        embedding.load_state_dict({"weight": table})
        embeddings[name] = embedding
        draft.layer(node.name or node.type, embedding)
    compute = _Gather(embeddings[name], draft.limits)
    return node._replace(compute=compute, inputs=(indices,), by="fastlstm")


class _Gather:
    """ONNX's Gather of rows: negative indices count from the end."""

    def __init__(self, embedding: Embedding, limits: Limits) -> None:
        self.embedding, self.limits = embedding, limits

    def __call__(self, indices: Integers) -> Lookup:
        rows, size = self.embedding.num_embeddings, self.embedding.embedding_dim
        index = indices.astype(np.int64)
        if index.size:
            least, most = index.min(), index.max()
            if least < -rows or most >= rows:
                wrong = least if least < -rows else most
                raise IndexError(f"index {wrong} is out of bounds for axis 0 with size {rows}")
            if least < 0:
                index[index < 0] += rows
            if index.size > rows:
                self.limits.allow((index.size, size), self.embedding.dtype.itemsize)
        return Lookup(self.embedding, index)


def _look_up(embedding: Embedding, x: Array) -> Any:
    """Keras' Embedding: indices may be floats, which are cut to integers."""
    return embedding._look_up(x if x.dtype.kind in "iu" else x.astype(np.int32))
