"""LSTM cells that a file spells out become one LSTM, with the same values; nothing else does."""

import pickle

import numpy as np
import pytest

from fastlstm import LSTM
from fastlstm.graphs.limits import Limits
from fastlstm.graphs.operators import node_of
from fastlstm.graphs.plan import Draft, Operator, Plan

I, H = 3, 5
RNG = np.random.default_rng(0)
CONSTANTS = {
    "wh": RNG.normal(size=(4 * H, H)).astype("f4"),
    "wx": RNG.normal(size=(4 * H, I)).astype("f4"),
    "bh": RNG.normal(size=4 * H).astype("f4"),
    "bx": RNG.normal(size=4 * H).astype("f4"),
}
FEEDS = {
    "x": RNG.normal(size=(2, I)).astype("f4"),
    "h": RNG.normal(size=(2, H)).astype("f4"),
    "c": RNG.normal(size=(2, H)).astype("f4"),
}
CELL = [
    ("Gemm", "h wh bh", "zh", {"transB": 1}),
    ("Gemm", "x wx bx", "zx", {"transB": 1}),
    ("Add", "zh zx", "z", {}),
    ("Split", "z", "i f g o", {"axis": 1}),
    ("Sigmoid", "i", "si", {}),
    ("Sigmoid", "f", "sf", {}),
    ("Tanh", "g", "tg", {}),
    ("Sigmoid", "o", "so", {}),
    ("Mul", "sf c", "kept", {}),
    ("Mul", "si tg", "added", {}),
    ("Add", "kept added", "cn", {}),
    ("Tanh", "cn", "tc", {}),
    ("Mul", "so tc", "hn", {}),
]


def draft_of(operators, constants=CONSTANTS):
    draft = Draft("auto", Limits(1 << 20), 1 << 30)
    draft.constants |= constants
    for kind, inputs, outputs, attributes in operators:
        names = tuple(inputs.split())
        known = tuple(draft.constants.get(name) for name in names)
        made = Operator(
            f"{kind} of {outputs}", kind, "", 17, attributes, names, tuple(outputs.split()), known,
            draft,
        )  # fmt: skip
        draft.add(node_of(made))
    return draft


def plans(operators, outputs="hn cn", constants=CONSTANTS, inputs="x h c"):
    """Return the plan of the nodes as they are, and that of the draft."""
    draft = draft_of(operators, constants)
    plain = Plan(draft.nodes, draft.constants, inputs.split(), outputs.split())
    return plain, draft.plan(inputs.split(), outputs.split()), draft


def compare(plain, made, feeds):
    """Sums of 10 products of about 1, and what gates make of them, differ by some roundings."""
    for got, expected in zip(made.run(feeds), plain.run(feeds), strict=True):
        assert got.shape == expected.shape
        assert got.dtype == expected.dtype
        np.testing.assert_allclose(got, expected, rtol=0, atol=40 * np.finfo(np.float32).eps)


def replaced(old, new):
    """Return the cell with another operator in place of one."""
    assert old in CELL
    return [new if operator == old else operator for operator in CELL]


SPELT = {
    "as exported": CELL,
    "x before h": replaced(CELL[2], ("Add", "zx zh", "z", {})),
    "products the other way": replaced(CELL[8], ("Mul", "c sf", "kept", {})),
    "sums the other way": replaced(CELL[10], ("Add", "added kept", "cn", {})),
    "no bias": replaced(CELL[0], ("Gemm", "h wh", "zh", {"transB": 1})),
    "the last axis": replaced(CELL[3], ("Split", "z", "i f g o", {"axis": -1})),
}


@pytest.mark.parametrize("how", SPELT)
def test_a_cell_becomes_an_lstm(how):
    plain, made, draft = plans(SPELT[how])
    assert [(node.type, node.by) for node in made.nodes] == [("LSTM", "fastlstm")]
    compare(plain, made, [*FEEDS.values()])
    (layer,) = draft.layers.values()
    assert isinstance(layer, LSTM)
    assert not layer.training
    np.testing.assert_array_equal(layer.weight_ih_l0, CONSTANTS["wx"])
    np.testing.assert_array_equal(layer.weight_hh_l0, CONSTANTS["wh"])
    compare(plain, pickle.loads(pickle.dumps(made)), [*FEEDS.values()])


def test_cells_one_above_the_other():
    own = {name for _, _, outputs, _ in CELL for name in outputs.split()}

    def named(names):
        return " ".join(f"{name}2" if name in own else name for name in names.split())

    above = [
        (kind, named(takes), named(gives), attributes) for kind, takes, gives, attributes in CELL
    ]
    above[1] = ("Gemm", "hn wh bh", "zx2", {"transB": 1})
    plain, made, draft = plans([*CELL, *above], "hn2 cn2 cn")
    assert [node.type for node in made.nodes] == ["LSTM", "LSTM"]
    assert len(draft.layers) == 2
    compare(plain, made, [*FEEDS.values()])


def test_values_around_a_cell_may_be_taken_often():
    more = [*CELL, ("Neg", "cn", "n", {}), ("Abs", "hn", "a", {}), ("Relu", "h", "r", {})]
    plain, made, _ = plans(more, "n a r hn cn")
    assert [node.type for node in made.nodes] == ["LSTM", "Neg", "Abs", "Relu"]
    compare(plain, made, [*FEEDS.values()])


@pytest.mark.parametrize(
    "shapes",
    [((1, I), (2, H), (2, H)), ((2, I), (1, H), (2, H)), ((2, I), (2, H), (1, 1)),
     ((0, I), (0, H), (0, H))],
    ids=str,
)  # fmt: skip
def test_one_row_goes_with_all_others(shapes):
    plain, made, _ = plans(CELL)
    compare(plain, made, [RNG.normal(size=shape).astype("f4") for shape in shapes])


def test_more_axes():
    """A Gemm has two; a MatMul any number, and then the split is along the last one."""
    operators = [
        ("MatMul", "h wh", "ph", {}),
        ("Add", "ph bh", "zh", {}),
        ("MatMul", "x wx", "zx", {}),
        CELL[2],
        ("Split", "z", "i f g o", {"axis": -1}),
        *CELL[4:],
    ]
    turned = {**CONSTANTS, "wh": CONSTANTS["wh"].T, "wx": CONSTANTS["wx"].T}
    draft = draft_of(operators, turned)
    plain = Plan(draft.nodes, draft.constants, ["x", "h", "c"], ["hn", "cn"])
    made = draft.plan(["x", "h", "c"], ["hn", "cn"])
    for rows in (2,), (3, 2), (2, 1, 2), ():
        feeds = [RNG.normal(size=(*rows, size)).astype("f4") for size in (I, H, H)]
        compare(plain, made, feeds)


OTHERS = {
    "another order of gates": replaced(CELL[3], ("Split", "z", "i g f o", {"axis": 1})),
    "another function": replaced(CELL[6], ("Sigmoid", "g", "tg", {})),
    "no tanh of c": replaced(CELL[11], ("Relu", "cn", "tc", {})),
    "a difference": replaced(CELL[10], ("Sub", "kept", "cn", {})),
    "a gate that is an output": CELL,
    "a gate that is taken twice": [*CELL, ("Neg", "si", "n", {})],
    "no sum of products": replaced(CELL[2], ("Mul", "zh zx", "z", {})),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_no_cell(what):
    operators, outputs = OTHERS[what], "hn cn"
    if what == "a difference":
        operators = replaced(CELL[10], ("Sub", "kept added", "cn", {}))
    if what == "a gate that is an output":
        outputs += " si"
    if what == "a gate that is taken twice":
        outputs += " n"
    plain, made, _ = plans(operators, outputs)
    assert "LSTM" not in [node.type for node in made.nodes]
    for got, expected in zip(
        made.run([*FEEDS.values()]), plain.run([*FEEDS.values()]), strict=True
    ):
        np.testing.assert_array_equal(got, expected)


def test_weights_that_are_computed_are_no_cell():
    constants = {name: value for name, value in CONSTANTS.items() if name != "wh"}
    plain, made, _ = plans(CELL, "hn cn", constants, "x h c wh")
    assert "LSTM" not in [node.type for node in made.nodes]
    compare(plain, made, [*FEEDS.values(), CONSTANTS["wh"]])


def test_wrong_shapes_are_an_error():
    _, made, _ = plans(CELL)
    for shapes in ((2, I + 1), (2, H), (2, H)), ((2, I), (3, H), (2, H)), ((2, I), (2, H), (2, I)):
        with pytest.raises(ValueError, match="operator LSTM 'Gemm of zh'"):
            made.run([np.zeros(shape, "f4") for shape in shapes])
    with pytest.raises(ValueError, match="must have 2 axes"):
        made.run([np.zeros((2, 2, size), "f4") for size in (I, H, H)])


def test_a_wrong_cell_is_noticed():
    """With the gates of another cell, or the biases left out, values are far apart."""
    plain, made, draft = plans(CELL)
    (layer,) = draft.layers.values()
    layer.bias_ih_l0 = np.zeros(4 * H)
    with pytest.raises(AssertionError):
        compare(plain, made, [*FEEDS.values()])
