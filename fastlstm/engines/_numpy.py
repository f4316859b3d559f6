"""The equations, for reading: the truth of every test. Slow only in that it is NumPy.

The contract, the legend and the numbered equations are in `fastlstm.engines`.
"""

import numpy as np


def prepare(dtype):
    pass


def pack(w_ih, w_hh, b, w_hr):
    return w_ih.T.copy(), w_hh.T.copy(), b.copy(), None if w_hr is None else w_hr.T.copy()


def run(weights, x, batch_sizes, h, c, y, reverse, saved=None):
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
        if saved is not None:
            gates, cells = saved
            gates[rows] = np.concatenate([i, f, g, o], axis=1)
            cells[rows] = c[:live]


def back(weights, x, batch_sizes, h, c, y, saved, dy, dh, dc, dx, dw, reverse):
    w_ih, w_hh, _, w_hr = weights
    dw_ih, dw_hh, db, dw_hr = dw
    gates, cells = saved
    ends = np.cumsum(batch_sizes)
    dz, h_0 = np.empty_like(gates), np.empty(y.shape, y.dtype)
    for t in range(len(ends)) if reverse else reversed(range(len(ends))):
        live = batch_sizes[t]
        rows = slice(ends[t] - live, ends[t])
        i, f, g, o = np.split(gates[rows], 4, axis=1)
        tanh_c, dh_t = np.tanh(cells[rows]), dh[:live] + dy[rows]
        h_0[rows], c_0 = h[:live], c[:live].copy()
        before = t + 1 if reverse else t - 1
        if 0 <= before < len(ends):  # with `reverse`, for those who lived by then
            both = min(live, batch_sizes[before])
            then = slice(ends[before] - batch_sizes[before], ends[before])
            h_0[rows][:both], c_0[:both] = y[then][:both], cells[then][:both]
        dm = dh_t
        if w_hr is not None:
            dm = dh_t @ w_hr.T  # (6)
            dw_hr += dh_t.T @ (o * tanh_c)
        dc_t = dc[:live] + dm * o * (1 - tanh_c**2)  # (7)
        dz_i, dz_f = dc_t * g * i * (1 - i), dc_t * c_0 * f * (1 - f)  # (8)
        dz_g, dz_o = dc_t * i * (1 - g**2), dm * tanh_c * o * (1 - o)
        dz[rows] = np.concatenate([dz_i, dz_f, dz_g, dz_o], axis=1)
        dc[:live], dh[:live] = dc_t * f, dz[rows] @ w_hh.T  # (9)
    if dx is not None:
        dx += dz @ w_ih.T  # (10)
    dw_ih += dz.T @ x
    dw_hh += dz.T @ h_0
    db += dz.sum(axis=0)


def pack_linear(w, b):
    return w.T.copy(), None if b is None else b.copy()


def run_linear(weights, x, y, threads):
    w, b = weights
    with np.errstate(all="ignore"):  # as `_stack` does around `run`
        np.matmul(x, w, out=y)
        if b is not None:
            y += b


def sigmoid(z):
    """1 / (1 + exp(-z)), within a few roundings; 0 where exp(-z) is infinite, as torch has it."""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-z))


def describe():
    return {"version": np.__version__, "instruction_set": "NumPy's own"}
