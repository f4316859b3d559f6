"""JSON files of audio plugins: RTNeural, AIDA-X, NAM and GuitarML, read and written.

Truth are the formulas of the programs that run these files, in float64 and straight from a file's
numbers: each walks the lists of a file as that program's loader does.
"""

from __future__ import annotations

import copy
import functools
import io
import json
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
from errors import raises
from hypothesis import given, settings
from hypothesis import strategies as st
from support import assert_same_bits
from values import normal

import fastlstm
from fastlstm import (
    LSTM,
    Concat,
    Dropout,
    Linear,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    Softmax,
    Tanh,
    cli,
)
from fastlstm.cli.convert import told_sample_rate
from fastlstm.formats import budget, json_values, nam, rtneural

T = 40


# ---- what the programs compute ----------------------------------------------------------------


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


FUNCTIONS = {
    "": lambda x: x,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": sigmoid,
    "softmax": _softmax,
}


def cell(w_ih, w_hh, b, x, h=None, c=None):
    """Return the outputs of a layer over x (T, I); weights and gates are as torch has them."""
    hidden = w_hh.shape[1]
    h = np.zeros(hidden) if h is None else h
    c = np.zeros(hidden) if c is None else c
    out = []
    for row in x:
        i, f, g, o = np.split(w_ih @ row + w_hh @ h + b, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        out.append(h)
    return np.array(out)


def by_rtneural(tree: Any, x: np.ndarray) -> np.ndarray:
    """What RTNeural computes, and AIDA-X around it."""
    x = x.astype(np.float64)
    x[:, 0] *= 10 ** (tree.get("in_gain", 0) / 20)
    y = x
    for layer in tree["layers"]:
        arrays = [np.array(a, np.float64) for a in layer["weights"]]
        if layer["type"] == "lstm":
            y = cell(arrays[0].T, arrays[1].T, arrays[2], y)
        elif layer["type"] == "activation":
            y = FUNCTIONS[layer["activation"]](y)
        else:
            y = FUNCTIONS[layer.get("activation", "")](y @ arrays[0] + arrays[1])
    if tree.get("in_skip"):
        y = y + x[:, :1]
    return y * 10 ** (tree.get("out_gain", 0) / 20)


def by_rtneural_torch(tree: Any, x: np.ndarray) -> np.ndarray:
    """What a program computes that loads "lstm." and "fc." by RTNeural's helpers."""
    a = {name: np.array(value, np.float64) for name, value in tree.items()}
    bias = a["lstm.bias_ih_l0"] + a["lstm.bias_hh_l0"]
    y = cell(a["lstm.weight_ih_l0"], a["lstm.weight_hh_l0"], bias, x.astype(np.float64))
    return y @ a["fc.weight"].T + a["fc.bias"]


def by_nam(tree: Any, x: np.ndarray) -> np.ndarray:
    """What NeuralAmpModelerCore computes, without the silence by which it warms up."""
    config, left = tree["config"], list(tree["weights"])
    hidden, width = config["hidden_size"], config["input_size"]
    y = x.astype(np.float64)
    for _ in range(config["num_layers"]):
        w = np.zeros((4 * hidden, width + hidden))
        for row in range(4 * hidden):
            for column in range(width + hidden):
                w[row, column] = left.pop(0)
        b, h, c = (np.array([left.pop(0) for _ in range(n)]) for n in (4 * hidden, hidden, hidden))
        y = cell(w[:, :width], w[:, width:], b, y, h, c)
        width = hidden
    outputs = config.get("out_channels", 1)
    head = np.array([[left.pop(0) for _ in range(hidden)] for _ in range(outputs)])
    y = y @ head.T + np.array([left.pop(0) for _ in range(outputs)])
    assert not left
    return y


def by_guitarml(tree: Any, x: np.ndarray) -> np.ndarray:
    """What Automated-GuitarAmpModelling's SimpleRNN computes."""
    a = {name: np.array(value, np.float64) for name, value in tree["state_dict"].items()}
    y = x = x.astype(np.float64)
    for k in range(tree["model_data"]["num_layers"]):
        bias = a[f"rec.bias_ih_l{k}"] + a[f"rec.bias_hh_l{k}"]
        y = cell(a[f"rec.weight_ih_l{k}"], a[f"rec.weight_hh_l{k}"], bias, y)
    y = y @ a["lin.weight"].T + a.get("lin.bias", 0)
    return y + x[:, : tree["model_data"]["skip"]] if tree["model_data"]["skip"] else y


def near(got: np.ndarray, want: np.ndarray, width: int) -> bool:
    """Whether float32 computed this: each of T steps rounds sums of `width` products once a term.

    Values and derivatives are at most about 1 here, so that errors add up over steps at most.
    """
    assert got.shape == want.shape and got.dtype == np.float32
    most = T * 4 * width * np.finfo(np.float32).eps * max(1, np.abs(want).max())
    return bool(np.abs(got - want).max() <= most)


# ---- files ------------------------------------------------------------------------------------


def lists(*shape: int, seed: int = 0) -> Any:
    return (normal(*shape, seed=seed) / 3).tolist()


def rt_lstm(inputs: int, hidden: int, seed: int = 0, activation: str = "tanh") -> dict[str, Any]:
    return {
        "type": "lstm",
        "activation": activation,
        "shape": [None, None, hidden],
        "weights": [
            lists(inputs, 4 * hidden, seed=seed),
            lists(hidden, 4 * hidden, seed=seed + 1),
            lists(4 * hidden, seed=seed + 2),
        ],
    }


def rt_dense(inputs: int, outputs: int, activation: str = "", seed: int = 9) -> dict[str, Any]:
    weights = [lists(inputs, outputs, seed=seed), lists(outputs, seed=seed + 1)]
    shape = [None, None, outputs]
    return {"type": "dense", "activation": activation, "shape": shape, "weights": weights}


def rt(inputs: int, *layers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"in_shape": [None, None, inputs], "layers": [*layers], **more}


def nam_file(
    inputs: int, hidden: int, layers: int, outputs: int = 1, **more: Any
) -> dict[str, Any]:
    first = 4 * hidden * (inputs + hidden + 1) + 2 * hidden
    number = first + (layers - 1) * (4 * hidden * (2 * hidden + 1) + 2 * hidden)
    number += outputs * (hidden + 1)
    config = {"input_size": inputs, "hidden_size": hidden, "num_layers": layers}
    if outputs > 1:
        config |= {"in_channels": inputs, "out_channels": outputs}
    model = {"version": "0.5.4", "architecture": "LSTM", "config": config, **more}
    return model | {"weights": lists(number, seed=3)}


def guitarml_file(inputs: int, hidden: int, layers: int, skip: int) -> dict[str, Any]:
    data = {"model": "SimpleRNN", "unit_type": "LSTM", "input_size": inputs, "output_size": 1}
    data |= {"hidden_size": hidden, "num_layers": layers, "skip": skip, "bias_fl": True}
    state: dict[str, Any] = {}
    for k in range(layers):
        state[f"rec.weight_ih_l{k}"] = lists(4 * hidden, hidden if k else inputs, seed=k)
        state[f"rec.weight_hh_l{k}"] = lists(4 * hidden, hidden, seed=k + 10)
        state[f"rec.bias_ih_l{k}"] = lists(4 * hidden, seed=k + 20)
        state[f"rec.bias_hh_l{k}"] = lists(4 * hidden, seed=k + 30)
    state |= {"lin.weight": lists(1, hidden, seed=40), "lin.bias": lists(1, seed=41)}
    return {"model_data": data, "state_dict": state}


def torch_form(inputs: int = 1, hidden: int = 5) -> dict[str, Any]:
    names = {"weight_ih_l0": (4 * hidden, inputs), "weight_hh_l0": (4 * hidden, hidden)}
    names |= {"bias_ih_l0": (4 * hidden,), "bias_hh_l0": (4 * hidden,)}
    state = {f"lstm.{name}": lists(*shape, seed=k) for k, (name, shape) in enumerate(names.items())}
    return state | {"fc.weight": lists(1, hidden, seed=7), "fc.bias": lists(1, seed=8)}


def opened(tree: Any) -> io.BytesIO:
    return io.BytesIO(json.dumps(tree).encode())


FILES: dict[str, tuple[Any, Any]] = {
    "rtneural": (by_rtneural, rt(1, rt_lstm(1, 8), rt_dense(8, 1))),
    "rtneural_deep": (
        by_rtneural,
        rt(3, rt_dense(3, 6, "tanh"), rt_lstm(6, 5), rt_lstm(5, 4, 20), rt_dense(4, 3, "sigmoid")),
    ),
    "rtneural_softmax": (
        by_rtneural,
        rt(
            2,
            rt_lstm(2, 4, activation=""),
            {"type": "activation", "activation": "relu", "shape": [None, 4], "weights": []},
            rt_dense(4, 3, "softmax") | {"type": "time-distributed-dense"},
        ),
    ),
    "aida": (by_rtneural, rt(1, rt_lstm(1, 12), rt_dense(12, 1), in_skip=1)),
    "aida_floats": (by_rtneural, rt(1, rt_lstm(1, 3), rt_dense(3, 1), in_skip=1.0, in_gain=2)),
    "aida_gains": (
        by_rtneural,
        rt(1, rt_lstm(1, 6), rt_dense(6, 1), in_skip=1, in_gain=-3.5, out_gain=7.25),
    ),
    "aida_knobs": (by_rtneural, rt(3, rt_lstm(3, 6), rt_dense(6, 1), in_skip=1, in_gain=2)),
    "aida_silent": (by_rtneural, rt(1, rt_lstm(1, 6), rt_dense(6, 1), out_gain=-6)),
    "rtneural_torch": (by_rtneural_torch, torch_form()),
    "nam": (by_nam, nam_file(1, 3, 1)),
    "nam_deep": (by_nam, nam_file(1, 5, 3)),
    "nam_knobs": (by_nam, nam_file(4, 5, 2)),
    "nam_stereo": (by_nam, nam_file(2, 3, 1, outputs=2, version="0.7.0")),
    "guitarml": (by_guitarml, guitarml_file(1, 8, 1, 1)),
    "guitarml_deep": (by_guitarml, guitarml_file(1, 6, 2, 0)),
    "guitarml_knobs": (by_guitarml, guitarml_file(3, 6, 1, 1)),
}


def _inputs(tree: Any) -> np.ndarray:
    of = tree.get("config") or tree.get("model_data")
    width = of["input_size"] if of else tree["in_shape"][-1] if "in_shape" in tree else 1
    return normal(T, width, seed=5) / 2


@pytest.mark.parametrize("name", FILES)
def test_a_file_gives_its_makers_numbers(name):
    formula, tree = FILES[name]
    x = _inputs(tree)
    assert near(fastlstm.load(opened(tree))(x), formula(tree, x), width=20)


@pytest.mark.parametrize("name", FILES)
def test_a_stream_gives_the_bits_of_a_run(name):
    _, tree = FILES[name]
    model, x = fastlstm.load(opened(tree)), _inputs(tree)[:, None]
    for layer in (layer for _, layer in model.named_layers() if isinstance(layer, LSTM)):
        layer.batch_first = False
    whole = model(x)
    steps, blocks = model.stream(1), model.stream(1)
    assert_same_bits(np.stack([steps.step(row) for row in x]), whole)
    assert_same_bits(np.concatenate([blocks.run(x[:7]), blocks.run(x[7:])]), whole)


# A file with one fault in its meaning must be told from the right one, or the comparison is worth
# nothing.
SABOTEURS = {
    "gates": ("rtneural", lambda t: t["layers"][0]["weights"][2].reverse()),
    "bias": ("rtneural", lambda t: t["layers"][0]["weights"].__setitem__(2, [0.0] * 32)),
    "transposed": (
        "rtneural",
        lambda t: t["layers"][0]["weights"].__setitem__(
            1, np.array(t["layers"][0]["weights"][1]).reshape(32, 8).T.tolist()
        ),
    ),
    "skip": ("aida", lambda t: t.__setitem__("in_skip", 0)),
    "in_gain": ("aida_gains", lambda t: t.__setitem__("in_gain", 0)),
    "out_gain": ("aida_gains", lambda t: t.__setitem__("out_gain", 0)),
    "head": ("nam", lambda t: t["weights"].__setitem__(-1, t["weights"][-1] + 1e-3)),
    "first state": ("nam", lambda t: t["weights"].__setitem__(4 * 3 * 5, 3.0)),
    "two biases": (
        "guitarml",
        lambda t: t["state_dict"].__setitem__("rec.bias_hh_l0", [0.0] * 32),
    ),
    "guitarml skip": ("guitarml", lambda t: t["model_data"].__setitem__("skip", 0)),
}


@pytest.mark.parametrize("fault", SABOTEURS)
def test_a_wrong_reading_is_caught(fault):
    name, spoil = SABOTEURS[fault]
    formula, tree = FILES[name]
    spoilt = copy.deepcopy(tree)
    spoil(spoilt)
    x = _inputs(tree)
    assert not near(fastlstm.load(opened(spoilt))(x), formula(tree, x), width=20)


def test_published_shapes_are_read():
    """A file as NeuralAmpModelerCore's example: 1 input, 3 units, 70 weights, its notes."""
    tree = nam_file(1, 3, 1, sample_rate=48000, metadata={"name": "Test LSTM", "loudness": -37.8})
    assert len(tree["weights"]) == 70
    assert fastlstm.load_notes(opened(tree)) == {
        "version": "0.5.4",
        "architecture": "LSTM",
        "sample_rate": 48000,
        "metadata": {"name": "Test LSTM", "loudness": -37.8},
    }
    lstm = fastlstm.load_lstm(opened(tree))
    assert lstm.learn_initial_state
    assert np.array_equal(lstm.h_0_l0, np.float32(tree["weights"][60:63]))


def test_a_state_is_read_and_loaded_into_a_model():
    tree = torch_form()
    assert list(fastlstm.load_state(opened(tree))) == list(tree)
    model = Sequential({"lstm": LSTM(1, 5), "act": Tanh(), "fc": Linear(5, 1)})
    fastlstm.load(opened(tree), into=model)
    assert np.array_equal(model["fc"].weight, np.float32(tree["fc.weight"]))


# ---- writing ----------------------------------------------------------------------------------


def chain(**more: Any) -> Sequential:
    lstm = LSTM(1, 6, num_layers=2, seed=1, **more)
    return Sequential({"lstm": lstm, "drop": Dropout(0.5), "fc": Linear(6, 1, seed=2)}).eval()


def written(write: Any, model: Any, **options: Any) -> Any:
    file = io.BytesIO()
    write(file, model, **options)
    return json.loads(file.getvalue())


WRITTEN = {
    "rtneural": (rtneural.write, by_rtneural, chain()),
    "rtneural_all": (
        rtneural.write,
        by_rtneural,
        Sequential(
            *(Linear(2, 4, seed=1), Tanh(), LSTM(4, 5, bias=False, seed=2), ReLU()),
            *(Sequential(Linear(5, 3, bias=False, seed=3), Sigmoid()), Softmax()),
        ),
    ),
    "aida": (rtneural.write, by_rtneural, Residual(chain())),
    "nam": (nam.write, by_nam, chain(learn_initial_state=True)),
    "nam_plain": (nam.write, by_nam, chain()),
    "nam_no_bias": (
        nam.write,
        by_nam,
        Sequential(LSTM(2, 4, bias=False, seed=1), Linear(4, 1, bias=False, seed=2)),
    ),
}


def _stirred(model: Any) -> Any:
    arrays = model.state_dict()
    model.load_state_dict(
        {
            n: (normal(*a.shape, seed=k) / 3).astype(a.dtype)
            for k, (n, a) in enumerate(arrays.items())
        }
    )
    return model.eval()


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_is_read_by_the_makers_rules_and_by_ours(name):
    write, formula, model = WRITTEN[name]
    model = _stirred(model)
    width = next(
        a for n, a in model.state_dict().items() if n.endswith(("ih_l0", "0.weight"))
    ).shape[1]
    x = normal(T, width, seed=5) / 2
    tree = written(write, model)
    assert near(model(x), formula(tree, x), width=20)
    again = fastlstm.load(opened(tree))
    assert_same_bits(again(x), model(x))
    assert written(write, again) == tree


def test_the_form_for_torch_is_read_by_the_makers_rules_and_by_ours():
    model = _stirred(Sequential({"lstm": LSTM(1, 5), "fc": Linear(5, 1)}))
    tree, x = written(rtneural.write, model, form="torch"), normal(T, 1, seed=5)
    assert near(model(x), by_rtneural_torch(tree, x), width=20)
    assert_same_bits(fastlstm.load(opened(tree))(x), model(x))


def test_float64_is_written_and_read_as_float32():
    model = Sequential(LSTM(1, 4, dtype="float64", seed=0), Linear(4, 1, dtype="float64", seed=1))
    again = fastlstm.load(opened(written(nam.write, model)))
    assert again[0].dtype == np.float32
    assert np.array_equal(again[0].weight_hh_l0, model[0].weight_hh_l0.astype(np.float32))


def test_a_sample_rate_goes_with_the_model(tmp_path):
    model = Sequential(LSTM(1, 4, seed=0), Linear(4, 1, seed=1))
    amp = tmp_path / "amp.nam"
    fastlstm.save(model, amp, sample_rate=44100)
    for command, end in (("convert", "nam"), ("convert", "fl"), ("export", "fl")):
        path = tmp_path / f"{command}.{end}"
        line = [command, str(amp), *(["-o"] if command == "export" else []), str(path)]
        assert cli.main(line) == 0
        assert fastlstm.load_notes(path)["sample_rate"] == 44100
        assert cli.main([*line, "--sample-rate", "96000"]) == 0
        assert fastlstm.load_notes(path)["sample_rate"] == 96000
    tree = written(rtneural.write, model)  # AIDA-X itself looks into the metadata first
    tree |= {"metadata": {"samplerate": 44100}, "samplerate": 48000}
    (tmp_path / "aida.json").write_text(json.dumps(tree))
    assert cli.main(["convert", str(tmp_path / "aida.json"), str(tmp_path / "aida.nam")]) == 0
    assert fastlstm.load_notes(tmp_path / "aida.nam")["sample_rate"] == 44100
    fastlstm.save(model, amp)  # which says nothing of it
    assert cli.main(["convert", str(amp), str(tmp_path / "amp.fl")]) == 0
    assert "sample_rate" not in fastlstm.load_notes(tmp_path / "amp.fl")
    for rate in (0, -1, "48000", True, 10**400):  # words of a stranger
        tree = json.loads(amp.read_text()) | {"sample_rate": rate, "metadata": rate}
        amp.write_text(json.dumps(tree))
        assert told_sample_rate(str(amp), None) is None


@pytest.mark.parametrize("version", ["0.5.0", "0.6.1", "0.7.0", ...])
def test_versions_of_nam(version):
    """Those that its program reads; a file that says none is judged by its weights."""
    tree = nam_file(1, 3, 1, version=version)
    if version is ...:
        del tree["version"]
    x = _inputs(tree)
    assert near(fastlstm.load(opened(tree))(x), by_nam(tree, x), 4)


def test_a_nam_without_first_states_is_written_for_rtneural(tmp_path):
    """As the page on these files has it: `fastlstm convert amp.nam amp.json`."""
    model = Sequential({"lstm": LSTM(1, 4, seed=0), "fc": Linear(4, 1, seed=1)})
    fastlstm.save(model, tmp_path / "amp.nam", sample_rate=44100)
    assert cli.main(["convert", str(tmp_path / "amp.nam"), str(tmp_path / "amp.json")]) == 0
    again, x = fastlstm.load(tmp_path / "amp.json"), normal(T, 1)
    assert_same_bits(again(x), model.eval()(x))
    assert fastlstm.load_notes(tmp_path / "amp.json") == {"samplerate": 44100.0}


def test_numbers_beside_the_lists_of_a_state_dict_are_arrays():
    """A BatchNorm of torch counts its batches; it is named, as no layer of fastlstm's is one."""
    norm = {f"bn.{name}": [1.0] for name in ("weight", "bias", "running_mean", "running_var")}
    file = opened(torch_form() | norm | {"bn.num_batches_tracked": 7})
    assert fastlstm.load_state(file)["bn.num_batches_tracked"] == np.float32(7)
    with pytest.raises(ValueError, match="'bn' cannot be run"):
        fastlstm.load(file)


def test_save_chooses_by_the_suffix_and_keeps_the_sample_rate(tmp_path):
    model = Sequential(LSTM(1, 4, seed=0), Linear(4, 1, seed=1))
    fastlstm.save(model, tmp_path / "amp.nam", sample_rate=48000)
    assert fastlstm.load_notes(tmp_path / "amp.nam")["sample_rate"] == 48000
    fastlstm.save(model, tmp_path / "amp.json", sample_rate=44100.0)
    assert fastlstm.load_notes(tmp_path / "amp.json") == {"samplerate": 44100.0}
    fastlstm.save(model, tmp_path / "torch.json", form="torch")
    assert list(json.loads((tmp_path / "torch.json").read_text()))[0] == "0.weight_ih_l0"


def with_first(model: Any, number: float) -> Any:
    """Return a model of which the first number of the first parameter is another."""
    arrays = {name: np.array(array) for name, array in model.state_dict().items()}
    next(iter(arrays.values())).flat[0] = number
    model.load_state_dict(arrays)
    return model


REFUSED_WRITES: dict[str, tuple[Any, Any, dict[str, Any], type[Exception], str]] = {
    "peephole": (
        rtneural.write,
        Sequential({"rnn": LSTM(1, 4, peephole=True)}),
        {},
        ValueError,
        "rnn: RTNeural has no LSTM with peephole=True",
    ),
    "bidirectional": (
        nam.write,
        Sequential({"rnn": LSTM(1, 4, bidirectional=True), "fc": Linear(8, 1)}),
        {},
        ValueError,
        "rnn: Neural Amp Modeler has no LSTM with bidirectional=True",
    ),
    "projection": (
        rtneural.write,
        LSTM(1, 4, proj_size=2),
        {},
        ValueError,
        "LSTM: RTNeural has no LSTM with proj_size=2",
    ),
    "learned": (
        rtneural.write,
        LSTM(1, 4, learn_initial_state=True),
        {},
        ValueError,
        "LSTM: RTNeural begins with zeros, it has no learned initial states",
    ),
    "layer": (
        rtneural.write,
        Sequential({"both": Concat(LSTM(1, 2), LSTM(1, 2))}),
        {},
        TypeError,
        "both: RTNeural has no Concat",
    ),
    "residual inside": (
        rtneural.write,
        Sequential({"r": Residual(LSTM(2, 2))}),
        {},
        TypeError,
        "r: RTNeural has no Residual",
    ),
    "wide residual": (
        rtneural.write,
        Residual(LSTM(2, 2)),
        {},
        ValueError,
        "a Residual of 2 inputs: AIDA-X adds one input to one output",
    ),
    "softmax": (
        rtneural.write,
        Sequential(LSTM(1, 2), Softmax(dim=0)),
        {},
        ValueError,
        "1: RTNeural has Softmax over the features alone",
    ),
    "two layers": (
        rtneural.write,
        LSTM(1, 2, num_layers=2),
        {"form": "torch"},
        ValueError,
        "LSTM: RTNeural reads one layer of an LSTM in its form for torch, this has 2; it has "
        "layers of their own in the form for Keras",
    ),
    "form": (
        rtneural.write,
        LSTM(1, 2),
        {"form": "onnx"},
        ValueError,
        "form must be 'keras' or 'torch', got 'onnx'",
    ),
    "rate": (
        rtneural.write,
        LSTM(1, 2),
        {"form": "torch", "sample_rate": 1.0},
        ValueError,
        "sample_rate stands in the form for Keras: a state dict has no place",
    ),
    "no head": (
        nam.write,
        LSTM(1, 2),
        {},
        ValueError,
        "a .nam file holds one LSTM and a Linear with one output, got LSTM",
    ),
    "two outputs": (
        nam.write,
        Sequential(LSTM(1, 2), Linear(2, 2)),
        {},
        ValueError,
        "the Linear of a .nam file has one output, got 2",
    ),
    "nan": (
        nam.write,
        with_first(Sequential(LSTM(1, 2), Linear(2, 1)), np.nan),
        {},
        ValueError,
        "the model has a number that float32 cannot hold",
    ),
    "infinity": (
        rtneural.write,
        with_first(Sequential({"fc": Linear(2, 1)}), np.inf),
        {},
        ValueError,
        "fc has a number that float32 cannot hold",
    ),
    "nan of an lstm": (
        rtneural.write,
        with_first(LSTM(1, 2), np.nan),
        {},
        ValueError,
        "LSTM has a number that float32 cannot hold",
    ),
    "beyond float32": (
        rtneural.write,
        with_first(LSTM(1, 2, dtype="float64"), 1e39),
        {"form": "torch"},
        ValueError,
        "'weight_ih_l0' has a number that float32 cannot hold",
    ),
    "widths": (
        nam.write,
        Sequential({"rnn": LSTM(1, [2, 3]), "fc": Linear(3, 1)}),
        {},
        ValueError,
        "rnn: the layers of a .nam file have one width, got (2, 3)",
    ),
}


@pytest.mark.parametrize("name", REFUSED_WRITES)
def test_what_a_format_cannot_hold_is_refused_before_anything_is_written(name):
    write, model, options, kind, sentence = REFUSED_WRITES[name]
    file = io.BytesIO()
    raises(lambda: write(file, model, **options), kind, sentence)
    assert not file.getvalue()


# ---- bad and hostile files --------------------------------------------------------------------


def changed(name: str, change: Any) -> Any:
    tree = copy.deepcopy(FILES[name][1])
    change(tree)
    return tree


def _set(*path: Any) -> Any:
    """Return a function that puts the last of these into a tree, at the place of the others."""
    *places, last, value = path

    def put(tree: Any) -> None:
        functools.reduce(lambda at, place: at[place], places, tree)[last] = value

    return put


def _drop(*path: Any) -> Any:
    *places, last = path

    def drop(tree: Any) -> None:
        del functools.reduce(lambda at, place: at[place], places, tree)[last]

    return drop


BAD: dict[str, tuple[str, Any, str]] = {
    "gru": (
        "rtneural",
        _set("layers", 0, "type", "gru"),
        "layer 0 is of type 'gru', which fastlstm does not have; it has lstm, dense, "
        "time-distributed-dense and activation",
    ),
    "conv1d": (
        "rtneural",
        _set("layers", 1, "type", "conv1d"),
        "layer 1 is of type 'conv1d', which fastlstm does not have; it has lstm, dense, "
        "time-distributed-dense and activation",
    ),
    "prelu": (
        "rtneural",
        _set("layers", 1, "activation", "prelu"),
        "layer 1 has the activation 'prelu'; known are 'tanh', 'relu', 'sigmoid', 'softmax'",
    ),
    "lstm of relu": (
        "rtneural",
        _set("layers", 0, "activation", "relu"),
        "layer 0 is an LSTM with the activation 'relu', which RTNeural leaves out: it "
        "computes tanh",
    ),
    "kernel": (
        "rtneural",
        _drop("layers", 0, "weights", 0, 0),
        "the kernel of layer 0 must have shape (1, 32), got 0 entries in place of 1",
    ),
    "ragged": (
        "rtneural",
        _drop("layers", 0, "weights", 1, 3, 3),
        "the recurrent kernel of layer 0 must have shape (8, 32), got 31 entries in place of 32",
    ),
    "text": (
        "rtneural",
        _set("layers", 0, "weights", 2, 0, "1.5"),
        "the bias of layer 0 must be numbers, got '1.5'",
    ),
    "true": (
        "rtneural",
        _set("layers", 0, "weights", 2, 0, True),
        "the bias of layer 0 must be numbers, got 'True'",
    ),
    "too large": (
        "rtneural",
        _set("layers", 0, "weights", 2, 0, 1e39),
        "the bias of layer 0 has a number that float32 cannot hold",
    ),
    "huge whole": (
        "rtneural",
        _set("layers", 0, "weights", 2, 0, 10**400),
        "the bias of layer 0 has a number that float32 cannot hold",
    ),
    "arrays": (
        "rtneural",
        _drop("layers", 0, "weights", 2),
        "layer 0 is an LSTM and must have 3 arrays, got 2",
    ),
    "no type": ("rtneural", _drop("layers", 0, "type"), "layer 0 has no 'type'"),
    "layer": (
        "rtneural",
        _set("layers", 0, 7),
        "layer 0 must be an object, got int",
    ),
    "no layers": ("rtneural", _set("layers", []), "the model has no layers"),
    "shape": (
        "rtneural",
        _set("layers", 0, "shape", [None, None, 0]),
        "'shape' of layer 0 must end in a size, got '[None, None, 0]'",
    ),
    "huge shape": (
        "rtneural",
        _set("layers", 0, "shape", [None, None, 2**30]),
        f"the kernel of layer 0 must have shape (1, {2**32}), got 32 entries in place of {2**32}",
    ),
    "images": (
        "rtneural",
        _set("in_shape", [None, 1, 1, 1]),
        "'in_shape' of the model has 4 axes, which convolutions alone take",
    ),
    "skip": ("aida", _set("in_skip", 2), "'in_skip' of the model must be 0 or 1, got 2"),
    "skip of a truth": (
        "aida",
        _set("in_skip", True),
        "'in_skip' of the model must be of type int or float, got 'True'",
    ),
    "skip of two": (
        "rtneural_deep",
        _set("in_skip", 1),
        "the input is to be added to 3 outputs; one is known",
    ),
    "gain": (
        "aida_gains",
        _set("in_gain", "loud"),
        "'in_gain' of the model must be of type int or float, got 'loud'",
    ),
    "huge whole gain": (
        "aida_gains",
        _set("out_gain", 10**99),
        f"'out_gain' of the model must be a number that float32 can hold, got '1{'0' * 99}'",
    ),
    "gain beyond float32": (
        "aida_gains",
        _set("in_gain", 800),
        "'in_gain' of the model must be at most 760 decibels, got 800",
    ),
    "activation as a list": (
        "rtneural",
        _set("layers", 1, "activation", ["tanh"]),
        "the activation of layer 1 must be a name, got '['tanh']'",
    ),
    "architecture": (
        "nam",
        _set("architecture", "WaveNet"),
        "it is a 'WaveNet' of Neural Amp Modeler; fastlstm has its LSTM alone",
    ),
    "nam weights": (
        "nam",
        _drop("weights", 0),
        "an LSTM of 1 inputs, 1 layers of 3 and 1 outputs has 70 weights, the file 69",
    ),
    "nam outputs": (
        "nam_stereo",
        _set("config", "out_channels", 10**9),
        "an LSTM of 2 inputs, 1 layers of 3 and 1000000000 outputs has 4000000078 weights, the "
        "file 86",
    ),
    "nam channels": (
        "nam_stereo",
        _set("config", "in_channels", 1),
        "'in_channels' must be 'input_size', 2, got 1",
    ),
    **{
        f"nam version {version}": (
            "nam",
            _set("version", version),
            f"it is of version '{version}' of Neural Amp Modeler's files; those of 0.5.0 to 0.7 "
            "are read",
        )
        for version in ("0.4.3", "0.8.0", "1.5.0", "0.5", "0.5.4.1", "x", None, 0.5)
    },
    "nam container": (
        "nam",
        lambda tree: tree.update(architecture="SlimmableContainer") or tree.pop("weights"),
        "it is a 'SlimmableContainer' of Neural Amp Modeler; fastlstm has its LSTM alone",
    ),
    "nam number": (
        "nam",
        _set("weights", 3, 10**400),
        "the list of weights has a number that float32 cannot hold",
    ),
    "nam layers": (
        "nam",
        _set("config", "num_layers", 10**6),
        "'num_layers' must be at most 1000, got 1000000",
    ),
    "nam size": (
        "nam",
        _set("config", "hidden_size", -3),
        "'hidden_size' of the config must be a size, 1 or more, got '-3'",
    ),
    "guitarml gru": (
        "guitarml",
        _set("model_data", "unit_type", "GRU"),
        "it is a 'SimpleRNN' of 'GRU'; known is a SimpleRNN of LSTM",
    ),
    "guitarml names": (
        "guitarml",
        _drop("state_dict", "rec.bias_hh_l0"),
        "its state_dict must have 'rec.weight_ih_l0', 'rec.weight_hh_l0', 'rec.bias_ih_l0', "
        "'rec.bias_hh_l0', 'lin.weight', 'lin.bias', as model_data says, got "
        "'rec.weight_ih_l0', 'rec.weight_hh_l0', 'rec.bias_ih_l0', 'lin.weight', 'lin.bias'",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_in_a_sentence(name):
    of, change, sentence = BAD[name]
    raises(lambda: fastlstm.load(opened(changed(of, change))), ValueError, f"<BytesIO>: {sentence}")


_UNKNOWN = (
    "it is JSON of no known kind: a model of RTNeural or AIDA-X has in_shape and layers, one of "
    "NAM architecture, config and weights, one of GuitarML model_data and state_dict, a state dict "
    "names with weight and bias; this has "
)
TEXTS = {
    b'{"a": 1}': _UNKNOWN + "'a'",
    b"{}": _UNKNOWN + "nothing",
    b'{"fc.weight": [NaN]}': "damaged JSON: NaN is no number of JSON",
    b'{"fc.weight": [[1]], "fc.weight": [[2]]}': (
        "damaged JSON: the name 'fc.weight' stands in it twice"
    ),
    b'{"fc.weight": [1.0': "damaged JSON: Expecting ',' delimiter: line 1 column 19 (char 18)",
}


@pytest.mark.parametrize("text", TEXTS)
def test_other_json_is_refused_in_a_sentence(text):
    raises(lambda: fastlstm.load(io.BytesIO(text)), ValueError, f"<BytesIO>: {TEXTS[text]}")


HOSTILE = {
    "deep": b'{"fc.weight": ' + b"[" * 10**5,
    "lists": b'{"fc.weight": [' + b"[]," * 10**6 + b"[]]}",
    "objects": b'{"fc.weight": [' + b"{}," * 10**6 + b"{}]}",
    "digits": b'{"fc.weight": [' + b"1" * 10**6 + b"]}",
    "exponent": b'{"fc.weight": [[1e' + b"9" * 10**6 + b"]]}",
    "not text": b'{"fc.weight": "\xff\xfe' + b"\x80" * 100,
    "widths": b'{"in_shape": [1], "layers": [' + b'{"type": "activation"},' * 10**4 + b"0]}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_within_its_bounds(name):
    data = HOSTILE[name]
    began = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="<BytesIO>: "):
            fastlstm.load(io.BytesIO(data))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most <= (24 << 20) + 10 * len(data)
    assert time.process_time() - began < 15  # whatever the machine, and others at work on it


@pytest.mark.parametrize("shape", [(200_000,), (1000, 200)])
def test_numbers_become_an_array_without_a_second_list(shape):
    numbers = np.zeros(shape, int).tolist()
    tracemalloc.start()
    try:
        array = json_values.array(numbers, "it", *shape)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert array.shape == shape and array.dtype == np.float32
    assert most <= (8 + 4 + 1) * array.size  # a double and a float of each


def test_the_size_of_a_file_is_bounded(monkeypatch):
    limits = budget.Budget.LIMITS | {"bytes of a model's JSON": (100, 0)}
    monkeypatch.setattr(budget.Budget, "LIMITS", limits)
    sentence = "<BytesIO>: it has 101 or more bytes of a model's JSON; at most 100 are read"
    raises(lambda: fastlstm.load(io.BytesIO(b"{}" + b" " * 99)), ValueError, sentence)


@pytest.mark.parametrize("name", ["aida_gains", "nam", "guitarml", "rtneural_torch"])
def test_a_truncated_file_is_refused(name):
    data = json.dumps(FILES[name][1]).encode()
    for end in range(1, len(data), 7):
        with pytest.raises(ValueError, match="<BytesIO>: "):
            fastlstm.load(io.BytesIO(data[:end]))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(FILES)), st.data())
def test_a_mutated_file_is_a_model_or_a_value_error(name, data):
    text = bytearray(json.dumps(FILES[name][1]).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 3))] = data.draw(
            st.sampled_from([b"", b"9", b"-", b"[", b"]", b"null", b'"', b"{", b"e99", b",", b"0"])
        )
    try:
        model = fastlstm.load(io.BytesIO(bytes(text)))
    except ValueError as fault:
        assert str(fault).startswith("<BytesIO>: ")
    else:
        assert isinstance(model, fastlstm.Layer)
