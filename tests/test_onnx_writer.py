"""ONNX files that `save` writes: run in onnxruntime and OpenVINO, and read again.

Both compute in float32 what fastlstm computes; `gradients.spread` says how far rounding may take
the results of either.
"""

from __future__ import annotations

import functools
import io
import itertools
from typing import Any

import numpy as np
import pytest
from gradients import assert_within, roundings, spread

import fastlstm
from fastlstm import (
    LSTM,
    Embedding,
    Last,
    LSTMCell,
    Sequential,
)
from fastlstm.formats import onnx_writer

onnx = pytest.importorskip("onnx", reason="ONNX files need onnx")

Arrays = dict[str, np.ndarray]
T, B, I = 5, 3, 4  # noqa: E741 (the legend's name)


def parameters(model: fastlstm.Layer, seed: int = 0) -> fastlstm.Layer:
    """Draw all parameters anew, so that none of them is 0 or alike; in evaluation."""
    rng = np.random.default_rng(seed)
    model.load_state_dict(
        {
            name: 0.5 * rng.standard_normal(a.shape).astype(a.dtype)
            for name, a in model.state_dict().items()
        }
    )
    return model.eval()


def written(model: fastlstm.Layer, **options: Any) -> bytes:
    """Return the bytes of a file, which the checker has found right."""
    file = io.BytesIO()
    onnx_writer.write(file, model, **options)
    onnx.checker.check_model(file.getvalue(), full_check=True)
    return file.getvalue()


def stateful(model: fastlstm.Layer) -> list[str]:
    kinds = (LSTM, LSTMCell)
    return [n.removesuffix(".") for n, layer in model.named_layers() if isinstance(layer, kinds)]


def drawn(
    model: fastlstm.Layer, lengths: bool = False, states: bool = False, seed: int = 0
) -> Arrays:
    """Draw what a file of the model takes, by the names in it."""
    rng = np.random.default_rng([seed, 1])
    layers = dict(model.named_layers())
    timed = [layer for layer in layers.values() if isinstance(layer, (LSTM, Last))]
    shape = ((B, T) if any(layer.batch_first for layer in timed) else (T, B)) if timed else (B,)
    if model._takes_indices:
        most = next(e for e in layers.values() if isinstance(e, Embedding)).num_embeddings
        feeds: Arrays = {"input": rng.integers(0, most, shape)}
    else:
        feeds = {"input": rng.standard_normal((*shape, I)).astype("float32")}
    if lengths:
        feeds["lengths"] = np.array([T, 0, T - 2])
    if states:
        for name, layer in layers.items():
            if isinstance(layer, (LSTM, LSTMCell)):
                prefix = name if len(stateful(model)) > 1 else ""
                feeds |= {
                    f"{prefix}{state}_0{end}": rng.standard_normal(shape).astype("float32")
                    for state in "hc"
                    for end, shape in state_shapes(layer)
                }
    return feeds


def state_shapes(layer: Any) -> list[tuple[str, tuple[int, ...]]]:
    """Return how the names of a layer's states end, and their shapes."""
    if isinstance(layer, LSTMCell):
        return [("", (B, layer.hidden_size))]
    ends = ["", "_reverse"][: 1 + layer.bidirectional]
    if isinstance(layer.hidden_size, int):
        return [("", (layer.num_layers * len(ends), B, layer.hidden_size))]
    return [(f"_l{k}{end}", (B, H)) for k, H in enumerate(layer.hidden_size) for end in ends]


def ours(model: fastlstm.Layer, values: Arrays) -> Arrays:
    """Run fastlstm on what a file takes; return what the file gives. `values` has parameters too.

    The engine is numpy, in the dtype of the values.
    """
    names = {f"parameter {name}": name for name in model.state_dict()}
    if names.keys() <= values.keys():
        model = model.astype("float64")
        model.load_state_dict({name: values[long] for long, name in names.items()})
    layers = {name.removesuffix("."): layer for name, layer in model.named_layers()}
    prefixes = {n: f"{n}." if len(stateful(model)) > 1 else "" for n in stateful(model)}

    def state(name: str, which: str) -> Any:
        found = [values[prefixes[name] + which + end] for end, _ in state_shapes(layers[name])]
        return found[0] if len(found) == 1 else tuple(found)

    hx = None
    if any(name.endswith("c_0") or "c_0_l" in name for name in values if " " not in name):
        hx = {f"x.{n}".removesuffix("."): (state(n, "h_0"), state(n, "c_0")) for n in prefixes}
    whole = Sequential({"x": model})
    y, after = whole(values["input"], hx, lengths=values.get("lengths"), return_states=True)
    ends = isinstance(y, tuple)  # with an LSTMCell
    results = {} if ends else {"output": y}
    if hx is not None or ends:
        for name, (h, c) in after.items():
            name = name.removeprefix("x").removeprefix(".")
            keys = [end for end, _ in state_shapes(layers[name])]
            if not ends or isinstance(layers[name], LSTMCell) or hx is not None:
                for which, value in (("h_n", h), ("c_n", c)):
                    each = value if isinstance(value, tuple) else [value]
                    results |= {
                        prefixes[name] + which + end: array
                        for end, array in zip(keys, each, strict=True)
                    }
    return results


def in_onnxruntime(data: bytes, feeds: Arrays) -> Arrays:
    runtime = pytest.importorskip("onnxruntime", reason="it runs what is written")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


@functools.cache
def _core() -> Any:
    return pytest.importorskip("openvino", reason="it runs what is written").Core()


def in_openvino(data: bytes, feeds: Arrays) -> Arrays:
    """Run a file with all sizes fixed: otherwise OpenVINO 2026.4 does not heed lengths."""
    model = _core().read_model(data)
    model.reshape({name: list(array.shape) for name, array in feeds.items()})
    compiled = _core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = compiled(feeds)
    return {port.get_any_name(): results[port] for port in compiled.outputs}


def bounds(model: fastlstm.Layer, feeds: Arrays) -> tuple[Arrays, Arrays, float]:
    """Return what fastlstm gives, how far each result moves, and how many roundings there are.

    As many as in `gradients.roundings` in each layer that has any, on both sides.
    """
    values = {name: a.astype("float64") if a.dtype.kind == "f" else a for name, a in feeds.items()}
    values |= {f"parameter {n}": a.astype("float64") for n, a in model.state_dict().items()}
    _, moves = spread(functools.partial(ours, model), values)
    layers = [layer for _, layer in model.named_layers()]
    depth = sum(getattr(layer, "num_layers", 1) for layer in layers)
    terms = max((sum(a.shape[1:]) for a in model.state_dict().values()), default=1) + 10
    return ours(model, feeds), moves, 2 * depth * roundings("native", terms, options=True)


def assert_runs(
    model: fastlstm.Layer,
    feeds: Arrays,
    run: Any = in_onnxruntime,
    data: bytes | None = None,
    **options: Any,
) -> None:
    """Assert that another program computes from a model's file what fastlstm computes."""
    states = any(name not in ("input", "lengths") for name in feeds)
    if data is None:
        data = written(model, lengths="lengths" in feeds, states=states, **options)
    expected, moves, count = bounds(model, feeds)
    assert all(np.isfinite(result).all() for result in expected.values())
    assert_within(run(data, feeds), expected, moves, count, "float32")


def assert_read(model: fastlstm.Layer, path: Any, **options: Any) -> None:
    """Assert that `save` and `load` give the same model, to the bit."""
    fastlstm.save(model, path, **options)
    again = fastlstm.load(path)
    assert repr(again) == repr(model)
    state = model.state_dict()
    assert again.state_dict().keys() == state.keys()
    for name, array in again.state_dict().items():
        assert array.dtype == state[name].dtype and array.tobytes() == state[name].tobytes(), name


# ---- the options of an LSTM ----------------------------------------------------------------

ACTIVATIONS = [
    {},
    {"gate_activation": "hard_sigmoid", "cell_activation": ("elu", 0.7)},
    {"gate_activation": ("hard_sigmoid", 1 / 6, 0.4), "output_activation": "identity"},
    {"cell_activation": ("scaled_tanh", 1.3, 0.6), "output_activation": ("leaky_relu", 0.3)},
    {"cell_activation": ("thresholded_relu", 0.15), "output_activation": "softsign"},
    {"gate_activation": ("affine", 0.2, 0.4), "cell_activation": "softplus"},
]
CHOICES: dict[str, list[Any]] = {
    "direction": [{}, {"reverse": True}, {"bidirectional": True}],
    "size": [{"hidden_size": 6}, {"hidden_size": 6, "num_layers": 2}, {"hidden_size": [6, 3]}],
    "bias": [{}, {"bias": False}],
    "batch_first": [{}, {"batch_first": True}],
    "peephole": [{}, {"peephole": True}],
    "coupled": [{}, {"coupled": "f=1-i"}],
    "clip": [{}, {"gate_clip": 0.7}],
    "functions": ACTIVATIONS,
    "learned": [{}, {"learn_initial_state": True}],
    "lengths": [False, True],
    "states": [False, True],
    "opset": [14, 22],
}


def pairwise(choices: dict[str, list[Any]], seed: int = 0) -> list[dict[str, Any]]:
    """Return few combinations in which every pair of choices is there."""

    def pairs(row: tuple[int, ...]) -> set[Any]:
        return set(itertools.combinations(enumerate(row), 2))

    rng, sizes = np.random.default_rng(seed), [len(values) for values in choices.values()]
    left = {
        ((a, i), (b, j))
        for a, b in itertools.combinations(range(len(sizes)), 2)
        for i in range(sizes[a])
        for j in range(sizes[b])
    }
    rows: list[tuple[int, ...]] = []
    while left:
        tried = [tuple(int(n) for n in rng.integers(0, sizes)) for _ in range(50)]
        best = max(
            tried, key=lambda row: len(left & set(itertools.combinations(enumerate(row), 2)))
        )
        left -= set(itertools.combinations(enumerate(best), 2))
        rows.append(best)
    return [
        {name: choices[name][n] for name, n in zip(choices, row, strict=True)} for row in set(rows)
    ]


def lstm_of(row: dict[str, Any]) -> LSTM:
    arguments: dict[str, Any] = {}
    for name, choice in row.items():
        if name not in ("lengths", "states", "opset"):
            arguments |= choice
    lstm = parameters(LSTM(I, engine="numpy", **arguments))
    assert isinstance(lstm, LSTM)
    return lstm


@pytest.mark.parametrize("row", range(40))
def test_an_lstm_with_options_in_onnxruntime(row):
    rows = pairwise(CHOICES)
    assert len(rows) <= 40
    if row < len(rows):
        lstm, chosen = lstm_of(rows[row]), rows[row]
        feeds = drawn(lstm, chosen["lengths"], chosen["states"])
        assert_runs(lstm, feeds, opset=chosen["opset"])


@pytest.mark.parametrize("row", range(14))
def test_an_lstm_with_options_in_openvino(row):
    """Without peepholes and coupled gates, which OpenVINO 2026.4 passes over, and with functions
    that it knows."""
    has = {n: values for n, values in CHOICES.items() if n not in ("peephole", "coupled")}
    known = [{}, {"cell_activation": "relu"}, {"output_activation": "relu"}]
    rows = pairwise(has | {"functions": known})
    assert len(rows) <= 28
    for chosen in rows[row::14]:
        lstm = lstm_of(chosen)
        feeds = drawn(lstm, chosen["lengths"], chosen["states"])
        assert_runs(lstm, feeds, in_openvino, opset=chosen["opset"])


def test_every_option_is_read_again(tmp_path):
    for n, row in enumerate(pairwise(CHOICES)):
        if not (row["states"] and row["learned"]):
            options = {name: row[name] for name in ("lengths", "states", "opset")}
            assert_read(lstm_of(row), tmp_path / f"{n}.onnx", **options)
