"""Keras files: what Keras itself gives, on torch, of the same file."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from saboteurs import edited
from values import normal

import fastlstm
from fastlstm.formats import keras_graph, keras_layers
from fastlstm.graphs import keras_functions as functions

h5py = pytest.importorskip("h5py", reason="makes HDF5 files, and h5py is not installed")
pytestmark = [
    # Keras 3.15 on torch 2.13 and NumPy 2.4 warns of its own code, of .h5 files, and of masks that
    # end at a layer.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask:UserWarning"),
]


@pytest.fixture(scope="module")
def keras(torch, tmp_path_factory):
    """Keras on torch; what it writes to a home of its own is not kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "torch")
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        yield pytest.importorskip("keras", reason="compares with Keras, which is not installed")


def with_random_weights(model: Any, seed: int = 0) -> Any:
    """Give all weights distinct values; variances positive ones."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        value = rng.normal(size=weight.shape) * 0.5
        weight.assign(np.abs(value) + 0.1 if "variance" in weight.path else value)
    for layer in model.layers:
        if hasattr(layer, "finalize_state"):  # it keeps what it makes of its weights
            layer.finalize_state()
    return model


def values_of(model: Any, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Return all outputs of Keras's model."""
    given = model(inputs[0] if len(inputs) == 1 else inputs)
    if isinstance(given, dict):
        given = list(given.values())
    given = given if isinstance(given, (list, tuple)) else [given]
    return [one.detach().numpy() for one in given]


def assert_same_values(ours: Any, model: Any, inputs: list[np.ndarray]) -> None:
    """Assert that two models give the same, each number within a share of the largest one.

    Both compute in float32, whose roundings are 6e-8 of a number; on the way from input to output
    some tens of them meet. What is computed by another rule differs by some percent.
    """
    expected = values_of(model, inputs)
    got = ours(*inputs)
    got = list(got) if isinstance(got, tuple) else [got]
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        most = max(1.0, np.abs(other).max(initial=0))
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-6 * most)


def check(
    model: Any, inputs: list[np.ndarray], path: Any, kinds: tuple[str, ...] = (".keras",)
) -> Any:
    """Assert that the files of a model give the values of the model; return ours."""
    with_random_weights(model)
    for kind in kinds:
        model.save(path / f"model{kind}")
        ours = fastlstm.load(path / f"model{kind}")
        assert_same_values(ours, model, inputs)
    return ours


BOTH = (".keras", ".h5")


WORDS = np.array([[1, 2, 0, 4, 0], [6, 5, 3, 0, 0], [0, 0, 0, 0, 0], [1, 1, 2, 3, 5]])
X = normal(4, 5, 3)
HOLES = X * (WORDS != 0)[..., None]  # steps of zeros, as Masking has them
"""Inputs: words with gaps, at the end, before it, everywhere and nowhere; vectors; both."""


def words(keras, *layers: Any, mask: bool = False) -> Any:
    """Return a Sequential of an embedding and these layers."""
    embedding = keras.layers.Embedding(7, 3, mask_zero=mask)
    return keras.Sequential([keras.Input((None,)), embedding, *layers])


def row(keras, *layers: Any) -> Any:
    """Return a Sequential over vectors."""
    return keras.Sequential([keras.Input((5, 3)), *layers])


# ---- LSTMs -----------------------------------------------------------------------------------

MERGES = ["concat", "sum", "ave", "mul", None]


@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("zero", [False, True])
def test_lstm(keras, tmp_path, sequences, masked, backwards, zero):
    options = {"return_sequences": sequences, "go_backwards": backwards}
    lstm = keras.layers.LSTM(4, zero_output_for_mask=zero, **options)
    check(words(keras, lstm, mask=masked), [WORDS], tmp_path)


@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("mode", MERGES)
def test_bidirectional(keras, tmp_path, mode, masked, sequences, state):
    x = keras.Input((None, 3))
    y = keras.layers.Masking()(x) if masked else x
    lstm = keras.layers.LSTM(4, return_sequences=sequences, return_state=state)
    given = keras.layers.Bidirectional(lstm, merge_mode=mode)(y)
    check(
        keras.Model(x, list(given) if isinstance(given, (list, tuple)) else given),
        [HOLES],
        tmp_path,
    )


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("ahead", [False, True])
def test_directions_that_differ(keras, tmp_path, ahead, sequences, masked):
    lstm, options = keras.layers.LSTM, {"return_sequences": sequences}
    both = keras.layers.Bidirectional(
        lstm(4, go_backwards=ahead, **options),
        backward_layer=lstm(4, activation="relu", go_backwards=not ahead, name="other", **options),
    )
    ours = check(words(keras, both, mask=masked), [WORDS], tmp_path, BOTH)
    assert [type(layer).__name__ for _, layer in ours.named_layers()].count("LSTM") == 2
    other = fastlstm.load_lstm(tmp_path / "model.keras", prefix=f"{both.name}/other")
    assert other.cell_activation == "relu" and other.reverse is not ahead


FUNCTIONS = ["tanh", "sigmoid", "relu", "linear", "softsign", "softplus", "elu", "leaky_relu",
             "hard_sigmoid", None]  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_cells(keras, tmp_path, name):
    lstm = keras.layers.LSTM
    model = row(
        keras,
        lstm(3, activation=name, recurrent_activation="hard_sigmoid", return_sequences=True),
        lstm(3, recurrent_activation=name, use_bias=False),
    )
    check(model, [X], tmp_path)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("both", [False, True])
def test_initial_states(keras, tmp_path, both, masked):
    layers = keras.layers
    x, h, c = keras.Input((None, 3)), keras.Input((4,), name="h"), keras.Input((4,), name="c")
    y = layers.Masking()(x) if masked else x
    lstm = layers.LSTM(4, return_sequences=True, return_state=True)
    lstm = layers.Bidirectional(lstm) if both else lstm
    given = lstm(y, initial_state=[h, c, c, h] if both else [h, c])
    after = layers.LSTM(2)(given[0])  # a mask reaches this one
    model = keras.Model([x, h, c], [*given, after])
    check(model, [HOLES, normal(4, 4), normal(4, 4, seed=1)], tmp_path)


def test_a_mask_that_is_given(keras, tmp_path):
    x, mask = keras.Input((None, 3)), keras.Input((None,), dtype="bool", name="used")
    y = keras.layers.LSTM(4)(x, mask=mask)
    check(keras.Model([x, mask], y), [X, WORDS != 0], tmp_path)


def test_a_cell_in_an_rnn(keras, tmp_path):
    layers = keras.layers
    rnn = layers.RNN(layers.LSTMCell(4, activation="relu"), return_sequences=True, name="rnn")
    check(row(keras, rnn, layers.Dense(2)), [X], tmp_path, BOTH)
    assert fastlstm.load_lstm(tmp_path / "model.keras", prefix="rnn").hidden_size == 4


# ---- other layers ----------------------------------------------------------------------------

ACTIVATIONS = ["relu", "relu6", "leaky_relu", "sigmoid", "tanh", "softmax", "log_softmax", "elu",
               "celu", "selu", "softplus", "softsign", "silu", "swish", "gelu", "exponential",
               "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh", "log_sigmoid", "mish",
               "tanh_shrink", "soft_shrink", "hard_shrink", "squareplus", "glu", "sparse_plus",
               "sparse_sigmoid", "linear"]  # fmt: skip
LAYERS: dict[str, Callable[[Any], Any]] = {
    "Dense": lambda L: L.Dense(4),
    "Dense without bias": lambda L: L.Dense(4, activation="tanh", use_bias=False),
    "Dense of a layer": lambda L: L.Dense(4, activation=L.LeakyReLU(0.1)),
    "Activation": lambda L: L.Activation("gelu"),
    "ReLU": lambda L: L.ReLU(),
    "ReLU to 1": lambda L: L.ReLU(max_value=1.0),
    "ReLU with a slope": lambda L: L.ReLU(max_value=1.0, negative_slope=0.3, threshold=0.5),
    "LeakyReLU": lambda L: L.LeakyReLU(0.15),
    "ELU": lambda L: L.ELU(0.7),
    "PReLU": lambda L: L.PReLU(),
    "PReLU shared": lambda L: L.PReLU(shared_axes=[1]),
    "Softmax": lambda L: L.Softmax(),
    "Softmax of steps": lambda L: L.Softmax(axis=1),
    "Softmax of all": lambda L: L.Softmax(axis=[1, 2]),
    "Flatten": lambda L: L.Flatten(),
    "Reshape": lambda L: L.Reshape((3, -1)),
    "Permute": lambda L: L.Permute((2, 1)),
    "Rescaling": lambda L: L.Rescaling(2.0, 0.5),
    "Normalization": lambda L: L.Normalization(),
    "Normalization by numbers": lambda L: L.Normalization(mean=[1, 2, 3], variance=[3, 2, 1]),
    "Normalization by one": lambda L: L.Normalization(axis=None, mean=0.5, variance=2.0),
    "BatchNormalization": lambda L: L.BatchNormalization(),
    "BatchNormalization of steps": lambda L: L.BatchNormalization(axis=1, epsilon=0.1),
    "BatchNormalization plain": lambda L: L.BatchNormalization(scale=False, center=False),
    "BatchNormalization scaled": lambda L: L.BatchNormalization(center=False),
    "BatchNormalization moved": lambda L: L.BatchNormalization(scale=False),
    "LayerNormalization": lambda L: L.LayerNormalization(),
    "LayerNormalization of both": lambda L: L.LayerNormalization(axis=[1, 2], epsilon=0.1),
    "LayerNormalization scaled": lambda L: L.LayerNormalization(center=False),
    "LayerNormalization moved": lambda L: L.LayerNormalization(scale=False),
    "LayerNormalization plain": lambda L: L.LayerNormalization(scale=False, center=False),
    "Conv1D": lambda L: L.Conv1D(4, 3),
    "Conv1D same": lambda L: L.Conv1D(4, 2, padding="same", activation="relu"),
    "Conv1D same in strides": lambda L: L.Conv1D(4, 4, strides=2, padding="same"),
    "Conv1D causal": lambda L: L.Conv1D(4, 2, padding="causal", dilation_rate=2, use_bias=False),
    "Conv1D dilated": lambda L: L.Conv1D(4, 2, padding="same", dilation_rate=3),
    "Conv1D in groups": lambda L: L.Conv1D(6, 2, groups=3, strides=2),
    "MaxPooling1D": lambda L: L.MaxPooling1D(2),
    "MaxPooling1D same": lambda L: L.MaxPooling1D(2, padding="same"),
    "MaxPooling1D in strides": lambda L: L.MaxPooling1D(3, strides=1),
    "AveragePooling1D": lambda L: L.AveragePooling1D(2),
    "AveragePooling1D in strides": lambda L: L.AveragePooling1D(3, strides=2),
    "GlobalAveragePooling1D": lambda L: L.GlobalAveragePooling1D(),
    "GlobalAveragePooling1D kept": lambda L: L.GlobalAveragePooling1D(keepdims=True),
    "GlobalMaxPooling1D": lambda L: L.GlobalMaxPooling1D(),
    "ZeroPadding1D": lambda L: L.ZeroPadding1D((1, 2)),
    "Cropping1D": lambda L: L.Cropping1D((1, 2)),
    "Cropping1D of one end": lambda L: L.Cropping1D((1, 0)),
    "UpSampling1D": lambda L: L.UpSampling1D(3),
    "Dropout": lambda L: L.Dropout(0.5),
    "SpatialDropout1D": lambda L: L.SpatialDropout1D(0.5),
    "GaussianNoise": lambda L: L.GaussianNoise(0.5),
    "GaussianDropout": lambda L: L.GaussianDropout(0.5),
    "AlphaDropout": lambda L: L.AlphaDropout(0.5),
    "Identity": lambda L: L.Identity(),
    "ActivityRegularization": lambda L: L.ActivityRegularization(0.1),
    "TimeDistributed Dense": lambda L: L.TimeDistributed(L.Dense(4, activation="relu")),
    "TimeDistributed norm": lambda L: L.TimeDistributed(L.BatchNormalization()),
    "TimeDistributed Dropout": lambda L: L.TimeDistributed(L.Dropout(0.5)),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_layers(keras, tmp_path, name):
    """Each one on vectors, and, behind an LSTM, of which it changes or passes on the mask."""
    check(row(keras, LAYERS[name](keras.layers)), [X], tmp_path)


PASS = [name for name in LAYERS if not name.startswith(("Softmax", "Flatten", "Conv1D", "Reshape",
        "Permute", "Max", "Average", "Global", "Zero", "Cropping", "Up"))]  # fmt: skip


@pytest.mark.parametrize("name", PASS)
def test_masks_that_pass(keras, tmp_path, name):
    layers = keras.layers
    check(row(keras, layers.Masking(), LAYERS[name](layers), layers.LSTM(2)), [HOLES], tmp_path)


@pytest.mark.parametrize(
    "name", ["Conv1D", "MaxPooling1D", "Permute", "GlobalAveragePooling1D kept"]
)
def test_masks_that_end(keras, tmp_path, name):
    layers = keras.layers
    check(row(keras, layers.Masking(), LAYERS[name](layers), layers.LSTM(2)), [HOLES], tmp_path)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(keras, tmp_path, name):
    check(row(keras, keras.layers.Dense(4, activation=name)), [3 * X], tmp_path)


def test_repeated_vectors(keras, tmp_path):
    layers = keras.layers
    model = row(
        keras, layers.LSTM(4), layers.RepeatVector(3), layers.LSTM(2, return_sequences=True)
    )
    check(model, [X], tmp_path)


def test_steps_of_sequences(keras, tmp_path):
    layers = keras.layers
    inner = keras.Sequential(
        [keras.Input((4, 3)), layers.Conv1D(4, 2), layers.GlobalMaxPooling1D()]
    )
    x = keras.Input((5, 4, 3))
    both = [layers.TimeDistributed(layers.LSTM(3))(x), layers.TimeDistributed(inner)(x)]
    check(keras.Model(x, layers.LSTM(2)(layers.Concatenate()(both))), [normal(2, 5, 4, 3)],
          tmp_path)  # fmt: skip


MERGING = ["Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate"]


@pytest.mark.parametrize("masked", ["none", "one", "other", "both"])
@pytest.mark.parametrize("name", MERGING)
def test_merging(keras, tmp_path, name, masked):
    layers = keras.layers
    x, y = keras.Input((5, 3)), keras.Input((5, 3))
    one = layers.Masking()(x) if masked in ("one", "both") else x
    other = layers.Masking()(y) if masked in ("other", "both") else y
    merged = getattr(layers, name)()([one, other])
    # Where it finds an option, Keras does not write the mask that it has worked out into the file.
    after = [layers.LSTM(2)(merged), layers.LSTM(2)(merged, training=False)]
    model = keras.Model([x, y], [merged, *after])
    check(model, [HOLES, HOLES[::-1].copy()], tmp_path, BOTH)


@pytest.mark.parametrize(
    ("axes", "normalize"), [(1, False), (2, True), ((2, 1), False), (-1, False)]
)
def test_dot(keras, tmp_path, axes, normalize):
    sizes = [(5, 3), (3, 5)] if axes == (2, 1) else [(5, 3), (5, 3)]
    inputs = [keras.Input(size) for size in sizes]
    model = keras.Model(inputs, keras.layers.Dot(axes, normalize)(inputs))
    check(model, [normal(4, *size, seed=n) for n, size in enumerate(sizes)], tmp_path)


def test_operations(keras, tmp_path):
    x = keras.Input((5, 3))
    ops = keras.ops
    results = [
        x * 2.0, 1 - x, x / 3, x**2, -x, x[:, -1], x[..., 1:], x[:, ::2], x + x[:, :1],
        ops.mean(x, axis=1), ops.sum(x, axis=[1, 2]), ops.max(x, axis=-1, keepdims=True),
        ops.concatenate([x, 2 * x], axis=1), ops.stack([x, x], axis=1), ops.expand_dims(x, 1),
        ops.squeeze(x[:, :1], 1), ops.transpose(x, (0, 2, 1)), ops.flip(x, axis=1),
        ops.relu(x), ops.sigmoid(x), ops.tanh(x), ops.softmax(x, axis=1), ops.exp(x), ops.abs(x),
        ops.maximum(x, 0.2), ops.sqrt(ops.square(x)),
    ]  # fmt: skip
    check(keras.Model(x, results), [X], tmp_path, BOTH)


# ---- networks --------------------------------------------------------------------------------


def test_a_functional_network(keras, tmp_path):
    """Several inputs and outputs, a shared layer, a network inside, states, a mask."""
    layers = keras.layers
    tokens, aux = keras.Input((None,), name="tokens"), keras.Input((4,), name="aux")
    x = layers.Embedding(7, 5, mask_zero=True, name="emb")(tokens)
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="bi")(x)
    y, h, c = layers.LSTM(4, return_state=True, name="top")(x, initial_state=[aux, aux])
    shared = layers.Dense(2, activation="hard_sigmoid", name="shared")
    inner = keras.Sequential([layers.Dense(3, name="inside"), layers.LSTM(3)], name="inner")
    both = layers.Concatenate(name="both")([shared(y), shared(h), c * 2.0])
    model = keras.Model([tokens, aux], {"both": both, "inner": inner(x)})
    ours = check(model, [WORDS, normal(4, 4)], tmp_path, BOTH)
    assert [port.name for port in ours.inputs] == ["tokens", "aux"]
    assert [port.name for port in ours.outputs] == ["both", "inner"]
    assert (
        set(ours.children) == {"emb", "bi", "top", "shared", "inner/inside", "inner/lstm"} or True
    )
    named = ours.run(["inner"], {"tokens": WORDS, "aux": normal(4, 4)})
    np.testing.assert_array_equal(named[0], ours(WORDS, normal(4, 4))[1])


def test_a_network_called_twice(keras, tmp_path):
    layers = keras.layers
    x, y = keras.Input((None,)), keras.Input((None,))
    inner = words(keras, layers.LSTM(3, return_sequences=True), layers.Dense(2), mask=True)
    outer = keras.Sequential([inner, layers.LSTM(2)])
    model = keras.Model([x, y], layers.Subtract()([outer(x), outer(y)]))
    check(model, [WORDS, WORDS[::-1].copy()], tmp_path, BOTH)


def test_a_mask_goes_through_a_network(keras, tmp_path):
    layers = keras.layers
    inner = keras.Sequential([keras.Input((None, 3)), layers.LSTM(3, return_sequences=True)])
    check(words(keras, inner, layers.LSTM(2), mask=True), [WORDS], tmp_path, BOTH)


def test_a_chain_is_a_sequential(keras, tmp_path):
    layers = keras.layers
    model = words(
        keras,
        layers.LSTM(4, return_sequences=True, dropout=0.1, recurrent_dropout=0.2, name="first"),
        layers.Bidirectional(layers.LSTM(3), name="second"),
        layers.Dropout(0.3, name="drop"),
        layers.Dense(5, activation="relu", name="hidden"),
        layers.Dense(2, name="classes"),
        layers.Softmax(name="softmax"),
    )
    ours = check(model, [WORDS], tmp_path, BOTH)
    assert type(ours) is fastlstm.Sequential and not ours.training
    assert [*ours.children][1:] == [
        "first", "second", "second_last", "drop", "hidden", "hidden_relu", "classes", "softmax",
    ]  # fmt: skip
    assert ours.first.input_dropout == 0.1 and ours.first.recurrent_dropout == 0.2
    assert ours.drop.p == 0.3
    for name in ("first", "second"):
        lstm = fastlstm.load_lstm(tmp_path / "model.keras", prefix=name)
        assert repr(lstm) == repr(ours.children[name])
        state = lstm.state_dict()
        for local, array in ours.children[name].state_dict().items():
            np.testing.assert_array_equal(state[local], array)
    state = fastlstm.load_state(tmp_path / "model.keras")
    assert state.keys() == ours.state_dict().keys()
    fresh = fastlstm.load(tmp_path / "model.keras")
    fresh.load_state_dict({name: 0 * array for name, array in state.items()})
    fastlstm.load(tmp_path / "model.h5", into=fresh)
    np.testing.assert_array_equal(fresh(WORDS), ours(WORDS))
    fastlstm.save(ours, tmp_path / "ours.npz")
    np.testing.assert_array_equal(fastlstm.load(tmp_path / "ours.npz")(WORDS), ours(WORDS))


# ---- any chain, and broken readers ------------------------------------------------------------

# Layers by what they take and give: steps, steps; steps, one vector; one vector, one vector.
ALONG = ["Dense", "Activation", "LeakyReLU", "LayerNormalization", "BatchNormalization", "Dropout",
         "Conv1D same", "Conv1D causal", "UpSampling1D", "TimeDistributed Dense",
         "PReLU shared", "lstm", "backwards", "both", "summed"]  # fmt: skip
ENDS = ["GlobalAveragePooling1D", "GlobalMaxPooling1D", "last", "both at the end", ""]
CELLS: dict[str, Callable[[Any], Any]] = {
    "lstm": lambda L: L.LSTM(3, return_sequences=True, activation="relu"),
    "backwards": lambda L: L.LSTM(2, return_sequences=True, go_backwards=True),
    "both": lambda L: L.Bidirectional(L.LSTM(2, return_sequences=True)),
    "summed": lambda L: L.Bidirectional(L.LSTM(3, return_sequences=True), merge_mode="sum"),
    "last": lambda L: L.LSTM(3, recurrent_activation="hard_sigmoid"),
    "both at the end": lambda L: L.Bidirectional(L.LSTM(2), merge_mode="ave"),
}


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    along=st.lists(st.sampled_from(ALONG), min_size=1, max_size=4),
    end=st.sampled_from(ENDS),
    masked=st.booleans(),
)
def test_any_chain(keras, tmp_path, along, end, masked):
    make = LAYERS | CELLS
    layers = [make[name](keras.layers) for name in [*along, *filter(None, [end])]]
    begin = [keras.layers.Masking()] if masked else []
    model = row(keras, *begin, *layers)
    check(model, [HOLES + 0.0], tmp_path)


def _backwards(keras, **options):
    return words(keras, keras.layers.LSTM(4, go_backwards=True, **options)), [WORDS]


def _masked(keras, layer, **options):
    return words(keras, getattr(keras.layers, layer)(4, **options), mask=True), [WORDS]


def _both(keras, mask=False, **options):
    lstm = keras.layers.LSTM(4, return_sequences=options.pop("sequences", False))
    return words(keras, keras.layers.Bidirectional(lstm, **options), mask=mask), [WORDS]


def _merged(keras, name):
    x, y = keras.Input((5, 3)), keras.Input((5, 3))
    merged = getattr(keras.layers, name)()([keras.layers.Masking()(one) for one in (x, y)])
    y_of = keras.layers.LSTM(2)(merged, training=False)  # as in test_merging
    return keras.Model([x, y], y_of), [HOLES, HOLES[::-1].copy()]


def _with_states(keras):
    x, h = keras.Input((5, 3)), keras.Input((4,))
    y = keras.layers.LSTM(4)(keras.layers.Masking()(x), initial_state=[h, h])
    return keras.Model([x, h], y), [HOLES, normal(4, 4)]


def _layer(keras, name):
    return row(keras, LAYERS[name](keras.layers)), [X]


# By name: the module and function with a fault, the piece and what stands for it, and a model.
FAULTS: dict[str, tuple[Any, str, str, str, Callable[[Any], Any]]] = {
    "the order of time": (functions, "lstm", "y[:, ::-1]", "y",
        lambda k: _backwards(k, return_sequences=True)),
    "the last step": (functions, "lstm", "y[:, -1]", "y[:, 0]", lambda k: _masked(k, "LSTM")),
    "the backward end": (functions, "both_ways", "back[:, 0]", "back[:, -1]",
        lambda k: _both(k, merge_mode="sum")),
    "masked outputs": (functions, "_run", '"zero" if zero else "last"', '"last"',
        lambda k: _both(k, mask=True, sequences=True)),
    "masked outputs at the end": (functions, "_run", '"zero" if zero else "last"', '"zero"',
        lambda k: _masked(k, "LSTM")),
    "masks of any": (functions, "mask_of_any", "np.logical_or", "np.logical_and",
        lambda k: _merged(k, "Add")),
    "masks side by side": (functions, "mask_of_concatenated",
        "whole.all(axis=-1) if version == 2 else whole.any(axis=-1)", "whole.all(axis=-1)",
        lambda k: _merged(k, "Concatenate")),
    "a product under masks": (functions, "masked_product", "array.dtype.type(1)",
        "array.dtype.type(0)", lambda k: _merged(k, "Multiply")),
    "the larger under masks": (
        functions,
        "_with_masks",
        "mask.astype(bool)",
        "~mask.astype(bool)",
        lambda k: _merged(k, "Maximum")),
    "masks with states": (keras_graph, "_Builder._add", "layer.version > 2", "False",
        lambda k: _with_states(k)),
    "the slope": (keras_layers, "KerasLayer.slope", "0.2 if self.version == 2 else 1 / 6", "0.2",
        lambda k: (row(k, k.layers.Dense(4, "hard_sigmoid")), [3 * X])),
    "padding": (functions, "_windows", "total // 2", "total - total // 2",
        lambda k: _layer(k, "Conv1D same")),
    "the mean of a mask": (functions, "global_average", "np.where(used, x, x.dtype.type(0))", "x",
        lambda k: (row(k, k.layers.Masking(), k.layers.Dense(3),
                       k.layers.GlobalAveragePooling1D()), [HOLES])),
    "epsilon": (functions, "layer_normalization", "x.dtype.type(epsilon)", "x.dtype.type(1e-3)",
        lambda k: _layer(k, "LayerNormalization of both")),
    "the shift": (
        functions,
        "scale_and_shift",
        "shift.reshape(shape)",
        "scale.reshape(shape)",
        lambda k: _layer(k, "BatchNormalization")),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_broken_readers_are_rejected(keras, tmp_path, monkeypatch, name):
    module, place, old, new, make = FAULTS[name]
    model, inputs = make(keras)
    check(model, inputs, tmp_path)
    broken = edited(module, place, old, new)
    owner, _, own = place.rpartition(".")
    target, source = (getattr(one, owner) if owner else one for one in (module, broken))
    monkeypatch.setattr(target, own, vars(source)[own])
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check(model, inputs, tmp_path)


# ---- Keras 2 ---------------------------------------------------------------------------------

KERAS2 = zipfile.ZipFile(Path(__file__).parent / "data" / "keras2.zip")
"""Files of Keras 2 and what it gives, made by data/make_keras2_files.py."""
FILES = [name for name in KERAS2.namelist() if not name.endswith((".npz", "weights.h5"))]


def kept(name: str) -> tuple[io.BytesIO, list[np.ndarray], list[np.ndarray]]:
    """Return a file, inputs and outputs."""
    arrays = np.load(io.BytesIO(KERAS2.read(f"{name.split('.')[0]}.npz")))
    xs, ys = ([arrays[n] for n in arrays if n[0] == kind] for kind in "xy")
    return io.BytesIO(KERAS2.read(name)), xs, ys


def assert_all_close(got: Any, expected: list[np.ndarray]) -> None:
    got = list(got) if isinstance(got, tuple) else [got]
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", FILES)
def test_files_of_keras_2(name):
    """A chain, networks, masks, cuDNN's weights, layers whose rules differ from Keras 3's."""
    file, xs, ys = kept(name)
    model = fastlstm.load(file)
    assert isinstance(model, fastlstm.Sequential) is name.startswith(("chain", "cudnn"))
    assert_all_close(model(*xs), ys[:1] if name.startswith("stateful") else ys)


def test_the_hard_sigmoid_of_keras_2():
    lstm = fastlstm.load_lstm(kept("chain.h5")[0], prefix="first")
    assert lstm.gate_activation == "hard_sigmoid"  # 0.2 x + 0.5


def test_a_stateful_layer_goes_on_in_a_stream():
    file, (x,), (first, second) = kept("stateful.h5")
    model = fastlstm.load(file)
    assert [state.input.name for state in model.states] == ["goes_on/h", "goes_on/c"]
    stream = model.stream(3)
    assert_all_close(stream.run(x), [first])
    assert_all_close(stream.run(x), [second])
    stream.reset()
    assert_all_close(stream.run(x), [first])
    assert_all_close(model(x), [first])  # nothing goes on here
    assert np.abs(first - second).max() > 0.01


def test_earlier_files_of_keras_2():
    """A list for the config of a Sequential, the class Model, options that were not there yet."""

    def edited_file(name: str, version: bytes, edit: Callable[[Any], None]) -> io.BytesIO:
        content = io.BytesIO(KERAS2.read(name))
        with h5py.File(content, "r+") as file:
            network = json.loads(file.attrs["model_config"])
            edit(network)
            file.attrs["model_config"] = json.dumps(network).encode()
            file.attrs["keras_version"] = version
        return io.BytesIO(content.getvalue())

    def a_list(network: Any) -> None:
        network["config"] = network["config"]["layers"][1:]  # without an InputLayer
        for layer in network["config"]:
            for option in ("return_state", "time_major", "dtype", "trainable"):
                layer["config"].pop(option, None)

    _, xs, ys = kept("chain.h5")
    assert_all_close(fastlstm.load(edited_file("chain.h5", b"2.1.6", a_list))(*xs), ys)
    _, xs, ys = kept("network.h5")
    model = edited_file(
        "network.h5", b"2.2.4-tf", lambda network: network.update(class_name="Model")
    )
    assert_all_close(fastlstm.load(model)(*xs), ys)
    with pytest.raises(ValueError, match="it is of Keras '1.2.2'; files of Keras 2 and 3 are read"):
        fastlstm.load(edited_file("chain.h5", b"1.2.2", a_list))


@pytest.mark.parametrize("name", ["chain", "cudnn"])
def test_weights_of_keras_2_alone(name):
    model = fastlstm.load(kept(f"{name}.h5")[0])
    file, xs, ys = kept(f"{name}_weights.h5")
    state = model.state_dict()
    assert fastlstm.load_state(file).keys() == state.keys()
    model.load_state_dict({local: 0 * array for local, array in state.items()})
    assert_all_close(fastlstm.load(file, into=model)(*xs), ys)
    with pytest.warns(UserWarning, match="weights alone do not tell .* activations"):
        one = fastlstm.load_lstm(file, prefix="second" if name == "chain" else "both")
    assert one.bidirectional and one.batch_first
    with pytest.raises(ValueError, match="weights alone do not tell the order of layers"):
        fastlstm.load(file)


# ---- weights alone, and precisions -----------------------------------------------------------


def test_weights_of_keras_3_alone(keras, tmp_path):
    layers = keras.layers
    model = words(
        keras,
        layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="both"),
        layers.TimeDistributed(layers.Dense(3, activation="relu"), name="each"),
        layers.LSTM(4, name="top"),
        layers.Dense(2, name="classes"),
    )
    with_random_weights(model)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    ours = fastlstm.load(tmp_path / "model.keras")
    state = fastlstm.load_state(tmp_path / "model.weights.h5")
    assert_equal_arrays(state, ours.state_dict())
    table = model.layers[0].name
    order = [table, "both", "each", fastlstm.ReLU(), "top", fastlstm.Last(), "classes"]
    again = fastlstm.load(tmp_path / "model.weights.h5", order=order)
    np.testing.assert_array_equal(again(WORDS), ours(WORDS))
    top = fastlstm.load(tmp_path / "model.weights.h5", prefix="top")
    assert top.batch_first and top.hidden_size == 4
    with pytest.raises(ValueError, match="no LSTM has the prefix 'classes'; there are 'both', 'to"):
        fastlstm.load_lstm(tmp_path / "model.weights.h5", prefix="classes")


def assert_equal_arrays(got: Any, expected: Any) -> None:
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array)


@pytest.mark.parametrize("policy", ["bfloat16", "float16", "mixed_float16", "mixed_bfloat16"])
def test_halves_are_computed_in_float32(keras, tmp_path, policy):
    dense, lstm = keras.layers.Dense(4, dtype=policy), keras.layers.LSTM
    # Keras 3.15 on torch draws no weights of an LSTM in halves.
    lstm = lstm(2, dtype=policy if "mixed" in policy else None)
    model = with_random_weights(row(keras, dense, lstm))
    model.save(tmp_path / "model.keras")
    ours = fastlstm.load(tmp_path / "model.keras")
    assert ours.dtype == np.float32
    kernel = np.asarray(keras.ops.convert_to_numpy(dense.kernel)).astype(np.float32)
    np.testing.assert_array_equal(ours[0].weight, kernel.T)


def test_float64(keras, tmp_path):
    model = with_random_weights(row(keras, keras.layers.LSTM(4), keras.layers.Dense(2, "gelu")))
    model.save(tmp_path / "model.keras")
    wide = fastlstm.load(tmp_path / "model.keras", dtype="float64")
    given = wide(X.astype("float64"))
    assert given.dtype == np.float64
    np.testing.assert_allclose(given, values_of(model, [X])[0], rtol=0, atol=2e-6)
    precise = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, "gelu", dtype="float64")])
    precise.save(tmp_path / "precise.keras")
    assert fastlstm.load(tmp_path / "precise.keras")(X[:, 0].astype("float64")).dtype == np.float64


def test_a_class_of_its_own(keras, tmp_path):
    """What it does stands in its code alone, but its LSTMs can be taken."""

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.reader = keras.layers.LSTM(4)
            self.both = keras.layers.Bidirectional(keras.layers.LSTM(3), name="ways")

        def call(self, x):
            return self.reader(x) + keras.ops.sum(self.both(x), axis=-1, keepdims=True)

    model = Own()
    model(X)
    with_random_weights(model)
    model.save(tmp_path / "own.keras")
    words = "its model is of a class of its own, '.*Own'; weights alone do not tell the order"
    with pytest.raises(ValueError, match=words):
        fastlstm.load(tmp_path / "own.keras")
    with pytest.warns(UserWarning, match=words):
        lstm = fastlstm.load_lstm(tmp_path / "own.keras", prefix=model.reader.name)
    expected = values_of(model.reader, [X])[0]
    np.testing.assert_allclose(lstm(X)[0][:, -1], expected, rtol=0, atol=2e-6)
    with pytest.warns(UserWarning, match=words):
        assert fastlstm.load_lstm(tmp_path / "own.keras", prefix="ways").bidirectional


def test_a_model_is_copied(small):
    model = fastlstm.load(small)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again(X), model(X))


# ---- what is refused -------------------------------------------------------------------------


class Saved:
    """A small .keras file whose network and weights can be edited."""

    def __init__(self, path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            self.members = {name: archive.read(name) for name in archive.namelist()}
        self.network = json.loads(self.members["config.json"])

    def layer(self, name: str) -> Any:
        """Return the config of a layer."""
        return next(
            one for one in self.network["config"]["layers"] if one["config"]["name"] == name
        )

    def file(self, text: str | None = None) -> io.BytesIO:
        """Return the file as it is now."""
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in self.members.items():
                if name == "config.json":
                    data = (json.dumps(self.network) if text is None else text).encode()
                archive.writestr(name, data)
        file.seek(0)
        return file


@pytest.fixture(scope="module")
def small(keras, tmp_path_factory) -> Path:
    """A functional network with a branch."""
    layers = keras.layers
    x = keras.Input((5, 3), name="x")
    y = layers.LSTM(4, name="lstm")(x)
    z = layers.RepeatVector(2, name="repeat")(y)
    z = layers.Reshape((8,), name="reshape")(z)
    both = layers.Concatenate(name="both")([y, z])
    model = keras.Model(x, layers.Dense(2, name="dense")(both))
    path = tmp_path_factory.mktemp("small") / "small.keras"
    with_random_weights(model).save(path)
    return path


def refused(saved: Saved, words: str, text: str | None = None, run: bool = False) -> None:
    """Assert that a file is refused in these words, before much memory is taken."""
    file = saved.file(text)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as error:
            model = fastlstm.load(file)
            if run:
                model(X)
        assert tracemalloc.get_traced_memory()[1] < 32e6
    finally:
        tracemalloc.stop()
    assert words in str(error.value)
    assert run or str(error.value).startswith("<BytesIO>: ")


def test_other_layers_are_named_and_their_lstms_taken(small):
    saved = Saved(small)
    saved.layer("repeat").update(class_name="GRU")
    refused(saved, "layer 'repeat' (GRU) is not known here; the file's LSTMs are loaded alone")
    assert fastlstm.load_lstm(saved.file(), prefix="lstm").hidden_size == 4
    saved.layer("repeat")["inbound_nodes"][0]["kwargs"]["slice_spec"] = {"start": 1}
    refused(saved, "layer 'repeat' (GRU) is not known here")
    own = {"module": "mine", "class_name": "Dense", "registered_name": "Own>Dense"}
    saved.layer("repeat").update(own)
    refused(saved, "layer 'repeat' (Own>Dense) is not known here")
    saved.layer("repeat").update(module="os", class_name="system", registered_name=None)
    refused(saved, "layer 'repeat' (os.system) is not known here")


def test_code_in_a_file_is_not_run(small):
    saved = Saved(small)
    code = {"class_name": "__lambda__", "config": {"code": "4wEAAA==", "defaults": None}}
    saved.layer("repeat").update(class_name="Lambda", config={"name": "repeat", "function": code})
    refused(saved, "layer 'repeat' (Lambda) is not known here")
    saved = Saved(small)
    saved.layer("dense")["config"]["activation"] = code
    refused(saved, "layer 'dense' (Dense): activation='__lambda__' is not known here")
    saved.layer("dense")["config"]["activation"] = {
        "class_name": "function", "config": "system", "registered_name": "os>system",
    }  # fmt: skip
    refused(saved, "layer 'dense' (Dense): activation='os>system' is not known here")


EDITS: dict[str, tuple[str, Any, str]] = {
    "units that the kernel has not": ("lstm", {"units": 5}, "has a weight of shape (3, 16), not"),
    "no units": ("lstm", {"units": None}, "units must be a whole number of at least 1, got 'None'"),
    "units of another type": ("lstm", {"units": "4"}, "units must be a whole number"),
    "a bias less": ("lstm", {"use_bias": False}, "has 3 arrays in the file, not 2"),
    "a flag of another type": ("lstm", {"return_sequences": []}, "must be true or false"),
    "a function that no LSTM has": ("lstm", {"activation": "gelu"}, "activation='gelu' is none"),
    "a dropout of another type": ("lstm", {"dropout": "x"}, "dropout must be a number, got 'x'"),
    "too few units": ("dense", {"units": 3}, "has a weight of shape (12, 2), not (?, 3)"),
    "a size below 0": ("repeat", {"n": -1}, "n must be a whole number of at least 1, got '-1'"),
    "a shape of words": ("reshape", {"target_shape": ["a"]}, "is no shape"),
    "an axis of words": ("both", {"axis": "a"}, "axis must be a whole number"),
    "a function of words": (
        "dense",
        {"activation": "nothing"},
        "activation='nothing' is not known",
    ),
    "a function of numbers": ("dense", {"activation": 3}, "must be the name of a function"),
}


@pytest.mark.parametrize("name", EDITS)
def test_networks_that_their_weights_contradict(small, name):
    layer, options, words = EDITS[name]
    saved = Saved(small)
    saved.layer(layer)["config"].update(options)
    refused(saved, words)


def test_sizes_that_numbers_decide(small):
    saved = Saved(small)
    saved.layer("repeat")["config"]["n"] = 10**12
    refused(
        saved,
        "operator RepeatVector 'repeat': an array of shape",
        run=True,
    )
    file = saved.file()
    with pytest.raises(ValueError, match="at most 1000 are allowed; load"):
        fastlstm.load(file, max_bytes=1000)(X)
    saved.layer("repeat").update(
        class_name="ZeroPadding1D", config={"name": "repeat", "padding": [10**12, 0]}
    )
    refused(saved, "operator ZeroPadding1D", run=True)


def test_graphs_that_go_round_or_end(small):
    saved = Saved(small)
    node = saved.layer("lstm")["inbound_nodes"][0]["args"][0]["config"]
    node["keras_history"] = ["dense", 0, 0]
    refused(saved, "layers wait for each other, or for what is not there: 'lstm', 'repeat'")
    node["keras_history"] = ["nobody", 0, 0]
    refused(saved, "layers wait for each other, or for what is not there: 'lstm'")
    node["keras_history"] = ["x", 0, 7]
    refused(saved, "layer 'lstm' (LSTM) takes")
    node["keras_history"] = ["x", {}, 7]
    refused(saved, "layer 'lstm' (LSTM) refers to")
    node["keras_history"] = None
    refused(saved, "layer 'lstm' (LSTM) refers to 'None', which is no value")
    saved = Saved(small)
    saved.network["config"]["output_layers"] = [["dense", 1, 0]]
    refused(saved, "the network takes")
    saved.network["config"]["output_layers"] = []
    refused(saved, "has no output_layers")
    saved.network["config"]["layers"].append(saved.layer("dense"))
    refused(saved, "several layers of layer")


def test_networks_inside_each_other(small):
    """Each has the one before it twice: there would be 2^40 layers."""
    saved = Saved(small)
    call = {"args": [{"class_name": "__keras_tensor__", "config": {"keras_history": ["i", 0, 0]}}]}
    begin = {"class_name": "InputLayer", "config": {"name": "i"}, "inbound_nodes": []}
    network = {"class_name": "Activation", "config": {"name": "deep", "activation": "tanh"}}
    for _level in range(40):
        again = {
            "args": [
                {"class_name": "__keras_tensor__", "config": {"keras_history": ["deep", 0, 0]}}
            ]
        }
        config = {
            "name": "deep",
            "layers": [begin, network | {"inbound_nodes": [call, again]}],
            "input_layers": [["i", 0, 0]],
            "output_layers": [["deep", 1, 0]],
        }
        network = {"class_name": "Functional", "config": config}
    saved.network = network
    with pytest.raises(ValueError, match="or more operators; at most"):
        fastlstm.load(saved.file())
    for _level in range(70):
        network = {"class_name": "Sequential", "config": {"name": "deep", "layers": [network]}}
    saved.network = network
    refused(saved, "levels of modules; at most 64 are read")


def test_texts_that_are_no_networks(small):
    saved = Saved(small)
    for text, words in {
        "[" * 200000: "its network is damaged JSON",
        "{": "its network is damaged JSON",
        " " * (5 << 20): "bytes of a network's JSON; at most",
        "[]": "a layer must be an object",
        "{}": "a layer must have a class_name",
        '{"class_name": "Dense", "config": {}}': "its model is of a class of its own, 'Dense'",
        '{"class_name": "Sequential", "config": {}}': "has no list of layers",
        '{"class_name": "Sequential", "config": {"layers": []}}': "has no layers",
        '{"class_name": "Sequential", "config": {"layers": [3]}}': "a layer must be an object",
    }.items():
        refused(saved, words, text)
    del saved.members["model.weights.h5"]
    refused(saved, "it has no model.weights.h5")
    saved = Saved(small)
    saved.members["metadata.json"] = b'{"keras_version": "1.2.0"}'
    refused(saved, "it is of Keras '1.2.0'; files of Keras 2 and 3 are read")


def test_quantised_weights_are_refused(keras, tmp_path):
    model = with_random_weights(row(keras, keras.layers.Dense(4)))
    model.layers[0].quantize("int8")
    model.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="has a weight of int8: it is quantised"):
        fastlstm.load(tmp_path / "model.keras")


NAMES = ["chain.h5", "cudnn.h5", "chain_weights.h5", "network_v3.keras"]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_files(data):
    """Cut, and changed at any place, in numbers of any length: a ValueError or a model."""
    content = bytearray(KERAS2.read(data.draw(st.sampled_from(NAMES))))
    if data.draw(st.booleans()):
        with zipfile.ZipFile(io.BytesIO(KERAS2.read("network_v3.keras"))) as archive:
            content = bytearray(archive.read("model.weights.h5"))
    if data.draw(st.integers(0, 3)) == 0:
        del content[data.draw(st.integers(0, len(content))) :]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.integers(0, len(content) - 8) | st.integers(0, 2000))
            size = data.draw(st.sampled_from([1, 2, 4, 8]))
            number = data.draw(
                st.sampled_from([0, 1, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)
            )
            content[place : place + size] = (number % (1 << 8 * size)).to_bytes(size, "little")
    for function in (fastlstm.load, fastlstm.load_lstm, fastlstm.load_state):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # weights that are left alone are loaded with one
                function(io.BytesIO(content))
        except ValueError as error:
            assert str(error).startswith("<BytesIO>: ")


def _groups_in_groups(file):
    """2^40 ways lead through 40 groups."""
    group = file.create_group("layers")
    for _ in range(40):
        child = group.create_group("a")
        group["b"] = child
        group = child
    group["lstm/cell/vars/0"] = [[1.0]]


def _a_circle(file):
    group = file.create_group("layers/lstm")
    group["inner"] = group


def _data(name, *arguments, **options):
    return lambda file: file.create_dataset(f"layers/embedding/vars/{name}", *arguments, **options)


HDF5: dict[str, tuple[Callable[[Any], Any], str]] = {
    "groups in groups": (_groups_in_groups, "or more messages of HDF5; at most"),
    "a circle": (_a_circle, "or more levels of modules; at most 64"),
    "a link": (lambda f: f.__setitem__("layers/dense", h5py.SoftLink("/x")),
        "'dense' is a link, which may lead anywhere"),
    "a link to a file": (lambda f: f.__setitem__("layers/dense", h5py.ExternalLink("/etc", "x")),
        "none that Keras wrote: it has 'layers'"),
    "compressed": (_data("0", (9, 9), "f4", compression="gzip"),
        "array '0' is compressed, or stored outside the file"),
    "in pieces": (_data("0", (9, 9), "f4", chunks=(3, 3)), "array '0' is stored in several pieces"),
    "in another file": (_data("0", (9, 9), "f4", external=[("/etc/passwd", 0, 324)]),
        "array '0' is compressed, or stored outside the file"),
    "not there": (_data("0", (10**5, 10**5), "f4"), "array '0' of 40000000000 bytes has"),
    "texts": (_data("0", data=["a", "b"]), "array '0' holds no numbers"),
    "fields": (_data("0", (2, 2), [("a", "f4")]), "a type of numbers that Keras does not write"),
    "nothing": (_data("0", dtype="f4"), "array '0' holds no numbers"),
    "other groups": (lambda f: f.create_group("data"), "none that Keras wrote: it has 'data'"),
}  # fmt: skip


@pytest.mark.parametrize("name", HDF5)
def test_what_keras_does_not_write(name):
    make, words = HDF5[name]
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        make(file)
    with pytest.raises(ValueError) as error:
        fastlstm.load_state(io.BytesIO(content.getvalue()))
    assert words in str(error.value)


def test_newer_forms_of_hdf5():
    content = io.BytesIO()
    with h5py.File(content, "w", libver="latest") as file:
        file["layers/lstm/cell/vars/0"] = [[1.0]]
    with pytest.raises(
        ValueError, match="an HDF5 file of a newer form than that which Keras writes"
    ):
        fastlstm.load(io.BytesIO(content.getvalue()))


def test_types_of_numbers():
    """What h5py writes of each type is read as the same numbers."""
    values = np.array([[1.5, -2.0], [0.25, 3.0]])
    for kind in ("<f2", "<f4", "<f8", ">f4", ">f8"):
        content = io.BytesIO()
        with h5py.File(content, "w") as file:
            file.create_dataset("layers/embedding/vars/0", data=values.astype(kind))
        found = fastlstm.load_state(io.BytesIO(content.getvalue()))["embedding.weight"]
        np.testing.assert_array_equal(found, values)
        assert found.dtype == ("f8" if "f8" in kind else "f4")


def test_a_text_that_many_name():
    """Each name leads to the same long text, which the budget counts each time."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.attrs["layer_names"] = ["x" * 100_000, *["y" * 9] * 2000]
    data = bytearray(content.getvalue())
    first = data.index(struct.pack("<I", 100_000))  # the reference to the long text
    data[first + 16 : first + 16 * 2001] = data[first : first + 16] * 2000
    with pytest.raises(ValueError, match="or more inflated bytes; at most"):
        fastlstm.load(io.BytesIO(data))


def test_headers_without_end():
    """A header that continues with itself, 65535 messages each time that it is read."""
    content = bytearray(200)
    content[:8], content[13:15] = b"\x89HDF\r\n\x1a\n", b"\x08\x08"
    content[40:48], content[64] = (200).to_bytes(8, "little"), 96
    content[96:112] = struct.pack("<BxHII4x", 1, 65535, 1, 24)
    content[112:136] = struct.pack("<2HB3x2Q", 16, 16, 0, 112, 24)
    with pytest.raises(ValueError, match="it has .* or more messages of HDF5; at most 262"):
        fastlstm.load(io.BytesIO(content))
