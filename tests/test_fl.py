"""`.fl` files, models for C: what stands in them, what is read back from them, and damage."""

from __future__ import annotations

import io
import json
import struct
import time
import tracemalloc
import zlib
from typing import Any

import fl_reader
import numpy as np
import pytest
from errors import raises
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from saboteurs import edited
from support import assert_same_bits
from values import arrays_in, normal

from fastlstm import (
    LSTM,
    Concat,
    Dropout,
    Embedding,
    Last,
    Layer,
    Linear,
    LSTMCell,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    Softmax,
    Tanh,
    load,
    load_lstm,
    load_state,
    save,
)
from fastlstm.formats import fl, fl_file, fl_layers

I, H = 3, 4


@pytest.fixture(scope="module", autouse=True)
def numpys():
    """Every layer runs by the engine that the reader of this file runs by."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTLSTM_ENGINE", "numpy")
        yield


def stirred(model: Any) -> Any:
    """Give every parameter its own random numbers, learned states and gains too."""
    state = enumerate(model.state_dict().items())
    model.load_state_dict({n: normal(*a.shape, seed=k + 1) / 2 for k, (n, a) in state})
    return model.eval()


def lstm(**options: Any) -> Any:
    return LSTM(**{"input_size": I, "hidden_size": H, "seed": 0, **options})


def written(model: Layer, module: Any = fl, **options: Any) -> bytes:
    file = io.BytesIO()
    module.write(file, model, **options)
    return file.getvalue()


def read_back(data: bytes, **options: Any) -> Any:
    return load(io.BytesIO(data), **options)


def input_of(model: Any, steps: int = 5, batch: int = 2) -> Any:
    """Return something for a model to run on, (T, B, features) or indices (T, B)."""
    if model._takes_indices:
        return np.arange(steps * batch).reshape(steps, batch) % 4
    return normal(steps, batch, I, seed=9, dtype=model.dtype)


def assert_same(got: Any, expected: Any) -> None:
    """Assert that results have the same bits, the states of LSTMs among them."""
    pairs = zip(_arrays(got), _arrays(expected), strict=True)
    for one, other in pairs:
        assert_same_bits(one, other)


def _arrays(result: Any) -> Any:
    return arrays_in(result if isinstance(result, tuple) else (result,))


def assert_computes(data: bytes, model: Any) -> None:
    """Assert that the nodes of a file compute what a model does, by value."""
    x = input_of(model)
    expected = model(x)
    if isinstance(expected, tuple):
        expected = expected[0]
    got = fl_reader.compute(fl_reader.decode(data), x)
    got = got if got.shape == expected.shape else got[0]  # one step has no axis of steps
    eps = np.finfo(model.dtype).eps
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(got, expected, rtol=30 * eps, atol=30 * eps)


def assert_comes_back(data: bytes, model: Any) -> None:
    """Assert that a file gives a model with the same structure, and the same bits."""
    again = read_back(data)
    assert repr(again) == repr(model)
    x = input_of(model)
    assert_same(again(x), model(x))
    assert written(again) == data


MODELS: dict[str, Any] = {
    "lstm": lambda: lstm(),
    "no bias": lambda: lstm(bias=False),
    "deep": lambda: lstm(num_layers=3),
    "both": lambda: lstm(num_layers=2, bidirectional=True),
    "projected": lambda: lstm(num_layers=2, proj_size=2, bidirectional=True),
    "widths": lambda: lstm(hidden_size=[4, 4, 6, 2], bidirectional=True),
    "reverse": lambda: lstm(reverse=True),
    "double": lambda: lstm(num_layers=2, dtype="float64"),
    "peephole": lambda: lstm(peephole=True),
    "coupled f": lambda: lstm(coupled="f=1-i", num_layers=2),
    "coupled i, peephole": lambda: lstm(coupled="i=1-f", peephole=True),
    "clips": lambda: lstm(gate_clip=0.5, cell_clip=0.25, proj_size=2, proj_clip=0.125),
    "functions": lambda: lstm(
        gate_activation="hard_sigmoid",
        cell_activation=("elu", 0.5),
        output_activation=("scaled_tanh", 1.5, 0.75),
    ),
    "tflite": lambda: lstm(layer_norm="tflite"),
    "haste": lambda: lstm(layer_norm="haste", num_layers=2, bidirectional=True),
    "zoneout": lambda: lstm(zoneout=(0.25, 0.5)),
    "learned": lambda: lstm(num_layers=2, bidirectional=True, learn_initial_state=True),
    "learned widths": lambda: lstm(hidden_size=[3, 5], proj_size=2, learn_initial_state=True),
    "training's": lambda: lstm(num_layers=2, dropout=0.5, input_dropout=0.5, recurrent_dropout=0.5),
    "linear": lambda: Linear(I, 2),
    "linear without a bias": lambda: Linear(I, 2, bias=False, dtype="float64"),
    "embedding": lambda: Sequential(Embedding(4, I), Dropout(), lstm(), Linear(H, 2)),
    "embeddings": lambda: Concat(Embedding(4, 2), Sequential(Embedding(4, 3), Dropout())),
    "chain": lambda: Sequential(
        {"rnn": lstm(), "drop": Dropout(0.25), "last": Last(), "fc": Linear(H, 2), "out": Tanh()}
    ),
    "last of both": lambda: Sequential(lstm(bidirectional=True), Last(), Linear(2 * H, 1)),
    "last from the end": lambda: Sequential(lstm(reverse=True), Last(), ReLU()),
    "last step of both": lambda: Sequential(
        lstm(bidirectional=True), Linear(2 * H, 2), Last(bidirectional=False)
    ),
    "activations": lambda: Sequential(ReLU(), Tanh(), Linear(I, 3), Sigmoid(), Softmax()),
    "softmax of steps": lambda: Sequential(lstm(), Softmax(dim=2)),
    "softmax of the last": lambda: Sequential(lstm(), Last(), Softmax(dim=1)),
    "nested": lambda: Sequential(Sequential(Sequential(lstm())), Sequential(Linear(H, 2))),
    "residual": lambda: Residual(Sequential({"rec": lstm(), "lin": Linear(H, I)})),
    "residual, projected": lambda: Residual(lstm(), Linear(I, H)),
    "residual of residuals": lambda: Residual(
        Sequential(Residual(Linear(I, I)), Residual(Tanh(), Residual(Linear(I, I))))
    ),
    "residual of nothing": lambda: Sequential(Residual(Dropout()), Linear(I, 1)),
    "concat": lambda: Sequential(
        Concat({"a": lstm(), "b": Linear(I, 2), "c": Dropout(), "d": lstm(bidirectional=True)}),
        Linear(H + 2 + I + 2 * H, 2),
    ),
    "all at once": lambda: Sequential(
        Residual(lstm(hidden_size=[4, 3], peephole=True, learn_initial_state=True)),
        Concat(lstm(layer_norm="haste"), lstm(coupled="f=1-i")),
        Last(),
        Residual(Sequential(Linear(2 * H, 5), ReLU(), Linear(5, 2 * H)), Linear(2 * H, 2 * H)),
        Softmax(),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_file_computes_what_the_model_does(name):
    model = stirred(MODELS[name]())
    assert_computes(written(model), model)


@pytest.mark.parametrize("name", MODELS)
def test_a_file_gives_the_model_back(name):
    data = written(stirred(MODELS[name]()))
    model = read_back(data)  # its two biases are one and zeros
    assert repr(model) == repr(MODELS[name]())
    assert_comes_back(data, model)
    x = input_of(model)
    assert_same(model(x), stirred(MODELS[name]())(x))


@st.composite
def lstms(draw: Any) -> Any:
    both = draw(st.booleans())
    projected = draw(st.sampled_from([0, 0, 2]))
    function = st.sampled_from(
        ["sigmoid", "tanh", "identity", ("affine", 0.5, 0.25), ("leaky_relu", 0.25), "softsign",
         ("hard_sigmoid", 0.25), ("thresholded_relu", 0.5), ("elu", 0.25), "softplus", "relu",
         ("scaled_tanh", 0.5, 2.0)]
    )  # fmt: skip
    clip = st.sampled_from([None, None, 0.25, 2.0])
    options = {
        "hidden_size": draw(st.lists(st.integers(3, 5), min_size=1, max_size=3)),
        "bias": draw(st.booleans()),
        "bidirectional": both,
        "reverse": not both and draw(st.booleans()),
        "proj_size": projected,
        "proj_clip": draw(clip) if projected else None,
        "gate_clip": draw(clip),
        "cell_clip": draw(clip),
        "peephole": draw(st.booleans()),
        "coupled": draw(st.sampled_from([None, "f=1-i", "i=1-f"])),
        "layer_norm": draw(st.sampled_from([None, "tflite", "haste"])),
        "gate_activation": draw(st.just("sigmoid") | function),
        "cell_activation": draw(st.just("tanh") | function),
        "output_activation": draw(st.just("tanh") | function),
        "zoneout": draw(st.sampled_from([0.0, 0.25, (0.5, 0.125)])),
        "learn_initial_state": draw(st.booleans()),
        "dtype": draw(st.sampled_from(["float32", "float64"])),
    }
    return stirred(lstm(**options))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(model=lstms())
def test_options_together(model):
    data = written(model)
    with np.errstate(all="ignore"):
        assert_computes(data, model)
    again = read_back(data)
    assert_same(again(input_of(model)), model(input_of(model)))
    assert_comes_back(data, again)
    got = _found(data)(input_of(model))  # layers of other widths are several LSTMs
    assert_same(got[0] if isinstance(got, tuple) else got, model(input_of(model))[0])


def _found(data: bytes) -> Any:
    """Return the layers of a file's nodes, without its text, which take the steps first."""
    return read_back(without_text(data), batch_first=False)


def without_text(data: bytes) -> bytes:
    """Return a file that has the same nodes and no text."""
    model = fl_file.parse(bytearray(data))
    return b"".join(fl_file.encode(model._replace(text=b"")))


@pytest.mark.parametrize("name", MODELS)
def test_layers_are_found_for_nodes_without_a_structure(name):
    """The nodes tell the layers, but for names, layouts, and what matters in training alone."""
    model = stirred(MODELS[name]())
    found = _found(written(model))
    x = input_of(model)
    got, expected = found(x), model(x)
    if isinstance(expected, tuple):  # layers of other widths are several LSTMs
        got, expected = got[0] if isinstance(got, tuple) else got, expected[0]
    assert_same(got, expected)


def test_a_layout_that_no_text_tells_stays_undecided():
    model = read_back(without_text(written(stirred(MODELS["chain"]()))))
    assert model[0].batch_first is None and model[1].batch_first is None


# ---- what stands in a file ----------------------------------------------------------------------


def test_an_lstm_by_hand():
    """The page's example of an LSTM: every number of its node, and its arrays."""
    model = stirred(lstm(hidden_size=2, num_layers=2, peephole=True, coupled="f=1-i", gate_clip=3))
    file = fl_reader.decode(written(model, sample_rate=16000))
    (node,) = file.nodes
    assert (file.takes, file.gives, file.indices, file.sample_rate) == (3, 2, 0, 16000)
    assert (node.kind, node.first, node.takes, node.gives) == (1, 0, 3, 2)
    functions = 0 + 256 * 1 + 65536 * 1
    assert node.whole == [2, 1, 2, 0, 1, 1, 0, functions, 0]
    assert node.numbers == [3.0, np.inf, np.inf, *[0.0] * 9]
    w_ih, w_hh, b, *others = node.arrays[:12]
    state = model.state_dict()
    i, g, o = state["weight_ih_l0"].reshape(3, 2, 3)
    assert_same(w_ih, np.stack([i, np.zeros_like(i), g, o]).ravel())
    i, g, o = state["weight_hh_l0"].reshape(3, 2, 2)
    assert_same(w_hh, np.stack([i, np.zeros_like(i), g, o]).ravel())
    i, g, o = (state["bias_ih_l0"] + state["bias_hh_l0"]).reshape(3, 2)
    assert_same(b, np.stack([i, np.zeros_like(i), g, o]).ravel())
    w_hr, w_ci, w_cf, w_co, *norms = others
    assert_same(w_ci, state["weight_ci_l0"])
    assert_same(w_cf, np.zeros(2, np.float32))
    assert_same(w_co, state["weight_co_l0"])
    assert [w_hr, *norms, *node.arrays[24:]] == [None] * 8
    assert node.arrays[12].shape == (16,)


def test_an_lstm_cell_steps_as_an_lstm():
    cell = stirred(LSTMCell(I, H, layer_norm="haste", learn_initial_state=True))
    data = written(cell)
    x, hx, steps = normal(5, 2, I, seed=9), None, []
    for row in x:
        hx = cell(row, hx)
        steps.append(hx[0])
    file = fl_reader.decode(data)
    np.testing.assert_allclose(fl_reader.compute(file, x), steps, rtol=1e-5, atol=1e-6)
    again = read_back(data)
    assert repr(again) == repr(cell)
    assert_same(again(x[0])[0], cell(x[0])[0])
    assert_same(again(x[0])[1], cell(x[0])[1])


def test_the_bias_is_the_sum_that_engines_add():
    model = stirred(lstm())
    state = model.state_dict()
    again = load_state(io.BytesIO(written(model)))
    assert list(again) == list(state)
    assert_same(again["bias_ih_l0"], state["bias_ih_l0"] + state["bias_hh_l0"])
    assert not again["bias_hh_l0"].any()


def test_the_text_is_json_with_the_structure():
    model = stirred(MODELS["chain"]())
    text = json.loads(fl_reader.decode(written(model, notes={"of": "me", "ü": [1, None]})).text)
    assert text.keys() == {"version", "structure", "notes"}
    assert text["structure"]["layer"] == "Sequential"
    assert text["notes"] == {"of": "me", "ü": [1, None]}


def test_the_same_model_makes_the_same_bytes():
    assert written(stirred(MODELS["all at once"]())) == written(stirred(MODELS["all at once"]()))


# ---- as other formats ---------------------------------------------------------------------------


def test_save_and_load(tmp_path):
    model = stirred(lstm(batch_first=True))
    save(model, tmp_path / "m.fl", sample_rate=44100)
    assert fl_reader.decode((tmp_path / "m.fl").read_bytes()).sample_rate == 44100
    assert repr(load(tmp_path / "m.fl")) == repr(model)
    assert repr(load_lstm(tmp_path / "m.fl")) == repr(model)
    into = lstm(batch_first=True)
    assert load(tmp_path / "m.fl", into=into) is into
    assert_same(into(normal(2, 5, I))[0], model(normal(2, 5, I))[0])
    assert [path.name for path in tmp_path.iterdir()] == ["m.fl"]


def test_parts_of_a_model():
    data = written(stirred(MODELS["chain"]()))
    assert repr(read_back(data, prefix="fc")) == repr(Linear(H, 2))
    assert list(load_state(io.BytesIO(data)))[-1] == "fc.bias"
    wide = read_back(data, dtype="float64")
    assert wide.dtype == np.float64
    with pytest.raises(ValueError, match="order= is for files that do not tell it"):
        read_back(data, order=["rnn", "fc"])
    with pytest.raises(ValueError, match="key='x' is for torch checkpoints"):
        read_back(data, key="x")


def test_numbers_that_are_not_finite():
    model = stirred(Sequential(lstm(), Linear(H, 2)))
    state = model.state_dict()
    for name in ("0.weight_ih_l0", "1.bias"):
        state[name].flat[1] = np.nan
    state["0.weight_hh_l0"].flat[1] = -np.inf
    model.load_state_dict(state)
    again = read_back(written(model))
    for name, array in model.state_dict().items():
        if "weight" in name or name == "1.bias":
            assert_same(again.state_dict()[name], array)


def test_loading_takes_twice_the_file():
    data = written(LSTM(256, 512, 2, seed=0))
    file = io.BytesIO(data)
    tracemalloc.start()
    try:
        load(file)
        assert tracemalloc.get_traced_memory()[1] < 2.2 * len(data)
    finally:
        tracemalloc.stop()


class Own(Layer):
    """A layer of one's own."""

    def __call__(self, input: Any) -> Any:
        return input


def test_what_cannot_be_held_is_refused(tmp_path):
    path = tmp_path / "m.fl"
    path.write_bytes(b"old")

    def refused(model: Any, kind: Any, sentence: str, **options: Any) -> None:
        raises(lambda: save(model, path, **options), kind, sentence)
        assert path.read_bytes() == b"old"

    refused(
        Sequential(Linear(3, 3), Own()),
        TypeError,
        "the structure of Own cannot be stored; known are LSTM, LSTMCell, Linear, Embedding, "
        "Dropout, ReLU, Tanh, Sigmoid, Softmax, Last, Sequential, Concat, Residual. A .pt file "
        "holds the parameters alone",
    )
    refused(
        Sequential({"lstm": lstm(), "over_steps": Softmax(dim=0)}),
        ValueError,
        f"{path}: over_steps (Softmax) sums over dim=0, and a .fl file holds sums over the "
        "features alone: give dim=-1",
    )
    refused(
        Sequential(Tanh()),
        ValueError,
        f"{path}: how many features Sequential takes is not known, as no LSTM or Linear in it says "
        "so: a .fl file must say it",
    )
    refused(
        Sequential(lstm(), Last(), LSTMCell(H, 2)),
        ValueError,
        f"{path}: 2 (LSTMCell) takes one step, which a Last has left of the sequence: a .fl file "
        "cannot hold that",
    )
    refused(
        Linear(3, 1),
        ValueError,
        f"{path}: sample_rate must be a finite number of at least 0, got -1",
        sample_rate=-1,
    )
    raises(
        lambda: save(Linear(3, 1), tmp_path / "m.npz", sample_rate=8000),
        ValueError,
        f"{tmp_path / 'm.npz'}: sample_rate cannot be chosen for npz files",
    )


# ---- nodes by hand ------------------------------------------------------------------------------


def convolutional() -> list[fl.Node]:
    """Nodes of every kind that no layer has: a spectrum of 2 frames, as speech detectors have."""
    w = normal(6, 4, 1, seed=1)
    nodes = [
        fl.Node(fl.STANDARDIZE, (0,), 8, 8, arrays=(normal(8, seed=2), abs(normal(8, seed=3)))),
        fl.Node(fl.SELECT, (1,), 8, 2, whole=(5,)),
        fl.Node(fl.JOIN, (1, 2), 8, 10),
        fl.Node(fl.CONVOLUTION, (3,), 10, 12, (10, 1, 2, 6, 4, 5, 0), arrays=(w, None)),
        fl.Node(fl.MAGNITUDE, (4,), 12, 6, (2, 3)),
        fl.Node(
            fl.CONVOLUTION,
            (5,),
            6,
            8,
            (2, 3, 2, 4, 3, 1, 1),
            arrays=(normal(4, 3, 3, seed=4), normal(4, seed=5)),
        ),
    ]
    model = stirred(Sequential(LSTM(8, 4), ReLU(), Linear(4, 8)))
    value, features = fl.nodes_of(model, nodes, 6, 8)
    assert (value, features) == (9, 8)
    nodes.append(fl.Node(fl.SUM, (6, value), 8, 8))
    scale = normal(8, seed=6), abs(normal(8, seed=7))
    return [*nodes, fl.Node(fl.RESTORE, (10,), 8, 8, arrays=scale)]


def of_nodes(nodes: Any, takes: int, **options: Any) -> bytes:
    file = io.BytesIO()
    fl.write_nodes(file, nodes, takes=takes, **options)
    return file.getvalue()


def test_nodes_that_no_layer_has():
    data = of_nodes(convolutional(), 8, sample_rate=8000, notes={"a": 1})
    file = fl_reader.decode(data)
    assert [node.kind for node in file.nodes] == [7, 10, 6, 11, 12, 11, 1, 4, 3, 5, 8]
    x = normal(3, 2, 8, seed=8)
    assert fl_reader.compute(file, x).shape == (3, 2, 8)
    assert json.loads(file.text) == {"notes": {"a": 1}}
    with pytest.raises(ValueError) as fault:
        read_back(data)
    assert str(fault.value) == (
        "<BytesIO>: its model can run in C alone: node 0 is a standardize, for which fastlstm has "
        "no layer"
    )
    state = load_state(io.BytesIO(data))
    assert list(state)[:3] == ["0_mean", "0_scale", "3_weight"]
    assert state["3_weight"].shape == (6, 4, 1) and state["6_w_ih_l0"].shape == (16, 8)


@pytest.mark.parametrize("kind", [fl.SELECT, fl.CONVOLUTION, fl.MAGNITUDE, fl.RESTORE])
def test_kinds_without_a_layer_are_named(kind):
    node = {
        fl.SELECT: fl.Node(fl.SELECT, (0,), 4, 2),
        fl.CONVOLUTION: fl.Node(
            fl.CONVOLUTION, (0,), 4, 4, (4, 1, 4, 1, 1, 1), arrays=(normal(1, 1, 1), None)
        ),
        fl.MAGNITUDE: fl.Node(fl.MAGNITUDE, (0,), 4, 2, (1, 2)),
        fl.RESTORE: fl.Node(fl.RESTORE, (0,), 4, 4, arrays=(normal(4), normal(4))),
    }[kind]
    with pytest.raises(
        ValueError, match=rf"node 0 is a {node.name}, for which fastlstm has no lay"
    ):
        read_back(of_nodes([node], 4))


def plain(kind: int, *sources: int, width: int = 2, **fields: Any) -> fl.Node:
    return fl.Node(kind, sources, width, fields.pop("gives", width), **fields)


def tanh(*sources: int) -> fl.Node:
    return plain(fl.ACTIVATION, *sources, whole=(1,))


def test_graphs_that_are_no_layers_are_refused():
    def refused(nodes: Any, sentence: str) -> None:
        with pytest.raises(ValueError, match=f"its model can run in C alone: {sentence}"):
            read_back(of_nodes(nodes, 2))

    refused([tanh(0), tanh(0)], "it has nodes whose values nothing takes")
    shared = [tanh(0), tanh(1), tanh(1), tanh(1), plain(fl.SUM, 2, 3), plain(fl.SUM, 3, 4)]
    refused([*shared, plain(fl.SUM, 5, 6)], "value 3 goes several ways that layers do not")
    refused(
        [plain(fl.ACTIVATION, 0, whole=(9,))], "fastlstm has no layer for the activation softsi"
    )
    deep = [plain(fl.SUM, n, n) for n in range(20)]
    assert read_back(of_nodes([*deep, plain(fl.LINEAR, 20, arrays=(normal(2, 2), None))], 2))
    nested, value = [], 0
    for n in range(20):  # each inside of the one before
        nested.append(tanh(value))
        value = n + 1
    for n in range(19, -1, -1):
        nested.append(plain(fl.SUM, n, len(nested)))
    refused(
        [*nested, plain(fl.LINEAR, 40, arrays=(normal(2, 2), None))], "its nodes make layers tha"
    )


def test_a_graph_of_many_ways_takes_no_time():
    """Each of 1300 sums is of two values that each go through two sums below: 2^1300 ways."""
    nodes = [tanh(0), tanh(0)]
    for n in range(1300):
        a, b = 2 * n + 1, 2 * n + 2
        nodes += [plain(fl.SUM, a, b), plain(fl.SUM, b, a)]
    nodes.append(plain(fl.SUM, len(nodes) - 1, len(nodes)))
    began = time.process_time()
    with pytest.raises(ValueError, match="its model can run in C alone"):
        read_back(of_nodes(nodes, 2))
    assert time.process_time() - began < 10


W = normal(2, 2)
BAD_NODES = {
    "no node": ([], "it must have 1 to 4096 nodes, got 0"),
    "too many": ([tanh(0)] * 4097, "it must have 1 to 4096 nodes, got 4097"),
    "unknown kind": ([plain(13, 0)], r"node 0 \(unknown kind 13\): a newer fastlstm may know it"),
    "its own value": (
        [tanh(1)],
        r"node 0 \(activation\): it takes the values \(1,\), of which only 0",
    ),
    "one of two": ([plain(fl.SUM, 0)], r"node 0 \(sum\): it must take 2 values, got 1"),
    "width": ([tanh(0)._replace(takes=3)], "it takes 3 values of 2"),
    "gives nothing": ([tanh(0)._replace(gives=0)], "it cannot give 0 values"),
    "other width": ([tanh(0)._replace(gives=3)], "it must give 2 values, as it takes, got 3"),
    "no such function": ([plain(fl.ACTIVATION, 0, whole=(11,))], "there is no function 11"),
    "alpha of tanh": (
        [plain(fl.ACTIVATION, 0, whole=(1,), numbers=(0.5,))],
        "tanh has no such parameters as 0.5, 0.0",
    ),
    "nan": (
        [plain(fl.ACTIVATION, 0, whole=(3,), numbers=(np.nan, 0))],
        "alpha and beta must be finite",
    ),
    "numbers of none": (
        [plain(fl.SUM, 0, 0, whole=(1,))],
        r"node 0 \(sum\): it has numbers that a sum has no use for: \[1, 0",
    ),
    "sum of widths": (
        [plain(fl.SELECT, 0, gives=1), plain(fl.SUM, 0, 1)],
        "2 and 1 values have no sum",
    ),
    "join": ([plain(fl.JOIN, 0, 0)], "it must give 4 values, got 2"),
    "steps": (
        [plain(fl.LAST, 0), plain(fl.SUM, 0, 1)],
        "one of its values has one step, and the other has all",
    ),
    "last of last": ([plain(fl.LAST, 0), plain(fl.LAST, 1)], "it takes a value that has one step"),
    "select": ([plain(fl.SELECT, 0, whole=(1,))], "it takes 2 values, not those from 1 to 3"),
    "last": ([plain(fl.LAST, 0, whole=(3,))], "3 of 2 values cannot be those of the first step"),
    "embedding": (
        [plain(fl.EMBEDDING, 0, whole=(4,), arrays=(normal(4, 2),))],
        "it takes values, and an embedding takes indices",
    ),
    "shape": (
        [plain(fl.LINEAR, 0, arrays=(normal(2, 3), None))],
        r"node 0 \(linear\): its arrays mu",
    ),
    "count": (
        [plain(fl.LINEAR, 0, arrays=(W,))],
        r"its arrays must have the shapes \[\(2, 2\), \(2",
    ),
    "missing": ([plain(fl.LINEAR, 0, arrays=(None, None))], "its arrays must have the shapes"),
    "dtype": (
        [plain(fl.LINEAR, 0, arrays=(W.astype("f8"), None))],
        "its arrays must be float32, got {'float64'}",
    ),
    "kernel": (
        [plain(fl.CONVOLUTION, 0, whole=(2, 1, 1, 2, 3, 1), arrays=(normal(2, 3, 1), None))],
        "a kernel of 3 has no place in 2 and 0 on each side",
    ),
    "length_out": (
        [plain(fl.CONVOLUTION, 0, whole=(2, 1, 1, 2, 1, 1), arrays=(normal(2, 1, 1), None))],
        "length_out must be 2, got 1",
    ),
    "stride": (
        [plain(fl.CONVOLUTION, 0, whole=(2, 1, 2, 1, 1, 0))],
        "stride must be 1 to 2147483647",
    ),
    "padding": (
        [plain(fl.CONVOLUTION, 0, whole=(2, 1, 2, 1, 1, 1, 1))],
        "padding must be 0 to 0, got 1",
    ),
    "magnitude": ([plain(fl.MAGNITUDE, 0, whole=(1, 2))], "it must take 4 values"),
}


@pytest.mark.parametrize("name", BAD_NODES)
def test_nodes_that_cannot_be_are_refused(name):
    nodes, sentence = BAD_NODES[name]
    file = io.BytesIO()
    with pytest.raises(ValueError, match=sentence):
        fl.write_nodes(file, nodes, takes=2)
    assert not file.getvalue()


def lstm_node(whole: Any, numbers: Any = (), gives: int = 2) -> fl.Node:
    arrays = (normal(8, 2), normal(8, 2), None, *[None] * 11)
    return fl.Node(fl.LSTM, (0,), 2, gives, whole, numbers, arrays)


@pytest.mark.parametrize(
    "whole, numbers, sentence",
    [
        ((1, 1, 2), (), None),
        ((1, 1, 2, 0, 1), (np.inf, np.inf, np.inf), None),
        ((0, 1, 2), (), "layers must be 1 to 2147483647, got 0"),
        ((1, 3, 2), (), "directions must be 1 or 2, got 3"),
        ((2**31 - 1, 2, 2), (), "with it, there are more than 65536 arrays"),
        ((1, 1, 0), (), "units must be 1 to 2147483647, got 0"),
        ((1, 1, 2, 2), (), "reverse cannot be 2"),
        ((1, 2, 2, 1), (), "reverse cannot be 1"),
        ((1, 1, 2, 0, 2), (), "general must be 0 or 1, got 2"),
        ((1, 1, 2, 0, 0, 1), (), "options are there, and general is 0"),
        ((1, 1, 2, 0, 0), (1.0,), "options are there, and general is 0"),
        ((1, 1, 2, 0, 0), (-0.0,), "options are there, and general is 0"),
        ((1, 1, 2, 0, 1, 3), (1, 1, 1), "coupled must be 0, 1 or 2, got 3"),
        ((1, 1, 2, 0, 1, 0, 3), (1, 1, 1), "layer_norm must be 0, 1 or 2, got 3"),
        ((1, 1, 2, 0, 1, 0, 0, 255), (1, 1, 1), "there is no function 255"),
        ((1, 1, 2, 0, 1, 0, 0, 1 << 24), (1, 1, 1), "functions cannot be 16777216"),
        ((1, 1, 2, 0, 1), (0, 1, 1), r"clips must be above 0, got \(0.0, 1.0, 1.0\)"),
        ((1, 1, 2, 0, 1), (1, np.nan, 1), "clips must be above 0"),
        ((1, 1, 2, 0, 1), (1, 1, 1, 0, 1), "sigmoid has no such parameters as 0.0, 1.0"),
        ((1, 1, 2, 0, 1), (1, 1, 1, *[0] * 6, 1.5), "zoneouts must be 0 to 1"),
        ((1, 1, 2, 0, 1, 0, 0, 0, 1), (1, 1, 1), "it has numbers that a LSTM has no use for"),
    ],
)
def test_lstms_that_cannot_be_are_refused(whole, numbers, sentence):
    if sentence is None:
        assert len(read_back(of_nodes([lstm_node(whole, numbers)], 2)).state_dict()) == 2
    else:
        with pytest.raises(ValueError, match=rf"node 0 \(LSTM\): {sentence}"):
            of_nodes([lstm_node(whole, numbers)], 2)


# ---- damage -------------------------------------------------------------------------------------


def sealed(data: bytes) -> bytes:
    """Return a file with the checksum that its bytes have."""
    crc = zlib.crc32(data[:24] + bytes(4) + data[28:])
    return data[:24] + struct.pack("<I", crc) + data[28:]


def changed(data: bytes, *changes: tuple[int, str, Any]) -> bytes:
    """Return a file with other numbers at some places, and the right checksum."""
    edit = bytearray(data)
    for at, kind, value in changes:
        struct.pack_into("<" + kind, edit, at, value)
    return sealed(bytes(edit))


SMALL = written(
    stirred(
        Sequential(
            lstm(hidden_size=2, coupled="i=1-f", engine="numpy"), Linear(2, 1, engine="numpy")
        )
    )
)


def test_every_byte_matters():
    for n in range(len(SMALL)):
        damaged = SMALL[:n] + bytes([SMALL[n] ^ 0x10]) + SMALL[n + 1 :]
        with pytest.raises(ValueError, match="<BytesIO>: "):
            read_back(damaged)


def test_truncated_and_longer():
    for n in [*range(200), *range(200, len(SMALL), 7)]:
        with pytest.raises(ValueError, match="<BytesIO>: "):
            read_back(SMALL[:n])
    with pytest.raises(ValueError, match=f"says {len(SMALL)} bytes, it has {len(SMALL) + 64}"):
        read_back(SMALL + bytes(64))


def test_a_transfer_as_text_is_named():
    for damaged in (SMALL.replace(b"\r\n", b"\n"), SMALL.replace(b"\n", b"\r\n")):
        with pytest.raises(ValueError, match="a transfer as text may have changed it"):
            read_back(damaged)


HUGE = 2**62
TEXT_AT, TEXT_SIZE = struct.unpack_from("<2q", SMALL, 72)
ARRAYS_AT = 128 + fl_reader.up(2 * 208)
HOSTILE: dict[str, tuple[list[tuple[int, str, Any]], str]] = {
    "order of bytes": ([(8, "I", 0x04030201)], "it was written for the other order of bytes"),
    "no order": ([(8, "I", 5)], "its mark of the order of bytes is 0x5"),
    "newer": ([(12, "I", 2)], "it was written by a newer fastlstm: install that to read it"),
    "version 0": ([(12, "I", 0)], "its version must be 1, got 0"),
    "size": ([(16, "q", HUGE)], f"it says {HUGE} bytes, it has {len(SMALL)}"),
    "itemsize": ([(28, "I", 2)], "its values must have 4 or 8 bytes, got 2"),
    "no nodes": ([(32, "I", 0)], "it must have 1 to 4096 nodes, got 0"),
    "4096 nodes": ([(32, "I", 4096)], "bytes, in which 4096 nodes, 16 arrays and a text of"),
    "2^32 nodes": ([(32, "I", 2**32 - 1)], "it must have 1 to 4096 nodes, got 4294967295"),
    "arrays": ([(36, "I", 65536)], "bytes, in which 2 nodes, 65536 arrays"),
    "2^32 arrays": ([(36, "I", 2**32 - 1)], "it must have at most 65536 arrays"),
    "inputs": ([(40, "q", HUGE)], f"inputs must be 1 to 2147483647, got {HUGE}"),
    "other inputs": ([(40, "q", 4)], r"node 0 \(LSTM\): it takes 3 values of 4"),
    "outputs": ([(48, "q", 2)], "it says that it gives 2 values, its last node gives 1"),
    "indices": ([(56, "I", 1)], "3 values of a step are indices"),
    "indices 2": ([(56, "I", 2)], "whether it takes indices must be 0 or 1, got 2"),
    "head": ([(60, "I", 1)], "its head has numbers where zeros should be"),
    "head's end": ([(127, "B", 1)], "its head has numbers where zeros should be"),
    "-0": ([(64, "d", -0.0)], "the sample rate must be a finite number from 0 on, got -0.0"),
    "-0 of no use": (
        [(240 + 88, "d", -0.0)],
        r"node 0 \(LSTM\): it has numbers that a LSTM has no",
    ),
    "rate": ([(64, "d", np.nan)], "the sample rate must be a finite number from 0 on, got nan"),
    "text's place": ([(72, "q", 128)], f"its text must begin at byte {TEXT_AT}, got 128"),
    "text's size": ([(80, "q", HUGE)], f"its text cannot have {HUGE} bytes"),
    "negative text": ([(80, "q", -1)], "its text cannot have -1 bytes"),
    "no text": ([(80, "q", 0)], "an array must begin at byte"),
    "kind": ([(128, "I", 77)], r"node 0 \(unknown kind 77\): a newer fastlstm may know it"),
    "source": ([(132, "I", 1)], r"node 0 \(LSTM\): it takes the values \(1,\)"),
    "second source": ([(136, "I", 1)], "node 0: it has numbers where zeros should be"),
    "first array": ([(140, "I", 1)], "node 0: its first array must be number 0, got 1"),
    "count": ([(144, "I", 13)], "node 1: its first array must be number 13, got 14"),
    "zero": ([(148, "I", 1)], "node 0: it has numbers where zeros should be"),
    "layers": ([(168, "q", HUGE)], "layers must be 1 to 2147483647"),
    "units": (
        [(184, "q", 2**31 - 1)],
        r"an array of shape \(8589934588, 3\) has 103079215056 byte",
    ),
    "no w_hr": ([(184, "q", 1)], r"an array of shape \(4, 3\) has 48 bytes, got 96"),
    "padding of nodes": ([(ARRAYS_AT - 1, "B", 1)], "it has others than zeros"),
    "padding of arrays": ([(len(SMALL) - 1, "B", 1)], "it has others than zeros"),
    "array's place": ([(ARRAYS_AT, "q", 0)], "an array must begin at byte"),
    "array's size": ([(ARRAYS_AT + 8, "q", HUGE)], f"has 96 bytes, got {HUGE}"),
    "array is not there": (
        [(ARRAYS_AT, "q", 0), (ARRAYS_AT + 8, "q", 0)],
        r"an array of shape \(8, 3\) has 96 bytes, got 0",
    ),
    "array too much": (
        [(ARRAYS_AT + 16 * 7, "q", 64), (ARRAYS_AT + 16 * 7 + 8, "q", 8)],
        "it has an array that it has no use for",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_numbers(name):
    changes, sentence = HOSTILE[name]
    data = changed(SMALL, *changes)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"<BytesIO>: .*{sentence}"):
            read_back(data)
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


def test_text_that_is_no_json():
    def with_text(text: bytes) -> bytes:
        model = fl_file.parse(bytearray(SMALL))
        return b"".join(fl_file.encode(model._replace(text=text)))

    for text in (b"{", b"\xff", b"[" * 100_000):
        with pytest.raises(ValueError, match="its text is damaged JSON"):
            read_back(with_text(text))
    with pytest.raises(ValueError, match="its text must be a JSON object, got list"):
        read_back(with_text(b"[1]"))
    with pytest.raises(ValueError, match="bytes of JSON; at most 1048576 are read"):
        read_back(with_text(b" " * (1 << 20) + b"{}"))


def with_structure(data: bytes, **changes: Any) -> bytes:
    """Return a file whose text says something else of its first layer."""
    model = fl_file.parse(bytearray(data))
    text = json.loads(model.text)
    text["structure"]["children"]["0"].update(changes)
    return b"".join(fl_file.encode(model._replace(text=json.dumps(text).encode())))


@pytest.mark.parametrize(
    "changes",
    [
        {"coupled": "f=1-i"},
        {"gate_clip": 0.5},
        {"reverse": True},
        {"zoneout": 0.5},
        {"hidden_size": 10**9, "num_layers": 10**9},
        {"hidden_size": [10**9] * 900},
        {"input_size": 4},
        {"output_activation": "relu"},
        {"layer": "LSTMCell"},
        {"layer": "Unheard"},
        {"learn_initial_state": True},
        {"dtype": "float64"},
        {"unheard": 1},
    ],
    ids=str,
)
def test_a_structure_that_lies_is_not_believed(changes):
    """The nodes are what C runs, so they tell what the layers are."""
    again = read_back(with_structure(SMALL, **changes))
    assert repr(again) == repr(read_back(without_text(SMALL)))
    for layer in (again[0], model := read_back(SMALL)):
        (layer if layer is again[0] else model[0]).batch_first = False
    assert_same(again(normal(5, 2, I)), model(normal(5, 2, I)))


def test_what_matters_in_training_alone_is_the_structures():
    again = read_back(with_structure(SMALL, recurrent_dropout=0.5, batch_first=True))
    assert again[0].recurrent_dropout == 0.5 and again[0].batch_first is True


def test_rows_of_a_gate_that_follows_another_must_be_zeros():
    model = fl_file.parse(bytearray(SMALL))
    model.nodes[0].arrays[0][0, 0] = 1  # of gate i, which is 1 - f
    data = b"".join(fl_file.encode(model))
    with pytest.raises(ValueError, match="no layers of fastlstm's have its nodes"):
        read_back(data)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    changes=st.lists(
        st.tuples(
            st.integers(0, len(SMALL) // 8 - 1).map(lambda n: 8 * n)
            | st.integers(8, ARRAYS_AT + 400),
            st.sampled_from("Iq"),
            st.integers(0, 20) | st.sampled_from([2**31 - 1, 2**31, 2**32 - 1]),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_other_numbers_give_a_model_or_a_valueerror(changes):
    fits = [one for one in changes if one[0] + struct.calcsize(one[1]) <= len(SMALL)]
    data = changed(SMALL, *fits)
    try:
        model = read_back(data)
    except ValueError as fault:
        assert str(fault).startswith("<BytesIO>: ")
    else:
        assert fl_reader.decode(data).takes == model[0].input_size


# ---- saboteurs ----------------------------------------------------------------------------------

_SABOTEURS = {
    "gates swapped": (
        fl_layers, "_arrays_of_cell", "there.get(name)",
        "None if there.get(name) is None else np.roll(there.get(name), 1, 0)",
    ),
    "biases of one matrix": (
        fl_layers, "_arrays_of_cell", "there = cell.arrays()",
        "there = {**cell.arrays(), 'b': cell.b / 2}",
    ),
    "bias forgotten": (fl_layers, "_arrays_of_cell", "not bias", "True"),
    "states swapped": (
        fl_layers, "_names_of_states",
        "return layer._initial_names[:half], layer._initial_names[half:]",
        "return layer._initial_names[half:], layer._initial_names[:half]",
    ),
    "functions in another order": (
        fl_layers, "Drawing._recurrent", "(options.gate, options.cell, options.output)",
        "(options.gate, options.output, options.cell)",
    ),
    "clips in another order": (
        fl_layers, "Drawing._recurrent",
        "(options.gate_clip, options.cell_clip, options.proj_clip)",
        "(options.cell_clip, options.gate_clip, options.proj_clip)",
    ),
    "zoneouts swapped": (
        fl_layers, "Drawing._recurrent",
        "(*clips, *parameters, options.zoneout_h, options.zoneout_c)",
        "(*clips, *parameters, options.zoneout_c, options.zoneout_h)",
    ),
    "reverse forgotten": (
        fl_layers, "Drawing._recurrent", "directions == 1 and cell.reverse", "False",
    ),
    "last of both": (fl_layers, "Drawing._last", "x.features // 2", "0"),
    "join the other way": (
        fl_layers, "Drawing.draw", "self._beside(fl.JOIN, name, layer, first, other)",
        "self._beside(fl.JOIN, name, layer, other, first)",
    ),
    "residual without its input": (fl_layers, "Drawing.draw", "[x]", "[x._replace(number=0)]"),
}  # fmt: skip


@pytest.mark.parametrize("name", _SABOTEURS)
def test_the_comparison_rejects_broken_writers(name, monkeypatch):
    module, place, old, new = _SABOTEURS[name]
    broken = edited(module, place, old, new)
    caught = 0
    for make in MODELS.values():
        model = stirred(make())
        monkeypatch.setattr(fl, "fl_layers", fl_layers)
        good = written(model)
        monkeypatch.setattr(fl, "fl_layers", broken)
        try:
            bad = written(model)
        except ValueError:  # an array of another width
            caught += 1
            continue
        try:
            assert_computes(bad, model)
        except AssertionError:
            caught += 1
        else:
            assert bad == good  # a model that the fault does not touch
    assert caught
