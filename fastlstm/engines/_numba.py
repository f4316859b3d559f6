"""Jitted loops over packed panels, with a register tile of LLVM vectors.

The contract, the legend and the numbered equations are in `fastlstm.engines`. How it is fast:

- Weights are packed in panels of one vector's lanes L of units, ``[panel][k][gate][lane]``, k over
  the inputs x, then the outputs h: all four gates of L units and a few rows fit in registers, so
  that a product is one stream of fused multiply-adds over the panel, and the cell is its epilogue.
- Every accumulator begins with b, then adds x in order, then h in order; the cell is the same
  arithmetic on every lane. So a row's result does not depend, bit for bit, on which rows are
  computed beside it, nor on how time was cut.
- Plain jitted loops keep no accumulator in a register (3 to 5 times slower); so the tile and the
  cell are intrinsics, built by the few lines of LLVM vector code below for any number of rows,
  lanes and either dtype.
"""

import functools
import math
import threading
import time

import numba
import numpy as np
from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils, config
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

if config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set")

# ---- the machine ----------------------------------------------------------------------------

# As numba itself decides: its cache is keyed by processor and features, and what is compiled here
# must follow from that key alone, or code from the cache would meet panels of another width.
_flags = config.CPU_FEATURES
if _flags is None:
    _flags = "" if config.CPU_NAME == "generic" else get_host_cpu_features()
_FEATURES = {flag[1:] for flag in _flags.split(",") if flag.startswith("+")}
_ARM = binding.get_process_triple().startswith(("aarch64", "arm64"))
_FMA = _ARM or "fma" in _FEATURES
# bytes of a vector, and how many rows' accumulators, 4 vectors each, fit beside weights and input;
# of 32 registers a sixth row would leave too few for the cell, and 6 rows of input fill a small L1
_BYTES, ROWS = (64, 5) if "avx512f" in _FEATURES else (16, 5) if _ARM else (16, 2)
if _BYTES == 16 and "avx" in _FEATURES:
    _BYTES, ROWS = 32, 3


# ---- LLVM vectors ---------------------------------------------------------------------------


def _constant(kind, value):
    """The number `value` in every lane."""
    return ir.Constant(kind, [value] * kind.count if hasattr(kind, "count") else value)


class _Vector:
    """An LLVM vector, or scalar, with the operators that the equations need."""

    def __init__(self, builder, value):
        self.builder, self.value, self.type = builder, value, value.type
        self.lanes = getattr(self.type, "count", None)
        self.element = str(getattr(self.type, "element", self.type))

    def like(self, value):
        """A constant of this vector's type, or another LLVM value in this class."""
        if isinstance(value, (int, float)):
            value = _constant(self.type, value)
        return _Vector(self.builder, value)

    def _apply(self, instruction, a, b):
        a, b = (v if isinstance(v, _Vector) else self.like(v) for v in (a, b))
        return self.like(getattr(self.builder, instruction)(a.value, b.value))

    def __add__(self, other):
        return self._apply("fadd", self, other)

    def __sub__(self, other):
        return self._apply("fsub", self, other)

    def __rsub__(self, other):
        return self._apply("fsub", other, self)

    def __mul__(self, other):
        return self._apply("fmul", self, other)

    def __truediv__(self, other):
        return self._apply("fdiv", self, other)

    def __rtruediv__(self, other):
        return self._apply("fdiv", other, self)

    def clamp(self, bound):
        """Into [-bound, bound]; nan stays nan. Compiles to one min and one max."""
        value = self.value
        for beyond, limit in ((">", bound), ("<", -bound)):
            limit = self.like(float(limit)).value
            beyond = self.builder.fcmp_ordered(beyond, value, limit)
            value = self.builder.select(beyond, limit, value)
        return self.like(value)

    def fma(self, factor, addend):
        """self * factor + addend, rounded once where the machine can."""
        args = [v.value if isinstance(v, _Vector) else self.like(v).value for v in (factor, addend)]
        suffix = {"float": "f32", "double": "f64"}[self.element]
        suffix = suffix if self.lanes is None else f"v{self.lanes}{suffix}"
        function = cgutils.get_or_insert_function(
            self.builder.module,
            ir.FunctionType(self.type, [self.type] * 3),
            f"llvm.{'fma' if _FMA else 'fmuladd'}.{suffix}",
        )
        return self.like(self.builder.call(function, [self.value, *args]))

    def to_exponent(self, mantissa):
        """The lowest bits moved to where the exponent stands, above so many of the mantissa."""
        integer = ir.IntType({"float": 32, "double": 64}[self.element])
        if self.lanes is not None:
            integer = ir.VectorType(integer, self.lanes)
        bits = self.builder.bitcast(self.value, integer)
        bits = self.builder.shl(bits, _constant(integer, mantissa))
        return self.like(self.builder.bitcast(bits, self.type))

    def polynomial(self, coefficients):
        """c[0] + c[1] self + c[2] self^2 + ... by Horner's rule."""
        total = self.like(coefficients[-1])
        for coefficient in coefficients[-2::-1]:
            total = total.fma(self, coefficient)
        return total


# ---- equations (2) to (4) -------------------------------------------------------------------

# 2^r on |r| <= 1/2. float32: minimax of the relative error with c[0] = 1, 9.1e-8; float64: Taylor,
# 4e-18.
_EXP2 = {
    "float": (1.0, 0.6931469775985506, 0.24022242084963316, 0.05550733744132586,
              0.009671512658542656, 0.001326472693249577),
    "double": [math.log(2) ** k / math.factorial(k) for k in range(14)],
}  # fmt: skip
# bits of the mantissa, the exponent's bias, and where 2^y is cut off: the product of three such
# powers must not overflow, and a gate that is shut lets nothing through that could be seen
_FORMAT = {"float": (23, 127, 40.0), "double": (52, 1023, 300.0)}


def _exp(x, factor):
    """exp(factor x), cut off: 2^n 2^r with y = factor x / ln 2, n = round(y), r = y - n."""
    mantissa, bias, bound = _FORMAT[x.element]
    to_y = factor / math.log(2)
    x = x.clamp(bound / abs(to_y))
    magic = 1.5 * 2.0**mantissa + bias  # added to y, it leaves n + bias in the lowest bits
    shifted = x.fma(to_y, magic)
    r = x.fma(to_y, magic - shifted)
    return r.polynomial(_EXP2[x.element]) * shifted.to_exponent(mantissa)


def _cell(z_i, z_f, z_g, z_o, c):
    """h and c of one step, each brought to one denominator: two divisions for five.

    (2) sigmoid(z) = 1 / (1 + exp(-z)) and tanh(z) = (1 - exp(-2 z)) / (1 + exp(-2 z)), whose error,
    one rounding, is absolute, as a gate's must be.
    """
    one_over_i, one_over_f, one_over_o = (_exp(z, -1) + 1.0 for z in (z_i, z_f, z_o))
    e = _exp(z_g, -2)
    below = one_over_i * (e + 1.0)
    c = c.fma(below, (1.0 - e) * one_over_f) / (below * one_over_f)  # (3)
    e = _exp(c, -2)
    return (1.0 - e) / (one_over_o * (e + 1.0)), c  # (4)


# ---- intrinsics: what jitted loops cannot say -----------------------------------------------
# Arrays come as addresses and strides in bytes: one signature serves every layout, read-only
# input included, and costs a call less than array arguments would.

_INT = ir.IntType(64)
_GATES = 4
# (rows, panels): one row alone takes two panels, so that enough sums are under way at once
_TILES = [(rows, 1) for rows in range(1, ROWS + 1)] + [(1, 2)]


def _vector_type(context, dtype):
    return ir.VectorType(context.get_value_type(dtype), _BYTES * 8 // dtype.bitwidth)


def _load(builder, address, kind, align):
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=align)


def _store(builder, value, address, align):
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=align)


def _at(builder, address, *steps):
    """address + index * stride + ...; index a Python int, stride in bytes an int or a value."""
    for index, stride in steps:
        if index:
            stride = stride if isinstance(stride, ir.Value) else _INT(stride)
            address = builder.add(address, builder.mul(_INT(index), stride))
    return address


def _broadcast(builder, scalar, kind):
    undefined, index = ir.Constant(kind, ir.Undefined), ir.IntType(32)
    first = builder.insert_element(undefined, scalar, index(0))
    lanes = ir.Constant(ir.VectorType(index, kind.count), [0] * kind.count)
    return _Vector(builder, builder.shuffle_vector(first, undefined, lanes))


def _count_down(builder, count, step, carried, body):
    """``while count > 0: carried = body(carried); count -= step``; returns the carried values."""
    before = builder.block
    loop, after = builder.append_basic_block("loop"), builder.append_basic_block("after")
    builder.cbranch(builder.icmp_signed(">", count, _INT(0)), loop, after)
    builder.position_at_end(loop)
    phis = [builder.phi(value.type) for value in (count, *carried)]
    left, *values = phis
    new = [builder.sub(left, _INT(step)), *body(values)]
    end = builder.block
    for phi, first, later in zip(phis, (count, *carried), new, strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(later, end)
    builder.cbranch(builder.icmp_signed(">", new[0], _INT(0)), loop, after)
    builder.position_at_end(after)
    results = []
    for first, later in zip(carried, new[1:], strict=True):
        phi = builder.phi(first.type)
        phi.add_incoming(first, before)
        phi.add_incoming(later, end)
        results.append(phi)
    return results


def _emit_products(builder, kind, size, rows, panels, start, start_stride, w, w_stride,
                   x, x_stride, count):  # fmt: skip
    """start[row, panel, gate, lane] + sum over k < count of x[row, k] w[panel, k, gate, lane]."""
    width = kind.count * size
    vectors = [(r, v) for r in range(rows) for v in range(panels * _GATES)]

    def step(values, times=1):
        w, x, *sums = values
        for _ in range(times):
            inputs = [
                _broadcast(
                    builder,
                    _load(builder, _at(builder, x, (r, x_stride)), kind.element, size),
                    kind,
                )
                for r in range(rows)
            ]
            for v in range(panels * _GATES):
                panel, gate = divmod(v, _GATES)
                at = _at(builder, w, (panel, w_stride), (gate, width))
                weight = _Vector(builder, _load(builder, at, kind, size))
                for r in range(rows):
                    n = r * panels * _GATES + v
                    sums[n] = inputs[r].fma(weight, _Vector(builder, sums[n])).value
            w = builder.add(w, _INT(_GATES * width))
            x = builder.add(x, _INT(size))
        return w, x, *sums

    sums = [
        _load(builder, _at(builder, start, (r, start_stride), (v, width)), kind, size)
        for r, v in vectors
    ]
    values = w, x, *sums
    unroll = max(1, 8 // (rows * panels))  # else the loop costs as much as a single row's products
    if unroll > 1:
        whole = builder.and_(count, _INT(-unroll))
        values = _count_down(builder, whole, unroll, values, functools.partial(step, times=unroll))
        count = builder.sub(count, whole)
    _, _, *sums = _count_down(builder, count, 1, values, step)
    return {key: _Vector(builder, value) for key, value in zip(vectors, sums, strict=True)}


def _emit_products_into(builder, kind, size, rows, panels, z, z_stride, *addresses):
    """z = the products."""
    sums = _emit_products(builder, kind, size, rows, panels, *addresses)
    for (r, v), value in sums.items():
        at = _at(builder, z, (r, z_stride), (v, kind.count * size))
        _store(builder, value.value, at, size)


def _emit_cells(builder, kind, size, rows, panels, c, c_stride, h, h_stride, y, y_stride, units,
                *addresses):  # fmt: skip
    """c, h = the cell of the products; the first `units` units of h go to y too."""
    sums = _emit_products(builder, kind, size, rows, panels, *addresses)
    width = kind.count * size
    stored = []
    for r in range(rows):
        for p in range(panels):
            gates = [sums[r, p * _GATES + q] for q in range(_GATES)]
            at_c = _at(builder, c, (r, c_stride), (p, width))
            new_h, new_c = _cell(*gates, _Vector(builder, _load(builder, at_c, kind, size)))
            _store(builder, new_c.value, at_c, size)
            _store(builder, new_h.value, _at(builder, h, (r, h_stride), (p, width)), size)
            stored.append((_at(builder, y, (r, y_stride), (p, width)), new_h.value))
    whole = builder.icmp_signed("==", units, _INT(panels * kind.count))
    with builder.if_else(whole) as (then, otherwise):
        with then:
            for at_y, value in stored:
                _store(builder, value, at_y, size)
        with otherwise:
            for r in range(rows):
                target, source = (
                    builder.inttoptr(_at(builder, *place), kind.element.as_pointer())
                    for place in ((y, (r, y_stride)), (h, (r, h_stride)))
                )
                cgutils.raw_memcpy(builder, target, source, units, size)


def _tile(emit_case, addresses):
    """The intrinsic ``(zero, rows, panels, *addresses)`` that runs `emit_case` of so many rows."""

    def emit(context, builder, signature, args):
        dtype = signature.args[0]
        done = builder.append_basic_block("done")
        switch = builder.switch(builder.add(builder.mul(args[1], _INT(8)), args[2]), done)
        for rows, panels in _TILES:
            block = builder.append_basic_block(f"rows{rows}_panels{panels}")
            switch.add_case(_INT(rows * 8 + panels), block)
            builder.position_at_end(block)
            kind = _vector_type(context, dtype)
            emit_case(builder, kind, dtype.bitwidth // 8, rows, panels, *args[3:])
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    def typed(zero):
        return types.void(zero, *[types.int64] * (addresses + 2)), emit

    return typed


@intrinsic
def _products(typing, zero, rows, panels, z, z_stride, start, start_stride,
              w, w_stride, x, x_stride, count):  # fmt: skip
    return _tile(_emit_products_into, 9)(zero)


@intrinsic
def _cells(typing, zero, rows, panels, c, c_stride, h, h_stride, y, y_stride, units,
           start, start_stride, w, w_stride, x, x_stride, count):  # fmt: skip
    return _tile(_emit_cells, 14)(zero)


@intrinsic
def _copy(typing, target, source, size):
    """Copy `size` bytes between addresses."""

    def emit(context, builder, signature, args):
        pointers = [builder.inttoptr(a, ir.IntType(8).as_pointer()) for a in args[:2]]
        cgutils.raw_memcpy(builder, *pointers, args[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), emit


# ---- loops ----------------------------------------------------------------------------------


def _kernel(function):
    """Jit, without the GIL; compiled code is kept on disk wherever there is a place for it."""
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(function, cache=True, **options)
    except RuntimeError:  # no folder to write to: compile in every process
        return njit(function, **options)


@_kernel
def _product(zero, rows, z, z_stride, start, start_stride, w, x, x_stride, count):
    """One panel for any number of rows, in tiles as equal as can be."""
    tiles = -(-rows // ROWS)
    for k in range(tiles):
        at = rows * k // tiles
        _products(zero, rows * (k + 1) // tiles - at, 1, z + at * z_stride, z_stride,
                  start + at * start_stride, start_stride,
                  w, 0, x + at * x_stride, x_stride, count)  # fmt: skip


@_kernel
def _project(zero, rows, P, H, size, width, h, h_stride, w_hr, m, m_stride):
    """(5), h = W_hr m, in the same tile, 4 L outputs a panel; zeros to start with precede W_hr."""
    wide = _GATES * width
    for p in range(-(-P * size // wide)):
        _product(zero, rows, h + p * wide, h_stride, w_hr, 0, w_hr + (1 + p * H) * wide,
                 m, m_stride, H)  # fmt: skip


@_kernel
def _layer(zero, plan, work, x, x_stride, y, y_stride, sizes, h_n, c_n, hoist, reverse):
    """One layer in one direction; see `run`.

    `hoist`: of one sequence alone, how many steps' share of the input is made at once; or 0.
    """
    I, H, P, w, b, w_hr, size, width, xh_stride, c_stride = plan
    steps, most = sizes.size, sizes[0]
    lanes = width // size
    h_0, c_0 = h_n.ctypes.data, c_n.ctypes.data
    panels = -(-H // lanes)
    panel_size = (I + P) * _GATES * width
    before_h = -(-I // lanes) * width
    # work: rows [x | h] of this step and of the next, c, m = o tanh(c) that waits for the
    # projection, z_x = the input's share of z for some steps
    h_old = work + before_h
    h_new = h_old + most * xh_stride
    c = work + 2 * most * xh_stride
    m = c + most * c_stride
    z_x = m + (most * c_stride if P != H else 0)
    z_x_stride = panels * _GATES * width
    for r in range(most):
        # both: with `reverse` a row may join at an even step or at an odd one
        _copy(h_old + r * xh_stride, h_0 + r * P * size, P * size)
        _copy(h_new + r * xh_stride, h_0 + r * P * size, P * size)
        _copy(c + r * c_stride, c_0 + r * H * size, H * size)
    # how far the tile reaches back from h, and which weights it begins with
    inputs = 0 if hoist > 0 else I
    first_w = w + (I - inputs) * _GATES * width

    first = sizes.sum() if reverse else 0  # this step's first row in x and y
    hoisted = 0  # steps whose z_x is made already
    hoist_first = 0  # its first row
    live = tiles = even = odd = 0
    for n in range(steps):
        t = steps - 1 - n if reverse else n
        if sizes[t] != live:
            # tiles as equal as can be: 8 rows are 4 + 4, not 5 + 3
            live = sizes[t]
            tiles = -(-live // ROWS)
            even = live // tiles
            odd = live - even * tiles
        if reverse:
            first -= live
        if hoist > 0:
            if hoisted == 0:
                hoisted = min(hoist, steps - n)
                hoist_first = first - hoisted + 1 if reverse else first
                for p in range(panels):
                    at = p * _GATES * width
                    _product(zero, hoisted, z_x + at, z_x_stride, b + at, 0, w + p * panel_size,
                             x + hoist_first * x_stride, x_stride, I)  # fmt: skip
            hoisted -= 1
        else:
            for r in range(live):
                _copy(h_old + r * xh_stride - I * size, x + (first + r) * x_stride, I * size)
        together = 2 if live == 1 else 1
        groups = -(-panels // together)
        for group in range(groups):
            # every other step backwards: it begins with the panels that are still in the cache
            p = (group if n % 2 == 0 else groups - 1 - group) * together
            both = min(together, panels - p)
            at = 0
            for k in range(tiles):
                rows = even + 1 if k < odd else even
                start, start_stride = b + p * _GATES * width, 0
                if hoist > 0:
                    start_stride = z_x_stride
                    start = z_x + (first - hoist_first + at) * z_x_stride + p * _GATES * width
                unit = p * lanes * size
                to, to_stride = h_new + at * xh_stride + unit, xh_stride
                out, out_stride = y + (first + at) * y_stride + unit, y_stride
                if P != H:
                    to, to_stride = m + at * c_stride + unit, c_stride
                    out, out_stride = to, to_stride
                _cells(zero, rows, both, c + at * c_stride + unit, c_stride, to, to_stride,
                       out, out_stride, min(both * lanes, H - p * lanes), start, start_stride,
                       first_w + p * panel_size, panel_size,
                       h_old + at * xh_stride - inputs * size, xh_stride, inputs + P)  # fmt: skip
                at += rows
        if P != H:
            _project(zero, live, P, H, size, width, h_new, xh_stride, w_hr, m, c_stride)
            for r in range(live):
                _copy(y + (first + r) * y_stride, h_new + r * xh_stride, P * size)
        if not reverse:
            first += live
            # sequences that end here
            for r in range(sizes[t + 1] if t + 1 < steps else 0, live):
                _copy(h_0 + r * P * size, h_new + r * xh_stride, P * size)
        h_old, h_new = h_new, h_old
    for r in range(most):
        if reverse:
            _copy(h_0 + r * P * size, h_old + r * xh_stride, P * size)
        _copy(c_0 + r * H * size, c + r * c_stride, H * size)


# ---- the contract ---------------------------------------------------------------------------

# One sequence alone leaves the tile short of rows: if its weights are larger than this, and do not
# stay in the first-level cache anyhow, the input's products are made first, for many steps at
# once, as whole tiles, in chunks that stay in the second-level cache.
_HOIST_ABOVE = 1 << 14
_HOIST_BYTES = 1 << 18


class _Weights:
    """One layer's panels in one direction, and work spaces, which calls take and give back."""

    def __init__(self, w_ih, w_hh, b, w_hr):
        dtype, size = w_ih.dtype, w_ih.itemsize
        lanes = _BYTES // size
        I, P, H = w_ih.shape[1], w_hh.shape[1], len(b) // _GATES
        panels = -(-H // lanes)
        gates = np.zeros((I + P, _GATES, panels * lanes), dtype)
        gates[:, :, :H] = np.concatenate([w_ih, w_hh], 1).T.reshape(-1, _GATES, H)
        bias = np.zeros((_GATES, panels * lanes), dtype)
        bias[:, :H] = b.reshape(_GATES, H)
        # [k][gate][unit] -> [panel][k][gate][lane]
        w = _aligned(gates.reshape(-1, _GATES, panels, lanes).transpose(2, 0, 1, 3))
        b = _aligned(bias.reshape(_GATES, panels, lanes).transpose(1, 0, 2))
        if w_hr is None:
            w_hr = b  # not read
        else:
            # the projection's outputs take the gates' places in the tile: panels of 4 L of them
            wide = _GATES * lanes
            blocks = -(-P // wide)
            columns = np.zeros((H, blocks * wide), dtype)
            columns[:, :P] = w_hr.T
            columns = columns.reshape(H, blocks, wide).transpose(1, 0, 2).ravel()
            w_hr = _aligned(np.concatenate([np.zeros(wide, dtype), columns]))
        self.arrays = w, b, w_hr  # kept alive: the loops know only their addresses
        self.zero = dtype.type(0)  # tells the loops the type
        # bytes from row to row of [x | h], whole vectors (of a projected h, 4 together), and of c
        whole = lanes if P == H else _GATES * lanes
        strides = [
            _off_beat(cells * size) for cells in (_up(I, lanes) + _up(P, whole), _up(H, lanes))
        ]
        places = [a.ctypes.data for a in self.arrays]
        self.plan = np.array([I, H, P, *places, size, _BYTES, *strides], np.int64)
        # [x | h] twice, c, and o tanh(c) on its way into a projection
        self.row_bytes = 2 * strides[0] + (1 if P == H else 2) * strides[1]
        self.z_bytes = panels * _GATES * _BYTES
        self.spare = []  # (work space, its address); append and pop are atomic


def prepare(dtype):
    """Compile, or read from the cache, everything for one dtype: no call waits for it later."""
    with _preparing:
        _prepare(dtype)


@functools.cache
def _prepare(dtype):
    global _prepare_seconds
    begin = time.perf_counter()
    dtype, i = numba.from_dtype(dtype), types.int64
    state = dtype[:, ::1]
    try:
        for layout in "CA":
            for readonly in (False, True):
                _address.compile((types.Array(dtype, 2, layout, readonly=readonly),))
        _layer.compile((dtype, i[::1], *[i] * 5, i[::1], state, state, i, types.boolean))
    except OSError as error:
        raise OSError(
            f"numba cannot keep what it compiled ({error}): make room, or set NUMBA_CACHE_DIR to a "
            "folder that can be written"
        ) from error
    _prepare_seconds += time.perf_counter() - begin


_preparing = threading.Lock()
_prepare_seconds = 0.0
_EMPTY = np.zeros(0, np.uint8)
_KEEP_BYTES = 1 << 23  # a larger work space is given back: beside its call it costs nothing


def pack(w_ih, w_hh, b, w_hr):
    return _Weights(w_ih, w_hh, b, w_hr)


def run(weights, x, batch_sizes, h, c, y, reverse):
    rows = len(h)
    need = rows * weights.row_bytes
    hoist = 0
    if rows == 1 and len(x) > 1 and weights.arrays[0].nbytes > _HOIST_ABOVE:
        hoist = max(1, min(len(x), _HOIST_BYTES // weights.z_bytes))
        need += hoist * weights.z_bytes
    try:
        work, address = weights.spare.pop()
    except IndexError:
        work, address = _EMPTY, 0
    if work.size < need:
        work = _room(need)
        address = work.ctypes.data
    _layer(
        weights.zero, weights.plan, address, _address(x), x.strides[0], _address(y), y.strides[0],
        batch_sizes, h, c, hoist, reverse,
    )  # fmt: skip
    if need <= _KEEP_BYTES:
        weights.spare.append((work, address))


def describe():
    cpu = config.CPU_NAME or binding.get_host_cpu_name()
    return {
        "version": numba.__version__,
        "instruction_set": f"{cpu}, {_BYTES * 8}-bit vectors{' with FMA' if _FMA else ''}",
        "prepare_seconds": round(_prepare_seconds, 3),
    }


@_kernel
def _address(array):
    return array.ctypes.data


def _up(count, whole):
    return -(-count // whole) * whole


def _off_beat(stride):
    """Rows whose distance divides 4 KB would share the same few places of the cache."""
    return stride + _BYTES if stride % 256 == 0 else stride


def _room(size):
    """So many bytes that begin at a cache line, with no values yet."""
    room = np.empty(size + 64, np.uint8)
    begin = -room.ctypes.data % 64
    return room[begin : begin + size]


def _aligned(array):
    """A copy that begins at a cache line."""
    copy = _room(array.nbytes).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
