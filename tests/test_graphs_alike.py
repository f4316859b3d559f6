"""Calls that are alike get a plan of their own: the same results, to the bit, in any order."""

import pickle
import threading

import numpy as np
import pytest

import fastlstm
from fastlstm.graphs import alike
from fastlstm.graphs.alike import for_calls_like
from fastlstm.graphs.limits import Limits
from fastlstm.graphs.model import GraphModel, Port, State
from fastlstm.graphs.operators import node_of
from fastlstm.graphs.plan import Body, Draft, Operator

RNG = np.random.default_rng(0)


def draft_of(operators, constants, captured=()):
    """Return a draft of (type, inputs, outputs, attributes), inputs and outputs as names."""
    draft = Draft("auto", Limits(1 << 30), 1 << 30)
    draft.constants |= {name: np.asarray(value) for name, value in constants.items()}
    for kind, inputs, outputs, attributes in operators:
        names = tuple("" if name == "-" else name for name in inputs.split())
        known = tuple(draft.constants.get(name) for name in names)
        made = Operator(
            f"{kind} of {outputs}", kind, "", 17, attributes, names, tuple(outputs.split()), known,
            draft,
        )  # fmt: skip
        draft.add(node_of(made))
    return draft


def body(operators, constants, captured, outputs):
    """Return a branch of an If."""
    plan = draft_of(operators, constants).plan(captured.split(), outputs.split())
    return Body(plan, tuple(captured.split()))


def model_of(operators, constants, inputs, outputs, states=()):
    plan = draft_of(operators, constants).plan(inputs.split(), outputs.split())
    ports = [Port(name) for name in inputs.split()]
    return GraphModel(
        plan, ports, [Port(name) for name in outputs.split()], states, {}, Limits(1 << 30)
    )


def flat_or_not():
    """Return a graph as exporters write it: a vector if the last axis has one value, else a sum."""
    squeeze = body([("Squeeze", "x last", "q", {})], {"last": [-1]}, "x", "q")
    added = body([("ReduceSum", "x last", "q", {"keepdims": 0})], {"last": [-1]}, "x", "q")
    return [
        ("Shape", "x", "s", {}),
        ("Gather", "s last", "n", {}),
        ("Equal", "n one", "c", {}),
        ("If", "c x", "q", {"then_branch": squeeze, "else_branch": added}),
        ("Mul", "q n32", "p", {}),
        ("Cast", "n", "n32", {"to": 1}),
    ]


def graph():
    nodes = flat_or_not()
    return [*nodes[:4], nodes[5], nodes[4]], {"last": [-1], "one": [1]}


def kinds(plan):
    return [node.type for node in plan.nodes]


# ---- what follows from shapes -------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "left"), [((3, 1), "Squeeze"), ((3, 4), "ReduceSum")], ids=str)
def test_a_branch_takes_the_place_of_its_if(shape, left):
    plan = draft_of(*graph()).plan(["x"], ["p"])
    assert "If" in kinds(plan)
    made = for_calls_like(plan, [np.zeros(shape, "f4")])
    assert kinds(made) == [left, "Mul"]
    for _ in range(3):
        x = RNG.normal(size=shape).astype("f4")
        np.testing.assert_array_equal(made.run([x])[0], plan.run([x])[0])
        np.testing.assert_allclose(made.run([x])[0], shape[1] * x.sum(-1), rtol=1e-5)


DEPENDENT = {
    "places of numbers": ([("NonZero", "x", "z", {}), ("Shape", "z", "y", {})], {}),
    "a shape that is an input": ([("Reshape", "x r", "z", {}), ("Shape", "z", "y", {})], {}),
    "numbers of an input": ([("Gather", "x r", "y", {"axis": 0})], {}),
    "the greatest number": (
        [
            ("ReduceMax", "r", "m", {"keepdims": 0}),
            ("Range", "zero m one", "z", {}),
            ("Shape", "z", "y", {}),
        ],
        {"zero": np.array(0), "one": np.array(1)},
    ),
}


@pytest.mark.parametrize("what", DEPENDENT)
def test_what_follows_from_numbers_is_computed_each_time(what):
    operators, constants = DEPENDENT[what]
    plan = draft_of(operators, constants).plan(["x", "r"], ["y"])
    first = np.array([1, 0, 0, 1, 0, 1.0]), np.array([3, 2])
    made = for_calls_like(plan, list(first))
    for x, r in (first, (np.arange(6.0), np.array([2, 3])), (np.zeros(6), np.array([1, 6]))):
        if what == "numbers of an input":
            r = r % 6
        np.testing.assert_array_equal(made.run([x, r])[0], plan.run([x, r])[0])


def test_a_condition_that_is_computed_stays():
    """The branch of a number is taken anew in each call."""
    one = body([("Neg", "x", "q", {})], {}, "x", "q")
    two = body([("Abs", "x", "q", {})], {}, "x", "q")
    operators = [
        ("ReduceSum", "x", "t", {"keepdims": 0}),
        ("Greater", "t zero", "c", {}),
        ("If", "c x", "y", {"then_branch": one, "else_branch": two}),
        ("Size", "x", "n", {}),
    ]
    plan = draft_of(operators, {"zero": np.float32(0)}).plan(["x"], ["y", "n"])
    made = for_calls_like(plan, [np.ones(3, "f4")])
    assert kinds(made) == ["ReduceSum", "Greater", "If"]
    for x in np.ones(3, "f4"), np.full(3, -2, "f4"):
        for got, expected in zip(made.run([x]), plan.run([x]), strict=True):
            np.testing.assert_array_equal(got, expected)


def test_an_input_of_one_integer_is_known():
    """As a sampling rate, by which Silero VAD chooses one of two networks."""
    one = body([("Neg", "x", "q", {})], {}, "x", "q")
    two = body([("Abs", "x", "q", {})], {}, "x", "q")
    operators = [
        ("Equal", "rate high", "c", {}),
        ("If", "c x", "y", {"then_branch": one, "else_branch": two}),
    ]
    plan = draft_of(operators, {"high": np.array(16000)}).plan(["x", "rate"], ["y"])
    for rate, kind in (16000, "Neg"), (8000, "Abs"):
        assert kinds(for_calls_like(plan, [np.ones(2), np.array(rate)])) == [kind]


def test_large_values_are_not_kept(monkeypatch):
    operators = [("Shape", "x", "s", {}), ("ConstantOfShape", "s", "y", {})]
    plan = draft_of(operators, {}).plan(["x"], ["y"])
    x = np.zeros((5, 7))
    assert kinds(for_calls_like(plan, [x])) == []
    monkeypatch.setattr(alike, "_MOST", 100)
    made = for_calls_like(plan, [x])
    assert kinds(made) == ["ConstantOfShape"]
    np.testing.assert_array_equal(made.run([x])[0], x)
    monkeypatch.setattr(alike, "_ROOM", 100)
    assert for_calls_like(plan, [x]) is plan


def test_a_graph_without_shapes_is_left_alone():
    plan = draft_of([("Neg", "x", "y", {})], {}).plan(["x"], ["y"])
    assert for_calls_like(plan, [np.ones(3)]) is plan


def test_what_layers_give_is_never_known():
    """Their parameters may change between calls."""
    operators = [("Cast", "n", "x", {"to": 1}), ("MatMul", "x w", "y", {}), ("Neg", "y", "z", {})]
    draft = draft_of(operators, {"w": np.ones((1, 2), "f4")})
    plan = draft.plan(["n"], ["z"])
    made = for_calls_like(plan, [np.array([3])])
    assert kinds(made) == ["MatMul", "Neg"]
    (layer,) = draft.layers.values()
    layer.weight = [[5], [6]]
    np.testing.assert_array_equal(made.run([np.array([3])])[0], [-15, -18])


# ---- models -------------------------------------------------------------------------------------


def test_results_are_those_of_the_plan_in_any_order_of_calls():
    """Shapes, dtypes and forms change, at once and after many calls that are alike."""
    model = model_of(*graph(), "x", "p")
    shapes = [(3, 1)] * 40 + [(3, 4)] * 40 + [(3, 1), (3, 4)] * 20 + [(0, 4)] * 20 + [(5, 1)] * 20
    for n, shape in enumerate(shapes):
        x = RNG.normal(size=shape).astype("f4")
        given = x.tolist() if n % 7 == 6 and x.size else x
        dtype = x.dtype if given is x else np.dtype("f8")
        (got,) = model.run(None, {"x": given})
        assert got.dtype in (dtype, np.float32)
        np.testing.assert_array_equal(got, model.plan.run([np.asarray(given)])[0])


def test_results_are_the_callers_own():
    """What is known is computed once, and no caller can write into it."""
    operators = [
        ("Shape", "x", "s", {}),
        ("ConstantOfShape", "s", "y", {}),
        ("Add", "x y", "z", {}),
    ]
    model = model_of(operators, {}, "x", "y z s")
    for _ in range(40):
        x = np.ones((2, 3), "f4")
        y, z, s = model.run(None, {"x": x})
        np.testing.assert_array_equal(y, np.zeros((2, 3)))
        np.testing.assert_array_equal(z, x)
        assert s.tolist() == [2, 3]
        y += 1
        z += 1
        s += 1


def test_a_number_that_changes_chooses_again():
    operators = [("Equal", "n five", "c", {}), ("Where", "c x zero", "y", {})]
    model = model_of(operators, {"five": np.array(5), "zero": np.float32(0)}, "x n", "y")
    x = np.ones(3, "f4")
    for n in [5] * 30 + [4] + [5] * 3 + [4] * 30 + [5]:
        (y,) = model.run(None, {"x": x, "n": np.array(n)})
        np.testing.assert_array_equal(y, x * (n == 5))


def test_errors_stay_the_same():
    model = model_of([("Reshape", "x r", "y", {}), ("Size", "y", "n", {})], {}, "x r", "y n")
    feeds = {"x": np.ones(6), "r": np.array([2, 3])}
    for _ in range(40):
        model.run(None, feeds)
        with pytest.raises(ValueError, match="operator Reshape 'Reshape of y'"):
            model.run(None, {"x": np.ones(6), "r": np.array([4, 3])})
        with pytest.raises(ValueError, match="a value is missing for the input 'r'"):
            model.run(None, {"x": np.ones(6)})
        with pytest.raises(ValueError, match="there is no input 'z'"):
            model.run(None, {"x": np.ones(6), "z": np.array([2, 3])})
    for _ in range(40):
        with pytest.raises(ValueError, match="operator Reshape 'Reshape of y'"):
            model.run(None, {"x": np.ones(6), "r": np.array([4, 3])})
    fresh = model_of([("Neg", "x", "y", {})], {}, "x", "y")
    with pytest.raises(ValueError, match="a value is missing for the input 'x'"):
        fresh.run(None, {})


def test_pickled_models_and_streams():
    operators, constants = graph()
    model = model_of(
        [*operators, ("Add", "h p", "hn", {})],
        constants, "x h", "p hn", [State(Port("h", np.dtype("f4"), (3,)), "hn")],
    )  # fmt: skip
    stream, h = model.stream(), np.zeros(3, "f4")
    for n in range(50):
        x = RNG.normal(size=(3, 1)).astype("f4")
        again = pickle.loads(pickle.dumps(model)) if n % 10 == 9 else model
        p, hn = again.run(None, {"x": x, "h": h})
        np.testing.assert_array_equal(stream.run(x), p)
        np.testing.assert_array_equal(stream.state["h"], hn)
        h = hn


def test_a_pool_does_not_know_the_states_of_a_graph():
    model = model_of(*graph(), "x", "p")
    message = "a GraphModel keeps states that only a stream of it alone knows: GraphModel.stream"
    with pytest.raises(ValueError, match="^" + message):
        model.pool(2)
    with pytest.raises(ValueError, match="^'net': " + message):
        fastlstm.Sequential({"net": model}).pool(2)


def test_threads_with_shapes_of_their_own():
    model, faults = model_of(*graph(), "x", "p"), []

    def calls(size):
        for _ in range(200):
            x = np.random.default_rng(size).normal(size=(3, size)).astype("f4")
            if not np.array_equal(model.run(None, {"x": x})[0], model.plan.run([x])[0]):
                faults.append(size)

    threads = [threading.Thread(target=calls, args=(size,)) for size in (1, 1, 2, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults


# ---- what must not be kept ----------------------------------------------------------------------


def test_a_number_that_a_caller_writes_over_is_not_kept():
    """What follows from it may be a view of the caller's array."""
    nodes = [("Unsqueeze", "n axis", "end", {}), ("Slice", "x start end", "y", {})]
    model = model_of(nodes, {"axis": [0], "start": [0]}, "x n", "y")
    x, n = np.arange(8, dtype="f4"), np.array(3)
    for _ in range(20):
        assert len(model(x, n)) == 3
    assert kinds(model._alike._plan) == ["Slice"]
    n[...] = 5
    assert len(model(x, np.array(3))) == 3
    assert len(model(x, n)) == 5
