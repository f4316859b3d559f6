"""Several series in and out, several steps ahead: the Lorenz system from noisy measurements.

The system has three coupled equations (Lorenz 1963), whose future is determined and yet hard to
forecast. x, y and z are measured every 0.02 time units with errors of 2 %. From 20 measurements of
all three, an LSTM forecasts the next 20 of all three at once. It learns from the first four fifths
of the series. Its errors on the last fifth are printed in the units of x, y and z (x goes from -19
to 18, y from -27 to 25, z from 2 to 47), beside those of the best linear regression on the same 20
measurements, and of persistence, which repeats the last one.

    pip install .
    python examples/multi.py

The errors are 4 to 6 % of persistence's; those of the linear regression are 43 to 74 %. The program
takes a second.
"""

import numpy as np

import fastlstm
from fastlstm.training import (
    Adam,
    Batches,
    MSELoss,
    OneCycleLR,
    Standardizer,
    Windows,
    split_by_time,
)

WINDOW, HORIZON = 20, 20  # steps of 0.02
EPOCHS, BATCH, HIDDEN = 15, 64, 32


def lorenz(steps: int) -> np.ndarray:
    """Return x, y, z (steps, 3), by 4 steps of the classic Runge-Kutta method for each of 0.02."""

    def derivative(state: np.ndarray) -> np.ndarray:
        x, y, z = state
        return np.array([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])

    h, state, path = 0.02 / 4, np.array([1.0, 1.0, 20.0]), []
    for _ in range(4 * steps):
        k1 = derivative(state)
        k2 = derivative(state + h / 2 * k1)
        k3 = derivative(state + h / 2 * k2)
        k4 = derivative(state + h * k3)
        state = state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        path.append(state)
    return np.array(path[::4])


def linear_regression(x: np.ndarray, y: np.ndarray, x_test: np.ndarray) -> np.ndarray:
    """Return forecasts for the windows `x_test`, by a regression of y on the windows x."""

    def table(x: np.ndarray) -> np.ndarray:
        return np.column_stack([x.reshape(len(x), -1), np.ones(len(x))])

    return table(x_test) @ np.linalg.lstsq(table(x), y, rcond=None)[0]


def main(seed: int = 0) -> dict[str, np.ndarray]:
    """Train, print, and return the root mean square errors (3,) of each way to forecast."""
    truth = lorenz(5000)
    noise = np.random.default_rng(0).standard_normal(truth.shape)
    series = truth + 0.02 * truth.std(axis=0) * noise
    # The test part begins with the last window of the training part, as inputs, not as targets.
    train, test = split_by_time(series, (0.8, 0.2), overlap=WINDOW)
    standardizer = Standardizer.fit(train)
    train, test = (
        Windows(part, WINDOW, HORIZON, standardizer=standardizer, flat=True)
        for part in (train, test)
    )

    model = fastlstm.Sequential(
        fastlstm.LSTM(3, HIDDEN, batch_first=True, seed=seed),
        fastlstm.Last(batch_first=True),
        fastlstm.Linear(HIDDEN, HORIZON * 3, seed=seed),
    )
    optimizer = Adam(model)
    steps = EPOCHS * len(Batches(train, BATCH))
    fastlstm.fit(
        model, train, MSELoss(), optimizer, EPOCHS, BATCH, seed=seed, clip_norm=1.0,
        schedule=OneCycleLR(optimizer, max_lr=0.01, total_steps=steps), verbose=True,
    )  # fmt: skip

    x, y = test[:][:2]
    ways = {
        "lstm": fastlstm.predict(model, test),
        "linear": linear_regression(*train[:][:2], x),
        "persistence": np.tile(x[:, -1], HORIZON),
    }

    def in_units(flat: np.ndarray) -> np.ndarray:
        """Return forecasts (N, HORIZON * 3) as (N, HORIZON, 3), in the units of the series."""
        return standardizer.inverse(flat.reshape(-1, HORIZON, 3))

    errors = {way: in_units(told) - in_units(y) for way, told in ways.items()}
    figures = {way: np.sqrt((error**2).mean(axis=(0, 1))) for way, error in errors.items()}
    print(f"Root mean square errors over {HORIZON} steps, in the units of x, y and z:")
    print(f"{'':20} {'x':>7} {'y':>7} {'z':>7}")
    for way, values in figures.items():
        print(f"{way:20} " + " ".join(f"{value:7.3f}" for value in values))
    return figures


if __name__ == "__main__":
    main()
