"""The error of finite differences of a loss by one weight, over the size of the change."""

import numpy as np
from _style import plots
from matplotlib.figure import Figure

import fastlstm

T, B, I, H = 12, 5, 3, 4


def draw() -> Figure:
    figure, axes = plots(size=(7.5, 3.6))
    sizes = 10.0 ** np.arange(-12, 0.01, 0.25)
    exact = gradient("float64")
    for dtype, color in (("float64", "tab:blue"), ("float32", "tab:orange")):
        errors = [abs(difference(dtype, size) / exact - 1) for size in sizes]
        axes.loglog(sizes, errors, color=color, marker=".", label=dtype)
    axes.set(
        xlabel="change of the weight",
        ylabel="relative error of the\nfinite difference",
        ylim=(1e-12, 1e2),
    )
    axes.legend(frameon=False, loc="upper right")
    return figure


def example(dtype: str):
    """Return the LSTM, input, states and target of page 2."""
    rng = np.random.default_rng(0)
    lstm = fastlstm.LSTM(I, H, dtype="float64", seed=0).astype(dtype)
    x = rng.standard_normal((T, B, I)).astype(dtype)
    states = rng.standard_normal((2, 1, B, H)).astype(dtype)
    target = rng.standard_normal((T, B, H)).astype(dtype)
    return lstm, x, tuple(states), target


def gradient(dtype: str) -> float:
    lstm, x, states, target = example(dtype)
    (output, _), pullback = lstm.vjp(x, states)
    pullback(2 * (output - target) / output.size)
    return lstm.grads["weight_ih_l0"][5, 1]


def difference(dtype: str, size: float) -> float:
    lstm, x, states, target = example(dtype)
    weight, losses = lstm.weight_ih_l0.copy(), []
    for sign in (1, -1):
        moved = weight.copy()
        moved[5, 1] += sign * size
        lstm.weight_ih_l0 = moved
        losses.append(np.mean((lstm(x, states)[0] - target) ** 2))
    return float(losses[0] - losses[1]) / (2 * size)
