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

import numba
import numpy as np
from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils, config
from numba.extending import intrinsic

# ---- the machine ----------------------------------------------------------------------------


def _features():
    """The features that numba compiles for: the host's, unless NUMBA_CPU_NAME says otherwise."""
    if config.CPU_FEATURES is not None:
        return {f[1:] for f in config.CPU_FEATURES.split(",") if f.startswith("+")}
    if config.CPU_NAME is not None and config.CPU_NAME != "host":
        return set()
    return {name for name, there in binding.get_host_cpu_features().items() if there}


_FEATURES = _features()
_ARM = binding.get_process_triple().startswith(("aarch64", "arm64"))
_FMA = _ARM or "fma" in _FEATURES
# bytes of a vector, and how many rows' accumulators, 4 vectors each, fit beside weights and input
_BYTES, ROWS = (64, 6) if "avx512f" in _FEATURES else (16, 6) if _ARM else (16, 2)
if _BYTES == 16 and "avx" in _FEATURES:
    _BYTES, ROWS = 32, 3


# ---- LLVM vectors ---------------------------------------------------------------------------


class _Vector:
    """An LLVM vector, or scalar, with the operators that the equations need."""

    def __init__(self, builder, value):
        self.builder, self.value, self.type = builder, value, value.type

    def like(self, value):
        """A constant of this vector's type, or another LLVM value in this class."""
        if isinstance(value, (int, float)):
            lanes = getattr(self.type, "count", None)
            value = ir.Constant(self.type, value if lanes is None else [value] * lanes)
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
        lanes = getattr(self.type, "count", None)
        element = self.type if lanes is None else self.type.element
        name = {"float": "f32", "double": "f64"}[str(element)]
        suffix = name if lanes is None else f"v{lanes}{name}"
        function = cgutils.get_or_insert_function(
            self.builder.module,
            ir.FunctionType(self.type, [self.type] * 3),
            f"llvm.{'fma' if _FMA else 'fmuladd'}.{suffix}",
        )
        return self.like(self.builder.call(function, [self.value, *args]))

    def polynomial(self, coefficients):
        """c[0] + c[1] self + c[2] self^2 + ... by Horner's rule."""
        total = self.like(coefficients[-1])
        for coefficient in coefficients[-2::-1]:
            total = total.fma(self, coefficient)
        return total


# ---- equations (2) to (4) -------------------------------------------------------------------

# tanh(x) = x P(x^2) / Q(x^2) on |x| <= 8.4: minimax of the relative error, 1.1e-8, by reweighted
# least squares; with float32 rounding at most 3e-7 absolute (tests/test_engines.py).
_TANH_BOUND = 8.4
_TANH_P = (
    0.9999999894820011, 0.13419570697406205, 0.003541606617208106,
    2.137959202690218e-05, 1.445758953163824e-08,
)  # fmt: skip
_TANH_Q = (
    1.0, 0.4675289452417701, 0.02605139870107501, 0.00033614094200691623, 8.219855969380845e-07,
)  # fmt: skip


def _is_double(x):
    return str(getattr(x.type, "element", x.type)) == "double"


def _exp(x):
    """exp(x) of doubles, |x| <= 708: 2^n exp(r), n = round(x / ln 2), Taylor to r^13 (4e-18)."""
    builder = x.builder
    magic = 1.5 * 2.0**52  # adding it leaves round(value) in the low bits
    shifted = x.fma(1 / math.log(2), magic)
    n = shifted - magic
    # ln 2 in two parts: the first has zeros at its end, so that n times it is exact
    r = n.fma(-6.93147180369123816490e-01, x)
    r = n.fma(-1.90821492927058770002e-10, r)
    series = r.polynomial([1 / math.factorial(k) for k in range(14)])
    lanes = getattr(x.type, "count", None)
    integer = ir.IntType(64) if lanes is None else ir.VectorType(ir.IntType(64), lanes)

    def constant(value):
        return ir.Constant(integer, value if lanes is None else [value] * lanes)

    bits = builder.bitcast(shifted.value, integer)
    bits = builder.shl(builder.add(bits, constant(1023)), constant(52))
    return series * x.like(builder.bitcast(bits, x.type))


def _tanh(x):
    if _is_double(x):
        # 1 - 2 / (exp(2 x) + 1): its error, some 1e-16, is absolute, as a gate's must be
        return 1.0 - 2.0 / (_exp((x + x).clamp(40)) + 1.0)
    x = x.clamp(_TANH_BOUND)
    square = x * x
    return x * square.polynomial(_TANH_P) / square.polynomial(_TANH_Q)


def _sigmoid(x):
    if _is_double(x):
        return 1.0 / (_exp(x.like(0.0) - x.clamp(708)) + 1.0)
    return _tanh(x * 0.5).fma(0.5, 0.5)


def _cell(i, f, g, o, c):
    i, f, g, o = _sigmoid(i), _sigmoid(f), _tanh(g), _sigmoid(o)  # (2)
    c = f.fma(c, i * g)  # (3)
    return o * _tanh(c), c  # (4)


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
    """address + index * stride + ...; an index is a Python int, a stride in bytes too or a value."""
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


def _emit_tile(builder, kind, size, rows, panels, z, z_stride, start, start_stride, w, w_stride, sources):
    """z = start + sum over the sources, k in order, of source[row, k] w[panel, k, gate, lane]."""
    width = kind.count * size
    vectors = [(r, v) for r in range(rows) for v in range(panels * _GATES)]
    sums = [
        _load(builder, _at(builder, start, (r, start_stride), (v, width)), kind, size)
        for r, v in vectors
    ]
    unroll = max(1, 8 // (rows * panels))  # else the loop costs as much as a single row's products

    for source, stride, count in sources:

        def step(values, stride=stride, times=1):
            w, source, *sums = values
            for _ in range(times):
                inputs = [
                    _broadcast(builder, _load(builder, _at(builder, source, (r, stride)), kind.element, size), kind)
                    for r in range(rows)
                ]
                for v in range(panels * _GATES):
                    panel, gate = divmod(v, _GATES)
                    weight = _load(builder, _at(builder, w, (panel, w_stride), (gate, width)), kind, size)
                    for r in range(rows):
                        n = r * panels * _GATES + v
                        sums[n] = inputs[r].fma(_Vector(builder, weight), _Vector(builder, sums[n])).value
                w = builder.add(w, _INT(_GATES * width))
                source = builder.add(source, _INT(size))
            return w, source, *sums

        carried = w, source, *sums
        if unroll > 1:
            most = builder.and_(count, _INT(-unroll))
            carried = _count_down(builder, most, unroll, carried, functools.partial(step, times=unroll))
            count = builder.sub(count, most)
        w, _, *sums = _count_down(builder, count, 1, carried, step)

    for (r, v), value in zip(vectors, sums, strict=True):
        _store(builder, value, _at(builder, z, (r, z_stride), (v, width)), size)


@intrinsic
def _tile(typing, zero, rows, panels, z, z_stride, start, start_stride, w, w_stride,
          x, x_stride, nx, h, h_stride, nh):  # fmt: skip
    """Equation (1) of a few rows in one or two panels: z = start + x W_ih + h W_hh."""

    def emit(context, builder, signature, args):
        dtype = signature.args[0]
        rows, panels, *addresses = args[1:9]
        x, x_stride, nx, h, h_stride, nh = args[9:]
        done = builder.append_basic_block("done")
        switch = builder.switch(builder.add(builder.mul(rows, _INT(8)), panels), done)
        for case in _TILES:
            block = builder.append_basic_block("rows{}_panels{}".format(*case))
            switch.add_case(_INT(case[0] * 8 + case[1]), block)
            builder.position_at_end(block)
            sources = (x, x_stride, nx), (h, h_stride, nh)
            kind = _vector_type(context, dtype)
            _emit_tile(builder, kind, dtype.bitwidth // 8, *case, *addresses, sources)
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(zero, *[types.int64] * 14), emit


@intrinsic
def _update(typing, zero, rows, z, z_stride, c, c_stride, h, h_stride, y, y_stride, count):
    """Equations (2) to (4) of a few rows in one panel; y gets the first `count` lanes of h."""

    def emit(context, builder, signature, args):
        dtype = signature.args[0]
        size, kind = dtype.bitwidth // 8, _vector_type(context, dtype)
        _, rows, z, z_stride, c, c_stride, h, h_stride, y, y_stride, count = args
        full = builder.icmp_signed("==", count, _INT(kind.count))

        def row(values):
            z, c, h, y = values
            gates = [
                _Vector(builder, _load(builder, _at(builder, z, (q, kind.count * size)), kind, size))
                for q in range(_GATES)
            ]
            new_h, new_c = _cell(*gates, _Vector(builder, _load(builder, c, kind, size)))
            _store(builder, new_c.value, c, size)
            _store(builder, new_h.value, h, size)
            with builder.if_else(full) as (then, otherwise):
                with then:
                    _store(builder, new_h.value, y, size)
                with otherwise:
                    cgutils.raw_memcpy(
                        builder,
                        builder.inttoptr(y, kind.element.as_pointer()),
                        builder.inttoptr(h, kind.element.as_pointer()),
                        count,
                        size,
                    )
            return [
                builder.add(address, stride)
                for address, stride in ((z, z_stride), (c, c_stride), (h, h_stride), (y, y_stride))
            ]

        _count_down(builder, rows, 1, (z, c, h, y), row)
        return context.get_dummy_value()

    return types.void(zero, *[types.int64] * 10), emit


@intrinsic
def _copy(typing, target, source, size):
    """Copy `size` bytes between addresses."""

    def emit(context, builder, signature, args):
        pointers = [builder.inttoptr(a, ir.IntType(8).as_pointer()) for a in args[:2]]
        cgutils.raw_memcpy(builder, *pointers, args[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), emit


def _scalar_intrinsic(function):
    """The same arithmetic as in the cell, for one number: what the tests measure."""

    @intrinsic
    def apply(typing, x):
        def emit(context, builder, signature, args):
            return function(_Vector(builder, args[0])).value

        return x(x), emit

    return apply


_sigmoid_of, _tanh_of = _scalar_intrinsic(_sigmoid), _scalar_intrinsic(_tanh)


@njit
def sigmoid(x):
    return _sigmoid_of(x)


@njit
def tanh(x):
    return _tanh_of(x)


# ---- loops ----------------------------------------------------------------------------------


def _kernel(function):
    """Jit, without the GIL; compiled code is kept on disk wherever there is a place for it."""
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(function, cache=True, **options)
    except RuntimeError:  # no folder to write to: compile in every process
        return njit(function, **options)


@_kernel
def _product(zero, rows, panels, z, z_stride, start, start_stride, w, w_stride,
             x, x_stride, nx, h, h_stride, nh):  # fmt: skip
    _tile(zero, rows, panels, z, z_stride, start, start_stride, w, w_stride,
          x, x_stride, nx, h, h_stride, nh)  # fmt: skip


@_kernel
def _layer(zero, size, lanes, x, x_stride, y, y_stride, h_0, c_0, sizes, I, H, P,
           w, b, w_hr, work, hoist, reverse):  # fmt: skip
    """One layer in one direction; see `run`."""
    steps, most = sizes.size, sizes[0]
    width = lanes * size
    panel_size = (I + P) * _GATES * width
    panels = -(-H // lanes)
    # work: two buffers of h (this step's and the last one's), c, one tile's z, hoisted products
    h_stride, c_stride = _strides(H, P, lanes, size)
    h_old = work
    h_new = h_old + most * h_stride
    c = h_new + most * h_stride
    m = c + most * c_stride  # o * tanh(c) on its way into the projection
    tile = m + (most * c_stride if P != H else 0)
    tile_stride = 2 * _GATES * width
    z_x = tile + ROWS * tile_stride
    z_stride = panels * _GATES * width
    for r in range(most):
        _copy(h_old + r * h_stride, h_0 + r * P * size, P * size)
        _copy(h_new + r * h_stride, h_0 + r * P * size, P * size)
        _copy(c + r * c_stride, c_0 + r * H * size, H * size)
    total = 0
    for t in range(steps):
        total += sizes[t]
    first = total if reverse else 0  # the row of this step's first sequence
    left = 0  # steps whose input product is in z_x already
    base = 0  # the row at which z_x begins
    for n in range(steps):
        t = steps - 1 - n if reverse else n
        live = sizes[t]
        if reverse:
            first -= live
        if hoist > 0 and left == 0:
            # the input products of some steps at once: whole tiles of rows
            rows = 0
            while left < steps - n and (left == 0 or rows + sizes[t - left if reverse else t + left] <= hoist):
                rows += sizes[t - left if reverse else t + left]
                left += 1
            base = first + live - rows if reverse else first
            blocks = -(-rows // ROWS)
            for p in range(panels):
                for k in range(blocks):
                    at = rows * k // blocks
                    _product(zero, rows * (k + 1) // blocks - at, 1,
                             z_x + at * z_stride + p * _GATES * width, z_stride,
                             b + p * _GATES * width, 0, w + p * panel_size, panel_size,
                             x + (base + at) * x_stride, x_stride, I, x, 0, 0)  # fmt: skip
        left -= 1
        blocks = -(-live // ROWS)
        pair = 2 if live == 1 else 1
        p = 0
        while p < panels:
            together = min(pair, panels - p)
            for k in range(blocks):
                at = live * k // blocks
                rows = live * (k + 1) // blocks - at
                if hoist > 0:
                    _product(zero, rows, together, tile, tile_stride,
                             z_x + (first - base + at) * z_stride + p * _GATES * width, z_stride,
                             w + p * panel_size + I * _GATES * width, panel_size,
                             x, 0, 0, h_old + at * h_stride, h_stride, P)  # fmt: skip
                else:
                    _product(zero, rows, together, tile, tile_stride,
                             b + p * _GATES * width, 0, w + p * panel_size, panel_size,
                             x + (first + at) * x_stride, x_stride, I,
                             h_old + at * h_stride, h_stride, P)  # fmt: skip
                for q in range(together):
                    unit = (p + q) * lanes
                    to, to_stride = h_new + at * h_stride + unit * size, h_stride
                    out, out_stride = y + (first + at) * y_stride + unit * size, y_stride
                    if P != H:
                        to, to_stride = m + at * c_stride + unit * size, c_stride
                        out, out_stride = to, to_stride
                    _update(zero, rows, tile + q * _GATES * width, tile_stride,
                            c + at * c_stride + unit * size, c_stride,
                            to, to_stride, out, out_stride, min(lanes, H - unit))  # fmt: skip
            p += together
        if P != H:
            # (5): the tile again, for blocks of 4 L outputs; its start is the zeros behind w_hr
            for p in range(-(-P // (_GATES * lanes))):
                for k in range(blocks):
                    at = live * k // blocks
                    _product(zero, live * (k + 1) // blocks - at, 1,
                             h_new + at * h_stride + p * _GATES * width, h_stride,
                             w_hr, 0, w_hr + _GATES * width + p * H * _GATES * width, 0,
                             m + at * c_stride, c_stride, H, x, 0, 0)  # fmt: skip
            for r in range(live):
                _copy(y + (first + r) * y_stride, h_new + r * h_stride, P * size)
        if not reverse:
            # sequences that end here keep their h in both buffers
            ending = sizes[t + 1] if t + 1 < steps else 0
            for r in range(ending, live):
                _copy(h_0 + r * P * size, h_new + r * h_stride, P * size)
            first += live
        h_old, h_new = h_new, h_old
    for r in range(most):
        if reverse:
            _copy(h_0 + r * P * size, h_old + r * h_stride, P * size)
        _copy(c_0 + r * H * size, c + r * c_stride, H * size)


@_kernel
def _strides(H, P, lanes, size):
    """Bytes from row to row of h and of c, room for whole panels; not a multiple of 256."""
    h = -(-P // (_GATES * lanes)) * _GATES * lanes * size if P != H else -(-H // lanes) * lanes * size
    c = -(-H // lanes) * lanes * size
    # rows that lie 4 KB apart would fall into the same few places of the cache
    return h + (lanes * size if h % 256 == 0 else 0), c + (lanes * size if c % 256 == 0 else 0)


# ---- the contract ---------------------------------------------------------------------------

class _Weights:
    """One layer's panels in one direction, and work space that calls return for the next one."""

    def __init__(self, w_ih, w_hh, b, w_hr):
        self.dtype = w_ih.dtype
        self.size = self.dtype.itemsize
        self.lanes = lanes = _BYTES // self.size
        (rows, self.I), self.P = w_ih.shape, w_hh.shape[1]
        self.H = H = rows // _GATES
        panels = -(-H // lanes)
        gates = np.zeros((self.I + self.P, _GATES, panels * lanes), self.dtype)
        gates[:, :, :H] = np.concatenate([w_ih, w_hh], 1).T.reshape(-1, _GATES, H)
        bias = np.zeros((_GATES, panels * lanes), self.dtype)
        bias[:, :H] = b.reshape(_GATES, H)
        # [k][gate][unit] -> [panel][k][gate][lane]
        self.w = _aligned(gates.reshape(-1, _GATES, panels, lanes).transpose(2, 0, 1, 3))
        self.b = _aligned(bias.reshape(_GATES, panels, lanes).transpose(1, 0, 2))
        self.w_hr = self.b
        if w_hr is not None:
            wide = _GATES * lanes
            blocks = -(-self.P // wide)
            columns = np.zeros((H, blocks * wide), self.dtype)
            columns[:, : self.P] = w_hr.T
            panels_hr = columns.reshape(H, blocks, wide).transpose(1, 0, 2).ravel()
            self.w_hr = _aligned(np.concatenate([np.zeros(wide, self.dtype), panels_hr]))
        self.zero = self.dtype.type(0)
        self.spare = []

HOIST_BELOW = 8
HOIST_BYTES = 1 << 18

def run(weights, x, batch_sizes, h, c, y, reverse):
    g = weights
    B = len(h)
    hs, cs = _strides.py_func(g.H, g.P, g.lanes, g.size)
    zrow = -(-g.H // g.lanes) * _GATES * g.lanes * g.size
    hoist = 0
    if B < HOIST_BELOW and len(batch_sizes) > 1:
        hoist = max(min(len(x), HOIST_BYTES // zrow), B)
    need = B*(2*hs+2*cs) + ROWS*2*_GATES*_BYTES + hoist*zrow
    try:
        work = g.spare.pop()
        if work.nbytes < need: work = _aligned(np.zeros(need, np.uint8))
    except IndexError:
        work = _aligned(np.zeros(need, np.uint8))
    _layer(g.zero, g.size, g.lanes, _address(x), x.strides[0], _address(y), y.strides[0], _address(h), _address(c),
      batch_sizes, g.I, g.H, g.P, _address(g.w), _address(g.b), _address(g.w_hr), _address(work), hoist, reverse)
    g.spare.append(work)

def _address(a): return a.ctypes.data

def _aligned(array):
    """A copy that begins at a multiple of 64 bytes."""
    room = np.empty(array.nbytes + 64, np.uint8)
    begin = -room.ctypes.data % 64
    copy = room[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy

def pack(w_ih, w_hh, b, w_hr): return _Weights(w_ih, w_hh, b, w_hr)
def prepare(dtype): pass
def describe(): return {"version": numba.__version__, "instruction_set": f"{_BYTES*8}"}
