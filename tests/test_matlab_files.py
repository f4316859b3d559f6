"""MATLAB's files: layers that scipy and h5py have written, and files that MATLAB has."""

from __future__ import annotations

import io
import math
import re
import shutil
import struct
import subprocess
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import matlab_files
import numpy as np
import pytest
from errors import raises
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matlab_files import MAGIC, cell, mat5, mat73
from support import assert_same_bits
from test_matlab import GATES, PAGE, STATES, _lstm_layer
from values import normal

import fastlstm
from fastlstm import LSTM, Dropout, Last, Linear, ReLU, Sequential, Sigmoid, Softmax, Tanh, load
from fastlstm.formats import mat5 as reader5
from fastlstm.formats import mat73 as reader73
from fastlstm.formats import matlab_writer
from fastlstm.formats.mat_values import Cell, Closed, Struct
from fastlstm.formats.source import Source

scipy_io = pytest.importorskip("scipy.io", reason="writes MATLAB's files, and scipy is missing")

I, H, T, B = 3, 5, 6, 4
HEAD = "<BytesIO>: "


def lstm_layer(directions: int = 1, inputs: int = I, **others: Any) -> dict[str, Any]:
    """Return an lstmLayer, or a bilstmLayer, as a struct of its properties."""
    rows = 4 * H * directions
    shapes = {"InputWeights": (rows, inputs), "RecurrentWeights": (rows, H), "Bias": (rows, 1)}
    arrays = {n: normal(*s, seed=k, dtype="float64") for k, (n, s) in enumerate(shapes.items())}
    kind = "LSTMLayer" if directions == 1 else "BiLSTMLayer"
    own = {"Class": f"nnet.cnn.layer.{kind}", "Name": "lstm", "NumHiddenUnits": float(H)}
    own |= {"OutputMode": "sequence", "HiddenState": np.zeros((0, 0))}
    return own | arrays | others


def dense_layer(inputs: int = H, outputs: int = 2, **others: Any) -> dict[str, Any]:
    own = {"Class": "nnet.cnn.layer.FullyConnectedLayer", "Name": "fc"}
    own |= {"OutputSize": float(outputs), "Weights": normal(outputs, inputs, dtype="float64")}
    return own | {"Bias": normal(outputs, 1, seed=1, dtype="float64")} | others


def plain(kind: str, name: str = "", **others: Any) -> dict[str, Any]:
    return {"Class": f"nnet.cnn.layer.{kind}", "Name": name or kind.lower(), **others}


def read(data: bytes, **options: Any) -> Any:
    return load(io.BytesIO(data), batch_first=False, **options)


def x_of(inputs: int = I) -> np.ndarray:
    """Return an input as MATLAB has it: (C, N, T)."""
    return normal(inputs, B, T, seed=9, dtype="float64")


def theirs(layer: dict[str, Any], x: np.ndarray, part: slice = slice(None)) -> np.ndarray:
    """Return what MATLAB's layer gives for (C, N, T), by its equations; (H, N, T)."""
    arrays = [layer[name][part] for name in ("InputWeights", "RecurrentWeights", "Bias")]
    state = STATES[layer.get("StateActivationFunction", "tanh")]
    gate = GATES[layer.get("GateActivationFunction", "sigmoid")]
    return _lstm_layer(x, *arrays, state, gate)[0]


def assert_close(got: np.ndarray, expected: np.ndarray, atol: float = 1e-13) -> None:
    """Compare (T, N, F) with MATLAB's (F, N, T); sums of ten numbers in double precision."""
    np.testing.assert_allclose(got.T, expected, rtol=0, atol=atol)


# ---- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("state", STATES)
def test_an_lstm_layer(state, gate):
    layer = lstm_layer(StateActivationFunction=state, GateActivationFunction=gate)
    lstm = read(mat5(lstm=layer), engine="numpy")
    assert type(lstm) is LSTM and lstm.dtype == np.float64
    assert_close(lstm(x_of().T)[0], theirs(layer, x_of()))


def test_a_chain():
    layers = [
        plain("SequenceInputLayer", "input", InputSize=float(I), Normalization="none"),
        lstm_layer(),
        plain("DropoutLayer", "drop", Probability=0.25),
        lstm_layer(inputs=H, Name="top", OutputMode="last"),
        dense_layer(),
        plain("SoftmaxLayer", "softmax"),
        plain("ClassificationOutputLayer", "out"),
    ]
    model = read(mat5(layers=cell(*layers)))
    assert list(model.children) == ["lstm", "drop", "top", "top_last", "fc", "softmax"]
    assert model.drop.p == 0.25 and not model.training
    y = theirs(layers[3], theirs(layers[1], x_of()))[:, :, -1]
    z = layers[4]["Weights"] @ y + layers[4]["Bias"]
    expected = np.exp(z) / np.exp(z).sum(axis=0)
    np.testing.assert_allclose(model(x_of().T), expected.T, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("kind", "function"),
    [
        ("ReLULayer", lambda z: np.maximum(z, 0)),
        ("TanhLayer", np.tanh),
        ("SigmoidLayer", lambda z: 1 / (1 + np.exp(-z))),
    ],
)
def test_functions(kind, function):
    layers = [dense_layer(I), plain(kind)]
    z = np.einsum("oi,int->ont", layers[0]["Weights"], x_of()) + layers[0]["Bias"][:, :, None]
    assert_close(read(mat5(layers=cell(*layers)))(x_of().T), function(z))


def _swapped(*order: int) -> Any:
    """Return what puts the blocks of rows of every array into another order."""
    return lambda a: np.concatenate([np.split(a, len(order))[k] for k in order])


SABOTAGE = {
    "by rows": lambda a: a.reshape(a.shape, order="F").ravel("F").reshape(a.shape),
    "another order of gates": _swapped(1, 0, 2, 3),
    "onnx's order of gates": _swapped(0, 3, 1, 2),
    "no bias": lambda a: a * (a.shape[1] > 1),
    "no states": lambda a: a * (a.shape != (4 * H, H)),
    "half": lambda a: a * 0.5,
}


@pytest.mark.parametrize("name", SABOTAGE)
def test_the_comparison_finds_faults(name, monkeypatch):
    """A reader that mistakes an order, or leaves something out, gives other values."""
    layer, read_numbers = lstm_layer(), reader5._Reader._numbers

    def broken(self: Any, *arguments: Any) -> Any:
        array = read_numbers(self, *arguments)
        return SABOTAGE[name](array) if array.shape[:1] == (4 * H,) else array

    monkeypatch.setattr(reader5._Reader, "_numbers", broken)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_close(read(mat5(lstm=layer), engine="numpy")(x_of().T)[0], theirs(layer, x_of()))


@pytest.mark.parametrize("mode", ["sequence", "last"])
def test_a_bilstm_layer(mode):
    layer = lstm_layer(2, OutputMode=mode)
    ahead = theirs(layer, x_of(), slice(4 * H))
    back = theirs(layer, x_of()[:, :, ::-1], slice(4 * H, None))
    model = read(mat5(lstm=layer))
    if mode == "sequence":
        assert type(model) is LSTM and model.bidirectional
        assert_close(model(x_of().T)[0], np.concatenate([ahead, back[:, :, ::-1]]))
    else:
        expected = np.concatenate([ahead[:, :, -1], back[:, :, -1]])
        np.testing.assert_allclose(model(x_of().T), expected.T, rtol=0, atol=1e-13)


def _projected(p: int = 2, r: int = 2, **others: Any) -> dict[str, Any]:
    layer = lstm_layer(Class="nnet.cnn.layer.LSTMProjectedLayer", **others)
    projectors = {"InputProjector": (I, r), "OutputProjector": (H, p)}
    for seed, (name, shape) in enumerate(projectors.items()):
        layer[name] = normal(*shape, seed=seed + 5, dtype="float64")
    layer["InputWeights"] = layer["InputWeights"][:, :r]
    layer["RecurrentWeights"] = layer["RecurrentWeights"][:, :p]
    return layer


class _Through:
    """RecurrentWeights of a projected layer: a product that goes through the output projector."""

    def __init__(self, layer: dict[str, Any]) -> None:
        self.layer = layer

    def __matmul__(self, hidden: np.ndarray) -> np.ndarray:
        return self.layer["RecurrentWeights"] @ (self.layer["OutputProjector"].T @ hidden)


def test_a_projected_layer():
    layer = _projected()
    inside = np.einsum("ir,int->rnt", layer["InputProjector"], x_of())
    functions = STATES["tanh"], GATES["sigmoid"]
    expected = _lstm_layer(
        inside, layer["InputWeights"], _Through(layer), layer["Bias"], *functions
    )
    model = read(mat5(layers=cell(layer)))
    assert list(model.children) == ["lstm_in", "lstm"]
    assert_close(model(x_of().T), expected[0])


def test_a_projection_of_torchs():
    """An output that goes through the output projector alone is torch's layer with proj_size."""
    layer = _projected(r=I) | {"InputProjector": np.eye(I)}
    layer["InputWeights"] = lstm_layer()["InputWeights"]
    dense = dense_layer(Weights=layer["OutputProjector"].T, Bias=np.zeros((2, 1)))
    model = read(mat5(layers=cell(layer, dense)))
    assert [type(child) for child in model.children.values()] == [
        LSTM
    ] and model.lstm.proj_size == 2
    functions = STATES["tanh"], GATES["sigmoid"]
    arrays = layer["InputWeights"], _Through(layer), layer["Bias"]
    y = _lstm_layer(x_of(), *arrays, *functions)[0]
    assert_close(model(x_of().T), np.einsum("hp,hnt->pnt", layer["OutputProjector"], y))


def test_states_with_which_a_network_begins():
    states = {
        n: normal(H, 1, seed=k, dtype="float64") for k, n in enumerate(("HiddenState", "CellState"))
    }
    lstm = read(mat5(lstm=lstm_layer(**states)))
    assert lstm.learn_initial_state
    plain_lstm = read(mat5(lstm=lstm_layer(HiddenState=np.zeros((H, 1)))))
    assert not plain_lstm.learn_initial_state
    h, c = (np.repeat(state.T[None], B, axis=1) for state in states.values())
    assert_same_bits(lstm(x_of().T)[0], plain_lstm(x_of().T, (h, c))[0])


def _column(*numbers: float) -> np.ndarray:
    return np.array(numbers)[:, None]


LOW, HIGH = _column(-1.0, 2.0, 100.0), _column(1.0, 2.5, 300.0)
NORMALISED = {
    "none": ({}, lambda x: x),
    "zerocenter": ({"Mean": LOW}, lambda x: x - LOW),
    "zscore": ({"Mean": LOW, "StandardDeviation": HIGH}, lambda x: (x - LOW) / HIGH),
    "rescale-zero-one": ({"Min": LOW, "Max": HIGH}, lambda x: (x - LOW) / (HIGH - LOW)),
    "rescale-symmetric": ({"Min": LOW, "Max": HIGH}, lambda x: 2 * (x - LOW) / (HIGH - LOW) - 1),
}


@pytest.mark.parametrize("kind", NORMALISED)
def test_normalisation_of_the_input(kind):
    properties, function = NORMALISED[kind]
    first = plain("SequenceInputLayer", "in", InputSize=float(I), Normalization=kind, **properties)
    model = read(mat5(layers=cell(first, dense_layer(I))))
    x = x_of()[:, 0]  # one sequence, (C, T)
    dense = dense_layer(I)
    expected = dense["Weights"] @ function(x) + dense["Bias"]
    np.testing.assert_allclose(model(x.T), expected.T, rtol=1e-12, atol=1e-12)
    alone = read(mat5(layers=cell(first, dense_layer(I, 3, Weights=np.eye(3), Bias=np.zeros(3)))))
    if kind in ("zerocenter", "zscore"):  # no more is rounded than in MATLAB, but one division
        np.testing.assert_allclose(alone(x.T), function(x).T, rtol=2e-16 * 2, atol=0)


def test_one_mean_for_all_features():
    first = plain(
        "SequenceInputLayer", "in", InputSize=float(I), Normalization="zerocenter", Mean=2.0
    )
    model = read(mat5(layers=cell(first, dense_layer(I))))
    assert (model.in_center.bias == -2).all()


# ---- forms of files -----------------------------------------------------------------------------


def _chain() -> list[dict[str, Any]]:
    return [lstm_layer(OutputMode="last"), dense_layer()]


def test_every_form_gives_the_same_bits(tmp_path):
    chain = _chain()
    expected = read(mat5(layers=cell(*chain)))(x_of().T)
    fields = {name for layer in chain for name in layer}
    alike = [{name: layer.get(name, np.zeros((0, 0))) for name in fields} for layer in chain]
    wrapped = {"Layers": cell(*chain), "Name": "net"}
    path = tmp_path / "net.mat"
    forms = {
        "version 7": mat5(True, layers=cell(*chain)),
        "struct array": mat5(net=np.array(alike)),
        "struct with layers": mat5(net=wrapped),
        "version 7.3": mat73(path, layers=cell(*chain)),
        "version 7.3, not compressed": mat73(path, False, layers=cell(*chain)),
        "version 7.3, struct array": mat73(path, net=alike),
        "version 7.3, struct with layers": mat73(path, net=wrapped),
        "others beside it": mat5(layers=cell(*chain), x=np.ones(3), s={"a": 1}, t="text"),
    }
    for data in forms.values():
        assert_same_bits(read(data)(x_of().T), expected)


def test_properties_as_variables(tmp_path):
    layer = lstm_layer()
    names = ("InputWeights", "RecurrentWeights", "Bias")
    arrays = {name: layer[name] for name in names}
    expected = read(mat5(lstm=layer))(x_of().T)[0]
    for data in (mat5(**arrays), mat5(True, **arrays), mat73(tmp_path / "a.mat", **arrays)):
        lstm = read(data)
        assert type(lstm) is LSTM
        assert_same_bits(lstm(x_of().T)[0], expected)


def test_classes_that_the_properties_tell():
    layer, both = lstm_layer(), lstm_layer(2)
    for one in (layer, both):
        del one["Class"]
    assert not read(mat5(a=layer)).bidirectional
    assert read(mat5(a=both)).bidirectional
    dense = dense_layer()
    del dense["Class"]
    assert type(read(mat5(a=dense))) is Linear


def test_a_variable_by_its_name():
    data = mat5(one=cell(*_chain()), two=lstm_layer())
    assert type(load(io.BytesIO(data), key="two")) is LSTM
    raises(
        lambda: read(data), ValueError,
        HEAD + "it holds several networks, choose one with key=: 'one', 'two'",
    )  # fmt: skip
    raises(
        lambda: read(data, key="three"), ValueError,
        HEAD + "no variable is called 'three'; there are 'one' (cell), 'two' (struct)",
    )  # fmt: skip


def test_the_lstm_in_it():
    data = mat5(layers=cell(*_chain()))
    lstm = fastlstm.load_lstm(io.BytesIO(data))
    assert_same_bits(lstm.weight_hh_l0, _chain()[0]["RecurrentWeights"])
    assert list(fastlstm.load_state(io.BytesIO(data)))[:2] == [
        "lstm.weight_ih_l0",
        "lstm.weight_hh_l0",
    ]


def test_float32_stays():
    layer = {n: v.astype("f4") if isinstance(v, np.ndarray) else v for n, v in lstm_layer().items()}
    assert read(mat5(lstm=layer)).dtype == np.float32
    assert read(mat5(lstm=layer), dtype="float64").dtype == np.float64


def test_connections():
    good = np.array([["lstm", "fc/in"]], object)
    assert read(mat5(layers=cell(*_chain()), connections=good)).fc
    bad = np.array([["fc", "lstm"]], object)
    raises(
        lambda: read(mat5(layers=cell(*_chain()), connections=bad)), ValueError,
        HEAD + "its layers are not a chain, its connections lead from layers to others than the "
        "next: save the layers of a chain, or one layer alone",
    )  # fmt: skip


@pytest.mark.parametrize("form", ["inside", "beside"])
def test_connections_that_are_empty(form):
    """[] is an array, and says nothing."""
    layers, nothing = cell(lstm_layer(), dense_layer()), np.zeros((0, 0))
    said = {"net": {"Layers": layers, "Connections": nothing}}
    data = mat5(**said) if form == "inside" else mat5(layers=layers, connections=nothing)
    assert list(read(data).children) == ["lstm", "fc"]


def test_big_endian_files():
    """Of a machine whose byte order is the other one, as MATLAB had them."""
    data = mat5(layers=cell(lstm_layer(), dense_layer()))
    turned = data[:124] + struct.pack(">H", 0x0100) + b"MI" + _turned(memoryview(data)[128:])
    assert np.array_equal(scipy_io.loadmat(io.BytesIO(turned))["layers"].shape, (2, 1))
    x = x_of().T
    assert_same_bits(read(turned)(x), read(data)(x))


def _turned(elements: memoryview) -> bytes:
    """Return elements of a file in the other byte order."""
    widths = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8, 16: 1, 17: 2, 18: 4}
    made, at = b"", 0
    while at < len(elements):
        kind, size = struct.unpack_from("<2I", elements, at)
        is_small = bool(kind >> 16)
        if is_small:
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
        else:
            start = at + 8
        inside = elements[start : start + size]
        data = (
            _turned(inside)
            if kind == 14
            else np.frombuffer(inside, f"u{widths[kind]}").byteswap().tobytes()
        )
        if is_small:
            made += struct.pack(">I", size << 16 | kind) + data.ljust(4, b"\0")
            at += 8
        else:
            made += struct.pack(">2I", kind, size) + data + bytes(-size % 8)
            at = start + size + -size % 8
    return made


@pytest.mark.parametrize("order", "<>")
def test_a_file_of_version_4_is_named(order):
    file = io.BytesIO()
    scipy_io.savemat(file, {"InputWeights": np.ones((20, 3))}, format="4")
    data = file.getvalue()
    if order == ">":  # the first number says the byte order, and the kind of the numbers
        kind, *rest = struct.unpack_from("<5i", data)
        data = struct.pack(">5i", kind + 1000, *rest) + data[20:33]
    said = "it is a MATLAB file (.mat) of version 4, which holds no structs; `save -v7` writes what"
    with pytest.raises(ValueError, match=re.escape(said)):
        read(data)


def test_a_text_of_octave_is_named():
    with pytest.raises(ValueError, match=re.escape("it is a text of GNU Octave's; `save -v7`")):
        read(b"# Created by Octave 8.4.0, Fri Nov 27\n# name: layers\n# type: cell\n")


def test_streams_equal_whole_runs():
    layers = [lstm_layer(), lstm_layer(inputs=H), dense_layer()]
    model = read(mat5(layers=cell(*layers)))
    x, stream = x_of().T, model.stream(batch_size=B)
    assert_same_bits(np.concatenate([stream.run(x[:2]), stream.run(x[2:])]), model(x))


# ---- files that MATLAB wrote --------------------------------------------------------------------

DATA = Path(scipy_io.__file__).parent / "matlab/tests/data"
WRITTEN = sorted(p.name for p in DATA.glob("test*_[5-9].*.mat"))


def _same(got: Any, expected: Any) -> None:
    """Compare a value with scipy's."""
    if isinstance(got, Closed):
        assert got.what in (
            "an array of complex numbers", "an array of several texts", "a sparse matrix",
            "a function handle", "an object of MATLAB's class 'inline'",
        ), got  # fmt: skip
    elif isinstance(got, Struct):
        for one, other in zip(got.elements, expected.ravel("F"), strict=True):
            for name in one:
                _same(one[name], other[name])
    elif isinstance(got, Cell):
        assert got.shape == expected.shape
        for one, other in zip(got.elements, expected.ravel("F"), strict=True):
            _same(one, other)
    elif isinstance(got, str):
        assert [got] == (expected.tolist() or [""])
    else:
        assert got.shape == expected.shape or not got.size
        np.testing.assert_array_equal(got.ravel(), expected.ravel())


@pytest.mark.skipif(not WRITTEN, reason="this scipy has no files of MATLAB's beside its tests")
@pytest.mark.parametrize("name", WRITTEN)
def test_files_of_matlabs(name):
    with open(DATA / name, "rb") as file:
        source = Source(file)
        if reader73.recognises(source.head):  # scipy does not read it
            value = reader73.variables(source)["testdouble"].read()
            np.testing.assert_allclose(value, np.arange(9)[None] * math.pi / 4, rtol=1e-15)
            return
        found = {name: variable.read() for name, variable in reader5.variables(source).items()}
    expected = scipy_io.loadmat(DATA / name)
    assert list(found) == [key for key in expected if not key.startswith("__")]
    for key, value in found.items():
        _same(value, expected[key])


# ---- writing ------------------------------------------------------------------------------------


def _stirred(model: Any, dtype: str = "float32") -> Any:
    model = model.astype(dtype)
    arrays = enumerate(model.state_dict().items())
    model.load_state_dict({n: normal(*a.shape, seed=k, dtype=dtype) / 2 for k, (n, a) in arrays})
    return model.eval()


MODELS = {
    "lstm": lambda: LSTM(I, H),
    "no bias": lambda: LSTM(I, H, bias=False),
    "layers": lambda: LSTM(I, H, num_layers=3, dropout=0.5),
    "widths": lambda: LSTM(I, [5, 4]),
    "both directions": lambda: LSTM(I, H, num_layers=2, bidirectional=True),
    "learned states": lambda: LSTM(
        I, H, num_layers=2, bidirectional=True, learn_initial_state=True
    ),
    "projection": lambda: LSTM(I, H, proj_size=2, num_layers=2),
    "functions": lambda: LSTM(
        I,
        H,
        gate_activation="hard_sigmoid",
        cell_activation="softsign",
        output_activation="softsign",
    ),
    "relu": lambda: LSTM(I, H, cell_activation="relu", output_activation="relu"),
    "chain": lambda: Sequential(
        {
            "in": Sequential({"fc": Linear(I, 4), "relu": ReLU()}),
            "lstm": LSTM(4, H, num_layers=2, bidirectional=True),
            "last": Last(),
            "drop": Dropout(0.25),
            "fc": Linear(2 * H, 3, bias=False),
            "tanh": Tanh(),
            "sigmoid": Sigmoid(),
            "softmax": Softmax(),
        }
    ),
    "projection, last": lambda: Sequential(
        {"lstm": LSTM(I, H, proj_size=2), "last": Last(), "fc": Linear(2, 1)}
    ),
}


def _run(model: Any, x: np.ndarray) -> np.ndarray:
    y = model(x)
    return y[0] if isinstance(y, tuple) else y


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MODELS)
def test_what_is_written_is_read(name, dtype, tmp_path):
    model = _stirred(MODELS[name](), dtype)
    path = tmp_path / "m.mat"
    fastlstm.save(model, path)
    x = x_of().T.astype(dtype)
    again = load(path, batch_first=False)
    assert again.dtype == model.dtype
    assert_same_bits(_run(again, x), _run(model, x))
    fastlstm.save(again, tmp_path / "again.mat")
    once_more = load(tmp_path / "again.mat", batch_first=False)
    assert_same_bits(_run(once_more, x), _run(model, x))


def test_what_scipy_reads(tmp_path):
    model = _stirred(MODELS["chain"]())
    fastlstm.save(model, tmp_path / "m.mat")
    layers = scipy_io.loadmat(tmp_path / "m.mat")["layers"]
    found = [{n: one[n][0, 0] for n in one.dtype.names} for one in layers[:, 0]]
    assert [one["Class"].item() for one in found] == [
        f"nnet.cnn.layer.{kind}Layer"
        for kind in (
            "SequenceInput", "FullyConnected", "ReLU", "BiLSTM", "BiLSTM", "Dropout",
            "FullyConnected", "Tanh", "Sigmoid", "Softmax",
        )
    ]  # fmt: skip
    assert [one["Name"].item() for one in found] == [
        "input", "in_fc", "in_relu", "lstm_1", "lstm_2", "drop", "fc", "tanh", "sigmoid", "softmax",
    ]  # fmt: skip
    second, state = found[4], model.lstm.state_dict()
    assert second["OutputMode"].item() == "last" and found[3]["OutputMode"].item() == "sequence"
    ends = ("_l1", "_l1_reverse")
    inputs = np.concatenate([state[f"weight_ih{end}"] for end in ends])
    assert_same_bits(second["InputWeights"], inputs)
    bias = np.concatenate([state[f"bias_ih{end}"] + state[f"bias_hh{end}"] for end in ends])
    assert_same_bits(second["Bias"], bias[:, None])
    assert_same_bits(found[6]["Weights"], model.fc.weight)
    assert found[6]["Bias"].shape == (3, 1) and not found[6]["Bias"].any()
    assert found[4]["Sizes"][0, 0].item() == H and found[0]["Sizes"][0, 0].item() == I


def test_names_are_told_apart(tmp_path):
    model = Sequential(
        {"input": Linear(3, 3), "a_b": Linear(3, 3), "a": Sequential({"b": Linear(3, 3)})}
    )
    fastlstm.save(model, tmp_path / "m.mat")
    assert list(load(tmp_path / "m.mat").children) == ["input_2", "a_b", "a_b_2"]


def test_equal_models_give_equal_files(tmp_path):
    for name in "ab":
        fastlstm.save(LSTM(I, H, seed=0), tmp_path / f"{name}.mat")
    assert (tmp_path / "a.mat").read_bytes() == (tmp_path / "b.mat").read_bytes()


REFUSED = {
    "peepholes": (LSTM(I, H, peephole=True), "LSTM: MATLAB has no LSTM with peephole=True"),
    "reverse": (LSTM(I, H, reverse=True), "LSTM: MATLAB has no LSTM with reverse=True"),
    "gates": (
        LSTM(I, H, gate_activation="relu"),
        "LSTM: MATLAB's gates are sigmoid or hard_sigmoid, got 'relu'"),
    "slope": (
        LSTM(I, H, gate_activation=["hard_sigmoid", 0.25, 0.5]),
        "LSTM: MATLAB's gates are sigmoid or hard_sigmoid, got ('hard_sigmoid', 0.25, 0.5)"),
    "two functions": (
        LSTM(I, H, cell_activation="relu"),
        "LSTM: MATLAB has one function for the candidate and the output, of tanh, softsign and "
        "relu, got cell_activation='relu' and output_activation='tanh'"),
    "both ways projected": (
        LSTM(I, H, proj_size=2, bidirectional=True),
        "LSTM: MATLAB has no LSTM with proj_size=2 and bidirectional=True together"),
    "last of a Linear": (
        Sequential(LSTM(I, H), Linear(H, 2), Last()),
        "2: MATLAB takes the last step right behind an LSTM alone"),
    "inside": (
        Sequential({"encoder": Sequential({"rnn": LSTM(I, H, reverse=True)})}),
        "encoder.rnn: MATLAB has no LSTM with reverse=True"),
    "no input": (ReLU(), "ReLU: the first layer must tell how many inputs there are"),
    "over steps": (
        Sequential(Linear(I, H), Softmax(dim=0)), "1: MATLAB has Softmax over the features alone"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_matlab_has_not(name, tmp_path):
    model, sentence = REFUSED[name]
    path = tmp_path / "m.mat"
    raises(lambda: fastlstm.save(model, path), ValueError, f"{path}: {sentence}")
    assert not path.exists()


def test_layers_that_matlab_has_not(tmp_path):
    path = tmp_path / "m.mat"
    model = Sequential({"lstm": LSTM(I, H), "res": fastlstm.Residual(Linear(H, H))})
    with pytest.raises(TypeError, match="res: a .mat file holds LSTM, .* no Residual"):
        fastlstm.save(model, path)
    with pytest.raises(TypeError, match="Residual: a .mat file holds LSTM, .* no Residual"):
        fastlstm.save(fastlstm.Residual(LSTM(1, 1)), path)


# ---- the lines of the documentation, run by GNU Octave -------------------------------------------

OCTAVE = shutil.which("octave-cli")
needs_octave = pytest.mark.skipif(not OCTAVE, reason="runs lines of MATLAB, and Octave is missing")


def _lines(start: str) -> str:
    """Return the block of MATLAB on the page that begins so."""
    return next(block for block in re.findall(r"```matlab\n(.*?)```", PAGE, re.S) if start in block)


def _octave(folder: Path, text: str) -> None:
    (folder / "run.m").write_text(text)
    command = [str(OCTAVE), "--no-gui", "--norc", "-q", "run.m"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@needs_octave
def test_the_lines_that_make_layers(tmp_path):
    """Functions in the place of the toolbox's give back what they are called with."""
    for name in ("sequenceInput", "lstm", "bilstm", "fullyConnected", "dropout", "softmax"):
        text = f"function l = {name}Layer(varargin)\n l.f = '{name}'; l.args = varargin;\nend\n"
        (tmp_path / f"{name}Layer.m").write_text(text)
    (tmp_path / "dlnetwork.m").write_text("function n = dlnetwork(layers)\n n = layers;\nend\n")
    layers = {
        "lstm": LSTM(I, H, num_layers=2, dropout=0.5), "bi": LSTM(H, 4, bidirectional=True),
        "last": Last(), "fc": Linear(8, 2), "softmax": Softmax(),
    }  # fmt: skip
    model = _stirred(Sequential(layers))
    fastlstm.save(model, tmp_path / "model.mat")
    _octave(tmp_path, _lines("dlnetwork(vertcat") + 'save("-v7", "net.mat", "net")\n')
    net = scipy_io.loadmat(tmp_path / "net.mat")["net"][:, 0]
    made = [(one["f"].item(), [a.squeeze() for a in one["args"][0]]) for one in net]
    assert [f for f, _ in made] == [
        "sequenceInput", "lstm", "dropout", "lstm", "bilstm", "fullyConnected", "softmax",
    ]  # fmt: skip
    assert made[0][1][0] == I and made[1][1][0] == H and made[2][1][0] == 0.5
    for (_, args), own in zip((made[1], made[3]), ("l0", "l1"), strict=True):
        named = dict(zip(map(str, args[1::2]), args[2::2], strict=True))
        assert_same_bits(named["InputWeights"], model.lstm.state_dict()[f"weight_ih_{own}"])
        assert named["OutputMode"] == "sequence"
    named = dict(zip(map(str, made[4][1][1::2]), made[4][1][2::2], strict=True))
    assert named["OutputMode"] == "last" and named["Name"] == "bi"
    assert named["RecurrentWeights"].shape == (32, 4)
    named = dict(zip(map(str, made[5][1][1::2]), made[5][1][2::2], strict=True))
    assert_same_bits(named["Weights"], model.fc.weight)


@needs_octave
def test_the_lines_that_save_layers(tmp_path):
    """A class with the properties of lstmLayer stands for it; Octave has no arrays of objects."""
    folder = tmp_path / "+nnet/+cnn/+layer"
    folder.mkdir(parents=True)
    layer = lstm_layer(OutputMode="last")
    names = [name for name in layer if name != "Class"]
    (folder / "LSTMLayer.m").write_text(
        "classdef LSTMLayer\n properties\n" + "\n".join(names) + "\n end\nend\n"
    )
    (tmp_path / "given.mat").write_bytes(mat5(given={name: layer[name] for name in names}))
    saved = _lines("asStruct").replace('save("net.mat"', 'save("-v7", "net.mat"')
    one = saved.replace("net.Layers(k)", "net.Layers")  # of one object
    _octave(
        tmp_path,
        'load("given.mat"); net.Layers = nnet.cnn.layer.LSTMLayer();\n'
        "for f = fieldnames(given)', net.Layers.(f{1}) = given.(f{1}); end\n" + one,
    )
    model = load(tmp_path / "net.mat", batch_first=False)
    assert_same_bits(model(x_of().T), read(mat5(lstm=layer))(x_of().T))


# ---- refusals -----------------------------------------------------------------------------------


def _opaque(name: str, kind: str) -> bytes:
    """Return an object as MATLAB writes it, a variable."""

    def element(code: int, data: bytes) -> bytes:
        return struct.pack("<2I", code, len(data)) + data + bytes(-len(data) % 8)

    parts = [element(6, struct.pack("<2I", 17, 0))]
    parts += [element(1, text.encode()) for text in (name, "MCOS", kind)]
    return element(14, b"".join(parts))


def _header() -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM"


WRONG = {
    "an object": (
        _header() + _opaque("net", "dlnetwork"),
        "it holds no layers as structs, but 'net' (object): save the properties of its layers as "
        "structs: docs/coming_from/matlab.md has the lines of MATLAB that do it"),
    "nothing": (
        _header(),
        "it holds no layers as structs, but nothing: save the properties of its layers as structs: "
        "docs/coming_from/matlab.md has the lines of MATLAB that do it"),
    "a GRU": (
        mat5(a=lstm_layer(InputWeights=np.ones((15, I)), RecurrentWeights=np.ones((15, H)))),
        "layer 1 ('lstm') has InputWeights of 15x3 and RecurrentWeights of 15x5, which are none of "
        "an lstmLayer; a GRU has 3 rows for each unit"),
    "units": (
        mat5(a=lstm_layer(NumHiddenUnits=7.0)),
        "layer 1 ('lstm'): NumHiddenUnits is 7, but its arrays are of 5"),
    "inputs of an LSTM": (
        mat5(a=lstm_layer(InputSize=4.0)),
        "layer 1 ('lstm'): InputSize is 4, but its arrays are of 3"),
    "inputs of a matrix": (
        mat5(a=dense_layer(InputSize=4.0)),
        "layer 1 ('fc'): InputSize is 4, but its arrays are of 5"),
    "inputs of a projected LSTM": (
        mat5(a=_projected() | {"InputSize": 7.0}),
        "layer 1 ('lstm'): InputSize is 7, but its arrays are of 3"),
    "other features": (
        mat5(a=cell(plain("SequenceInputLayer", "in", InputSize=4.0), lstm_layer())),
        "its input layer gives 4 features, and the first matrix of weights takes 3"),
    "untrained": (
        mat5(a=lstm_layer(InputWeights=np.zeros((0, 0)))),
        "layer 1 ('lstm') has no InputWeights: it may not have been trained"),
    "bias": (
        mat5(a=lstm_layer(Bias=np.ones((7, 1)))),
        "layer 1 ('lstm'): Bias must have 20 numbers, got 7x1"),
    "a function": (
        mat5(a=lstm_layer(StateActivationFunction="sin")),
        "layer 1 ('lstm'): StateActivationFunction is 'sin'; known are 'tanh', 'softsign', 'relu'"),
    "states of others": (
        mat5(a=lstm_layer(HasStateInputs=True)),
        "layer 1 ('lstm') takes its states from other layers, HasStateInputs is true"),
    "states of a batch": (
        mat5(a=lstm_layer(HiddenState=np.ones((H, 3)))),
        "layer 1 ('lstm'): HiddenState of 5x3 has the states of several sequences; save the "
        "network after resetState(net)"),
    "states of another size": (
        mat5(a=lstm_layer(HiddenState=np.ones((7, 1)))),
        "layer 1 ('lstm') has states of another size than its units"),
    "complex": (
        mat5(a=lstm_layer(Bias=np.ones((20, 1)) * 1j)),
        "layer 1 ('lstm'): Bias is an array of complex numbers, which is not opened"),
    "a text": (
        mat5(a=lstm_layer(Bias="none")), "layer 1 ('lstm'): Bias must be numbers, got a text"),
    "another layer": (
        mat5(a=cell(lstm_layer(), plain("GRULayer", "gru"))),
        "layer 2 ('gru') is a 'nnet.cnn.layer.GRULayer', which fastlstm does not read; it reads "
        "lstmLayer, bilstmLayer, lstmProjectedLayer, fullyConnectedLayer, sequenceInputLayer, "
        "dropoutLayer, reluLayer, tanhLayer, sigmoidLayer and softmaxLayer"),
    "images": (
        mat5(a=cell(plain("SequenceInputLayer", "in", InputSize=np.ones(3)), lstm_layer())),
        "layer 1 ('in'): InputSize must be one whole number, images as steps are not read; got an "
        "array of 1x3"),
    "constant": (
        mat5(a=cell(plain("SequenceInputLayer", "in", InputSize=3.0, Normalization="zscore",
                          Mean=LOW, StandardDeviation=np.zeros((3, 1))), lstm_layer())),
        "layer 1 ('in') divides by 0: a feature was constant in training"),
    "elements": (
        mat5(a=cell(plain("SequenceInputLayer", "in", InputSize=3.0, Normalization="zerocenter",
                          Mean=np.ones((2, 1))), lstm_layer())),
        'layer 1 (\'in\'): Mean must have 3 numbers, got 2: just NormalizationDimension="channel" '
        'and "all" are read'),
    "probability": (
        mat5(a=cell(lstm_layer(), plain("DropoutLayer", "d", Probability=2.0))),
        "layer 2 ('d'): Probability must be a number between 0 and 1"),
    "inputs alone": (
        mat5(a=cell(plain("SequenceInputLayer", "in", InputSize=3.0))),
        "its network has no layers that compute anything"),
    "projectors": (
        mat5(a=_projected() | {"OutputProjector": np.ones((7, 2))}),
        "layer 1 ('lstm') has an OutputProjector of 7 rows for 5 units"),
    "connections as structs": (
        mat5(layers=cell(lstm_layer()), connections=[{"Source": "in", "Destination": "lstm"}]),
        "its connections must be a cell array of two columns of names, got a cell array of 1x1: "
        "save them as connections = cellstr(net.Connections{:, :})"),
    "connections as numbers": (
        mat5(layers=cell(lstm_layer()), connections=np.ones((2, 2))),
        "its connections must be a cell array of two columns of names, got an array of 2x2: save "
        "them as connections = cellstr(net.Connections{:, :})"),
    "two inputs": (
        mat5(a=cell(lstm_layer(), plain("SequenceInputLayer", "in2", InputSize=3.0))),
        "layer 2 ('in2') is behind layer 1 ('lstm'), which no chain has: a network of several "
        "inputs or outputs is not read, but a chain of its layers, or one alone"),
    "two outputs": (
        mat5(a=cell(lstm_layer(), plain("RegressionOutputLayer", "out"), dense_layer())),
        "layer 3 ('fc') is behind layer 2 ('out'), which no chain has: a network of several inputs "
        "or outputs is not read, but a chain of its layers, or one alone"),
    "connections as a table": (
        mat5(layers=cell(lstm_layer())) + _opaque("Connections", "table"),
        "its connections are an object of MATLAB's class 'table', which is not opened: save them "
        "as connections = cellstr(net.Connections{:, :}), or leave them out if its layers follow "
        "one another"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused(name):
    data, sentence = WRONG[name]
    raises(lambda: read(data), ValueError, HEAD + sentence)


def test_a_product_far_larger_than_its_factors():
    """Of matrices of a megabyte it would take 12 GB, so it is refused before it is made."""
    layer = _projected() | {
        "InputWeights": np.ones((80000, 2), "f4"),
        "RecurrentWeights": np.ones((80000, 1), "f4"),
        "Bias": np.zeros((0, 0)),
        "InputProjector": np.ones((3, 2), "f4"),
        "OutputProjector": np.ones((20000, 1), "f4"),
    }
    data = mat5(compressed=True, a=layer)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="it has 128.* or more inflated bytes; at most"):
            read(data)
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="'fc' "):
        read(mat5(layers=cell(lstm_layer(), dense_layer(7))))


def test_objects_in_properties():
    """A string of MATLAB's, in double quotes, is an object."""
    data = mat5(a=lstm_layer(OutputMode="SEQUENCE"))
    text = data.index("SEQUENCE".encode("utf-16-le") if b"S\0E\0" in data else b"SEQUENCE")
    assert text  # of scipy's file, whose place tells the matrix around it
    value = Closed("an object of MATLAB's class 'string'")
    from fastlstm.formats.budget import Budget
    from fastlstm.formats.matlab_layers import Chain

    raises(
        lambda: Chain(Budget(0)).read([lstm_layer(OutputMode=value)]), ValueError,
        "layer 1 ('lstm'): OutputMode is an object of MATLAB's class 'string', which is not opened "
        "(write it in single quotes)",
    )  # fmt: skip
    raises(
        lambda: Chain(Budget(0)).read([
            lstm_layer(Bias=Closed("an object of MATLAB's class 'dlarray'"))]), ValueError,
        "layer 1 ('lstm'): Bias is an object of MATLAB's class 'dlarray', which is not opened; "
        "extractdata gives its numbers",
    )  # fmt: skip


# ---- hostile files ------------------------------------------------------------------------------

SECONDS, MOST = 15, 24 << 20


def within_bounds(data: bytes) -> str:
    """Load a file, and return what is said of it; assert that it takes little time and memory."""
    begun, said = time.process_time(), ""
    tracemalloc.start()
    try:
        repr(load(io.BytesIO(data)))
    except ValueError as error:
        said = str(error)
        assert said.startswith(HEAD) and len(said) < 5000
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert time.process_time() - begun < SECONDS
    assert peak < MOST + 10 * len(data), peak
    return said


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> list[bytes]:
    path = tmp_path_factory.mktemp("mat") / "m.mat"
    small = [lstm_layer(InputWeights=np.ones((20, 1))), dense_layer()]
    first = plain("SequenceInputLayer", "in", InputSize=1.0, Normalization="zerocenter", Mean=1.0)
    layers = cell(first, *small)
    return [
        mat5(layers=layers), mat5(True, layers=layers), mat73(path, layers=layers),
        mat73(path, net=[small[0], small[0] | {"InputWeights": np.ones((20, 5))}]),
    ]  # fmt: skip


def test_truncated_files(corpus):
    for data in corpus:
        assert within_bounds(data) == ""
        step = max(1, len(data) // 150)
        for end in range(1, len(data) - 1, step):
            if end < 128 or (end < 520 and data.startswith(MAGIC)):
                continue
            assert within_bounds(data[:end]), end


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_mutated_files(corpus, data):
    file = bytearray(data.draw(st.sampled_from(corpus)))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(128, len(file) - 1))
        bits = data.draw(st.sampled_from([1, 8, 128, 255]) | st.integers(1, 255))
        size = data.draw(st.sampled_from([1, 1, 4, 8]))
        for n in range(place, min(place + size, len(file))):
            file[n] ^= bits
    within_bounds(bytes(file))


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_mutated_variables(corpus, data):
    """Changes of what is compressed, with a checksum that is right."""
    place = 128
    head = corpus[1][:place]
    _, size = struct.unpack_from("<2I", corpus[1], place)
    inside = bytearray(zlib.decompress(corpus[1][place + 8 : place + 8 + size]))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(inside) - 1))
        inside[at] = data.draw(st.sampled_from([0, 1, 127, 255]) | st.integers(0, 255))
    packed = zlib.compress(bytes(inside))
    within_bounds(head + struct.pack("<2I", 15, len(packed)) + packed)


def _element(kind: int, data: bytes, size: int | None = None) -> bytes:
    return (
        struct.pack("<2I", kind, len(data) if size is None else size) + data + bytes(-len(data) % 8)
    )


def _matrix(kind: int, shape: tuple[int, ...], rest: bytes, name: str = "a") -> bytes:
    head = _element(6, struct.pack("<2I", kind, 0)) + _element(
        5, struct.pack(f"<{len(shape)}i", *shape)
    )
    return _element(14, head + _element(1, name.encode()) + rest)


def _packed(inside: bytes) -> bytes:
    packed = zlib.compress(inside, 9)
    return _header() + struct.pack("<2I", 15, len(packed)) + packed


def _nested(depth: int) -> bytes:
    inside = _element(14, b"")
    for _ in range(depth):
        inside = _matrix(1, (1, 1), inside, "")
    return _matrix(1, (1, 1), inside)


def _struct(length: int, names: bytes, *values: bytes) -> bytes:
    """Return a struct whose names of fields have this length."""
    rest = _element(5, struct.pack("<i", length)) + _element(1, names) + b"".join(values)
    return _matrix(2, (1, 1), rest)


BIAS = b"Bias".ljust(8, b"\0")
HOSTILE = {
    "a bomb": (_packed(_element(14, bytes(200 << 20))), "a matrix does not begin with"),
    "a bomb of numbers": (
        _packed(_struct(8, BIAS, _matrix(6, (1, 100 << 20), _element(2, bytes(100 << 20)), ""))),
        "inflated bytes; at most"),
    "empty cells": (
        _packed(_matrix(1, (1, 1 << 20), _element(14, b"") * (1 << 20))),
        "values of MATLAB; at most"),
    "cells that are not there": (
        _header() + _matrix(1, (1 << 30, 1 << 30), b""), "elements are to be"),
    "levels": (_header() + _nested(5000), "levels of modules; at most"),
    "numbers that are not there": (
        _header() + _struct(8, BIAS, _matrix(6, (1 << 30, 1 << 30), _element(9, bytes(8)), "")),
        "has 8 bytes, not"),
    "negative sizes": (_header() + _matrix(1, (-1, 1), b""), "a matrix of sizes (-1, 1)"),
    "fields": (_header() + _struct(-8, b"abcdefgh"), "a struct has no names"),
    "one name": (_header() + _struct(4, b"abc\0abc\0"), "two fields of a struct have one name"),
    "twice": (_header() + 2 * _matrix(1, (0, 0), b""), "two of its variables are called 'a'"),
    "inputs": (
        mat5(a=cell(plain("SequenceInputLayer", "in", InputSize=1e5, Normalization="zerocenter",
                          Mean=1.0), lstm_layer())), "inflated bytes; at most"),
    "infinite inputs": (
        mat5(a=cell(plain("SequenceInputLayer", "in", InputSize=np.inf), lstm_layer())),
        "InputSize must be one whole number"),
    "another element": (_header() + _element(9, bytes(8)), "an element of kind 9 is no variable"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(name):
    data, sentence = HOSTILE[name]
    assert sentence in within_bounds(data)


def test_references_that_go_round(tmp_path):
    import h5py

    path = tmp_path / "c.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        group = file.create_group("#refs#")
        made = group.create_dataset("a", (1, 2), h5py.ref_dtype)
        made[...] = made.ref
        made.attrs["MATLAB_class"] = np.bytes_("cell")
        file["net"] = np.array([[made.ref]], h5py.ref_dtype)
        file["net"].attrs["MATLAB_class"] = np.bytes_("cell")
    data = MAGIC + path.read_bytes()[len(MAGIC) :]
    assert "levels of modules; at most" in within_bounds(data)


@pytest.mark.parametrize("compression", ["lzf", "shuffle", "fletcher32"])
def test_filters_that_are_not_read(compression, tmp_path):
    import h5py

    path = tmp_path / "c.mat"
    options = {"compression": "lzf"} if compression == "lzf" else {compression: True}
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, shape in (
            ("InputWeights", (3, 20)),
            ("RecurrentWeights", (5, 20)),
            ("Bias", (1, 20)),
        ):
            made = file.create_dataset(name, data=np.ones(shape), **options)
            made.attrs["MATLAB_class"] = np.bytes_("double")
    said = within_bounds(MAGIC + path.read_bytes()[len(MAGIC) :])
    assert re.search(
        r"an array is stored through filter \d+ of HDF5; just deflate is read here", said
    )


def test_a_chunk_that_is_missing(tmp_path):
    import h5py

    path = tmp_path / "c.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, shape in (
            ("InputWeights", (3, 20)),
            ("RecurrentWeights", (5, 20)),
            ("Bias", (1, 20)),
        ):
            made = file.create_dataset(name, shape, "f8", chunks=(1, 10))
            made[0, :10] = 1
            made.attrs["MATLAB_class"] = np.bytes_("double")
    said = within_bounds(MAGIC + path.read_bytes()[len(MAGIC) :])
    assert said == HEAD + "a damaged HDF5 file: an array has 1 of 6 pieces"


def test_the_file_is_named_as_it_is():
    assert matlab_files.mat5(a=lstm_layer()).startswith(b"MATLAB")
    assert matlab_writer.NAME == "MATLAB"
