"""MatMul, Gemm and Conv: values against onnxruntime, over the forms that their attributes give."""

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlstm.graphs.limits import Limits, TooLarge
from fastlstm.graphs.operators import node_of
from fastlstm.graphs.plan import Draft, Operator

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

KINDS = {"float16": 10, "float32": 1, "float64": 11, "int32": 6, "int64": 7, "uint8": 2, "int8": 3}


def drawn(rng, *shape, dtype="float32"):
    """Return numbers between -1 and 1, so that a sum of n products is below n."""
    return rng.uniform(-1, 1, shape).astype(dtype)


def by_onnxruntime(kind, inputs, attributes, version=17, gives=None):
    """Return what onnxruntime computes for one operator; inputs are arrays or None.

    The output has the type of the first input, or that which is given.
    """
    names = ["" if x is None else f"x{n}" for n, x in enumerate(inputs)]
    given_ones = {name: x for name, x in zip(names, inputs, strict=True) if name}
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(kind, names, ["y"], **attributes)],
        "one",
        [
            onnx.helper.make_tensor_value_info(name, KINDS[str(x.dtype)], list(x.shape))
            for name, x in given_ones.items()
        ],
        [onnx.helper.make_tensor_value_info("y", KINDS[gives or str(inputs[0].dtype)], None)],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", version)], ir_version=8
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, given_ones)[0]


def node(kind, inputs, attributes, known, version=17, engine="auto", most=1 << 30):
    """Return the node of an operator whose inputs at these places are known before it runs."""
    draft = Draft(engine, Limits(most), 1 << 30)
    names = tuple("" if x is None else f"x{n}" for n, x in enumerate(inputs))
    constants = tuple(x if n in known else None for n, x in enumerate(inputs))
    operator = Operator(
        "it", kind, "", version, attributes, names, ("y",), constants, draft
    )  # fmt: skip
    return node_of(operator), draft


def ours(kind, inputs, attributes, known, version=17, engine="auto"):
    """Return what the node of the operator computes; it may not write into its inputs."""
    made, _ = node(kind, inputs, attributes, known, version, engine)
    values = {f"x{n}": x for n, x in enumerate(inputs)}
    before = [None if x is None else x.copy() for x in inputs]
    y = made.compute(*[values.get(name) for name in made.inputs])
    for x, old in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(x, old)
    again = pickle.loads(pickle.dumps(made)).compute(*[values.get(name) for name in made.inputs])
    np.testing.assert_array_equal(again, y)
    return y


def apart(got, expected, terms):
    """Raise unless two sums of so many products of numbers in +-1 are as far apart as rounding."""
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    if got.dtype.kind != "f":
        np.testing.assert_array_equal(got, expected)
        return
    # Each of the two errs by at most terms * eps/2 relative to the sum of absolute values, which is
    # at most `terms`; typical errors are smaller by far, as they add up like a random walk. Half
    # precision is rounded once, at the end.
    single = np.finfo(np.float64 if got.dtype == np.float64 else np.float32).eps
    bound = 4 * single * terms + (np.finfo(np.float16).eps * terms if got.dtype == "f2" else 0)
    np.testing.assert_allclose(got, expected, rtol=0, atol=bound)


# ---- MatMul -------------------------------------------------------------------------------------

MATMULS = [
    ((3, 4), (4, 5)),
    ((2, 3, 4), (4, 5)),
    ((4,), (4, 5)),
    ((6, 2, 3, 4), (4, 1)),
    ((1, 4), (4, 5)),
    ((2, 3, 4), (2, 4, 5)),
    ((6, 1, 3, 4), (2, 4, 5)),
    ((3, 4), (4,)),
    ((4,), (4,)),
    ((0, 4), (4, 5)),
]


@pytest.mark.parametrize("known", [(), (1,), (0,)], ids=str)
@pytest.mark.parametrize("shapes", MATMULS, ids=str)
def test_matmul(shapes, known):
    a, b = (drawn(np.random.default_rng(n), *shape) for n, shape in enumerate(shapes))
    expected = by_onnxruntime("MatMul", [a, b], {})
    apart(ours("MatMul", [a, b], {}, known), expected, 4)


@pytest.mark.parametrize("engine", ["native", "numba", "numpy"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "int64"])
def test_matmul_of_each_type(dtype, engine):
    rng = np.random.default_rng(1)
    a, b = (np.array(rng.uniform(-9, 9, shape)).astype(dtype) for shape in ((3, 70), (70, 5)))
    if dtype.startswith("float"):
        a, b = a / 9, b / 9
    if dtype == "float16":  # which onnxruntime has no kernel of: the truth, rounded
        expected = (a.astype("f8") @ b.astype("f8")).astype("f2")
    else:
        expected = by_onnxruntime("MatMul", [a, b], {})
    for known in (), (1,):
        try:
            got = ours("MatMul", [a, b], {}, known, engine=engine)
        except ImportError as absent:
            pytest.skip(str(absent))
        apart(got, expected, 70)


def test_a_known_matrix_is_a_layer_and_not_kept_twice():
    made, draft = node("MatMul", [np.ones((2, 3), "f4"), np.full((3, 5), 2, "f4")], {}, (1,))
    assert made.by == "fastlstm"
    assert made.inputs == ("x0",)
    (layer,) = draft.layers.values()
    assert layer is made.compute.linear
    assert not layer.training
    np.testing.assert_array_equal(layer.weight, np.full((5, 3), 2))
    np.testing.assert_array_equal(made.compute(np.ones((2, 3), "f4")), np.full((2, 5), 6))


def test_one_row_does_not_depend_on_the_others():
    """To the bit: a known matrix is multiplied by the engine's kernels, a convolution too."""
    pytest.importorskip("fastlstm.engines._native")
    rng = np.random.default_rng(0)
    x, w = drawn(rng, 9, 130), drawn(rng, 130, 33)
    made, _ = node("MatMul", [x, w], {}, (1,), engine="native")
    np.testing.assert_array_equal(
        np.concatenate([made.compute(r[None]) for r in x]), made.compute(x)
    )
    images, kernel = drawn(rng, 700, 20, 12), drawn(rng, 24, 20, 3)
    for groups, of in (1, kernel), (4, kernel[:, :5]), (20, kernel[:20, :1]):
        attributes = {"pads": [1, 0], "strides": [2], "group": groups}
        made, _ = node("Conv", [images, of], attributes, (1,), engine="native")
        alone = np.concatenate([made.compute(image[None]) for image in images[:9]])
        np.testing.assert_array_equal(alone, made.compute(images)[:9])
        alone = made.compute(images[-1:])
        np.testing.assert_array_equal(alone, made.compute(images)[-1:])


@pytest.mark.parametrize("known", [(), (1,), (1, 3), (0, 1, 2, 3)])
@pytest.mark.parametrize("types", ["uint8 int8", "uint8 uint8", "int8 int8"])
@pytest.mark.parametrize("terms", [5, 258, 259])
def test_matmul_integer(types, terms, known):
    """Exact, and in onnxruntime, up to the largest sums that float32 holds and beyond these."""
    rng = np.random.default_rng(terms)
    limits = [np.iinfo(kind) for kind in types.split()]
    a, b = (
        rng.integers(kind.min, kind.max, shape, kind.dtype, endpoint=True)
        for kind, shape in zip(limits, [(2, 3, terms), (terms, 4)], strict=True)
    )
    a[0, 0], b[:, 0] = limits[0].min, limits[1].min
    zeros = np.array(limits[0].max, a.dtype), np.array([limits[1].max, 1, 2, 3], b.dtype)
    for inputs in ([a, b], [a, b, zeros[0]], [a, b, None, zeros[1]], [a, b, *zeros]):
        places = [place for place in known if place < len(inputs)]
        got = ours("MatMulInteger", inputs, {}, places)
        own = [
            np.int64(0) if zero is None else zero.astype("i8")
            for zero in [*inputs, None, None][2:4]
        ]
        exact = ((a.astype("i8") - own[0]) @ (b.astype("i8") - own[1])).astype("i4")
        assert got.dtype == np.int32
        np.testing.assert_array_equal(got, exact)
        if types != "uint8 int8":  # whose pairs onnxruntime clips where a processor lacks VNNI
            theirs = by_onnxruntime("MatMulInteger", inputs, {}, gives="int32")
            np.testing.assert_array_equal(theirs, exact)


def test_matmul_integer_of_rows_and_of_other_types():
    """A zero for each row, which onnxruntime does not take; sums beyond int32 begin anew."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (3, 6), np.uint8), rng.integers(0, 256, (6, 2), np.uint8)
    zero = np.array([3, 5, 250], np.uint8)
    expected = (a.astype(int) - zero[:, None]) @ b.astype(int)
    np.testing.assert_array_equal(ours("MatMulInteger", [a, b, zero], {}, ()), expected)
    many = np.full((1, 40000), 255, np.uint8)
    expected = np.array(40000 * 255 * 255).astype(np.int32)
    assert ours("MatMulInteger", [many, many.T.copy()], {}, ()) == expected
    with pytest.raises(ValueError, match="it multiplies int8 and uint8, got int32"):
        ours("MatMulInteger", [a.astype("i4"), b], {}, ())


# ---- Gemm ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [(), (1,), (1, 2), (0,), (2,)], ids=str)
@pytest.mark.parametrize("transposed", list(itertools.product((0, 1), repeat=2)), ids=str)
@pytest.mark.parametrize("shape", [None, (), (1,), (5,), (1, 5), (3, 1), (3, 5), (1, 1)], ids=str)
def test_gemm(shape, transposed, known):
    rng = np.random.default_rng(2)
    a, b = drawn(rng, 3, 4), drawn(rng, 4, 5)
    a, b = (x.T.copy() if t else x for x, t in zip((a, b), transposed, strict=True))
    inputs = [a, b] if shape is None else [a, b, drawn(rng, *shape)]
    attributes = dict(zip(("transA", "transB"), transposed, strict=True))
    for scales in {}, {"alpha": 0.75, "beta": -1.25}:
        expected = by_onnxruntime("Gemm", inputs, attributes | scales)
        apart(ours("Gemm", inputs, attributes | scales, known), expected, 6)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("version", [7, 9, 11, 13])
def test_gemm_of_each_type_and_version(dtype, version):
    rng = np.random.default_rng(3)
    inputs = [drawn(rng, *shape, dtype=dtype) for shape in ((3, 4), (4, 5), (5,))]
    a, b, c = (x.astype("f8") for x in inputs)
    for known in (), (1,), (1, 2):
        got = ours("Gemm", inputs, {"alpha": 0.5}, known, version)
        apart(got, (0.5 * (a @ b) + c).astype(dtype), 5)


def test_gemm_refuses_what_has_not_two_axes():
    inputs = [np.ones((2, 3, 4), "f4"), np.ones((4, 5), "f4"), np.ones((3, 5), "f4")]
    for known in (), (1,):
        with pytest.raises(ValueError, match=r"axes, got the shapes? \(2, 3, 4\)"):
            ours("Gemm", inputs, {}, known)
    with pytest.raises(ValueError, match="could not be broadcast|non-broadcastable"):
        ours("Gemm", [inputs[0][0], inputs[1], np.ones((7, 3, 5), "f4")], {}, ())


# ---- Conv ---------------------------------------------------------------------------------------

CONVOLUTIONS = [
    ((1, 4, 11), (6, 4, 3), {}),
    ((3, 4, 11), (6, 4, 3), {"strides": [2]}),
    ((1, 4, 11), (6, 4, 3), {"pads": [2, 1]}),
    ((3, 4, 11), (6, 4, 3), {"dilations": [3], "pads": [0, 3]}),
    ((1, 4, 11), (6, 4, 3), {"dilations": [2], "strides": [3]}),
    ((2, 4, 11), (6, 4, 1), {}),
    ((2, 4, 11), (6, 4, 1), {"strides": [4]}),
    ((2, 1, 40), (6, 1, 16), {"strides": [8]}),
    ((1, 1, 5), (6, 1, 2), {"dilations": [2]}),
    ((3, 4, 11), (6, 2, 3), {"group": 2, "pads": [1, 1]}),
    ((3, 4, 11), (4, 1, 3), {"group": 4, "pads": [1, 1], "strides": [2], "dilations": [2]}),
    ((3, 4, 11), (8, 1, 3), {"group": 4}),
    ((2, 3, 7, 9), (5, 3, 3, 2), {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
    ((2, 3, 7, 9), (5, 3, 2, 3), {"dilations": [2, 1]}),
    ((1, 4, 7, 9), (4, 1, 3, 3), {"group": 4, "strides": [1, 2], "pads": [1, 1, 1, 1]}),
    ((2, 4, 7, 9), (6, 2, 3, 3), {"group": 2, "dilations": [1, 2]}),
    ((2, 2, 5, 4, 6), (3, 2, 2, 1, 3), {"strides": [1, 2, 1], "pads": [0, 0, 1, 1, 0, 1]}),
    ((0, 4, 11), (6, 4, 3), {}),
]


@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize(("x", "w", "attributes"), CONVOLUTIONS, ids=str)
def test_conv(x, w, attributes, bias):
    rng = np.random.default_rng(4)
    inputs = [drawn(rng, *x), drawn(rng, *w)] + [drawn(rng, w[0])] * bias
    expected = by_onnxruntime("Conv", inputs, attributes) if x[0] else None
    for known in (1, 2), (1,), ():
        got = ours("Conv", inputs, attributes, known)
        if expected is None:
            assert got.shape == (0, 6, 9)
        else:
            apart(got, expected, np.prod(w[1:]) + 1)
    view = np.asfortranarray(inputs[0]), *inputs[1:]
    if expected is not None:
        apart(ours("Conv", view, attributes, (1, 2)), expected, np.prod(w[1:]) + 1)


@pytest.mark.parametrize("auto_pad", ["VALID", "SAME_UPPER", "SAME_LOWER", "NOTSET"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [5, 6, 7, 8])
def test_auto_pad(auto_pad, stride, size):
    rng = np.random.default_rng(5)
    inputs = [drawn(rng, 2, 3, size, 9), drawn(rng, 4, 3, 4, 3)]
    attributes = {"auto_pad": auto_pad, "strides": [stride, 2], "kernel_shape": [4, 3]}
    expected = by_onnxruntime("Conv", inputs, attributes)
    for known in (1,), ():
        apart(ours("Conv", inputs, attributes, known), expected, 36)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_convolutions_of_any_shape(data):
    """Against onnxruntime: sizes, strides, dilations, pads and groups of 1 or 2 axes."""
    count = data.draw(st.integers(1, 2))

    def several(least, most):
        return data.draw(st.lists(st.integers(least, most), min_size=count, max_size=count))

    kernel, strides, dilations = several(1, 4), several(1, 3), several(1, 3)
    pads = several(0, 3) + several(0, 3)
    sizes = [
        max(1, (k - 1) * d + 1 - pads[n] - pads[n + count]) + data.draw(st.integers(0, 6))
        for n, (k, d) in enumerate(zip(kernel, dilations, strict=True))
    ]
    groups = data.draw(st.sampled_from([1, 1, 2, 3]))
    deep, wide = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    inputs = [
        drawn(rng, data.draw(st.integers(1, 3)), groups * deep, *sizes),
        drawn(rng, groups * wide, deep, *kernel),
        drawn(rng, groups * wide),
    ]
    attributes = {"strides": strides, "dilations": dilations, "pads": pads, "group": groups}
    expected = by_onnxruntime("Conv", inputs, attributes)
    for known in (1, 2), ():
        apart(ours("Conv", inputs, attributes, known), expected, deep * np.prod(kernel) + 1)


@pytest.mark.parametrize("batch", [1, 3])
def test_windows_of_more_than_one_block(batch):
    """Images whose windows take more than what is laid out at once, and images that take less."""
    rng = np.random.default_rng(6)
    for x, w, attributes in (
        ((batch, 8, 3000), (5, 8, 9), {"dilations": [2]}),
        ((batch, 4, 70, 90), (5, 4, 5, 5), {"pads": [2, 2, 2, 2]}),
        ((40 * batch, 30, 20), (5, 30, 5), {}),
        ((1, 1, 7, 5000), (5, 1, 5, 25), {}),
    ):
        inputs = [drawn(rng, *x), drawn(rng, *w), drawn(rng, w[0])]
        expected = by_onnxruntime("Conv", inputs, attributes)
        apart(ours("Conv", inputs, attributes, (1, 2)), expected, np.prod(w[1:]) + 1)


@pytest.mark.parametrize("version", [1, 11, 22])
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_conv_of_each_type_and_version(dtype, version):
    """With the truth by sums of products, as onnxruntime has no kernels of these types."""
    rng = np.random.default_rng(7)
    x, w, b = (drawn(rng, *shape, dtype=dtype) for shape in ((2, 3, 8), (4, 3, 3), (4,)))
    windows = np.lib.stride_tricks.sliding_window_view(x.astype("f8"), 3, axis=2)
    expected = np.einsum("nclk,mck->nml", windows, w.astype("f8")) + b.astype("f8")[:, None]
    for known in (1, 2), ():
        apart(ours("Conv", [x, w, b], {}, known, version), expected.astype(dtype), 10)


def test_a_convolution_follows_another_and_sizes_change():
    """What the first returns is a view; the layout of the last size is not taken for another."""
    rng = np.random.default_rng(8)
    w, v = drawn(rng, 6, 4, 3), drawn(rng, 5, 6, 3)
    one, _ = node("Conv", [None, w], {"pads": [1, 1]}, (1,))
    two, _ = node("Conv", [None, v], {"strides": [2]}, (1,))
    for size, batch in (9, 1), (9, 2), (12, 2), (9, 1):
        x = drawn(rng, batch, 4, size)
        between = by_onnxruntime("Conv", [x, w], {"pads": [1, 1]})
        expected = by_onnxruntime("Conv", [between, v], {"strides": [2]})
        got = two.compute(one.compute(x))
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=0, atol=12 * 18 * 4 * 1.2e-7)


REFUSED = [
    ((1, 4, 2), (6, 4, 3), {}, "a kernel over 3 values does not fit into 2"),
    ((1, 4, 4), (6, 4, 3), {"dilations": [2]}, "a kernel over 5 values does not fit into 4"),
    ((1, 5, 9), (6, 4, 3), {}, r"must have 4 channels.* got the shape \(1, 5, 9\)"),
    ((1, 4, 9, 9), (6, 4, 3), {}, "must have 4 channels and 1 axes"),
    ((1, 4, 9), (6, 4, 3), {"group": 4}, "6 kernels cannot be in 4 groups"),
    ((1, 4, 9), (6, 4, 3), {"group": 0}, "6 kernels cannot be in 0 groups"),
    ((1, 4, 9), (6, 4, 3), {"strides": [0]}, r"strides cannot be \[0\]"),
    ((1, 4, 9), (6, 4, 3), {"dilations": [1, 1]}, r"dilations cannot be \[1, 1\]"),
    ((1, 4, 9), (6, 4, 3), {"pads": [-1, 0]}, r"pads cannot be \[-1, 0\]"),
    ((1, 4, 9), (6, 4, 3), {"kernel_shape": [2]}, r"kernel_shape is \[2\]"),
    ((1, 4, 9), (6, 4, 3), {"auto_pad": "SAME"}, "auto_pad cannot be 'SAME'"),
    ((1, 4, 9), (6, 4), {}, "a kernel cannot have the shape"),
    ((1, 4, 9), (0, 4, 3), {}, "a kernel cannot have the shape"),
]


@pytest.mark.parametrize("known", [(), (1,)], ids=["computed", "known"])
@pytest.mark.parametrize(("x", "w", "attributes", "said"), REFUSED, ids=str)
def test_what_conv_refuses(x, w, attributes, said, known):
    with pytest.raises(ValueError, match=said):
        ours("Conv", [np.ones(x, "f4"), np.ones(w, "f4")], attributes, known)


def test_types_that_differ_are_refused():
    x, w = np.ones((1, 4, 9)), np.ones((6, 4, 3), "f4")
    for known in (), (1,):
        with pytest.raises(
            ValueError, match="kernel is of float32, (but|and) the input of float64"
        ):
            ours("Conv", [x, w], {}, known)
    with pytest.raises(ValueError, match="6 kernels have a bias of the shape"):
        ours("Conv", [w, w, np.ones(5, "f4")], {}, (1, 2))


# ---- memory -------------------------------------------------------------------------------------


def test_results_and_padding_stay_within_the_limits():
    for kind, inputs, attributes in (
        ("MatMul", [np.ones((500, 1), "f4"), np.ones((1, 500), "f4")], {}),
        ("Gemm", [np.ones((500, 1), "f4"), np.ones((1, 500), "f4")], {}),
        ("Conv", [np.ones((1, 1, 500), "f4"), np.ones((500, 1, 1), "f4")], {}),
        ("Conv", [np.ones((1, 1, 2), "f4"), np.ones((1, 1, 1), "f4")], {"pads": [500_000, 0]}),
        ("Conv", [np.ones((1, 1, 2), "f4"), np.ones((1, 1, 1), "f4")], {"pads": [2**62, 2**62]}),
    ):
        for known in (), (1,):
            made, _ = node(kind, inputs, attributes, known, most=900_000)
            values = {f"x{n}": x for n, x in enumerate(inputs)}
            with pytest.raises(TooLarge):
                made.compute(*[values[name] for name in made.inputs])


def test_a_weight_of_many_nodes_is_one_layer():
    """A file stores it once; copies for each node could take any multiple of the file's size."""
    w, b = np.ones((3, 5), "f4"), np.ones(5, "f4")
    kernel = np.ones((5, 3, 2), "f4")
    draft = Draft("auto", Limits(1 << 30), 1 << 30)

    def computes(kind, attributes, *constants):
        names = tuple("xyz"[: 1 + len(constants)])
        for n in range(3):
            operator = Operator(
                f"{kind} {n}", kind, "", 17, attributes, names, ("q",), (None, *constants), draft
            )
            yield node_of(operator).compute

    one, *others = (dense.linear for dense in computes("MatMul", {}, w))
    assert all(other is one for other in others)
    different = [
        next(computes("MatMul", {}, w.copy())),
        next(computes("Gemm", {}, w)),
        next(computes("Gemm", {}, w, b)),
        next(computes("Gemm", {"alpha": 2.0}, w, b)),
        next(computes("Gemm", {"beta": 2.0}, w, b)),
    ]
    assert len({id(dense.linear) for dense in different} | {id(one)}) == 6
    assert len(draft.layers) == 6
    one, *others = (conv._linears for conv in computes("Conv", {}, kernel))
    assert all(other is one for other in others)
    np.testing.assert_array_equal(different[3](np.ones((1, 3), "f4")), [[2 * 3 + 1] * 5])
    np.testing.assert_array_equal(different[4](np.ones((1, 3), "f4")), [[3 + 2] * 5])


# ---- the check can fail -------------------------------------------------------------------------


def test_wrong_sums_are_noticed():
    rng = np.random.default_rng(9)
    a, b = drawn(rng, 3, 70), drawn(rng, 70, 5)
    right = by_onnxruntime("MatMul", [a, b], {})
    wrong = {
        "a term is missing": a[:, 1:] @ b[1:],
        "a term is twice": a @ b + a[:, :1] * b[:1],
        "rounded to half precision": (a @ b).astype("f2").astype("f4"),
        "of another type": (a @ b).astype("f8"),
        "of another shape": (a @ b)[None],
        "transposed": (a[:3] @ b[:, :3]).T,
    }
    for what, y in wrong.items():
        with pytest.raises(AssertionError):
            apart(y, right, 70)
            pytest.fail(f"not noticed: {what}")
