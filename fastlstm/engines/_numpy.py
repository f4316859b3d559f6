"""The equations, written for reading and not for speed: the truth of every test.

The contract, the legend and the numbered equations are in `contract.py`; `_layers.py` runs whole
stacks by the functions for one cell. The plain cell comes first, `run` and `back`; the cell with
options follows, `run_general` and `back_general`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ._layers import Layers
from ._layers import is_finite as is_finite
from ._layers import update as update
from .contract import EPSILON, Activation, Array, Cell, Link, Noise


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
    reverse: bool, dcells: Array | None = None,
) -> None:  # fmt: skip
    gates, cells = saved
    ends = np.cumsum(batch_sizes)
    h_0, c_0s = (states_before(batch_sizes, *s, reverse) for s in ((h, y), (c, cells)))
    dz = np.empty_like(gates)
    for t in range(len(ends)) if reverse else reversed(range(len(ends))):
        live = batch_sizes[t]
        rows = slice(ends[t] - live, ends[t])
        i, f, g, o = np.split(gates[rows], 4, axis=1)
        tanh_c, c_0, dh_t = np.tanh(cells[rows]), c_0s[rows], dh[:live] + dy[rows]
        if dcells is not None:
            dc[:live] += dcells[rows]
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


def states_before(batch_sizes: Array, initial: Array, states: Array, reverse: bool) -> Array:
    """Return, for every packed row, the state before its step: (N, ...) from those after it."""
    ends, result = np.cumsum(batch_sizes), np.empty(states.shape, states.dtype)
    for t in range(len(ends)):
        result[ends[t] - batch_sizes[t] : ends[t]] = initial[: batch_sizes[t]]
        before = t + 1 if reverse else t - 1
        if 0 <= before < len(ends):  # with `reverse`, for the sequences that had begun by then
            both = min(batch_sizes[t], batch_sizes[before])
            first, then = ends[t] - batch_sizes[t], ends[before] - batch_sizes[before]
            result[first : first + both] = states[then : then + both]
    return result


def sigmoid(z: Array) -> Array:
    """1 / (1 + exp(-z)), within a few roundings; 0 where exp(-z) is infinite, as torch has it."""
    with np.errstate(over="ignore"):
        result: Array = 1 / (1 + np.exp(-z))
    return result


# ---- the cell with options -----------------------------------------------------------------


class Values(NamedTuple):
    """What one step computes on its way, of some rows: the names are those of the equations."""

    s: list[Array]  # for each gate the sums, with the peephole's term
    z: list[Array]  # for each gate, not yet clipped
    gates: list[Array]  # i, f, g, o
    raw_c: Array  # f * c_0 + i * g
    c: Array  # c' of (16)
    q: Array  # what the output's activation takes
    a: Array  # what it gives
    m: Array  # h' of (17)


def values_of(cell: Cell, sums: Array, c_0: Array) -> Values:
    """Compute (12) to (17) of some rows, from their sums of products and c_0.

    `sums` are the values of (12) of shape (rows, 4H); with layer_norm "haste" the two products side
    by side, (rows, 8H).
    """
    options, w = cell.options, cell.arrays()
    if options.layer_norm == "haste":
        own = present(cell)
        u, v = np.split(sums, 2, axis=1)
        sums = np.broadcast_to(cell.b, u.shape).copy()
        sums[:, own] += w["ln_ih"][own] * norm(u[:, own], "haste")  # (12)
        sums[:, own] += w["ln_hh"][own] * norm(v[:, own], "haste")

    def z_of(gate: int) -> Array:
        if options.layer_norm != "tflite":
            return s[gate]
        b, ln = (np.split(w[name], 4)[gate] for name in ("b", "ln"))
        normed: Array = b + ln * norm(s[gate], "tflite")  # (14)
        return normed

    def clipped(z: Array) -> Array:
        return clip(z, options.gate_clip)

    s = np.split(sums, 4, axis=1)
    if "w_ci" in w:
        s[0], s[1] = s[0] + w["w_ci"] * c_0, s[1] + w["w_cf"] * c_0  # (13)
    z = [z_of(gate) for gate in range(3)]
    i, f = (activate(options.gate, clipped(z[gate])) for gate in (0, 1))  # (15)
    g = activate(options.cell, clipped(z[2]))
    if options.coupled == "f=1-i":
        f = 1 - i
    if options.coupled == "i=1-f":
        i = 1 - f
    raw_c = f * c_0 + i * g
    c = clip(raw_c, options.cell_clip)  # (16)
    if "w_co" in w:
        s[3] = s[3] + w["w_co"] * c
    z.append(z_of(3))
    o = activate(options.gate, clipped(z[3]))
    q = w["b_c"] + w["ln_c"] * norm(c, "haste") if options.layer_norm == "haste" else c
    a = activate(options.output, q)
    return Values(s, z, [i, f, g, o], raw_c, c, q, a, o * a)  # (17)


def run_general(
    cell: Cell, x: Array, batch_sizes: Array, h: Array, c: Array, y: Array, reverse: bool,
    saved: tuple[Array, Array] | None, noise: Noise,
) -> None:  # fmt: skip
    options, ends = cell.options, np.cumsum(batch_sizes)
    s_x = x @ cell.w_ih  # (12), the input's share
    for t in reversed(range(len(ends))) if reverse else range(len(ends)):
        live = batch_sizes[t]
        rows = slice(ends[t] - live, ends[t])
        h_0, c_0 = h[:live].copy(), c[:live].copy()
        s_h = (h_0 if noise.h is None else h_0 * noise.h[:live]) @ cell.w_hh  # (11), (12)
        if options.layer_norm == "haste":
            sums = np.concatenate([s_x[rows], s_h], axis=1)
        else:
            sums = s_x[rows] + s_h + (0 if options.layer_norm else cell.b)
        values = values_of(cell, sums, c_0)
        h_t = values.m
        if cell.w_hr is not None:
            h_t = clip(h_t @ cell.w_hr, options.proj_clip)  # (18)
        zone_h = options.zoneout_h if noise.zone_h is None else noise.zone_h[rows]
        zone_c = options.zoneout_c if noise.zone_c is None else noise.zone_c[rows]
        c[:live] = keep_some(zone_c, values.c, c_0)  # (19)
        h[:live] = y[rows] = keep_some(zone_h, h_t, h_0)
        if saved is not None:
            saved[0][rows], saved[1][rows] = sums, c[:live]


def keep_some(zone: float | Array, new: Array, old: Array) -> Array:
    """(19); without zoneout it is `new`, infinite values included."""
    return new if isinstance(zone, float) and zone == 0 else (1 - zone) * new + zone * old


def kept(zone: float | Array, d: Array) -> Array:
    """The part of a gradient that (19) leads past a step; without zoneout 0, not inf * 0."""
    return np.zeros_like(d) if isinstance(zone, float) and zone == 0 else zone * d


def back_general(
    cell: Cell, x: Array, batch_sizes: Array, h: Array, c: Array, y: Array,
    saved: tuple[Array, Array], dy: Array, dh: Array, dc: Array, dx: Array | None, dw: Cell,
    reverse: bool, dcells: Array | None, noise: Noise,
) -> None:  # fmt: skip
    options, ends, (all_sums, cells) = cell.options, np.cumsum(batch_sizes), saved
    h_0, c_0s = (states_before(batch_sizes, *s, reverse) for s in ((h, y), (c, cells)))
    ms = h_0.copy()  # (11)
    ds_x, ds_h = (np.empty((len(x), 4 * c.shape[1]), x.dtype) for _ in range(2))
    for t in range(len(ends)) if reverse else reversed(range(len(ends))):
        live = batch_sizes[t]
        rows = slice(ends[t] - live, ends[t])
        c_0, dh_t, dc_t = c_0s[rows], dh[:live] + dy[rows], dc[:live]
        if dcells is not None:
            dc_t = dc_t + dcells[rows]
        zone_h = options.zoneout_h if noise.zone_h is None else noise.zone_h[rows]
        zone_c = options.zoneout_c if noise.zone_c is None else noise.zone_c[rows]
        values = values_of(cell, all_sums[rows], c_0)
        dm = (1 - zone_h) * dh_t  # (19)
        if cell.w_hr is not None and dw.w_hr is not None:
            dm = np.where(inside(values.m @ cell.w_hr, options.proj_clip), dm, 0)  # (18)
            dw.w_hr[...] += dm.T @ values.m
            dm = dm @ cell.w_hr.T
        ds_x[rows], ds_h[rows], dc_0 = cell_back(
            cell, values, all_sums[rows], c_0, dm, (1 - zone_c) * dc_t, dw
        )
        dm_0 = ds_h[rows] @ cell.w_hh.T  # (12)
        if noise.h is not None:
            ms[rows] *= noise.h[:live]
            dm_0 *= noise.h[:live]  # (11)
        dh[:live], dc[:live] = dm_0 + kept(zone_h, dh_t), dc_0 + kept(zone_c, dc_t)
    if dx is not None:
        dx += ds_x @ cell.w_ih.T
    dw.w_ih[...] += ds_x.T @ x
    dw.w_hh[...] += ds_h.T @ ms


def cell_back(
    cell: Cell, values: Values, sums: Array, c_0: Array, dm: Array, dc: Array, dw: Cell
) -> tuple[Array, Array, Array]:
    """Go back through (12) to (17) of some rows, from the gradients of h' of (17) and of c'.

    Returns the gradients of W_ih x, of W_hh m and of c_0; adds those of all arrays but the
    matrices.
    """
    options, w, dws, (i, f, g, o) = cell.options, cell.arrays(), dw.arrays(), values.gates
    ds: list[Array] = [np.zeros_like(dc)] * 4

    def back_to_sums(gate: int, d: Array) -> None:
        """From the gradient of a gate to that of its sums: (15), (14)."""
        function = options.cell if gate == 2 else options.gate
        z, own = values.z[gate], slice(gate * dc.shape[1], (gate + 1) * dc.shape[1])
        dz = times_slope(d, function, clip(z, options.gate_clip))
        dz = np.where(inside(z, options.gate_clip), dz, 0)
        dw.b[own] += dz.sum(axis=0)
        if options.layer_norm == "tflite":
            dws["ln"][own] += (dz * norm(values.s[gate], "tflite")).sum(axis=0)
            dz = norm_back(values.s[gate], dz * w["ln"][own], "tflite")
        ds[gate] = dz

    dq = times_slope(dm * o, options.output, values.q)  # (17)
    if options.layer_norm == "haste":
        dws["ln_c"] += (dq * norm(values.c, "haste")).sum(axis=0)
        dws["b_c"] += dq.sum(axis=0)
        dq = norm_back(values.c, dq * w["ln_c"], "haste")
    dc = dc + dq
    back_to_sums(3, dm * values.a)
    if "w_co" in w:
        dws["w_co"] += (ds[3] * values.c).sum(axis=0)  # (13)
        dc = dc + ds[3] * w["w_co"]
    dc = np.where(inside(values.raw_c, options.cell_clip), dc, 0)  # (16)
    di, df, dg = dc * g, dc * c_0, dc * i
    if options.coupled != "i=1-f":
        back_to_sums(0, di - df if options.coupled else di)
    if options.coupled != "f=1-i":
        back_to_sums(1, df - di if options.coupled else df)
    back_to_sums(2, dg)
    dc_0 = dc * f
    if "w_ci" in w:
        dws["w_ci"] += (ds[0] * c_0).sum(axis=0)
        dws["w_cf"] += (ds[1] * c_0).sum(axis=0)
        dc_0 = dc_0 + ds[0] * w["w_ci"] + ds[1] * w["w_cf"]
    ds_x = ds_h = np.concatenate(ds, axis=1)
    if options.layer_norm == "haste":
        own = present(cell)
        u, v = (part[:, own] for part in np.split(sums, 2, axis=1))
        d, ds_x, ds_h = ds_x[:, own], np.zeros_like(ds_x), np.zeros_like(ds_x)
        dws["ln_ih"][own] += (d * norm(u, "haste")).sum(axis=0)
        dws["ln_hh"][own] += (d * norm(v, "haste")).sum(axis=0)
        ds_x[:, own] = norm_back(u, d * w["ln_ih"][own], "haste")
        ds_h[:, own] = norm_back(v, d * w["ln_hh"][own], "haste")
    return ds_x, ds_h, dc_0


def present(cell: Cell) -> Array:
    """The rows of (4H, ...) arrays whose gate `coupled` does not take away."""
    gone = {"f=1-i": 1, "i=1-f": 0}.get(cell.options.coupled)
    return np.flatnonzero(np.arange(len(cell.b)) // (len(cell.b) // 4) != gone)


def norm(v: Array, kind: str) -> Array:
    """(v - mean) / sqrt(variance + epsilon) of every row."""
    v = v - v.mean(axis=1, keepdims=True)
    n: Array = v / np.sqrt(np.mean(v * v, axis=1, keepdims=True) + v.dtype.type(EPSILON[kind]))
    return n


def norm_back(v: Array, d: Array, kind: str) -> Array:
    """The gradient of v from `d`, that of norm(v)."""
    v = v - v.mean(axis=1, keepdims=True)
    size = np.sqrt(np.mean(v * v, axis=1, keepdims=True) + v.dtype.type(EPSILON[kind]))
    n = v / size
    own: Array = d - d.mean(axis=1, keepdims=True) - n * np.mean(d * n, axis=1, keepdims=True)
    own /= size
    return own


def clip(v: Array, bound: float) -> Array:
    clipped: Array = np.clip(v, -bound, bound)
    return clipped


def inside(v: Array, bound: float) -> Array:
    """Where the derivative of a clip is 1. Elsewhere nothing comes through, not even nan."""
    return ~(np.abs(v) > bound)


def activate(function: Activation, x: Array) -> Array:
    """The function's values, as the table of `Activation` says."""
    name, alpha, beta = function
    values: dict[str, Callable[[], Array]] = {
        "sigmoid": lambda: sigmoid(x),
        "tanh": lambda: np.tanh(x),
        "relu": lambda: np.maximum(x, 0),
        "affine": lambda: alpha * x + beta,
        "leaky_relu": lambda: np.where(x < 0, alpha * x, x),
        "thresholded_relu": lambda: np.where(x <= alpha, x.dtype.type(0), x),
        "scaled_tanh": lambda: alpha * np.tanh(beta * x),
        "hard_sigmoid": lambda: np.clip(alpha * x + beta, 0, 1),
        "elu": lambda: np.where(x < 0, alpha * np.expm1(x), x),
        "softsign": lambda: x / (1 + np.abs(x)),
        "softplus": lambda: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
    }
    return values[name]()


def times_slope(d: Array, function: Activation, x: Array) -> Array:
    """Return d times the derivative; where a relu is flat nothing comes through, not nan."""
    flat = {"relu": 0.0, "thresholded_relu": function.alpha}.get(function.name, np.nan)
    product: Array = np.where(x <= flat, 0, d * slope(function, x))
    return product


def slope(function: Activation, x: Array) -> Array:
    """The derivative of `activate`; at a kink that of the left side, and of hard_sigmoid 0."""
    name, alpha, beta = function
    one, zero = np.ones_like(x), np.zeros_like(x)
    line = alpha * x + beta
    slopes: dict[str, Callable[[], Array]] = {
        "sigmoid": lambda: sigmoid(x) * sigmoid(-x),
        "tanh": lambda: 1 - np.tanh(x) ** 2,
        "relu": lambda: np.where(x <= 0, zero, one),
        "affine": lambda: alpha * one,
        "leaky_relu": lambda: np.where(x <= 0, alpha * one, one),
        "thresholded_relu": lambda: np.where(x <= alpha, zero, one),
        "scaled_tanh": lambda: alpha * beta * (1 - np.tanh(beta * x) ** 2),
        "hard_sigmoid": lambda: np.where((line <= 0) | (line >= 1), zero, alpha * one),
        "elu": lambda: np.where(x <= 0, alpha * np.exp(x), one),
        "softsign": lambda: 1 / (1 + np.abs(x)) ** 2,
        "softplus": lambda: sigmoid(x),
    }
    return slopes[name]()


def gates_of(cell: Cell, batch_sizes: Array, c: Array, saved: tuple[Array, Array], reverse: bool,
             noise: Noise) -> Array:  # fmt: skip
    """Return i, f, g, o (N, 4H) of a recorded run of one cell that began with `c`."""
    gates: Array
    if is_plain(cell, noise):
        gates = saved[0].copy()
    else:
        c_0 = states_before(batch_sizes, c, saved[1], reverse)
        gates = np.concatenate(values_of(cell, saved[0], c_0).gates, axis=1)
    return gates


def is_plain(cell: Cell, noise: Noise) -> bool:
    return cell.is_plain and all(part is None for part in noise)


# ---- what the contract asks for ------------------------------------------------------------


def run_cell(
    cell: Cell, x: Array, batch_sizes: Array, h: Array, c: Array, y: Array, reverse: bool,
    saved: tuple[Array, Array] | None, noise: Noise,
) -> None:  # fmt: skip
    if is_plain(cell, noise):
        run(cell, x, batch_sizes, h, c, y, reverse, saved)
    else:
        run_general(cell, x, batch_sizes, h, c, y, reverse, saved, noise)


def back_cell(
    cell: Cell, x: Array, batch_sizes: Array, h: Array, c: Array, y: Array,
    saved: tuple[Array, Array], dy: Array, dh: Array, dc: Array, dx: Array | None, dw: Cell,
    reverse: bool, dcells: Array | None, noise: Noise,
) -> None:  # fmt: skip
    run = x, batch_sizes, h, c, y, saved, dy, dh, dc, dx, dw, reverse, dcells
    if is_plain(cell, noise):
        back(cell, *run)
    else:
        back_general(cell, *run, noise)


class Stack(Layers):
    """The contract's `Stack`; its cells are transposed: weights are factors on the right."""

    pack, gates_of = staticmethod(pack), staticmethod(gates_of)
    run_cell, back_cell = staticmethod(run_cell), staticmethod(back_cell)


class Product:
    """The contract's `Product`."""

    stale = False

    def __init__(self, w: Array, b: Array | None) -> None:
        self._w, self._b = w.T.copy(), None if b is None else b.copy()

    def run(self, x: Array, y: Array, threads: int) -> None:
        with np.errstate(all="ignore"):  # as `Layers` does around `run`
            np.matmul(x, self._w, out=y)
            if self._b is not None:
                y += self._b

    def call(self, x: Any, threads: int) -> Array | None:
        """Refuse: this engine gains nothing by checks of its own."""
        return None

    def slide(
        self,
        x: Any,
        before: int,
        after: int,
        stride: int,
        dilation: int,
        rectified: bool,
        threads: int,
    ) -> Array | None:
        """Refuse, as `call`."""
        return None


def line(links: Sequence[Link], batch: int) -> None:
    """Return None: this engine gains nothing by several layers in one call."""


def prepare(dtype: np.dtype[Any]) -> None:
    pass


def describe() -> dict[str, object]:
    return {"version": np.__version__, "instruction_set": "NumPy's own"}
