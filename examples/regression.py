"""Regression, a value for every step: the loop that `fastlstm.fit` spares one, written out by hand.

Rain falls into a bucket. It runs out the faster, the fuller the bucket is, and over its rim when
there is too much: so the flow of a day depends, not linearly, on the rain of many days before. From
64 series of rain, and of flow that was measured with errors, an LSTM with a Linear on every step
learns the flow. It is judged by the Nash-Sutcliffe efficiency against the true flow of series that
it has not seen (1: perfect, 0: as good as the mean), and so is the best linear filter of 40 days.

    pip install .
    python examples/regression.py

Reaches 0.99, the filter 0.83, in a second.
"""

import numpy as np

import fastlstm
from fastlstm.training import Adam, MSELoss, clip_grad_norm, nse

EPOCHS, BATCH, HIDDEN = 60, 8, 16


def bucket(rng, series, days):
    """Return rain and flow in mm a day, each (series, days, 1)."""
    wet = rng.random((series, days)) < 0.3
    rain = np.where(wet, rng.gamma(0.5, 2.0, (series, days)), 0)
    flow, storage = np.empty_like(rain), np.full(series, 5.0)
    for day in range(days):
        storage += rain[:, day]
        flow[:, day] = 0.01 * storage**2 + 0.5 * np.maximum(storage - 6, 0)
        storage -= flow[:, day]
    return rain[..., None].astype("float32"), flow[..., None].astype("float32")


def linear_filter(x, y, x_test, days=40):
    """Return what the best weighted sum of the last days' values makes of `x_test`."""

    def lagged(x):
        padded = np.pad(x[..., 0], ((0, 0), (days - 1, 0)))
        lags = np.lib.stride_tricks.sliding_window_view(padded, days, axis=1)
        return np.concatenate([lags, np.ones_like(lags[..., :1])], axis=2)

    weights = np.linalg.lstsq(lagged(x).reshape(-1, days + 1), y.ravel(), rcond=None)[0]
    return (lagged(x_test) @ weights)[..., None]


def main(seed=0):
    """Train, print, and return the efficiency of network and filter."""
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
            optimizer.zero_grad()  # pullbacks add
            prediction, pullback = model.vjp(x[batch])
            loss, gradient = criterion(prediction, y[batch])  # and its gradient by the prediction
            pullback(gradient)  # into model.grads
            clip_grad_norm(model, 1.0)
            optimizer.step()
            total += loss * len(batch)
        if epoch % 10 == 0:
            print(f"epoch {epoch}: mean squared error {total / len(x):.5f}")

    figures = {
        "lstm": nse(model(x_test), y_test),
        "filter": nse(linear_filter(x, y, x_test), y_test),
    }
    print(f"Efficiency on unseen rain: LSTM {figures['lstm']:.3f}, ", end="")
    print(f"linear filter {figures['filter']:.3f}")
    return figures


if __name__ == "__main__":
    main()
