"""The engine numba: packed weights, work spaces, and calls of the loops in `_numba_kernels`.

The contract, the legend and the numbered equations are in `contract.py`; `_layers.py` runs whole
stacks by the two functions for one cell, `run` and `back`.
"""

from __future__ import annotations

import functools
import math
import threading
import time
from typing import Any

import numba
import numpy as np
from llvmlite import binding
from numba import types
from numba.core import config

from ._layers import Layers
from ._numba_kernels import (
    BYTES,
    FMA,
    GATES,
    ROWS_TOGETHER,
    SUMS_BYTES,
    WIDTH,
    BackPlaces,
    BackPlan,
    RunPlan,
    address_of,
    back_layer,
    multiply_rows,
    run_layer,
)
from .contract import Array, Cell, Noise

# A work space, and its address.
_Work = tuple[Array, int]

# One sequence alone fills one row of a tile. If its weights have more than _HOIST_ABOVE bytes, they
# do not stay in the first-level cache. Then W_ih x + b is computed for many steps at once, in whole
# tiles: for as many steps as make _HOIST_BYTES, which stay in the second-level cache.
_HOIST_ABOVE = 1 << 14
_HOIST_BYTES = 1 << 18
# On the way back, the rows of some steps wait in the cache for the weights' gradients.
_CHUNK_ROWS = 128
_KEEP_BYTES = 1 << 23  # A larger work space is given back: beside its call it costs nothing.


class _Weights:
    """One layer's panels in one direction, and work spaces, which calls take and give back."""

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
        # [x | h] twice, c, and o tanh(c) on its way into a projection
        self.row_bytes = 2 * xh_stride + (1 if P == H else 2) * c_stride
        # the input's share of z of one step, and for how many steps it is made ahead
        self.z_bytes = panels * WIDTH * BYTES
        self.hoist = max(1, _HOIST_BYTES // self.z_bytes) if w.nbytes > _HOIST_ABOVE else 0
        self.idle: list[_Work] = []  # its append and pop are atomic

    @functools.cached_property
    def back(self) -> _BackWeights:
        return _BackWeights(self)


class _BackWeights:
    """The same weights as factors on the right, for `back`; made when it is first called."""

    def __init__(self, weights: _Weights) -> None:
        I, H, P = weights.plan[:3].tolist()
        w, _, w_hr, zeros = weights.arrays
        dtype, size = w.dtype, w.itemsize
        lanes, wide = BYTES // size, WIDTH * BYTES // size
        # [panel][k][gate][lane] -> [gate][unit][k]
        w = w.transpose(2, 0, 3, 1).reshape(GATES, -1, I + P)[:, :H].reshape(GATES * H, I + P)
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


def prepare(dtype: np.dtype[Any]) -> None:
    """Compile, or read from the cache, what `run` needs for one dtype: no call waits for it."""
    with _preparing:
        _prepare(dtype)


@functools.cache
def _prepare(dtype: np.dtype[Any]) -> None:
    scalar, i = numba.from_dtype(dtype), types.int64
    state = scalar[:, ::1]
    _prepare_addresses(dtype)
    _compile(run_layer, scalar, *[i] * 8, i[::1], i, state, state, i, types.boolean)


@functools.cache
def _prepare_back(dtype: np.dtype[Any]) -> None:
    """Do the same for `back`, when it is first called: a layer that never trains does not wait."""
    scalar, i = numba.from_dtype(dtype), types.int64
    places = types.UniTuple(i, len(BackPlaces._fields))
    _compile(address_of, scalar[::1])
    _compile(back_layer, scalar, i, places, i, i, i[::1], i, types.boolean)


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


def run(
    weights: _Weights,
    x: Array,
    batch_sizes: Array,
    h: Array,
    c: Array,
    y: Array,
    reverse: bool,
    saved: tuple[Array, Array] | None,
    noise: Noise,
) -> None:
    rows, need = len(x), len(h) * weights.row_bytes
    hoist = 0
    if len(h) == 1 and rows > 1 and weights.hoist:
        hoist = min(rows, weights.hoist)
        need += hoist * weights.z_bytes
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
        hoist,
        reverse,
    )
    _give_back(weights.idle, work)


def back(
    weights: _Weights,
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
        address_of(dw.w_ih),
        address_of(dw.w_hh),
        address_of(dw.b),
        0 if dw.w_hr is None else address_of(dw.w_hr),
    )
    back_layer(
        weights.zero, own.plan_address, places, work[1], chunk_rows, batch_sizes, rows, reverse
    )
    _give_back(own.idle, work)


class Stack(Layers):
    """The contract's `Stack`."""

    pack, run_cell, back_cell = _Weights, staticmethod(run), staticmethod(back)


class Product:
    """The contract's `Product`."""

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


def describe() -> dict[str, object]:
    cpu = config.CPU_NAME or binding.get_host_cpu_name()
    return {
        "version": numba.__version__,
        "instruction_set": f"{cpu}, {BYTES * 8}-bit vectors{' with FMA' if FMA else ''}",
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
