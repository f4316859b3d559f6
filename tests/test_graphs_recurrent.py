"""ONNX's operator LSTM against onnxruntime, and against its text where that does not run it.

`Case` is a node with its values. Its options are drawn so that every pair of values of two options
is in one of the `CASES`.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import pickle
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from gradients import assert_within, roundings, spread
from peers import has_vnni
from saboteurs import edited

from fastlstm.cli.graph import operators
from fastlstm.graphs import GraphModel, recurrent
from fastlstm.graphs.limits import Limits
from fastlstm.graphs.operators import node_of
from fastlstm.graphs.plan import Draft, Operator, Plan

Values = dict[str, Any]

T, B, I, H = 5, 4, 3, 6
INPUTS = "X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"
QUANTISED = *INPUTS, "W_scale", "W_zero_point", "R_scale", "R_zero_point"
OUTPUTS = "Y", "Y_h", "Y_c"
LENGTHS = {"full": (T, T, T, T), "ragged": (2, 5, 0, 4), "short": (3, 1, 3, 2)}

# The activations of ONNX, with how many of alpha and beta they take.
FUNCTIONS = {
    "Sigmoid": 0, "Tanh": 0, "Relu": 0, "Softsign": 0, "Softplus": 0, "LeakyRelu": 1,
    "ThresholdedRelu": 1, "Elu": 1, "HardSigmoid": 2, "ScaledTanh": 2, "Affine": 2,
}  # fmt: skip
_NAMES = [*FUNCTIONS]


def _functions(names: Sequence[str], given: str) -> Values:
    """The attributes for these activations, with all parameters, with the first ones, or none."""
    attributes: Values = {"activations": [*names]}
    for least, name in (1, "activation_alpha"), (2, "activation_beta"):
        count = sum(FUNCTIONS[function] >= least for function in names)
        numbers = [round(0.55 - 0.09 * k * least, 2) for k in range(count)]
        numbers = numbers[: {"all": count, "some": count // 2, "none": 0}[given]]
        attributes |= {name: numbers} if numbers else {}
    return attributes


class Case(NamedTuple):
    """A node LSTM.

    `functions` is the place of its first activation among all, None for no attribute; the others
    follow in some distance, and with `apart` the second direction has others than the first.
    """

    direction: str = "forward"
    bias: bool = True
    peephole: bool = False
    clip: float | None = None
    input_forget: int = 0
    functions: int | None = None
    parameters: str = "all"
    spelling: Callable[[str], str] = str
    apart: bool = False
    lengths: str = ""
    states: str = ""
    outputs: tuple[str, ...] = OUTPUTS
    layout: int = 0
    known: str = "WRBP"
    opset: int = 14
    seed: int = 0

    @property
    def directions(self) -> int:
        return 1 + (self.direction == "bidirectional")

    def attributes(self) -> Values:
        """The attributes of the node, but for the layout, which onnxruntime has not."""
        own: Values = {"hidden_size": H}
        own |= {} if self.direction == "forward" else {"direction": self.direction}
        own |= {} if self.clip is None else {"clip": self.clip}
        own |= {"input_forget": self.input_forget} if self.input_forget else {}
        if self.functions is not None:
            first = self.functions
            names = [_NAMES[(first + k) % 11] for k in (0, 3, 7)]
            if self.directions == 2:
                names += [
                    _NAMES[(first + k) % 11] for k in ((1, 5, 2) if self.apart else (0, 3, 7))
                ]
            own |= _functions(names, self.parameters)
            own["activations"] = [self.spelling(name) for name in names]
        return own

    def values(self) -> Values:
        """The values of the inputs in layout 0, distinct random numbers."""
        rng, d = np.random.default_rng([17, self.seed]), self.directions
        shapes = {"X": (T, B, I), "W": (d, 4 * H, I), "R": (d, 4 * H, H)}
        shapes |= {"B": (d, 8 * H)} if self.bias else {}
        shapes |= {"P": (d, 3 * H)} if self.peephole else {}
        shapes |= {f"initial_{state}": (d, B, H) for state in self.states}
        # Small, for activations such as Relu make states grow from step to step.
        scale = {"X": 1, "W": 0.3, "R": 0.2, "B": 0.2, "P": 0.3}
        values: Values = {
            name: (scale.get(name, 0.5) * rng.standard_normal(shape)).astype("float32")
            for name, shape in shapes.items()
        }
        if self.lengths:
            values["sequence_lens"] = np.array(LENGTHS[self.lengths], "int32")
        return values


def graph(
    values: Values,
    attributes: Values,
    outputs: Sequence[str] = OUTPUTS,
    known: str | Sequence[str] = "WRBP",
    engine: str = "auto",
    make: Any = None,
    operator: str = "LSTM",
    opset: int = 14,
    limits: Limits | None = None,
) -> tuple[Plan, list[str], Draft]:
    """Return the plan of one node, the names of what it takes, and the draft."""
    order = INPUTS if operator == "LSTM" else QUANTISED
    inputs = [name if name in values else "" for name in order]
    while not inputs[-1]:
        inputs.pop()
    draft = Draft(engine, limits or Limits(1 << 30), 1 << 30)
    draft.constants |= {name: value for name, value in values.items() if name in known}
    constants = tuple(draft.constants.get(name) for name in inputs)
    domain = "" if operator == "LSTM" else "com.microsoft"
    draft.add(
        (make or node_of)(
            Operator(
                "node", operator, domain, opset, attributes, tuple(inputs), tuple(outputs),
                constants, draft,
            )
        )
    )  # fmt: skip
    free = [name for name in values if name not in draft.constants]
    return draft.plan(free, [name for name in outputs if name]), free, draft


def run(values: Values, attributes: Values, outputs: Sequence[str] = OUTPUTS, **how: Any) -> Values:
    """What our plan of one node gives, by names; it writes into nothing that it takes."""
    plan, free, _ = graph(values, attributes, outputs, **how)
    before = pickle.dumps(values)
    results = plan.run([values[name] for name in free])
    assert before == pickle.dumps(values), "an input is changed"
    return dict(zip([name for name in outputs if name], results, strict=True))


def onnxruntime_run(
    values: Values,
    attributes: Values,
    outputs: Sequence[str] = OUTPUTS,
    operator: str = "LSTM",
    opset: int = 14,
) -> Values:
    """What onnxruntime gives for the same node."""
    onnx = pytest.importorskip("onnx", reason="makes the model for onnxruntime")
    onnxruntime = pytest.importorskip("onnxruntime", reason="its values are the reference")
    helper = onnx.helper
    order = INPUTS if operator == "LSTM" else QUANTISED
    inputs = [name if name in values else "" for name in order]
    node = helper.make_node(operator, inputs, [*outputs], **attributes)
    opsets = [helper.make_opsetid("", opset)]
    if operator != "LSTM":
        node.domain = "com.microsoft"
        opsets.append(helper.make_opsetid("com.microsoft", 1))
    ends = [
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for n, v in values.items()
        ],
        [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in outputs if n],
    ]
    model = helper.make_model(
        helper.make_graph([node], "lstm", *ends), opset_imports=opsets, ir_version=8
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return dict(zip([n for n in outputs if n], session.run(None, values), strict=True))


# ---- the text of ONNX -----------------------------------------------------------------------

_BY_NAME: dict[str, Callable[..., Any]] = {
    "sigmoid": lambda x: (1 + np.tanh(x / 2)) / 2,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "softsign": lambda x: x / (1 + abs(x)),
    "softplus": lambda x: np.logaddexp(x, 0),
    "leakyrelu": lambda x, alpha=0.01: np.where(x >= 0, x, alpha * x),
    "thresholdedrelu": lambda x, alpha=0: np.where(x > alpha, x, 0),
    "elu": lambda x, alpha=1: np.where(x >= 0, x, alpha * np.expm1(np.minimum(x, 0))),
    "hardsigmoid": lambda x, alpha=0.2, beta=0.5: np.clip(alpha * x + beta, 0, 1),
    "scaledtanh": lambda x, alpha=0, beta=0: alpha * np.tanh(beta * x),
    "affine": lambda x, alpha=0, beta=0: alpha * x + beta,
}


def by_hand(values: Values, attributes: Values) -> Values:
    """The operator in float64, sequence by sequence and step by step."""
    v = {n: a.astype(float) if a.dtype.kind == "f" else a for n, a in values.items()}
    d, steps, rows = len(v["W"]), *v["X"].shape[:2]
    names = [n.lower() for n in attributes.get("activations", ("Sigmoid", "Tanh", "Tanh") * d)]
    alphas = iter(attributes.get("activation_alpha", ()))
    betas = iter(attributes.get("activation_beta", ()))
    counts = {name.lower(): count for name, count in FUNCTIONS.items()}
    functions = []
    for name in names:
        keywords = {}
        if counts[name] > 0 and (alpha := next(alphas, None)) is not None:
            keywords["alpha"] = alpha
        if counts[name] > 1 and (beta := next(betas, None)) is not None:
            keywords["beta"] = beta
        functions.append(functools.partial(_BY_NAME[name], **keywords))
    bound = attributes.get("clip", np.inf)
    h_size = v["R"].shape[2]
    zeros, none = np.zeros((d, rows, h_size)), np.zeros((d, 3 * h_size))
    results = {"Y": np.zeros((steps, d, rows, h_size)), "Y_h": 0 * zeros, "Y_c": 0 * zeros}
    lengths = v.get("sequence_lens", [steps] * rows)
    for k, row in itertools.product(range(d), range(rows)):
        f, g, out = functions[3 * k : 3 * k + 3]
        w_bias, r_bias = np.split(v.get("B", np.zeros((d, 8 * h_size)))[k], 2)
        p_i, p_o, p_f = np.split(v.get("P", none)[k], 3)
        h, c = v.get("initial_h", zeros)[k, row], v.get("initial_c", zeros)[k, row]
        order = range(lengths[row])
        if k == 1 or attributes.get("direction") == "reverse":
            order = order[::-1]
        for t in order:
            gates = v["W"][k] @ v["X"][t, row] + w_bias + v["R"][k] @ h + r_bias
            z_i, z_o, z_f, z_c = np.split(gates, 4)
            i = f(np.clip(z_i + p_i * c, -bound, bound))
            forget = f(np.clip(z_f + p_f * c, -bound, bound))
            if attributes.get("input_forget"):
                forget = 1 - i
            c = forget * c + i * g(np.clip(z_c, -bound, bound))
            h = f(np.clip(z_o + p_o * c, -bound, bound)) * out(c)
            results["Y"][t, k, row] = h
        if lengths[row]:
            results["Y_h"][k, row], results["Y_c"][k, row] = h, c
    return results


# ---- the comparison -------------------------------------------------------------------------

_SWAPPED = {"X": (1, 0, 2), "Y": (2, 0, 1, 3)}  # layout 0 to 1; states have their first two swapped


def batchwise(values: Values) -> Values:
    """Values of layout 0 as layout 1 has them."""
    swapped = dict(values)
    for name, value in values.items():
        if name in ("X", "Y") or name.startswith(("initial", "Y_")):
            axes = _SWAPPED.get(name, (1, 0, 2))
            swapped[name] = np.ascontiguousarray(value.transpose(axes))
    return swapped


@functools.cache
def _expected(case: Case) -> tuple[Values, Values, Values]:
    """The values of a case, what onnxruntime makes of them, and how far each may move."""
    values, attributes = case.values(), case.attributes()
    expected = onnxruntime_run(values, attributes, case.outputs, opset=case.opset)
    exact, moves = spread(lambda v: by_hand(v, attributes), values | _doubled(values))
    named = {name: exact[name].astype("float32") for name in expected}
    count = 2 * roundings("native", I + H + 1, options=True)
    assert_within(expected, named, moves, count, "float32")  # the text says what onnxruntime does
    return values, expected, moves


def _doubled(values: Values) -> Values:
    return {name: v.astype(float) for name, v in values.items() if v.dtype.kind == "f"}


def assert_agrees(
    case: Case,
    engine: str,
    attributes: Values | None = None,
    change: Callable[[Values], Values] = dict,
    **how: Any,
) -> None:
    """Assert that our node gives what onnxruntime gives.

    Saboteurs pass other `attributes`, or a `change` of the values.
    """
    values, expected, moves = _expected(case)
    values, attributes = change(values), case.attributes() if attributes is None else attributes
    if case.layout:
        values, attributes = batchwise(values), {"layout": 1} | attributes
        expected = batchwise(expected)
    how = {"known": case.known, "opset": case.opset, "engine": engine} | how
    got = run(values, attributes, case.outputs, **how)
    count = 2 * roundings("native", I + H + 1, options=True)
    assert_within(got, expected, moves, count, "float32")


def pairwise(**options: Sequence[Any]) -> list[dict[str, Any]]:
    """Choices of one value for each option, until every pair of two values is in one of them."""
    rng, names = np.random.default_rng(0), [*options]
    sizes = [len(values) for values in options.values()]
    open_pairs = {
        (m, i, n, j)
        for m, n in itertools.combinations(range(len(names)), 2)
        for i, j in itertools.product(range(sizes[m]), range(sizes[n]))
    }
    chosen = []
    while open_pairs:
        m, i, n, j = min(open_pairs)
        best: tuple[int, Any] = (-1, None)
        for _ in range(20):
            place = [int(rng.integers(size)) for size in sizes]
            place[m], place[n] = i, j
            pairs = {(a, place[a], b, place[b])
                     for a, b in itertools.combinations(range(len(names)), 2)}  # fmt: skip
            best = max(best, (len(pairs & open_pairs), place), key=lambda entry: entry[0])
            if best[1] is place:
                covered = pairs
        open_pairs -= covered
        chosen.append({name: options[name][k] for name, k in zip(names, best[1], strict=True)})
    return chosen


CASES = [
    Case(**options, seed=seed)
    for seed, options in enumerate(
        pairwise(
            functions=[None, *range(11)],
            outputs=[*itertools.product(*[(name, "") for name in OUTPUTS])][:-1],
            direction=["forward", "reverse", "bidirectional", "bidirectional"],
            lengths=["", *LENGTHS],
            states=["", "h", "c", "hc"],
            parameters=["all", "some", "none"],
            spelling=[str, str.lower, str.upper],
            opset=[7, 14, 22],
            bias=[True, False],
            peephole=[False, True],
            clip=[None, 0.5],
            input_forget=[0, 1],
            apart=[False, True],
            layout=[0, 1],
            known=["WRBP", "WR", ""],
        )
    )
]


@pytest.mark.parametrize("seed", range(len(CASES)))
def test_pairs_of_options(engine, seed):
    assert_agrees(CASES[seed], engine)


@pytest.mark.parametrize("place", range(11), ids=_NAMES)
def test_parameters_that_the_file_leaves_out(place):
    """They are onnxruntime's, as is what is taken from a list that is too long."""
    for parameters, apart in itertools.product(("none", "some"), (False, True)):
        case = Case("bidirectional", functions=place, parameters=parameters, apart=apart)
        assert_agrees(case, "auto")
    longer = Case(functions=place).attributes()
    longer |= {
        name: [*longer.get(name, ()), 9.0] for name in ("activation_alpha", "activation_beta")
    }
    assert_agrees(Case(functions=place), "auto", longer)


# ---- saboteurs ------------------------------------------------------------------------------

FULL = Case(
    "bidirectional", peephole=True, clip=0.5, functions=8, apart=True, lengths="ragged",
    states="hc", input_forget=1,
)  # fmt: skip
SIMPLE = FULL._replace(functions=None, input_forget=0)


def _permuted(names: str, order: Sequence[int]) -> Callable[[Values], Values]:
    """Return a change that brings the blocks of H rows of these weights into another order."""

    def change(values: Values) -> Values:
        changed = dict(values)
        for name in names:
            whole = values[name]
            blocks = whole.reshape(len(whole), -1, len(order), H, *whole.shape[2:])
            changed[name] = blocks[:, :, [*order]].reshape(whole.shape)
        return changed

    return change


def _swapped(*names: str) -> Callable[[Values], Values]:
    return lambda values: values | dict(zip(names, [values[n] for n in names[::-1]], strict=True))


def _without(*names: str) -> Callable[[Values], Values]:
    return lambda values: {name: value for name, value in values.items() if name not in names}


@pytest.mark.parametrize(
    "change",
    [
        _permuted("WRB", (0, 2, 1, 3)),
        _permuted("WRB", (0, 1, 3, 2)),
        _permuted("P", (0, 2, 1)),
        _permuted("B", (1, 0, 2, 3)),
        lambda values: values | {name: values[name][::-1] for name in "WRBP"},
        _without("sequence_lens"),
        _without("P"),
        _without("B"),
        _without("initial_h"),
        _without("initial_c"),
        _swapped("initial_h", "initial_c"),
        lambda v: v | {"R": v["R"].reshape(2, 4, H, H).swapaxes(2, 3).reshape(2, -1, H)},
    ],
    ids=["gates o, f", "gates f, c", "peepholes", "bias", "directions", "lengths", "no P", "no B",
         "no h", "no c", "h and c", "transposed"],
)  # fmt: skip
def test_saboteurs_of_values(change):
    assert_agrees(SIMPLE, "auto")
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_agrees(SIMPLE, "auto", change=change)


@pytest.mark.parametrize(
    ("case", "wrong"),
    [
        (FULL, {"clip": None}),
        (FULL, {"clip": 0.51}),
        (FULL, {"input_forget": 0}),
        (FULL, {"activations": None}),
        (FULL, {"activation_alpha": None}),
        (FULL, {"activation_beta": None}),
        (FULL, {"activation_alpha": FULL.attributes()["activation_alpha"][::-1]}),
        (FULL, {"activations": FULL.attributes()["activations"][3:] * 2}),
        (Case("reverse"), {"direction": "forward"}),
        (Case("reverse", lengths="ragged"), {"direction": None}),
    ],
    ids=str,
)
def test_saboteurs_of_attributes(case, wrong):
    attributes = {n: a for n, a in (case.attributes() | wrong).items() if a is not None}
    assert_agrees(case, "auto")
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_agrees(case, "auto", attributes)


BATCHWISE = Case("reverse", layout=1)


@pytest.mark.parametrize(
    ("case", "place", "old", "new"),
    [
        (FULL, "_Run.__call__", "h[:, lengths == 0] = c[:, lengths == 0] = 0", "pass"),
        (FULL, "_Run._lengths", "(lengths == steps).all()", "(lengths == steps).any()"),
        (FULL, "_layers", "layer(slice(1, 2), other, reverse=True)", "layer(slice(1, 2), other)"),
        (FULL, "_both", "(hx[0][k : k + 1], hx[1][k : k + 1])", "(hx[0][:1], hx[1][:1])"),
        (FULL._replace(states="c"), "_Run._states", "np.zeros(e, d)", "np.ones(e, d)"),
        (SIMPLE, "_Run._results", "y.transpose(0, 2, 1, 3)", "y.reshape(5, 2, 4, 6)"),
        (BATCHWISE, "_form", "layout == 1", "layout == 2"),
        (BATCHWISE, "_Run._results", "(h.swapaxes(0, 1), c.swapaxes(0, 1))", "(h, c)"),
        (FULL, "functions", "next(n, d)", "d"),
        (FULL, "_form", "check_size('input_forget', forget, least=None)", "0"),
        (Case(outputs=("", "Y_h")), "_Run._results", "y, h, c", "y, c, h"),
    ],
    ids=lambda part: "" if isinstance(part, Case) else part,
)  # fmt: skip
def test_saboteurs_of_the_code(case, place, old, new):
    make = edited(recurrent, place, old, new).lstm
    assert_agrees(case, "auto")
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_agrees(case, "auto", make=make)


# ---- what onnxruntime does not do -----------------------------------------------------------


def test_float64(engine):
    """Every third case against the text of ONNX."""
    for case in CASES[::3]:
        values, attributes = case.values(), case.attributes()
        values |= _doubled(values)
        expected, moves = spread(lambda v, a=attributes: by_hand(v, a), values)
        if case.layout:
            values, attributes = batchwise(values), attributes | {"layout": 1}
            expected = batchwise(expected)
        got = run(values, attributes, case.outputs, known=case.known, engine=engine)
        count = roundings(engine, I + H + 1, options=True)
        assert_within(got, {name: expected[name] for name in got}, moves, count, "float64")


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("known", ["WRBP", ""])
def test_half_types_are_computed_in_float32(kind, known):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="has bfloat16") if kind[0] == "b" else np
    half = np.dtype(getattr(ml_dtypes, kind))
    for case in (FULL, SIMPLE, SIMPLE._replace(states="", outputs=("", "Y_h"))):
        values = {n: v.astype(half) if v.dtype.kind == "f" else v for n, v in case.values().items()}
        wide = {n: v.astype("f4") if v.dtype == half else v for n, v in values.items()}
        got = run(values, case.attributes(), case.outputs, known=known)
        for name, expected in run(wide, case.attributes(), case.outputs).items():
            assert got[name].dtype == half
            np.testing.assert_array_equal(got[name], expected.astype(half), err_msg=name)


def test_what_is_beyond_half_types_is_infinite():
    shapes = {"X": (1, 1, 1), "W": (1, 4, 1), "R": (1, 4, 1)}
    values = {name: np.ones(shape, "float16") for name, shape in shapes.items()}
    activations = {"activation_alpha": [1e3] * 3, "activation_beta": [0.0] * 3}
    got = run(values, {"activations": ["Affine"] * 3} | activations)
    assert np.isinf(got["Y"]).all()


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("apart", [False, True])
def test_nothing_to_run(direction, layout, apart):
    """Without steps everything is zeros, whatever the states were.

    onnxruntime has zeros too, but for Y_c, where it has what happens to be in memory if there is no
    step at all; without sequences it ends the process.
    """
    case = Case(direction, functions=2, apart=apart, states="hc")
    values, attributes = case.values(), case.attributes()
    for change, lengths in (
        ({"X": values["X"][:0]}, None),
        ({"X": values["X"][:0]}, np.zeros(B, "int32")),
        ({"X": values["X"][:, :0]} | {f"initial_{s}": values[f"initial_{s}"][:, :0] for s in "hc"},
         None),
        ({}, np.zeros(B, "int32")),
    ):  # fmt: skip
        given = values | change
        if lengths is not None:
            given["sequence_lens"] = lengths
        expected = {
            name: np.zeros_like(value) for name, value in by_hand(given, attributes).items()
        }
        if given["X"].shape[1]:
            theirs = onnxruntime_run(given, attributes)
            assert not theirs["Y"].any() and not theirs["Y_h"].any()
        own = attributes
        if layout:
            given, expected, own = batchwise(given), batchwise(expected), {"layout": 1} | attributes
        for name, got in run(given, own).items():
            assert got.shape == expected[name].shape and got.dtype == "float32", name
            assert not got.any(), name


def test_onnx_own_cases(engine, monkeypatch):
    """What the package onnx has to test backends with, batchwise (layout 1) included."""
    pytest.importorskip("onnx")
    lstm = importlib.import_module("onnx.backend.test.case.node.lstm")
    cases = []
    monkeypatch.setattr(lstm, "expect", lambda node, **case: cases.append((node, case)))
    for name in vars(lstm.LSTM):
        if name.startswith("export"):
            getattr(lstm.LSTM, name)()
    assert len(cases) >= 6
    import onnx

    for node, case in cases:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        attributes = {n: a.decode() if isinstance(a, bytes) else a for n, a in attributes.items()}
        order = [name for name in node.input if name]
        values = dict(zip(order, case["inputs"], strict=True))
        outputs = [name for name in node.output if name]
        for known in ("WRBP", ""):
            got = run(values, attributes, [*node.output], known=known, engine=engine)
            for name, expected in zip(outputs, case["outputs"], strict=True):
                assert got[name].shape == expected.shape
                np.testing.assert_allclose(got[name], expected, rtol=2e-5, atol=1e-6)


# ---- com.microsoft DynamicQuantizeLSTM ------------------------------------------------------


def _quantised(kind: str, per_channel: bool, directions: int) -> tuple[Values, Values]:
    """The values of a DynamicQuantizeLSTM, and those of an LSTM with the same weights as floats."""
    rng, direction = np.random.default_rng(3), "bidirectional" if directions == 2 else "forward"
    floats = Case(direction, peephole=True, states="hc", lengths="ragged").values()
    values, bounds = dict(floats), np.iinfo(kind)
    for name, wide in ("W", I), ("R", H):
        shape = (directions, 4 * H) if per_channel else (directions,)
        values[name] = rng.integers(
            bounds.min, bounds.max, (directions, wide, 4 * H), kind, endpoint=True
        )
        zero = [0, 0] if kind == "int8" else [120, 120] if per_channel else [120, 131]
        zero = zero[:directions]
        scale = (0.6 / 128 * rng.uniform(0.5, 1, shape)).astype("float32")
        zero_point = np.empty(shape, kind)
        zero_point.T[...] = zero
        values |= {f"{name}_scale": scale, f"{name}_zero_point": zero_point}
        shifted = values[name].astype("float32") - np.reshape(zero, (-1, 1, 1)).astype("float32")
        per_row = scale[:, None, :] if per_channel else scale[:, None, None]
        floats[name] = np.ascontiguousarray((shifted * per_row).transpose(0, 2, 1))
    return {name: values[name] for name in QUANTISED if name in values}, floats


@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("directions", [1, 2])
def test_quantised_weights_run_as_floats(engine, kind, per_channel, directions):
    """The values are those of an LSTM with these weights, and near those of onnxruntime's kernel.

    That rounds x and h too, to 255 levels of their range, so by 2 / 255 / 2 of the largest value at
    most; to see where that leads, `spread` moves values by about so much.
    """
    values, floats = _quantised(kind, per_channel, directions)
    attributes = {"hidden_size": H, "clip": 3.0}
    attributes |= {"direction": "bidirectional"} if directions == 2 else {}
    expected = onnxruntime_run(floats, attributes)
    _, moves = spread(lambda v: by_hand(v, attributes), floats | _doubled(floats))
    names = "WRBP" if engine == "numpy" else ""  # with weights known before, or not
    known = [name for name in values if name[0] in names]
    got = run(values, attributes, operator="DynamicQuantizeLSTM", known=known, engine=engine)
    assert_within(got, expected, moves, 2 * roundings("native", I + H + 1, options=True), "float32")
    if kind == "int8" and not has_vnni():  # onnxruntime clips sums of two products then
        return
    theirs = onnxruntime_run(values, attributes, operator="DynamicQuantizeLSTM")
    for name, value in theirs.items():
        np.testing.assert_allclose(got[name], value, rtol=0, atol=moves[name] / 255)


@pytest.mark.parametrize("fault", ["zero point", "scale", "order"])
def test_saboteurs_of_quantised_weights(fault):
    values, floats = _quantised("uint8", True, 2)
    attributes = {"hidden_size": H, "direction": "bidirectional"}
    _, moves = spread(lambda v: by_hand(v, attributes), floats | _doubled(floats))
    theirs = onnxruntime_run(values, attributes, operator="DynamicQuantizeLSTM")
    if fault == "zero point":
        values["R_zero_point"] = values["R_zero_point"] + np.uint8(20)
    elif fault == "scale":
        values["W_scale"] = values["W_scale"][:, ::-1]
    else:
        values["W"] = values["W"][..., ::-1]
    got = run(values, attributes, operator="DynamicQuantizeLSTM")
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        for name, value in theirs.items():
            np.testing.assert_allclose(got[name], value, rtol=0, atol=moves[name] / 255)


def test_quantised_weights_are_told():
    values, _ = _quantised("int8", False, 1)
    known = [name for name in values if name[0] in "WRBP"]
    plan, _, draft = graph(values, {}, known=known, operator="DynamicQuantizeLSTM")
    assert plan.nodes[0].note == "its quantised weights run as float32"
    assert draft.layers["node"].dtype == "float32"
    values, attributes = FULL.values(), FULL.attributes()
    assert graph(values, attributes)[0].nodes[0].note == ""
    model = GraphModel(plan, [], [], [], draft.layers, draft.limits)
    assert operators(model) == [
        ("DynamicQuantizeLSTM", "1", "fastlstm's engine; its quantised weights run as float32")
    ]


def test_numbers_are_those_that_were_written():
    """A file has 0.2 as the float32 next to it; then the functions' defaults are seen as such."""
    stored = {n: float(np.float32(n)) for n in (0.2, 0.5, 0.1)}
    attributes = {"activations": ["HardSigmoid", "Tanh", "Elu"], "clip": stored[0.1]}
    attributes |= {"activation_alpha": [stored[0.2], 1.0], "activation_beta": [stored[0.5]]}
    _, _, draft = graph(Case().values(), attributes)
    assert repr(draft.layers["node"]) == (
        f"LSTM({I}, {H}, gate_clip=0.1, gate_activation='hard_sigmoid', output_activation='elu')"
    )


# ---- what the graph sees --------------------------------------------------------------------


def test_weights_that_are_known_become_a_layer():
    """It is made once, under the node's name, and the plan does not keep the weights as well."""
    values = SIMPLE.values()
    plan, _, draft = graph(values, SIMPLE.attributes())
    assert repr(draft.layers["node"]) == (
        f"LSTM({I}, {H}, bidirectional=True, peephole=True, gate_clip=0.5)"
    )
    assert not draft.layers["node"].training
    (node,) = plan.nodes
    assert node.by == "fastlstm"
    assert node.inputs == ("X", "initial_h", "initial_c", "sequence_lens")
    state = draft.layers["node"].state_dict()
    i, o, f, c = np.split(values["W"][1], 4)
    np.testing.assert_array_equal(state["weight_ih_l0_reverse"], np.concatenate([i, f, c, o]))
    i, o, f, c = np.split(values["B"][0, 4 * H :], 4)
    np.testing.assert_array_equal(state["bias_hh_l0"], np.concatenate([i, f, c, o]))
    np.testing.assert_array_equal(state["weight_co_l0"], values["P"][0, H : 2 * H])
    # Weights that a run brings do not.
    plan, _, draft = graph(values, SIMPLE.attributes(), known="WR")
    assert not draft.layers and plan.nodes[0].by == "fastlstm"


def test_directions_with_other_activations_are_two_layers():
    _, _, draft = graph(FULL.values(), FULL.attributes())
    assert [*draft.layers] == ["node_forward", "node_reverse"]
    assert [layer.reverse for layer in draft.layers.values()] == [False, True]
    assert [layer.cell_activation for layer in draft.layers.values()] == ["sigmoid", "relu"]


def test_what_was_pickled_runs_as_before():
    values = FULL.values()
    for known in "WRBP", "":
        plan, free, _ = graph(values, FULL.attributes(), known=known)
        inputs = [values[name] for name in free]
        copy = pickle.loads(pickle.dumps(plan))
        for got, expected in zip(copy.run(inputs), plan.run(inputs), strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_what_exporters_put_behind_is_free(direction):
    """Transpose and reshape of Y to (T, B, DH) copy nothing: it is a view of the layer's output."""
    case = Case(direction)
    y = run(case.values(), case.attributes())["Y"]
    flat = y.transpose(0, 2, 1, 3).reshape(T, B, -1)
    assert flat.flags.c_contiguous and np.shares_memory(flat, y)


def test_lengths_that_are_all_full_cost_nothing(monkeypatch):
    given = []

    class LSTM(recurrent.LSTM):
        def __call__(self, *arguments, lengths=None):
            given.append(lengths)
            return super().__call__(*arguments, lengths=lengths)

    monkeypatch.setattr(recurrent, "LSTM", LSTM)
    for lengths in "full", "short":
        case = Case(lengths=lengths)
        run(case.values(), case.attributes())
    assert given[0] is None and given[1] is not None


@pytest.mark.parametrize("clip", [float("inf"), float(np.finfo("float32").max)])
def test_a_clip_that_bounds_nothing_leaves_the_plain_cell(clip):
    _, _, draft = graph(Case().values(), {"clip": clip})
    assert draft.layers["node"].gate_clip is None


# ---- errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (
            {"direction": "backward"},
            "direction must be one of forward, reverse, bidirectional, got",
        ),
        ({"direction": "Forward"}, "direction must be one of"),
        ({"direction": 1}, "direction must be one of"),
        ({"direction": "bidirectional"}, r"R must have shape .D, 4H, H., here .2, 24, 6., got .1,"),
        ({"hidden_size": H + 1}, r"R must have shape .D, 4H, H., here .1, 28, 7., got .1, 24, 6."),
        ({"hidden_size": 0}, "hidden_size must be greater than zero, got 0"),
        ({"hidden_size": 1.5}, "hidden_size should be of type int"),
        ({"hidden_size": -(2**63)}, "hidden_size must be greater than zero"),
        ({"hidden_size": 2**62}, "R must have shape"),
        ({"clip": 0.0}, "clip must be a finite number above 0"),
        ({"clip": -1.0}, "clip must be a finite number above 0"),
        ({"clip": float("nan")}, "clip must be a finite number above 0"),
        ({"clip": "much"}, "clip should be a number"),
        ({"layout": 2}, "layout must be 0 or 1, got '2'"),
        ({"layout": [1, 2]}, "layout must be 0 or 1"),
        ({"input_forget": "yes"}, "input_forget should be of type int"),
        ({"activations": ["Sigmoid", "Tanh"]}, "activations must be 3 names"),
        ({"activations": ["Sigmoid", "Tanh", "Tanh"] * 2}, "activations must be 3 names"),
        ({"activations": "Sigmoid"}, "activations must be 3 names"),
        ({"activations": ["Sigmoid", "Tanh", "Swish"]}, "activations must be of .*, got 'Swish'"),
        ({"activations": ["Sigmoid", "Tanh", 3]}, "activations must be of"),
        ({"activation_alpha": 0.5}, "activation_alpha must be a list of numbers"),
        ({"activation_beta": ["a"]}, "activation_beta should be a number"),
        ({"activation_alpha": [float("inf")]}, "activation_alpha must be a finite number"),
        ({"activation_gamma": [1.0]}, "it has no attribute 'activation_gamma'"),
    ],
    ids=str,
)
def test_attributes_that_will_not_do(attributes, message):
    with pytest.raises(ValueError, match=f"^operator LSTM 'node': {message}"):
        graph(Case().values(), {"hidden_size": H} | attributes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"W": (1, 4 * H + 1, I)},
            r"W must have shape .D, 4H, I., here .1, 24, 3., got .1, 25, 3.",
        ),
        ({"W": (4 * H, I)}, "W must have shape"),
        ({"W": ()}, "W must have shape"),
        ({"R": (1, 4 * H, H + 1)}, "R must have shape"),
        ({"R": ()}, "R must have shape"),
        ({"R": (1, 0, 0)}, "W must have shape"),
        ({"W": (1, 4 * H, 0)}, "input_size must be greater than zero"),
        ({"B": (1, 4 * H)}, r"B must have shape .D, 8H., here .1, 48., got .1, 24."),
        ({"P": (1, 4 * H)}, r"P must have shape .D, 3H., here .1, 18., got .1, 24."),
        ({"X": (T, B)}, "X must have 3 axes, got 2"),
        ({"X": (T, B, I + 1)}, "Expected 3, got 4"),
        ({"X": (0, B, I + 1)}, "X must have 3 features, got 4"),
        ({"initial_h": (1, B + 1, H)}, "Expected hidden.0. size .1, 4, 6., got .1, 5, 6."),
        ({"initial_c": (B, 1, H)}, "Expected hidden.1. size .1, 4, 6., got .4, 1, 6."),
        ({"initial_c": (B, H)}, "For batched 3-D input"),
        ({"sequence_lens": (B + 1,)}, "sequence_lens must have shape .4,., got .5,."),
        ({"sequence_lens": ()}, "sequence_lens must have shape"),
    ],
    ids=str,
)
@pytest.mark.parametrize("known", ["WRBP", ""])
def test_shapes_that_will_not_do(known, changes, message):
    case = Case(peephole=True, states="hc", lengths="short")
    values = case.values()
    values |= {name: np.ones(shape, values[name].dtype) for name, shape in changes.items()}
    with pytest.raises(ValueError, match=f"^operator LSTM 'node': .*{message}"):
        run(values, {}, known=known)


@pytest.mark.parametrize("layout", [0, 1])
def test_a_state_alone_that_will_not_do(layout):
    case = Case(states="c")
    values = case.values() | {"initial_c": np.ones((1, B + 1, H), "f4")}
    values = batchwise(values) if layout else values
    got, expected = ((5, 1, 6), (4, 1, 6)) if layout else ((1, 5, 6), (1, 4, 6))
    with pytest.raises(ValueError) as error:
        run(values, {"layout": layout})
    assert str(error.value) == (
        f"operator LSTM 'node': initial_c must have shape {expected}, got {got}"
    )


@pytest.mark.parametrize("length", [-1, T + 1, 2**31 - 1])
def test_lengths_that_will_not_do(length):
    values = Case(lengths="short").values()
    values["sequence_lens"][2] = length
    with pytest.raises(ValueError, match=f"^operator LSTM 'node': .*{length}"):
        run(values, {})


@pytest.mark.parametrize("kind", ["float64", "int32"])
def test_types_that_will_not_do(kind):
    values = Case(states="hc").values()
    for name in "X", "initial_h":
        with pytest.raises(ValueError, match=f"^operator LSTM 'node': .*{kind}"):
            run(values | {name: values[name].astype(kind)}, {})
    with pytest.raises(ValueError, match="^operator LSTM 'node': .*float"):
        run(values | {"W": values["W"].astype(kind)}, {})


@pytest.mark.parametrize("name", ["X", "W", "sequence_lens", "initial_h"])
@pytest.mark.parametrize(
    "value", [None, [], [np.ones((1, B, H), "f4")]], ids=["none", "empty", "list"]
)
@pytest.mark.parametrize("known", ["WR", ""])
def test_lists_and_absent_values_will_not_do(name, value, known):
    """ONNX has such values too; what is absent may be left out only where the operator says so."""
    values = Case(states="h", lengths="short").values() | {name: value}
    if value is None and name in ("sequence_lens", "initial_h"):
        assert np.isfinite(run(values, {}, known=known)["Y"]).all()
        return
    with pytest.raises(ValueError, match="^operator LSTM 'node': "):
        run(values, {}, known=known)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"W": np.ones((1, I, 4 * H), "f4")}, "W must hold int8 or uint8, got float32"),
        ({"W": np.ones((I, 4 * H), "i1")}, r"W must have shape .D, I, 4H., got .3, 24."),
        ({"W_scale": None}, "W has no scale"),
        ({"R_scale": np.ones(2, "f4")}, r"R_scale must have shape .1,. or .1, 24., got .2,."),
        ({"W_zero_point": np.ones((1, 3), "i1")}, "W_zero_point must have shape"),
    ],
    ids=["floats", "axes", "no scale", "scale", "zero point"],
)
def test_quantised_weights_that_will_not_do(changes, message):
    values, _ = _quantised("int8", False, 1)
    values = {name: value for name, value in (values | changes).items() if value is not None}
    with pytest.raises(ValueError, match=f"^operator DynamicQuantizeLSTM 'node': {message}"):
        run(values, {}, operator="DynamicQuantizeLSTM")


def test_numbers_in_a_file_cannot_ask_for_more_memory_than_is_allowed():
    """A few bytes can say so many steps, or sequences without steps."""
    limits = Limits(10_000)
    rng = np.random.default_rng(0)
    values = {"W": rng.random((1, 400, 1)), "R": rng.random((1, 400, 100))}
    few = values | {"X": np.ones((12, 1, 1))}
    assert run(few, {}, limits=limits)["Y"].shape == (12, 1, 1, 100)
    for shape in (13, 1, 1), (0, 10**12, 1), (10**12, 10**3, 0):
        with pytest.raises(ValueError, match=r"^operator LSTM 'node': an array of shape .* bytes"):
            run(values | {"X": np.zeros(shape)}, {}, limits=limits)
