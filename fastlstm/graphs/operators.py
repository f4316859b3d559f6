"""ONNX's operators of arrays in NumPy, and the table of all that fastlstm computes itself.

An entry of the table makes what computes an operator: it is given the `Operator`, and returns a
function of the values of its inputs, or None for a form of it that is left to `reference`. What is
known already, as the axes of a Squeeze or the bounds of a Slice often are, is worked out here,
once. Source of what each operator does, by versions: https://onnx.ai/onnx/operators.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .plan import Compute, Node, Operator
from .reference import by_onnx

Maker = Callable[[Operator], "Compute | None"]

# By the operators' names in ONNX. Others register theirs here too: see the end of this file.
OPERATORS: dict[str, Maker] = {}


def node_of(operator: Operator) -> Node:
    """Return the node that computes an operator.

    Raises
    ------
    ValueError
        If nobody can: the sentence names the operator and its domain.
    """
    make = OPERATORS.get(operator.type) if operator.domain == "" else None
    compute = make(operator) if make else None
    by = "numpy"
    if compute is None:
        compute, by = by_onnx(operator), "onnx"
    return Node(operator.name, operator.type, compute, operator.inputs, operator.outputs, by)


def _same(x: object) -> object:
    return x


OPERATORS |= {
    "Identity": lambda operator: _same,
    "Relu": lambda operator: _relu,
    "Add": lambda operator: np.add,
}


def _relu(x: Any) -> Any:
    return np.maximum(x, 0)
