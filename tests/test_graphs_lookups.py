"""Rows of tables that LSTMs take, in graphs: the same bits as where the rows are made."""

import functools
import pickle

import numpy as np
import pytest
from support import assert_same_bits

import fastlstm
from fastlstm.graphs import keras_functions, lookups
from fastlstm.graphs.limits import Limits
from fastlstm.graphs.operators import node_of
from fastlstm.graphs.plan import Draft, Node, Operator, Plan
from fastlstm.layers.lookup import Lookup

ROWS, I, H, T, B = 11, 5, 8, 7, 3

TABLE = np.random.default_rng(0).standard_normal((ROWS, I)).astype(np.float32)
ORDER = np.array([2, 0, 1])


def lstm(x, y, directions=1, inputs=I, seed=1):
    """The operator and its constants."""
    rng = np.random.default_rng(seed)
    shapes = {
        f"W{y}": (directions, 4 * H, inputs), f"R{y}": (directions, 4 * H, H),
        f"B{y}": (directions, 8 * H),
    }  # fmt: skip
    constants = {
        name: rng.uniform(-1, 1, shape).astype(np.float32) for name, shape in shapes.items()
    }
    given = {"direction": "bidirectional"} if directions == 2 else {}
    return ("LSTM", {**given, "hidden_size": H}, (x, *shapes), (y,)), constants


def draft_of(operators, constants, engine="native", most=1 << 20):
    """A draft with the nodes of operators (type, attributes, inputs, outputs)."""
    draft = Draft(engine, Limits(most), 0)
    draft.constants.update(constants)
    for type_, attributes, inputs, outputs in operators:
        known = tuple(draft.constants.get(name) for name in inputs)
        told = "its " + outputs[0], type_, "", 18, attributes, inputs, outputs, known, draft
        draft.add(node_of(Operator(*told)), fold=False)
    return draft


def is_looked_up(draft, outputs=("y",)):
    """Whether some node gives no array to the LSTM."""
    before, after = draft.nodes, lookups.looked_up(draft, draft.nodes, outputs)
    assert len(before) == len(after)
    return any(one is not other for one, other in zip(before, after, strict=True))


def check(operators, constants, feeds, outputs=("y",), calls=8):
    """The plan gives the bits of its nodes as they were, in many calls, and its pickle too."""
    draft = draft_of(operators, constants)
    plain = Plan(draft.nodes, draft.constants, list(feeds), outputs)
    assert is_looked_up(draft_of(operators, constants), outputs)
    plan = draft.plan(list(feeds), outputs)
    rng = np.random.default_rng(0)
    layers = [layer for layer in draft.layers.values() if isinstance(layer, fastlstm.LSTM)]
    for _ in range(calls):
        values = [draw(rng) for draw in feeds.values()]
        for p in (plan, pickle.loads(pickle.dumps(plan))):
            for got, same in zip(p.run(values), plain.run(values), strict=True):
                assert_same_bits(np.ascontiguousarray(got), np.ascontiguousarray(same))
    assert all(layer._ahead.made is not None for layer in layers)


def words(*shape, least=0):
    return lambda rng: rng.integers(least, ROWS, shape)


def test_rows_come_to_the_lstm(native):
    node, constants = lstm("x", "y", 2)
    gather = ("Gather", {}, ("table", "words"), ("x",))
    check([gather, node], {**constants, "table": TABLE}, {"words": words(T, B)})


def test_indices_from_the_end_and_of_32_bits(native):
    node, constants = lstm("x", "y")
    gather = ("Gather", {}, ("table", "words"), ("x",))
    draw = words(T, B, least=-ROWS)
    check([gather, node], {**constants, "table": TABLE}, {"words": draw})
    check([gather, node], {**constants, "table": TABLE}, {"words": lambda r: draw(r).astype("i4")})


def test_rows_in_another_order(native):
    """As torch's exporters have a packed batch: its sequences are sorted, and steps come first."""
    node, constants = lstm("x", "y", 2)
    operators = [
        ("Gather", {}, ("table", "words"), ("rows",)),
        ("Gather", {"axis": 0}, ("rows", "order"), ("sorted",)),
        ("Transpose", {"perm": [1, 0, 2]}, ("sorted",), ("x",)),
        ("Shape", {}, ("x",), ("sizes",)),
        node,
    ]
    feeds = {"words": words(B, T), "order": lambda rng: rng.permutation(B)}
    check(operators, {**constants, "table": TABLE}, feeds, ("y", "sizes"))


def test_two_lstms_of_one_table(native):
    """One embedding is their layer."""
    (first, constants), (second, more) = lstm("x", "y"), lstm("other", "z", 2, seed=2)
    operators = [
        ("Gather", {}, ("table", "words"), ("x",)),
        ("Gather", {}, ("table", "letters"), ("other",)),
        first,
        second,
    ]
    feeds = {"words": words(T, B), "letters": words(T, 1)}
    constants |= {**more, "table": TABLE}
    check(operators, constants, feeds, ("y", "z"), calls=30)
    draft = draft_of(operators, constants)
    draft.plan(list(feeds), ["y", "z"])
    assert sum(isinstance(layer, fastlstm.Embedding) for layer in draft.layers.values()) == 1


# operators behind `rows` and the table that they come from: an array must be made
MADE = {
    "an output": ([("Identity", {}, ("rows",), ("x",))], TABLE, ("y", "x")),
    "taken twice": ([("Add", {}, ("rows", "rows"), ("x",))], TABLE, ("y",)),
    "taken elsewhere": (
        [("Relu", {}, ("rows",), ("z",)), ("Transpose", {"perm": [0, 1, 2]}, ("rows",), ("x",))],
        TABLE, ("y", "z"),
    ),
    "as the indices": ([("Gather", {}, ("list", "rows"), ("x",))], TABLE, ("y",)),
    "half a float": ([("Transpose", {"perm": [0, 1, 2]}, ("rows",), ("x",))],
                     TABLE.astype(np.float16), ("y",)),
    "three axes": ([("Transpose", {"perm": [0, 1, 2]}, ("rows",), ("x",))], TABLE[:, None], ("y",)),
}  # fmt: skip


@pytest.mark.parametrize("name", MADE)
def test_rows_that_are_made(native, name):
    behind, table, outputs = MADE[name]
    node, constants = lstm("x", "y")
    gather = ("Gather", {}, ("table", "words"), ("rows",))
    constants |= {"table": table, "list": np.zeros((4, T, B, I), np.float32)}
    draft = draft_of([gather, *behind, node], constants)
    assert not is_looked_up(draft, outputs)


def test_columns_of_a_table_are_made(native):
    node, constants = lstm("x", "y")
    gather = ("Gather", {"axis": 1}, ("table", "words"), ("x",))
    assert not is_looked_up(draft_of([gather, node], {**constants, "table": TABLE}))


@pytest.mark.parametrize("wrong", [ROWS, -ROWS - 1])
def test_indices_beyond_the_table(native, wrong):
    node, constants = lstm("x", "y")
    gather = ("Gather", {}, ("table", "words"), ("x",))
    plan = draft_of([gather, node], {**constants, "table": TABLE}).plan(["words"], ["y"])
    with pytest.raises(
        ValueError, match=f"operator Gather 'its x': index {wrong} is out of bounds"
    ):
        plan.run([np.array([[0], [wrong]])])


def test_as_many_rows_as_are_allowed(native):
    node, constants = lstm("x", "y")
    gather = ("Gather", {}, ("table", "words"), ("x",))
    most = 4 * I * 100
    plan = draft_of([gather, node], {**constants, "table": TABLE}, most=most).plan(["words"], ["y"])
    with pytest.raises(ValueError, match="max_bytes"):
        plan.run([np.zeros((101, 1), int)])


@pytest.mark.parametrize("engine", ["numba", "numpy"], indirect=True)
def test_engines_that_make_the_rows(engine):
    node, constants = lstm("x", "y")
    gather = ("Gather", {}, ("table", "words"), ("x",))
    draft = draft_of([gather, node], {**constants, "table": TABLE}, engine)
    plain = Plan(draft.nodes, draft.constants, ["words"], ["y"])
    plan, index = draft.plan(["words"], ["y"]), np.arange(ROWS).reshape(-1, 1)
    for _ in range(4):
        assert_same_bits(plan.run([index])[0], plain.run([index])[0])


@pytest.mark.parametrize("kind", ["LSTM", "Bidirectional"])
def test_keras_embedding(native, kind):
    """With and without a mask, which comes from the indices themselves; of floats too."""
    embedding = fastlstm.Embedding(ROWS, I, seed=0)
    layer = fastlstm.LSTM(
        I, H, batch_first=True, bidirectional=kind != "LSTM", engine="native", seed=1
    )
    layer.eval()
    if kind == "LSTM":
        compute = functools.partial(keras_functions.lstm, layer, True, False)
    else:
        both = functools.partial(keras_functions.both_ways, layer, True)
        compute = functools.partial(keras_functions.merged, "concat", both)
    draft = Draft("native", Limits(1 << 20), 0)
    ends = ("h", "c") if kind == "LSTM" else ("h", "c", "i", "d")
    draft.nodes = [
        Node("e", "Embedding", functools.partial(keras_functions.embedding, embedding),
             ("words",), ("x",), "fastlstm"),
        Node("m", "mask of Embedding", keras_functions.mask_of_zeros, ("words",), ("mask",)),
        Node("l", kind, compute, ("x", "mask"), ("y", *ends), "fastlstm"),
    ]  # fmt: skip
    assert is_looked_up(draft)
    plain = Plan(draft.nodes, {}, ["words"], ["y", "h"])
    plan, rng = draft.plan(["words"], ["y", "h"]), np.random.default_rng(0)
    for dtype in ("int64", "int32", "float32") * 4:
        index = rng.integers(0, ROWS, (B, T)).astype(dtype)
        for got, same in zip(plan.run([index]), plain.run([index]), strict=True):
            assert_same_bits(np.ascontiguousarray(got), np.ascontiguousarray(same))
    assert layer._ahead.made is not None


def test_a_lookup_is_like_its_rows():
    """What it says of itself, and every order of its axes; with the features' it is an array."""
    embedding, index = fastlstm.Embedding(ROWS, I, seed=0), np.arange(6).reshape(3, 2)
    lookup = Lookup(embedding, index)
    rows = embedding(index)
    for name in ("shape", "size", "dtype", "itemsize"):
        assert getattr(lookup, name) == getattr(rows, name)
    orders = ("take", ORDER, 0), ("take", np.array([[1, 0]]), 1), ("transpose", (1, 0, 2))
    orders += (("swapaxes", 0, 1),)
    others = ("take", ORDER, 2), ("take", ORDER, -1), ("transpose", (2, 0, 1)), ("transpose",)
    others += ("transpose", (0, 2, 1)), ("transpose", (-2, -3, 2)), ("swapaxes", 0, 2)
    others += (("swapaxes", -1, -2),)
    for n, (method, *arguments) in enumerate(orders + others):
        got, same = (getattr(x, method)(*arguments) for x in (lookup, rows))
        assert isinstance(got, Lookup) == (n < len(orders))
        got = got.rows() if isinstance(got, Lookup) else got
        assert_same_bits(np.ascontiguousarray(got), np.ascontiguousarray(same))
