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
from tflite_files import file_of as file_of_graphs  # noqa: E402


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
WIDE_NUMBERS = np.array(
    [np.nan, np.inf, -np.inf, 1.5, -1.5, -0.5, 127.9, 128, -129, 255.7, 300, 32767.5, 3e9, -3e9,
     1e20, -1e20],
)  # fmt: skip
NOTHING = np.zeros(0, np.int32)
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
    **{
        f"CAST of {source} beyond {kind}": Case(
            "CAST", [WIDE_NUMBERS.astype(source)], [(len(WIDE_NUMBERS), kind)]
        )
        for source in ("float32", "float64")
        for kind in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")
    },
    "DEQUANTIZE": Case("DEQUANTIZE", [X.astype(np.float16)], WIDE),
    **{
        kind: Case(kind, [X, ints(1)], [(2, 4)])
        for kind in "MEAN SUM REDUCE_MAX REDUCE_MIN REDUCE_PROD".split()
    },
    "MEAN over nothing": Case("MEAN", [X, Held(NOTHING)], WIDE),
    "MEAN keeping axes": Case("MEAN", [X, ints(0, -1)], [(1, 3, 1)], {"keep_dims": True}),
    "REDUCE_ANY": Case("REDUCE_ANY", [B, ints(2)], [(2, 3, "bool")]),
    "REDUCE_ALL": Case("REDUCE_ALL", [B, ints(0, 1)], [(4, "bool")]),
    "ARG_MAX": Case("ARG_MAX", [X, ints(1)], [(2, 4, "int64")], {"output_type": 4}),
    "ARG_MIN": Case("ARG_MIN", [X, ints(-1)], [(2, 3, "int32")], {"output_type": 2}),
    "CUMSUM": Case("CUMSUM", [X, ints(1)], WIDE),
    "CUMSUM backwards": Case("CUMSUM", [X, ints(2)], WIDE, {"exclusive": True, "reverse": True}),
    "RESHAPE": Case("RESHAPE", [X, ints(4, -1)], [(4, 6)]),
    "RESHAPE to one number": Case("RESHAPE", [X[:1, :1, :1], Held(NOTHING)], [()]),
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
    "CONCATENATION with nothing": Case("CONCATENATION", [X, Held(X[:, :0])], WIDE, {"axis": 1}),
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


# ---- graphs inside operators, and what is refused -----------------------------------------------


def looped(own: int = 2) -> bytes:
    """Return a file that adds x to itself until the sum is 100; `own` is the graph of the body."""
    main, condition, body = Graph(), Graph(), Graph()
    x, y = main.tensor("x", [1]), main.tensor("y", [1])
    main.operator("WHILE", [x], [y], cond=1, body=own)
    v, truth = condition.tensor("v", [1]), condition.tensor("t", [1], "bool")
    condition.operator("LESS", [v, condition.constant(np.float32([100]))], [truth])
    a, b = body.tensor("a", [1]), body.tensor("b", [1])
    body.operator("ADD", [a, a], [b])
    return file_of_graphs([(main, [x], [y]), (condition, [v], [truth]), (body, [a], [b])])


@pytest.mark.parametrize("start", [1, 60, 100, 1000])
def test_while(start):
    x = np.float32([start])
    model = fastlstm.load(io.BytesIO(looped()))
    assert np.array_equal(model(x), theirs(looped(), [x])[0])


def test_a_body_that_is_in_itself_is_refused():
    with pytest.raises(ValueError, match="its graph 0 stands in itself"):
        fastlstm.load(io.BytesIO(looped(own=0)))
    with pytest.raises(ValueError, match="it refers to graph 7, and has 3"):
        fastlstm.load(io.BytesIO(looped(own=7)))


def branched(outputs: int = 1) -> bytes:
    """Return a file that gives tanh(x) or -x."""
    main, then, other = Graph(), Graph(), Graph()
    truth, x, y = main.tensor("t", [1], "bool"), main.tensor("x", [3]), main.tensor("y", [3])
    main.operator("IF", [truth, x], [y], then=1, **{"else": 2})
    graphs = [(main, [truth, x], [y])]
    for graph, kind in ((then, "TANH"), (other, "NEG")):
        a, b = graph.tensor("a", [3]), graph.tensor("b", [3])
        graph.operator(kind, [a], [b])
        graphs.append((graph, [a], [b] * outputs))
    return file_of_graphs(graphs)


@pytest.mark.parametrize("truth", [False, True])
def test_if(truth):
    values = [np.array([truth]), np.float32([1, -2, 0.5])]
    (expected,) = theirs(branched(), values)
    model = fastlstm.load(io.BytesIO(branched()))
    np.testing.assert_allclose(model(*values), expected, rtol=0, atol=ROUNDINGS)
    with pytest.raises(ValueError, match="its graphs have other inputs or outputs than it has"):
        fastlstm.load(io.BytesIO(branched(outputs=2)))


def test_variables_of_a_graph_inside_an_operator_are_refused():
    """LiteRT has the variable changed behind the loop; here it would be lost, and is refused."""
    main, condition, body, first = Graph(), Graph(), Graph(), Graph()

    def variable(graph: Graph) -> int:
        handle = graph.tensor("handle", [], "resource")
        graph.operator("VAR_HANDLE", [], [handle], name="sum")
        return handle

    first.operator("ASSIGN_VARIABLE", [variable(first), first.constant(np.float32([0]))], [])
    x, y, now, both = (main.tensor(name, [1]) for name in ("x", "y", "now", "both"))
    main.operator("CALL_ONCE", [], [], init=3)
    main.operator("WHILE", [x], [y], cond=1, body=2)
    main.operator("READ_VARIABLE", [variable(main)], [now])
    main.operator("ADD", [y, now], [both])
    v, truth = condition.tensor("v", [1]), condition.tensor("t", [1], "bool")
    condition.operator("LESS", [v, condition.constant(np.float32([10]))], [truth])
    a, b = body.tensor("a", [1]), body.tensor("b", [1])
    body.operator("ADD", [a, a], [b])
    body.operator("ASSIGN_VARIABLE", [variable(body), b], [])
    graphs = [(main, [x], [both]), (condition, [v], [truth]), (body, [a], [b]), (first, [], [])]
    data = file_of_graphs(graphs)
    assert theirs(data, [np.float32([1])])[0].tolist() == [32]
    with pytest.raises(ValueError, match="WHILE 'y': its graph 2 has variables of its own, 'sum'"):
        fastlstm.load(io.BytesIO(data))


def test_a_signature_of_another_graph():
    graphs = []
    for kind in ("ABS", "NEG"):
        graph = Graph()
        x, y = graph.tensor("x", [2]), graph.tensor("y", [2])
        graph.operator(kind, [x], [y])
        graphs.append((graph, [x], [y]))
    names = [("first", 0, {0: "in"}, {1: "out"}), ("second", 1, {0: "in"}, {1: "out"})]
    data, x = file_of_graphs(graphs, names), np.float32([-1, 2])
    assert fastlstm.load(io.BytesIO(data))(x).tolist() == [1, 2]
    assert fastlstm.load(io.BytesIO(data), key="second")(x).tolist() == [1, -2]


REFUSED = {
    "a negative index": (Case("GATHER", [X, ints(-1)], [(2, 3, 4)], {"axis": 1}), "index -1"),
    "a slice beyond the end": (
        Case("SLICE", [X, ints(0, 2, 0), ints(2, 2, 4)], [(2, 2, 4)]), "takes 2 elements from 2 on"
    ),
    "integers divided by 0": (Case("DIV", [N, 0 * M], [(2, 3, "int32")]), "it divides by 0"),
    "an uneven split": (Case("SPLIT", [ints(1), X], [(2, 1, 4)] * 2), "not split into 2 equal"),
    "sizes that do not fit": (
        Case("SPLIT_V", [X, ints(1, 1), ints(2)], [(2, 3, 1)] * 2), "do not cut an axis of 4"
    ),
    "parts that do not fit": (Case("UNPACK", [X], [(3, 4)] * 3, {"axis": 0}), "its axis 2"),
    "mirrored too far": (
        Case("MIRROR_PAD", [X, Held(np.array([[0, 0], [3, 0], [0, 0]], np.int32))], WIDE),
        "more than an axis of 3 has to mirror",
    ),
    "two numbers to fill with": (Case("FILL", [ints(2), Y[0, 0]], [(2,)]), "fills with one number"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_values_that_do_not_fit_are_refused(name):
    """LiteRT refuses most of these, and crashes at others."""
    case, said = REFUSED[name]
    data, values = file_of(case)
    with pytest.raises(ValueError, match=said):
        fastlstm.load(io.BytesIO(data))(*values)


UNREAD = {
    "shuffled": (
        Case("FULLY_CONNECTED", [X[0], Held(Y[0, :2])], [(3, 2)], {"weights_format": 1}),
        "shuffled",
    ),
    **{
        f"{name} in {kind}": (Case(kind, [X, Y], WIDE, {"activation": name}), said)
        for kind in ("ADD", "MUL", "DIV")
        for name, said in {
            "sign_bit": "LiteRT does not compute its activation sign_bit",
            "tanh": "LiteRT does not compute its activation tanh",
        }.items()
    },
    "tanh in FULLY_CONNECTED": (
        Case("FULLY_CONNECTED", [X[0], Held(Y[0, :2])], [(3, 2)], {"activation": "tanh"}),
        "LiteRT does not compute its activation tanh",
    ),
    "relu in CONCATENATION": (
        Case(
            "CONCATENATION",
            [X, Y],
            [(*X.shape[:2], 2 * X.shape[2])],
            {"axis": 2, "activation": "relu"},
        ),
        "LiteRT leaves out its activation, which has the number 1",
    ),
    "an unknown operator": (Case("SVDF", [X], WIDE), "operator SVDF 'y0': it is not known here"),
    "too few inputs": (Case("ADD", [X], WIDE), "it has 1 inputs, and must have 2"),
    "an offset": (
        Case("STRIDED_SLICE", [X, *[ints(0, 0, 0)] * 2, ints(1, 1, 1)], WIDE, {"offset": True}),
        "its ends count from its begins",
    ),
}


@pytest.mark.parametrize("name", UNREAD)
def test_what_is_not_read_is_named(name):
    case, said = UNREAD[name]
    with pytest.raises(ValueError, match=said):
        fastlstm.load(io.BytesIO(file_of(case)[0]))


@pytest.mark.parametrize("axis", [None, 0])
def test_constants_of_integers_with_scales_become_floats(axis):
    graph = Graph()
    x, y, weight = graph.tensor("x", [1, 4]), graph.tensor("y", [1, 3]), graph.tensor("w", [3, 4])
    stored = np.arange(-6, 6, dtype=np.int8).reshape(3, 4)
    scale, zero = ([0.5], [1]) if axis is None else ([0.5, 0.25, 2.0], [0, 0, 0])
    small = graph.constant(stored, "q", scale=scale, zero_point=zero, axis=axis or 0)
    graph.operator("DEQUANTIZE", [small], [weight])
    graph.operator("FULLY_CONNECTED", [x, weight, -1], [y])
    model = fastlstm.load(io.BytesIO(graph.file([x], [y])))
    floats = (stored - np.array(zero)[:, None]) * np.array(scale)[:, None]
    assert np.array_equal(model[0].weight, floats.astype(np.float32))


@pytest.mark.parametrize(("kind", "zero"), [("int8", 7), ("int16", 0)])
def test_a_large_constant_of_integers_is_a_layer_too(kind, zero):
    """It takes four times the file's bytes as float32, which the limit of a file allows."""
    graph = Graph()
    stored = np.arange(1000 * 500).reshape(500, 1000).astype(kind)
    x, y, weight = (
        graph.tensor(*one) for one in (("x", [1, 1000]), ("y", [1, 500]), ("w", stored.shape))
    )
    small = graph.constant(stored, "q", scale=[0.1], zero_point=[zero])
    graph.operator("DEQUANTIZE", [small], [weight])
    graph.operator("FULLY_CONNECTED", [x, weight, -1], [y])
    model = fastlstm.load(io.BytesIO(graph.file([x], [y])))
    exact = np.float64(np.float32(0.1)) * (stored.astype(np.float64) - zero)
    assert np.array_equal(model[0].weight, exact.astype(np.float32))


def test_axes_exchanged_around_an_lstm_are_a_row_of_layers():
    """Of an LSTM that has the steps first, and of one that has its steps turned round."""
    from test_tflite_lstms import B, H, I, T, Weights, one_direction

    graph, draw = Graph(), Weights()
    x = graph.tensor("x", (B, T, I))
    sizes = [(T, B, I), (T, B, I), (T, B, H), (T, B, H), (B, T, H)]
    values = [x, *(graph.tensor(f"v{n}", shape) for n, shape in enumerate(sizes))]
    turned, exchanged = (graph.constant(np.array(n, np.int32)) for n in ([0], [1, 0, 2]))
    own = one_direction(graph, draw, I, H, peephole=False, cifg=False, proj=False)
    states = [graph.state(B, H), graph.state(B, H)]
    graph.operator("TRANSPOSE", [x, exchanged], [values[1]])
    graph.operator("REVERSE_V2", [values[1], turned], [values[2]])
    graph.operator(
        "UNIDIRECTIONAL_SEQUENCE_LSTM", [values[2], *own, *states], [values[3]],
        activation="tanh", time_major=True,
    )  # fmt: skip
    graph.operator("REVERSE_V2", [values[3], turned], [values[4]])
    graph.operator("TRANSPOSE", [values[4], exchanged], [values[5]])
    data, x = graph.file([x], [values[5]]), normal(B, T, I)
    model = fastlstm.load(io.BytesIO(data))
    assert repr(model[0]) == "LSTM(3, 5, batch_first=True, reverse=True)"
    np.testing.assert_allclose(model(x), theirs(data, [x])[0], rtol=0, atol=ROUNDINGS)


def test_numbers_behind_the_tables():
    """As in files of more than 2 GiB."""
    graph = Graph()
    x, y = graph.tensor("x", [2, 4]), graph.tensor("y", [2, 3])
    weights = [graph.constant(normal(3, 4)), graph.constant(normal(3))]
    graph.operator("FULLY_CONNECTED", [x, *weights], [y])
    near, far = (file_of_graphs([(graph, [x], [y])], behind=behind) for behind in (False, True))
    x = normal(2, 4)
    assert np.array_equal(fastlstm.load(io.BytesIO(far))(x), fastlstm.load(io.BytesIO(near))(x))
    np.testing.assert_allclose(theirs(far, [x])[0], theirs(near, [x])[0], rtol=0, atol=ROUNDINGS)
    for end in range(len(far) - 60, len(far)):
        with pytest.raises(ValueError, match="its numbers end at byte"):
            fastlstm.load(io.BytesIO(far[:end]))


def test_a_long_row_is_a_graph():
    graph = Graph()
    values = [graph.tensor(f"v{n}", [2]) for n in range(301)]
    for before, behind in zip(values, values[1:], strict=False):
        graph.operator("RELU", [before], [behind])
    for end, kind in ((100, fastlstm.Sequential), (300, fastlstm.GraphModel)):
        model = fastlstm.load(io.BytesIO(graph.file(values[:1], [values[end]])))
        assert type(model) is kind
        assert model(np.float32([-1, 2])).tolist() == [0, 2]


def test_many_inputs_of_one_name():
    graph = Graph()
    values = [graph.tensor("x", [1]) for _ in range(3000)]
    y = graph.tensor("y", [1])
    graph.operator("ADD_N", values, [y])
    model = fastlstm.load(io.BytesIO(graph.file(values, [y])))
    assert [port.name for port in model.inputs[:3]] == ["x", "x_2", "x_3"]
    assert model(*[np.float32([1])] * 3000).tolist() == [3000]
