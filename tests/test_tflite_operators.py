"""TFLite's operators, one at a time: what LiteRT gives of the same file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from values import normal

import fastlstm
from fastlstm.formats.tflite_operators import MAKERS

pytest.importorskip("flatbuffers", reason="builds TFLite files, and flatbuffers is not installed")
litert = pytest.importorskip(
    "ai_edge_litert.interpreter", reason="compares with LiteRT, which is not installed"
)
from tflite_files import Graph  # noqa: E402


class Case(NamedTuple):
    """An operator: its inputs, the shapes (and types) of its outputs, and its options.

    An input is a value that is given at the call, or one that stands in the file (``In(...)``).
    """

    kind: str
    inputs: Sequence[Any]
    outputs: Sequence[Any]
    options: dict[str, Any] = {}


class Held(NamedTuple):
    """An input that is a constant of the file; None stands for one that is left out."""

    value: Any


def ints(*values: int) -> Held:
    return Held(np.array(values, np.int32))


def file_of(case: Case) -> tuple[bytes, list[np.ndarray]]:
    """Return the file of an operator alone, and the values of its inputs."""
    graph, inputs, given, values = Graph(), [], [], []
    for one in case.inputs:
        if isinstance(one, Held):
            inputs.append(-1 if one.value is None else graph.constant(one.value))
            continue
        array = np.asarray(one)
        values.append(array)
        inputs.append(graph.tensor(f"x{len(given)}", array.shape, array.dtype.name))
        given.append(inputs[-1])
    outputs = []
    for shape in case.outputs:
        dtype = shape[-1] if shape and isinstance(shape[-1], str) else "float32"
        sizes = [size for size in shape if isinstance(size, int)]
        outputs.append(graph.tensor(f"y{len(outputs)}", sizes, dtype))
    graph.operator(case.kind, inputs, outputs, **case.options)
    return graph.file(given, outputs), values


def theirs(data: bytes, values: Sequence[np.ndarray], calls: int = 1) -> list[np.ndarray]:
    """Return LiteRT's outputs of the last of some calls."""
    interpreter = litert.Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    for _ in range(calls):
        for place, value in zip(interpreter.get_input_details(), values, strict=True):
            interpreter.set_tensor(place["index"], value)
        interpreter.invoke()
    return [interpreter.get_tensor(one["index"]).copy() for one in interpreter.get_output_details()]


X = normal(2, 3, 4)
Y = normal(2, 3, 4, seed=1)
N = np.array([[7, -7, 5], [-5, 3, 9]], np.int32)
M = np.array([[2, 2, -3], [-3, -2, 4]], np.int32)
B = X > 0
WIDE = [(2, 3, 4)]
TRUTHS = [(2, 3, 4, "bool")]

CASES = {
    **{
        kind: Case(kind, [X], WIDE)
        for kind in (
            "ABS CEIL COS ELU EXP FLOOR HARD_SWISH LOGISTIC LOG_SOFTMAX NEG RELU RELU6 "
            "RELU_N1_TO_1 RELU_0_TO_1 ROUND SIGN SIN SQUARE TANH ZEROS_LIKE"
        ).split()
    },
    **{kind: Case(kind, [np.abs(X) + 0.1], WIDE) for kind in ("LOG", "RSQRT", "SQRT")},
    **{
        kind: Case(kind, [X, Y], WIDE)
        for kind in "ADD DIV MAXIMUM MINIMUM MUL SQUARED_DIFFERENCE SUB FLOOR_DIV".split()
    },
    "POW": Case("POW", [np.abs(X), Y], WIDE),
    **{
        kind: Case(kind, [X, np.where(B, X, Y)], TRUTHS)
        for kind in "EQUAL GREATER GREATER_EQUAL LESS LESS_EQUAL NOT_EQUAL".split()
    },
    "LOGICAL_NOT": Case("LOGICAL_NOT", [B], TRUTHS),
    "LOGICAL_AND": Case("LOGICAL_AND", [B, Y > 0], TRUTHS),
    "LOGICAL_OR": Case("LOGICAL_OR", [B, Y > 0], TRUTHS),
    **{
        f"{kind} of integers": Case(kind, [N, M], [(2, 3, "int32")])
        for kind in "ADD DIV FLOOR_DIV FLOOR_MOD MUL SUB MAXIMUM MINIMUM".split()
    },
    "FLOOR_MOD": Case("FLOOR_MOD", [X, Y], WIDE),
    "ADD spread": Case("ADD", [X, Held(Y[0, 0])], WIDE),
    **{
        f"ADD with {name}": Case("ADD", [3 * X, Y], WIDE, {"activation": name})
        for name in ("relu", "relu6", "relu_n1_to_1")
    },
    "ADD_N": Case("ADD_N", [X, Y, X], WIDE),
    "LEAKY_RELU": Case("LEAKY_RELU", [X], WIDE, {"alpha": 0.25}),
    "PRELU": Case("PRELU", [X, Held(Y[0, :1])], WIDE),
    "GELU": Case("GELU", [X], WIDE),
    "GELU by tanh": Case("GELU", [X], WIDE, {"approximate": True}),
    "SOFTMAX": Case("SOFTMAX", [X], WIDE, {"beta": 1.0}),
    "SOFTMAX with beta": Case("SOFTMAX", [X], WIDE, {"beta": 0.5}),
    "SELECT": Case("SELECT", [B, X, Y], WIDE),
    "SELECT rows": Case("SELECT", [B[:, 0, 0], X, Y], WIDE),
    "SELECT_V2": Case("SELECT_V2", [B[0], X, Y[:1]], WIDE),
    "CAST": Case("CAST", [5 * X], [(2, 3, 4, "int32")]),
    "CAST to float": Case("CAST", [N], [(2, 3)]),
    "DEQUANTIZE": Case("DEQUANTIZE", [X.astype(np.float16)], WIDE),
    **{
        kind: Case(kind, [X, ints(1)], [(2, 4)])
        for kind in "MEAN SUM REDUCE_MAX REDUCE_MIN REDUCE_PROD".split()
    },
    "MEAN keeping axes": Case("MEAN", [X, ints(0, -1)], [(1, 3, 1)], {"keep_dims": True}),
    "REDUCE_ANY": Case("REDUCE_ANY", [B, ints(2)], [(2, 3, "bool")]),
    "REDUCE_ALL": Case("REDUCE_ALL", [B, ints(0, 1)], [(4, "bool")]),
    "ARG_MAX": Case("ARG_MAX", [X, ints(1)], [(2, 4, "int64")], {"output_type": 4}),
    "ARG_MIN": Case("ARG_MIN", [X, ints(-1)], [(2, 3, "int32")], {"output_type": 2}),
    "CUMSUM": Case("CUMSUM", [X, ints(1)], WIDE),
    "CUMSUM backwards": Case("CUMSUM", [X, ints(2)], WIDE, {"exclusive": True, "reverse": True}),
    "RESHAPE": Case("RESHAPE", [X, ints(4, -1)], [(4, 6)]),
    "RESHAPE by an option": Case("RESHAPE", [X], [(6, 4)], {"new_shape": [6, 4]}),
    "SHAPE": Case("SHAPE", [X], [(3, "int32")], {"out_type": 2}),
    "RANK": Case("RANK", [X], [("int32",)]),
    "TRANSPOSE": Case("TRANSPOSE", [X, ints(2, 0, 1)], [(4, 2, 3)]),
    "SQUEEZE": Case("SQUEEZE", [X[:, :1]], [(2, 4)], {"axes": [1]}),
    "SQUEEZE all": Case("SQUEEZE", [X[:1, :1]], [(4,)]),
    "EXPAND_DIMS": Case("EXPAND_DIMS", [X, ints(-1)], [(2, 3, 4, 1)]),
    "PACK": Case("PACK", [X, Y], [(2, 2, 3, 4)], {"count": 2, "axis": 1}),
    "UNPACK": Case("UNPACK", [X], [(2, 4)] * 3, {"count": 3, "axis": 1}),
    "CONCATENATION": Case("CONCATENATION", [X, Y], [(2, 6, 4)], {"axis": 1}),
    "SLICE": Case("SLICE", [X, ints(0, 1, 0), ints(-1, 1, 2)], [(2, 1, 2)]),
    "STRIDED_SLICE": Case(
        "STRIDED_SLICE", [X, ints(0, -1, 3), ints(2, 0, 0), ints(1, 1, -2)], [(2, 2)],
        {"begin": 1, "end": 1, "shrink": 2},
    ),
    "STRIDED_SLICE backwards": Case(
        "STRIDED_SLICE", [X, ints(1, 2, 3), ints(-3, 0, 0), ints(-1, -1, -1)], [(2, 2, 4)],
        {"end": 4},
    ),
    "STRIDED_SLICE with an ellipsis": Case(
        "STRIDED_SLICE", [X, ints(0, 0, 1), ints(0, 0, 3), ints(1, 1, 1)], [(1, 2, 3, 2)],
        {"new_axis": 1, "ellipsis": 2},
    ),
    "SPLIT": Case("SPLIT", [ints(2), X], [(2, 3, 2)] * 2, {"count": 2}),
    "SPLIT_V": Case("SPLIT_V", [X, ints(1, -1), ints(2)], [(2, 3, 1), (2, 3, 3)], {"count": 2}),
    "TILE": Case("TILE", [X, ints(1, 2, 1)], [(2, 6, 4)]),
    "BROADCAST_TO": Case("BROADCAST_TO", [X[:, :1], ints(2, 3, 4)], WIDE),
    "FILL": Case("FILL", [ints(2, 3), np.array(5, np.float32)], [(2, 3)]),
    "RANGE": Case("RANGE", [np.array(n, np.int32) for n in (1, 9, 3)], [(3, "int32")]),
    "PAD": Case("PAD", [X, Held(np.array([[0, 0], [1, 2], [0, 1]], np.int32))], [(2, 6, 5)]),
    "PADV2": Case(
        "PADV2",
        [X, Held(np.array([[0, 0], [1, 2], [0, 1]], np.int32)), Held(np.array(7, np.float32))],
        [(2, 6, 5)],
    ),
    "MIRROR_PAD": Case(
        "MIRROR_PAD", [X, Held(np.array([[0, 0], [1, 2], [0, 1]], np.int32))], [(2, 6, 5)],
    ),
    "MIRROR_PAD with ends": Case(
        "MIRROR_PAD", [X, Held(np.array([[0, 0], [1, 2], [0, 1]], np.int32))], [(2, 6, 5)],
        {"mode": 1},
    ),
    "REVERSE_V2": Case("REVERSE_V2", [X, ints(1)], WIDE),
    "REVERSE_SEQUENCE": Case(
        "REVERSE_SEQUENCE", [X, ints(2, 3)], WIDE, {"seq_dim": 1, "batch_dim": 0}
    ),
    "GATHER": Case("GATHER", [X, ints(2, 0, 2)], [(2, 3, 4)], {"axis": 1}),
    "GATHER for each of a batch": Case(
        "GATHER", [X, Held(np.array([[1, 1], [0, 2]], np.int32))], [(2, 2, 4)],
        {"axis": 1, "batch_dims": 1},
    ),
    "GATHER of a table": Case("GATHER", [Held(X[0]), np.array([[2, 0]], np.int32)], [(1, 2, 4)]),
    "EMBEDDING_LOOKUP": Case(
        "EMBEDDING_LOOKUP", [np.array([2, 0, 1], np.int32), Held(X[0])], [(3, 4)]
    ),
    "GATHER_ND": Case("GATHER_ND", [X, Held(np.array([[1, 2], [0, 0]], np.int32))], [(2, 4)]),
    "ONE_HOT": Case(
        "ONE_HOT",
        [np.array([2, 0, 5], np.int32), Held(np.array(3, np.int32)),
         Held(np.array(2, np.float32)), Held(np.array(-1, np.float32))],
        [(3, 3)], {"axis": -1},
    ),
    "FULLY_CONNECTED": Case("FULLY_CONNECTED", [X[0], Held(Y[0, :2]), Held(Y[0, 2, :2])], [(3, 2)]),
    "FULLY_CONNECTED of rows": Case("FULLY_CONNECTED", [X, Held(Y[0, :2])], [(6, 2)]),
    "FULLY_CONNECTED keeping axes": Case(
        "FULLY_CONNECTED", [X, Held(Y[0, :2]), Held(None)], [(2, 3, 2)],
        {"keep_num_dims": True, "activation": "relu"},
    ),
    "FULLY_CONNECTED computed": Case(
        "FULLY_CONNECTED", [X[0], Y[0, :2], Held(Y[0, 2, :2])], [(3, 2)]
    ),
    "BATCH_MATMUL": Case("BATCH_MATMUL", [X, Y.swapaxes(1, 2).copy()], [(2, 3, 3)]),
    "BATCH_MATMUL of others": Case("BATCH_MATMUL", [X, Y], [(2, 3, 3)], {"adj_y": True}),
    "BATCH_MATMUL turned": Case("BATCH_MATMUL", [X, Y], [(2, 4, 4)], {"adj_x": True}),
    "BATCH_MATMUL of a constant": Case("BATCH_MATMUL", [X, Held(Y[0].T.copy())], [(2, 3, 3)]),
    "CONV_2D": Case(
        "CONV_2D", [normal(1, 5, 4, 3), Held(normal(2, 3, 2, 3)), Held(normal(2))], [(1, 5, 4, 2)],
        {"stride_w": 1, "stride_h": 1, "activation": "relu"},
    ),
    "CONV_2D valid": Case(
        "CONV_2D", [normal(1, 7, 6, 3), Held(normal(2, 3, 2, 3)), Held(normal(2))], [(1, 2, 3, 2)],
        {"padding": 1, "stride_w": 2, "stride_h": 2, "dilation_h": 2},
    ),
    "DEPTHWISE_CONV_2D": Case(
        "DEPTHWISE_CONV_2D", [normal(1, 5, 4, 3), Held(normal(1, 3, 2, 6)), Held(normal(6))],
        [(1, 5, 4, 6)], {"stride_w": 1, "stride_h": 1, "multiplier": 2},
    ),
    "MAX_POOL_2D": Case(
        "MAX_POOL_2D", [normal(1, 5, 4, 3)], [(1, 3, 2, 3)],
        {"stride_w": 2, "stride_h": 2, "width": 2, "height": 3},
    ),
    "AVERAGE_POOL_2D": Case(
        "AVERAGE_POOL_2D", [normal(1, 5, 4, 3)], [(1, 3, 2, 3)],
        {"stride_w": 2, "stride_h": 2, "width": 2, "height": 3},
    ),
}  # fmt: skip
# The greatest error of one number, against the greatest one: some roundings of float32, which are
# 6e-8 each. LiteRT's functions of one number have an error of their own of some 1e-6.
ROUNDINGS = 2e-6


@pytest.mark.parametrize("name", CASES)
def test_an_operator_gives_what_litert_gives(name):
    data, values = file_of(CASES[name])
    expected = theirs(data, values)
    model = fastlstm.load(io.BytesIO(data))
    got = model(*values)
    got = [*got] if isinstance(got, tuple) else [got]
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        most = max(1.0, float(np.abs(other).max(initial=0)))
        np.testing.assert_allclose(one, other, rtol=0, atol=ROUNDINGS * most)


def test_each_operator_is_compared_with_litert():
    of_states = {kind for kind in MAKERS if kind.endswith("LSTM")}  # test_tflite_files.py has them
    of_states |= {"WHILE", "IF", "CALL_ONCE", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE"}
    assert {case.kind for case in CASES.values()} == MAKERS.keys() - of_states
