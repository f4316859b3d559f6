"""A plan for calls that are alike: what follows from the shapes of the inputs is computed once.

Exporters write what a network does with any shape: it takes shapes apart, compares sizes, and asks
an If which way to go. In a call that is like the one before, all this comes to the same. So a plan
is followed through once with the values of a call, and those nodes become a plan of their own that
have something left to compute: of an If, the nodes of the branch that was taken. A step of Silero
VAD takes 60 us instead of 87 then (silero_vad_16k_op15.onnx, Intel Xeon with AVX-512).

A value is `shaped` if its shape and dtype follow from those of the inputs, and `known` if its
numbers do too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .control import If, truth
from .elementwise import ELEMENTWISE
from .plan import Node, Plan, computed

if TYPE_CHECKING:
    from ..arrays import Array
    from .plan import Value

# Operators whose results have shapes that follow from those of all their inputs.
_BY_SHAPES = frozenset(ELEMENTWISE) | {
    "ArgMax", "ArgMin", "BatchNormalization", "Concat", "Conv", "CumSum", "Flatten", "Gather",
    "GatherElements", "Gemm", "Identity", "LSTM", "LayerNormalization", "LogSoftmax", "MatMul",
    "ScatterElements", "Shape", "Size", "Softmax", "Transpose", "Trilu",
}  # fmt: skip
# Those whose results have shapes that follow from that of the first input and the numbers of the
# others, where they have any; and those where it takes the numbers of all.
_BY_NUMBERS = {
    "Expand", "Pad", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape",
    "Slice", "Split", "Squeeze", "Tile", "TopK", "Unsqueeze",
}  # fmt: skip
_BY_ALL_NUMBERS = {"ConstantOfShape", "Range"}
_OF_SHAPES = {"Shape", "Size"}  # whose results have numbers that follow from shapes
_MOST = 1 << 16  # bytes of a value that is kept
_ROOM = 1 << 26  # bytes of all values together, which are there at once while a plan is followed
# It takes about as long as ten or twenty calls to make a plan, which spares a quarter of one.
_CALLS = 16


def number(value: Value) -> Any:
    """Return the number that an input is, such as a sampling rate; None if it is no integer alone.

    For calls that are alike, such inputs have the same numbers.
    """
    if isinstance(value, np.ndarray) and value.size == 1 and value.dtype.kind in "iub":
        return value.item()
    return None


def for_calls_like(plan: Plan, values: Sequence[Value]) -> Plan:
    """Return a plan that computes the same for inputs that are like these.

    They have the same shapes and dtypes, and the same `number`. It is the same plan, if nothing is
    gained.
    """
    numbers = [number(value) is not None for value in values]
    if not any(numbers) and not any(node.type in (*_OF_SHAPES, "If") for node in plan.nodes):
        return plan
    followed = _Followed()
    inputs = [
        followed.value(value, shaped=True, known=known)
        for value, known in zip(values, numbers, strict=True)
    ]
    try:
        outputs = followed.through(plan, inputs)
    except _TooMuch:
        return plan
    if not followed.gains:
        return plan
    known = {name: value for name, value in followed.known.items() if name}
    return Plan(followed.nodes, known, inputs, outputs)


class Alike:
    """Calls of a model in a row that are alike: what their inputs are, and the plan that they get.

    Parameters
    ----------
    plan : Plan
        The model's.
    names : sequence of str
        Of the inputs.
    values : sequence of ndarray
        Those of the first of these calls.
    """

    def __init__(self, plan: Plan, names: Sequence[str], values: Sequence[Array]) -> None:
        self.inputs = [
            (name, value.dtype, value.shape, number(value))
            for name, value in zip(names, values, strict=True)
        ]
        self._plan, self._left = plan, _CALLS

    def values(self, feeds: Any) -> list[Value] | None:
        """Return the values of the inputs, if they are like those of the calls before."""
        if type(feeds) is not dict or len(feeds) != len(self.inputs):
            return None
        values: list[Value] = [
            value
            for name, dtype, shape, number in self.inputs
            if type(value := feeds.get(name)) is np.ndarray
            and value.dtype is dtype
            and value.shape == shape
            and (number is None or value.item() == number)
        ]
        return values if len(values) == len(feeds) else None

    def plan(self, values: Sequence[Value]) -> Plan:
        """Return the plan for a further call: after some calls, one for those that are alike."""
        left = self._left
        if left:
            self._left = left - 1  # threads may count a call twice, or not at all
            if left == 1:
                # A ValueError of an operator comes to the caller, as from a run of the plan.
                self._plan = for_calls_like(self._plan, values)
        return self._plan


class _TooMuch(Exception):
    """The values of a plan take more room than there is."""


class _Followed:
    """What was met on the way through a plan: values and nodes, by names of their own."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.values: dict[str, Value] = {"": None}
        self.shaped: set[str] = {""}
        self.known: dict[str, Value] = {"": None}
        self.gains = False
        self.room = _ROOM

    def value(self, value: Value, shaped: bool, known: bool = False) -> str:
        name = str(len(self.values))
        self.values[name] = value
        if shaped:
            self.shaped.add(name)
        if known:
            self.known[name] = value
        return name

    def through(self, plan: Plan, inputs: Sequence[str]) -> list[str]:
        """Go through a plan, and return its outputs."""
        names = {"": ""} | dict(zip(plan.inputs, inputs, strict=True))
        for name, constant in plan.constants.items():
            names.setdefault(name, self.value(constant, shaped=True, known=True))
        for node in plan.nodes:
            given = [names[name] for name in node.inputs]
            if isinstance(node.compute, If) and given[0] in self.known:
                self.gains = True
                branch, places = node.compute.branches[truth(self.known[given[0]])]
                results = self.through(branch, [given[place] for place in places])
            else:
                results = self.add(node, given)
            names |= {n: result for n, result in zip(node.outputs, results, strict=False) if n}
        return [names[name] for name in plan.outputs]

    def add(self, node: Node, given: Sequence[str]) -> list[str]:
        """Compute a node; put it into the plan unless its results are known."""
        results = computed(node, [self.values[name] for name in given])
        self.room -= sum(getattr(result, "nbytes", 0) for result in results)
        if self.room < 0:
            raise _TooMuch
        by_shapes = node.type in _BY_SHAPES and self.shaped.issuperset(given)
        by_numbers = (
            node.type in _BY_NUMBERS
            and given[0] in self.shaped
            and self.known.keys() >= {*given[1:]}
        )
        all_known = self.known.keys() >= {*given}
        shaped = by_shapes or by_numbers or (node.type in _BY_ALL_NUMBERS and all_known)
        known = shaped and (node.type in _OF_SHAPES or all_known)
        known = known and node.by != "fastlstm"  # a layer, whose parameters may change
        known = known and all(_is_small(result) for result in results)
        names = [
            self.value(_kept(result) if known else result, shaped, known) if name else ""
            for name, result in zip(node.outputs, results, strict=True)
        ]
        if known:
            self.gains = True
        else:
            self.nodes.append(node._replace(inputs=tuple(given), outputs=tuple(names)))
        return names


def _is_small(value: Any) -> bool:
    return isinstance(value, (np.ndarray, np.generic)) and value.nbytes <= _MOST


def _kept(value: Any) -> Value:
    """Return a copy that nobody may write into: the value may be a view of an input."""
    array = np.array(value)
    array.flags.writeable = False
    return array
