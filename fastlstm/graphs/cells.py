"""LSTM cells that a file spells out, as an exporter does with LSTMCell: each becomes one LSTM.

    z = Add(Gemm(h), Gemm(x));  i, f, g, o = Split(z)
    c' = Add(Mul(Sigmoid(f), c), Mul(Sigmoid(i), Tanh(g)));  h' = Mul(Sigmoid(o), Tanh(c'))

The sums of z are made in another order then, so that results differ by its rounding. A step of
Silero VAD takes 9 us less of 84 (silero_vad_op18_ifless.onnx, Intel Xeon with AVX-512).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..layers import LSTM
from .plan import Node
from .products import Dense

if TYPE_CHECKING:
    from ..arrays import Array
    from .limits import Limits
    from .plan import Draft


class _Cell(NamedTuple):
    """The nodes of a cell, and the value that it takes as c."""

    hidden: Node  # the product with h
    given: Node  # the product with x
    total: Node  # gives c'
    last: Node  # gives h'
    between: list[Node]
    c: str


def with_cells(draft: Draft, nodes: Sequence[Node], outputs: Collection[str]) -> list[Node]:
    """Return the nodes with one for each cell among them."""
    splits = [node for node in nodes if node.type == "Split" and len(node.outputs) == 4]
    if not splits:
        return list(nodes)
    around = _Nodes(nodes, outputs)
    made: dict[int, Node | None] = {}  # what takes the place of nodes, by their identities
    for cell in filter(None, map(around.cell, splits)):  # no two of which share a node
        spare = [cell.hidden, cell.given, cell.last, *cell.between]
        made |= dict.fromkeys(map(id, spare)) | {id(cell.total): _lstm(draft, cell)}
    return [one for node in nodes if (one := made.get(id(node), node))]


class _Nodes:
    """Who gives a value, and who takes it."""

    def __init__(self, nodes: Sequence[Node], outputs: Collection[str]) -> None:
        self.givers = {name: node for node in nodes for name in node.outputs if name}
        self.takers: dict[str, list[Node]] = {}
        for node in nodes:
            for name in node.inputs:
                self.takers.setdefault(name, []).append(node)
        self.uses = Counter({name: len(nodes) for name, nodes in self.takers.items()})
        self.uses.update(outputs)

    def taker(self, name: str, kind: str) -> Node | None:
        """Return the only node that takes a value, if it is of this kind."""
        taker = self.takers[name][0] if self.uses[name] == 1 else None
        return taker if taker is not None and taker.type == kind else None

    def product(self, name: str) -> Node | None:
        """Return the product with a known matrix that gives a value, if only one node takes it."""
        giver = self.givers.get(name)
        if giver is None or self.uses[name] != 1 or not isinstance(giver.compute, Dense):
            return None
        return None if giver.compute.half or giver.compute.transposed else giver

    def cell(self, split: Node) -> _Cell | None:
        """Return the cell that has this split, if there is one."""
        add = self.givers.get(split.inputs[0])
        if add is None or add.type != "Add" or self.uses[add.outputs[0]] != 1:
            return None
        hidden, given = map(self.product, add.inputs)
        kinds = "Sigmoid", "Sigmoid", "Tanh", "Sigmoid"
        gates = [self.taker(*pair) for pair in zip(split.outputs, kinds, strict=True)]
        if hidden is None or given is None or None in gates:
            return None
        i, f, g, o = (gate.outputs[0] for gate in gates if gate is not None)
        added, kept, last = (self.taker(gate, "Mul") for gate in (i, f, o))
        if added is None or kept is None or last is None or added is not self.taker(g, "Mul"):
            return None
        total = self.taker(added.outputs[0], "Add")
        if total is None or total is not self.taker(kept.outputs[0], "Add"):
            return None
        out = [node for node in self.takers[total.outputs[0]] if node.type == "Tanh"]
        if len(out) != 1 or self.taker(out[0].outputs[0], "Mul") is not last:
            return None
        if not _is_square(hidden) and _is_square(given):
            hidden, given = given, hidden
        if not _is_square(hidden) or not _fit(hidden, given, split):
            return None
        (c,) = (name for name in kept.inputs if name != f)
        between = [add, split, *gates, added, kept, out[0]]
        return _Cell(hidden, given, total, last, [node for node in between if node], c)


def _is_square(product: Node) -> bool:
    """Whether a product can be that of h: with (4H, H)."""
    linear = product.compute.linear  # type: ignore[attr-defined]  # of a Dense
    return bool(linear.out_features == 4 * linear.in_features)


def _fit(hidden: Node, given: Node, split: Node) -> bool:
    """Whether both products have the same size and type, which is split into four gates."""
    h, x = (node.compute.linear for node in (hidden, given))  # type: ignore[attr-defined]
    if h.out_features != x.out_features or h.dtype != x.dtype or len(split.inputs) != 1:
        return False
    return _splits(split, np.arange(h.out_features).reshape(1, -1))


def _splits(split: Node, z: Array) -> bool:
    """Whether numbers (..., 4H) are split into four of equal sizes along the last axis."""
    try:
        parts = split.compute(z)
    except ValueError:
        return False
    return all(np.array_equal(*pair) for pair in zip(parts, np.split(z, 4, axis=-1), strict=True))


def _lstm(draft: Draft, cell: _Cell) -> Node:
    """Return the node of a cell; its LSTM is a layer of the draft, in place of the products'."""
    products = [node.compute.linear for node in (cell.given, cell.hidden)]  # type: ignore[attr-defined]

    def made() -> LSTM:
        zeros = np.zeros(products[0].out_features, products[0].dtype)
        biases = tuple(zeros if one.bias is None else one.bias for one in products)
        lstm = LSTM.from_arrays(
            products[0].weight, products[1].weight, biases, layout="torch", engine=draft.engine
        )
        for one in products:
            draft.replace(one, None)
        draft.layer(cell.hidden.name, lstm)
        return lstm

    lstm = draft.once("cell", products, made)  # one for all steps, where a loop was unrolled
    inputs = cell.given.inputs[0], cell.hidden.inputs[0], cell.c
    outputs = cell.last.outputs[0], cell.total.outputs[0]
    (split,) = (node for node in cell.between if node.type == "Split")
    any_axes = _splits(split, np.zeros((2, 3, lstm.hidden_size * 4)))
    step = Step(lstm, any_axes, draft.limits)
    return Node(cell.hidden.name, "LSTM", step, inputs, outputs, "fastlstm")


class Step:
    """A step of an LSTM: x (B, I), h and c (B, H) -> h', c'.

    As in the nodes that it is made of, one row goes with all others, and there may be more axes
    before the last one, if `any_axes`.
    """

    def __init__(self, lstm: LSTM, any_axes: bool, limits: Limits) -> None:
        self.lstm, self.any_axes, self.limits = lstm, any_axes, limits

    def __call__(self, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        rows = x.shape[:-1]
        if len(rows) == 1 and h.shape == c.shape == (*rows, self.lstm.hidden_size) and rows[0]:
            _, (h, c) = self.lstm(x[np.newaxis], (h[np.newaxis], c[np.newaxis]))
            return h[0], c[0]
        rows = np.broadcast_shapes(rows, h.shape[:-1], c.shape[:-1])
        if len(rows) != 1 and not self.any_axes:
            raise ValueError(f"x, h and c must have 2 axes, got {x.shape}, {h.shape}, {c.shape}")
        inputs, hidden = self.lstm.input_size, self.lstm.hidden_size
        self.limits.allow((*rows, 4 * max(inputs, hidden)), x.itemsize)
        x, h, c = (
            np.broadcast_to(array, (*rows, size)).reshape(1, -1, size)
            for array, size in ((x, inputs), (h, hidden), (c, hidden))
        )
        if x.size:
            _, (h, c) = self.lstm(x, (h, c))
        return h.reshape(*rows, hidden), c.reshape(*rows, hidden)
