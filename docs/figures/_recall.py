"""An LSTM that has learnt to say the one value of a sequence that was marked, for figures.

docs/howto/look-inside.md trains the same one.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

import fastlstm
from fastlstm.training import Adam, MSELoss


@functools.cache
def trained() -> tuple[fastlstm.Sequential, Any]:
    """Return the model, and sequences (B, T, 2) of values and marks."""
    rng = np.random.default_rng(0)
    values = rng.uniform(-1, 1, (2048, 24)).astype(np.float32)
    marked = rng.integers(0, 24, 2048)
    marks = (np.arange(24) == marked[:, np.newaxis]).astype(np.float32)
    x, target = np.stack([values, marks], axis=2), values[marks == 1][:, np.newaxis]

    lstm = fastlstm.LSTM(2, 8, batch_first=True, seed=0)
    lstm.reset_parameters(0, bias="unit_forget_gate")
    model = fastlstm.Sequential(
        {"lstm": lstm, "last": fastlstm.Last(), "linear": fastlstm.Linear(8, 1, seed=0)}
    )
    optimizer = Adam(model, lr=0.02)
    fastlstm.fit(model, (x, target), MSELoss(), optimizer, epochs=14, seed=0, progress=False)
    return model.eval(), x
