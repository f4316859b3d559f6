"""From one format of files to another and back: of any model, what both hold is the same again.

`.npz`, `.safetensors` and `.onnx` files hold a model whole, with its structure. `.pt` files hold
its parameters, which are loaded into a model of the same structure. A `.keras` file holds Keras'
layers: an LSTM of several layers is several, of two biases the sum is there, and the names are
Keras'. What the model computes is the same, to the bit, and so is a second file. Of such a model a
`.weights.h5` file holds the parameters.
"""

from __future__ import annotations

import copy
import functools
import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
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
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    Softmax,
    Tanh,
)

I, T, B = 3, 4, 2
ROWS = 5

NEEDS = {".onnx": "onnx", ".keras": "h5py", ".safetensors": "safetensors"}
WHOLE = (".npz", ".safetensors", ".onnx", ".pt")
"""Formats that give back the very model; a .pt file if it is loaded into such a one."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


def _needs(*formats: str) -> None:
    for form in formats:
        if form in NEEDS:
            pytest.importorskip(NEEDS[form], reason=f"{form} files need {NEEDS[form]}")


# ---- models ---------------------------------------------------------------------------------

FUNCTIONS = [ReLU, Tanh, Sigmoid, Softmax]
ACTIVATIONS = ["tanh", "softsign", "identity", ("leaky_relu", 0.2)]

# Options that all formats hold but Keras'.
RICH: list[dict[str, Any]] = [
    {},
    {"peephole": True},
    {"coupled": "f=1-i", "peephole": True},
    {"gate_clip": 0.5, "output_activation": "identity"},
    {"gate_activation": "hard_sigmoid"},
    {"learn_initial_state": True},
    {"reverse": True},
]


@st.composite
def _lstms(draw: Any, features: int, keras: bool) -> LSTM:
    options: dict[str, Any] = {"bias": draw(st.booleans()), "batch_first": True}
    function = draw(st.sampled_from(ACTIVATIONS))
    options |= {"cell_activation": function, "output_activation": function}
    options["input_dropout"] = draw(st.sampled_from([0.0, 0.5]))
    if not keras:
        options |= draw(st.sampled_from(RICH))
        options["batch_first"] = draw(st.booleans())
    if not options.get("reverse"):
        options["bidirectional"] = draw(st.booleans())
    widths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=2))
    return LSTM(features, widths, dropout=0.25 * (len(widths) - 1), **options)


@st.composite
def _models(draw: Any, keras: bool, branches: bool = True) -> Sequential:
    """Draw a chain of layers, which ends with all steps or with the last one."""
    layers: dict[str, Layer] = {}
    features = I
    if draw(st.booleans()):
        layers["table"] = Embedding(ROWS, I)
    rnn = layers["rnn"] = draw(_lstms(features, keras))
    features = np.atleast_1d(rnn.hidden_size)[-1] * (1 + rnn.bidirectional)
    if draw(st.booleans()):
        layers["last"] = Last()
    kinds = ["linear", "function", "dropout", *["residual", "concat"] * branches]
    for k, kind in enumerate(draw(st.lists(st.sampled_from(kinds), max_size=3))):
        width = draw(st.integers(2, 4))
        if kind == "linear":
            layers[f"fc{k}"], features = Linear(features, width, draw(st.booleans())), width
        elif kind == "function":
            layers[f"f{k}"] = draw(st.sampled_from(FUNCTIONS))()
        elif kind == "dropout":
            layers[f"drop{k}"] = Dropout(0.5)
        elif kind == "residual":
            inside = Sequential({"a": Linear(features, width), "b": Tanh()})
            layers[f"res{k}"] = Residual(inside, Linear(features, width))
            features = width
        else:
            layers[f"cat{k}"] = Concat(Linear(features, width), ReLU())
            features += width
    model = Sequential(layers)
    wide = draw(st.booleans()) and not keras
    return _stirred(model.astype("float64") if wide else model)


def _stirred(model: Any) -> Any:
    """Give every parameter its own random numbers."""
    arrays = enumerate(model.state_dict().items())
    model.load_state_dict({n: normal(*a.shape, seed=k + 1) for k, (n, a) in arrays})
    return model.eval()


def _run(model: Any) -> np.ndarray:
    """Return what a model gives for a batch, of indices if its parameters begin with a table."""
    first = next(iter(model.state_dict().items()))
    if first[0].startswith("table."):
        return np.asarray(model(np.random.default_rng(0).integers(0, ROWS, (B, T))))
    y = model(normal(B, T, I).astype(first[1].dtype))
    return y[0] if isinstance(y, tuple) else y


# ---- files ----------------------------------------------------------------------------------


def _through(model: Any, path: Path) -> Any:
    """Save a model, and load what is in the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of options that a .pt file does not tell
        fastlstm.save(model, path)
    if path.suffix in (".pt", ".h5"):
        twin = copy.deepcopy(model)
        twin.load_state_dict({name: 0 * a for name, a in twin.state_dict().items()})
        return fastlstm.load(path, into=twin)
    return fastlstm.load(path)


def _assert_same(model: Layer, other: Layer) -> None:
    """Assert that two models are the same: structure, names, types and bits."""
    assert repr(model) == repr(other)
    ours, theirs = model.state_dict(), other.state_dict()
    assert [*ours] == [*theirs]
    for name, array in ours.items():
        assert_same_bits(array, theirs[name])


_settings = functools.partial(settings, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("one, other", [*itertools.permutations(WHOLE, 2)])
def test_whole_models(folder, one, other):
    _needs(one, other)

    @_settings(max_examples=6)
    @given(model=_models(keras=False))
    def check(model: Any) -> None:
        read = _through(model, folder / f"a{one}")
        written = (folder / f"a{one}").read_bytes()
        _assert_same(read, model)
        back = _through(read, folder / f"b{other}")
        _assert_same(back, model)
        _assert_same(_through(back, folder / f"a{one}"), model)
        assert (folder / f"a{one}").read_bytes() == written
        assert_same_bits(_run(back), _run(model))

    check()


@pytest.mark.parametrize("other", WHOLE)
def test_keras(folder, other):
    """Keras' layers are chosen once; from then on the files are equal, byte for byte."""
    _needs(".keras", other)

    @_settings(max_examples=6)
    @given(model=_models(keras=True, branches=False))
    def check(model: Any) -> None:
        first = _through(_through(model, folder / f"a{other}"), folder / "a.keras")
        assert_same_bits(_run(first), _run(model))
        written = (folder / "a.keras").read_bytes()
        back = _through(first, folder / f"b{other}")
        _assert_same(back, first)
        _assert_same(_through(back, folder / "b.keras"), first)
        assert (folder / "b.keras").read_bytes() == written
        _assert_same(_through(first, folder / "w.weights.h5"), first)

    check()


@pytest.mark.parametrize("other", WHOLE)
def test_keras_with_branches(folder, other):
    """A file of a functional model gives a model of the graph, which computes the same."""
    _needs(".keras", other)

    @_settings(max_examples=6)
    @given(model=_models(keras=True))
    def check(model: Any) -> None:
        read = _through(_through(model, folder / f"a{other}"), folder / "a.keras")
        assert_same_bits(_run(read), _run(model))

    check()


def test_a_difference_is_seen():
    model = _stirred(Sequential({"rnn": LSTM(I, 2, batch_first=True), "fc": Linear(2, 1)}))
    _assert_same(model, copy.deepcopy(model))
    renamed = Sequential({"lstm": model["rnn"], "fc": model["fc"]})
    moved = copy.deepcopy(model)
    weight = moved["fc"].weight.copy()
    weight[0, 0] = np.nextafter(weight[0, 0], np.float32(9))
    moved["fc"].weight = weight
    for other in (renamed, moved, model.astype("float64")):
        with pytest.raises(AssertionError):
            _assert_same(model, other)
