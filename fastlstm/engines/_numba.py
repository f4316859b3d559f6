"""The engine of jitted loops: packed weights, work spaces, calls of the loops in `_numba_kernels`.

The contract, the legend and the numbered equations are in `fastlstm.engines`.
"""

import functools
import math
import threading
import time

import numba
import numpy as np
from llvmlite import binding
from numba import types
from numba.core import config

from ._numba_kernels import (
    BYTES,
    FMA,
    GATES,
    ROWS_TOGETHER,
    SUMS_BYTES,
    address_of,
    back_layer,
    multiply_rows,
    run_layer,
)

# One sequence alone leaves the tile short of rows: if its weights are larger than this, and do not
# stay in the first-level cache anyhow, the input's products are made first, for many steps at
# once, as whole tiles, in chunks that stay in the second-level cache.
_HOIST_ABOVE = 1 << 14
_HOIST_BYTES = 1 << 18
# on the way back, the rows of some steps, which wait in the cache for the weights' gradients
_CHUNK = 128
_KEEP_BYTES = 1 << 23  # a larger work space is given back: beside its call it costs nothing


class _Weights:
    """One layer's panels in one direction, and work spaces, which calls take and give back."""

    def __init__(self, w_ih, w_hh, b, w_hr):
        dtype, size = w_ih.dtype, w_ih.itemsize
        lanes = BYTES // size
        I, P, H = w_ih.shape[1], w_hh.shape[1], len(b) // GATES
        panels = -(-H // lanes)
        # [gate][unit][k] -> [panel][k][gate][lane]; panel by panel, for the cache
        w = _zeros((panels, I + P, GATES, lanes), dtype)
        bias = _zeros((panels, GATES, lanes), dtype)
        w_ih, w_hh, b = (a.reshape(GATES, H, -1) for a in (w_ih, w_hh, b))
        for p in range(panels):
            units, there = slice(p * lanes, (p + 1) * lanes), slice(min(lanes, H - p * lanes))
            w[p, :I, :, there] = w_ih[:, units].transpose(2, 0, 1)
            w[p, I:, :, there] = w_hh[:, units].transpose(2, 0, 1)
            bias[p, :, there] = b[:, units, 0]
        w_hr = bias if w_hr is None else _columns(w_hr.T)  # bias is not read
        zeros = _zeros((max(bias.size, _up(I, GATES * lanes)),), dtype)
        self.arrays = w, bias, w_hr, zeros  # kept alive: the loops know only their addresses
        self.zero = dtype.type(0)  # tells the loops the type
        # bytes from row to row of [x | h], whole vectors (of a projected h, 4 together), and of c
        whole = lanes if P == H else GATES * lanes
        strides = [
            _off_beat(cells * size) for cells in (_up(I, lanes) + _up(P, whole), _up(H, lanes))
        ]
        places = [a.ctypes.data for a in self.arrays]
        self.plan = np.array([I, H, P, *places, *strides], np.int64)
        # [x | h] twice, c, and o tanh(c) on its way into a projection
        self.row_bytes = 2 * strides[0] + (1 if P == H else 2) * strides[1]
        self.z_bytes = panels * GATES * BYTES
        self.spare = []  # (work space, its address); append and pop are atomic

    @functools.cached_property
    def back(self):
        return _BackWeights(self)


class _BackWeights:
    """The same weights as factors on the right, for `back`; made when it is first called."""

    def __init__(self, weights):
        I, H, P = weights.plan[:3].tolist()
        w, _, w_hr, zeros = weights.arrays
        dtype, size = w.dtype, w.itemsize
        lanes, wide = BYTES // size, GATES * BYTES // size
        # [panel][k][gate][lane] -> [gate][unit][k]
        w = w.transpose(2, 0, 3, 1).reshape(GATES, -1, I + P)[:, :H].reshape(GATES * H, I + P)
        if P != H:
            w_hr = _columns(w_hr.transpose(0, 2, 1).reshape(-1, H)[:P])
        self.arrays = _columns(w[:, :I]), _columns(w[:, I:]), w_hr, zeros, np.ones(1, dtype)
        # bytes from row to row of [x | h_0 | 1], dz and dc; of dh and dm, in whole panels
        xh, dz, dc = (_off_beat(_up(n, lanes) * size) for n in (I + P + 1, GATES * H, H))
        dh, dm = (_off_beat(_up(n, wide) * size) for n in (P, H))
        # sums over all rows: of one panel, of all, and of a chunk on their way there
        panel = (I + P + 1) * GATES * BYTES
        sums = _up(H, lanes) // lanes * panel
        part = min(sums, max(panel, SUMS_BYTES))
        places = (a.ctypes.data for a in self.arrays)
        self.plan = I, H, P, *places, xh, dz, dc, dh, dm, part
        # of the work space: in any case, for each sequence, for each row of a chunk
        self.bytes = sums + part
        self.row_bytes = dh + dm + dc
        self.chunk_bytes = xh + dz + (GATES * _up(H, lanes) + _up(I, wide)) * size
        if P != H:
            self.bytes += _up(H, wide) * P * size
            self.chunk_bytes += dh + _up(H, wide) * size
        self.spare = []


def prepare(dtype):
    """Compile, or read from the cache, what `run` needs for one dtype: no call waits for it."""
    with _preparing:
        _prepare(dtype)


@functools.cache
def _prepare(dtype):
    dtype, i = numba.from_dtype(dtype), types.int64
    state = dtype[:, ::1]
    for layout in "CA":
        for readonly in (False, True):
            _compile(address_of, types.Array(dtype, 2, layout, readonly=readonly))
    _compile(run_layer, dtype, i[::1], *[i] * 7, i[::1], state, state, i, types.boolean)


@functools.cache
def _prepare_back(dtype):
    """The same for `back`, which who never trains need not wait for."""
    dtype, i = numba.from_dtype(dtype), types.int64
    plan, places = types.UniTuple(i, 14), types.UniTuple(i, 17)
    _compile(address_of, dtype[::1])
    _compile(back_layer, dtype, plan, places, i, i, i[::1], types.boolean)


def _compile(kernel, *signature):
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


def pack(w_ih, w_hh, b, w_hr):
    return _Weights(w_ih, w_hh, b, w_hr)


def run(weights, x, batch_sizes, h, c, y, reverse, saved=None):
    rows = len(h)
    need = rows * weights.row_bytes
    hoist = 0
    if rows == 1 and len(x) > 1 and weights.arrays[0].nbytes > _HOIST_ABOVE:
        hoist = max(1, min(len(x), _HOIST_BYTES // weights.z_bytes))
        need += hoist * weights.z_bytes
    work = _take(weights.spare, need)
    gates, cells = (0, 0) if saved is None else map(address_of, saved)
    run_layer(
        weights.zero, weights.plan, work[1], address_of(x), x.strides[0], address_of(y),
        y.strides[0], gates, cells, batch_sizes, h, c, hoist, reverse,
    )  # fmt: skip
    _give_back(weights.spare, work)


def back(weights, x, batch_sizes, h, c, y, saved, dy, dh, dc, dx, dw, reverse):
    with _preparing:
        _prepare_back(weights.zero.dtype)
    own = weights.back
    room = min(len(x), max(len(h), _CHUNK))
    work = _take(own.spare, own.bytes + len(h) * own.row_bytes + room * own.chunk_bytes)
    *dw, dw_hr = dw
    places = (
        address_of(x), x.strides[0], address_of(y), y.strides[0], *map(address_of, saved),
        address_of(dy), dy.strides[0], *map(address_of, (h, c, dh, dc)),
        0 if dx is None else address_of(dx), *map(address_of, dw),
        0 if dw_hr is None else address_of(dw_hr),
    )  # fmt: skip
    back_layer(weights.zero, own.plan, places, work[1], room, batch_sizes, reverse)
    _give_back(own.spare, work)


@functools.cache
def _prepare_linear(dtype):
    dtype, i = numba.from_dtype(dtype), types.int64
    for layout in "CA":
        for readonly in (False, True):
            _compile(address_of, types.Array(dtype, 2, layout, readonly=readonly))
    _compile(multiply_rows, dtype, *[i] * 10)


def pack_linear(w, b):
    with _preparing:
        _prepare_linear(w.dtype)
    columns = _columns(w.T)
    bias = _zeros((columns.shape[0] * columns.shape[2],), w.dtype)
    if b is not None:
        bias[: len(b)] = b
    return columns, bias


def run_linear(weights, x, y, threads):
    columns, bias = weights
    room = _room(ROWS_TOGETHER * bias.nbytes)
    multiply_rows(
        bias.dtype.type(0), len(x), y.shape[1], address_of(y), y.strides[0], room.ctypes.data,
        bias.ctypes.data, columns.ctypes.data, address_of(x), x.strides[0], x.shape[1],
    )  # fmt: skip


def describe():
    cpu = config.CPU_NAME or binding.get_host_cpu_name()
    return {
        "version": numba.__version__,
        "instruction_set": f"{cpu}, {BYTES * 8}-bit vectors{' with FMA' if FMA else ''}",
        "prepare_seconds": round(_prepare_seconds, 3),
    }


def _take(spare, need):
    """A work space of at least so many bytes, and its address."""
    try:
        work, address = spare.pop()
        if work.size >= need:
            return work, address
    except IndexError:
        pass
    work = _room(need)
    return work, work.ctypes.data


def _give_back(spare, work):
    if work[0].size <= _KEEP_BYTES:
        spare.append(work)


def _columns(right):
    """A factor on the right (K, N) in panels of 4 L columns, which take the gates' places."""
    wide = GATES * BYTES // right.itemsize
    count, n = right.shape
    panels = _zeros((-(-n // wide), count, wide), right.dtype)
    for p, panel in enumerate(panels):
        panel[:, : n - p * wide] = right[:, p * wide : (p + 1) * wide]
    return panels


def _up(count, whole):
    return -(-count // whole) * whole


def _off_beat(stride):
    """Rows whose distance divides 4 KB would share the same few places of the cache."""
    return stride + BYTES if stride % 256 == 0 else stride


def _room(size):
    """So many bytes that begin at a cache line, with no values yet."""
    room = np.empty(size + 64, np.uint8)
    begin = -room.ctypes.data % 64
    return room[begin : begin + size]


def _zeros(shape, dtype):
    """Zeros that begin at a cache line."""
    zeros = _room(math.prod(shape) * dtype.itemsize).view(dtype).reshape(shape)
    zeros[...] = 0
    return zeros
