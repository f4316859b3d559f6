"""Regression with a value for every step, in a training loop written by hand instead of `fit`.

Rain falls into a bucket. The water runs out faster when the bucket is fuller, and some flows over
the rim when there is too much. So the flow of a day depends on the rain of many days before, and
not linearly. An LSTM with a Linear on every step learns the flow from 64 series of rain and of flow
that was measured with errors. It is compared with the true flow of series that it has not seen: by
the root mean squared error in mm a day, and by the Nash-Sutcliffe efficiency (1: perfect, 0: as
good as the mean). So is the best linear filter of 40 days.

    pip install .
    python examples/regression.py

The error of the LSTM is 0.03 to 0.04 mm a day, that of the filter 0.18; the efficiency is 0.99 and
0.83. The program takes a second.
"""

import numpy as np

import fastlstm
from fastlstm.training import Adam, MSELoss, clip_grad_norm, nse

EPOCHS, BATCH, HIDDEN = 60, 8, 16


def bucket(rng: np.random.Generator, series: int, days: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rain and flow in mm a day, each (series, days, 1)."""
    wet = rng.random((series, days)) < 0.3
    rain = np.where(wet, rng.gamma(0.5, 2.0, (series, days)), 0)
    flow, storage = np.empty_like(rain), np.full(series, 5.0)
    for day in range(days):
        storage += rain[:, day]
        flow[:, day] = 0.01 * storage**2 + 0.5 * np.maximum(storage - 6, 0)
        storage -= flow[:, day]
    return rain[..., None].astype("float32"), flow[..., None].astype("float32")


def linear_filter(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, days: int = 40) -> np.ndarray:
    """Return the flow for the rain `x_test`, by the weighted sum of days that fits y best."""

    def lagged(x: np.ndarray) -> np.ndarray:
        padded = np.pad(x[..., 0], ((0, 0), (days - 1, 0)))
        lags = np.lib.stride_tricks.sliding_window_view(padded, days, axis=1)
        return np.concatenate([lags, np.ones_like(lags[..., :1])], axis=2)

    weights = np.linalg.lstsq(lagged(x).reshape(-1, days + 1), y.ravel(), rcond=None)[0]
    return (lagged(x_test) @ weights)[..., None]


def main(seed: int = 0) -> dict[str, float]:
    """Train, print, and return the efficiency of the network and of the filter, and their errors.

    The errors are in mm a day.
    """
    rng = np.random.default_rng(0)
    x, flow = bucket(rng, 64, 200)
    x_test, y_test = bucket(rng, 32, 200)
    y = flow + 0.1 * flow.std() * rng.standard_normal(flow.shape, "float32")

    model = fastlstm.Sequential(
        fastlstm.LSTM(1, HIDDEN, batch_first=True, seed=seed),
        fastlstm.Linear(HIDDEN, 1, seed=seed),
    )
    criterion = MSELoss()
    optimizer = Adam(model, lr=0.01)
    order = np.random.default_rng(seed)
    for epoch in range(1, EPOCHS + 1):
        total = 0.0
        for batch in np.split(order.permutation(len(x)), len(x) // BATCH):
            optimizer.zero_grad()  # pullbacks add to the gradients
            prediction, pullback = model.vjp(x[batch])
            loss, gradient = criterion(prediction, y[batch])  # the loss, and its gradient
            pullback(gradient)  # adds to model.grads
            clip_grad_norm(model, 1.0)
            optimizer.step()
            total += loss * len(batch)
        if epoch % 10 == 0:
            print(f"epoch {epoch}: error {np.sqrt(total / len(x)):.3f} mm a day")

    figures = {}
    print("On unseen rain:")
    for way, told in (("lstm", model(x_test)), ("filter", linear_filter(x, y, x_test))):
        error = float(np.sqrt(np.mean((told - y_test) ** 2)))
        figures |= {way: nse(told, y_test), f"{way} error": error}
        print(f"{way:8} error {error:.3f} mm a day, efficiency {figures[way]:.3f}")
    return figures


if __name__ == "__main__":
    main()
