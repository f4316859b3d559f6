"""How much the last output depends on each of the 100 steps before it: a plain RNN, and LSTMs."""

import numpy as np
from _style import plots
from matplotlib.figure import Figure

import fastlstm

STEPS, UNITS, SEEDS = 100, 16, 5


def draw() -> Figure:
    figure, axes = plots(size=(8, 3.9))
    x = np.random.default_rng(0).standard_normal((STEPS, 1, 4))
    back = np.arange(STEPS)[::-1]  # how many steps lie between an input and the last output
    cases = [  # and where the name stands, as a factor, where two curves are close
        ("plain RNN", "tab:gray", None, 1),
        ("plain RNN, orthogonal weights", "black", "orthogonal", 1 / 60),
        ("LSTM, $f$ near 0.5 (bias 0)", "tab:red", 0.0, 1),
        ("LSTM, $f$ near 0.73 (bias 1)", "tab:orange", 1.0, 3),
        ("LSTM, $f$ near 0.95 (bias 3)", "tab:green", 3.0, 1 / 4),
        ("LSTM, $f$ near 0.99 (bias 5)", "tab:blue", 5.0, 4),
    ]
    for name, color, bias, raised in cases:
        reach = np.mean([np.log(gradient(network(bias, seed), x)) for seed in range(SEEDS)], axis=0)
        axes.semilogy(back, np.exp(reach), color=color, label=name)
        axes.text(101, np.exp(reach[0]) * raised, name, color=color, va="center", fontsize=9)
    axes.set(
        xlabel="steps back from the last output",
        ylabel="size of the gradient",
        xlim=(0, 100),
        ylim=(1e-32, 1),
    )
    return figure


def network(forget: float | str | None, seed: int) -> fastlstm.LSTM:
    """Return an untrained LSTM with this bias of its forget gates, or a plain RNN."""
    if isinstance(forget, float):
        lstm = fastlstm.LSTM(4, UNITS, dtype="float64", seed=seed)
        lstm.bias_ih_l0 = lstm.bias_ih_l0 + forget * np.repeat([0, 1, 0, 0], UNITS)
        return lstm
    # Gates that are fixed, at i = 1, f = 0 and o = 1, leave h = tanh(W x + U h + b).
    rnn = fastlstm.LSTM(4, UNITS, output_activation="identity", dtype="float64", seed=seed)
    candidate = np.repeat([0.0, 0.0, 1.0, 0.0], UNITS)
    rnn.weight_ih_l0 = rnn.weight_ih_l0 * candidate[:, None]
    rnn.weight_hh_l0 = rnn.weight_hh_l0 * candidate[:, None]
    rnn.bias_ih_l0 = rnn.bias_ih_l0 * candidate + np.repeat([1000.0, -1000.0, 0.0, 1000.0], UNITS)
    if forget == "orthogonal":
        weights, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(UNITS, UNITS)))
        rnn.weight_hh_l0 = np.kron([[0], [0], [1], [0]], weights)
    return rnn


def gradient(lstm: fastlstm.LSTM, x: np.ndarray) -> np.ndarray:
    """Return, for each step, the length of the gradient of the mean of the last output."""
    (output, _), pullback = lstm.vjp(x)
    d_output = np.zeros_like(output)
    d_output[-1] = 1 / UNITS
    dx, _ = pullback(d_output)
    return np.linalg.norm(dx[:, 0], axis=1)
