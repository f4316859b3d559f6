"""The table of ONNX's operators that fastlstm computes itself, and how a node is made of one.

Its entries are makers, as `makers` describes them. What is known already, as the axes of a Squeeze
or the bounds of a Slice often are, they work out once. What each operator does, by versions, stands
in https://onnx.ai/onnx/operators.
"""

from __future__ import annotations

from ..arrays import quiet
from .control import If, Loop, Scan
from .elementwise import ELEMENTWISE
from .gru import GRU
from .indexing import INDEXING
from .limits import TooLarge
from .lists import LISTS
from .makers import Maker
from .plan import FAULTS, Node, Operator, told
from .pooling import POOLING
from .products import conv, gemm, matmul, matmul_integer
from .recurrent import dynamic_quantize_lstm, lstm
from .reductions import REDUCTIONS
from .reference import by_onnx
from .shapes import SHAPES

# By the operators' names in ONNX, such as "Add"; those of other domains as "com.microsoft.Gelu".
OPERATORS: dict[str, Maker] = {
    **ELEMENTWISE,
    **SHAPES,
    **INDEXING,
    **LISTS,
    **REDUCTIONS,
    **POOLING,
    **GRU,
    "Conv": conv,
    "Gemm": gemm,
    "If": If,
    "LSTM": lstm,
    "Loop": Loop,
    "MatMul": matmul,
    "MatMulInteger": matmul_integer,
    "Scan": Scan,
    "com.microsoft.DynamicQuantizeLSTM": dynamic_quantize_lstm,
}


@quiet
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
        by = "numpy" if compute else "onnx"
        compute = compute or by_onnx(operator)
    except TooLarge:
        raise
    except FAULTS as fault:
        raise told(operator, fault) from fault
    if isinstance(compute, Node):
        return compute
    return Node(operator.name, operator.type, compute, operator.inputs, operator.outputs, by)
