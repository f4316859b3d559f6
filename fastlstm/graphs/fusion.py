"""Rewrites of a graph's nodes before the plan is made: two neighbours become one node.

Each rewrite is given two nodes, the first of which gives a value that only the second takes and
that is no output of the graph. It returns the node that does what both do, or None if that is not
its case. What is computed stays the same, to the bit unless the rewrite says otherwise.

To add one, write a function and put it into the list at the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from .cells import with_cells
from .products import Convolution, Dense

if TYPE_CHECKING:
    from ..arrays import Array
    from .plan import Draft, Node, Value

Rewrite = Callable[["Draft", "Node", "Node"], "Node | None"]


def fused(draft: Draft, nodes: Sequence[Node], outputs: Collection[str]) -> list[Node]:
    """Return nodes that compute the same outputs, fewer of them."""
    nodes = with_cells(draft, nodes, outputs)
    uses = Counter(name for node in nodes for name in node.inputs)
    uses.update(outputs)
    alone: dict[str, int] = {}  # a value that one node takes: the place of the node that gives it
    result: list[Node | None] = []
    for node in nodes:
        while one := _with_one_before(draft, node, alone, result):
            node = one
        if len(node.outputs) == 1 and uses[node.outputs[0]] == 1:
            alone[node.outputs[0]] = len(result)
        result.append(node)
    return [node for node in result if node]


def _with_one_before(
    draft: Draft, node: Node, alone: Mapping[str, int], result: list[Node | None]
) -> Node | None:
    """Return a node and one before it as one, which leaves its place; None if no rewrite fits."""
    for name in node.inputs:
        if name in alone and (before := result[alone[name]]):
            for rewrite in REWRITES:
                if one := rewrite(draft, before, node):
                    result[alone[name]] = None
                    return one
    return None


def _product_and_bias(draft: Draft, first: Node, second: Node) -> Node | None:
    """MatMul, Add of a constant: the kernel begins its sums with the bias.

    This rounds once less than a product and a sum behind it.
    """
    if second.type != "Add" or not isinstance(first.compute, Dense):
        return None
    dense = first.compute
    bias = _other(draft, first, second)
    size = dense.linear.out_features
    if dense.linear.bias is not None or bias is None or bias.shape not in ((), (1,), (size,)):
        return None
    return first._replace(compute=dense.with_bias(draft, bias), outputs=second.outputs)


def _rectified(draft: Draft, first: Node, second: Node) -> Node | None:
    """Conv, Relu: negative numbers become 0 where the convolution has put them, the same bits."""
    if second.type != "Relu" or not isinstance(first.compute, Convolution):
        return None
    return first._replace(compute=first.compute.rectified(), outputs=second.outputs)


def _sizes(draft: Draft, first: Node, second: Node) -> Node | None:
    """Shape, Gather of known places: the sizes of these axes."""
    if first.type != "Shape" or second.type != "Gather" or second.inputs[0] != first.outputs[0]:
        return None
    places = _other(draft, first, second)
    whole = isinstance(first.compute, partial) and first.compute.args == (0, None)
    if places is None or places.ndim != 1 or not whole:
        return None
    compute = partial(_sizes_of, tuple(places.tolist()))
    return first._replace(compute=compute, outputs=second.outputs)


def _sizes_are(draft: Draft, first: Node, second: Node) -> Node | None:
    """The same, Equal to a constant: a condition, as exporters put before an If."""
    sizes = first.compute
    if not isinstance(sizes, partial) or sizes.func is not _sizes_of or second.type != "Equal":
        return None
    values = _other(draft, first, second)
    (places,) = sizes.args
    if values is None or values.shape != (len(places),):
        return None
    compute = partial(_equal_sizes, places, values.tolist())
    return first._replace(compute=compute, outputs=second.outputs)


def _sizes_of(places: tuple[int, ...], x: Array) -> Array:
    shape = x.shape
    return np.array([shape[place] for place in places], np.int64)


def _equal_sizes(places: tuple[int, ...], values: list[int], x: Array) -> Array:
    shape = x.shape
    return np.array([shape[n] == size for n, size in zip(places, values, strict=True)])


def _other(draft: Draft, first: Node, second: Node) -> Value:
    """Return the constant that a node of two inputs takes beside the first node's value, or None"""
    others = [name for name in second.inputs if name != first.outputs[0]]
    if not len(others) == len(second.inputs) - 1 == 1:
        return None
    value = draft.constants.get(others[0])
    return value if isinstance(value, np.ndarray) else None  # and no list of arrays


REWRITES: list[Rewrite] = [_product_and_bias, _rectified, _sizes, _sizes_are]
