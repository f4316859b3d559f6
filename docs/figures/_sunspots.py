"""An LSTM that has learnt to say the sunspots of the next year, for figures."""

from __future__ import annotations

import functools
import pathlib
from typing import Any, NamedTuple

import numpy as np

import fastlstm
from fastlstm.training import Adam, CosineAnnealingLR, MSELoss


class Trained(NamedTuple):
    """The model, and the years and hundreds of sunspots (T, 1) that it reads."""

    model: fastlstm.Sequential
    years: Any
    x: Any


@functools.cache
def trained(units: int = 16, epochs: int = 300, lr: float = 0.02) -> Trained:
    path = pathlib.Path(__file__).with_name("sunspots.csv")
    years, sunspots = np.loadtxt(path, delimiter=",", skiprows=2, dtype=np.float32).T
    series = sunspots[:, np.newaxis] / 100
    x, target = series[:-1], series[1:]
    lstm, linear = fastlstm.LSTM(1, units, seed=0), fastlstm.Linear(units, 1, seed=0)
    model = fastlstm.Sequential({"lstm": lstm, "linear": linear})
    loss, optimizer = MSELoss(), Adam(model, lr)
    schedule = CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        optimizer.zero_grad()
        prediction, pullback = model.vjp(x)
        pullback(loss(prediction, target)[1])
        optimizer.step()
        schedule.step()
    return Trained(model, years[:-1].astype(int), x)
