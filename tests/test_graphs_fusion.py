"""Neighbours that become one node: the same values, and no more than what may be taken together."""

import numpy as np
import pytest

from fastlstm.graphs import fusion
from fastlstm.graphs.fusion import fused
from fastlstm.graphs.limits import Limits
from fastlstm.graphs.operators import node_of
from fastlstm.graphs.plan import Draft, Operator, Plan

RNG = np.random.default_rng(0)
W = RNG.normal(size=(4, 3)).astype("f4")
X = RNG.normal(size=(5, 4)).astype("f4")
KERNEL = RNG.normal(size=(6, 2, 3)).astype("f4")
IMAGES = RNG.normal(size=(3, 2, 9)).astype("f4")


def draft_of(operators, constants, engine="auto"):
    """Return a draft of (type, inputs, output, attributes), inputs and output as names."""
    draft = Draft(engine, Limits(1 << 30), 1 << 30)
    draft.constants |= constants
    for kind, inputs, output, attributes in operators:
        names = tuple(inputs.split())
        known = tuple(draft.constants.get(name) for name in names)
        made = Operator(
            f"{kind} of {output}", kind, "", 17, attributes, names, (output,), known, draft
        )  # fmt: skip
        draft.add(node_of(made))
    return draft


def ran(operators, constants, feeds, outputs, engine):
    """Return the outputs of the graph as it is, those of it fused, and the kinds of nodes then."""
    draft = draft_of(operators, constants, engine)
    plain = Plan(draft.nodes, draft.constants, list(feeds), outputs)
    before = plain.run(list(feeds.values()))
    plan = draft.plan(list(feeds), outputs)
    return before, plan.run(list(feeds.values())), [node.type for node in plan.nodes]


def same(operators, constants, feeds, outputs=("y",), bits=True, engine="auto"):
    """Return the kinds of nodes of a graph when it is fused, having compared its outputs."""
    before, after, kinds = ran(operators, constants, feeds, outputs, engine)
    for plain, one in zip(before, after, strict=True):
        assert one.dtype == plain.dtype
        assert one.shape == plain.shape
        if bits or one.dtype.kind != "f":
            np.testing.assert_array_equal(one, plain)
        else:  # one rounding less in a sum of few numbers of about 1
            np.testing.assert_allclose(one, plain, rtol=0, atol=8 * np.finfo(one.dtype).eps)
    return kinds


# ---- a product and a bias -----------------------------------------------------------------------


@pytest.mark.parametrize("inputs", ["p b", "b p"])
@pytest.mark.parametrize("shape", [(3,), (1,), ()], ids=str)
def test_a_product_takes_its_bias(inputs, shape):
    graph = [("MatMul", "x w", "p", {}), ("Add", inputs, "y", {})]
    bias = RNG.normal(size=shape).astype("f4")
    assert same(graph, {"w": W, "b": bias}, {"x": X}, bits=False) == ["MatMul"]


def test_the_layer_of_a_product_gets_the_bias():
    """There is one layer, with the name and place of the product's, and it is what runs."""
    bias = np.arange(3, dtype="f4")
    graph = [("MatMul", "x w", "p", {}), ("Add", "p b", "y", {})]
    draft = draft_of(graph, {"w": W, "b": bias})
    (name,) = draft.layers
    plan = draft.plan(["x"], ["y"])
    assert list(draft.layers) == [name]
    layer = draft.layers[name]
    np.testing.assert_array_equal(layer.bias, bias)
    assert not layer.training
    layer.weight, layer.bias = np.zeros((3, 4)), [5, 6, 7]
    np.testing.assert_array_equal(plan.run([X])[0], [[5, 6, 7]] * 5)


def test_gemm_without_c_takes_a_bias_too():
    graph = [("Gemm", "x w", "p", {}), ("Add", "p b", "y", {})]
    assert same(graph, {"w": W, "b": np.ones(3, "f4")}, {"x": X}, bits=False) == ["Gemm"]


NO_BIAS = {
    "more axes than the product": ("p b", np.ones((5, 3), "f4")),
    "one for each row": ("p b", np.ones((5, 1), "f4")),
    "not known": ("p x2", None),
    "the product twice": ("p p", None),
}


@pytest.mark.parametrize("what", NO_BIAS)
def test_what_is_no_bias(what):
    inputs, value = NO_BIAS[what]
    constants = {"w": W} | ({} if value is None else {"b": value})
    feeds = {"x": X} | ({"x2": np.ones(3, "f4")} if "x2" in inputs else {})
    graph = [("MatMul", "x w", "p", {}), ("Add", inputs, "y", {})]
    assert same(graph, constants, feeds) == ["MatMul", "Add"]


def test_a_second_bias_stays_a_sum():
    graph = [
        ("MatMul", "x w", "p", {}),
        ("Add", "p b", "q", {}),
        ("Add", "q b", "y", {}),
    ]
    assert same(graph, {"w": W, "b": np.ones(3, "f4")}, {"x": X}, bits=False) == ["MatMul", "Add"]


# ---- a convolution and a relu -------------------------------------------------------------------


@pytest.mark.parametrize("attributes", [{"pads": [1, 1]}, {"auto_pad": "SAME_UPPER"}], ids=str)
@pytest.mark.parametrize("engine", ["native", "numpy"])
def test_a_convolution_is_rectified(engine, attributes):
    graph = [("Conv", "x k", "p", attributes), ("Relu", "p", "y", {})]
    odd = IMAGES.copy()
    odd[0, 0, 4] = np.nan
    for images in IMAGES, IMAGES[:1], odd:
        assert same(graph, {"k": KERNEL}, {"x": images}, engine=engine) == ["Conv"]


def test_depthwise_and_grouped_convolutions_are_rectified():
    for kernel, groups in (KERNEL[:2, :1], 2), (KERNEL[:, :1], 2):
        graph = [("Conv", "x k", "p", {"group": groups}), ("Relu", "p", "y", {})]
        assert same(graph, {"k": kernel}, {"x": IMAGES}) == ["Conv"]


def test_a_kernel_that_is_computed_stays_as_it_is():
    graph = [("Conv", "x k", "p", {}), ("Relu", "p", "y", {})]
    assert same(graph, {}, {"x": IMAGES, "k": KERNEL}) == ["Conv", "Relu"]


# ---- sizes of axes ------------------------------------------------------------------------------


def test_sizes_of_axes():
    graph = [
        ("Shape", "x", "s", {}),
        ("Gather", "s places", "n", {}),
        ("Equal", "n size", "y", {}),
    ]
    for places, size in ([-1], [4]), ([0, 1], [5, 3]), ([1, 0, -1], [4, 5, 9]):
        constants = {"places": np.array(places), "size": np.array(size)}
        assert same(graph[:2], constants, {"x": X}, ["n"]) == ["Shape"]
        assert same(graph, constants, {"x": X}) == ["Shape"]
        for empty in np.zeros((0, 4), "f4"), np.zeros((5, 4), "f8"):
            assert same(graph, constants, {"x": empty}) == ["Shape"]


def test_other_sizes_stay_as_they_are():
    gather = ("Gather", "s places", "y", {})
    for attributes, places in ({"start": 1}, [0]), ({"end": 1}, [0]), ({}, [[0, 1]]), ({}, 0):
        graph = [("Shape", "x", "s", attributes), gather]
        assert same(graph, {"places": np.array(places)}, {"x": X}) == ["Shape", "Gather"]
    table = [("Shape", "x", "s", {}), ("Gather", "t s", "y", {})]  # the sizes are the places
    assert same(table, {"t": np.arange(9.0)}, {"x": X}) == ["Shape", "Gather"]
    broadcast = [("Shape", "x", "s", {}), gather, ("Equal", "y three", "z", {})]
    constants = {"places": np.array([0]), "three": np.array([[5], [6], [7]])}
    assert same(broadcast, constants, {"x": X}, ["z"]) == ["Shape", "Equal"]


def test_a_place_outside_of_the_shape_is_an_error_that_names_the_operator():
    graph = [("Shape", "x", "s", {}), ("Gather", "s places", "y", {})]
    plan = draft_of(graph, {"places": np.array([2])}).plan(["x"], ["y"])
    with pytest.raises(ValueError, match="operator Shape 'Shape of s'"):
        plan.run([X])


# ---- what may not be taken together -------------------------------------------------------------

PAIRS = {
    "product and bias": (
        [("MatMul", "x w", "p", {}), ("Add", "p b", "y", {})],
        {"w": W, "b": np.ones(3, "f4")},
        {"x": X},
    ),
    "convolution and relu": (
        [("Conv", "x k", "p", {}), ("Relu", "p", "y", {})],
        {"k": KERNEL},
        {"x": IMAGES},
    ),
    "sizes": (
        [("Shape", "x", "p", {}), ("Gather", "p places", "y", {})],
        {"places": np.array([0])},
        {"x": X},
    ),
}


@pytest.mark.parametrize("what", PAIRS)
def test_a_value_between_that_is_an_output_stays(what):
    graph, constants, feeds = PAIRS[what]
    kinds = same(graph, constants, feeds, ["p", "y"])
    assert kinds == [kind for kind, *_ in graph]


@pytest.mark.parametrize("what", PAIRS)
def test_a_value_between_that_is_taken_twice_stays(what):
    graph, constants, feeds = PAIRS[what]
    more = [*graph, ("Neg", "p", "z", {})]
    kinds = same(more, constants, feeds, ["y", "z"])
    assert kinds == [kind for kind, *_ in more]


@pytest.mark.parametrize("what", PAIRS)
def test_pairs_far_apart(what):
    """Nodes between the two, and values in any order, change nothing."""
    graph, constants, feeds = PAIRS[what]
    first, second = graph
    more = [first, ("Neg", "x", "other", {}), ("Abs", "other", "z", {}), second]
    assert same(more, constants, feeds, ["z", "y"], bits=False) == ["Neg", "Abs", first[0]]


def test_the_draft_keeps_its_nodes():
    """Two plans of a draft do not disturb each other."""
    graph, constants, feeds = PAIRS["convolution and relu"]
    draft = draft_of(graph, constants)
    one, two = (draft.plan(["x"], [output]) for output in ("y", "p"))
    assert len(draft.nodes) == 2
    np.testing.assert_array_equal(one.run([IMAGES])[0], np.maximum(two.run([IMAGES])[0], 0))


# ---- the comparison can fail --------------------------------------------------------------------


def forgetful(draft, first, second):
    """A rewrite that leaves out what the second node does."""
    return first._replace(outputs=second.outputs)


def swapped(draft, first, second):
    """A rewrite that does the second node's work on the first node's input."""
    return second._replace(inputs=first.inputs[:1])


@pytest.mark.parametrize("rewrite", [forgetful, swapped])
def test_wrong_rewrites_are_noticed(monkeypatch, rewrite):
    monkeypatch.setattr(fusion, "REWRITES", [rewrite])
    for what in ("convolution and relu", "sizes"):
        graph, constants, feeds = PAIRS[what]
        with pytest.raises((AssertionError, ValueError)):
            same(graph, constants, feeds)
            pytest.fail(f"not noticed: {what}")


def test_without_rewrites_nothing_changes(monkeypatch):
    monkeypatch.setattr(fusion, "REWRITES", [])
    for graph, constants, feeds in PAIRS.values():
        draft = draft_of(graph, constants)
        assert fused(draft, draft.nodes, ["y"]) == draft.nodes
        assert list(feeds)
