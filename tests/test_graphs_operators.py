"""ONNX's operators in NumPy: values, types and shapes, by versions; limits, errors, pickles.

The truth is onnx's own cases, and onnxruntime where these have none: for older versions, and over
shapes and axes that hypothesis draws.
"""

from __future__ import annotations

import collections
import itertools
import math
import pickle
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from saboteurs import edited

from fastlstm.graphs import elementwise, indexing, operators, pooling, reductions, shapes
from fastlstm.graphs.elementwise import ELEMENTWISE
from fastlstm.graphs.indexing import INDEXING
from fastlstm.graphs.limits import Limits, TooLarge
from fastlstm.graphs.lists import LISTS
from fastlstm.graphs.operators import node_of
from fastlstm.graphs.plan import FAULTS, Draft, Operator
from fastlstm.graphs.pooling import POOLING
from fastlstm.graphs.reductions import REDUCTIONS
from fastlstm.graphs.shapes import SHAPES

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

OURS = sorted([*ELEMENTWISE, *SHAPES, *INDEXING, *LISTS, *REDUCTIONS, *POOLING])
ROOM = 1 << 30

# ---- how operators are run and compared ---------------------------------------------------------


def node(kind, values, known=(), version=21, outputs=1, domain="", most=ROOM, **attributes):
    """Return the node of an operator, its draft, and the values that it has to be given.

    Of the values, None is an input that is left out; those at the places `known` are constants.
    """
    draft = Draft("auto", Limits(most), ROOM)
    names = tuple("" if x is None else f"x{n}" for n, x in enumerate(values))
    constants = [x if n in known else None for n, x in enumerate(values)]
    draft.constants |= {f"x{n}": x for n, x in enumerate(constants) if x is not None}
    results = tuple(f"y{n}" for n in range(outputs)) if isinstance(outputs, int) else outputs
    operator = Operator(
        "it", kind, domain, version, attributes, names, results, tuple(constants), draft
    )
    given = {n: x for n, x in zip(names, values, strict=True) if n not in draft.constants and n}
    return node_of(operator), draft, given


def run(kind, values, known=(), pickled=True, **options):
    """Return the values of an operator's outputs; it may not write into those of its inputs."""
    made, draft, given = node(kind, values, known, **options)
    if pickled:
        made = pickle.loads(pickle.dumps(made))
    for value in values:
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
    draft.add(made)
    assert draft.nodes == [] or given, "what is known is computed at once"
    plan = draft.plan(list(given), [name for name in made.outputs if name])
    with np.errstate(all="ignore"):  # as a GraphModel sees to
        return plan.run(list(given.values()))


def ours(kind, *values, **options):
    """Return what an operator computes, the same whichever of its inputs are known before."""
    count = len(values)
    first = run(kind, values, **options)
    for known in (range(1, count), range(count), range(1, count, 2)):
        for result, again in zip(first, run(kind, values, known, **options), strict=True):
            assert_equal(again, result)
    return first[0] if len(first) == 1 else first


def assert_equal(got, wanted, eps=0.0):
    """Fail unless both are arrays of one type and shape, or lists of such, of nearly equal values.

    Numbers may differ by `eps` of the larger one, and of the largest of all.
    """
    if isinstance(wanted, list):
        assert isinstance(got, list) and len(got) == len(wanted)
        for one, other in zip(got, wanted, strict=True):
            assert_equal(one, other, eps)
        return
    if wanted is None or got is None:
        assert got is wanted
        return
    got, wanted = np.asarray(got), np.asarray(wanted)
    assert got.shape == wanted.shape
    if wanted.dtype.kind in "OU":
        assert got.dtype.kind in "OU" and got.astype(str).tolist() == wanted.astype(str).tolist()
        return
    assert got.dtype == wanted.dtype
    if not np.issubdtype(wanted.dtype, np.inexact):
        wide = np.int64 if wanted.dtype.kind in "biu" else np.float64  # the latter for a few bits
        np.testing.assert_array_equal(got.astype(wide), wanted.astype(wide))
        return
    largest = np.max(np.abs(wanted), where=np.isfinite(wanted), initial=0)
    np.testing.assert_allclose(got, wanted, rtol=eps, atol=eps * float(largest))


def eps_of(wanted, operations=32):
    """Return the rounding of some operations, in the type of the values."""
    kinds = [np.asarray(x).dtype for x in wanted if not isinstance(x, list) and x is not None]
    floats = [kind for kind in kinds if np.issubdtype(kind, np.floating)]
    return max([operations * float(np.finfo(kind).eps) for kind in floats], default=0.0)


def by_onnxruntime(kind, *values, version=21, outputs=1, **attributes):
    """Return what onnxruntime computes for one operator."""
    kinds = {str(dtype): number for number, dtype in elementwise.DTYPES.items()}
    names = ["" if x is None else f"x{n}" for n, x in enumerate(values)]
    feeds = {name: np.asarray(x) for name, x in zip(names, values, strict=True) if name}
    results = [f"y{n}" for n in range(outputs)]
    helper = onnx.helper
    attributes = {
        name: onnx.numpy_helper.from_array(x) if isinstance(x, np.ndarray) else x
        for name, x in attributes.items()
    }
    graph = helper.make_graph(
        [helper.make_node(kind, names, results, **attributes)],
        "one",
        [
            helper.make_tensor_value_info(name, kinds[str(x.dtype)], list(x.shape))
            for name, x in feeds.items()
        ],
        [helper.make_empty_tensor_value_info(name) for name in results],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised, and need not be printed too
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found = session.run(None, feeds)
    return found[0] if outputs == 1 else found


def check(kind, *values, **options):
    """Compare an operator with onnxruntime's."""
    wanted = by_onnxruntime(kind, *values, **options)
    wanted = wanted if isinstance(wanted, list) else [wanted]
    got = run(kind, values, **options)
    for one, other in zip(got, wanted, strict=True):
        assert_equal(one, other, eps_of(wanted))
    ours(kind, *values, **options)


# ---- onnx's own cases ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cases():
    """onnx's own cases of single operators, by operator."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        found = collections.defaultdict(list)
        for case in collect_testcases(None):
            if len(case.model.graph.node) == 1 and case.model.graph.node[0].domain == "":
                found[case.model.graph.node[0].op_type].append(case)
    return found


def as_value(value):
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def attributes_of(proto):
    def plain(value):
        if isinstance(value, list):
            return [plain(part) for part in value]
        return value.decode() if isinstance(value, bytes) else as_value(value)

    return {a.name: plain(onnx.helper.get_attribute_value(a)) for a in proto.attribute}


def check_case(case, runs, **options):
    """Compare one of onnx's cases with what `runs`, which is `run` or `ours`, returns."""
    proto = case.model.graph.node[0]
    for inputs, outputs in case.data_sets:
        given = iter([as_value(x) for x in inputs])
        values = [next(given) if name else None for name in proto.input]
        got = runs(
            proto.op_type,
            *([values] if runs is run else values),
            version=case.model.opset_import[0].version,
            outputs=tuple(proto.output),
            **attributes_of(proto),
            **options,
        )
        wanted = [as_value(x) for x in outputs]
        got = [got] if len(wanted) == 1 and runs is ours else got
        for one, other in zip(got, wanted, strict=True):
            assert_equal(one, other, 4e-4 if case.name in COARSE else eps_of(wanted))


# Cases whose values were written down with four digits.
COARSE = {
    *{"test_gridsample_bicubic", "test_averagepool_2d_ceil_last_window_starts_on_pad"},
    *{"test_roialign_aligned_false", "test_roialign_aligned_true"},
}
# What onnx has no case of, and a test below has.
WITHOUT_CASES = {
    *{"ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase"},
    *{"SequenceLength", "Optional"},
}


def numpy_has(dtype):
    return dtype in elementwise.DTYPES.values()


@pytest.mark.parametrize("kind", [kind for kind in OURS if kind not in WITHOUT_CASES])
def test_values_types_and_shapes_are_those_of_onnx_s_cases(cases, kind):
    assert cases[kind]
    for case in cases[kind]:
        if kind == "CastLike" and not numpy_has(as_value(case.data_sets[0][0][1]).dtype):
            check_case(case, run, known=(1,))  # a type of few bits must be known
        else:
            check_case(case, ours)


def others():
    """What onnx's evaluator computes, of operators without graphs and not drawn at random."""
    drawn = "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Multinomial Bernoulli"
    elsewhere = "Conv Gemm If LSTM Loop MatMul Scan SequenceMap ImageDecoder"
    kinds = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    return sorted(kinds - set(operators.OPERATORS) - {*drawn.split(), *elsewhere.split()})


def test_what_onnx_computes_has_the_values_of_its_cases(cases):
    for kind in others():
        for case in cases[kind][:3]:
            check_case(case, run, known=(1,))


# ---- other versions, against onnxruntime --------------------------------------------------------

X = np.random.default_rng(0).standard_normal((2, 3, 4)).astype("float32")
INTS = np.array([[7, -7, 6], [-6, 0, 5]])
I64 = np.int64


def i64(*values):
    return np.array(values, np.int64)


OLDER = [
    ("Softmax", 7, [X], {}),
    ("Softmax", 11, [X], {"axis": 0}),
    ("Softmax", 11, [X], {"axis": -1}),
    ("Softmax", 11, [X], {"axis": 2}),
    ("LogSoftmax", 11, [X], {}),
    ("Hardmax", 11, [X], {}),
    ("Hardmax", 11, [X], {"axis": 0}),
    ("Softmax", 13, [X], {"axis": 1}),
    ("Clip", 7, [X], {"min": -0.5, "max": 0.25}),
    ("Clip", 7, [np.float32([np.inf, -np.inf, 1])], {}),
    ("Clip", 11, [X, np.float32(0.5), np.float32(-0.5)], {}),
    ("Slice", 7, [X], {"starts": [1, -3], "ends": [1 << 40, -1], "axes": [1, 2]}),
    ("Slice", 9, [X], {"starts": [1], "ends": [2]}),
    ("Squeeze", 7, [X[:1, :, :1]], {"axes": [0, 2]}),
    ("Squeeze", 11, [X[:1, :, :1]], {"axes": [-1]}),
    ("Squeeze", 7, [X[:1, :, :1]], {}),
    ("Squeeze", 13, [X[:1, :, :1], i64()], {}),
    ("Unsqueeze", 7, [X], {"axes": [0, 4]}),
    ("Unsqueeze", 11, [X], {"axes": [-1]}),
    ("Unsqueeze", 11, [X], {"axes": [1, -1]}),
    ("Pad", 7, [X], {"pads": [0, 1, 2, 0, 0, 3], "mode": "constant", "value": 1.5}),
    ("Pad", 9, [X], {"pads": [0, 1, 2, 0, 0, 3], "mode": "reflect"}),
    ("Pad", 9, [X], {"pads": [0, 1, 2, 0, 0, -2], "mode": "edge"}),
    ("Pad", 18, [X, i64(1, 2), np.float32(3), i64(-1)], {}),
    ("Pad", 18, [X, i64(1, 2), None, i64(2)], {"mode": "edge"}),
    ("Split", 7, [X], {"axis": 2, "split": [1, 3]}),
    ("Split", 11, [X], {"axis": -1}),
    ("Split", 18, [X], {"axis": 1, "num_outputs": 2}),
    ("TopK", 7, [X], {"axis": 1, "k": 2}),
    ("TopK", 10, [X, i64(2)], {"axis": -1}),
    ("Upsample", 9, [X[None], np.float32([1, 1, 2, 2])], {"mode": "nearest"}),
    ("BatchNormalization", 9, [X, *np.abs(X[0, :, :4].T)], {"epsilon": 0.1}),
    ("Dropout", 7, [X], {"ratio": 0.3}),
    ("Dropout", 10, [X], {"ratio": 0.3}),
    ("Dropout", 7, [X], {"outputs": 2}),
    ("Dropout", 10, [X], {"outputs": 2}),
    ("Dropout", 12, [X], {"outputs": 2}),
    ("ArgMax", 11, [np.float32([[1, 2, 2], [3, 0, 3]])], {"axis": 1}),
    ("ArgMin", 12, [np.float32([[1, 2, 1], [3, 0, 0]])], {"axis": 1, "select_last_index": 1}),
    ("Scatter", 9, [X[0], np.array([[0, 2], [1, 0]]), X[1, :2, :2]], {"axis": 1}),
    ("Flatten", 7, [X], {"axis": 3}),
    ("Flatten", 11, [X], {"axis": -1}),
    ("Sum", 7, [X, X + 1], {}),
    ("Max", 8, [X, X[:, :1], X[0, 0]], {}),
    ("Mean", 8, [X, X[:, :1], X[0, 0]], {}),
    ("Sum", 8, [X], {}),
    ("Div", 14, [INTS, np.array([[2], [-4]])], {}),
    ("Div", 7, [INTS.astype("int32"), np.int32(-2)], {}),
    ("Mod", 10, [INTS, np.array([3, -4, 5])], {}),
    ("Mod", 10, [X, X[::-1].copy()], {"fmod": 1}),
    ("Pow", 12, [X, np.array(2)], {}),
    ("Pow", 12, [np.abs(X), X[0]], {}),
    ("Pow", 12, [INTS.astype("int32"), np.float32([2, 1, 0])], {}),
    ("Elu", 7, [X], {"alpha": 0.7}),
    ("Celu", 12, [X], {"alpha": 0.7}),
    ("Selu", 7, [X], {}),
    ("Gelu", 20, [X * 3], {}),
    ("Gelu", 20, [X.astype("f2") * 2], {}),
    ("Gelu", 20, [X.astype("f2") * 2], {"approximate": "tanh"}),
    ("Erf", 13, [X * 3], {}),
    ("PRelu", 9, [X, X[:1, :, :1]], {}),
    ("Range", 11, [np.float32(0.3), np.float32(2), np.float32(0.4)], {}),
    ("OneHot", 11, [np.array([[1, -2], [5, 0]]), i64(3), np.float32([-1, 2])], {"axis": 1}),
    ("OneHot", 11, [X[0] * 2, np.float32(3), np.float32([-1, 2])], {}),
    ("QuantizeLinear", 21, [X.astype("f2") * 9, np.float16(0.1), np.uint16(155)], {}),
    *[("LRN", 13, [X[None]], {"size": n, "alpha": 0.3, "bias": 1.2}) for n in (1, 3, 7)],
    ("LpNormalization", 13, [X], {"p": 1, "axis": 1}),
    ("LpNormalization", 13, [X * (X > 0.5)], {}),
    ("MaxPool", 12, [np.rint(X[None])], {"kernel_shape": [2, 2], "outputs": 2}),
    (
        "MaxPool",
        12,
        [np.rint(X[None])],
        {"kernel_shape": [2, 3], "pads": [1, 0, 0, 2], "storage_order": 1, "outputs": 2},
    ),
    ("AveragePool", 19, [X[:1, :, :1]], {"kernel_shape": [2], "dilations": [2], "pads": [1, 1]}),
    # windows that lie in the padding as a whole, and one that holds nothing but -inf
    ("MaxPool", 12, [X[:1, :, :1]], {"kernel_shape": [2], "dilations": [2], "pads": [1, 1]}),
    (
        "MaxPool",
        12,
        [X[None, :1, :1].astype("f8")],
        {"kernel_shape": [2, 2], "dilations": [2, 1], "pads": [1, 0, 1, 0], "outputs": 1},
    ),
    ("MaxPool", 12, [np.full_like(X, -np.inf)], {"kernel_shape": [2], "dilations": [2]}),
    ("MaxPool", 8, [np.rint(X)], {"kernel_shape": [3], "strides": [2], "outputs": 2}),
    ("LRN", 13, [X[:, :, :, None]], {"size": 3}),
    ("CumSum", 14, [X, np.array(-2)], {"exclusive": 1, "reverse": 1}),
    ("ReduceMean", 13, [INTS], {"axes": [1]}),
    ("ReduceSum", 11, [INTS.astype("int32")], {"axes": [-1], "keepdims": 0}),
    ("ReduceSum", 13, [X, i64()], {"noop_with_empty_axes": 1}),
    ("ReduceSum", 13, [X, i64()], {}),
    ("ReduceSumSquare", 18, [X], {"noop_with_empty_axes": 0}),
    ("ReduceLogSumExp", 13, [X * 100], {"axes": [0, 2]}),
    ("ReduceProd", 13, [INTS], {"axes": [0]}),
    ("ReduceL2", 13, [INTS], {"axes": [0]}),
    ("ReduceL2", 13, [INTS[:0].astype("int32")], {"axes": [0]}),
    ("ReduceLogSum", 13, [np.abs(INTS).astype("int32")], {"axes": [0]}),
    ("ReduceLogSumExp", 13, [np.int32([[7], [3]])], {"axes": [1]}),
    ("Trilu", 14, [X, np.array(-1)], {"upper": 0}),
    ("GatherND", 12, [X, np.array([[[1], [0]], [[2], [2]]])], {"batch_dims": 1}),
    ("Shape", 15, [X], {"start": -2, "end": 10}),
    ("LayerNormalization", 17, [X, X[0, 0], X[0, 1]], {"axis": -1}),
    ("LayerNormalization", 17, [X.astype("f8"), X[0, 0].astype("f8")], {"outputs": 3}),
    ("LayerNormalization", 17, [X, X[0]], {"axis": 1, "epsilon": 0.1}),
    (
        "GroupNormalization",
        21,
        [X[:, :, None].reshape(2, 4, 3), X[0, 0], X[0, 1]],
        {"num_groups": 2},
    ),
    ("QuantizeLinear", 13, [X * 99, np.float32([1, 2, 3]), np.int8([1, 2, 3])], {"axis": 1}),
    ("DequantizeLinear", 13, [np.uint8([[1], [255]]), np.float32(0.1), np.uint8(7)], {}),
    ("DynamicQuantizeLinear", 11, [X], {}),
    ("Cast", 13, [X * 1e3], {"to": 10}),
    ("Cast", 13, [X * 3], {"to": 7}),
    ("Cast", 9, [X * 3], {"to": 9}),
    ("IsInf", 10, [np.float32([np.inf, -np.inf, np.nan, 0])], {"detect_negative": 0}),
    ("Round", 11, [np.float32([0.5, 1.5, -2.5, 0.2])], {}),
    ("Where", 9, [X[0] > 0, X, X[:, :1]], {}),
    ("ReverseSequence", 10, [X, i64(2, 0, 1)], {"time_axis": 0, "batch_axis": 1}),
    ("ReverseSequence", 10, [X, i64(3, 1)], {"time_axis": 1, "batch_axis": 0}),
    ("Reshape", 7, [X, i64(0, -1)], {}),
    ("Reshape", 14, [X[:0], i64(0, 12)], {"allowzero": 1}),
    ("Expand", 8, [X[:, :1], i64(3, 1)], {}),
    ("ConstantOfShape", 9, [i64(2, 3)], {"value": np.array([7])}),
    ("EyeLike", 9, [X[0]], {"k": 1, "dtype": 7}),
    ("NonZero", 9, [X[0] > 0], {}),
]


@pytest.mark.parametrize(("kind", "version", "values", "attributes"), OLDER)
def test_versions_of_old_compute_what_onnxruntime_computes(kind, version, values, attributes):
    outputs = {"Split": 2, "TopK": 2, "DynamicQuantizeLinear": 3}.get(kind, 1)
    values = [None if x is None else np.asarray(x) for x in values]
    check(kind, *values, **{"version": version, "outputs": outputs} | attributes)


def test_all_values_of_erf_are_within_the_last_bits():
    x = np.concatenate([np.linspace(-6, 6, 100001), [-0.0, np.inf, -np.inf]]).astype("float32")
    wanted = np.vectorize(math.erf)(x.astype("float64"))
    got = ours("Erf", x)
    assert got.dtype == np.float32
    assert np.max(np.abs(got / np.where(wanted == 0, 1, wanted) - (wanted != 0))) < 4 * 2.0**-23
    assert np.isnan(ours("Erf", np.float32([np.nan])))
    assert_equal(ours("Erf", x.astype("float64")), wanted)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_activations_are_sound_for_all_numbers(dtype):
    """No warning, no nan but from nan, and the exact value rounded a few times."""
    most = float(np.finfo(dtype).max)
    x = np.array([0, 1, -1, 10, -10, 88, -88, 200, -200, most, -most, np.inf, -np.inf], dtype)
    exact = x.astype("float64")
    with np.errstate(all="ignore"):
        wanted = {
            "Sigmoid": np.where(exact > 0, 1, np.exp(exact)) / (1 + np.exp(-np.abs(exact))),
            "Softplus": np.maximum(exact, 0) + np.log1p(np.exp(-np.abs(exact))),
            "Elu": np.where(exact > 0, exact, np.expm1(exact)),
            "HardSigmoid": np.clip(exact * np.float32(0.2) + 0.5, 0, 1),
            "Relu": np.maximum(exact, 0),
            "LeakyRelu": np.where(exact < 0, exact * np.float32(0.01), exact),
            "Tanh": np.tanh(exact),
        }
        for kind, values in wanted.items():
            options = {"alpha": float(np.float32(0.01))} if kind == "LeakyRelu" else {}
            got = ours(kind, x, **options)
            eps = 4 * float(np.finfo(dtype).eps)
            tiny = 4 * float(np.finfo(dtype).tiny)
            np.testing.assert_allclose(got, values.astype(dtype), rtol=eps, atol=tiny, err_msg=kind)
    assert np.isnan(ours("Sigmoid", np.array([np.nan], dtype)))
    assert ours("Relu", np.array([-3], "int8")).tolist() == [0]


@pytest.mark.parametrize("kind", ["Add", "Sub", "Mul", "Div", "Pow", "Sum", "Max", "Mean"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_numbers_without_axes_keep_their_type(kind, dtype):
    x, y = np.array(3, dtype), np.array(2, dtype)
    for one, other in itertools.product((x, x[None]), (y, y[None, None])):
        assert ours(kind, one, other).dtype == dtype
    for unary in ("Sigmoid", "Relu", "Elu", "Softsign", "HardSigmoid", "ReduceMean", "ReduceSum"):
        assert ours(unary, x).dtype == dtype


def test_lists_of_arrays():
    a, b, c = np.arange(3), np.arange(4), np.arange(2)
    three = ours("SequenceConstruct", a, b, c)
    assert_equal(three, [a, b, c])
    assert ours("SequenceEmpty") == []
    assert_equal(run("SequenceAt", [three, np.array(-1)])[0], c)
    assert_equal(run("SequenceErase", [three, np.array(0)])[0], [b, c])
    assert_equal(run("SequenceErase", [three])[0], [a, b])
    assert_equal(run("SequenceInsert", [three, c, np.array(1)])[0], [a, c, b, c])
    assert_equal(run("SequenceLength", [three])[0], i64(3).reshape(()))
    assert_equal(three, [a, b, c])  # none of these wrote into it
    assert_equal(run("ConcatFromSequence", [three], axis=0)[0], np.concatenate([a, b, c]))
    assert_equal(run("ConcatFromSequence", [[a, a]], axis=1, new_axis=1)[0], np.stack([a, a], 1))
    x = np.arange(10).reshape(2, 5)
    assert_equal(ours("SplitToSequence", x, np.array(2), axis=1), [x[:, :2], x[:, 2:4], x[:, 4:]])
    assert_equal(ours("SplitToSequence", x, i64(1, 4), axis=1), [x[:, :1], x[:, 1:]])
    assert_equal(ours("SplitToSequence", x, keepdims=0), [x[0], x[1]])
    assert_equal(ours("SplitToSequence", x), [x[:1], x[1:]])
    assert_equal(run("Optional", [a])[0], a)
    assert run("OptionalHasElement", [])[0].tolist() is False
    assert run("OptionalHasElement", [a])[0].tolist() is True


@pytest.mark.parametrize(
    ("kind", "outputs", "attributes"),
    [
        ("Split", ("a", "", "c"), {"axis": 0}),
        ("Split", ("a", "b", ""), {"axis": 0}),
        ("Dropout", ("a", ""), {}),
        ("Split", ("a", "b", ""), {"axis": 0, "num_outputs": 3}),
        ("DynamicQuantizeLinear", ("a", "", "c"), {}),
        ("DynamicQuantizeLinear", ("a", "b"), {}),
        ("DynamicQuantizeLinear", ("a",), {}),
    ],
)
def test_outputs_that_nobody_wants(kind, outputs, attributes):
    x = np.arange(3, dtype="float32")
    every = ours(kind, x, outputs=len(outputs), **attributes)
    every = every if isinstance(every, list) else [every]
    some = ours(kind, x, outputs=outputs, **attributes)
    some = some if isinstance(some, list) else [some]
    wanted = [value for name, value in zip(outputs, every, strict=True) if name]
    for one, other in zip(some, wanted, strict=True):
        assert_equal(one, other)


# ---- drawn shapes and axes ----------------------------------------------------------------------

sizes = st.integers(0, 4)
shape_of = arrays_of.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4)


def numbered(shape):
    return np.arange(math.prod(shape), dtype="float32").reshape(shape)


def either_way(draw, axis, rank):
    return draw(st.sampled_from([axis, axis - rank]))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_slice_takes_what_onnxruntime_takes(data):
    x = numbered(data.draw(shape_of))
    axes = data.draw(st.lists(st.integers(0, x.ndim - 1), unique=True, max_size=x.ndim))
    axes = [either_way(data.draw, axis, x.ndim) for axis in axes]
    bound = st.one_of(st.integers(-6, 6), st.sampled_from([-(2**63), 2**63 - 1, 2**31 - 1]))
    many = st.lists(bound, min_size=len(axes), max_size=len(axes))
    steps = st.sampled_from([1, 2, 3, -1, -2, -5, 2**40, -(2**40)])
    step = data.draw(st.lists(steps, min_size=len(axes), max_size=len(axes)))
    check("Slice", x, *map(np.int64, (data.draw(many), data.draw(many), axes, step)), version=13)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_gather_and_its_like_pick_what_onnxruntime_picks(data):
    x = numbered(data.draw(shape_of))
    axis = data.draw(st.integers(0, x.ndim - 1))
    size = x.shape[axis]
    places = st.integers(-size, size - 1)
    shape = data.draw(arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
    axis = either_way(data.draw, axis, x.ndim)
    check("Gather", x, data.draw(arrays_of.arrays(np.int64, shape, elements=places)), axis=axis)
    like = [data.draw(st.integers(1, n)) for n in x.shape]
    like[axis] = data.draw(st.integers(1, 5))
    indices = data.draw(arrays_of.arrays(np.int64, tuple(like), elements=places))
    check("GatherElements", x, indices, axis=axis)
    check("ScatterElements", x, indices, -numbered(like), axis=axis, reduction="add", version=18)
    depth = data.draw(st.integers(1, x.ndim))
    nd = np.stack(
        [
            data.draw(arrays_of.arrays(np.int64, (3, 2), elements=st.integers(-n, n - 1)))
            for n in x.shape[:depth]
        ],
        axis=-1,
    )
    check("GatherND", x, nd, version=12)
    check("ScatterND", x, nd, numbered((3, 2, *x.shape[depth:])), reduction="max", version=18)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_reductions_are_onnxruntime_s(data):
    x = numbered(data.draw(shape_of)) - 7
    axes = data.draw(st.lists(st.integers(0, x.ndim - 1), unique=True, min_size=1))
    axes = np.int64([either_way(data.draw, axis, x.ndim) for axis in axes])
    keepdims = data.draw(st.integers(0, 1))
    for kind in ("Sum", "Mean", "Max", "Min", "L1", "L2", "SumSquare", "LogSumExp"):
        check(f"Reduce{kind}", x, axes, keepdims=keepdims, version=18)
    check("ReduceProd", np.cos(x), axes, keepdims=keepdims, version=18)
    check("ReduceMean", x.astype("int32"), axes, keepdims=keepdims, version=18)
    axis = int(axes[0])
    check("ArgMax", x % 3, axis=axis, keepdims=keepdims, select_last_index=keepdims, version=13)
    check("Softmax", x, axis=axis, version=13)
    check("LogSoftmax", x, axis=axis, version=11)
    check("Softmax", x, axis=axis, version=7 if axis >= 0 else 11)
    check("CumSum", x, np.array(axis), exclusive=keepdims, reverse=1 - keepdims)
    check("TopK", x % 5, i64(data.draw(st.integers(0, x.shape[axis]))), axis=axis, outputs=2)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_moved_and_cut_arrays_are_onnxruntime_s(data):
    x = numbered(data.draw(shape_of))
    axis = data.draw(st.integers(0, x.ndim - 1))
    size = x.shape[axis]
    axis = either_way(data.draw, axis, x.ndim)
    check("Transpose", x, perm=data.draw(st.permutations(range(x.ndim))))
    check("Concat", x, x[..., :1] if axis in (-1, x.ndim - 1) else x, axis=axis)
    cut = data.draw(st.integers(0, size))
    check("Split", x, i64(cut, size - cut), axis=axis, outputs=2, version=13)
    check("Split", x, axis=axis, outputs=size, num_outputs=size, version=18)
    check("Tile", x, np.int64(data.draw(st.tuples(*[st.integers(0, 3)] * x.ndim))))
    check("Flatten", x, axis=data.draw(st.integers(-x.ndim, x.ndim)))
    factors = data.draw(st.permutations([*x.shape, 1, -1][-5:]))
    if x.size % abs(math.prod(factors)) == 0:
        check("Reshape", x, np.int64(factors), version=14)
    pads = np.int64(data.draw(st.tuples(*[st.integers(-(n > 1), n) for n in x.shape * 2])))
    check("Pad", x, pads, np.float32(9), version=19)
    inside = np.minimum(np.maximum(pads, 0), np.int64(x.shape * 2) - 1)
    for mode in ("reflect", "edge", "wrap"):
        check("Pad", x, inside, mode=mode, version=19)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_two_arrays_are_spread_over_each_other_as_by_onnxruntime(data):
    drawn = arrays_of.mutually_broadcastable_shapes(num_shapes=3, max_dims=3, max_side=3)
    one, two, three = (numbered(shape) - 2 for shape in data.draw(drawn).input_shapes)
    check("Sub", one, two)
    check("Div", one.astype("int64"), np.where(two == 0, 3, two).astype("int64"))
    check("Where", one > 0, two, three)
    check("Max", one, two, three)
    shape = np.broadcast(one, two).shape
    check("PRelu", one, two if shape == one.shape else one)
    check("Expand", one, np.int64(two.shape if shape else [1]))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_pools_are_onnxruntime_s(data):
    count = data.draw(st.integers(1, 2))
    axes = [data.draw(st.integers(1, 9)) for _ in range(count)]
    x = np.sin(numbered((2, 1, *axes)))
    kernel = [data.draw(st.integers(1, 4)) for _ in axes]
    options = {
        "kernel_shape": kernel,
        "strides": [data.draw(st.integers(1, 4)) for _ in axes],
        "dilations": [data.draw(st.integers(1, 2)) for _ in axes],
        "ceil_mode": data.draw(st.integers(0, 1)),
    }
    padding = data.draw(st.sampled_from(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if padding == "NOTSET":
        options["pads"] = [data.draw(st.integers(0, k // 2)) for k in kernel * 2]
    else:
        options |= {"auto_pad": padding, "ceil_mode": 0, "dilations": [1] * count}
        options["strides"] = [min(pair) for pair in zip(options["strides"], kernel, strict=True)]
    pads = options.get("pads", [0] * 2 * count)
    rooms = zip(axes, kernel, options["dilations"], pads[:count], pads[count:], strict=True)
    if padding[:4] == "SAME" or all(n + a + b > (k - 1) * d for n, k, d, a, b in rooms):
        check("MaxPool", x, version=12, **options)
        included = data.draw(st.integers(0, 1))
        check("AveragePool", x, version=19, count_include_pad=included, **options)


# ---- errors -------------------------------------------------------------------------------------

CORNERS = {"coordinate_transformation_mode": "align_corners"}
WRONG = [
    ("Add", [X], {}, "it has 1 inputs, and must have 2"),
    ("Add", [X, X, X], {}, "it has 3 inputs, and must have 2"),
    ("Add", [X, None], {}, "it has 1 inputs, and must have 2"),
    ("Relu", [X], {"outputs": 2}, "it has 2 outputs, and must have 1"),
    ("Add", [X, X[:, :, :3]], {}, "could not be broadcast"),
    ("Cast", [X], {}, "the attribute 'to' is missing"),
    ("Cast", [X], {"to": 1.5}, "the attribute 'to' must be an integer, got '1.5'"),
    ("Cast", [X], {"to": 999}, "[TypeInferenceError]"),
    ("Elu", [X], {"alpha": "wide"}, "the attribute 'alpha' must be a number, got 'wide'"),
    ("Gelu", [X], {"approximate": "much"}, "must be one of none, tanh, got 'much'"),
    ("BitShift", [INTS, INTS], {}, "must be one of LEFT, RIGHT, got ''"),
    ("Pow", [INTS, np.array(-1)], {}, "negative integer powers"),
    ("ConstantOfShape", [i64(2)], {"value": np.zeros(2)}, "must hold one number, got 2"),
    ("ConstantOfShape", [i64(2, -1)], {}, "below 0"),
    ("Range", [np.array(0), np.array(5), np.array(0)], {}, "the step is 0"),
    ("Range", [np.float32(0), np.float32(np.nan), np.float32(1)], {}, "cannot convert"),
    ("EyeLike", [X], {}, "too many values to unpack"),
    ("OneHot", [i64(1), i64(3), i64(0, 1)], {"axis": 2}, "there is no axis 2 among 2"),
    ("OneHot", [i64(1), i64(-3), i64(0, 1)], {}, "below 0"),
    ("Reshape", [X, i64(5, 5)], {}, "cannot reshape array of size 24"),
    ("Reshape", [X, i64(-1, -1)], {}, "one unknown dimension"),
    ("Reshape", [X, i64(-2, 12)], {}, "has a size below -1"),
    ("Reshape", [X, i64(2, 3, 4, 0)], {}, "has a 0 where x, of (2, 3, 4), has no axis"),
    ("Flatten", [X], {"axis": 4}, "there is no axis 4 among 3"),
    ("Transpose", [X], {"perm": [0, 1]}, "axes don't match array"),
    ("Transpose", [X], {"perm": [0, 1, 1]}, "repeated axis"),
    ("Squeeze", [X, i64(0)], {}, "not equal to one"),
    ("Squeeze", [X, i64(3)], {}, "out of bounds"),
    ("Unsqueeze", [X], {}, "its axes are missing"),
    ("Unsqueeze", [X, i64(5, 1)], {}, "there is no axis 5 among 5"),
    ("Unsqueeze", [X, i64(4)], {}, ""),
    ("Unsqueeze", [X, i64(1, 1)], {}, "an axis is named twice"),
    ("Expand", [X, i64(5, 1, 1)], {}, "could not be broadcast"),
    ("Tile", [X, i64(2, 2)], {}, "it has 2 repeats for an array of 3 axes"),
    ("Tile", [X, i64(2, 2, -1)], {}, "below 0"),
    ("Concat", [X, X], {}, "the attribute 'axis' is missing"),
    ("Concat", [X, X], {"axis": 3}, "out of bounds"),
    ("Concat", [X, X[:, :2]], {"axis": 0}, "must match exactly"),
    ("Split", [X, i64(1, 1)], {"outputs": 2, "axis": 1}, "add up to 2, and not 3"),
    ("Split", [X, i64(1, 1, 1)], {"outputs": 2, "axis": 1}, "no split into 2 outputs"),
    ("Split", [X, i64(-1, 4)], {"outputs": 2, "axis": 1}, "no split into 2 outputs"),
    ("Split", [X], {"outputs": 2, "axis": 1, "version": 13}, "not split into 2 equal parts"),
    ("Split", [X], {"outputs": 2, "axis": 1, "num_outputs": 3}, "does not say 2"),
    ("Split", [X[:1]], {"outputs": 5}, "not split into 5 equal parts"),
    ("Slice", [X], {}, "its starts and ends are missing"),
    ("Slice", [X, i64(0), i64(1, 2)], {}, "not equally many"),
    ("Slice", [X, i64(0), i64(1), i64(3)], {}, ""),
    ("Slice", [X, i64(0, 0), i64(1, 1), i64(1, 1)], {}, "an axis is named twice"),
    ("Slice", [X, i64(0, 0), i64(1, 1), i64(1, -2)], {}, "an axis is named twice"),
    ("Slice", [X, i64(0), i64(1), i64(0), i64(0)], {}, "a step is 0"),
    ("Pad", [X], {}, "its pads are missing"),
    ("Pad", [X, i64(1, 1)], {}, "it has 2 pads for 3 axes"),
    ("Pad", [X, i64(0, 0, -2, 0, 0, -3)], {}, "cut more from axis 2 than there is, 4"),
    ("Pad", [X, i64(0, 0, 0, 0, 0, 1)], {"mode": "glue"}, "must be one of constant"),
    ("Pad", [X[:0], i64(1, 0, 0, 0, 0, 0)], {"mode": "edge"}, "nothing on axis 0"),
    ("Gather", [X, np.array(3)], {"axis": 1}, "out of bounds"),
    ("Gather", [X, i64(0, -4)], {"axis": 1}, "out of bounds"),
    ("Gather", [X, i64(0)], {"axis": 3}, "out of bounds"),
    ("GatherElements", [X, i64(0)], {}, "its indices have 1 axes, and not 3"),
    ("GatherElements", [X, np.full((1, 1, 1), 2)], {}, "out of bounds"),
    ("GatherND", [X, np.zeros((1, 4), "int64")], {}, "do not fit an array"),
    ("GatherND", [X, np.full((1, 1), 2)], {}, "out of bounds"),
    ("ScatterElements", [X, np.zeros((1, 1, 1), "int64"), X], {}, "do not fit indices"),
    ("ScatterElements", [X, np.full((1, 1, 1), -3), X[:1, :1, :1]], {}, "out of bounds"),
    ("ScatterND", [X, np.zeros((1, 1), "int64"), X], {}, "do not fit indices"),
    ("ReverseSequence", [X, i64(1)], {}, "it has lengths (1,) for 3 sequences"),
    ("ReverseSequence", [X, i64(1, 2, 3)], {}, "a length is not between 0 and 2"),
    ("ReverseSequence", [X, i64(1, 2, 2)], {"time_axis": 2}, "its axes of batch and time are"),
    ("Trilu", [X[0, 0]], {}, "an array of 1 axes has no triangle"),
    ("ReduceSum", [X, i64(3)], {}, "out of bounds"),
    ("ReduceSum", [X, i64(1, -2)], {}, "duplicate value"),
    ("ReduceSum", [X[:0], i64(3)], {}, "there is no axis 3 among 3"),
    ("ArgMax", [X[:0]], {}, "empty sequence"),
    ("Softmax", [X], {"axis": 3}, ""),
    ("Softmax", [X], {"axis": 4, "version": 11}, "there is no axis 4 among 3"),
    ("LayerNormalization", [X, X[0, 0]], {"axis": 3}, "there is no axis 3 among 3"),
    ("LayerNormalization", [X[:1], X], {}, "broadcast"),
    ("BatchNormalization", [X, *[X[0, 0]] * 4], {}, "does not have 4 channels"),
    ("GroupNormalization", [X, *[X[0, :, 0]] * 2], {"num_groups": 2}, "2 equal groups"),
    ("TopK", [X, i64(5)], {"outputs": 2}, "there are no 5 among 4"),
    ("SplitToSequence", [X, np.array(0)], {}, "a part has size 0"),
    ("SplitToSequence", [X, i64(1, 2)], {}, "do not add up to 2"),
    ("OptionalGetElement", [None], {}, "its value is absent"),
    ("LSTM", [X], {}, ""),
    ("NoSuchThing", [X], {}, "the operator of ONNX, version 21, is not known"),
    ("Gelu", [X], {"domain": "com.microsoft"}, "the operator of com.microsoft, version 21, is"),
    ("MaxRoiPool", [X, X], {"pooled_shape": [1, 1]}, "is not supported: RuntimeImplementation"),
    ("Shrink", [X], {"wide": 1.0}, "it has no attribute 'wide'"),
    ("Shrink", [X], {"lambd": "wide"}, ""),
    ("Einsum", [X], {"equation": "ij"}, ""),
    ("LpNormalization", [X], {"p": 3}, "'p' must be 1 or 2"),
    ("LRN", [X], {"size": 0}, "'size' must be at least 1, got 0"),
    ("LRN", [X[0]], {"size": 1}, "has no channels"),
    # Where onnx's evaluator is wrong:
    ("ConvTranspose", [X, X], {"auto_pad": "SAME_UPPER", "strides": [5]}, "larger than the kernel"),
    ("GridSample", [X, X], {"mode": "cubic", "padding_mode": "border"}, "cubic interpolation with"),
    ("LpPool", [X], {"kernel_shape": [2], "ceil_mode": 1}, "ceil_mode is not"),
    ("RoiAlign", [X, X, X], {"version": 15}, "versions before 16"),
    ("Resize", [X, None, np.float32([1, 1, 1.5])], CORNERS, "no whole numbers"),
    ("Attention", [X, X, X], {"version": 23, "softcap": 2.0, "outputs": 4}, "softcap in outputs"),
    *[
        (kind, [X[0]], {"domain": "ai.onnx.ml", "version": 3} | given, "is not supported")
        for kind, given in (
            ("Normalizer", {}),
            ("Normalizer", {"norm": "MAX"}),
            ("LinearClassifier", {"coefficients": [1.0], "post_transform": "PROBIT"}),
            ("LinearClassifier", {"coefficients": [1.0], "intercepts": [1.0]}),
            ("SVMClassifier", {"coefficients": [1.0], "post_transform": "SOFTMAX"}),
            ("TreeEnsembleClassifier", {"class_ids": [0], "post_transform": "SOFTMAX"}),
            ("TreeEnsembleClassifier", {"class_ids": [0, 1], "post_transform": "PROBIT"}),
        )
    ],
    ("Gemm", [X, X[0]], {"transA": 1}, "2 axes"),
    ("Gemm", [INTS, INTS.T], {"alpha": 0.5}, "alpha and beta of integers"),
    ("Gemm", [INTS, INTS.T, INTS[:, :1]], {"beta": 0.5}, "alpha and beta of integers"),
]


@pytest.mark.parametrize(("kind", "values", "options", "said"), WRONG)
@pytest.mark.parametrize("known", [(), range(9)])
def test_what_is_wrong_is_an_error_that_names_the_operator(kind, values, options, said, known):
    with pytest.raises(ValueError, match="^operator ") as told:
        run(kind, [None if x is None else np.asarray(x) for x in values], known, **options)
    assert str(told.value).startswith(f"operator {kind} 'it': ")
    assert said in str(told.value)


# ---- memory -------------------------------------------------------------------------------------

MANY = np.zeros(60_000, "int8")
NOTHING = np.zeros((0, 1 << 40), "float32")
GROWING = [
    ("ConstantOfShape", [i64(1 << 20, 1 << 20)], {}),
    ("Range", [np.array(0), np.array(1 << 60), np.array(1)], {}),
    ("Range", [np.float32(0), np.float32(1e30), np.float32(1)], {}),
    ("OneHot", [i64(*[0] * 1000), i64(1 << 20), i64(0, 1)], {}),
    ("Expand", [X, i64(1 << 40, 1, 1, 1)], {}),
    ("Tile", [X, i64(1 << 40, 1, 1)], {}),
    ("Pad", [X, i64(0, 0, 0, 0, 0, 1 << 40)], {}),
    ("Pad", [X, i64(0, 0, 0, 0, 0, 1 << 40)], {"mode": "edge"}),
    ("Pad", [X, i64(0, 0, 0, 0, 0, 1 << 40)], {"mode": "reflect"}),
    ("Add", [MANY[None], MANY[:, None]], {}),
    ("Mul", [MANY[None], MANY[:, None]], {}),
    ("Less", [MANY[None], MANY[:, None]], {}),
    ("Where", [MANY[None] > 0, MANY[:, None], MANY[:1]], {}),
    ("Max", [MANY[None], MANY[:, None], MANY[:1]], {}),
    ("PRelu", [MANY[None], MANY[:, None]], {}),
    ("Concat", [MANY] * 100, {"axis": 0}),
    ("ConcatFromSequence", [[MANY] * 100], {"axis": 0}),
    ("Gather", [MANY[None], i64(*[0] * 1000)], {}),
    ("GatherND", [MANY[None], np.zeros((1000, 1), "int64")], {}),
    ("NonZero", [np.ones(1 << 18, bool)], {}),
    ("Cast", [np.ones(1 << 18, bool)], {"to": 11}),
    ("CastLike", [np.ones(1 << 18, bool), np.float64(1)], {}),
    ("EyeLike", [np.zeros((1 << 9, 1 << 9), bool)], {"dtype": 7}),
    ("ReduceSum", [NOTHING, i64(0)], {}),
    ("ReduceMax", [NOTHING, i64(0)], {"keepdims": 0}),
    ("ReduceMean", [NOTHING, i64(0)], {}),
    ("ReduceLogSumExp", [NOTHING, i64(0)], {}),
    ("SplitToSequence", [NOTHING.T], {}),
    ("SplitToSequence", [NOTHING.T, np.array(1)], {}),
    # by onnx's evaluator
    ("RandomNormal", [], {"shape": [1 << 20, 1 << 20]}),
    ("RandomUniform", [], {"shape": [1 << 20, 1 << 20]}),
    ("HannWindow", [np.array(1 << 40)], {}),
    ("MelWeightMatrix", [*map(np.array, (1 << 20, 1 << 20, 8000, 0.0, 4000.0))], {}),
    ("Resize", [X[None], None, np.float32([1, 1, 1 << 20, 1 << 20])], {}),
    ("Resize", [X[None], None, None, i64(2, 3, 1 << 20, 1 << 20)], {}),
    ("CenterCropPad", [X, i64(1 << 30, 3, 4)], {}),
    ("MaxUnpool", [X[None], np.zeros((1, 2, 3, 4), "int64")], {"kernel_shape": [1 << 20] * 2}),
    ("AffineGrid", [X[:1, :2, :3], i64(1, 1, 1 << 20, 1 << 20)], {}),
    ("Einsum", [MANY, MANY], {"equation": "i,j->ij"}),
    ("DFT", [np.zeros((1, 4, 1), "float32"), np.array(1 << 40)], {"version": 20}),
    ("Bernoulli", [np.zeros(1 << 18, "float16")], {"dtype": 11}),
    ("RandomNormalLike", [np.zeros(1 << 18, "float16")], {"dtype": 11}),
]


@pytest.mark.parametrize(("kind", "values", "options"), GROWING)
@pytest.mark.parametrize("known", [(), range(100)])
def test_what_would_grow_beyond_the_limits_is_refused_before_it_does(kind, values, options, known):
    """A small file may not ask for much memory, when it is read and when it is run."""
    values = [None if x is None else x if isinstance(x, list) else np.asarray(x) for x in values]
    made, _, _ = node(kind, values, most=1 << 20, **options)
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge, match="bytes"), np.errstate(all="ignore"):
            made.compute(*values)
        assert tracemalloc.get_traced_memory()[1] < 3 << 20
    finally:
        tracemalloc.stop()
    if known:  # it is a constant no more, and stays a node
        made, draft, _ = node(kind, values, known, most=1 << 20, **options)
        draft.add(made)
        assert draft.nodes == [made]


@pytest.mark.parametrize(
    ("kind", "values", "options"),
    [
        ("Softmax", [NOTHING], {"axis": 0}),
        ("Trilu", [NOTHING[None, :, :]], {}),
        ("Trilu", [np.zeros((0, 1 << 30, 1 << 30), bool)], {}),
        (
            "ReverseSequence",
            [np.zeros((1 << 20, 1 << 20, 0), bool), np.zeros(1 << 20, "int64")],
            {},
        ),
        ("GatherElements", [NOTHING, NOTHING.astype("int64")], {}),
        ("ScatterElements", [NOTHING, NOTHING.astype("int64"), NOTHING], {}),
        ("GatherND", [X, np.zeros((0, 1 << 40, 1), "int64")], {}),
        ("Add", [NOTHING, NOTHING[:, :1]], {}),
        ("Transpose", [NOTHING], {}),
        ("Slice", [NOTHING, i64(0), i64(1 << 39), i64(1)], {}),
        ("Concat", [NOTHING, NOTHING], {"axis": 1}),
        ("CumSum", [NOTHING, np.array(1)], {}),
        ("Relu", [NOTHING], {}),
    ],
)
def test_long_axes_of_arrays_without_elements_take_no_memory(kind, values, options):
    tracemalloc.start()
    try:
        made, _, _ = node(kind, values, most=1 << 20, **options)
        try:
            made.compute(*values)
        except ValueError:
            pass  # which is as good
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


FAR = 1 << 40
ABSURD = [
    ("Unsqueeze", [X, i64(FAR)], {}),
    ("Unsqueeze", [X, i64(-FAR)], {}),
    ("Unsqueeze", [X, np.arange(1 << 16)], {}),
    ("Squeeze", [X, i64(FAR)], {}),
    ("Gather", [X, np.array(0)], {"axis": FAR}),
    ("Gather", [X, i64(0)], {"axis": -FAR}),
    ("Slice", [X, i64(0), i64(1), i64(FAR)], {}),
    ("Slice", [X, i64(0), i64(1), i64(-FAR)], {}),
    ("Split", [X, i64(1, 1)], {"axis": FAR, "outputs": 2}),
    ("SplitToSequence", [X], {"axis": FAR}),
    ("Softmax", [X], {"axis": FAR}),
    ("Softmax", [X], {"axis": FAR, "version": 11}),
    ("ReduceSum", [X, i64(FAR)], {}),
    ("Concat", [X, X], {"axis": FAR}),
    ("Flatten", [X], {"axis": FAR}),
    ("TopK", [X, i64(1)], {"axis": FAR, "outputs": 2}),
    ("Expand", [X, np.full(1 << 18, FAR)], {}),
    ("ConstantOfShape", [np.full(1 << 18, FAR)], {}),
    ("Reshape", [X, np.full(1 << 18, FAR)], {}),
    ("Transpose", [X], {"perm": list(range(1 << 18))}),
    ("Tile", [X, np.full(1 << 18, FAR)], {}),
    ("MaxPool", [X], {"kernel_shape": [FAR], "pads": [FAR - 1, FAR - 1]}),
    ("MaxPool", [X], {"kernel_shape": [FAR], "auto_pad": "SAME_UPPER"}),
    ("AveragePool", [X], {"kernel_shape": [3], "pads": [2, 2], "dilations": [FAR]}),
    ("AveragePool", [X], {"kernel_shape": [FAR], "pads": [FAR - 1] * 2, "strides": [FAR]}),
]


@pytest.mark.parametrize(("kind", "values", "options"), ABSURD)
@pytest.mark.parametrize("known", [(), range(9)])
def test_absurd_numbers_are_errors_at_once(kind, values, options, known):
    tracemalloc.start()
    try:
        with pytest.raises(FAULTS):
            made, _, _ = node(kind, values, known, most=1 << 20, **options)
            made.compute(*[values[int(name[1:])] for name in made.inputs])
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


def test_limits_are_followed_when_they_are_changed():
    made, draft, values = node("ConstantOfShape", [i64(100, 1000)], most=1000)
    with pytest.raises(TooLarge):
        made.compute(*values.values())
    draft.limits.most = 400_000
    assert made.compute(*values.values()).shape == (100, 1000)


# ---- saboteurs ----------------------------------------------------------------------------------


def test_the_comparison_rejects_a_wrong_value_type_or_shape():
    x = np.float32([[1, 2], [3, np.nan]])
    assert_equal(x, x.copy())
    assert_equal([x, None], [x, None])
    assert_equal(x * np.float32(1 + 1e-6), x, 1e-5)
    wrong = [x.astype("float64"), x[0], x[None], x + 1e-4, np.nan_to_num(x), [x], None, x > 0]
    for other in wrong:
        with pytest.raises(AssertionError):
            assert_equal(other, x, 1e-6)
    for one, other in (([x], [x, x]), ([x], x), (np.array(["a"]), np.array(["b"]))):
        with pytest.raises(AssertionError):
            assert_equal(one, other)


TABLES = {
    elementwise: "ELEMENTWISE",
    shapes: "SHAPES",
    indexing: "INDEXING",
    reductions: "REDUCTIONS",
    pooling: "POOLING",
}
BROKEN = [
    (elementwise, "_divide", "np.subtract(x, np.fmod(x, y))", "x", "Div"),
    (elementwise, "_power", "np.power(x, y).astype(x.dtype, copy=False)", "np.power(x, y)", "Pow"),
    (elementwise, "_clip", "np.maximum(x, lower)", "np.minimum(x, lower)", "Clip"),
    (elementwise, "_is_inf", "np.less(x, 0)", "np.greater(x, 0)", "IsInf"),
    (elementwise, "elu", "y *= alpha", "y *= 1", "Elu"),
    (
        elementwise,
        "_thresholded_relu",
        "np.greater(x, alpha)",
        "np.greater(x, 0)",
        "ThresholdedRelu",
    ),
    (elementwise, "_quantize", "np.rint", "np.floor", "QuantizeLinear"),
    (elementwise, "gelu_by_tanh", "0.044715", "0.05", "Gelu"),
    (elementwise, "_cast", "x.astype(dtype)", "x.astype(dtype).astype(x.dtype)", "Cast"),
    (shapes, "_shape", "x.shape[start:end]", "x.shape[start:]", "Shape"),
    (shapes, "_reshape_like", "size or old[axis]", "size or 1", "Reshape"),
    (shapes, "_one_hot", "np.less(indices, 0)", "np.less(indices, -9)", "OneHot"),
    (shapes, "cuts", "end - size", "end - end", "Split"),
    (shapes, "_padding", "2 * last", "2 * last + 2", "Pad"),
    (
        shapes,
        "_slice",
        "_Bounds(starts, ends, axes, steps)",
        "_Bounds(starts, ends, axes, None)",
        "Slice",
    ),
    (indexing, "_gather", "x.take(indices, axis)", "x.take(indices, 0)", "Gather"),
    (indexing, "_scattered", "ufunc.at(y, index, updates)", "y[index] = updates", "ScatterND"),
    (indexing, "reverse_sequence", "lengths - 1 - t", "lengths - 2 - t", "ReverseSequence"),
    (indexing, "_trilu", "int(diagonal.item())", "int(diagonal.item()) + 1", "Trilu"),
    (reductions, "_mean", "np.true_divide(total, count)", "total", "ReduceMean"),
    (reductions, "_softmax", "compute(axis, x)", "compute(0, x)", "Softmax"),
    (
        reductions,
        "_layer_normalization",
        "variance += epsilon",
        "variance += 1",
        "LayerNormalization",
    ),
    (reductions, "_cumulative_sum", "steps[:-1]", "steps[1:]", "CumSum"),
    (reductions, "_top", "np.argsort(x, axis, kind='stable')", "np.argsort(-x, axis)", "TopK"),
    (reductions, "_arg", "x.shape[axis] - 1 - places", "x.shape[axis] - places", "ArgMax"),
    (pooling, "_max_pool", "-np.inf", "0", "MaxPool"),
    (pooling, "_max_pool", "_lowest(x.dtype)", "-np.inf", "MaxPool"),
    (
        pooling,
        "_average_pool",
        "windows.counts(padding_counts)",
        "windows.counts(True)",
        "AveragePool",
    ),
    (reductions, "_scale_and_shift", "bias - mean * factor", "bias - mean", "BatchNormalization"),
]


@pytest.mark.parametrize(("module", "place", "old", "new", "kind"), BROKEN)
def test_a_broken_operator_is_caught(cases, monkeypatch, module, place, old, new, kind):
    broken = getattr(edited(module, place, old, new), TABLES[module])
    monkeypatch.setitem(operators.OPERATORS, kind, broken[kind])
    with pytest.raises((AssertionError, ValueError)):
        for case, known in itertools.product(cases[kind], [(), range(1, 9)]):
            check_case(case, run, known=known, pickled=False)
