"""Options of the recurrence against Keras 3, on torch: functions, go_backwards, both dropouts.

`test_mask.py` has its masks. And how Keras counts the epochs of a plateau, as our page says it.
"""

from __future__ import annotations

import functools
import types
from typing import Any

import numpy as np
import pytest
from gradients import assert_within, roundings, spread
from support import assert_same_bits

import fastlstm
from fastlstm.engines import load
from fastlstm.engines.contract import Cell, Noise
from fastlstm.sequences.packing import uniform_sizes
from fastlstm.training import SGD, ReduceLROnPlateau

I, H, T, B = 3, 9, 5, 4


@pytest.fixture(scope="module")
def keras(torch, tmp_path_factory):
    """Keras on torch; what it writes to a home of its own is not kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "torch")
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        yield pytest.importorskip("keras", reason="compares with Keras, which is not installed")


def _values() -> dict[str, np.ndarray]:
    """Draw what a layer of Keras has and takes, in its shapes."""
    rng = np.random.default_rng(0)
    shapes = {"kernel": (I, 4 * H), "recurrent": (H, 4 * H), "bias": (4 * H,)}
    shapes |= {"x": (B, T, I), "h": (B, H), "c": (B, H)}
    scales = {"recurrent": 1 / 3, "kernel": 0.8, "bias": 0.5}
    return {
        name: (scales.get(name, 1) * rng.standard_normal(shape)).astype("float32")
        for name, shape in shapes.items()
    }


def _theirs(
    keras: Any, values: dict[str, np.ndarray], training: bool = False, **options: Any
) -> Any:
    """Return Keras' layer, and what it gives: y (B, T, H), h and c."""
    layer = keras.layers.LSTM(H, return_sequences=True, return_state=True, **options)
    layer.build(values["x"].shape)
    layer.set_weights([values[name] for name in ("kernel", "recurrent", "bias")])
    return layer, _called(keras, layer, values, training)


def _called(keras: Any, layer: Any, values: dict[str, np.ndarray], training: bool) -> Any:
    states = [keras.ops.convert_to_tensor(values[name]) for name in ("h", "c")]
    got = layer(values["x"], initial_state=states, training=training)
    arrays = (array.detach().numpy() for array in got)
    return dict(zip(("y", "h", "c"), arrays, strict=True))


def _ours(values: dict[str, np.ndarray], engine: str, **options: Any) -> dict[str, np.ndarray]:
    """Return what our layer with the same weights gives."""
    arrays = [values[name] for name in ("kernel", "recurrent", "bias")]
    lstm = fastlstm.LSTM.from_arrays(
        *arrays, layout="keras", batch_first=True, engine=engine, **options
    )
    y, (h, c) = lstm(values["x"], (values["h"][None], values["c"][None]))
    return {"y": y, "h": h[0], "c": c[0]}


def _assert_agree(ours: Any, expected: dict[str, np.ndarray], engine: str) -> None:
    """Assert that `ours`, a function of values and engine, gives this; both sides err."""
    values = _values()
    doubled = {name: value.astype("float64") for name, value in values.items()}
    _, moves = spread(functools.partial(ours, engine="numpy"), doubled)
    count = 2 * roundings("native", I + H + 1, options=True)
    assert_within(ours(values, engine), expected, moves, count, "float32")


FUNCTIONS = {
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "hard_sigmoid": ("hard_sigmoid", 1 / 6, 0.5),
    "softsign": "softsign",
    "relu": "relu",
    "elu": "elu",
    "softplus": "softplus",
    "leaky_relu": ("leaky_relu", 0.2),
    "linear": "identity",
}
"""The names of Keras, and ours."""


@pytest.mark.parametrize("activation", FUNCTIONS)
@pytest.mark.parametrize("recurrent", ["sigmoid", "hard_sigmoid", "relu"])
def test_functions(keras, engine, recurrent, activation):
    """Keras' `activation` is that of g and of c on its way into h."""
    options = {"recurrent_activation": recurrent, "activation": activation}
    _, expected = _theirs(keras, _values(), **options)
    ours = functools.partial(
        _ours,
        gate_activation=FUNCTIONS[recurrent],
        cell_activation=FUNCTIONS[activation],
        output_activation=FUNCTIONS[activation],
    )
    _assert_agree(ours, expected, engine)


def test_the_slope_of_onnx_is_not_that_of_keras(keras):
    _, expected = _theirs(keras, _values(), recurrent_activation="hard_sigmoid")
    ours = functools.partial(_ours, gate_activation="hard_sigmoid")
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        _assert_agree(ours, expected, "numpy")


def test_go_backwards(keras, engine):
    """The same values as `reverse=True`, which has them in the order of time."""
    _, expected = _theirs(keras, _values(), go_backwards=True)
    expected["y"] = expected["y"][:, ::-1]
    values = _values()

    def ours(values: dict[str, np.ndarray], engine: str) -> dict[str, np.ndarray]:
        dtype = str(values["x"].dtype)
        lstm = fastlstm.LSTM(I, H, batch_first=True, reverse=True, engine=engine, dtype=dtype)
        lstm.load_state_dict(
            {
                "weight_ih_l0": values["kernel"].T,
                "weight_hh_l0": values["recurrent"].T,
                "bias_ih_l0": values["bias"],
                "bias_hh_l0": 0 * values["bias"],
            }
        )
        y, (h, c) = lstm(values["x"], (values["h"][None], values["c"][None]))
        return {"y": y, "h": h[0], "c": c[0]}

    assert ours(values, engine)["y"].shape == (B, T, H)
    _assert_agree(ours, expected, engine)


# ---- dropout --------------------------------------------------------------------------------


def _drawn(layer: Any, monkeypatch: pytest.MonkeyPatch, same: bool = False) -> list[Any]:
    """Return a list that gets the masks that the cell draws from now on: at each time a list.

    `same`: of several masks the first one stands for all.
    """
    drawn, draw = [], layer.cell._create_dropout_mask

    def create(like: Any, rate: float) -> Any:
        mask = draw(like, rate)
        if same:
            mask = [mask[0]] * len(mask)
        masks = mask if isinstance(mask, list) else [mask]
        drawn.append([one.numpy() for one in masks])
        return mask

    monkeypatch.setattr(layer.cell, "_create_dropout_mask", create)
    return drawn


def _with_noise(values: dict[str, np.ndarray], engine: str, mask: np.ndarray) -> Any:
    """Run our engine with a given mask of recurrent dropout."""
    rows, dtype = values["x"].transpose(1, 0, 2).reshape(T * B, I).copy(), values["x"].dtype
    cell = Cell(values["kernel"].T.copy(), values["recurrent"].T.copy(), values["bias"])
    y, h, c = np.empty((T * B, H), dtype), values["h"][None].copy(), values["c"][None].copy()
    noise = [Noise(h=mask.astype(dtype))]
    load(engine).Stack([cell], 1).run(rows, uniform_sizes(T, B), h, c, y, 1, noise=noise)
    return {"y": y.reshape(T, B, H).transpose(1, 0, 2), "h": h[0], "c": c[0]}


def test_the_rule_of_recurrent_dropout(keras, engine, monkeypatch):
    """Masks are drawn once for all steps, from factors 0 and 1/(1-p) of h before the products.

    Keras draws four, one for each gate, where we have one for all. With four equal ones the values
    are the same.
    """
    values = _values()
    layer, _ = _theirs(keras, values, recurrent_dropout=0.4, seed=3)
    drawn = _drawn(layer, monkeypatch, same=True)
    expected = _called(keras, layer, values, training=True)
    ((mask, *others),) = drawn
    assert mask.shape == (B, H) and len(others) == 3
    assert {*np.unique(mask)} == {np.float32(0), np.float32(1 / 0.6)}
    _assert_agree(functools.partial(_with_noise, mask=mask), expected, engine)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):  # without it: other values
        ours = functools.partial(_with_noise, mask=np.ones_like(mask))
        _assert_agree(ours, expected, engine)


def test_recurrent_dropout_is_for_training_alone(keras, engine):
    """In evaluation nothing is scaled: the factors of training have the mean 1."""
    values = _values()
    _, expected = _theirs(keras, values, recurrent_dropout=0.4)
    _assert_agree(_ours, expected, engine)
    assert_same_bits(_ours(values, engine, recurrent_dropout=0.4)["y"], _ours(values, engine)["y"])


def test_the_rule_of_input_dropout(keras, engine, monkeypatch):
    """One mask (B, I) for all steps and gates, of 0 and 1/(1-p)."""
    values = _values()
    layer, _ = _theirs(keras, values, dropout=0.4, seed=3)
    drawn = _drawn(layer, monkeypatch)
    expected = _called(keras, layer, values, training=True)
    ((mask,),) = drawn
    assert mask.shape == (B, I)
    assert {*np.unique(mask)} == {np.float32(0), np.float32(1 / 0.6)}

    def ours(values: dict[str, np.ndarray], engine: str) -> Any:
        return _ours(values | {"x": values["x"] * mask[:, None]}, engine)

    _assert_agree(ours, expected, engine)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside of Keras
@pytest.mark.parametrize("cooldown", [0, 1, 3])
@pytest.mark.parametrize("patience", [1, 2, 4])
def test_the_plateau_of_keras_is_ours_with_one_less(keras, patience, cooldown):
    theirs = keras.optimizers.SGD(1.0)
    callback = keras.callbacks.ReduceLROnPlateau(
        "loss", factor=0.9, patience=patience, min_delta=0.1, cooldown=cooldown, mode="min"
    )
    callback.set_model(types.SimpleNamespace(optimizer=theirs))
    callback.on_train_begin()
    ours = SGD(fastlstm.Linear(1, 1), lr=1.0)
    schedule = ReduceLROnPlateau(
        ours,
        factor=0.9,
        patience=patience - 1,
        threshold=0.1,
        threshold_mode="abs",
        cooldown=max(cooldown - 1, 0),
    )
    rates = []
    for epoch, loss in enumerate(np.random.default_rng(0).random(40) * np.linspace(2, 0, 40)):
        callback.on_epoch_end(epoch, {"loss": loss})
        schedule.step(loss)
        rates.append((float(theirs.learning_rate), ours.lr))
    np.testing.assert_allclose(*np.transpose(rates), rtol=1e-5)
    assert rates[-1][1] < 1  # it was reduced
