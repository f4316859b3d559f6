"""The equations, written for reading and not for speed: the truth of every test.

The contract, the legend and the numbered equations are in `contract.py`; `_layers.py` runs whole
stacks by the two functions for one cell, `run` and `back`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ._layers import Layers
from .contract import Array, Cell


def pack(cell: Cell) -> Cell:
    return cell.map(lambda array: array.T.copy())


def run(
    cell: Cell, x: Array, batch_sizes: Array, h: Array, c: Array, y: Array, reverse: bool,
    saved: tuple[Array, Array] | None = None,
) -> None:  # fmt: skip
    ends = np.cumsum(batch_sizes)
    z_x = x @ cell.w_ih + cell.b  # (1), the input's share, for all steps at once
    for t in reversed(range(len(ends))) if reverse else range(len(ends)):
        live = batch_sizes[t]
        rows = slice(ends[t] - live, ends[t])
        z = z_x[rows] + h[:live] @ cell.w_hh  # (1)
        i, f, g, o = np.split(z, 4, axis=1)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)  # (2)
        c[:live] = f * c[:live] + i * g  # (3)
        h_t = o * np.tanh(c[:live])  # (4)
        if cell.w_hr is not None:
            h_t = h_t @ cell.w_hr  # (5)
        h[:live] = y[rows] = h_t
        if saved is not None:
            gates, cells = saved
            gates[rows] = np.concatenate([i, f, g, o], axis=1)
            cells[rows] = c[:live]


def back(
    cell: Cell, x: Array, batch_sizes: Array, h: Array, c: Array, y: Array,
    saved: tuple[Array, Array], dy: Array, dh: Array, dc: Array, dx: Array | None, dw: Cell,
    reverse: bool,
) -> None:  # fmt: skip
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
        if 0 <= before < len(ends):  # with `reverse`, for the sequences that had begun by then
            both = min(live, batch_sizes[before])
            then = slice(ends[before] - batch_sizes[before], ends[before])
            h_0[rows][:both], c_0[:both] = y[then][:both], cells[then][:both]
        dm = dh_t
        if cell.w_hr is not None and dw.w_hr is not None:
            dm = dh_t @ cell.w_hr.T  # (6)
            dw.w_hr[...] += dh_t.T @ (o * tanh_c)
        dc_t = dc[:live] + dm * o * (1 - tanh_c**2)  # (7)
        dz_i, dz_f = dc_t * g * i * (1 - i), dc_t * c_0 * f * (1 - f)  # (8)
        dz_g, dz_o = dc_t * i * (1 - g**2), dm * tanh_c * o * (1 - o)
        dz[rows] = np.concatenate([dz_i, dz_f, dz_g, dz_o], axis=1)
        dc[:live], dh[:live] = dc_t * f, dz[rows] @ cell.w_hh.T  # (9)
    if dx is not None:
        dx += dz @ cell.w_ih.T  # (10)
    dw.w_ih[...] += dz.T @ x
    dw.w_hh[...] += dz.T @ h_0
    dw.b[...] += dz.sum(axis=0)


def sigmoid(z: Array) -> Array:
    """1 / (1 + exp(-z)), within a few roundings; 0 where exp(-z) is infinite, as torch has it."""
    with np.errstate(over="ignore"):
        result: Array = 1 / (1 + np.exp(-z))
    return result


class Stack(Layers):
    """The contract's `Stack`; its cells are transposed: weights are factors on the right."""

    pack, run_cell, back_cell = staticmethod(pack), staticmethod(run), staticmethod(back)


class Product:
    """The contract's `Product`."""

    def __init__(self, w: Array, b: Array | None) -> None:
        self._w, self._b = w.T.copy(), None if b is None else b.copy()

    def run(self, x: Array, y: Array, threads: int) -> None:
        with np.errstate(all="ignore"):  # as `Layers` does around `run`
            np.matmul(x, self._w, out=y)
            if self._b is not None:
                y += self._b


def prepare(dtype: np.dtype[Any]) -> None:
    pass


def describe() -> dict[str, object]:
    return {"version": np.__version__, "instruction_set": "NumPy's own"}
