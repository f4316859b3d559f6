"""Checkpoints of Darts, neuralforecast and neuralhydrology, against what these gave themselves.

`data/make_torch_world_files.py` made the files with the programs; none is needed here.
"""

from __future__ import annotations

import io
import time
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gradients import assert_within, roundings, spread
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import assert_same_bits

import fastlstm
from fastlstm import LSTM, Last, Linear, Sequential, load, load_lstm
from fastlstm.formats import neuralhydrology, structure, torch_programs
from fastlstm.formats.source import State

ZIP = Path(__file__).parent / "data/torch_world.zip"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The unpacked files."""
    made = tmp_path_factory.mktemp("world")
    with zipfile.ZipFile(ZIP) as archive:
        archive.extractall(made)
    return made


def path_of(folder: Path, name: str) -> Path:
    """Return the checkpoint in the folder of a model."""
    (path,) = (p for p in (folder / name).iterdir() if p.name != "config.yml")
    return path


def stored(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    with np.load(folder / f"{name}.npz") as arrays:
        return arrays["x"], arrays["y"]


def _run(model: Any, x: np.ndarray) -> np.ndarray:
    y = model(x)
    return y[0] if isinstance(y, tuple) else y


def assert_agree(model: Any, x: np.ndarray, theirs: np.ndarray, steps: int) -> None:
    """Assert that a model gives what theirs gave in float32, at the last steps."""
    double = model.astype("float64")
    values = {**double.state_dict(), "x": x.astype("float64")}

    def ours(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        double.load_state_dict({n: a for n, a in given.items() if n != "x"})
        return {"y": _run(double, given["x"])}

    expected = ours(values)["y"]
    got = _run(model, x)
    _, moves = spread(ours, values)
    terms = 2 * max(max(array.shape) for array in model.state_dict().values()) + 1
    count = 2 * roundings("native", terms, options=True)
    assert_within({"y": got}, {"y": expected.astype("float32")}, moves, count, "float32")
    if expected.ndim == 3:
        expected = expected[:, -steps:]
    shape = expected.shape
    their = {"y": theirs.reshape(shape)}
    assert_within(their, {"y": expected.astype("float32")}, moves, count, "float32")


MODELS = {  # how many last steps they take, and what is said of it
    "darts_rnn": (6, ""),
    "darts_rnn_covariates": (6, "there are 2 numbers for each target, of a likelihood"),
    "darts_block": (3, "Darts takes the last 3 steps of this output"),
    "darts_block_last": (1, ""),
    "nf": (3, "neuralforecast takes the last 3 steps of this output"),
    "nf_legacy": (3, "neuralforecast takes the last 3 steps of this output"),
    "nf_quantiles": (1, ""),
    "nf_recurrent": (3, "neuralforecast takes the last 3 steps of this output"),
    "nh": (6, ""),
    "nh_relu": (6, ""),
    "nh_dynamics": (6, ""),
    "nh_statics": (6, ""),
    "nh_both": (6, ""),
}


@pytest.mark.parametrize("name", MODELS)
def test_values(name, folder):
    steps, said = MODELS[name]
    model = load(path_of(folder, name), batch_first=True)
    assert said in repr(model) if said else "takes the last" not in repr(model)
    assert not model.training
    x, y = stored(folder, name)
    assert_agree(model, x, y, steps)


@pytest.mark.parametrize("name", [name for name in MODELS if "last" not in name])
def test_streams_equal_whole_runs(name, folder):
    model = load(path_of(folder, name), batch_first=True)
    if any(type(layer) is Last for _, layer in model.named_layers()):
        return
    x, _ = stored(folder, name)
    stream = model.stream(batch_size=len(x))
    parts = [stream.run(x[:, :2]), stream.run(x[:, 2:])]
    assert_same_bits(np.concatenate(parts, axis=1), _run(model, x))


def test_sizes_and_dropout(folder):
    model = load(path_of(folder, "darts_rnn"))
    assert repr(model.rnn) == "LSTM(1, 5, num_layers=2, batch_first=True, dropout=0.1)"
    assert type(load(path_of(folder, "nf_recurrent")).hist_encoder) is LSTM
    assert load(path_of(folder, "nf_recurrent")).hist_encoder.proj_size == 1
    assert [type(c) for c in load(path_of(folder, "nf_quantiles")).children.values()] == [
        LSTM, Last, Sequential,
    ]  # fmt: skip


def test_hyper_parameters_are_notes(folder):
    notes = fastlstm.load_notes(path_of(folder, "darts_block"))
    assert notes["input_chunk_length"] == 6 and notes["output_chunk_length"] == 3
    assert fastlstm.load_notes(path_of(folder, "darts_block"), key="state_dict") == notes
    notes = fastlstm.load_notes(path_of(folder, "nf"))
    assert notes["h"] == 3 and notes["scaler_type"] == "robust" and "loss" not in notes


LACKING = {
    "darts_block_long": (
        "a model of Darts' BlockRNNModel with output_chunk_length=8 over input_chunk_length=6"),
    "darts_block_norm": "a model of Darts' BlockRNNModel with use_reversible_instance_norm, a norm",
    "nf_future": "a model of neuralforecast with 1 future variables, which are put beside",
    "nf_long": "a model of neuralforecast with h=8 over input_size=6: upsample_sequence",
    "nf_gelu": "a model of neuralforecast with the activation 'GELU', which fastlstm has no layer",
    "nh_softplus": "a model of neuralhydrology with the activation 'softplus' behind its head",
    "nh_gmm": "a model of neuralhydrology with the head 'gmm'; fastlstm has regression's",
}  # fmt: skip


@pytest.mark.parametrize("name", LACKING)
def test_what_fastlstm_lacks(name, folder):
    path = path_of(folder, name)
    with pytest.raises(ValueError) as error:
        load(path)
    assert str(error.value).startswith(f"{path}: it is {LACKING[name]}")
    assert str(error.value).endswith(
        ": fastlstm.load_lstm(path) gives its LSTM alone, load(path, order=[...]) other parts"
    )
    lstm = load_lstm(path)
    assert lstm.hidden_size in (5, 25)
    x = np.zeros((1, 2, lstm.input_size), np.float32)
    lstm.batch_first = True
    assert lstm(x)[0].shape == (1, 2, lstm.hidden_size)


def test_others_than_lstms(folder):
    with pytest.raises(ValueError, match="GRU"):
        load(path_of(folder, "darts_gru"))


def test_the_file_of_darts_objects(folder):
    with pytest.raises(
        ValueError, match="the file beside it whose name ends in .ckpt has its weights"
    ):
        load(path_of(folder, "darts_whole"))


def test_what_the_caller_says_goes_first(folder):
    path = path_of(folder, "darts_block")
    model = load(path, order=["rnn", Last(), "fc.0", "fc.2", "fc.4"])
    assert [type(child) for child in model.children.values()] == [LSTM, Last, *[Linear] * 3]
    assert type(load(path, prefix="rnn")) is LSTM
    own = Sequential(
        {
            "rnn": LSTM(1, 5, batch_first=True),
            "fc": Sequential({"0": Linear(5, 4), "2": Linear(4, 3)}),
        }
    )
    with pytest.raises(ValueError, match="fc"):
        load(path, into=own)
    assert load(path, key="state_dict", prefix="rnn").hidden_size == 5


def test_without_its_configuration(folder, tmp_path):
    """Names and shapes tell a chain; an embedding is told to be named."""
    (tmp_path / "m.pt").write_bytes(path_of(folder, "nh").read_bytes())
    model = load(tmp_path / "m.pt", batch_first=True)
    x, y = stored(folder, "nh")
    assert_agree(model, x, y, 6)
    (tmp_path / "m.pt").write_bytes(path_of(folder, "nh_both").read_bytes())
    with pytest.raises(ValueError, match="how its parts go together is not told"):
        load(tmp_path / "m.pt")


def test_a_block_of_older_versions():
    """Before darts#2845 the last hidden state gave the values of all steps."""
    model = Sequential({"rnn": LSTM(1, 5, batch_first=True), "last": Last(), "fc": Sequential(
        {"0": Linear(5, 4), "1": Linear(4, 6)})})  # fmt: skip
    hyper = GOOD | {"output_chunk_length": 3, "target_size": 2, "input_chunk_length": 2}
    found = load(io.BytesIO(_checkpoint(hyper, model)))
    assert "its output has the 2 values of each of 3 steps" in repr(found)
    x = np.ones((2, 6, 1), np.float32)
    assert_same_bits(found(x), model(x))


def test_embeddings_of_older_versions(folder, tmp_path):
    torch = pytest.importorskip("torch", reason="writes its files, and is not installed")
    state = torch.load(path_of(folder, "nh_both"), weights_only=True)
    old = {
        name.replace("dynamics_embeddings.0", "dynamics_embedding"): t for name, t in state.items()
    }
    torch.save(old, tmp_path / "m.pt")
    (tmp_path / "config.yml").write_bytes((folder / "nh_both/config.yml").read_bytes())
    x, _ = stored(folder, "nh_both")
    new = load(path_of(folder, "nh_both"), batch_first=True)
    assert_same_bits(load(tmp_path / "m.pt", batch_first=True)(x), new(x))


def test_the_name_of_a_model_in_capitals(folder, tmp_path):
    """Its activation stands in the configuration alone, and would be lost without a word."""
    (tmp_path / "m.pt").write_bytes(path_of(folder, "nh").read_bytes())
    config = (folder / "nh/config.yml").read_text()
    assert "\nmodel: cudalstm\n" in config and "output_activation" not in config
    config = config.replace("model: cudalstm", "model: CudaLSTM\noutput_activation: ReLU")
    (tmp_path / "config.yml").write_text(config)
    assert "ReLU()" in repr(load(tmp_path / "m.pt"))


# ---- hyper-parameters that do not fit, or harm --------------------------------------------------


def _checkpoint(hyper: Any, model: Any = None) -> bytes:
    """Return a checkpoint of Lightning's with other hyper-parameters."""
    torch = pytest.importorskip("torch", reason="writes its files, and is not installed")
    model = model or Sequential({"rnn": LSTM(1, 5), "V": Linear(5, 1)})
    state = {n: torch.from_numpy(a.copy()) for n, a in model.state_dict().items()}
    file = io.BytesIO()
    torch.save({"state_dict": state, "hyper_parameters": hyper}, file)
    return file.getvalue()


GOOD = {
    "input_chunk_length": 6, "output_chunk_length": 1, "hidden_dim": 5, "num_layers": 1,
    "target_size": 1, "nr_params": 1, "dropout": 0.0, "name": "LSTM",
}  # fmt: skip
BAD = {
    "layers": ({"num_layers": 10**6}, "its structure needs"),
    "no number": ({"num_layers": "1"}, "num_layers of Darts' RNNModel must be a whole number of at "
                  "least 1, got '1'"),
    "huge": ({"num_layers": 1 << 70}, "must be a whole number of at least 1"),
    "numbers": ({"nr_params": -1}, "nr_params of Darts' RNNModel must be a whole number"),
    "two layers": ({"num_layers": 2}, "its structure needs 325 numbers or more"),
    "outputs": ({"target_size": 3}, "with 1 outputs for 3 values of a step"),
    "another": ({"name": "Transformer"}, "with 'Transformer' in place of an LSTM"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_hyper_parameters_that_do_not_fit(name):
    change, sentence = BAD[name]
    with pytest.raises(ValueError) as error:
        load(io.BytesIO(_checkpoint(GOOD | change)))
    assert sentence in str(error.value) and str(error.value).startswith("<BytesIO>: ")


def test_an_array_of_unknown_use():
    model = Sequential({"rnn": LSTM(1, 5), "V": Linear(5, 1), "W": Linear(1, 1)})
    with pytest.raises(ValueError, match="arrays whose use is not known, 'W.weight', 'W.bias'"):
        load(io.BytesIO(_checkpoint(GOOD, model)))


def test_a_gru_of_neuralforecast():
    state = State()
    shapes = {"hist_encoder.weight_ih_l0": (15, 1), "hist_encoder.weight_hh_l0": (15, 5)}
    state.update({name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
    offer = torch_programs.offered(HYPERS[1], state)
    assert offer is not None
    with pytest.raises(ValueError, match="a GRU or an RNN in place of an LSTM, called 'hist_enc"):
        offer()


def test_hyper_parameters_that_are_no_dict():
    for other in ([1, 2], "text", None, 3):
        assert type(load(io.BytesIO(_checkpoint(other)))) is Sequential


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)  # fmt: skip
HYPERS = [
    GOOD,
    {"h": 1, "input_size": 6, "encoder_hidden_size": 5, "encoder_n_layers": 1},
]


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_hyper_parameters(data):
    """They make a model, or a ValueError, whatever they are."""
    hyper = dict(data.draw(st.sampled_from(HYPERS)))
    more = ["use_reversible_instance_norm", "future_cov_dim", "activation", "recurrent",
            "decoder_activation", "encoder_dropout"]  # fmt: skip
    for name in data.draw(st.lists(st.sampled_from([*hyper, *more]), max_size=3)):
        hyper[name] = data.draw(values)
    kind = data.draw(st.sampled_from(["rnn", "block", "nf"]))
    parts: dict[str, Any] = {"rnn": LSTM(1, 5), "V": Linear(5, 1)}
    if kind == "block":
        parts = {"rnn": LSTM(1, 5), "fc": Sequential({"0": Linear(5, 4), "2": Linear(4, 1)})}
    if kind == "nf":
        inner = Sequential({"0": Linear(5, 4), "3": Linear(4, 1)})
        parts = {"hist_encoder": LSTM(1, 5), "mlp_decoder": Sequential({"layers": inner})}
    state = State()
    state.update(Sequential(parts).state_dict())
    offer = torch_programs.offered(hyper, state)
    if offer is None:
        return
    try:
        description, arrays, untold = offer()
        model = structure.build(description, state=arrays)
        model.load_state_dict(arrays)
    except ValueError as error:
        assert len(str(error)) < 2000
    else:
        assert isinstance(untold, str)


def _bounded(call: Any, size: int) -> str:
    begun, said = time.monotonic(), ""
    tracemalloc.start()
    try:
        call()
    except ValueError as error:
        said = str(error)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert time.monotonic() - begun < 15 and peak < (24 << 20) + 10 * size
    return said


def test_metadata_that_harm(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy", reason="writes safetensors")
    arrays = {"hist_encoder.weight_ih_l0": np.zeros((4, 1), np.float32)}
    for text, words in {
        "[" * 500_000: "lists and objects of JSON",
        "[" * 100_000: "its hyper-parameters are damaged JSON",
        '{"h": ': "its hyper-parameters are damaged JSON",
        '"' + "a" * (2 << 20) + '"': "bytes of JSON",
    }.items():
        data = numpy.save(arrays, {"hyper_parameters": text})
        said = _bounded(lambda data=data: load(io.BytesIO(data)), len(data))
        assert words in said and said.startswith("<BytesIO>: ")


def test_a_configuration_that_harms(folder, tmp_path):
    path = tmp_path / "m.pt"
    path.write_bytes(path_of(folder, "nh_both").read_bytes())
    for text in (
        b"model: cudalstm\n" * 60_000, b"model: cudalstm\nhead: &a [*a, *a]\n", b"\xff" * 1000,
        b"model: cudalstm\n" + b"a: " * 300_000, b"a:\n" + b"  b: c\n" * 100_000,
    ):  # fmt: skip
        (tmp_path / "config.yml").write_bytes(text)
        said = _bounded(lambda: load(path), len(text))
        assert said.startswith(f"{path}: ") and len(said) < 3000


def test_inputs_that_would_multiply():
    """A matrix that takes some of the inputs is not made of too many."""
    state = State()
    state.update({
        "lstm.weight_ih_l0": np.zeros((4, 100_002), np.float32),
        "lstm.weight_hh_l0": np.zeros((4, 1), np.float32),
        "embedding_net.statics_embedding.net.0.weight": np.zeros((2, 1), np.float32),
        "embedding_net.statics_embedding.net.0.bias": np.zeros(2, np.float32),
        "head.net.0.weight": np.zeros((1, 1), np.float32),
        "head.net.0.bias": np.zeros(1, np.float32),
    })  # fmt: skip
    config = {"head": "regression", "statics_embedding": {"activation": "tanh"}}
    said = _bounded(lambda: neuralhydrology._made(config, state), 1 << 20)
    assert "100001 inputs beside its embeddings, which are too many" in said


@settings(max_examples=100, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(data=st.data())
def test_mutated_checkpoints(data, folder):
    """Of the pickle, which has no checksum then."""
    name = data.draw(st.sampled_from(["darts_rnn", "darts_block", "nf_legacy"]))
    file = io.BytesIO()
    with zipfile.ZipFile(path_of(folder, name)) as given, zipfile.ZipFile(file, "w") as made:
        for member in given.namelist():
            content = bytearray(given.read(member))
            if member.endswith("data.pkl"):
                for _ in range(data.draw(st.integers(1, 3))):
                    content[data.draw(st.integers(2, len(content) - 1))] = data.draw(
                        st.integers(0, 255)
                    )
            made.writestr(member, bytes(content))
    said = _bounded(lambda: load(io.BytesIO(file.getvalue())), len(file.getvalue()))
    assert not said or said.startswith("<BytesIO>: ")
