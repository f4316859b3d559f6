"""Keras files: what Keras itself gives, on torch, of the same file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastlstm

# Keras 3.15 on torch 2.13 and NumPy 2.4 warns of its own code.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def keras(torch, tmp_path_factory):
    """Keras on torch; what it writes to a home of its own is not kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "torch")
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        yield pytest.importorskip("keras", reason="compares with Keras, which is not installed")


def _with_random_weights(model: Any, seed: int = 0) -> Any:
    """Give all weights distinct values, variances positive ones."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        value = rng.normal(size=weight.shape) * 0.5
        weight.assign(np.abs(value) + 0.1 if "variance" in weight.path else value)
    return model


def test_a_chain_is_a_sequential(keras, tmp_path):
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((None,)),
            layers.Embedding(7, 5, name="words"),
            layers.LSTM(4, return_sequences=True, name="first"),
            layers.Bidirectional(layers.LSTM(3), name="second"),
            layers.Dense(2, activation="softmax", name="classes"),
        ]
    )
    _with_random_weights(model)
    x = np.array([[1, 2, 3], [6, 0, 5]])
    expected = model(x).detach().numpy()
    for name in ("model.keras", "model.h5"):
        model.save(tmp_path / name)
        ours = fastlstm.load(tmp_path / name)
        assert isinstance(ours, fastlstm.Sequential)
        np.testing.assert_allclose(ours(x), expected, rtol=0, atol=1e-6)
        lstm = fastlstm.load_lstm(tmp_path / name, prefix="first")
        assert lstm.hidden_size == 4 and lstm.batch_first
