"""ONNX files of models with LSTMs, by both of torch's exporters, read and run: torch's values."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
from support import tolerance

import fastlstm

torch: Any = pytest.importorskip("torch", reason="exports the models")
pytest.importorskip("onnx", reason="reads the files")
nn: Any = torch.nn

T, B, I, H = 4, 3, 5, 7
_EXPORTERS = {"torchscript": False, "dynamo": True}


class Layers(nn.Module):
    """Layers of LSTM, with states or without."""

    def __init__(self, **options):
        super().__init__()
        self.lstm = nn.LSTM(I, H, **options)

    def forward(self, x, h=None, c=None):
        y, (h, c) = self.lstm(x) if h is None else self.lstm(x, (h, c))
        return y, h, c


class Tagger(nn.Module):
    """Words, two BiLSTM, and a score for each tag; sentences end early."""

    def __init__(self, ragged=False):
        super().__init__()
        self.ragged = ragged
        self.embedding = nn.Embedding(30, I)
        self.lstm = nn.LSTM(I, H, 2, batch_first=True, bidirectional=True)
        self.tags = nn.Linear(2 * H, 4)

    def forward(self, words, lengths=None):
        x = self.embedding(words)
        if not self.ragged:
            return self.tags(self.lstm(x)[0])
        pack = nn.utils.rnn.pack_padded_sequence(x, lengths, True, enforce_sorted=False)
        y, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(pack)[0], batch_first=True)
        return self.tags(y)


class Cells(nn.Module):
    """A cell over steps, which the exporters unroll."""

    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(I, H)

    def forward(self, x):
        state = x.new_zeros(x.shape[1], H), x.new_zeros(x.shape[1], H)
        outputs = []
        for step in x:
            state = self.cell(step, state)
            outputs.append(state[0])
        return torch.stack(outputs), state[1]


def exported(path, model, inputs, exporter, open_sizes=None, **more):
    """Export a model in evaluation mode; `open_sizes` names those of each input, by axis."""
    if exporter == "dynamo":
        pytest.importorskip("onnxscript", reason="torch's newer exporter needs it")
    names = more.pop("input_names", [f"in{n}" for n in range(len(inputs))])
    options: dict[str, Any] = more
    if open_sizes:
        options["dynamic_axes"] = dict(zip(names, open_sizes, strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(), inputs, path, input_names=names, dynamo=_EXPORTERS[exporter],
            verbose=False, **options,
        )  # fmt: skip
    return fastlstm.load(path)


def assert_as_torch(read, model, *inputs):
    """Assert that what was read gives what torch gives, for each of these inputs.

    And that the weights of its LSTMs are those of the model, bit for bit.
    """
    bound = tolerance("native", "float32", I + 2 * H + 1, 2)
    for given in inputs:
        with torch.no_grad():
            expected = model(*given)
        expected = expected if isinstance(expected, tuple) else (expected,)
        got = read.run(None, {f"in{n}": value.numpy() for n, value in enumerate(given)})
        for ours, theirs in zip(got, expected, strict=True):
            # Torch rounds as well, and what is behind an LSTM adds up its errors.
            atol = 4 * bound["atol"]
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=bound["rtol"], atol=atol)
    for number, layer in enumerate(_lstms(read)):
        for name, array in layer.state_dict().items():
            theirs = getattr(model.lstm, name.replace("_l0", f"_l{number}")).detach().numpy()
            np.testing.assert_array_equal(array, theirs, err_msg=name)


def _lstms(read):
    return [layer for layer in read.children.values() if isinstance(layer, fastlstm.LSTM)]


def _layers(seed=0, states=False, **options):
    torch.manual_seed(seed)
    model = Layers(**options)
    directions = options["num_layers"] * (1 + options["bidirectional"])

    def inputs(steps, rows):
        shape = (rows, steps, I) if options["batch_first"] else (steps, rows, I)
        own = [torch.randn(directions, rows, H) for _ in range(2)] if states else []
        return torch.randn(*shape), *own

    time, batch = (1, 0) if options["batch_first"] else (0, 1)
    open_sizes = [{time: "steps", batch: "rows"}, *[{1: "rows"}] * (2 if states else 0)]
    return model, inputs(T, B), inputs(T + 2, B - 1), open_sizes


GRID = [
    dict(zip(("num_layers", "bidirectional", "batch_first", "bias", "states"), choice, strict=True))
    for choice in itertools.product(
        (1, 2), (False, True), (False, True), (True, False), (False, True)
    )
]


def _name(options):
    return "-".join(str(int(value)) for value in options.values())


@pytest.mark.parametrize("options", GRID, ids=_name)
def test_layers(tmp_path, options):
    """The number of steps and of sequences is open, and is another one in the second run."""
    model, inputs, others, open_sizes = _layers(**options)
    read = exported(tmp_path / "m.onnx", model, inputs, "torchscript", open_sizes)
    assert_as_torch(read, model, inputs, others)
    assert [n.by for n in read.plan.nodes if n.type == "LSTM"] == ["fastlstm"] * len(_lstms(read))
    assert len(_lstms(read)) == options["num_layers"]


@pytest.mark.slow
@pytest.mark.parametrize("options", GRID, ids=_name)
def test_layers_by_the_newer_exporter(tmp_path, options):
    model, inputs, _, _ = _layers(**options)
    read = exported(tmp_path / "m.onnx", model, inputs, "dynamo")
    assert_as_torch(read, model, inputs)
    assert len(_lstms(read)) == options["num_layers"]


@pytest.mark.parametrize("exporter", _EXPORTERS)
def test_tagger(tmp_path, exporter):
    torch.manual_seed(1)
    model = Tagger()
    words, others = torch.randint(30, (B, T)), torch.randint(30, (B + 2, T + 3))
    if exporter == "dynamo":  # which fixes sizes that it has seen in other models of this process
        read = exported(tmp_path / "m.onnx", model, (words,), exporter)
        assert_as_torch(read, model, (words,))
    else:
        open_sizes = [{0: "rows", 1: "steps"}]
        read = exported(tmp_path / "m.onnx", model, (words,), exporter, open_sizes)
        assert_as_torch(read, model, (words,), (others,))
    assert len(_lstms(read)) == 2


def test_ragged_sentences(tmp_path):
    """A PackedSequence becomes `sequence_lens`. The newer exporter cannot do it."""
    torch.manual_seed(2)
    model = Tagger(ragged=True)
    inputs = torch.randint(30, (B, T)), torch.tensor([2, 4, 1])
    others = torch.randint(30, (4, 6)), torch.tensor([6, 1, 3, 3])
    open_sizes = [{0: "rows", 1: "steps"}, {0: "rows"}]
    read = exported(tmp_path / "m.onnx", model, inputs, "torchscript", open_sizes)
    assert_as_torch(read, model, inputs, others)
    nodes = [node for node in read.plan.nodes if node.type == "LSTM"]
    assert len(nodes) == 2 and all(node.inputs[3] for node in nodes)


@pytest.mark.parametrize(
    "exporter", ["torchscript", pytest.param("dynamo", marks=pytest.mark.slow)]
)
def test_cells_that_are_unrolled(tmp_path, exporter):
    torch.manual_seed(3)
    model, inputs = Cells(), (torch.randn(T, B, I),)
    read = exported(tmp_path / "m.onnx", model, inputs, exporter)
    model.lstm = model.cell  # for the comparison: one LSTM has become of all steps
    for name, parameter in list(model.cell.named_parameters()):
        model.cell.register_parameter(f"{name}_l0", parameter)
    assert_as_torch(read, model, inputs)
    assert len(_lstms(read)) == 1


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("batch_first", [False, True])
def test_states_and_streams(tmp_path, layers, batch_first):
    """States are found whatever they are called, and a stream gives onnxruntime's numbers."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="the second oracle")
    options = {"num_layers": layers, "bidirectional": False, "batch_first": batch_first}
    model, inputs, _, open_sizes = _layers(**options, states=True)
    names = {"input_names": ["x", "p", "q"], "output_names": ["y", "r", "s"]}
    path = tmp_path / "m.onnx"
    read = exported(path, model, inputs, "torchscript", open_sizes, **names)
    assert [(state.input.name, state.output) for state in read.states] == [("p", "r"), ("q", "s")]
    assert [state.batch_axis for state in read.states] == [1, 1]
    x, h, c = (value.numpy() for value in inputs)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": x, "p": h, "q": c})
    stream, time = read.stream(B), 1 if batch_first else 0
    stream.state = {"p": h, "q": c}
    steps = [stream.step(step) for step in np.split(x, T, time)]
    got = [np.concatenate(steps, time), *stream.state.values()]
    bound = tolerance("native", "float32", I + 2 * H + 1, 2)
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=bound["rtol"], atol=4 * bound["atol"])


def test_states_of_cells_are_found_by_name(tmp_path):
    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.LSTMCell(I, H)

        def forward(self, x, h, c):
            h, c = self.cell(x, (h, c))
            return h + 1, h, c

    torch.manual_seed(4)
    inputs = torch.randn(B, I), torch.randn(B, H), torch.randn(B, H)
    names = {"input_names": ["x", "h_in", "c_in"], "output_names": ["y", "h_out", "c_out"]}
    model = Cell()
    read = exported(tmp_path / "m.onnx", model, inputs, "torchscript", **names)
    pairs = [(state.input.name, state.output) for state in read.states]
    assert pairs == [("h_in", "h_out"), ("c_in", "c_out")]
    lstm = fastlstm.load_lstm(tmp_path / "m.onnx")  # the same layers are there alone
    np.testing.assert_array_equal(lstm.weight_hh_l0, model.cell.weight_hh.detach().numpy())
    assert list(fastlstm.load_state(tmp_path / "m.onnx")) == list(read.state_dict())


def test_saboteurs(tmp_path):
    """What comes from other weights, or begins with other states, is seen."""
    model, inputs, _, _ = _layers(**GRID[-1])
    read = exported(tmp_path / "m.onnx", model, inputs, "torchscript")
    assert_as_torch(read, model, inputs)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_as_torch(read, _layers(**GRID[-1], seed=1)[0], inputs)
    forward = model.forward
    model.forward = lambda x, h, c: forward(x, c, h)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_as_torch(read, model, inputs)
