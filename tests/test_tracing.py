"""`fastlstm.visualize.trace`: each gate and state against an LSTM written by hand, in NumPy.

The LSTM by hand is a loop over sequences, layers, directions and steps. It shares no line with the
package, and gives each signal by the name that a user would ask for, such as "l0_reverse.f".
"""

import copy

import numpy as np
import pytest
from errors import raises
from gradients import assert_within, roundings, spread
from support import assert_same_bits
from values import normal

import fastlstm
from fastlstm import (
    LSTM,
    Concat,
    Dropout,
    Embedding,
    Last,
    Layer,
    Linear,
    LSTMCell,
    Residual,
    Sequential,
)
from fastlstm.visualize import trace

SIGNALS = "i", "f", "g", "o", "c", "h"

# ---- an LSTM by hand ------------------------------------------------------------------------

FUNCTIONS = {
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "hard_sigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "softsign": lambda x: x / (1 + np.abs(x)),
}


def norm(v, epsilon):
    return (v - v.mean()) / np.sqrt(v.var() + epsilon)


def step(w, x, h, c, options):
    """One step of one sequence: the gates, c and h after it, as a dict."""
    rows = {"f=1-i": "igo", "i=1-f": "fgo"}.get(options.get("coupled"), "ifgo")
    by_x, by_h = w["weight_ih"] @ x, w["weight_hh"] @ h
    kind = options.get("layer_norm")
    if kind == "haste":
        by_x, by_h = w["weight_ln_ih"] * norm(by_x, 1e-5), w["weight_ln_hh"] * norm(by_h, 1e-5)
    b = w["bias_ih"] + w["bias_hh"] if "bias_ih" in w else np.zeros(len(by_x))
    part = {gate: slice(k * len(c), (k + 1) * len(c)) for k, gate in enumerate(rows)}
    gate_clip, cell_clip = (options.get(n) or np.inf for n in ("gate_clip", "cell_clip"))

    def gate(name, function, cell=None):
        s = by_x[part[name]] + by_h[part[name]]
        if f"weight_c{name}" in w:
            s = s + w[f"weight_c{name}"] * cell
        if kind == "tflite":
            s = w["weight_ln"][part[name]] * norm(s, 1e-8)
        return FUNCTIONS[function](np.clip(s + b[part[name]], -gate_clip, gate_clip))

    of_gates = options.get("gate_activation", "sigmoid")
    g = gate("g", options.get("cell_activation", "tanh"))
    i = gate("i", of_gates, c) if "i" in rows else 1 - gate("f", of_gates, c)
    f = gate("f", of_gates, c) if "f" in rows else 1 - i
    new_c = np.clip(f * c + i * g, -cell_clip, cell_clip)
    o = gate("o", of_gates, new_c)
    seen = new_c
    if kind == "haste":
        seen = w["bias_ln_c"] + w["weight_ln_c"] * norm(new_c, 1e-5)
    new_h = o * FUNCTIONS[options.get("output_activation", "tanh")](seen)
    if "weight_hr" in w:
        proj_clip = options.get("proj_clip") or np.inf
        new_h = np.clip(w["weight_hr"] @ new_h, -proj_clip, proj_clip)
    keep_h, keep_c = np.broadcast_to(options.get("zoneout", 0.0), 2)
    new_c, new_h = (1 - keep_c) * new_c + keep_c * c, (1 - keep_h) * new_h + keep_h * h
    return {"i": i, "f": f, "g": g, "o": o, "c": new_c, "h": new_h}


def by_hand(values, options):
    """Every signal of every layer and direction over x (T, B, I), 0 past the end of a sequence.

    `values` has x, the parameters, and the states "h_<layer>" and "c_<layer>" of shape (B, ...).
    """
    x, lengths = values["x"], values["lengths"]
    signals, layer = {}, 0
    while f"weight_ih_l{layer}" in values:
        outputs = []
        for way in ("", "_reverse"):
            suffix = f"_l{layer}{way}"
            if "weight_ih" + suffix not in values:
                continue
            w = {n.removesuffix(suffix): v for n, v in values.items() if n.endswith(suffix)}
            found = {}
            for b in range(x.shape[1]):
                h, c = values["h" + suffix][b], values["c" + suffix][b]
                times = range(lengths[b])
                backward = way or options.get("reverse")
                for t in reversed(times) if backward else times:
                    made = step(w, x[t, b], h, c, options)
                    h, c = made["h"], made["c"]
                    for name, value in made.items():
                        zeros = np.zeros((*x.shape[:2], len(value)))
                        found.setdefault(name, zeros)[t, b] = value
            signals |= {f"{suffix[1:]}.{name}": value for name, value in found.items()}
            outputs.append(found["h"])
        x, layer = np.concatenate(outputs, axis=2), layer + 1
    return signals


# ---- the comparison -------------------------------------------------------------------------

T, B, I, H = 6, 3, 3, 5


def values_of(lstm, lengths):
    """The parameters, an input and initial states, exact in float32, in float64."""
    rng = np.random.default_rng(1)
    values = {"x": rng.normal(size=(T, B, I)), "lengths": np.array(lengths)}
    for name, array in lstm.state_dict().items():
        values[name] = rng.normal(size=array.shape, scale=0.6) + ("_ln" in name)
    for suffix, _, hidden, output in lstm._cells:
        values |= {"h" + suffix: rng.normal(size=(B, output), scale=0.5)}
        values |= {"c" + suffix: rng.normal(size=(B, hidden))}
    exact = {n: v.astype("f4").astype("f8") for n, v in values.items() if n != "lengths"}
    return values | exact


def traced(lstm, values, layout, dtype, tracer=trace):
    """The signals of a trace, by name, with time first, whatever the layout of the input."""
    suffixes = [cell.suffix for cell in lstm._cells]
    hx = [[values[n + s].astype(dtype) for s in suffixes] for n in ("h", "c")]
    x, lengths = values["x"].astype(dtype), values["lengths"]
    lstm.load_state_dict({name: values[name] for name in lstm.state_dict()})
    given = {"lengths": lengths}
    if layout == "packed":
        x, given = fastlstm.pack_padded_sequence(x, lengths, enforce_sorted=False), {}
    elif layout == "unbatched":
        x, given = x[:, 0], {}
        hx = [[one[0] for one in state] for state in hx]
    elif layout == "batch":
        x = x.swapaxes(0, 1)
    elif layout == "time" and (lengths == T).all():
        given = {}
    if not isinstance(lstm.hidden_size, tuple):
        hx = [np.stack(state) for state in hx]
    found = tracer(lstm, x, tuple(hx), **given)
    got = {f"{k}.{n}": v for k, one in found.layers.items() for n, v in one.signals().items()}
    for name, value in got.items():
        if layout == "packed":
            value = fastlstm.pad_packed_sequence(value, total_length=T)[0]
        elif layout == "unbatched":
            value = value[:, np.newaxis]
        elif layout == "batch":
            value = value.swapaxes(0, 1)
        got[name] = value
    return got


def assert_traced(options, layout="time", lengths=(T,) * B, engine="numpy", dtype="float64", **how):
    options = dict(options)
    sizes = I, options.pop("hidden", H)
    built = options | {"batch_first": layout == "batch", "engine": engine, "dtype": dtype}
    lstm = LSTM(*sizes, **built)
    values = values_of(lstm, lengths)
    if layout == "unbatched":
        values |= {n: v[:, :1] for n, v in values.items() if n == "x"}
        values |= {n: v[:1] for n, v in values.items() if n[:2] in ("h_", "c_", "le")}
    got = traced(lstm, values, layout, dtype, **how)
    terms = I + H + 1 if lstm.num_layers == 1 else 3 * H + 1
    count = roundings(engine, terms, options=True)
    assert_within(got, *spread(lambda moved: by_hand(moved, options), values), count, dtype)


OPTIONS = {
    "plain": {},
    "no bias": {"bias": False},
    "deep": {"num_layers": 2, "bidirectional": True, "proj_size": 2},
    "widths": {"hidden": [5, 3], "bidirectional": True},
    "from the end": {"reverse": True, "num_layers": 2},
    "peepholes": {"peephole": True, "proj_size": 3, "cell_clip": 0.8, "proj_clip": 0.2},
    "f follows": {"coupled": "f=1-i", "peephole": True},
    "i follows": {"coupled": "i=1-f", "gate_clip": 0.5, "bidirectional": True},
    "other functions": {
        "gate_activation": "hard_sigmoid", "cell_activation": "relu",
        "output_activation": "softsign",
    },
    "tflite": {"layer_norm": "tflite", "peephole": True},
    "haste": {"layer_norm": "haste", "zoneout": (0.1, 0.3)},
    "zoneout": {"zoneout": (0.2, 0.1), "num_layers": 2},
    "dropout": {"dropout": 0.5, "recurrent_dropout": 0.3, "input_dropout": 0.3, "num_layers": 2},
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option(name, engine):
    assert_traced(OPTIONS[name], engine=engine)


@pytest.mark.parametrize("layout", ["time", "batch", "packed", "unbatched"])
@pytest.mark.parametrize("name", ["deep", "widths", "from the end"])
def test_every_layout(name, layout, engine):
    lengths = (6, 6, 6) if layout == "unbatched" else (2, 6, 3)
    assert_traced(OPTIONS[name], layout, lengths, engine)


def test_in_float32(engine):
    assert_traced(OPTIONS["deep"], lengths=(2, 6, 3), engine=engine, dtype="float32")


# ---- faults that the comparison must reject --------------------------------------------------


def _swapped(found):
    for layer in found.layers.values():
        layer.i, layer.f = layer.f, layer.i


def _not_flipped(found):
    for layer in found.layers.values():
        if layer.reverse:
            for name in SIGNALS:
                setattr(layer, name, getattr(layer, name)[::-1])


def _before(found):
    for layer in found.layers.values():
        layer.c = np.roll(layer.c, 1, axis=0)


def _before_activation(found):
    for layer in found.layers.values():
        layer.g = np.arctanh(layer.g)


def _one_direction_for_both(found):
    found.layers["l0_reverse"].c = found.layers["l0"].c


def _layers_crossed(found):
    found.layers["l0"], found.layers["l1"] = found.layers["l1"], found.layers["l0"]


@pytest.mark.parametrize(
    "fault",
    [_swapped, _not_flipped, _before, _before_activation, _one_direction_for_both, _layers_crossed],
)
def test_faults_are_seen(fault):
    def tracer(*arguments, **options):
        found = trace(*arguments, **options)
        fault(found)
        return found

    options = OPTIONS["deep"] | {"proj_size": 0}
    assert_traced(options)
    with pytest.raises(AssertionError, match="Not equal to tolerance|Mismatch|shapes"):
        assert_traced(options, tracer=tracer)


# ---- what the LSTM itself gives ---------------------------------------------------------------


def test_mask_and_reset_are_those_of_a_call(engine):
    lstm = LSTM(3, 5, 2, bidirectional=True, engine=engine, seed=0)
    x, mask = normal(6, 2, 3), np.arange(12).reshape(6, 2) % 3 > 0
    options = {"mask": mask, "reset": np.roll(mask, 2, axis=0), "masked_output": "last"}
    found = trace(lstm, x, **options)
    y, _, cells, gates = lstm(x, return_cells=True, return_gates=True, **options)
    assert_same_bits(found.output, y)
    for n in range(2):
        both = [found[f"l{n}"], found[f"l{n}_reverse"]]
        for name, expected in [("c", cells[n]), *gates[n]._asdict().items()]:
            joined = np.concatenate([getattr(one, name) for one in both], axis=2)
            assert_same_bits(joined, expected)
    assert_same_bits(np.concatenate([found["l1"].h, found["l1_reverse"].h], axis=2), y)


def test_a_cell(engine):
    """Its calls are steps."""

    class Loop(Layer):
        def __init__(self):
            super().__init__(children={"cell": LSTMCell(3, 4, engine=engine, seed=0)})

        def forward(self, input):
            hx = None
            for x in input:
                hx = self.cell(x, hx)
            return hx[0]

    model, x = Loop(), normal(5, 2, 3)
    found = trace(model, x)
    lstm = LSTM(3, 4, engine=engine)
    lstm.load_state_dict({f"{n}_l0": v for n, v in model.cell.state_dict().items()})
    expected = trace(lstm, x)["l0"]
    assert list(found.layers) == ["cell"]
    for name, value in found["cell"].signals().items():
        np.testing.assert_allclose(value, getattr(expected, name), rtol=0, atol=1e-6)
    assert_same_bits(found["cell"].h[-1], found.output)
    alone, beside = trace(model, x[:, 0])["cell"].h, found["cell"].h[:, 0]
    np.testing.assert_allclose(alone, beside, rtol=0, atol=1e-6)  # BLAS may sum in another order
    if engine == "native":
        assert_same_bits(alone, beside)
    one = trace(model.cell, x[0], (x[1, :, :1].repeat(4, 1), x[2, :, :1].repeat(4, 1)))
    h, c = model.cell(x[0], (x[1, :, :1].repeat(4, 1), x[2, :, :1].repeat(4, 1)))
    assert_same_bits(one["cell"].c[0], c)
    assert_same_bits(one.output[0], h)
    assert trace(model.cell, np.zeros((0, 3), "f4"))["cell"].f.shape == (1, 0, 4)


# ---- models ---------------------------------------------------------------------------------


def test_a_model_of_many_parts(engine):
    """Each LSTM has what it has alone over what it is given."""

    def lstm(*sizes, **options):
        return LSTM(*sizes, engine=engine, batch_first=True, seed=sum(sizes), **options)

    model = Sequential({
        "embed": Embedding(7, 3, seed=0),
        "first": lstm(3, 4),
        "drop": Dropout(0.5),
        "skip": Residual(lstm(4, 4)),
        "both": Concat(lstm(4, 2, bidirectional=True), Sequential(lstm(4, 3), Linear(3, 3))),
        "last": Last(bidirectional=False),
        "fc": Linear(7, 2, seed=0),
    })  # fmt: skip
    index, lengths = np.arange(10).reshape(2, 5) % 7, [5, 3]
    found = trace(model, index, lengths=lengths)
    keys = ["first.l0", "skip.layer.l0", "both.0.l0", "both.0.l0_reverse", "both.1.0.l0"]
    assert list(found.layers) == keys
    x = model["embed"](index)
    for key, part in (("first.l0", model["first"]), ("skip.layer.l0", model["skip"].layer)):
        alone = trace(part, x, lengths=lengths)
        for name, value in alone["l0"].signals().items():
            assert_same_bits(found[key].signals()[name], value)
        x = alone.output if part is model["first"] else x + alone.output
    both = trace(model["both"][0], x, lengths=lengths)
    assert_same_bits(found["both.0.l0_reverse"].f, both["l0_reverse"].f)
    assert_same_bits(found.output, copy.deepcopy(model).eval()(index, lengths=lengths))
    assert found["first"] is found["first.l0"] and found["skip"] is found["skip.layer.l0"]
    assert_same_bits(found.input, index)


def test_states_of_a_model():
    model, x = Sequential({"lstm": LSTM(3, 4, seed=0), "fc": Linear(4, 1, seed=0)}), normal(5, 2, 3)
    states = {"lstm": (normal(1, 2, 4), normal(1, 2, 4, seed=1))}
    found = trace(model, x, states)
    assert_same_bits(found.output, model(x, states)[0])
    assert_same_bits(found["lstm"].h[-1], model(x, states)[1]["lstm"][0][0])


def test_an_lstm_that_runs_twice():
    class Twice(Layer):
        def __init__(self):
            super().__init__(children={"lstm": LSTM(3, 3, seed=0)})

        def forward(self, input):
            return self.lstm(self.lstm(input, return_cells=True)[0], return_gates=True)[0]

    model, x = Twice(), normal(5, 3)
    found, lstm = trace(model, x), model.lstm
    assert list(found.layers) == ["lstm.l0", "lstm.l0.run2"]
    assert_same_bits(found["lstm.l0"].h, lstm(x)[0])
    assert_same_bits(found["lstm.l0.run2"].h, lstm(lstm(x)[0])[0])
    assert_same_bits(found.output, found["lstm.l0.run2"].h)
    raises(
        lambda: found["lstm"],
        KeyError,
        repr("'lstm' is more than one: 'lstm.l0', 'lstm.l0.run2'"),
    )


def test_an_lstm_in_two_places():
    lstm = LSTM(3, 3, seed=0)
    x = normal(5, 3)
    found = trace(Sequential({"a": lstm, "b": lstm}), x)
    assert list(found.layers) == ["a.l0", "a.l0.run2"]
    assert_same_bits(found["a.l0.run2"].h, found.output)


def test_several_inputs_and_outputs():
    class Both(Layer):
        def __init__(self):
            super().__init__(children={"lstm": LSTM(3, 3, seed=0)})

        def forward(self, input):
            first, second = input
            return self.lstm(first)[0], second

    x = normal(5, 3)
    found = trace(Both(), (x, x[:2]))
    assert repr(found).splitlines()[1] == "  input: (5, 3) float32, (2, 3) float32"
    assert repr(found).splitlines()[-2] == "  output: (5, 3) float32, (2, 3) float32"


def test_one_sequence(engine):
    """Of a batch in any layout, what the sequence alone gives."""
    x, lengths = normal(6, 3, 3), [2, 6, 3]
    for batch_first in (False, True):
        lstm = LSTM(3, 5, bidirectional=True, batch_first=batch_first, engine=engine, seed=0)
        ragged = trace(lstm, x.swapaxes(0, 1) if batch_first else x, lengths=lengths)
        pack = fastlstm.pack_padded_sequence(x, lengths, enforce_sorted=False)
        for number, length in enumerate(lengths):
            alone = trace(lstm, x[:length, number])["l0_reverse"]
            for found in ragged, trace(lstm, pack):
                one = found["l0_reverse"].sequence(number)
                assert one.reverse and one.name == "l0_reverse"
                for name, value in one.signals().items():
                    np.testing.assert_allclose(value, getattr(alone, name), rtol=0, atol=1e-6)
    raises(lambda: ragged["l0"].sequence(3), IndexError, "there is no sequence 3, there are 3")
    assert_same_bits(ragged["l0"].sequence(-1).c, ragged["l0"].sequence(2).c)
    assert_same_bits(trace(lstm, x[:, 0])["l0"].sequence().c, trace(lstm, x[:, 0])["l0"].c)


def test_the_model_does_not_change(engine):
    model = Sequential(
        LSTM(3, 4, 2, dropout=0.5, zoneout=0.1, engine=engine, seed=0), Last(), Linear(4, 1)
    )
    x = normal(5, 2, 3)
    y, pullback = model.vjp(x)
    pullback(np.ones_like(y))
    before, kept = copy.deepcopy(model), {n: g.copy() for n, g in model.grads.items()}
    stacks = dict(model[0]._packed)
    first = trace(model, x)
    assert model.training and model[0].training
    assert model[0]._packed == stacks
    for name, value in model.state_dict().items():
        assert_same_bits(value, before.state_dict()[name])
    for name, gradient in model.grads.items():
        assert_same_bits(gradient, kept[name])
    assert_same_bits(first.output, trace(model, x).output)  # nothing is drawn at random
    assert_same_bits(model(x), before(x))  # with the same masks of dropout as without the trace


@pytest.mark.parametrize("functions", [("Sigmoid", "Tanh", "Tanh"), ("Sigmoid", "Relu", "Tanh")])
def test_a_graph(tmp_path, functions):
    """An ONNX file that is no chain of layers; with other functions backward it has two LSTMs."""
    onnx = pytest.importorskip("onnx", reason="makes a file to read")
    w, r = normal(2, 16, 3), normal(2, 16, 4)
    make, float32 = onnx.helper.make_node, onnx.TensorProto.FLOAT
    activations = ["Sigmoid", "Tanh", "Tanh", *functions]
    arrays = [onnx.numpy_helper.from_array(a, name) for a, name in ((w, "w"), (r, "r"))]
    names = {"direction": "bidirectional", "hidden_size": 4, "activations": activations}
    nodes = [
        make("Abs", ["x"], ["a"]),
        make("LSTM", ["a", "w", "r"], ["y"], name="rnn", **names),
        make("Exp", ["y"], ["e"]),
    ]
    ports = [
        onnx.helper.make_tensor_value_info(name, float32, shape)
        for name, shape in (("x", (5, 2, 3)), ("e", (5, 2, 2, 4)))
    ]
    graph = onnx.helper.make_graph(nodes, "g", ports[:1], ports[1:], arrays)
    opset = [onnx.helper.make_opsetid("", 14)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "g.onnx")
    model, x = fastlstm.load(tmp_path / "g.onnx"), normal(5, 2, 3)
    assert isinstance(model, fastlstm.GraphModel)
    found = trace(model, x)
    assert_same_bits(found.output, model(x))
    by_name = trace(model, {"x": x})
    assert repr(by_name).splitlines()[1] == "  input: 'x' (5, 2, 3) float32"
    assert_same_bits(by_name.output, found.output)
    forward, backward = found.layers.values()
    assert (forward.reverse, backward.reverse) == (False, True)
    # NumPy's exp and ours are each within 2 u of the truth, of numbers up to e.
    for way, one in enumerate((forward, backward)):
        np.testing.assert_allclose(np.exp(one.h), found.output[:, way], rtol=4e-7)
    lstm = LSTM.from_arrays(w[1:], r[1:], layout="onnx", cell_activation=functions[1].lower(),
                            reverse=True)  # fmt: skip
    expected = trace(lstm, np.abs(x))["l0"]
    for name, value in backward.signals().items():
        np.testing.assert_allclose(value, getattr(expected, name), rtol=0, atol=1e-6)


# ---- what is said ---------------------------------------------------------------------------


def test_reprs():
    lstm = LSTM(3, 4, bidirectional=True, proj_size=2, dtype="float64", seed=0)
    x = normal(5, 3, dtype="float64")
    assert repr(trace(lstm, [[0.0] * 3] * 5)) == (
        "Trace(\n"
        "  input: (5, 3) float64\n"
        "  'l0': i, f, g, o, c (5, 4), h (5, 2)\n"
        "  'l0_reverse': i, f, g, o, c (5, 4), h (5, 2)\n"
        "  output: (5, 4) float64\n"
        ")"
    )
    pack = fastlstm.pack_sequence([x, x[:2]])
    found = trace(lstm, pack)
    assert repr(found["l0"]) == (
        "LayerTrace('l0': i, f, g, o, c packed (7, 4), h packed (7, 2) float64)"
    )
    assert repr(found).splitlines()[1] == "  input: packed (7, 3) float64"


def test_what_is_refused():
    raises(
        lambda: trace(np.zeros(3), np.zeros(3)),
        TypeError,
        "trace: model must be a fastlstm layer, got ndarray",
    )
    raises(
        lambda: trace(Linear(3, 4), normal(5, 3)),
        ValueError,
        "trace: no LSTM or LSTMCell ran in this Linear",
    )
    lstm = LSTM(3, 4)
    raises(lambda: trace(lstm, normal(5, 3))["l1"], KeyError, repr("'l1' is none of 'l0'"))
    with pytest.raises(ValueError, match="Expected 3, got 2"):
        trace(lstm, normal(5, 2))
    with pytest.raises(TypeError, match="unexpected keyword argument 'masks'"):
        trace(lstm, normal(5, 3), masks=True)
