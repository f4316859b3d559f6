"""The equations, for reading: the truth of every test. Slow only in that it is NumPy.

The contract, the legend and the numbered equations are in `fastlstm.engines`.
"""

import numpy as np


def prepare(dtype):
    pass


def pack(w_ih, w_hh, b, w_hr):
    return w_ih.T.copy(), w_hh.T.copy(), b.copy(), None if w_hr is None else w_hr.T.copy()


def run(weights, x, batch_sizes, h, c, y, reverse):
    w_ih, w_hh, b, w_hr = weights
    ends = np.cumsum(batch_sizes)
    z_x = x @ w_ih + b  # (1), the input's share, for all steps at once
    for t in reversed(range(len(ends))) if reverse else range(len(ends)):
        live = batch_sizes[t]
        rows = slice(ends[t] - live, ends[t])
        z = z_x[rows] + h[:live] @ w_hh  # (1)
        i, f, g, o = np.split(z, 4, axis=1)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)  # (2)
        c[:live] = f * c[:live] + i * g  # (3)
        h_t = o * np.tanh(c[:live])  # (4)
        if w_hr is not None:
            h_t = h_t @ w_hr  # (5)
        h[:live] = y[rows] = h_t


def sigmoid(z):
    """1 / (1 + exp(-z)), written so that it cannot overflow."""
    return 0.5 + 0.5 * np.tanh(0.5 * z)


def describe():
    return {"version": np.__version__, "instruction_set": "NumPy's own"}
