"""The engine numba: packed weights, work spaces, and calls of the loops in `_numba_kernels`.

The contract, the legend and the numbered equations are in `contract.py`; `_layers.py` runs whole
stacks by the two functions for one cell, `run` and `back`.
"""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import binding
from numba import types
from numba.core import config

from ._layers import Layers
from ._layers import is_finite as is_finite
from ._layers import update as update
from ._numba_kernels import (
    BYTES,
    FMA,
    GATES,
    NORM_GATES,
    NORM_SUMS,
    ROWS,
    ROWS_TOGETHER,
    STEP_VALUES,
    SUMS_BYTES,
    WIDTH,
    BackPlaces,
    BackPlan,
    GeneralPlaces,
    GeneralPlan,
    Numbers,
    RunPlan,
    address_of,
    back_general,
    back_layer,
    gates_general,
    multiply_rows,
    run_general,
    run_layer,
)
from .contract import ACTIVATIONS, EPSILON, Array, Cell, Link, Noise
from .machine import Caches, caches

# A work space, and its address.
_Work = tuple[Array, int]

# In the cell with options, W_ih x is computed for as many rows as make so many bytes, which stay in
# the second-level cache.
_HOIST_BYTES = 1 << 18
# On the way back, the rows of some steps wait in the cache for the weights' gradients.
_CHUNK_ROWS = 128
_KEEP_BYTES = 1 << 23  # A larger work space is given back: beside its call it costs nothing.


_CACHES = caches()
# W_ih x is worth computing for so many steps at once, or, if weights are beyond the second-level
# cache, rows.
_HOISTED_STEPS, _HOISTED_ROWS = 4, 64


class Blocking(NamedTuple):
    """How the products of a run are cut, by the rules of native/blocking.c."""

    hoist: int  # for how many steps at once W_ih x is computed; 0: in each step, with W_hh h
    x: int  # how many k a block has: of W_ih x where it is hoisted
    k: int  # of what each step multiplies
    fetch: bool  # whether the next block is fetched while this one is multiplied


def blocking_of(
    caches: Caches, I: int, P: int, panels: int, k_bytes: int, rows: int, steps: int, tile: int
) -> Blocking:
    """Cut a run of so many steps, each of so many rows in tiles of at most `tile`.

    `k_bytes` are those of one k of a panel. No value that is computed depends on the answer.
    """
    hoist = _hoist_of(caches, I, P, panels, k_bytes, rows, steps, tile)
    return Blocking(
        hoist,
        _block_of(I, k_bytes, -(-hoist * rows // tile), caches.l1),
        _block_of(P if hoist else I + P, k_bytes, -(-rows // tile), caches.l1),
        rows > 1 and panels * (I + P) * k_bytes > caches.l2,
    )


def _hoist_of(
    caches: Caches, I: int, P: int, panels: int, k_bytes: int, rows: int, steps: int, tile: int
) -> int:
    """Return for how many steps at once W_ih x is computed.

    Each step then reads W_hh alone, and W_ih is read once for all of them. Against that stands z,
    which is written and read again.
    """
    panel = (I + P) * k_bytes
    alone = rows <= tile  # in a step, nothing uses weights twice, and the tile may not be whole
    if alone and 2 * panels * panel <= caches.l1:
        return 0
    if not alone and (4 * panel <= 3 * caches.l1 or 2 * rows > I):
        return 0
    at_once = caches.l2 // 4 // (rows * panels * k_bytes)  # z stays in the second-level cache
    if panels * panel > caches.l2:
        at_once = max(at_once, -(-_HOISTED_ROWS // rows), _HOISTED_STEPS)
    at_once = min(at_once, steps)
    return at_once if at_once >= (2 if alone else _HOISTED_STEPS) else 0


def _block_of(k: int, k_bytes: int, tiles: int, l1: int) -> int:
    """Return how many k each block of a panel has; blocks are as equal as they can be.

    There is one if the whole panel stays in the first-level cache beside the rows, or if few tiles
    use it again.
    """
    if tiles < 3 or 4 * k * k_bytes <= 3 * l1:
        return k
    blocks = -(-k // max(1, l1 * 5 // 8 // k_bytes))
    return -(-k // blocks)


class _Weights:
    """A plain cell's panels, and work spaces, which calls take and give back."""

    def __init__(self, cell: Cell) -> None:
        dtype, size, (I, H, P) = cell.dtype, cell.dtype.itemsize, cell.sizes
        lanes = BYTES // size
        panels = -(-H // lanes)
        # [gate][unit][k] -> [panel][k][gate][lane], panel by panel, for the cache
        w = _zeros((panels, I + P, GATES, lanes), dtype)
        bias = _zeros((panels, GATES, lanes), dtype)
        w_ih, w_hh, b = (a.reshape(GATES, H, -1) for a in (cell.w_ih, cell.w_hh, cell.b))
        for p in range(panels):
            units, there = slice(p * lanes, (p + 1) * lanes), slice(min(lanes, H - p * lanes))
            w[p, :I, :, there] = w_ih[:, units].transpose(2, 0, 1)
            w[p, I:, :, there] = w_hh[:, units].transpose(2, 0, 1)
            bias[p, :, there] = b[:, units, 0]
        # without a projection it is not read
        w_hr = bias if cell.w_hr is None else _columns(cell.w_hr.T)
        zeros = _zeros((max(bias.size, _up(I, WIDTH * lanes)),), dtype)
        self.arrays = w, bias, w_hr, zeros  # kept alive here: the loops know only their addresses
        self.zero = dtype.type(0)  # tells the loops the type
        # Rows of [x | h], which are whole vectors (of a projected h, whole panels), and of c.
        whole = lanes if P == H else WIDTH * lanes
        xh_stride = _padded((_up(I, lanes) + _up(P, whole)) * size)
        c_stride = _padded(_up(H, lanes) * size)
        plan = RunPlan(
            I=I,
            H=H,
            P=P,
            w=w.ctypes.data,
            b=bias.ctypes.data,
            w_hr=w_hr.ctypes.data,
            zeros=zeros.ctypes.data,
            xh_stride=xh_stride,
            c_stride=c_stride,
        )
        self.plan = np.array(plan, np.int64)
        self.plan_address: int = self.plan.ctypes.data
        # [x | h] twice, c, o tanh(c) on its way into a projection, and sums of a panel
        self.row_bytes = 2 * xh_stride + (1 if P == H else 2) * c_stride + WIDTH * BYTES
        # the input's share of z of one row
        self.z_bytes = panels * WIDTH * BYTES
        sizes = _CACHES, I, P, panels, WIDTH * BYTES
        # by rows and steps
        self.blocking = functools.lru_cache(functools.partial(blocking_of, *sizes, tile=ROWS))
        self.idle: list[_Work] = []  # its append and pop are atomic

    @functools.cached_property
    def back(self) -> _BackWeights:
        return _BackWeights(self)

    @functools.cached_property
    def general(self) -> _General:
        """The same cell for runs with noise."""
        w, bias, w_hr, _ = self.arrays
        I, H, P = self.plan[:3].tolist()
        w, b = (
            _in_rows(w, H),
            np.ascontiguousarray(bias.transpose(1, 0, 2).reshape(GATES, -1)[:, :H]).ravel(),
        )
        own_w_hr = None if P == H else w_hr.transpose(0, 2, 1).reshape(-1, H)[:P]
        return _General(Cell(w[:, :I], w[:, I:], b, own_w_hr))


class _BackWeights:
    """The same weights as factors on the right, for `back`; made when it is first called."""

    def __init__(self, weights: _Weights) -> None:
        I, H, P = weights.plan[:3].tolist()
        w, _, w_hr, zeros = weights.arrays
        dtype, size = w.dtype, w.itemsize
        lanes, wide = BYTES // size, WIDTH * BYTES // size
        w = _in_rows(w, H)
        w_ih, w_hh, one = _columns(w[:, :I]), _columns(w[:, I:]), np.ones(1, dtype)
        if P != H:
            w_hr = _columns(w_hr.transpose(0, 2, 1).reshape(-1, H)[:P])
        self.arrays = w_ih, w_hh, w_hr, zeros, one  # kept alive
        # Sums over all rows: of one panel, of all, and of a chunk on their way there.
        panel = (I + P + 1) * WIDTH * BYTES
        sums = _up(H, lanes) // lanes * panel
        part = min(sums, max(panel, SUMS_BYTES))
        plan = BackPlan(
            I=I,
            H=H,
            P=P,
            w_ih=w_ih.ctypes.data,
            w_hh=w_hh.ctypes.data,
            w_hr=w_hr.ctypes.data,
            zeros=zeros.ctypes.data,
            one=one.ctypes.data,
            xh_stride=_padded(_up(I + P + 1, lanes) * size),
            dz_stride=_padded(_up(GATES * H, lanes) * size),
            dc_stride=_padded(_up(H, lanes) * size),
            dh_stride=_padded(_up(P, wide) * size),
            dm_stride=_padded(_up(H, wide) * size),
            part_size=part,
        )
        self.plan = np.array(plan, np.int64)
        self.plan_address: int = self.plan.ctypes.data
        # The work space: bytes in any case, for each sequence, and for each row of a chunk.
        self.bytes = sums + part
        self.row_bytes = plan.dh_stride + plan.dm_stride + plan.dc_stride
        dz_panels, dx = GATES * _up(H, lanes), _up(I, wide)
        self.chunk_bytes = plan.xh_stride + plan.dz_stride + (dz_panels + dx) * size
        if P != H:
            self.bytes += _up(H, wide) * P * size
            self.chunk_bytes += plan.dh_stride + _up(H, wide) * size
        self.idle: list[_Work] = []


class _General:
    """A cell with options, or for noise: panels of 4 L columns, and work spaces."""

    def __init__(self, cell: Cell) -> None:
        with _preparing:
            _prepare_general(cell.dtype)
        dtype, size, (I, H, P), options = cell.dtype, cell.dtype.itemsize, cell.sizes, cell.options
        self.sizes, self.zero = (I, H, P), dtype.type(0)
        wide = WIDTH * BYTES // size
        zeros = _zeros((_up(GATES * H, wide) + _up(max(I, P), wide),), dtype)
        start = zeros
        if not options.layer_norm:
            start = _zeros((_up(GATES * H, wide),), dtype)
            start[: GATES * H] = cell.b
        w_ih, w_hh = _columns(cell.w_ih.T), _columns(cell.w_hh.T)
        w_hr = zeros if cell.w_hr is None else _columns(cell.w_hr.T)
        numbers = Numbers(
            options.gate_clip, options.cell_clip, options.proj_clip, *options.gate[1:],
            *options.cell[1:], *options.output[1:], options.zoneout_h, options.zoneout_c,
            EPSILON.get(options.layer_norm, 0.0),
        )  # fmt: skip
        with np.errstate(all="ignore"):  # in float32 a large bound is infinite, a small one 0
            rounded = np.array(numbers, dtype)
        own = cell.map(np.array)  # a copy
        self.arrays = zeros, start, w_ih, w_hh, w_hr, rounded, own  # kept alive
        self.norm = {"": 0, "tflite": NORM_GATES, "haste": NORM_SUMS}[options.layer_norm]
        plan = GeneralPlan(
            I=I,
            H=H,
            P=P,
            gate=ACTIVATIONS.index(options.gate.name),
            cell=ACTIVATIONS.index(options.cell.name),
            output=ACTIVATIONS.index(options.output.name),
            gone={"": -1, "i=1-f": 0, "f=1-i": 1}[options.coupled],
            norm=self.norm,
            sums_stride=_padded(_up(GATES * H, wide) * size),
            m_stride=_padded(_up(H, wide) * size),
            h_stride=_padded(_up(P, wide) * size),
            step_stride=_up(STEP_VALUES * H * size, BYTES),
            numbers=self.arrays[5].ctypes.data,
            start=start.ctypes.data,
            zeros=zeros.ctypes.data,
            w_ih=w_ih.ctypes.data,
            w_hh=w_hh.ctypes.data,
            w_hr=w_hr.ctypes.data,
            b=own.b.ctypes.data,
            w_ci=_address_or_0(own.w_ci),
            w_cf=_address_or_0(own.w_cf),
            w_co=_address_or_0(own.w_co),
            ln=_address_or_0(own.ln),
            ln_ih=_address_or_0(own.ln_ih),
            ln_hh=_address_or_0(own.ln_hh),
            ln_c=_address_or_0(own.ln_c),
            b_c=_address_or_0(own.b_c),
        )
        self.plan = np.array(plan, np.int64)
        self.plan_address: int = self.plan.ctypes.data
        # The work spaces, as `run_general` and `back_general` cut them: bytes in any case, for each
        # sequence, and for each row of a chunk.
        sums, m, h = plan.sums_stride, plan.m_stride, plan.h_stride
        self.run_bytes = 8 * H * size + plan.step_stride
        self.run_row_bytes, self.run_chunk_bytes = sums + m + 2 * h, sums
        self.run_chunk_rows = max(1, _HOIST_BYTES // sums)
        panel, products = WIDTH * BYTES, 2 if self.norm == NORM_SUMS else 1
        sums_panels, h_panels = sums // panel, h // panel
        totals = (sums_panels * (I + P) + h_panels * H) * panel
        part = max(max(I, P, H) * panel, SUMS_BYTES)
        self.back_bytes = 3 * m + totals + part
        self.back_row_bytes = plan.step_stride + m + 2 * h
        self.back_chunk_bytes = products * (sums + sums_panels * panel) + h + _up(I, wide) * size
        self.back_chunk_bytes += m + h_panels * panel
        self.idle: list[_Work] = []
        self.back_idle: list[_Work] = []

    @property
    def general(self) -> _General:
        return self

    @functools.cached_property
    def back(self) -> tuple[Array, Array, Array]:
        """The weights as factors on the right, for the way back."""
        own = self.arrays[-1]
        w_hr = own.w_hh if own.w_hr is None else own.w_hr
        return _columns(own.w_ih), _columns(own.w_hh), _columns(w_hr)


def prepare(dtype: np.dtype[Any]) -> None:
    """Compile, or read from the cache, what `run` needs for one dtype: no call waits for it."""
    with _preparing:
        _prepare(dtype)


@functools.cache
def _prepare(dtype: np.dtype[Any]) -> None:
    scalar, i = numba.from_dtype(dtype), types.int64
    state = scalar[:, ::1]
    _prepare_addresses(dtype)
    _compile(
        run_layer, scalar, *[i] * 8, i[::1], i, state, state, i, i, i, types.boolean, types.boolean
    )


@functools.cache
def _prepare_back(dtype: np.dtype[Any]) -> None:
    """Do the same for `back`, when it is first called: a layer that never trains does not wait."""
    scalar, i = numba.from_dtype(dtype), types.int64
    places = types.UniTuple(i, len(BackPlaces._fields))
    _compile(address_of, scalar[::1])
    _compile(back_layer, scalar, i, places, i, i, i[::1], i, types.boolean)


@functools.cache
def _prepare_general(dtype: np.dtype[Any]) -> None:
    """Do the same for a cell with options or noise, when there is the first one."""
    scalar, i = numba.from_dtype(dtype), types.int64
    state = scalar[:, ::1]
    _compile(run_general, scalar, *[i] * 12, i[::1], i, state, state, types.boolean)


@functools.cache
def _prepare_general_gates(dtype: np.dtype[Any]) -> None:
    i = types.int64
    _compile(gates_general, numba.from_dtype(dtype), *[i] * 6, i[::1], types.boolean)


@functools.cache
def _prepare_general_back(dtype: np.dtype[Any]) -> None:
    scalar, i = numba.from_dtype(dtype), types.int64
    places = types.UniTuple(i, len(GeneralPlaces._fields))
    _compile(back_general, scalar, i, places, i, i, i[::1], i, types.boolean)


@functools.cache
def _prepare_linear(dtype: np.dtype[Any]) -> None:
    _prepare_addresses(dtype)
    _compile(multiply_rows, numba.from_dtype(dtype), *[types.int64] * 10)


@functools.cache
def _prepare_addresses(dtype: np.dtype[Any]) -> None:
    for layout in "CA":
        for readonly in (False, True):
            kind = types.Array(numba.from_dtype(dtype), 2, layout, readonly=readonly)
            _compile(address_of, kind)


def _compile(kernel: Any, *signature: Any) -> None:
    global _prepare_seconds
    begin = time.perf_counter()
    try:
        kernel.compile(signature)
    except OSError as error:
        raise OSError(
            f"numba cannot keep what it compiled ({error}): make room, or set NUMBA_CACHE_DIR to a "
            "folder that can be written"
        ) from error
    _prepare_seconds += time.perf_counter() - begin


_preparing = threading.Lock()
_prepare_seconds = 0.0


def pack(cell: Cell) -> _Weights | _General:
    return _Weights(cell) if cell.is_plain else _General(cell)


def run(
    weights: _Weights | _General,
    x: Array,
    batch_sizes: Array,
    h: Array,
    c: Array,
    y: Array,
    reverse: bool,
    saved: tuple[Array, Array] | None,
    noise: Noise,
) -> None:
    # To call `_is_silent` would take a small layer 1 % more time.
    if isinstance(weights, _General) or not (noise[0] is noise[1] is noise[2] is None):
        _run_general(weights.general, x, batch_sizes, h, c, y, reverse, saved, noise)
        return
    rows, need = len(x), len(h) * weights.row_bytes
    blocking = weights.blocking(len(h), len(batch_sizes))
    need += blocking.hoist * len(h) * weights.z_bytes
    work = _take(weights.idle, need)
    gates, cells = (0, 0) if saved is None else map(address_of, saved)
    run_layer(
        weights.zero,
        weights.plan_address,
        work[1],
        address_of(x),
        x.strides[0],
        address_of(y),
        y.strides[0],
        gates,
        cells,
        batch_sizes,
        rows,
        h,
        c,
        *blocking,
        reverse,
    )
    _give_back(weights.idle, work)


def back(
    weights: _Weights | _General,
    x: Array,
    batch_sizes: Array,
    h: Array,
    c: Array,
    y: Array,
    saved: tuple[Array, Array],
    dy: Array,
    dh: Array,
    dc: Array,
    dx: Array | None,
    dw: Cell,
    reverse: bool,
    dcells: Array | None,
    noise: Noise,
) -> None:
    dcells = None if dcells is None else np.ascontiguousarray(dcells)
    if isinstance(weights, _General) or not _is_silent(noise):
        _back_general(
            weights.general, x, batch_sizes, h, c, y, saved, dy, dh, dc, dx, dw, reverse, dcells,
            noise,
        )  # fmt: skip
        return
    with _preparing:
        _prepare_back(weights.zero.dtype)
    own, rows = weights.back, len(x)
    chunk_rows = min(rows, max(len(h), _CHUNK_ROWS))
    work = _take(own.idle, own.bytes + len(h) * own.row_bytes + chunk_rows * own.chunk_bytes)
    gates, cells = saved
    # In the order of BackPlaces. To give the names as well would take a small layer 2 % more time.
    places = (
        address_of(x),
        x.strides[0],
        address_of(y),
        y.strides[0],
        address_of(gates),
        address_of(cells),
        address_of(dy),
        dy.strides[0],
        address_of(h),
        address_of(c),
        address_of(dh),
        address_of(dc),
        0 if dx is None else address_of(dx),
        0 if dcells is None else address_of(dcells),
        address_of(dw.w_ih),
        address_of(dw.w_hh),
        address_of(dw.b),
        0 if dw.w_hr is None else address_of(dw.w_hr),
    )
    back_layer(
        weights.zero, own.plan_address, places, work[1], chunk_rows, batch_sizes, rows, reverse
    )
    _give_back(own.idle, work)


def gates_of(
    weights: _Weights | _General,
    batch_sizes: Array,
    c: Array,
    saved: tuple[Array, Array],
    reverse: bool,
    noise: Noise,
) -> Array:
    if isinstance(weights, _Weights) and _is_silent(noise):
        return np.array(saved[0])
    general = weights.general
    with _preparing:
        _prepare_general_gates(general.zero.dtype)
    gates = np.empty((len(saved[0]), GATES * general.sizes[1]), general.zero.dtype)
    work = _take(general.idle, general.run_bytes)
    addresses = [address_of(array) for array in (*saved, c, gates)]
    gates_general(general.zero, general.plan_address, work[1], *addresses, batch_sizes, reverse)
    _give_back(general.idle, work)
    return gates


def _is_silent(noise: Noise) -> bool:
    return noise.h is noise.zone_h is noise.zone_c is None


def _run_general(
    general: _General,
    x: Array,
    batch_sizes: Array,
    h: Array,
    c: Array,
    y: Array,
    reverse: bool,
    saved: tuple[Array, Array] | None,
    noise: Noise,
) -> None:
    rows = len(x)
    chunk_rows = min(rows, max(len(h), general.run_chunk_rows))
    need = general.run_bytes + len(h) * general.run_row_bytes
    work = _take(general.idle, need + chunk_rows * general.run_chunk_bytes)
    noise = Noise(*(None if part is None else np.ascontiguousarray(part) for part in noise))
    run_general(
        general.zero,
        general.plan_address,
        work[1],
        chunk_rows,
        address_of(x),
        x.strides[0],
        address_of(y),
        y.strides[0],
        *((0, 0) if saved is None else map(address_of, saved)),
        *map(_address_or_0, noise),
        batch_sizes,
        rows,
        h,
        c,
        reverse,
    )
    _give_back(general.idle, work)


def _back_general(
    general: _General,
    x: Array,
    batch_sizes: Array,
    h: Array,
    c: Array,
    y: Array,
    saved: tuple[Array, Array],
    dy: Array,
    dh: Array,
    dc: Array,
    dx: Array | None,
    dw: Cell,
    reverse: bool,
    dcells: Array | None,
    noise: Noise,
) -> None:
    with _preparing:
        _prepare_general_back(general.zero.dtype)
    rows = len(x)
    chunk_rows = min(rows, max(len(h), _CHUNK_ROWS))
    need = general.back_bytes + len(h) * general.back_row_bytes
    work = _take(general.back_idle, need + chunk_rows * general.back_chunk_bytes)
    noise = Noise(*(None if part is None else np.ascontiguousarray(part) for part in noise))
    places = GeneralPlaces(
        x=address_of(x),
        x_stride=x.strides[0],
        y=address_of(y),
        y_stride=y.strides[0],
        saved=address_of(saved[0]),
        cells=address_of(saved[1]),
        dy=address_of(dy),
        dy_stride=dy.strides[0],
        h=address_of(h),
        c=address_of(c),
        dh=address_of(dh),
        dc=address_of(dc),
        dx=_address_or_0(dx),
        dcells=_address_or_0(dcells),
        noise_h=_address_or_0(noise.h),
        zone_h=_address_or_0(noise.zone_h),
        zone_c=_address_or_0(noise.zone_c),
        w_ih=general.back[0].ctypes.data,
        w_hh=general.back[1].ctypes.data,
        w_hr=general.back[2].ctypes.data,
        dw_ih=_address_or_0(dw.w_ih),
        dw_hh=_address_or_0(dw.w_hh),
        db=_address_or_0(dw.b),
        dw_hr=_address_or_0(dw.w_hr),
        dw_ci=_address_or_0(dw.w_ci),
        dw_cf=_address_or_0(dw.w_cf),
        dw_co=_address_or_0(dw.w_co),
        dln=_address_or_0(dw.ln),
        dln_ih=_address_or_0(dw.ln_ih),
        dln_hh=_address_or_0(dw.ln_hh),
        dln_c=_address_or_0(dw.ln_c),
        db_c=_address_or_0(dw.b_c),
    )
    back_general(
        general.zero, general.plan_address, tuple(places), work[1], chunk_rows, batch_sizes, rows,
        reverse,
    )  # fmt: skip
    _give_back(general.back_idle, work)


def _address_or_0(array: Array | None) -> int:
    return 0 if array is None else array.ctypes.data


class Stack(Layers):
    """The contract's `Stack`."""

    pack, gates_of = staticmethod(pack), staticmethod(gates_of)
    run_cell, back_cell = staticmethod(run), staticmethod(back)


class Product:
    """The contract's `Product`."""

    stale = False

    def __init__(self, w: Array, b: Array | None) -> None:
        with _preparing:
            _prepare_linear(w.dtype)
        self._columns = _columns(w.T)
        self._bias = _zeros((self._columns.shape[0] * self._columns.shape[2],), w.dtype)
        if b is not None:
            self._bias[: len(b)] = b

    def run(self, x: Array, y: Array, threads: int) -> None:
        columns, bias = self._columns, self._bias
        scratch = _memory(ROWS_TOGETHER * bias.nbytes)
        multiply_rows(
            bias.dtype.type(0),
            len(x),
            y.shape[1],
            address_of(y),
            y.strides[0],
            scratch.ctypes.data,
            bias.ctypes.data,
            columns.ctypes.data,
            address_of(x),
            x.strides[0],
            x.shape[1],
        )

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


def describe() -> dict[str, object]:
    cpu = config.CPU_NAME or binding.get_host_cpu_name()
    return {
        "version": numba.__version__,
        "instruction_set": f"{cpu}, {BYTES * 8}-bit vectors{' with FMA' if FMA else ''}",
        "caches": _CACHES,
        "prepare_seconds": round(_prepare_seconds, 3),
    }


def _take(idle: list[_Work], need: int) -> _Work:
    """Return a work space of at least so many bytes: one that is idle, or a new one."""
    try:
        work, address = idle.pop()
        if work.size >= need:
            return work, address
    except IndexError:
        pass
    work = _memory(need)
    return work, work.ctypes.data


def _give_back(idle: list[_Work], work: _Work) -> None:
    if work[0].size <= _KEEP_BYTES:
        idle.append(work)


def _columns(right: Array) -> Array:
    """Pack a factor on the right (K, N): panels of 4 L columns, which take the gates' places."""
    wide = WIDTH * BYTES // right.itemsize
    count, n = right.shape
    panels = _zeros((-(-n // wide), count, wide), right.dtype)
    for p, panel in enumerate(panels):
        panel[:, : n - p * wide] = right[:, p * wide : (p + 1) * wide]
    return panels


def _in_rows(w: Array, H: int) -> Array:
    """Return [panel][k][gate][lane] of the plain cell as (4H, k)."""
    by_gate = w.transpose(2, 0, 3, 1).reshape(GATES, -1, w.shape[1])
    rows: Array = by_gate[:, :H].reshape(GATES * H, -1)
    return rows


def _up(count: int, whole: int) -> int:
    """Return the next multiple of `whole`."""
    return -(-count // whole) * whole


def _padded(stride: int) -> int:
    """Return a stride of at least so many bytes that is no multiple of 256.

    Rows at such multiples would share few places of the cache.
    """
    return stride + BYTES if stride % 256 == 0 else stride


def _memory(size: int) -> Array:
    """Return so many bytes that begin at a cache line, with no values yet."""
    memory = np.empty(size + 64, np.uint8)
    begin = -memory.ctypes.data % 64
    return memory[begin : begin + size]


def _zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return zeros that begin at a cache line."""
    zeros = _memory(math.prod(shape) * dtype.itemsize).view(dtype).reshape(shape)
    zeros[...] = 0
    return zeros
