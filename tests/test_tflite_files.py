"""TFLite files that TensorFlow's converter wrote of Keras models, and what LiteRT gives of them."""

from __future__ import annotations

import contextlib
import copy
import io
import pickle
import subprocess
import sys
import tarfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from values import normal

import fastlstm
from fastlstm import GraphModel, Sequential, training
from fastlstm.formats.source import Source
from fastlstm.formats.tflite_file import read

with tarfile.open(Path(__file__).parent / "data" / "tflite.tar.xz") as archive:
    MEMBERS = {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]
NAMES = sorted(name[:-7] for name in MEMBERS if name.endswith(".tflite"))
READ = [name for name in NAMES if name != "integers"]
# The greatest error of one number, against the greatest one: some roundings of float32, which are
# 6e-8 each, on the way from input to output. What is computed by another rule differs by percents.
ROUNDINGS = 2e-6


class Stored(NamedTuple):
    """A file, its inputs by name, and LiteRT's outputs of two calls in a row."""

    file: io.BytesIO
    x: dict[str, Any]
    y: dict[str, Any]
    z: dict[str, Any]


def stored(name: str) -> Stored:
    with np.load(io.BytesIO(MEMBERS[f"{name}.npz"])) as arrays:
        x, y, z = ({n[2:]: arrays[n] for n in arrays if n[0] == kind} for kind in "xyz")
    return Stored(io.BytesIO(MEMBERS[f"{name}.tflite"]), x, y, z)


def called(model: Any, inputs: dict[str, Any]) -> Any:
    """Return what a call gives: a graph has the file's names, a row of layers takes one value."""
    if isinstance(model, GraphModel):
        return model(**inputs)
    (x,) = inputs.values()
    return model(x)


def assert_close(got: Any, expected: dict[str, Any], model: Any) -> None:
    """Assert that values are LiteRT's, which stand in the order of a graph's outputs here."""
    got = [*got] if isinstance(got, tuple) else [got]
    names = [*expected]
    if isinstance(model, GraphModel):
        names = [port.name for port in model.outputs if port.name in expected]
    assert len(got) == len(names) == len(expected)
    for one, name in zip(got, names, strict=True):
        other = expected[name]
        assert one.shape == other.shape and one.dtype == other.dtype
        most = max(1.0, float(np.abs(other).max(initial=0)))
        np.testing.assert_allclose(one, other, rtol=0, atol=ROUNDINGS * most)


# ---- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", READ)
def test_a_file_gives_what_litert_gives(name):
    file, x, y, _ = stored(name)
    model = fastlstm.load(file)
    assert_close(called(model, x), y, model)
    assert_close(called(model, x), y, model)  # a call leaves nothing behind


@pytest.mark.parametrize("name", READ)
def test_a_stream_goes_on_as_litert_does(name):
    """Two calls in a row, of a row of layers step by step; but not of what runs from the end."""
    file, x, y, z = stored(name)
    model = fastlstm.load(file)
    if isinstance(model, GraphModel) and not model.states:
        assert all(np.array_equal(y[n], z[n]) for n in y)  # nothing is kept there either
        return
    backward = name.startswith(("backwards", "bidirectional"))
    if backward and isinstance(model, Sequential):
        with pytest.raises(ValueError, match="begins at the end"):
            model.stream()
        return
    if isinstance(model, GraphModel):
        stream = model.stream()
        for expected in (y, z):
            assert_close(stream.run(**x), expected, model)
        return
    (value,) = x.values()
    axis = 0 if name == "time_major" else 1
    stream = model.stream(batch_size=value.shape[1 - axis])
    for expected in (y, z):
        steps = [stream.step(value.take(t, axis)) for t in range(value.shape[axis])]
        (whole,) = expected.values()
        got = np.stack(steps, axis) if whole.ndim == 3 else steps[-1]
        assert_close(got, expected, model)


KINDS = {
    "lstm": ["LSTM"],
    "time_major": ["LSTM"],
    "last": ["LSTM", "Last", "Linear", "Softmax"],
    "stacked": ["LSTM", "LSTM", "Last", "Linear", "ReLU"],
    "time_distributed": ["LSTM", "Linear", "Sigmoid"],
    "backwards_last": ["LSTM", "Last", "Linear"],
    "bidirectional_concat": ["LSTM"],
    "bidirectional_last": ["LSTM", "Last", "Linear"],
    "bidirectional_stacked": ["LSTM", "LSTM", "Last", "Linear"],
    "words": ["Embedding", "LSTM", "Last", "Linear", "Sigmoid"],
    "halves": ["LSTM", "Last", "Linear"],
}


@pytest.mark.parametrize("name", READ)
def test_a_row_of_layers_is_a_sequential(name):
    model = fastlstm.load(stored(name).file)
    if name not in KINDS:
        assert type(model) is GraphModel
        return
    assert type(model) is Sequential
    assert [type(layer).__name__ for layer in model.children.values()] == KINDS[name]


def test_names_and_options_of_layers():
    model = fastlstm.load(stored("bidirectional_stacked").file)
    assert list(model.children) == ["lstm", "lstm_2", "last", "linear"]
    assert repr(model[0]) == "LSTM(3, 4, batch_first=True, bidirectional=True, cell_clip=10.0)"
    model = fastlstm.load(stored("backwards_last").file)
    assert repr(model[0]) == "LSTM(3, 5, batch_first=True, cell_clip=10.0, reverse=True)"
    model = fastlstm.load(stored("time_major").file)
    assert model[0].batch_first is False


def test_a_graph_has_the_names_of_its_signature():
    file, x, y, _ = stored("two_inputs")
    model = fastlstm.load(file)
    assert sorted(x) == ["a", "b"] and sorted(y) == ["sum", "way"]
    got = dict(zip(["way", "sum"], model.run(["way", "sum"], x | zeros_of(model)), strict=True))
    for name in y:
        np.testing.assert_allclose(got[name], y[name], rtol=0, atol=ROUNDINGS)
    assert {state.input.name: state.output for state in model.states} == {
        "lstm/h": "lstm/h_n", "lstm/c": "lstm/c_n",
        "lstm_2/h": "lstm_2/h_n", "lstm_2/c": "lstm_2/c_n",
    }  # fmt: skip


def zeros_of(model: Any) -> dict[str, Any]:
    return {s.input.name: np.zeros(s.input.shape, np.float32) for s in model.states}


def test_variables_of_a_stateful_model_are_states_with_first_values():
    model = fastlstm.load(stored("stateful").file)
    assert [state.output for state in model.states] == [
        "lstm_18/Variable_n", "lstm_18/Variable_1_n",
    ]  # fmt: skip
    assert all(not state.input.default.any() for state in model.states)


# ---- what is done with a model ------------------------------------------------------------------


def test_a_row_of_layers_takes_any_batch_trains_and_is_saved(tmp_path):
    model = fastlstm.load(stored("last").file)
    x, target = normal(8, 4, 3), np.eye(2, dtype=np.float32)[[0, 1] * 4]
    path = tmp_path / "model.npz"
    fastlstm.save(model, path)
    assert np.array_equal(fastlstm.load(path)(x), model(x))
    loss = training.MSELoss()
    before = loss(model(x), target)[0]
    optimizer = training.Adam(model, 0.01)
    training.fit(model, (x, target), loss, optimizer, epochs=5, progress=False)
    assert loss(model.eval()(x), target)[0] < before


def test_precision_and_layout_are_the_caller_s():
    file, x, y, _ = stored("last")
    model = fastlstm.load(file, dtype="float64")
    (value,) = x.values()
    np.testing.assert_allclose(model(value.astype(np.float64)), *y.values(), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="batch_first=False contradicts its structure"):
        fastlstm.load(file, batch_first=False)
    graph = stored("two_inputs").file
    with pytest.raises(ValueError, match="a graph of TFLite has types of its own"):
        fastlstm.load(graph, dtype="float64")


def test_lstms_are_taken_alone():
    file, x, *_ = stored("two_inputs")
    lstm = fastlstm.load_lstm(file, prefix="lstm_2", dtype="float64")
    assert (lstm.input_size, lstm.hidden_size, lstm.batch_first) == (2, 3, True)
    with pytest.raises(ValueError, match="lstm_2"):
        fastlstm.load_lstm(file)
    assert fastlstm.load_state(file)["lstm.weight_ih_l0"].shape == (16, 3)
    (value,) = stored("last").x.values()
    alone = fastlstm.load_lstm(stored("last").file)
    assert np.array_equal(alone(value)[0][:, -1], alone(value)[1][0][0])


def test_parameters_go_into_a_model():
    file, x, y, _ = stored("last")
    model = fastlstm.Sequential(
        {
            "lstm": fastlstm.LSTM(3, 5, batch_first=True, cell_clip=10.0),
            "last": fastlstm.Last(),
            "linear": fastlstm.Linear(5, 2),
            "softmax": fastlstm.Softmax(),
        }
    )
    assert_close(called(fastlstm.load(file, into=model), x), y, model)
    with pytest.raises(ValueError, match="cell_clip=10.0 in the file, None in the model"):
        fastlstm.load(
            file,
            into=fastlstm.Sequential(
                {"lstm": fastlstm.LSTM(3, 5, batch_first=True), "linear": fastlstm.Linear(5, 2)}
            ),
        )


@pytest.mark.parametrize("name", ["last", "two_inputs", "stateful", "masked"])
def test_copies_and_pickles(name):
    file, x, *_ = stored(name)
    model = fastlstm.load(file)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        got, expected = called(other, x), called(model, x)
        assert np.array_equal(np.hstack(got), np.hstack(expected))


@pytest.mark.parametrize("name", ["two_inputs", "residual", "convolution", "words_of_floats"])
def test_engines_agree(name):
    file, x, y, _ = stored(name)
    for engine in ("numpy", "numba"):
        model = fastlstm.load(file, engine=engine)
        assert_close(called(model, x), y, model)


def test_the_command_shows_runs_and_converts(tmp_path):
    for name in ("last", "two_inputs"):
        (tmp_path / f"{name}.tflite").write_bytes(MEMBERS[f"{name}.tflite"])
    _, x, y, _ = stored("last")
    np.save(tmp_path / "x.npy", *x.values())

    def command(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "fastlstm", *arguments],
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "LSTM(3, 5" in command("info", "last.tflite")
    assert "'a' float32 (1, 6, 3)" in command("info", "two_inputs.tflite")
    command("run", "last.tflite", "x.npy", "-o", "y.npy")
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), *y.values(), rtol=0, atol=ROUNDINGS)
    command("convert", "last.tflite", "last.safetensors")
    assert (tmp_path / "last.safetensors").exists()
    _, x, y, _ = stored("two_inputs")
    np.savez(tmp_path / "in.npz", **x)
    command("run", "two_inputs.tflite", "in.npz", "-o", "out.npz")
    with np.load(tmp_path / "out.npz") as found:
        np.testing.assert_allclose(found["way"], y["way"], rtol=0, atol=ROUNDINGS)


# ---- signatures, and what is refused ------------------------------------------------------------


def test_a_signature_is_taken_by_its_key():
    file = stored("last").file
    assert fastlstm.load(file, key="serving_default") is not None
    with pytest.raises(
        ValueError, match="it has no signature key='other'; it has 'serving_default'"
    ):
        fastlstm.load(file, key="other")
    with pytest.raises(ValueError, match="it has no signature key='other'"):
        fastlstm.load_notes(file, key="other")
    assert fastlstm.load_notes(file, key="serving_default") == fastlstm.load_notes(file)


def test_the_description_is_a_note():
    assert read(Source(stored("last").file)).notes == {"description": "MLIR Converted."}


def test_integers_are_refused_by_name():
    with pytest.raises(ValueError, match="takes or gives quantised numbers, int8 in"):
        fastlstm.load(stored("integers").file)
    with pytest.raises(ValueError, match="quantised numbers"):
        fastlstm.load_lstm(stored("integers").file)


def test_another_version_is_refused():
    data = bytearray(MEMBERS["last.tflite"])
    model = read(Source(io.BytesIO(bytes(data))))
    assert model.structure is not None
    with contextlib.suppress(ImportError), warnings.catch_warnings():
        from tflite_files import Graph

        graph = Graph()
        x, y = graph.tensor("x", [1]), graph.tensor("y", [1])
        graph.operator("ABS", [x], [y])
        data = bytearray(graph.file([x], [y]))
        place = data.index((3).to_bytes(4, "little"))
        data[place] = 2
        with pytest.raises(ValueError, match="of version 2 of TFLite's files; 3 is read"):
            fastlstm.load(io.BytesIO(bytes(data)))
