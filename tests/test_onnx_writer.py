"""ONNX files that `save` writes: run in onnxruntime and OpenVINO, and read again.

Both compute in float32 what fastlstm computes; `gradients.spread` says how far rounding may take
the results of either.
"""

from __future__ import annotations

import functools
import io
import itertools
import json
import os
import pickle
from typing import Any

import numpy as np
import pytest
from gradients import assert_within, roundings, spread
from hypothesis import given, reject, settings
from hypothesis import strategies as st

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
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    Softmax,
    Tanh,
)
from fastlstm.formats import onnx_writer
from fastlstm.graphs import GraphModel

onnx = pytest.importorskip("onnx", reason="ONNX files need onnx")

Arrays = dict[str, np.ndarray]
T, B, I = 5, 4, 3  # noqa: E741 (the legend's name)


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
        feeds["lengths"] = np.array([T, 0, T - 2, 1])
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
    ports = {port.name: port.shape for port in session.get_outputs()}
    results = dict(zip(ports, session.run(list(ports), feeds), strict=True))
    for name, result in results.items():  # the sizes that the file tells are those that there are
        for told, size in zip(ports[name], result.shape, strict=True):
            assert told == size or not isinstance(told, int), (name, ports[name], result.shape)
    return results


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


@pytest.mark.parametrize("options", [{"peephole": True}, {"coupled": "f=1-i"}], ids=str)
def test_what_openvino_passes_over(options):
    """As docs/onnx.md says."""
    lstm = parameters(LSTM(I, 6, **options))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_runs(lstm, drawn(lstm), in_openvino)


def test_every_option_is_read_again(tmp_path):
    for n, row in enumerate(pairwise(CHOICES)):
        if not (row["states"] and row["learned"]):
            options = {name: row[name] for name in ("lengths", "states", "opset")}
            assert_read(lstm_of(row), tmp_path / f"{n}.onnx", **options)


# ---- whole models --------------------------------------------------------------------------


def tagger(**options: Any) -> Sequential:
    """Words in, the features of both directions, a class for each step."""
    layers = {
        "embedding": Embedding(9, 5),
        "lstm": LSTM(5, 6, num_layers=2, bidirectional=True, dropout=0.3, **options),
        "dropout": Dropout(0.5),
        "fc": Linear(12, 3),
        "classes": Softmax(),
    }
    return parameters(Sequential(layers))


def classifier(**options: Any) -> Sequential:
    """Sequences in, one class each; a projection beside an LSTM, two LSTMs side by side."""
    return parameters(
        Sequential(
            {
                "first": Linear(I, 5),
                "res": Residual(
                    Sequential({"lstm": LSTM(5, 7, **options), "fc": Linear(7, 4, bias=False)}),
                    Linear(5, 4),
                ),
                "both": Concat({"a": LSTM(4, 3, **options), "b": LSTM(4, 5, **options)}),
                "last": Last(),
                "act": Tanh(),
                "out": Linear(8, 3),
            }
        )
    )


MODELS: dict[str, Any] = {
    "tagger": tagger,
    "tagger, batch first": lambda: tagger(batch_first=True),
    "classifier": classifier,
    "classifier, batch first": lambda: classifier(batch_first=True),
    "last of both directions": lambda: Sequential(
        LSTM(I, 6, bidirectional=True, batch_first=True), Last(), Linear(12, 2)
    ),
    "last of both directions behind a bias": lambda: Sequential(
        LSTM(I, 6, bidirectional=True), Linear(12, 2), Last(bidirectional=False)
    ),
    "last of a reversed one": lambda: Sequential(LSTM(I, 6, reverse=True), Last()),
    "softmax over steps": lambda: Sequential(Softmax(0), LSTM(I, 6), Softmax(-3)),
    "softmax over steps, batch first": lambda: Sequential(
        Softmax(0), LSTM(I, 6, batch_first=True), Softmax(1), Softmax(-2)
    ),
    "a cell": lambda: LSTMCell(I, 6, peephole=True, gate_clip=0.7),
    "a cell behind an LSTM": lambda: Sequential(
        {"lstm": LSTM(I, 6), "last": Last(), "cell": LSTMCell(6, 5, learn_initial_state=True)}
    ),
    "a shortcut": lambda: Residual(LSTM(I, I)),
    "rows": lambda: Sequential(Linear(I, 6), ReLU(), Linear(6, 2), Sigmoid()),
    "one matrix": lambda: Linear(I, 3, bias=False),
    "functions side by side": lambda: Concat(ReLU(), Sigmoid(), Tanh()),
    "a table": lambda: Embedding(7, 3),
    "words alone": lambda: Sequential(Embedding(7, 3), Last(batch_first=True)),
    "nothing": lambda: Dropout(0.5),
    "nothing around nothing": lambda: Sequential(Sequential(), Residual(Dropout(0.5))),
}


@pytest.mark.parametrize("opset", [14, 22])
@pytest.mark.parametrize("name", MODELS)
def test_models_in_onnxruntime(name, opset):
    model = parameters(MODELS[name]())
    has_time = any(isinstance(layer, (LSTM, Last)) for _, layer in model.named_layers())
    assert_runs(model, drawn(model), opset=opset)
    if has_time:
        assert_runs(model, drawn(model, lengths=True), opset=opset)
    if stateful(model):
        assert_runs(model, drawn(model, lengths=has_time, states=True), opset=opset)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "a cell"])  # peepholes
def test_models_in_openvino(name):
    model = parameters(MODELS[name]())
    has_time = any(isinstance(layer, (LSTM, Last)) for _, layer in model.named_layers())
    assert_runs(model, drawn(model, has_time, bool(stateful(model))), in_openvino)


@pytest.mark.parametrize("name", MODELS)
def test_models_are_read_again(name, tmp_path):
    model = parameters(MODELS[name]())
    options: dict[str, Any] = {"states": True} if stateful(model) else {}
    options = {} if "learn_initial_state" in repr(model) else options
    assert_read(model, tmp_path / "model.onnx", **options)


@pytest.mark.parametrize("name", MODELS)
def test_models_are_read_as_graphs(name, tmp_path):
    """What has lost its metadata is the graph that it is, and gives the same."""
    model = parameters(MODELS[name]())
    has_time = any(isinstance(layer, (LSTM, Last)) for _, layer in model.named_layers())
    feeds = drawn(model, has_time, bool(stateful(model)))

    def run(data: bytes, feeds: Arrays) -> Arrays:
        proto = onnx.load_from_string(data)
        del proto.metadata_props[:]
        graph = fastlstm.load(io.BytesIO(proto.SerializeToString()))
        assert isinstance(graph, GraphModel)
        names = [port.name for port in graph.outputs]
        return dict(zip(names, graph.run(None, feeds), strict=True))

    assert_runs(model, feeds, run)


@st.composite
def sequentials(draw: Any) -> Sequential:
    """Draw chains of layers, some of them inside others, and numbers for their parameters."""
    batch_first, seed = draw(st.booleans()), draw(st.integers(0, 99))
    layers: list[Layer] = []
    wide = I

    def lstm(wide: int, H: int) -> LSTM:
        ends = draw(st.sampled_from([{}, {"reverse": True}, {"bidirectional": True}]))
        more = draw(
            st.sampled_from([{}, {"peephole": True}, {"coupled": "f=1-i"}, {"bias": False}])
        )
        return LSTM(wide, H, batch_first=batch_first, **ends, **more)

    def one(wide: int) -> tuple[Layer, int]:
        kind = draw(st.sampled_from("lstm linear function softmax residual concat".split()))
        H = draw(st.integers(1, 6))
        if kind == "lstm":
            layer = lstm(wide, H)
            return layer, H * (1 + layer.bidirectional)
        if kind == "linear":
            return Linear(wide, H, bias=draw(st.booleans())), H
        if kind == "residual":
            inner = Sequential(LSTM(wide, H, batch_first=batch_first), Tanh(), Linear(H, wide))
            return Residual(inner), wide
        if kind == "concat":
            return Concat(LSTM(wide, H, batch_first=batch_first), Linear(wide, 2)), H + 2
        if kind == "softmax":
            return Softmax(draw(st.integers(-3, 2))), wide
        return draw(st.sampled_from([ReLU, Tanh, Sigmoid, Dropout]))(), wide

    if draw(st.booleans()):
        layers.append(Embedding(6, I))
    first = lstm(wide, 3)
    layers.append(first)
    wide = 3 * (1 + first.bidirectional)
    for _ in range(draw(st.integers(0, 4))):
        layer, wide = one(wide)
        layers.append(layer)
    if draw(st.booleans()):
        layers += [Last(bidirectional=False), Linear(wide, 2)]
    try:
        model = Sequential(*layers)
    except ValueError:  # a Last behind LSTMs that run in different directions
        reject()
    return parameters(model, seed)


@settings(max_examples=25, deadline=None)
@given(model=sequentials(), lengths=st.booleans(), states=st.booleans())
def test_random_models(model, lengths, states):
    feeds = drawn(model, lengths, states)
    if lengths and any(isinstance(layer, Softmax) for _, layer in model.named_layers()):
        feeds["lengths"] = np.full(B, T)  # over steps, it takes in those past the ends
    assert_runs(model, feeds)


# ---- inputs, outputs, names ----------------------------------------------------------------


def test_steps_one_by_one_with_states():
    """Streaming in onnxruntime: one step at a time, states from call to call."""
    model = parameters(Sequential({"lstm": LSTM(I, 6, num_layers=2), "fc": Linear(6, 2)}))
    data, x = written(model, states=True), drawn(model)["input"]
    states = {"h_0": np.zeros((2, B, 6), "float32"), "c_0": np.zeros((2, B, 6), "float32")}
    stream, steps = model.stream(B), []
    _, moves, count = bounds(model, {"input": x})
    for step in x:
        got = in_onnxruntime(data, {"input": step[None], **states})
        steps.append(got["output"][0])
        states = {"h_0": got["h_n"], "c_0": got["c_n"]}
    assert_within({"output": np.array(steps)}, {"output": stream.run(x)}, moves, count, "float32")


def test_any_number_of_sequences_and_steps():
    lstm = parameters(LSTM(I, 6, bidirectional=True, learn_initial_state=True))
    data = written(lstm)
    for shape in ((1, 1), (7, 1), (1, 5), (40, 9)):
        x = np.random.default_rng(0).standard_normal((*shape, I)).astype("float32")
        assert_runs(lstm, {"input": x}, data=data)


def test_axes_and_names(tmp_path):
    model = tagger(batch_first=True)
    names = {"input": "words", "output": "tags", "lengths": "n", "h_0": "h", "c_n": "cell out"}
    path = tmp_path / "m.onnx"
    fastlstm.save(model, path, names=names, lengths=True, states=True, opset=17)
    graph = onnx.load(path).graph

    def ports(values: Any) -> dict[str, Any]:
        return {
            value.name: (
                value.type.tensor_type.elem_type,
                [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim],
            )
            for value in values
        }

    assert ports(graph.input) == {
        "words": (onnx.TensorProto.INT64, ["batch", "time"]),
        "n": (onnx.TensorProto.INT64, ["batch"]),
        "h": (onnx.TensorProto.FLOAT, [4, "batch", 6]),
        "c_0": (onnx.TensorProto.FLOAT, [4, "batch", 6]),
    }
    assert ports(graph.output) == {
        "tags": (onnx.TensorProto.FLOAT, ["batch", "time", 3]),
        "h_n": (onnx.TensorProto.FLOAT, [4, "batch", 6]),
        "cell out": (onnx.TensorProto.FLOAT, [4, "batch", 6]),
    }
    assert onnx.load(path).opset_import[0].version == 17
    assert "lstm/layer1" in [node.name for node in graph.node]
    assert {"lstm.W_l0", "lstm.R_l1", "embedding.weight", "fc.bias"} <= {
        tensor.name for tensor in graph.initializer
    }
    assert repr(fastlstm.load(path)) == repr(model)


def test_features_are_told_where_they_are_known():
    both = Concat({"a": LSTM(I, 6), "b": LSTM(I, 2, bidirectional=True)})
    models = {10: both, I: Residual(Tanh(), Linear(I, I)), None: Concat(ReLU(), Tanh())}
    for features, model in models.items():
        (output,) = onnx.load_from_string(written(model)).graph.output
        last = output.type.tensor_type.shape.dim[-1]
        assert (last.dim_value if last.HasField("dim_value") else None) == features


def test_states_of_several_layers_have_their_names():
    proto = onnx.load_from_string(written(classifier(), states=True))
    states = ["res.layer.lstm", "both.a", "both.b"]
    inputs = [f"{name}.{state}_0" for name in states for state in "hc"]
    assert [value.name for value in proto.graph.input] == ["input", *inputs]
    outputs = [f"{name}.{state}_n" for name in states for state in "hc"]
    assert [value.name for value in proto.graph.output] == ["output", *outputs]


ODD = ["{0}", "{", "%s", "a b", "lstm/layer0", "ü", "\\", "constant 0", "output", "x" * 300, "W_l0"]


def test_names_of_any_kind(tmp_path):
    """Layers may have any names; one may look like that of a node."""
    layers = {name: LSTM(I, I, bias=False) for name in ODD}
    model = parameters(Sequential({**layers, "lstm": LSTM(I, 6, num_layers=2)}))
    assert_runs(model, drawn(model, lengths=True, states=True))
    assert_read(model, tmp_path / "m.onnx", states=True)
    names = {"input": "{}", "output": "\n", "ü.h_0": "lstm"}
    feeds = {"{}": drawn(model)["input"]} | {
        {"ü.h_0": "lstm"}.get(name, name): array
        for name, array in drawn(model, states=True).items()
        if name != "input"
    }
    assert "\n" in in_onnxruntime(written(model, states=True, names=names), feeds)


def test_a_file_is_the_same_every_time():
    assert written(tagger(), lengths=True) == written(tagger(), lengths=True)
    assert written(pickle.loads(pickle.dumps(tagger()))) == written(tagger())


def test_float64(tmp_path):
    lstm = parameters(LSTM(I, 6, dtype="float64"))
    with pytest.warns(UserWarning, match="onnxruntime has no LSTM in float64") as caught:
        fastlstm.save(lstm, tmp_path / "m.onnx")
    assert caught[0].filename == __file__
    again = fastlstm.load(tmp_path / "m.onnx")
    assert again.dtype == "float64" and again.weight_ih_l0.tobytes() == lstm.weight_ih_l0.tobytes()
    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)
    linear = parameters(Linear(I, 2, dtype="float64"))
    x = np.random.default_rng(0).standard_normal((B, I))
    got = in_onnxruntime(written(linear), {"input": x})["output"]
    np.testing.assert_allclose(got, linear(x), rtol=0, atol=1e-14)


def test_bits_of_any_kind(tmp_path):
    """Infinities, nan with a payload, subnormal numbers and -0 stay what they are."""
    model = Sequential({"lstm": LSTM(I, 6, peephole=True), "fc": Linear(6, 2)}).eval()
    bits = np.random.default_rng(0)
    odd = np.array([np.inf, -np.inf, -0.0, 1e-45, np.nan], "f4")
    odd = np.append(odd, np.array([0x7FC12345], "u4").view("f4"))
    model.load_state_dict({n: bits.choice(odd, a.shape) for n, a in model.state_dict().items()})
    assert_read(model, tmp_path / "m.onnx")


# ---- what the metadata tell ----------------------------------------------------------------


def changed(data: bytes, change: Any) -> bytes:
    proto = onnx.load_from_string(data)
    change(proto)
    return bytes(proto.SerializeToString())


def node(proto: Any, type: str) -> Any:
    return next(node for node in proto.graph.node if node.op_type == type)


def tensor(proto: Any, name: str) -> Any:
    return next(tensor for tensor in proto.graph.initializer if tensor.name == name)


def replace(proto: Any, name: str, array: np.ndarray) -> None:
    tensor(proto, name).CopyFrom(onnx.numpy_helper.from_array(array, name))


def array_of(proto: Any, name: str) -> np.ndarray:
    array: np.ndarray = onnx.numpy_helper.to_array(tensor(proto, name))
    return array


def set_clip(proto: Any) -> None:
    node(proto, "LSTM").attribute.append(onnx.helper.make_attribute("clip", 0.1))


def rename(proto: Any) -> None:
    for one in proto.graph.node:
        one.output[:] = ["renamed" if name == "output" else name for name in one.output]
    proto.graph.output[0].name = "renamed"


def other_step(proto: Any) -> None:
    replace(proto, "constant -1", np.array(0))


def add_function(proto: Any) -> None:
    opset = [onnx.helper.make_opsetid("", 14)]
    copy = onnx.helper.make_node("Identity", ["x"], ["y"])
    proto.functions.append(onnx.helper.make_function("own", "F", ["x"], ["y"], [copy], opset))
    proto.opset_import.append(onnx.helper.make_opsetid("own", 1))


def wider(proto: Any) -> None:
    for name in ("fc.weight", "fc.bias"):
        array = array_of(proto, name)
        replace(proto, name, np.concatenate([array, array]))
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value *= 2


def drop_structure(proto: Any) -> None:
    del proto.metadata_props[:]


def metadata(key: str, change: Any) -> Any:
    def put(proto: Any) -> None:
        entry = next(entry for entry in proto.metadata_props if entry.key == key)
        entry.value = change(entry.value)

    put.__name__ = f"{key}_{change('')[:9]}"
    return put


CHANGES = [
    set_clip,
    rename,
    other_step,
    add_function,
    wider,
    drop_structure,
    metadata("fastlstm", lambda text: text.replace('"bias": true', '"bias": false')),
    metadata("fastlstm", lambda text: text.replace("LSTM", "GRU")),
    metadata("fastlstm", lambda text: text[:-1]),
    metadata("fastlstm", lambda text: "[" * 100_000),
    metadata("fastlstm", lambda text: text.replace('"hidden_size": 6', '"hidden_size": 60000')),
    metadata("fastlstm", lambda text: text.replace('"num_layers": 1', '"num_layers": 60000')),
    metadata("fastlstm_options", lambda text: ""),
    metadata("fastlstm_options", lambda text: "[1]"),
    metadata("fastlstm_options", lambda text: '{"names": [1], "lengths": 1, "states": {}}'),
    metadata("fastlstm_options", lambda text: '{"opset": 1}'),
    metadata("fastlstm_options", lambda text: text.replace("false", "true")),
    metadata("fastlstm_options", lambda text: text.replace("{}", '{"input": "constant -1"}')),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_file_is_the_graph_that_it_is(change):
    model = parameters(Sequential({"lstm": LSTM(I, 6), "last": Last(), "fc": Linear(6, 2)}))
    data = changed(written(model), change)
    feeds = drawn(model)
    graph = fastlstm.load(io.BytesIO(data))
    assert isinstance(graph, GraphModel)
    expected = in_onnxruntime(data, feeds)
    (got,) = graph.run(None, feeds)
    np.testing.assert_allclose(got, *expected.values(), rtol=0, atol=1e-5)


@functools.cache
def _whole() -> bytes:
    model = Sequential({"lstm": LSTM(I, 6, peephole=True), "last": Last(), "fc": Linear(6, 2)})
    return written(parameters(model), lengths=True, states=True, names={"input": "x"})


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_mutated_files(data):
    """A file with bytes changed, lost or put in is refused with a ValueError, or is a model."""
    content = bytearray(_whole())
    text = content.index(b"fastlstm", 20)  # half of the changes are in the metadata
    for _ in range(data.draw(st.integers(1, 3))):
        start = text if data.draw(st.booleans()) else 0
        place = data.draw(st.integers(start, len(content) - 1))
        new = data.draw(
            st.sampled_from([b"", b"\0", b"\xff", b"9", b"-", b"{", b'"', b"]", b"true"])
        )
        content[place : place + data.draw(st.integers(0, 2))] = new
    try:
        model = fastlstm.load(io.BytesIO(bytes(content)))
    except ValueError as fault:
        assert str(fault).startswith("<BytesIO>: ")
    else:
        assert isinstance(model, Layer)


def test_other_numbers_are_another_model_of_the_same_kind():
    model = parameters(Sequential({"lstm": LSTM(I, 6), "fc": Linear(6, 2)}))
    data = changed(
        written(model), lambda proto: replace(proto, "fc.bias", np.array([3, 4], "float32"))
    )
    again = fastlstm.load(io.BytesIO(data))
    assert repr(again) == repr(model) and again.fc.bias.tolist() == [3, 4]


def test_learned_states_are_not_in_a_file_with_states(tmp_path):
    """Where the caller gives the states, the graph has no use for those that were learned."""
    lstm = parameters(LSTM(I, 6, learn_initial_state=True))
    fastlstm.save(lstm, tmp_path / "m.onnx", states=True)
    assert isinstance(fastlstm.load(tmp_path / "m.onnx"), GraphModel)
    fastlstm.save(lstm, tmp_path / "m.onnx")
    assert isinstance(fastlstm.load(tmp_path / "m.onnx"), LSTM)


def test_parts_of_a_file(tmp_path):
    """What `load` offers for other formats it offers here."""
    model, path = tagger(), tmp_path / "m.onnx"
    fastlstm.save(model, path)
    lstm = fastlstm.load_lstm(path)
    assert repr(lstm) == repr(model.lstm)
    assert repr(fastlstm.load(path, prefix="fc")) == repr(model.fc)
    state = model.state_dict()
    for found in (
        fastlstm.load_state(path),
        fastlstm.load(path, into=tagger()).state_dict(),
        {f"lstm.{name}": a for name, a in lstm.state_dict().items()},
    ):
        assert found and all(a.tobytes() == state[name].tobytes() for name, a in found.items())
    assert fastlstm.load(path, dtype="float64", engine="numpy").lstm.dtype == "float64"
    with pytest.raises(ValueError, match="batch_first=True contradicts its structure"):
        fastlstm.load(path, batch_first=True)


# ---- saboteurs -----------------------------------------------------------------------------


def swap_gates(proto: Any) -> None:
    for name in ("lstm.W_l0", "lstm.R_l0", "lstm.B_l0"):
        array = array_of(proto, name).copy()
        parts = array.reshape(array.shape[0], -1, 4, 6, *array.shape[2:])
        parts[:, :, [1, 2]] = parts[:, :, [2, 1]]
        replace(proto, name, array)


def swap_biases(proto: Any) -> None:
    """Put B's half for x and h together as i, i, o, o, ..."""
    array = array_of(proto, "lstm.B_l0")
    halves = array.reshape(2, 2, 4, 6).transpose(0, 2, 1, 3)
    replace(proto, "lstm.B_l0", halves.reshape(array.shape))


def swap_directions(proto: Any) -> None:
    for name in ("lstm.W_l0", "lstm.R_l0", "lstm.B_l0"):
        replace(proto, name, array_of(proto, name)[::-1])


def forget_lengths(proto: Any) -> None:
    node(proto, "LSTM").input[4] = ""


def lose_final_states_without_steps(proto: Any) -> None:
    (first, *_) = [one for one in proto.graph.node if one.op_type == "Where" and "h_0" in one.input]
    first.op_type, first.input[:] = "Identity", [first.input[1]]


def last_step_of_all(proto: Any) -> None:
    gather = next(one for one in proto.graph.node if one.op_type == "GatherND")
    gather.op_type, gather.input[:] = "Gather", [gather.input[0], "constant [-1]"]
    del gather.attribute[:]
    gather.attribute.append(onnx.helper.make_attribute("axis", 1))
    end = gather.output[0]
    gather.output[0] = f"{end}/wide"
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1]), "constant [-1]"))
    place = list(proto.graph.node).index(gather)
    squeeze = onnx.helper.make_node("Squeeze", [f"{end}/wide", "constant [1]"], [end])
    proto.graph.node.insert(place + 1, squeeze)


def halves_at_one_end(proto: Any) -> None:
    first, second = (one for one in proto.graph.node if one.op_type == "Slice")
    second.input[0] = first.input[0]


def transposed_steps(proto: Any) -> None:
    node(proto, "Transpose").attribute[0].ints[:] = [0, 1, 2]


SABOTEURS = [
    (swap_gates, {}),
    (swap_biases, {}),
    (swap_directions, {}),
    (forget_lengths, {"lengths": True}),
    (lose_final_states_without_steps, {"lengths": True, "states": True}),
    (last_step_of_all, {"lengths": True}),
    (halves_at_one_end, {"lengths": True}),
    (transposed_steps, {}),
]


@pytest.mark.parametrize("saboteur, options", SABOTEURS, ids=lambda s: getattr(s, "__name__", ""))
def test_saboteurs(saboteur, options):
    """A file with one fault is told from the right one by what it gives."""
    lstm = LSTM(I, 6, bidirectional=True, batch_first=saboteur is transposed_steps)
    model = parameters(Sequential({"lstm": lstm, "last": Last(), "fc": Linear(12, 2)}))
    feeds = drawn(model, **options)
    if saboteur is transposed_steps:
        feeds["input"] = feeds["input"][:, :B]  # as many steps as sequences
    data = written(model, **options)
    assert_runs(model, feeds, data=data)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_runs(model, feeds, data=changed(data, saboteur))


# ---- refusals ------------------------------------------------------------------------------


class Own(Layer):
    def forward(self, input: Any) -> Any:
        return input


REFUSED = [
    (LSTM(I, 6, proj_size=2), {}, ValueError, "'LSTM' has proj_size=2, which ONNX's operator"),
    (Sequential({"a": LSTM(I, 6, cell_clip=1.5)}), {}, ValueError, "'a' has cell_clip=1.5, "),
    (LSTM(I, 6, proj_size=2, proj_clip=1.0), {}, ValueError, "proj_size=2, proj_clip=1.0, "),
    (LSTM(I, 6, layer_norm="haste"), {}, ValueError, "layer_norm='haste'"),
    (LSTMCell(I, 6, layer_norm="tflite"), {}, ValueError, "layer_norm='tflite'"),
    (LSTM(I, 6, coupled="i=1-f"), {}, ValueError, "coupled='i=1-f'"),
    (LSTM(I, 6, zoneout=(0.0, 0.1)), {}, ValueError, r"zoneout=\(0.0, 0.1\)"),
    (LSTM(I, 6, batch_first=None), {}, ValueError, "batch_first is undecided"),
    (Sequential(Own()), {}, TypeError, "Own cannot be stored"),
    (Linear(2, 1), {"lengths": True}, ValueError, "lengths=True needs a model with"),
    (Linear(2, 1), {"states": True}, ValueError, "states=True needs a model with"),
    (Linear(2, 1), {"opset": 13}, ValueError, "opset must be 14 to .*, got 13"),
    (Linear(2, 1), {"opset": 999}, ValueError, "opset must be 14 to .*, got 999"),
    (Linear(2, 1), {"opset": "14"}, TypeError, "opset should be of type int"),
    (LSTM(2, 1), {"lengths": 1}, TypeError, "lengths should be of type bool"),
    (LSTM(2, 1), {"states": "yes"}, TypeError, "states should be of type bool"),
    (LSTM(2, 1), {"names": ["x"]}, TypeError, "names must be a dict"),
    (LSTM(2, 1), {"names": {"input": ""}}, TypeError, "names must be a dict of str -> str"),
    (LSTM(2, 1), {"names": {"h_0": "h"}}, ValueError, "names has 'h_0', the model has 'input'"),
    (LSTM(2, 1), {"names": {"input": "y", "output": "y"}}, ValueError, "names must differ"),
    (LSTM(2, 1), {"names": {"input": "output"}}, ValueError, "the graph has 'output' already"),
    (LSTM(2, 1), {"names": {"input": "W_l0"}}, ValueError, "the graph has 'W_l0' already"),
    (Sequential(ReLU(), Embedding(3, 2)), {}, ValueError, "'?1'? takes indices"),
    (Softmax(2), {}, ValueError, r"Softmax .* is over axis 2, its input has 2"),
    (Last(bidirectional=True), {}, ValueError, "needs an even number of features"),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_refused(number, tmp_path):
    """Nothing is left behind, and a file that was there stays."""
    model, options, kind, message = REFUSED[number]
    (tmp_path / "m.onnx").write_bytes(b"before")
    with pytest.raises(kind, match=message) as caught:
        fastlstm.save(model, tmp_path / "m.onnx", **options)
    if kind is ValueError:
        assert str(caught.value).startswith(f"{tmp_path / 'm.onnx'}: ")
    assert os.listdir(tmp_path) == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_bytes() == b"before"


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "pt"])
def test_other_formats_have_no_such_options(suffix, tmp_path):
    for option in ({"opset": 14}, {"names": {}}, {"lengths": True}, {"states": False}):
        with pytest.raises(ValueError, match=f"{[*option][0]} cannot be chosen for"):
            fastlstm.save(LSTM(2, 1), tmp_path / f"m.{suffix}", **option)
    assert os.listdir(tmp_path) == []


def test_options_that_training_alone_has_are_written():
    """Dropout of every kind does nothing in evaluation."""
    options = {"recurrent_dropout": 0.3, "input_dropout": 0.2, "dropout": 0.1, "num_layers": 2}
    model = parameters(LSTM(I, 6, **options))
    assert_runs(model, drawn(model))
    model.train()
    assert written(model) == written(model.eval())


def test_a_model_that_was_read_from_a_graph(tmp_path):
    graph = fastlstm.load(io.BytesIO(changed(written(LSTM(2, 1)), drop_structure)))
    for suffix in ("onnx", "npz", "safetensors", "keras"):
        said = (
            rf"m\.{suffix}: a model that was read from a graph .* prefix= .* loaded: 'LSTM/layer0'"
        )
        with pytest.raises(TypeError, match=said):
            fastlstm.save(graph, tmp_path / f"m.{suffix}")
    with pytest.raises(TypeError, match="the structure of GraphModel cannot be stored"):
        fastlstm.save(Sequential(graph), tmp_path / "m.onnx")
    fastlstm.save(graph, tmp_path / "m.pt")  # the parameters of its layers alone
    assert list(fastlstm.load_state(tmp_path / "m.pt")) == list(graph.state_dict())


def test_too_large_for_protobuf(tmp_path, monkeypatch):
    model = parameters(LSTM(I, 6))
    size = len(written(model))
    monkeypatch.setattr(onnx_writer, "_MOST_BYTES", size - 1)
    with pytest.raises(ValueError, match=rf"have \d+ bytes, .* at most {size - 1}"):
        fastlstm.save(model, tmp_path / "m.onnx")
    monkeypatch.setattr(onnx_writer, "_MOST_BYTES", size + 100)
    fastlstm.save(model, tmp_path / "m.onnx")


def test_without_onnx(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install onnx"):
        fastlstm.save(LSTM(2, 1), tmp_path / "m.onnx")
    assert os.listdir(tmp_path) == []


def test_the_structure_can_be_read_without_fastlstm():
    props = {
        entry.key: entry.value for entry in onnx.load_from_string(written(tagger())).metadata_props
    }
    assert json.loads(props["fastlstm"])["structure"]["children"]["fc"]["out_features"] == 3
