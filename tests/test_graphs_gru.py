"""ONNX's operators GRU and RNN against onnxruntime, over pairs of all their options."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
from saboteurs import edited

from fastlstm.graphs import gru
from fastlstm.graphs.limits import Limits
from fastlstm.graphs.operators import node_of
from fastlstm.graphs.plan import Draft, Operator, computed

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

T, B, I, H = 5, 4, 3, 6
GATES = {"GRU": 3, "RNN": 1}
LENGTHS = {"full": None, "ragged": (2, 5, 0, 4), "short": (3, 1, 3, 2)}
# Of each operator for one direction; of a second one the last ones come first.
FUNCTIONS = {
    "GRU": {"usual": None, "few": ["HardSigmoid", "Relu"], "many": ["LeakyRelu", "ScaledTanh"]},
    "RNN": {"usual": None, "few": ["Affine"], "many": ["Elu"]},
}
OPTIONS = {
    "direction": ["forward", "reverse", "bidirectional"],
    "lengths": [*LENGTHS],
    "functions": ["usual", "few", "many"],
    "before": [0, 1],
    "clip": [None, 0.4],
    "given": ["B", "h", "Bh", ""],
}


def cases():
    """Draw cases until every pair of values of two options is in one of them."""
    rng = np.random.default_rng(1)
    wanted = {
        (a, x, b, y)
        for a, b in itertools.combinations(OPTIONS, 2)
        for x in OPTIONS[a]
        for y in OPTIONS[b]
    }
    while wanted:
        drawn = [
            {k: values[rng.integers(len(values))] for k, values in OPTIONS.items()}
            for _ in range(30)
        ]

        def pairs(case):
            return {(a, case[a], b, case[b]) for a, b in itertools.combinations(OPTIONS, 2)}

        best = max(drawn, key=lambda case: len(pairs(case) & wanted))
        wanted -= pairs(best)
        yield best


CASES = [*cases()]
FULL = {"direction": "bidirectional", "lengths": "ragged", "functions": "few"}
FULL |= {"before": 1, "clip": 0.4, "given": "Bh"}


def values_of(kind, case, dtype="f4", seed=0):
    """Return the inputs of an operator and its attributes."""
    rng = np.random.default_rng(seed)
    d, g = 1 + (case["direction"] == "bidirectional"), GATES[kind]

    def array(*shape):
        return rng.uniform(-1, 1, shape).astype(dtype)

    lengths = LENGTHS[case["lengths"]]
    inputs = [
        array(T, B, I),
        array(d, g * H, I),
        array(d, g * H, H),
        array(d, 2 * g * H) if "B" in case["given"] else None,
        None if lengths is None else np.int32(lengths),
        array(d, B, H) if "h" in case["given"] else None,
    ]
    attributes = {"hidden_size": H, "direction": case["direction"]}
    if kind == "GRU":
        attributes["linear_before_reset"] = case["before"]
    if case["clip"]:
        attributes["clip"] = case["clip"]
    if names := FUNCTIONS[kind][case["functions"]]:
        attributes["activations"] = names + names[::-1] * (d - 1)
        attributes["activation_alpha"] = [0.3, 0.7, 0.4, 0.9][: 2 * d]
        attributes["activation_beta"] = [0.6, 0.2, 0.5, 0.8][: 2 * d]
    return inputs, attributes


def by_onnxruntime(kind, inputs, attributes, outputs=("Y", "Y_h")):
    helper = onnx.helper
    names = ["" if x is None else f"x{n}" for n, x in enumerate(inputs)]
    feeds = {name: x for name, x in zip(names, inputs, strict=True) if name}
    graph = helper.make_graph(
        [helper.make_node(kind, names, outputs, **attributes)],
        "one",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
            for n, x in feeds.items()
        ],
        [helper.make_empty_tensor_value_info(name) for name in outputs if name],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, feeds)


def run(kind, inputs, attributes, outputs=("Y", "Y_h"), make=node_of):
    draft = Draft("auto", Limits(1 << 20), 1 << 20)
    names = tuple("" if x is None else f"x{n}" for n, x in enumerate(inputs))
    node = make(
        Operator("it", kind, "", 14, attributes, names, outputs, (None,) * len(names), draft)
    )
    if make is node_of:
        node = pickle.loads(pickle.dumps(node))
        return [value for value, name in zip(computed(node, inputs), outputs, strict=True) if name]
    return node(*inputs)


def assert_close(got, wanted):
    """Each value is a sum of I + 2 H products and biases at most, in T steps."""
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        largest = max(1.0, float(np.abs(other).max()))  # some functions have no bounds
        np.testing.assert_allclose(one, other, rtol=0, atol=T * (I + 2 * H) * 2.0**-22 * largest)


@pytest.mark.parametrize("kind", GATES)
def test_values_are_onnxruntime_s(kind):
    for seed, case in enumerate(CASES):
        inputs, attributes = values_of(kind, case, seed=seed)
        assert_close(run(kind, inputs, attributes), by_onnxruntime(kind, inputs, attributes))


@pytest.mark.parametrize("kind", GATES)
def test_layout_types_and_outputs(kind):
    inputs, attributes = values_of(kind, FULL)
    y, h = wanted = run(kind, inputs, attributes)
    assert_close(run(kind, inputs, attributes, ("Y",)), [y])
    assert_close(run(kind, inputs, attributes, ("", "Y_h")), [h])
    batch = [x if n in (1, 2, 3, 4) else x.swapaxes(0, 1) for n, x in enumerate(inputs)]
    got = run(kind, batch, attributes | {"layout": 1})
    assert_close(got, [y.transpose(2, 0, 1, 3), h.swapaxes(0, 1)])
    doubled = [x if n == 4 else x.astype("f8") for n, x in enumerate(inputs)]
    double = run(kind, doubled, attributes)
    assert_close([x.astype("f4") for x in double], wanted)
    assert {x.dtype for x in double} == {np.dtype("f8")}
    halves = [x if n == 4 else x.astype("f2") for n, x in enumerate(inputs)]
    widened = [x if n == 4 else x.astype("f4") for n, x in enumerate(halves)]
    for one, other in zip(
        run(kind, halves, attributes), run(kind, widened, attributes), strict=True
    ):
        np.testing.assert_array_equal(one, other.astype("f2"))


@pytest.mark.parametrize("shape", [(0, B, I), (T, 0, I)])
def test_nothing_to_run_over_gives_zeros(shape):
    inputs, attributes = values_of("GRU", FULL | {"lengths": "full", "given": "B"})
    y, h = run("GRU", [np.zeros(shape, "f4"), *inputs[1:]], attributes)
    assert y.shape == (shape[0], 2, shape[1], H) and h.shape == (2, shape[1], H)
    assert not h.any()


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (0, np.zeros((T, I)), "X and R must have 3 axes"),
        (1, np.zeros((2, 3 * H, I + 1)), "W must have shape (2, 18, 3), got (2, 18, 4)"),
        (2, np.zeros((2, 3 * H, H - 1)), "hidden_size is 6, but R has the shape"),
        (3, np.zeros((2, 3 * H)), "B must have shape (2, 36), got (2, 18)"),
        (4, np.zeros(B + 1, "i4"), "sequence_lens must have shape (4,), got (5,)"),
        (4, np.full(B, T + 1, "i4"), "a length is not between 0 and 5"),
        (5, np.zeros((1, B, H)), "initial_h must have shape (2, 4, 6), got (1, 4, 6)"),
        ("direction", "both", "direction must be one of"),
        ("activations", ["Tanh"], "activations must be 4 names"),
        ("activations", ["Tanh"] * 3 + ["Sine"], "activations must be of"),
        ("clip", 0.0, "clip"),
    ],
)
def test_what_does_not_fit_is_an_error(place, value, said):
    inputs, attributes = values_of("GRU", FULL)
    if isinstance(place, int):
        inputs[place] = value
    else:
        attributes[place] = value
    with pytest.raises(ValueError, match="^operator GRU 'it': ") as told:
        run("GRU", inputs, attributes)
    assert said in str(told.value)


def test_the_limits_are_asked():
    inputs, attributes = values_of("GRU", FULL | {"lengths": "full", "given": ""})
    x = np.zeros((1 << 14, B, I), "f4")
    with pytest.raises(ValueError, match="bytes, at most 1048576 are allowed"):
        run("GRU", [x, *inputs[1:]], attributes)


@pytest.mark.parametrize(
    ("place", "old", "new"),
    [
        ("_Recurrence.__call__", "ends[:, lengths == 0] = 0", "pass"),
        ("_Recurrence.__call__", "_turned(y[:, k].copy(), lengths, backward)", "y[:, k].copy()"),
        ("_Recurrence._run", "self.functions[k]", "self.functions[0]"),
        ("_Recurrence._run", "h[going] = y[t, going] = new[going]", "h[...] = y[t, going] = new"),
        ("_Recurrence._run", "after[last] = (after[last].copy(), 0)", "after[last].copy()"),
        ("_Recurrence._gru", "reset * (h @ r[2 * units:].T + inner)", "reset * h"),
        ("_Recurrence._gru", "(1 - z) * n + z * h", "z * n + (1 - z) * h"),
        ("_turned", "reverse_sequence(False, x, lengths)", "x[::-1]"),
    ],
)  # fmt: skip
def test_saboteurs_of_the_code(place, old, new):
    inputs, attributes = values_of("GRU", FULL)
    wanted = by_onnxruntime("GRU", inputs, attributes)
    with pytest.raises((AssertionError, ValueError)):
        make = edited(gru, place, old, new)._make
        assert_close(run("GRU", inputs, attributes, make=make), wanted)
