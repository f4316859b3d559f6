"""ONNX's operators of arrays in NumPy, and the table of all that fastlstm computes itself.

An entry of the table makes what computes an operator: it is given the `Operator`, and returns a
function of the values of its inputs, or None for a form of it that is left to `reference`. Or it
returns the whole `Node`, if that takes other inputs or is not computed by NumPy. What is known
already, as the axes of a Squeeze or the bounds of a Slice often are, is worked out here, once.
Source of what each operator does, by versions: https://onnx.ai/onnx/operators.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .control import If, Loop, Scan
from .limits import TooLarge
from .plan import FAULTS, Compute, Node, Operator, told
from .products import conv, gemm, matmul
from .recurrent import dynamic_quantize_lstm, lstm
from .reference import by_onnx

Maker = Callable[[Operator], "Node | Compute | None"]

# By the operators' names in ONNX, such as "Add"; those of other domains as "com.microsoft.Gelu".
# Others register theirs here too: see the end of this file.
OPERATORS: dict[str, Maker] = {}


def node_of(operator: Operator) -> Node:
    """Return the node that computes an operator.

    Raises
    ------
    TooLarge, ValueError
        If nobody can, or if something is wrong with its attributes or constants: the sentence names
        the operator.
    """
    domain = f"{operator.domain}." if operator.domain else ""
    make = OPERATORS.get(domain + operator.type)
    try:
        compute = make(operator) if make else None
    except TooLarge:
        raise
    except FAULTS as fault:
        raise told(operator, fault) from fault
    if isinstance(compute, Node):
        return compute
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


OPERATORS |= {
    "Conv": conv,
    "Gemm": gemm,
    "If": If,
    "LSTM": lstm,
    "Loop": Loop,
    "MatMul": matmul,
    "Scan": Scan,
    "com.microsoft.DynamicQuantizeLSTM": dynamic_quantize_lstm,
}
