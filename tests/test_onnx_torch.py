"""LSTM models that torch exports to ONNX, by both of its exporters: against torch and onnxruntime.

An exporter takes the options of `torch.nn.LSTM` apart in its own way: layers and directions become
nodes, `batch_first` transposes, initial states slices or expansions of zeros.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import itertools
import logging
import warnings
from typing import Any

import numpy as np
import pytest
from gradients import assert_within, roundings, spread
from test_onnx_files import by_onnxruntime, read, states_of
from values import normal

from fastlstm import LSTM, Linear, load_lstm

torch = pytest.importorskip("torch", reason="exports the models, and torch is not installed")
NEEDS_ONNXSCRIPT = pytest.mark.skipif(
    importlib.util.find_spec("onnxscript") is None, reason="onnxscript is not installed"
)
DYNAMO = pytest.param(True, marks=NEEDS_ONNXSCRIPT)
SLOW_DYNAMO = pytest.param(True, marks=[NEEDS_ONNXSCRIPT, pytest.mark.slow])

T, B, I, H, WORDS = 6, 2, 5, 4, 20


class Tagger(torch.nn.Module):  # type: ignore[misc]
    """An LSTM behind an Embedding, if there is one, and a Linear behind it; with states or not."""

    def __init__(self, states: bool, words: bool, **options: Any) -> None:
        super().__init__()
        self.states = states
        self.embedding = torch.nn.Embedding(WORDS, I) if words else torch.nn.Identity()
        self.lstm = torch.nn.LSTM(I, H, **options)
        self.fc = torch.nn.Linear(H * (1 + self.lstm.bidirectional), 3)

    def forward(self, x: Any, *states: Any) -> Any:
        y, (h, c) = self.lstm(self.embedding(x), states if self.states else None)
        return (self.fc(y), h, c) if self.states else self.fc(y)


class Packed(torch.nn.Module):  # type: ignore[misc]
    """A bidirectional LSTM over packed sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(I, H, bidirectional=True)

    def forward(self, x: Any, lengths: Any) -> Any:
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=True)
        y, (h, c) = self.lstm(packed)
        return torch.nn.utils.rnn.pad_packed_sequence(y)[0], h, c


class Cells(torch.nn.Module):  # type: ignore[misc]
    """An LSTMCell in a loop of Python, which an exporter unrolls."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = torch.nn.LSTMCell(I, H)

    def forward(self, x: Any, h: Any, c: Any) -> Any:
        outputs = []
        for x_t in x:
            h, c = self.cell(x_t, (h, c))
            outputs.append(h)
        return torch.stack(outputs), h, c


def exported(network: Any, inputs: Any, names: Any, outputs: Any, dynamo: bool, axes: Any) -> bytes:
    file = io.BytesIO()
    tensors = tuple(map(torch.from_numpy, inputs))
    options = {"input_names": names, "output_names": outputs, "dynamo": dynamo}
    if not dynamo:
        options["dynamic_axes"] = {name: axes[name] for name in names if name in axes}
    logging.disable(logging.WARNING)
    silence = contextlib.redirect_stdout(io.StringIO())
    try:
        with warnings.catch_warnings(), silence, contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            if dynamo:
                torch.onnx.export(network, tensors, **options).save(file)
            else:
                torch.onnx.export(network, tensors, file, **options)
    finally:
        logging.disable(logging.NOTSET)
    return file.getvalue()


def assert_as_torch(
    data: bytes, network: Any, inputs: Any, names: Any, outputs: Any, terms: int
) -> Any:
    """Assert that a file gives torch's numbers, and onnxruntime's, within roundings; return it."""
    double = network.to(torch.float64)
    parameters = {name: p.detach().numpy() for name, p in double.named_parameters()}

    def truth(values: Any) -> Any:
        own = {name: torch.from_numpy(values[name]) for name in parameters}
        given = [torch.from_numpy(values[name]) for name in names]
        with torch.no_grad():
            results = torch.func.functional_call(double, own, tuple(given))
        results = results if isinstance(results, tuple) else (results,)
        return {n: one.numpy() for n, one in zip(outputs, results, strict=True)}

    wide = {
        name: x.astype("f8") if x.dtype.kind == "f" else x
        for name, x in zip(names, inputs, strict=True)
    }
    expected, moves = spread(truth, wide | parameters)
    model, feeds = read(data), dict(zip(names, inputs, strict=True))
    for results in model.run(None, feeds), by_onnxruntime(data, feeds):
        got = dict(zip(outputs, results, strict=True))
        assert_within(got, expected, moves, 2 * roundings("native", terms), "float32")
    return model


NAMES = "num_layers", "bidirectional", "batch_first", "bias", "states", "words"
OPTIONS = [
    dict(zip(NAMES, v, strict=True))
    for v in itertools.product((1, 2), (False, True), (False, True), (True, False), (False, True),
                               (False, True))
]  # fmt: skip
# A third of them, in which every pair of values of two options still meets.
SOME = [options for k, options in enumerate(OPTIONS) if sum(map(int, f"{k:b}")) % 3 == 0]


def check_a_tagger(dynamo: bool, states: bool, words: bool, **options: Any) -> None:
    torch.manual_seed(0)
    network = Tagger(states, words, **options).eval()
    shape = (B, T) if options["batch_first"] else (T, B)
    rng = np.random.default_rng(0)
    x = rng.integers(0, WORDS, shape) if words else normal(*shape, I)
    d = options["num_layers"] * (1 + options["bidirectional"])
    inputs = [x, *([normal(d, B, H, seed=1), normal(d, B, H, seed=2)] if states else [])]
    names, outputs = ["x", "h0", "c0"][: len(inputs)], ["y", "hn", "cn"][: len(inputs)]
    axes = {"x": {shape.index(T): "time", shape.index(B): "batch"}}
    axes |= {name: {1: "batch"} for name in ("h0", "c0")}
    data = exported(network, inputs, names, outputs, dynamo, axes)
    model = assert_as_torch(data, network, inputs, names, outputs, I + H + 1)
    assert states_of(model) == ([("h0", "hn"), ("c0", "cn")] if states else [])
    lstms = [child for child in model.children.values() if isinstance(child, LSTM)]
    assert len(lstms) == options["num_layers"]
    assert sum(isinstance(child, Linear) for child in model.children.values()) == 1
    assert {n.by for n in model.plan.nodes} <= {"fastlstm", "numpy"}
    if states and not options["bidirectional"]:
        stream, whole = model.stream(B), model(x)
        axis = shape.index(T)
        fixed = dynamo  # the number of steps in such a file
        if not fixed:
            parts = [stream.step(part) for part in np.split(x, T, axis)]
            np.testing.assert_allclose(np.concatenate(parts, axis), whole, rtol=0, atol=2e-6)
    one = load_lstm(io.BytesIO(data), prefix=next(iter(model.children)))
    weights = {n.removeprefix("lstm."): p for n, p in network.float().named_parameters()}
    if options["bias"]:
        for end in ["", "_reverse"][: 1 + options["bidirectional"]]:
            for kind in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
                wanted = weights[kind + end].detach().numpy()
                np.testing.assert_array_equal(one.state_dict()[kind + end], wanted)


@pytest.mark.parametrize("options", SOME, ids=str)
def test_taggers(options: dict[str, Any]) -> None:
    check_a_tagger(False, **options)


@pytest.mark.slow
@pytest.mark.parametrize("options", [o for o in OPTIONS if o not in SOME], ids=str)
def test_all_taggers(options: dict[str, Any]) -> None:
    check_a_tagger(False, **options)


@pytest.mark.parametrize("dynamo", [DYNAMO])
def test_a_tagger_of_the_new_exporter(dynamo: bool) -> None:
    options = dict(zip(NAMES, (1, False, False, True, True, True), strict=True))
    check_a_tagger(dynamo, **options)


@pytest.mark.slow
@pytest.mark.parametrize("dynamo", [DYNAMO])
@pytest.mark.parametrize("options", SOME, ids=str)
def test_all_taggers_of_the_new_exporter(dynamo: bool, options: dict[str, Any]) -> None:
    check_a_tagger(dynamo, **options)


@pytest.mark.parametrize("dynamo", [False, SLOW_DYNAMO])
def test_cells_in_a_loop(dynamo: bool) -> None:
    torch.manual_seed(0)
    network = Cells().eval()
    inputs = [normal(T, B, I), normal(B, H, seed=1), normal(B, H, seed=2)]
    names, outputs = ["x", "h_in", "c_in"], ["y", "h_out", "c_out"]
    data = exported(network, inputs, names, outputs, dynamo, {})
    model = assert_as_torch(data, network, inputs, names, outputs, I + H + 1)
    assert states_of(model) == [("h_in", "h_out"), ("c_in", "c_out")]


def test_packed_sequences() -> None:
    torch.manual_seed(0)
    network = Packed().eval()
    inputs = [normal(T, 3, I), np.array([6, 4, 1])]
    axes = {"x": {0: "time", 1: "batch"}, "lengths": {0: "batch"}}
    data = exported(network, inputs, ["x", "lengths"], ["y", "h", "c"], False, axes)
    assert_as_torch(data, network, inputs, ["x", "lengths"], ["y", "h", "c"], I + H + 1)
    for lengths in ([6, 6, 6], [6, 2, 2]):
        feeds = {"x": inputs[0], "lengths": np.array(lengths)}
        for got, wanted in zip(
            read(data).run(None, feeds), by_onnxruntime(data, feeds), strict=True
        ):
            np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6)
