"""Jitted loops over packed panels, with a register tile of LLVM vectors.

The contract, the legend and the numbered equations are in `fastlstm.engines`. How it is fast:

- Weights are packed in panels of one vector's lanes L of units, ``[panel][k][gate][lane]``, k over
  the inputs x, then the outputs h: all four gates of L units and a few rows fit in registers, so
  that a product is one stream of fused multiply-adds over the panel, and the cell is its epilogue.
- Every accumulator begins with b, then adds x in order, then h in order; the cell is the same
  arithmetic on every lane. So a row's result does not depend, bit for bit, on which rows are
  computed beside it, nor on how time was cut.
- On the way back every product is the same tile's: dz by the weights, packed anew, for h and x;
  [x | h_0 | 1]^T by dz, some steps' rows at once, for the gradients of weights and biases.
- Plain jitted loops keep no accumulator in a register (3 to 5 times slower); so the tile and the
  cell are intrinsics, built by the few lines of LLVM vector code below for any number of rows,
  lanes and either dtype.
"""

import functools
import math

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
FMA = _ARM or "fma" in _FEATURES
# bytes of a vector, and how many rows' accumulators, 4 vectors each, fit beside weights and input;
# of 32 registers a sixth row would leave too few for the cell, and 6 rows of input fill a small L1
BYTES, ROWS = (64, 5) if "avx512f" in _FEATURES else (16, 5) if _ARM else (16, 2)
if BYTES == 16 and "avx" in _FEATURES:
    BYTES, ROWS = 32, 3


# ---- LLVM vectors ---------------------------------------------------------------------------

_SUFFIX = {"float": "f32", "double": "f64"}  # of an intrinsic's name


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

    def clamp(self, low, high):
        """Into [low, high]; nan stays nan. Compiles to one min and one max."""
        value = self.value
        for beyond, limit in ((">", high), ("<", low)):
            limit = self.like(float(limit)).value
            beyond = self.builder.fcmp_ordered(beyond, value, limit)
            value = self.builder.select(beyond, limit, value)
        return self.like(value)

    def fma(self, factor, addend):
        """self * factor + addend, rounded once where the machine can."""
        args = [v.value if isinstance(v, _Vector) else self.like(v).value for v in (factor, addend)]
        suffix = _SUFFIX[self.element]
        suffix = suffix if self.lanes is None else f"v{self.lanes}{suffix}"
        function = cgutils.get_or_insert_function(
            self.builder.module,
            ir.FunctionType(self.type, [self.type] * 3),
            f"llvm.{'fma' if FMA else 'fmuladd'}.{suffix}",
        )
        return self.like(self.builder.call(function, [self.value, *args]))

    def _integers(self):
        """The type of its bits."""
        integer = ir.IntType({"float": 32, "double": 64}[self.element])
        return integer if self.lanes is None else ir.VectorType(integer, self.lanes)

    def to_exponent(self, mantissa):
        """The lowest bits moved to where the exponent stands, above so many of the mantissa."""
        integer = self._integers()
        bits = self.builder.bitcast(self.value, integer)
        bits = self.builder.shl(bits, _constant(integer, mantissa))
        return self.like(self.builder.bitcast(bits, self.type))

    def without_sign(self):
        """Its absolute value, and its sign's bit alone."""
        integer = self._integers()
        bits = self.builder.bitcast(self.value, integer)
        minus = self.builder.bitcast(self.like(-0.0).value, integer)
        sign = self.builder.and_(bits, minus)
        return self.like(self.builder.bitcast(self.builder.xor(bits, sign), self.type)), sign

    def with_sign(self, sign):
        """A number that has no sign, with this one."""
        bits = self.builder.bitcast(self.value, self._integers())
        return self.like(self.builder.bitcast(self.builder.xor(bits, sign), self.type))

    def polynomial(self, coefficients):
        """c[0] + c[1] self + c[2] self^2 + ... by Horner's rule."""
        total = self.like(coefficients[-1])
        for coefficient in coefficients[-2::-1]:
            total = total.fma(self, coefficient)
        return total


# ---- equations (2) to (4) -------------------------------------------------------------------

# e^r on |r| <= ln(2) / 2. float32: c[0] = 1, the rest minimax of the relative error of
# (e^r - 1) / r, 1.4e-8; float64: Taylor, 1e-17.
_EXP = {
    "float": (1.0, 1.0, 0.4999999701976776, 0.1666654646396637, 0.04166743904352188,
              0.008366254158318043, 0.0013870274415239692),
    "double": [1 / math.factorial(k) for k in range(14)],
}  # fmt: skip
# bits of the mantissa, the exponent's bias, and ln(2) as two numbers, of which the first, times any
# exponent, is exact
_FORMAT = {
    "float": (23, 127, 0.693359375, -2.12194440e-4),
    "double": (52, 1023, 0.6931471803691238, 1.9082149292705877e-10),
}


def _reduce(x, times, exactly):
    """e^(times x) = 2^n e^(times r) with a whole n: r and 2^n.

    `exactly`: r has the error of its own last bit, else that of n's.
    """
    mantissa, bias, larger, smaller = _FORMAT[x.element]
    magic = 1.5 * 2.0**mantissa + bias  # added, it leaves n + bias in the lowest bits
    shifted = x.fma(times / math.log(2), magic)
    n = shifted - magic
    r = n.fma(-larger / times, x) if exactly else n.fma(-math.log(2) / times, x)
    return n.fma(-smaller / times, r) if exactly else r, shifted.to_exponent(mantissa)


def _below_sigmoid(x):
    """1 / sigmoid(x) = 1 + e^-x.

    It is inf where the sigmoid would be no normal number, 1 where it rounds to 1.
    """
    _, bias, *_ = _FORMAT[x.element]
    # 2^-bias and 2^(bias + 1) come out as 0 and inf
    x = x.clamp(-(bias + 1.4) * math.log(2), (bias + 0.4) * math.log(2))
    r, power = _reduce(x, -1, True)
    terms = [c * (-1) ** k for k, c in enumerate(_EXP[x.element])]
    return r.polynomial(terms).fma(power, 1.0)


def _tanh(x):
    """tanh(x) = above / below: 1 - e with the sign of x, and 1 + e; e = e^(-2 |x|) = p (1 + t).

    As 1 - e = (1 - p) - p t, nothing is lost where x is small. `below` is 2 at most: its product
    with a 1 / sigmoid overflows only where that sigmoid is no normal number.
    """
    size, sign = x.without_sign()
    size = size.clamp(0, _FORMAT[x.element][0])  # from there on, and long before, it is 1
    r, p = _reduce(size, -2, False)
    terms = [-c * (-2) ** k for k, c in enumerate(_EXP[x.element]) if k]
    above = (r.polynomial(terms) * r).fma(p, 1.0 - p)
    return above.with_sign(sign), 2.0 - above


def _next_c(z_i, z_f, z_g, z_o, c):
    """(2) and (3): c and 1 / o of one step. Third, what `_gates` makes the gates of."""
    below_i, below_f, below_o = (_below_sigmoid(z) for z in (z_i, z_f, z_o))
    above_g, below_g = _tanh(z_g)
    f = 1.0 / below_f
    c = f.fma(c, above_g / (below_i * below_g))
    return c, below_o, (below_i, f, above_g, below_g, below_o)


def _next_h(below_o, c):
    """(4): o tanh(c) of 1 / o and c."""
    above, below = _tanh(c)
    return above / (below_o * below)


def _gates(below_i, f, above_g, below_g, below_o):
    """i, f, g and o of a `_next_c`."""
    return 1.0 / below_i, f, above_g / below_g, 1.0 / below_o


def _cell_gradients(i, f, g, o, c, c_0, dm, dc):
    """(7) to (9) but for the products: dz of the four gates, dc_0, and m = o * tanh(c)."""
    above, below = _tanh(c)
    tanh_c = above / below
    m = o * tanh_c
    dc = (dm * o).fma(1.0 - tanh_c * tanh_c, dc)  # (7)
    dz_i = dc * g * i * (1.0 - i)  # (8)
    dz_f = dc * c_0 * f * (1.0 - f)
    dz_g = dc * i * (1.0 - g * g)
    dz_o = dm * m * (1.0 - o)
    return (dz_i, dz_f, dz_g, dz_o), dc * f, m


# ---- intrinsics: what jitted loops cannot say -----------------------------------------------
# Arrays come as addresses and strides in bytes: one signature serves every layout, read-only
# input included, and costs a call less than array arguments would.

_INT = ir.IntType(64)
GATES = 4
# (rows, vectors) of a tile: a panel has 4 vectors, one for each gate, and one row alone takes two
# panels, so that enough sums are under way at once
_TILES = [(rows, GATES) for rows in range(1, ROWS + 1)] + [(1, 2 * GATES)]
# of columns that are no gates there may be few
_NARROW_TILES = [(rows, 1) for rows in range(1, ROWS + 1)]


def _vector_type(context, dtype):
    return ir.VectorType(context.get_value_type(dtype), BYTES * 8 // dtype.bitwidth)


def _load(builder, address, kind, align):
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=align)


def _store(builder, value, address, align):
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=align)


def _first_lanes(builder, kind, units):
    """A mask of so many lanes."""
    integer = ir.VectorType(ir.IntType(32), kind.count)
    lanes = ir.Constant(integer, list(range(kind.count)))
    units = builder.trunc(units, ir.IntType(32))
    return builder.icmp_signed("<", lanes, _broadcast(builder, units, integer))


def _masked(builder, operation, kind, *args):
    """LLVM's masked load or store; lanes that are masked off are neither read nor written."""
    name = f"v{kind.count}{_SUFFIX[str(kind.element)]}"
    mask, align = ir.VectorType(ir.IntType(1), kind.count), ir.IntType(32)
    pointer = kind.as_pointer()
    if operation == "load":
        signature = ir.FunctionType(kind, [pointer, align, mask, kind])
    else:
        signature = ir.FunctionType(ir.VoidType(), [kind, pointer, align, mask])
    function = cgutils.get_or_insert_function(
        builder.module, signature, f"llvm.masked.{operation}.{name}.p0{name}"
    )
    return builder.call(function, args)


def _load_units(builder, addresses, units, kind, align):
    """Vectors at the addresses, of which only `units` lanes are there; 0 in the others."""
    whole, part = builder.append_basic_block("whole"), builder.append_basic_block("part")
    after = builder.append_basic_block("loaded")
    builder.cbranch(builder.icmp_signed(">=", units, _INT(kind.count)), whole, part)
    builder.position_at_end(whole)
    all_lanes = [_load(builder, address, kind, align) for address in addresses]
    builder.branch(after)
    builder.position_at_end(part)
    mask, zero = _first_lanes(builder, kind, units), _constant(kind, 0.0)
    some_lanes = [
        _masked(builder, "load", kind, builder.inttoptr(address, kind.as_pointer()),
                ir.IntType(32)(align), mask, zero)
        for address in addresses
    ]  # fmt: skip
    builder.branch(after)
    builder.position_at_end(after)
    values = []
    for whole_value, part_value in zip(all_lanes, some_lanes, strict=True):
        phi = builder.phi(kind)
        phi.add_incoming(whole_value, whole)
        phi.add_incoming(part_value, part)
        values.append(_Vector(builder, phi))
    return values


def _store_units(builder, stores, units, align):
    """Store pairs (vector, address), of each vector the first `units` lanes."""
    kind = stores[0][0].type
    with builder.if_else(builder.icmp_signed(">=", units, _INT(kind.count))) as (whole, part):
        with whole:
            for vector, address in stores:
                _store(builder, vector.value, address, align)
        with part:
            mask = _first_lanes(builder, kind, units)
            for vector, address in stores:
                pointer = builder.inttoptr(address, kind.as_pointer())
                _masked(builder, "store", kind, vector.value, pointer, ir.IntType(32)(align), mask)


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
    return builder.shuffle_vector(first, undefined, lanes)


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


def _emit_products(builder, kind, size, rows, vectors, start, start_stride, w, w_stride,
                   x, x_stride, x_step, count):  # fmt: skip
    """start[row, vector, lane] + sum over k < count of x[row, k] w[panel, k, gate, lane].

    Vectors are counted through the panels. The rows of x lie `x_stride` bytes apart, the values of
    a row `x_step`.
    """
    width = kind.count * size
    keys = [(r, v) for r in range(rows) for v in range(vectors)]

    def step(values, times=1):
        w, x, *sums = values
        for _ in range(times):
            inputs = [
                _load(builder, _at(builder, x, (r, x_stride)), kind.element, size)
                for r in range(rows)
            ]
            inputs = [_Vector(builder, _broadcast(builder, scalar, kind)) for scalar in inputs]
            for v in range(vectors):
                panel, gate = divmod(v, GATES)
                at = _at(builder, w, (panel, w_stride), (gate, width))
                weight = _Vector(builder, _load(builder, at, kind, size))
                for r in range(rows):
                    n = r * vectors + v
                    sums[n] = inputs[r].fma(weight, _Vector(builder, sums[n])).value
            w = builder.add(w, _INT(GATES * width))
            x = builder.add(x, x_step)
        return w, x, *sums

    sums = [
        _load(builder, _at(builder, start, (r, start_stride), (v, width)), kind, size)
        for r, v in keys
    ]
    values = w, x, *sums
    unroll = 1 << min(
        3, (32 // (rows * vectors)).bit_length() - 1
    )  # else the loop costs as much as a single row's products
    if unroll > 1:
        whole = builder.and_(count, _INT(-unroll))
        values = _count_down(builder, whole, unroll, values, functools.partial(step, times=unroll))
        count = builder.sub(count, whole)
    _, _, *sums = _count_down(builder, count, 1, values, step)
    return {key: _Vector(builder, value) for key, value in zip(keys, sums, strict=True)}


def _emit_products_into(builder, kind, size, rows, vectors, z, z_stride, start,
                        *addresses):  # fmt: skip
    """z = the products; every row starts with the same."""
    sums = _emit_products(builder, kind, size, rows, vectors, start, _INT(0), *addresses)
    for (r, v), value in sums.items():
        at = _at(builder, z, (r, z_stride), (v, kind.count * size))
        _store(builder, value.value, at, size)


def _emit_cells(builder, kind, size, rows, vectors, c, c_stride, h, h_stride, y, y_stride, units,
                gates, cells, saved_stride, *addresses):  # fmt: skip
    """c, h = the cell of the products; the first `units` units of h go to y too.

    If `gates` is not 0, those of the gates and of c go there and to `cells`; from gate to gate, as
    from row to row of `cells`, it is `saved_stride`.
    """
    *addresses, count = addresses
    sums = _emit_products(builder, kind, size, rows, vectors, *addresses, _INT(size), count)
    panels = vectors // GATES
    width = kind.count * size
    saving = builder.icmp_signed("!=", gates, _INT(0))
    stored, states = [[] for _ in range(panels)], {}
    for r in range(rows):
        for p in range(panels):
            z = [sums[r, p * GATES + q] for q in range(GATES)]
            at_c = _at(builder, c, (r, c_stride), (p, width))
            new_c, below_o, parts = _next_c(*z, _Vector(builder, _load(builder, at_c, kind, size)))
            _store(builder, new_c.value, at_c, size)
            states[r, p] = below_o, new_c
            with builder.if_then(saving):
                saved = [(new_c, _at(builder, cells, (r, saved_stride), (p, width)))]
                for q, gate in enumerate(_gates(*parts)):
                    place = (r * GATES + q, saved_stride), (p, width)
                    saved.append((gate, _at(builder, gates, *place)))
                _store_units(builder, saved, _left(builder, units, kind, p), size)
    # (4) of all rows by itself: chains of all of them are under way at once
    for (r, p), state in states.items():
        new_h = _next_h(*state)
        _store(builder, new_h.value, _at(builder, h, (r, h_stride), (p, width)), size)
        stored[p].append((new_h, _at(builder, y, (r, y_stride), (p, width))))
    for p in range(panels):
        _store_units(builder, stored[p], _left(builder, units, kind, p), size)


def _left(builder, units, kind, panel):
    return builder.sub(units, _INT(panel * kind.count))


def _tile(emit_case, addresses, tiles):
    """The intrinsic ``(zero, rows, vectors, *addresses)`` that runs `emit_case` of so many."""

    def emit(context, builder, signature, args):
        dtype = signature.args[0]
        done = builder.append_basic_block("done")
        switch = builder.switch(builder.add(builder.mul(args[1], _INT(16)), args[2]), done)
        for rows, vectors in tiles:
            block = builder.append_basic_block(f"rows{rows}_vectors{vectors}")
            switch.add_case(_INT(rows * 16 + vectors), block)
            builder.position_at_end(block)
            kind = _vector_type(context, dtype)
            emit_case(builder, kind, dtype.bitwidth // 8, rows, vectors, *args[3:])
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    def typed(zero):
        return types.void(zero, *[types.int64] * (addresses + 2)), emit

    return typed


@intrinsic
def _products(typing, zero, rows, vectors, z, z_stride, start, w, w_stride,
              x, x_stride, x_step, count):  # fmt: skip
    return _tile(_emit_products_into, 9, _TILES + _NARROW_TILES)(zero)


@intrinsic
def _cells(typing, zero, rows, vectors, c, c_stride, h, h_stride, y, y_stride, units,
           gates, cells, saved_stride, start, start_stride, w, w_stride,
           x, x_stride, count):  # fmt: skip
    return _tile(_emit_cells, 17, _TILES)(zero)


def _element_wise(emit_case, addresses):
    """The intrinsic ``(zero, units, *addresses)`` that runs `emit_case` on a vector's lanes."""

    def emit(context, builder, signature, args):
        dtype = signature.args[0]
        emit_case(builder, _vector_type(context, dtype), dtype.bitwidth // 8, *args[1:])
        return context.get_dummy_value()

    def typed(zero):
        return types.void(zero, *[types.int64] * (addresses + 1)), emit

    return typed


def _emit_cell_gradients(builder, kind, size, units, gates, cells, cells_0, stride, dm, dc, dz,
                         dz_panel):  # fmt: skip
    """Of L units of a row: dz, from gate to gate `stride` as in `gates`, and side by side too.

    dc becomes that of the step before, dm becomes m; both, and `dz_panel`, have whole vectors.
    """
    addresses = [_at(builder, gates, (q, stride)) for q in range(GATES)] + [cells, cells_0]
    saved = _load_units(builder, addresses, units, kind, size)
    old = [_Vector(builder, _load(builder, address, kind, size)) for address in (dm, dc)]
    new_dz, new_dc, m = _cell_gradients(*saved, *old)
    _store(builder, m.value, dm, size)
    _store(builder, new_dc.value, dc, size)
    stores = []
    for q, value in enumerate(new_dz):
        _store(builder, value.value, _at(builder, dz_panel, (q, kind.count * size)), size)
        stores.append((value, _at(builder, dz, (q, stride))))
    _store_units(builder, stores, units, size)


@intrinsic
def _gradients(typing, zero, units, gates, cells, cells_0, stride, dm, dc, dz,
               dz_panel):  # fmt: skip
    return _element_wise(_emit_cell_gradients, 8)(zero)


def _emit_sum(builder, kind, size, units, target, source):
    a, b = _load_units(builder, [target, source], units, kind, size)
    _store_units(builder, [(a + b, target)], units, size)


@intrinsic
def _sum(typing, zero, units, target, source):
    return _element_wise(_emit_sum, 2)(zero)


@intrinsic
def _increase(typing, zero, target, source):
    """One value: target += source."""

    def emit(context, builder, signature, args):
        kind, size = context.get_value_type(zero), zero.bitwidth // 8
        a, b = (_load(builder, address, kind, size) for address in args[1:])
        _store(builder, builder.fadd(a, b), args[1], size)
        return context.get_dummy_value()

    return types.void(zero, types.int64, types.int64), emit


@intrinsic
def _size(typing, zero):
    """Bytes of a value, known when this is compiled."""
    return types.int64(zero), lambda *_: _INT(zero.bitwidth // 8)


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
def _product(zero, rows, columns, z, z_stride, z_panel, b, w, w_panel, x, x_stride, x_step,
             count):  # fmt: skip
    """z = x w + b for any numbers of rows and columns, in tiles as equal as can be.

    w in panels of 4 L columns, ``[panel][k][column]``; z has room for whole panels. From panel to
    panel it is `z_panel` and `w_panel`.
    """
    wide = GATES * BYTES
    tiles = -(-rows // ROWS)
    left = -(-columns * _size(zero) // BYTES)
    p = 0
    while left > 0:
        vectors = 1 if left == 1 else 2 * GATES if rows == 1 and left > GATES else GATES
        for k in range(tiles):
            at = rows * k // tiles
            _products(zero, rows * (k + 1) // tiles - at, vectors, z + p * z_panel + at * z_stride,
                      z_stride, b + p * wide, w + p * w_panel, w_panel,
                      x + at * x_stride, x_stride, x_step, count)  # fmt: skip
        left -= vectors
        p += -(-vectors // GATES)


ROWS_TOGETHER = 64  # of a linear product: x and sums stay in the cache


@_kernel
def multiply_rows(zero, rows, columns, y, y_stride, room, b, w, x, x_stride, count):
    """y = x w + b, some rows at once by way of `room`, which has whole panels; y may not."""
    wide = GATES * BYTES
    size = _size(zero)
    stride = -(-columns * size // wide) * wide
    for at in range(0, rows, ROWS_TOGETHER):
        now = min(ROWS_TOGETHER, rows - at)
        _product(zero, now, columns, room, stride, wide, b, w, count * wide,
                 x + at * x_stride, x_stride, size, count)  # fmt: skip
        for r in range(now):
            _copy(y + (at + r) * y_stride, room + r * stride, columns * size)


@_kernel
def _add(zero, count, target, source):
    """target += source, of so many values side by side."""
    lanes = BYTES // _size(zero)
    for at in range(0, count, lanes):
        _sum(zero, count - at, target + at * _size(zero), source + at * _size(zero))


@_kernel
def run_layer(zero, plan, work, x, x_stride, y, y_stride, gates, cells, sizes, h_n, c_n, hoist,
              reverse):  # fmt: skip
    """One layer in one direction; see `run`.

    `hoist`: of one sequence alone, how many steps' share of the input is made at once; or 0.
    """
    I, H, P, w, b, w_hr, zeros, xh_stride, c_stride = plan
    size, width = _size(zero), BYTES
    steps, most = sizes.size, sizes[0]
    lanes = width // size
    h_0, c_0 = np.int64(h_n.ctypes.data), np.int64(c_n.ctypes.data)
    panels = -(-H // lanes)
    panel_size = (I + P) * GATES * width
    before_h = -(-I // lanes) * width
    # work: rows [x | h] of this step and of the next, c, m = o tanh(c) that waits for the
    # projection, z_x = the input's share of z for some steps
    h_old = work + before_h
    h_new = h_old + most * xh_stride
    c = work + 2 * most * xh_stride
    m = c + most * c_stride
    z_x = m + (most * c_stride if P != H else 0)
    z_x_stride = panels * GATES * width
    for r in range(most):
        # both: with `reverse` a row may join at an even step or at an odd one
        _copy(h_old + r * xh_stride, h_0 + r * P * size, P * size)
        _copy(h_new + r * xh_stride, h_0 + r * P * size, P * size)
        _copy(c + r * c_stride, c_0 + r * H * size, H * size)
    # how far the tile reaches back from h, and which weights it begins with
    inputs = 0 if hoist > 0 else I
    first_w = w + (I - inputs) * GATES * width

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
                _product(zero, hoisted, panels * GATES * lanes, z_x, z_x_stride, GATES * width,
                         b, w, panel_size, x + hoist_first * x_stride, x_stride, size,
                         I)  # fmt: skip
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
                start, start_stride = b + p * GATES * width, 0
                if hoist > 0:
                    start_stride = z_x_stride
                    start = z_x + (first - hoist_first + at) * z_x_stride + p * GATES * width
                unit = p * lanes * size
                to, to_stride = h_new + at * xh_stride + unit, xh_stride
                out, out_stride = y + (first + at) * y_stride + unit, y_stride
                if P != H:
                    to, to_stride = m + at * c_stride + unit, c_stride
                    out, out_stride = to, to_stride
                to_gates = gates + (first + at) * GATES * H * size + unit if gates else 0
                _cells(zero, rows, both * GATES, c + at * c_stride + unit, c_stride, to, to_stride,
                       out, out_stride, min(both * lanes, H - p * lanes),
                       to_gates, cells + (first + at) * H * size + unit, H * size,
                       start, start_stride,
                       first_w + p * panel_size, panel_size,
                       h_old + at * xh_stride - inputs * size, xh_stride, inputs + P)  # fmt: skip
                at += rows
        if P != H:
            _product(zero, live, P, h_new, xh_stride, GATES * width, zeros,
                     w_hr, H * GATES * width, m, c_stride, size, H)  # fmt: skip
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


@_kernel
def _scatter(zero, count, target, stride, source):
    """target += source, of so many values, side by side at `source` and `stride` at `target`."""
    for n in range(count):
        _increase(zero, target + n * stride, source + n * _size(zero))


SUMS_BYTES = 1 << 17  # of a chunk's sums that are made at once, but for a panel's: in the cache


@njit(inline="always")
def _add_product(zero, rows, columns, total, first, part, b, w, w_panel, x, x_step,
                 count):  # fmt: skip
    """total += x^T w for x (count, rows), its rows `x_step` bytes apart; = if this is the first.

    A chunk's sum is made by itself, in `part`: so a long sum loses less by rounding.
    """
    wide = GATES * BYTES
    panel = rows * wide
    size = _size(zero)
    left = columns * size
    together = max(1, SUMS_BYTES // panel)
    while left > 0:
        now = min(left, together * wide)
        _product(zero, rows, now // size, total if first else part, wide, panel, b, w, w_panel,
                 x, size, x_step, count)  # fmt: skip
        if not first:
            _add(zero, -(-now // wide) * panel // size, total, part)
        total += together * panel
        w += together * w_panel
        left -= now


@_kernel
def back_layer(zero, plan, places, work, room, sizes, reverse):
    """The gradients of one layer in one direction; see `back`.

    Steps are taken in chunks of at most `room` rows, so that what a step leaves for the products
    over all rows is still in the cache when a chunk's are made.
    """
    (I, H, P, w_ih, w_hh, w_hr, zeros, one,
     xh_stride, dz_stride, dc_stride, dh_stride, dm_stride, part_size) = plan  # fmt: skip
    (x, x_stride, y, y_stride, gates, cells, dy, dy_stride, h_0, c_0, dh_n, dc_n,
     dx, dw_ih, dw_hh, db, dw_hr) = places  # fmt: skip
    size = _size(zero)
    lanes = BYTES // size
    wide = GATES * BYTES
    panels = -(-H // lanes)
    blocks = -(-H * size // wide) if P != H else 0  # of m, 4 L units each
    steps, most = sizes.size, sizes[0]
    # work: dh, dc and dm (without a projection dh) of this step; the sums of (10) and of dW_hr, and
    # room for a chunk's; a chunk's rows [x | h_0 | 1], dz, dz in panels, dx, and with a projection
    # dh, and m in panels
    dh = work
    dc = dh + most * dh_stride
    dm = dc + most * dc_stride if P != H else dh
    sums = dc + most * (dc_stride + dm_stride)
    sums_hr = sums + panels * (I + P + 1) * wide
    part = sums_hr + blocks * P * wide
    xh = part + part_size
    dz = xh + room * xh_stride
    dz_panels = dz + room * dz_stride
    dx_own = dz_panels + room * panels * wide
    dx_stride = -(-I * size // wide) * wide
    dh_all = dx_own + room * dx_stride
    m_panels = dh_all + room * dh_stride
    for r in range(most):
        _copy(dh + r * dh_stride, dh_n + r * P * size, P * size)
        _copy(dc + r * dc_stride, dc_n + r * H * size, H * size)
    for r in range(room):
        _copy(xh + r * xh_stride + (I + P) * size, one, size)

    first = 0 if reverse else sizes.sum()  # the chunk's first row in x and y
    n = 0
    while n < steps:
        begin = n
        rows = 0
        while n < steps:
            live = sizes[n if reverse else steps - 1 - n]
            if rows + live > room:
                break
            rows += live
            n += 1
        if not reverse:
            first -= rows
        at = 0 if reverse else rows  # the step's first row in the chunk
        for k in range(begin, n):
            t = k if reverse else steps - 1 - k
            live = sizes[t]
            if not reverse:
                at -= live
            # `both`: so many of its rows were there in the step before, as `run` took them
            before = t + 1 if reverse else t - 1
            both = 0
            first_before = first + at
            if 0 <= before < steps:
                both = min(live, sizes[before])
                first_before += live if reverse else -sizes[before]
            for r in range(live):
                _add(zero, P, dh + r * dh_stride, dy + (first + at + r) * dy_stride)
                if P != H:
                    _copy(dh_all + (at + r) * dh_stride, dh + r * dh_stride, P * size)
            if P != H:  # (6)
                _product(zero, live, H, dm, dm_stride, wide, zeros, w_hr, P * wide,
                         dh, dh_stride, size, P)  # fmt: skip
            for r in range(live):
                row = first + at + r
                from_h = h_0 + r * P * size
                from_c = c_0 + r * H * size
                if r < both:
                    from_h = y + (first_before + r) * y_stride
                    from_c = cells + (first_before + r) * H * size
                to = xh + (at + r) * xh_stride
                _copy(to, x + row * x_stride, I * size)
                _copy(to + I * size, from_h, P * size)
                for p in range(panels):
                    unit = p * BYTES
                    _gradients(zero, H - p * lanes, gates + row * GATES * H * size + unit,
                               cells + row * H * size + unit, from_c + unit, H * size,
                               dm + r * dm_stride + unit, dc + r * dc_stride + unit,
                               dz + (at + r) * dz_stride + unit,
                               dz_panels + (p * room + at + r) * wide)  # fmt: skip
                for p in range(blocks):
                    _copy(m_panels + (p * room + at + r) * wide, dm + r * dm_stride + p * wide,
                          wide)  # fmt: skip
            _product(zero, live, P, dh, dh_stride, wide, zeros, w_hh, GATES * H * wide,
                     dz + at * dz_stride, dz_stride, size, GATES * H)  # fmt: skip
            if reverse:
                at += live
        # (10), for the rows of the chunk
        _add_product(zero, I + P + 1, panels * GATES * lanes, sums, begin == 0, part, zeros,
                     dz_panels, room * wide, xh, xh_stride, rows)  # fmt: skip
        if P != H:
            _add_product(zero, P, H, sums_hr, begin == 0, part, zeros, m_panels, room * wide,
                         dh_all, dh_stride, rows)  # fmt: skip
        if dx:
            _product(zero, rows, I, dx_own, dx_stride, wide, zeros, w_ih, GATES * H * wide,
                     dz, dz_stride, size, GATES * H)  # fmt: skip
            for r in range(rows):
                _add(zero, I, dx + (first + r) * I * size, dx_own + r * dx_stride)
        if reverse:
            first += rows
    for r in range(most):
        _copy(dh_n + r * P * size, dh + r * dh_stride, P * size)
        _copy(dc_n + r * H * size, dc + r * dc_stride, H * size)
    # [panel][k][gate][lane] -> [gate][unit][k]
    for p in range(panels):
        units = min(lanes, H - p * lanes)
        for gate in range(GATES):
            row = gate * H + p * lanes
            for k in range(I + P + 1):
                source = sums + ((p * (I + P + 1) + k) * GATES + gate) * BYTES
                if k < I:
                    _scatter(zero, units, dw_ih + (row * I + k) * size, I * size, source)
                elif k < I + P:
                    _scatter(zero, units, dw_hh + (row * P + k - I) * size, P * size, source)
                else:
                    _scatter(zero, units, db + row * size, size, source)
    for p in range(blocks):
        for r in range(P):
            _add(zero, min(wide // size, H - p * wide // size), dw_hr + r * H * size + p * wide,
                 sums_hr + (p * P + r) * wide)  # fmt: skip


@_kernel
def address_of(array):
    return array.ctypes.data
