"""Jitted loops over packed panels, with a register tile of LLVM vectors.

The contract, the legend and the numbered equations are in `contract.py`. Why it is fast:

- Weights are packed in panels of one vector's lanes L of units, ``[panel][k][gate][lane]``, k over
  the inputs x, then the outputs h. All four gates of L units and a few rows fit in registers, so
  that a product is one stream of fused multiply-adds over the panel, and the cell follows in
  registers.
- Every accumulator begins with b, then adds x in order, then h in order; the cell is the same
  arithmetic on every lane. So a row's result does not depend, bit for bit, on which rows are
  computed beside it, nor on how time was cut.
- Products are cut to the caches of the machine, by run-time arguments: weights are multiplied in
  blocks that stay in the first level, the inputs of some steps at once, and what does not stay in
  the second level is fetched ahead.
- On the way back every product is the same tile's: dz by the weights, packed anew, for h and x;
  [x | h_0 | 1]^T by dz, some steps' rows at once, for the gradients of weights and biases.
- Plain jitted loops keep no accumulator in a register, and take 3 to 5 times as long. So the tile
  and the cell are intrinsics: the few lines of LLVM vector code below build them for any number of
  rows, any lanes and either dtype.

The cell with options, equations (11) to (19), has kernels of its own. Its products are the same
tile's, and what comes between them are plain jitted loops over the units of a row.

All kernels are in this file, because Numba's cache on disk notices changes of a kernel's own file
only, which it knows by the file's contents. If the tile were in another file, an upgrade that
changes the tile alone would leave the old one in what the cache has of the kernels that call it.
"""

# The arguments of an intrinsic are Numba's types of them, and stay without types of Python's.
# mypy: allow-untyped-defs
from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from llvmlite import binding, ir
from numba import carray, njit, types
from numba.core import cgutils, config
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

from .contract import ACTIVATIONS

if config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set")

Scalar = np.float32 | np.float64  # `zero` in a kernel, whose type is that of the arithmetic

# ---- the machine ----------------------------------------------------------------------------

# This asks as Numba itself does: its cache is keyed by processor and features, and what is compiled
# here must follow from that key alone, or code from the cache would meet panels of another width.
_flags = config.CPU_FEATURES
if _flags is None:
    _flags = "" if config.CPU_NAME == "generic" else get_host_cpu_features()
_FEATURES = {flag[1:] for flag in _flags.split(",") if flag.startswith("+")}
_ARM = binding.get_process_triple().startswith(("aarch64", "arm64"))
FMA = _ARM or "fma" in _FEATURES
# The bytes of a vector, and how many rows' accumulators, 4 vectors each, fit beside weights and
# input. Of 32 registers a sixth row would leave too few for the cell, and 6 rows of input fill a
# small first-level cache.
BYTES, ROWS = (64, 5) if "avx512f" in _FEATURES else (16, 5) if _ARM else (16, 2)
if BYTES == 16 and "avx" in _FEATURES:
    BYTES, ROWS = 32, 3


# ---- LLVM vectors ---------------------------------------------------------------------------

_SUFFIX = {"float": "f32", "double": "f64"}  # what the name of an intrinsic of LLVM ends in


def _constant(kind: ir.Type, value: float) -> ir.Constant:
    """Return the number `value`, in every lane if `kind` is a vector."""
    return ir.Constant(kind, [value] * kind.count if hasattr(kind, "count") else value)


class _Vector:
    """An LLVM vector, or scalar, with the operators that the equations need."""

    def __init__(self, builder: ir.IRBuilder, value: ir.Value) -> None:
        self.builder, self.value, self.type = builder, value, value.type
        self.lanes: int | None = getattr(self.type, "count", None)
        self.element = str(getattr(self.type, "element", self.type))

    def like(self, value: float | ir.Value) -> _Vector:
        """Return a constant of this vector's type, or another LLVM value, in this class."""
        if isinstance(value, (int, float)):
            value = _constant(self.type, value)
        return _Vector(self.builder, value)

    def _apply(self, instruction: str, a: _Vector | float, b: _Vector | float) -> _Vector:
        a, b = (v if isinstance(v, _Vector) else self.like(v) for v in (a, b))
        return self.like(getattr(self.builder, instruction)(a.value, b.value))

    def __add__(self, other: _Vector | float) -> _Vector:
        return self._apply("fadd", self, other)

    def __sub__(self, other: _Vector | float) -> _Vector:
        return self._apply("fsub", self, other)

    def __rsub__(self, other: float) -> _Vector:
        return self._apply("fsub", other, self)

    def __mul__(self, other: _Vector | float) -> _Vector:
        return self._apply("fmul", self, other)

    def __truediv__(self, other: _Vector | float) -> _Vector:
        return self._apply("fdiv", self, other)

    def __rtruediv__(self, other: float) -> _Vector:
        return self._apply("fdiv", other, self)

    def clamp(self, low: float, high: float) -> _Vector:
        """Cut off what is outside [low, high]; nan stays nan. This compiles to a min and a max."""
        value = self.value
        for beyond, limit in ((">", high), ("<", low)):
            bound = self.like(float(limit)).value
            outside = self.builder.fcmp_ordered(beyond, value, bound)
            value = self.builder.select(outside, bound, value)
        return self.like(value)

    def fma(self, factor: _Vector | float, addend: _Vector | float) -> _Vector:
        """Return self * factor + addend, rounded once where the machine can."""
        args = [v.value if isinstance(v, _Vector) else self.like(v).value for v in (factor, addend)]
        suffix = _SUFFIX[self.element]
        suffix = suffix if self.lanes is None else f"v{self.lanes}{suffix}"
        function = cgutils.get_or_insert_function(
            self.builder.module,
            ir.FunctionType(self.type, [self.type] * 3),
            f"llvm.{'fma' if FMA else 'fmuladd'}.{suffix}",
        )
        return self.like(self.builder.call(function, [self.value, *args]))

    def _integers(self) -> ir.Type:
        """Return the type of its bits."""
        integer = ir.IntType({"float": 32, "double": 64}[self.element])
        return integer if self.lanes is None else ir.VectorType(integer, self.lanes)

    def to_exponent(self, mantissa: int) -> _Vector:
        """Move the lowest bits to where the exponent stands, above `mantissa` bits."""
        integer = self._integers()
        bits = self.builder.bitcast(self.value, integer)
        bits = self.builder.shl(bits, _constant(integer, mantissa))
        return self.like(self.builder.bitcast(bits, self.type))

    def without_sign(self) -> tuple[_Vector, ir.Value]:
        """Return its absolute value, and the bit of its sign alone."""
        integer = self._integers()
        bits = self.builder.bitcast(self.value, integer)
        minus = self.builder.bitcast(self.like(-0.0).value, integer)
        sign = self.builder.and_(bits, minus)
        return self.like(self.builder.bitcast(self.builder.xor(bits, sign), self.type)), sign

    def with_sign(self, sign: ir.Value) -> _Vector:
        """Give a number that has no sign this one."""
        bits = self.builder.bitcast(self.value, self._integers())
        return self.like(self.builder.bitcast(self.builder.xor(bits, sign), self.type))

    def polynomial(self, coefficients: Sequence[float]) -> _Vector:
        """Return c[0] + c[1] self + c[2] self^2 + ... by Horner's rule."""
        total = self.like(coefficients[-1])
        for coefficient in coefficients[-2::-1]:
            total = total.fma(self, coefficient)
        return total


# ---- equations (2) to (4), and (7) to (9) ---------------------------------------------------

# The coefficients of e^r on |r| <= ln(2) / 2. For float32 c[0] = 1, and the rest is minimax of the
# relative error of (e^r - 1) / r, 1.4e-8; for float64 it is Taylor's series, 1e-17.
_EXP = {
    "float": (
        1.0,
        1.0,
        0.4999999701976776,
        0.1666654646396637,
        0.04166743904352188,
        0.008366254158318043,
        0.0013870274415239692,
    ),
    "double": tuple(1 / math.factorial(k) for k in range(14)),
}
# The bits of the mantissa, the exponent's bias, and ln(2) as two numbers, of which the first, times
# any exponent, is exact.
_FORMAT = {
    "float": (23, 127, 0.693359375, -2.12194440e-4),
    "double": (52, 1023, 0.6931471803691238, 1.9082149292705877e-10),
}


def _reduce(x: _Vector, times: int, exactly: bool) -> tuple[_Vector, _Vector]:
    """Return r and 2^n of e^(times x) = 2^n e^(times r), with a whole n.

    With `exactly`, r has the error of its own last bit, else that of n's.
    """
    mantissa, bias, larger, smaller = _FORMAT[x.element]
    magic = 1.5 * 2.0**mantissa + bias  # where it is added, n + bias are left in the lowest bits
    shifted = x.fma(times / math.log(2), magic)
    n = shifted - magic
    r = n.fma(-larger / times, x) if exactly else n.fma(-math.log(2) / times, x)
    return n.fma(-smaller / times, r) if exactly else r, shifted.to_exponent(mantissa)


def _below_sigmoid(x: _Vector) -> _Vector:
    """Return 1 / sigmoid(x) = 1 + e^-x.

    It is inf where the sigmoid would be no normal number, 1 where it rounds to 1.
    """
    _, bias, *_ = _FORMAT[x.element]
    # At these limits 2^-bias and 2^(bias + 1) come out as 0 and inf.
    x = x.clamp(-(bias + 1.4) * math.log(2), (bias + 0.4) * math.log(2))
    r, power = _reduce(x, -1, True)
    terms = [c * (-1) ** k for k, c in enumerate(_EXP[x.element])]
    return r.polynomial(terms).fma(power, 1.0)


def _tanh(x: _Vector) -> tuple[_Vector, _Vector]:
    """Return two numbers, above and below, with tanh(x) = above / below.

    They are 1 - e with the sign of x, and 1 + e, where e = e^(-2 |x|) = p (1 + t). As 1 - e =
    (1 - p) - p t, nothing is lost where x is small. `below` is 2 at most: its product with a
    1 / sigmoid overflows only where that sigmoid is no normal number.
    """
    size, sign = x.without_sign()
    size = size.clamp(0, _FORMAT[x.element][0])  # tanh is 1 long before this limit
    r, p = _reduce(size, -2, False)
    terms = [-c * (-2) ** k for k, c in enumerate(_EXP[x.element]) if k]
    above = (r.polynomial(terms) * r).fma(p, 1.0 - p)
    return above.with_sign(sign), 2.0 - above


def _next_c(
    z_i: _Vector, z_f: _Vector, z_g: _Vector, z_o: _Vector, c: _Vector
) -> tuple[_Vector, _Vector, tuple[_Vector, ...]]:
    """Return c and 1 / o of one step, (2) and (3), and what `_gates` makes the gates of."""
    below_i, below_f, below_o = (_below_sigmoid(z) for z in (z_i, z_f, z_o))
    above_g, below_g = _tanh(z_g)
    f = 1.0 / below_f
    c = f.fma(c, above_g / (below_i * below_g))
    return c, below_o, (below_i, f, above_g, below_g, below_o)


def _next_h(below_o: _Vector, c: _Vector) -> _Vector:
    """Return o tanh(c) of 1 / o and c, (4)."""
    above, below = _tanh(c)
    return above / (below_o * below)


def _gates(
    below_i: _Vector, f: _Vector, above_g: _Vector, below_g: _Vector, below_o: _Vector
) -> tuple[_Vector, _Vector, _Vector, _Vector]:
    """Return i, f, g and o of a `_next_c`."""
    return 1.0 / below_i, f, above_g / below_g, 1.0 / below_o


def _cell_gradients(
    i: _Vector,
    f: _Vector,
    g: _Vector,
    o: _Vector,
    c: _Vector,
    c_0: _Vector,
    dm: _Vector,
    dc: _Vector,
) -> tuple[tuple[_Vector, ...], _Vector, _Vector]:
    """Return dz of the four gates, dc_0, and m = o * tanh(c): (7) to (9) but for the products."""
    above, below = _tanh(c)
    tanh_c = above / below
    m = o * tanh_c
    dc = (dm * o).fma(1.0 - tanh_c * tanh_c, dc)  # (7)
    dz_i = dc * g * i * (1.0 - i)  # (8)
    dz_f = dc * c_0 * f * (1.0 - f)
    dz_g = dc * i * (1.0 - g * g)
    dz_o = dm * m * (1.0 - o)
    return (dz_i, dz_f, dz_g, dz_o), dc * f, m  # (9)


# ---- intrinsics: what jitted loops cannot say -----------------------------------------------
# Jitted loops see memory as addresses and distances in bytes. So one signature serves arrays of
# every layout, read-only ones too, and a call costs less than it would with arrays.

_INT = ir.IntType(64)
GATES = 4
WIDTH = GATES  # vectors side by side in a panel: one for each gate, or as many of anything else
# The bytes of a panel's row. A Python int would be a constant to Numba, which compiles a function
# anew for each constant among its arguments.
PANEL: Any = np.int64(WIDTH * BYTES)
LINE = 64  # the bytes of a line of the caches
NOWHERE: Any = np.int64(0)  # the address of what is not there
# The (rows, vectors) that a tile can have. One row alone takes two panels, so that enough sums are
# under way at once.
_TILES = [(rows, WIDTH) for rows in range(1, ROWS + 1)] + [(1, 2 * WIDTH)]
# The last columns of a product may fill one vector only.
_NARROW_TILES = [(rows, 1) for rows in range(1, ROWS + 1)]


class Rows(NamedTuple):
    """Rows of memory, or panels: the address of the first, and the bytes from each to the next.

    Jitted loops hold two integers in it, the code that writes LLVM holds two values of LLVM.
    """

    first: Any
    stride: Any


_ROWS = types.NamedUniTuple(types.int64, 2, Rows)


def _vector_type(context: Any, dtype: Any) -> ir.VectorType:
    return ir.VectorType(context.get_value_type(dtype), BYTES * 8 // dtype.bitwidth)


def _load(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type, align: int) -> ir.Value:
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=align)


def _store(builder: ir.IRBuilder, value: ir.Value, address: ir.Value, align: int) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=align)


def _prefetch(builder: ir.IRBuilder, address: ir.Value) -> None:
    """Begin to fetch what is at an address into the second-level cache; any address will do."""
    pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    signature = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
    function = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0i8")
    builder.call(function, [builder.inttoptr(address, pointer), number(0), number(2), number(1)])


def _first_lanes(builder: ir.IRBuilder, kind: ir.VectorType, units: ir.Value) -> ir.Value:
    """Return a mask of the first `units` lanes."""
    integer = ir.VectorType(ir.IntType(32), kind.count)
    lanes = ir.Constant(integer, list(range(kind.count)))
    units = builder.trunc(units, ir.IntType(32))
    return builder.icmp_signed("<", lanes, _broadcast(builder, units, integer))


def _masked(
    builder: ir.IRBuilder, operation: str, kind: ir.VectorType, *args: ir.Value
) -> ir.Value:
    """Call LLVM's masked load or store; it neither reads nor writes lanes that are masked off."""
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


def _load_units(
    builder: ir.IRBuilder,
    addresses: Sequence[ir.Value],
    units: ir.Value,
    kind: ir.VectorType,
    align: int,
) -> list[_Vector]:
    """Load a vector from each address: the first `units` lanes, and 0 in the others."""
    whole, part = builder.append_basic_block("whole"), builder.append_basic_block("part")
    after = builder.append_basic_block("loaded")
    builder.cbranch(builder.icmp_signed(">=", units, _INT(kind.count)), whole, part)
    builder.position_at_end(whole)
    all_lanes = [_load(builder, address, kind, align) for address in addresses]
    builder.branch(after)
    builder.position_at_end(part)
    mask, zero, bytes_ = (
        _first_lanes(builder, kind, units),
        _constant(kind, 0.0),
        ir.IntType(32)(align),
    )
    pointers = [builder.inttoptr(address, kind.as_pointer()) for address in addresses]
    some_lanes = [_masked(builder, "load", kind, p, bytes_, mask, zero) for p in pointers]
    builder.branch(after)
    builder.position_at_end(after)
    values = []
    for whole_value, part_value in zip(all_lanes, some_lanes, strict=True):
        phi = builder.phi(kind)
        phi.add_incoming(whole_value, whole)
        phi.add_incoming(part_value, part)
        values.append(_Vector(builder, phi))
    return values


def _store_units(
    builder: ir.IRBuilder,
    stores: Sequence[tuple[_Vector, ir.Value]],
    units: ir.Value,
    align: int,
) -> None:
    """Store pairs (vector, address): of each vector the first `units` lanes."""
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


def _at(builder: ir.IRBuilder, address: ir.Value, *steps: tuple[int, int | ir.Value]) -> ir.Value:
    """Return address + index * stride for all steps (index, stride); strides are in bytes."""
    for index, stride in steps:
        if index:
            known = isinstance(stride, int)
            step = _INT(index * stride) if known else builder.mul(_INT(index), stride)
            address = builder.add(address, step)
    return address


def _broadcast(builder: ir.IRBuilder, scalar: ir.Value, kind: ir.VectorType) -> ir.Value:
    undefined, index = ir.Constant(kind, ir.Undefined), ir.IntType(32)
    first = builder.insert_element(undefined, scalar, index(0))
    lanes = ir.Constant(ir.VectorType(index, kind.count), [0] * kind.count)
    return builder.shuffle_vector(first, undefined, lanes)


def _count_down(
    builder: ir.IRBuilder,
    count: ir.Value,
    step: int,
    carried: Sequence[ir.Value],
    body: Callable[[Sequence[ir.Value]], Sequence[ir.Value]],
) -> list[ir.Value]:
    """Write ``while count > 0: carried = body(carried); count -= step``, and return `carried`."""
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


def _emit_products(
    builder: ir.IRBuilder,
    kind: ir.VectorType,
    size: int,
    rows: int,
    vectors: int,
    start: Rows,
    w: Rows,
    x: Rows,
    x_step: ir.Value,
    count: ir.Value,
    ahead: ir.Value,
) -> dict[tuple[int, int], _Vector]:
    """Return start[row, vector, lane] + sum over k < count of x[row, k] w[panel, k, gate, lane].

    Vectors are counted through the panels. The values of a row of x are `x_step` bytes apart. With
    several rows, a line is fetched into the second-level cache beside each k, from `ahead` on.
    """
    keys = [(r, v) for r in range(rows) for v in range(vectors)]
    panels = -(-vectors // WIDTH)

    def step(values: Sequence[ir.Value], times: int = 1) -> Sequence[ir.Value]:
        *at_w, at_x, at_ahead = values[: panels + 2]
        sums = list(values[panels + 2 :])
        for _ in range(times):
            if rows > 1 and vectors == WIDTH:
                _prefetch(builder, at_ahead)
                at_ahead = builder.add(at_ahead, _INT(LINE))
            inputs = []
            for r in range(rows):
                scalar = _load(builder, _at(builder, at_x, (r, x.stride)), kind.element, size)
                inputs.append(_Vector(builder, _broadcast(builder, scalar, kind)))
            for v in range(vectors):
                panel, gate = divmod(v, WIDTH)
                at = _at(builder, at_w[panel], (gate, BYTES))
                weight = _Vector(builder, _load(builder, at, kind, size))
                for r in range(rows):
                    n = r * vectors + v
                    sums[n] = inputs[r].fma(weight, _Vector(builder, sums[n])).value
            at_w = [builder.add(at, _INT(WIDTH * BYTES)) for at in at_w]
            at_x = builder.add(at_x, x_step)
        return *at_w, at_x, at_ahead, *sums

    sums = [
        _load(builder, _at(builder, start.first, (r, start.stride), (v, BYTES)), kind, size)
        for r, v in keys
    ]
    values = [_at(builder, w.first, (panel, w.stride)) for panel in range(panels)]
    values += [x.first, ahead, *sums]
    # Without unrolling, the loop would cost as much as the products of a single row.
    unroll = 1 << min(3, (32 // (rows * vectors)).bit_length() - 1)
    if unroll > 1:
        whole = builder.and_(count, _INT(-unroll))
        values = _count_down(builder, whole, unroll, values, functools.partial(step, times=unroll))
        count = builder.sub(count, whole)
    sums = _count_down(builder, count, 1, values, step)[panels + 2 :]
    return {key: _Vector(builder, value) for key, value in zip(keys, sums, strict=True)}


def _emit_products_into(
    builder: ir.IRBuilder,
    kind: ir.VectorType,
    size: int,
    rows: int,
    vectors: int,
    z: Rows,
    start: Rows,
    w: Rows,
    x: Rows,
    x_step: ir.Value,
    count: ir.Value,
    ahead: ir.Value,
) -> None:
    """Write z = the products; `start` may be where they go."""
    sums = _emit_products(builder, kind, size, rows, vectors, start, w, x, x_step, count, ahead)
    for (r, v), value in sums.items():
        _store(builder, value.value, _at(builder, z.first, (r, z.stride), (v, BYTES)), size)


def _emit_cells(
    builder: ir.IRBuilder,
    kind: ir.VectorType,
    size: int,
    rows: int,
    vectors: int,
    c: Rows,
    h: Rows,
    y: Rows,
    units: ir.Value,
    gates: ir.Value,
    cells: Rows,
    start: Rows,
    w: Rows,
    x: Rows,
    count: ir.Value,
    ahead: ir.Value,
) -> None:
    """Write c, h = the cell of the products; the first `units` units of h go to y too.

    Unless `gates` is 0, the first `units` units of the gates go there and those of c to `cells`.
    Gates are as far apart as the rows of `cells`.
    """
    x_step = _INT(size)
    sums = _emit_products(builder, kind, size, rows, vectors, start, w, x, x_step, count, ahead)
    panels = vectors // GATES
    saving = builder.icmp_signed("!=", gates, _INT(0))
    stored: list[list[tuple[_Vector, ir.Value]]] = [[] for _ in range(panels)]
    states = {}
    for r in range(rows):
        for p in range(panels):
            z_i, z_f, z_g, z_o = (sums[r, p * GATES + q] for q in range(GATES))
            at_c = _at(builder, c.first, (r, c.stride), (p, BYTES))
            old_c = _Vector(builder, _load(builder, at_c, kind, size))
            new_c, below_o, parts = _next_c(z_i, z_f, z_g, z_o, old_c)
            _store(builder, new_c.value, at_c, size)
            states[r, p] = below_o, new_c
            with builder.if_then(saving):
                saved = [(new_c, _at(builder, cells.first, (r, cells.stride), (p, BYTES)))]
                for q, gate in enumerate(_gates(*parts)):
                    place = _at(builder, gates, (r * GATES + q, cells.stride), (p, BYTES))
                    saved.append((gate, place))
                _store_units(builder, saved, _left(builder, units, kind, p), size)
    # (4) of all rows comes last: so the chains of operations of all of them are under way at once.
    for (r, p), state in states.items():
        new_h = _next_h(*state)
        _store(builder, new_h.value, _at(builder, h.first, (r, h.stride), (p, BYTES)), size)
        stored[p].append((new_h, _at(builder, y.first, (r, y.stride), (p, BYTES))))
    for p in range(panels):
        _store_units(builder, stored[p], _left(builder, units, kind, p), size)


def _left(builder: ir.IRBuilder, units: ir.Value, kind: ir.VectorType, panel: int) -> ir.Value:
    """Return how many of the units are in this panel or in later ones."""
    return builder.sub(units, _INT(panel * kind.count))


def _emit_cell_gradients(
    builder: ir.IRBuilder,
    kind: ir.VectorType,
    size: int,
    units: ir.Value,
    gates: Rows,
    cells: ir.Value,
    cells_0: ir.Value,
    dm: ir.Value,
    dc: ir.Value,
    dz: ir.Value,
    dz_panel: ir.Value,
) -> None:
    """Write dz of L units of one row, its gates as far apart as those of `gates`.

    The same goes to `dz_panel`, gates side by side. dc becomes that of the step before, dm becomes
    m. These three hold whole vectors.
    """
    addresses = [_at(builder, gates.first, (q, gates.stride)) for q in range(GATES)]
    saved = _load_units(builder, [*addresses, cells, cells_0], units, kind, size)
    old = [_Vector(builder, _load(builder, address, kind, size)) for address in (dm, dc)]
    new_dz, new_dc, m = _cell_gradients(*saved, *old)
    _store(builder, m.value, dm, size)
    _store(builder, new_dc.value, dc, size)
    stores = []
    for q, value in enumerate(new_dz):
        _store(builder, value.value, _at(builder, dz_panel, (q, BYTES)), size)
        stores.append((value, _at(builder, dz, (q, gates.stride))))
    _store_units(builder, stores, units, size)


def _emit_sum(
    builder: ir.IRBuilder,
    kind: ir.VectorType,
    size: int,
    units: ir.Value,
    target: ir.Value,
    source: ir.Value,
) -> None:
    a, b = _load_units(builder, [target, source], units, kind, size)
    _store_units(builder, [(a + b, target)], units, size)


def _operands(builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> list[Any]:
    """Return an intrinsic's arguments: integers as they are, `Rows` as two values of LLVM."""
    return [
        Rows(*cgutils.unpack_tuple(builder, value)) if kind == _ROWS else value
        for kind, value in zip(signature.args, args, strict=True)
    ]


def _signature(zero: Any, *operands: Any) -> Any:
    """Return the signature of an intrinsic that takes integers and `Rows`, and returns nothing."""
    return types.void(zero, *[_ROWS if kind == _ROWS else types.int64 for kind in operands])


def _tile(
    emit_case: Callable[..., None], tiles: list[tuple[int, int]], zero: Any, *operands: Any
) -> tuple[Any, Callable[..., ir.Value]]:
    """Return signature and code of an intrinsic ``(zero, rows, vectors, ...)``.

    It switches between all `tiles`; `emit_case` writes the code of one.
    """

    def emit(
        context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]
    ) -> ir.Value:
        kind, size = _vector_type(context, zero), zero.bitwidth // 8
        _, rows, vectors, *values = _operands(builder, signature, args)
        done = builder.append_basic_block("done")
        switch = builder.switch(builder.add(builder.mul(rows, _INT(16)), vectors), done)
        for tile in tiles:
            block = builder.append_basic_block("rows{}_vectors{}".format(*tile))
            switch.add_case(_INT(tile[0] * 16 + tile[1]), block)
            builder.position_at_end(block)
            emit_case(builder, kind, size, *tile, *values)
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return _signature(zero, *operands), emit


def _element_wise(
    emit_case: Callable[..., None], zero: Any, *operands: Any
) -> tuple[Any, Callable[..., ir.Value]]:
    """Return signature and code of an intrinsic ``(zero, units, ...)``, for one vector's lanes."""

    def emit(
        context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]
    ) -> ir.Value:
        kind, size = _vector_type(context, zero), zero.bitwidth // 8
        emit_case(builder, kind, size, *_operands(builder, signature, args)[1:])
        return context.get_dummy_value()

    return _signature(zero, *operands), emit


# The functions below get Numba's types of their arguments, and return a signature and a function
# that writes the code. `zero` tells the type of the arithmetic.


@intrinsic
def _products(typing, zero, rows, vectors, z, start, w, x, x_step, count, ahead):
    operands = rows, vectors, z, start, w, x, x_step, count, ahead
    return _tile(_emit_products_into, _TILES + _NARROW_TILES, zero, *operands)


@intrinsic
def _cells(typing, zero, rows, vectors, c, h, y, units, gates, cells, start, w, x, count, ahead):
    operands = rows, vectors, c, h, y, units, gates, cells, start, w, x, count, ahead
    return _tile(_emit_cells, _TILES, zero, *operands)


@intrinsic
def _gradients(typing, zero, units, gates, cells, cells_0, dm, dc, dz, dz_panel):
    operands = units, gates, cells, cells_0, dm, dc, dz, dz_panel
    return _element_wise(_emit_cell_gradients, zero, *operands)


@intrinsic
def _sum(typing, zero, units, target, source):
    return _element_wise(_emit_sum, zero, units, target, source)


@intrinsic
def _increase(typing, zero, target, source):
    """target += source, of one value."""

    def emit(context, builder, signature, args):
        kind, size = context.get_value_type(zero), zero.bitwidth // 8
        a, b = (_load(builder, address, kind, size) for address in args[1:])
        _store(builder, builder.fadd(a, b), args[1], size)
        return context.get_dummy_value()

    return _signature(zero, target, source), emit


@intrinsic
def _size(typing, zero):
    """Return the bytes of a value, which are known when this is compiled."""
    return types.int64(zero), lambda *_: _INT(zero.bitwidth // 8)


@intrinsic
def _copy(typing, target, source, size):
    """Copy `size` bytes between addresses."""

    def emit(context, builder, signature, args):
        pointers = [builder.inttoptr(a, ir.IntType(8).as_pointer()) for a in args[:2]]
        cgutils.raw_memcpy(builder, *pointers, args[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), emit


@intrinsic
def _row(typing, rows, r):
    """Return the address of row `r`."""

    def emit(context, builder, signature, args):
        rows, r = _operands(builder, signature, args)
        return builder.add(rows.first, builder.mul(r, rows.stride))

    return types.int64(_ROWS, types.int64), emit


@intrinsic
def _from(typing, rows, r, offset):
    """Return the rows from row `r` on, each of them from byte `offset` on."""

    def emit(context, builder, signature, args):
        rows, r, offset = _operands(builder, signature, args)
        first = builder.add(rows.first, builder.mul(r, rows.stride))
        return context.make_tuple(builder, _ROWS, [builder.add(first, offset), rows.stride])

    return _ROWS(_ROWS, types.int64, types.int64), emit


@intrinsic
def _read(typing, named, address):
    """Return the integers at an address as a named tuple of this class."""
    fields = named.instance_class._fields
    kind = types.NamedUniTuple(types.int64, len(fields), named.instance_class)

    def emit(context, builder, signature, args):
        addresses = [_at(builder, args[1], (n, 8)) for n in range(len(fields))]
        values = [_load(builder, address, _INT, 8) for address in addresses]
        return context.make_tuple(builder, kind, values)

    return kind(named, types.int64), emit


# ---- loops ----------------------------------------------------------------------------------


def _kernel(function: Callable[..., Any]) -> Any:
    """Jit a function that runs without the GIL; keep it on disk wherever there is a place."""
    jit = functools.partial(njit, nogil=True, error_model="numpy")
    try:
        return jit(function, cache=True)
    except RuntimeError:  # There is no folder to write to: every process compiles.
        return jit(function)


def _part(function: Callable[..., Any]) -> Any:
    """Give a part of one kernel a name of its own.

    Numba puts its lines into the kernel before it compiles: two functions would take longer.
    """
    return njit(function, inline="always")


@_kernel
def _copy_rows(count: int, size: int, target: Rows, source: Rows) -> None:
    """Copy the first `size` bytes of so many rows."""
    for r in range(count):
        _copy(_row(target, r), _row(source, r), size)


@_kernel
def _add(zero: Scalar, count: int, target: int, source: int) -> None:
    """target += source, of so many values side by side."""
    lanes = BYTES // _size(zero)
    for at in range(0, count, lanes):
        _sum(zero, count - at, target + at * _size(zero), source + at * _size(zero))


@_kernel
def _add_rows(zero: Scalar, rows: int, columns: int, target: Rows, source: Rows) -> None:
    """target += source, of the first `columns` values of so many rows."""
    for r in range(rows):
        _add(zero, columns, _row(target, r), _row(source, r))


@_part
def _ahead(following: int, tile: int, count: int, w: Rows) -> int:
    """Return where a tile begins to fetch `count` lines.

    The first tiles fetch all lines of as many k at `following`, line after line, for the processor
    adds a few more to lines in a row. If `following` is 0, or after that, it is weights of the tile
    itself that are fetched, which are there already.
    """
    fetches = following != 0 and tile * LINE < PANEL
    return following + tile * count * LINE if fetches else w.first


@_kernel
def _product_in_blocks(
    zero: Scalar,
    rows: int,
    columns: int,
    z: Rows,
    z_panel: int,
    b: Rows,
    w: Rows,
    x: Rows,
    x_step: int,
    count: int,
    block: int,
    ahead: int,
) -> None:
    """z = x w + b for any numbers of rows and columns, in tiles as equal as can be.

    Each row has its own b, unless their stride is 0; b may be z.

    `w` are panels of 4 L columns, ``[panel][k][column]``. `z` holds whole panels, which are
    `z_panel` bytes apart. The values of a row of `x` are `x_step` bytes apart; `count` is how many
    there are. Of each panel, `block` k are multiplied at once, so that these weights stay in the
    first-level cache for all tiles; what is not finished lies in z, exactly. Unless `ahead` is 0,
    each block is fetched while the one before is multiplied, and at last a block from there.
    """
    tiles = -(-rows // ROWS)
    left = -(-columns * _size(zero) // BYTES)
    p = 0
    while left > 0:
        in_pairs = rows == 1 and left > WIDTH and z_panel == PANEL
        vectors = 1 if left == 1 else 2 * WIDTH if in_pairs else WIDTH
        left -= vectors
        to, start = _from(z, 0, p * z_panel), _from(b, 0, p * PANEL)
        done = 0
        while True:
            weights, inputs = _from(w, p, done * PANEL), _from(x, 0, done * x_step)
            so_many = min(block, count - done)
            done += so_many
            following = ahead
            if ahead != 0 and done < count:
                following = _row(w, p) + done * PANEL
            elif ahead != 0 and left > 0:
                following = _row(w, p + 1)
            for k in range(tiles):
                at = rows * k // tiles
                now = rows * (k + 1) // tiles - at
                _products(
                    zero, now, vectors, _from(to, at, 0), _from(start, at, 0), weights,
                    _from(inputs, at, 0), x_step, so_many, _ahead(following, k, so_many, weights),
                )  # fmt: skip
            start = to
            if done == count:
                break
        p += -(-vectors // WIDTH)


@_part
def _product(
    zero: Scalar,
    rows: int,
    columns: int,
    z: Rows,
    z_panel: int,
    b: Rows,
    w: Rows,
    x: Rows,
    x_step: int,
    count: int,
) -> None:
    """Do the same with whole panels."""
    _product_in_blocks(zero, rows, columns, z, z_panel, b, w, x, x_step, count, count, NOWHERE)


ROWS_TOGETHER = 64  # rows of a linear product at once: their x and their sums stay in the cache


@_kernel
def multiply_rows(
    zero: Scalar,
    rows: int,
    columns: int,
    y: int,
    y_stride: int,
    scratch: int,
    b: int,
    w: int,
    x: int,
    x_stride: int,
    count: int,
) -> None:
    """y = x w + b, for some rows at once by way of `scratch`: it has whole panels, y may not."""
    size = _size(zero)
    x_rows, y_rows, panels = Rows(x, x_stride), Rows(y, y_stride), Rows(w, count * PANEL)
    sums = Rows(scratch, -(-columns * size // PANEL) * PANEL)
    for at in range(0, rows, ROWS_TOGETHER):
        now = min(ROWS_TOGETHER, rows - at)
        _product(
            zero, now, columns, sums, PANEL, Rows(b, 0), panels, _from(x_rows, at, 0), size, count
        )
        _copy_rows(now, columns * size, _from(y_rows, at, 0), sums)


# ---- a run ----------------------------------------------------------------------------------


class RunPlan(NamedTuple):
    """What `run_layer` needs to know about one layer's packed weights in one direction.

    A kernel gets a plan's address, which costs a call less than the plan itself: for a named tuple,
    Numba looks up the type at each call, which takes about a microsecond.
    """

    I: int  # sizes, as in the legend
    H: int
    P: int
    w: int  # the address of W_ih's and W_hh's panels
    b: int
    w_hr: int
    zeros: int  # the address of zeros, for products that have no b
    xh_stride: int  # bytes from row to row of [x | h] in the work space, and of c
    c_stride: int


class _RunSpace(NamedTuple):
    """The places in the work space of `run_layer`."""

    h: Rows  # h before a step; in front of each row stands the step's x
    h_next: Rows  # h after the step, likewise with the next step's x
    c: Rows
    m: Rows  # o * tanh(c), which waits for the projection
    z_x: Rows  # the input's share of z, for some steps: of one sequence [row][panel], or else
    z_x_panel: int  # [panel][row]; bytes from panel to panel
    sums: Rows  # sums of a panel of which not all blocks are multiplied


@_part
def _run_space(plan: RunPlan, rows: int, work: int, hoist: int, size: int) -> _RunSpace:
    h = Rows(work + -(-plan.I * size // BYTES) * BYTES, plan.xh_stride)
    h_next = _from(h, rows, 0)
    c = Rows(work + 2 * rows * plan.xh_stride, plan.c_stride)
    m = _from(c, rows, 0)
    z_x = m.first if plan.P == plan.H else _row(m, rows)
    step = -(-plan.H * size // BYTES) * PANEL  # of one row of one step
    sums = Rows(z_x + hoist * rows * step, PANEL)
    if rows == 1:
        return _RunSpace(h, h_next, c, m, Rows(z_x, step), PANEL, sums)
    return _RunSpace(h, h_next, c, m, Rows(z_x, PANEL), hoist * rows * PANEL, sums)


@_kernel
def run_layer(
    zero: Scalar,
    plan: int,
    work: int,
    x: int,
    x_stride: int,
    y: int,
    y_stride: int,
    gates: int,
    cells: int,
    sizes: np.ndarray,
    rows: int,
    h_n: np.ndarray,
    c_n: np.ndarray,
    hoist: int,
    block_x: int,
    block: int,
    fetch: bool,
    reverse: bool,
) -> None:
    """Run one layer in one direction: equations (1) to (5), as `run` of the contract.

    `rows` is the sum of `sizes`. `gates` and `cells` are 0 if nothing is to be saved. The input's
    share of z is made for `hoist` steps at once, in blocks of `block_x` inputs, unless `hoist` is
    0; what each step multiplies is cut into blocks of `block`. With `fetch`, weights do not stay in
    the second-level cache and are fetched ahead.
    """
    p = _read(RunPlan, plan)
    I, H, P = p.I, p.H, p.P
    size = _size(zero)
    panels = -(-H * size // BYTES)
    steps, most = sizes.size, sizes[0]
    x_rows, y_rows = Rows(x, x_stride), Rows(y, y_stride)
    h_0 = Rows(np.int64(h_n.ctypes.data), P * size)
    c_0 = Rows(np.int64(c_n.ctypes.data), H * size)
    space = _run_space(p, most, work, hoist, size)
    h, h_next, c = space.h, space.h_next, space.c
    # Both get h_0, for with `reverse` a sequence may begin at an even step or at an odd one.
    _copy_rows(most, P * size, h, h_0)
    _copy_rows(most, P * size, h_next, h_0)
    _copy_rows(most, H * size, c, c_0)
    # The tile adds so many inputs itself, and h; its weights begin there.
    inputs = 0 if hoist > 0 else I
    w = Rows(p.w + (I - inputs) * PANEL, (I + P) * PANEL)

    first = rows if reverse else 0  # the step's first row in x and y
    ahead = 0  # for so many steps, from this one on, the input's share of z is made
    ahead_first = 0  # their first row
    live = tiles = even = extra = in_blocks = 0
    for n in range(steps):
        t = steps - 1 - n if reverse else n
        if sizes[t] != live:
            # Tiles are as equal as can be: 8 rows are 4 + 4, not 5 + 3. `extra` of them have one
            # row more than the others.
            live = sizes[t]
            tiles = -(-live // ROWS)
            even = live // tiles
            extra = live - even * tiles
            # Of so many inputs the sums wait in memory; the last block's tiles go on to the cell.
            in_blocks = (inputs + P - 1) // block * block if tiles > 2 else 0
        if reverse:
            first -= live
        start, start_panel = Rows(p.b, 0), PANEL
        if hoist == 0:
            _copy_rows(live, I * size, _from(h, 0, -I * size), _from(x_rows, first, 0))
        else:
            if ahead == 0:
                ahead = min(hoist, steps - n)
                ahead_rows = live
                for k in range(n + 1, n + ahead):
                    ahead_rows += sizes[steps - 1 - k if reverse else k]
                ahead_first = first + live - ahead_rows if reverse else first
                w_x, x_ahead = Rows(p.w, w.stride), _from(x_rows, ahead_first, 0)
                columns, bias = panels * PANEL // size, Rows(p.b, 0)
                _product_in_blocks(
                    zero, ahead_rows, columns, space.z_x, space.z_x_panel, bias, w_x, x_ahead, size,
                    I, block_x, p.w if fetch else 0,
                )  # fmt: skip
            ahead -= 1
            start, start_panel = _from(space.z_x, first - ahead_first, 0), space.z_x_panel
        # (1) to (4). With a projection, h waits in m.
        new_h, new_y = (h_next, _from(y_rows, first, 0)) if P == H else (space.m, space.m)
        to_gates = Rows(gates + first * GATES * H * size, GATES * H * size)
        to_cells = Rows(cells + first * H * size, H * size)
        together = 2 if live == 1 and start_panel == PANEL else 1
        groups = -(-panels // together)
        for group in range(groups):
            # Every other step goes backwards, as the last panels are still in the cache.
            panel = (group if n % 2 == 0 else groups - 1 - group) * together
            unit = panel * BYTES
            begin, w_p = _from(start, 0, panel * start_panel), _from(w, panel, 0)
            inputs_p = _from(h, 0, -inputs * size)
            following = 0  # the weights of the next group
            if fetch:
                following = w_p.first + (-w.stride if n % 2 else w.stride)
                following = w_p.first if group == groups - 1 else following
            if in_blocks > 0:
                last = w_p.first + in_blocks * PANEL if fetch else 0
                _product_in_blocks(
                    zero, live, PANEL // size, space.sums, PANEL, begin, w_p, inputs_p, size,
                    in_blocks, block, last,
                )  # fmt: skip
                begin, w_p = space.sums, _from(w_p, 0, in_blocks * PANEL)
                inputs_p = _from(inputs_p, 0, in_blocks * size)
            at = 0
            for k in range(tiles):
                now = even + 1 if k < extra else even
                _cells(
                    zero,
                    now,
                    min(together, panels - panel) * GATES,
                    _from(c, at, unit),
                    _from(new_h, at, unit),
                    _from(new_y, at, unit),
                    H - unit // size,
                    _row(to_gates, at) + unit if gates else 0,
                    _from(to_cells, at, unit),
                    _from(begin, at, 0),
                    w_p,
                    _from(inputs_p, at, 0),
                    inputs + P - in_blocks,
                    _ahead(following, k, inputs + P - in_blocks, w_p),
                )
                at += now
        if P != H:  # (5)
            w_hr = Rows(p.w_hr, H * PANEL)
            _product(zero, live, P, h_next, PANEL, Rows(p.zeros, 0), w_hr, space.m, size, H)
            _copy_rows(live, P * size, _from(y_rows, first, 0), h_next)
        if not reverse:
            first += live
            # The sequences that are not live in the next step end with this one.
            stay = sizes[t + 1] if t + 1 < steps else 0
            _copy_rows(live - stay, P * size, _from(h_0, stay, 0), _from(h_next, stay, 0))
        h, h_next = h_next, h
    if reverse:
        _copy_rows(most, P * size, h_0, h)
    _copy_rows(most, H * size, c_0, c)


# ---- the way back ---------------------------------------------------------------------------


class BackPlan(NamedTuple):
    """What `back_layer` needs to know about one layer's packed weights in one direction."""

    I: int  # sizes, as in the legend
    H: int
    P: int
    w_ih: int  # addresses of the panels of matrices as factors on the right
    w_hh: int
    w_hr: int
    zeros: int  # the address of zeros, for products that have no b
    one: int  # the address of a 1
    xh_stride: int  # bytes from row to row of [x | h_0 | 1] in the work space, and of the others
    dz_stride: int
    dc_stride: int
    dh_stride: int
    dm_stride: int
    part_size: int  # the bytes of those sums of a chunk that are made at once


class BackPlaces(NamedTuple):
    """The arrays of one call of `back`: addresses, and strides where rows may lie apart.

    They reach the kernel as a plain tuple, whose type Numba knows at once.
    `dx`, `dcells` and `dw_hr` are 0 where there are none. `dh` and `dc` are read and written.
    """

    x: int
    x_stride: int
    y: int
    y_stride: int
    gates: int
    cells: int
    dy: int
    dy_stride: int
    h: int
    c: int
    dh: int
    dc: int
    dx: int
    dcells: int
    dw_ih: int
    dw_hh: int
    db: int
    dw_hr: int


class _BackSpace(NamedTuple):
    """The places in the work space of `back_layer`; a chunk's have `chunk_rows` rows."""

    dh: Rows  # for each sequence, as dc and dm
    dc: Rows
    dm: Rows  # without a projection, this is dh
    sums: int  # (10) in panels, [panel][k][gate][lane]; k is over [x | h_0 | 1]
    sums_hr: int  # dW_hr of (6), in panels
    part: int  # a chunk's sums, on their way there
    xh: Rows  # [x | h_0 | 1] of a chunk
    dz: Rows  # dz of a chunk, [row][gate][unit]
    dz_panels: Rows  # the same, [panel][row][gate][lane]
    dx: Rows  # dx of a chunk, as whole panels
    dh_all: Rows  # with a projection: dh of a chunk, and m as [panel][row][unit]
    m_panels: Rows


@_part
def _back_space(plan: BackPlan, rows: int, chunk_rows: int, work: int, size: int) -> _BackSpace:
    panels = -(-plan.H * size // BYTES)
    wide_panels = -(-plan.H * size // PANEL) if plan.P != plan.H else 0
    dh = Rows(work, plan.dh_stride)
    dc = Rows(_row(dh, rows), plan.dc_stride)
    dm = Rows(_row(dc, rows), plan.dm_stride)
    sums = _row(dm, rows)
    sums_hr = sums + panels * (plan.I + plan.P + 1) * PANEL
    part = sums_hr + wide_panels * plan.P * PANEL
    xh = Rows(part + plan.part_size, plan.xh_stride)
    dz = Rows(_row(xh, chunk_rows), plan.dz_stride)
    dz_panels = Rows(_row(dz, chunk_rows), chunk_rows * PANEL)
    dx = Rows(_row(dz_panels, panels), -(-plan.I * size // PANEL) * PANEL)
    dh_all = Rows(_row(dx, chunk_rows), plan.dh_stride)
    m_panels = Rows(_row(dh_all, chunk_rows), chunk_rows * PANEL)
    if plan.P == plan.H:
        dm = dh
    return _BackSpace(dh, dc, dm, sums, sums_hr, part, xh, dz, dz_panels, dx, dh_all, m_panels)


SUMS_BYTES = 1 << 17  # of a chunk's sums, so many are made at once, or one panel: in the cache


@_part
def _add_product(
    zero: Scalar,
    rows: int,
    columns: int,
    total: int,
    is_first: bool,
    part: int,
    zeros: int,
    w: Rows,
    x: Rows,
    count: int,
) -> None:
    """total += x^T w for x (count, rows), or total = x^T w if this chunk is the first.

    A chunk's sum is made by itself, in `part`: so a long sum loses less by rounding.
    """
    size = _size(zero)
    panel = rows * PANEL
    together = max(1, SUMS_BYTES // panel)
    left = columns * size
    while left > 0:
        now = min(left, together * PANEL)
        to, x_t = Rows(total if is_first else part, PANEL), Rows(x.first, size)
        _product(zero, rows, now // size, to, panel, Rows(zeros, 0), w, x_t, x.stride, count)
        if not is_first:
            _add(zero, -(-now // PANEL) * panel // size, total, part)
        total += together * panel
        w = _from(w, together, 0)
        left -= now


@_kernel
def _scatter(zero: Scalar, count: int, target: Rows, source: int) -> None:
    """target += source: values side by side are added to the first ones of so many rows."""
    for n in range(count):
        _increase(zero, _row(target, n), source + n * _size(zero))


@_part
def _add_sums(zero: Scalar, plan: BackPlan, space: _BackSpace, arrays: BackPlaces) -> None:
    """Add the sums, [panel][k][gate][lane], to the gradients of (10) and (6), [gate][unit][k]."""
    I, H, P = plan.I, plan.H, plan.P
    size = _size(zero)
    lanes = BYTES // size
    for panel in range(-(-H // lanes)):
        units = min(lanes, H - panel * lanes)
        for gate in range(GATES):
            row = gate * H + panel * lanes
            for k in range(I + P + 1):
                source = space.sums + ((panel * (I + P + 1) + k) * GATES + gate) * BYTES
                if k < I:
                    target = Rows(arrays.dw_ih + (row * I + k) * size, I * size)
                elif k < I + P:
                    target = Rows(arrays.dw_hh + (row * P + k - I) * size, P * size)
                else:
                    target = Rows(arrays.db + row * size, size)
                _scatter(zero, units, target, source)
    if P != H:
        for panel in range(-(-H * size // PANEL)):
            units = min(PANEL // size, H - panel * PANEL // size)
            dw_hr = Rows(arrays.dw_hr + panel * PANEL, H * size)
            _add_rows(zero, P, units, dw_hr, Rows(space.sums_hr + panel * P * PANEL, PANEL))


@_kernel
def back_layer(
    zero: Scalar,
    plan: int,
    places: tuple[int, ...],
    work: int,
    chunk_rows: int,
    sizes: np.ndarray,
    rows: int,
    reverse: bool,
) -> None:
    """Go back through a run of one layer in one direction: equations (6) to (10), as `back`.

    Steps are taken in chunks of at most `chunk_rows` rows, so that what a step leaves for the
    products over all rows is still in the cache when a chunk's are made. `rows` is the sum of
    `sizes`.
    """
    p, arrays = _read(BackPlan, plan), BackPlaces(*places)
    I, H, P = p.I, p.H, p.P
    size = _size(zero)
    lanes = BYTES // size
    panels = -(-H // lanes)
    wide_panels = -(-H * size // PANEL) if P != H else 0  # of m, 4 L units each
    steps, most = sizes.size, sizes[0]
    x, y = Rows(arrays.x, arrays.x_stride), Rows(arrays.y, arrays.y_stride)
    dy, dx = Rows(arrays.dy, arrays.dy_stride), Rows(arrays.dx, I * size)
    gates, cells = Rows(arrays.gates, GATES * H * size), Rows(arrays.cells, H * size)
    h_0, c_0 = Rows(arrays.h, P * size), Rows(arrays.c, H * size)
    dh_n, dc_n = Rows(arrays.dh, P * size), Rows(arrays.dc, H * size)
    w_ih, w_hh = Rows(p.w_ih, GATES * H * PANEL), Rows(p.w_hh, GATES * H * PANEL)
    w_hr, zeros = Rows(p.w_hr, P * PANEL), Rows(p.zeros, 0)
    space = _back_space(p, most, chunk_rows, work, size)
    dh, dc, dm, xh = space.dh, space.dc, space.dm, space.xh
    _copy_rows(most, P * size, dh, dh_n)
    _copy_rows(most, H * size, dc, dc_n)
    _copy_rows(chunk_rows, size, _from(xh, 0, (I + P) * size), Rows(p.one, 0))

    first = 0 if reverse else rows  # the chunk's first row in x and y
    n = 0
    while n < steps:
        begin, count = n, 0  # the chunk's first step, and how many rows it has
        while n < steps and count + sizes[n if reverse else steps - 1 - n] <= chunk_rows:
            count += sizes[n if reverse else steps - 1 - n]
            n += 1
        if not reverse:
            first -= count
        at = 0 if reverse else count  # the step's first row in the chunk
        for k in range(begin, n):
            t = k if reverse else steps - 1 - k
            live = sizes[t]
            if not reverse:
                at -= live
            row = first + at
            # `both`: so many of its sequences were there in the step before, as `run` took them.
            before = t + 1 if reverse else t - 1
            row_before, both = row, 0
            if 0 <= before < steps:
                row_before += live if reverse else -sizes[before]
                both = min(live, sizes[before])
            # (6)
            _add_rows(zero, live, P, dh, _from(dy, row, 0))
            if arrays.dcells:
                _add_rows(zero, live, H, dc, Rows(arrays.dcells + row * H * size, H * size))
            if P != H:
                _copy_rows(live, P * size, _from(space.dh_all, at, 0), dh)
                _product(zero, live, H, dm, PANEL, zeros, w_hr, dh, size, P)
            # (7) to (9); dm becomes m
            for r in range(live):
                cells_0 = _row(cells, row_before + r) if r < both else _row(c_0, r)
                for panel in range(panels):
                    unit = panel * BYTES
                    _gradients(
                        zero,
                        H - panel * lanes,
                        Rows(_row(gates, row + r) + unit, H * size),
                        _row(cells, row + r) + unit,
                        cells_0 + unit,
                        _row(dm, r) + unit,
                        _row(dc, r) + unit,
                        _row(space.dz, at + r) + unit,
                        _row(space.dz_panels, panel) + (at + r) * PANEL,
                    )
            # What the products over all rows need: [x | h_0] and m.
            _copy_rows(live, I * size, _from(xh, at, 0), _from(x, row, 0))
            _copy_rows(both, P * size, _from(xh, at, I * size), _from(y, row_before, 0))
            _copy_rows(live - both, P * size, _from(xh, at + both, I * size), _from(h_0, both, 0))
            for panel in range(wide_panels):
                m = Rows(_row(space.m_panels, panel) + at * PANEL, PANEL)
                _copy_rows(live, PANEL, m, _from(dm, 0, panel * PANEL))
            # (9)
            dz = _from(space.dz, at, 0)
            _product(zero, live, P, dh, PANEL, zeros, w_hh, dz, size, GATES * H)
            if reverse:
                at += live
        # (10), and dW_hr of (6), for the rows of the chunk
        total, part, columns = space.sums, space.part, panels * PANEL // size
        is_first, dz_w = begin == 0, space.dz_panels
        _add_product(zero, I + P + 1, columns, total, is_first, part, p.zeros, dz_w, xh, count)
        if P != H:
            total, m_w, dh_x = space.sums_hr, space.m_panels, space.dh_all
            _add_product(zero, P, H, total, is_first, part, p.zeros, m_w, dh_x, count)
        if arrays.dx:
            dz, size_dz = space.dz, GATES * H
            _product(zero, count, I, space.dx, PANEL, zeros, w_ih, dz, size, size_dz)
            _add_rows(zero, count, I, _from(dx, first, 0), space.dx)
        if reverse:
            first += count
    _copy_rows(most, P * size, dh_n, dh)
    _copy_rows(most, H * size, dc_n, dc)
    _add_sums(zero, p, space, arrays)


# ---- the cell with options ------------------------------------------------------------------
# The loops below work on one row after the other. An option is a branch outside such a loop, and
# LLVM makes vector code of every loop that calls nothing: sigmoid and tanh are arithmetic here, and
# only the rare functions that need exp or log call one for each value.
#
# What a run saves are its sums of products, before the peepholes' terms, and c. The way back
# computes everything else again by the same function, `_compute`.

Values = np.ndarray[Any, np.dtype[Any]]  # of one row, or a part of them

_ONE = np.float32(1)  # a number times this one keeps its type
# The places of the functions in ACTIVATIONS.
SIGMOID, TANH, RELU, AFFINE, LEAKY_RELU, THRESHOLDED_RELU = range(6)
SCALED_TANH, HARD_SIGMOID, ELU, SOFTSIGN, SOFTPLUS = range(6, len(ACTIVATIONS))
NORM_GATES, NORM_SUMS = 1, 2  # the kinds "tflite" and "haste" of layer normalisation


class GeneralPlan(NamedTuple):
    """What the general loops need to know about one layer in one direction.

    From `numbers` on, the fields are addresses, and 0 where a cell has no such array. Where nothing
    else is said, an array is as in `Cell`.
    """

    I: int  # sizes, as in the legend
    H: int
    P: int
    gate: int  # the places of the activations in ACTIVATIONS
    cell: int
    output: int
    gone: int  # which gate `coupled` takes away: 0 is i, 1 is f, -1 none
    norm: int  # NORM_GATES, NORM_SUMS or 0
    sums_stride: int  # bytes from row to row of 4H, H and P values in whole panels
    m_stride: int
    h_stride: int
    step_stride: int  # bytes of a `_Step`
    numbers: int  # `Numbers`, in the cell's dtype
    start: int  # what sums begin with: b or zeros
    zeros: int
    w_ih: int  # panels of W_ih, W_hh and W_hr, transposed
    w_hh: int
    w_hr: int
    b: int
    w_ci: int
    w_cf: int
    w_co: int
    ln: int
    ln_ih: int
    ln_hh: int
    ln_c: int
    b_c: int


class Numbers(NamedTuple):
    """The real numbers among a cell's options."""

    gate_clip: Any
    cell_clip: Any
    proj_clip: Any
    gate_alpha: Any
    gate_beta: Any
    cell_alpha: Any
    cell_beta: Any
    output_alpha: Any
    output_beta: Any
    zoneout_h: Any
    zoneout_c: Any
    epsilon: Any


class _Step(NamedTuple):
    """What one row of one step has on its way: arrays of its values, with the equations' names."""

    s: Values  # of four gates, as z and gates: the sums with the peepholes' terms
    z: Values  # not yet within +-gate_clip; without "tflite" this is s
    gates: Values
    raw_c: Values  # f * c_0 + i * g
    c: Values  # c'
    q: Values  # what the output's activation takes; without "haste" this is c
    a: Values  # what it gives
    m: Values  # o * a


STEP_VALUES = 17  # the values for each unit in a `_Step`


@intrinsic
def _pointer(typing, zero, address):
    """Return the address of values of this type as a pointer."""

    def emit(context, builder, signature, args):
        return builder.inttoptr(args[1], context.get_value_type(signature.return_type))

    return types.CPointer(zero)(zero, types.int64), emit


@intrinsic
def _sigmoid(typing, zero, x):
    """Return sigmoid(x) by the arithmetic of the plain cell."""

    def emit(context, builder, signature, args):
        return (1.0 / _below_sigmoid(_Vector(builder, args[1]))).value

    return zero(zero, zero), emit


@intrinsic
def _tanh_of(typing, zero, x):
    """Return tanh(x) by the arithmetic of the plain cell."""

    def emit(context, builder, signature, args):
        above, below = _tanh(_Vector(builder, args[1]))
        return (above / below).value

    return zero(zero, zero), emit


def _loop(function: Callable[..., Any]) -> Any:
    """Jit a loop that kernels call."""
    return njit(function, nogil=True, error_model="numpy")


@_loop
def _values(zero: Scalar, address: int, count: int) -> Values:
    values: Values = carray(_pointer(zero, address), (count,))
    return values


@_loop
def _read_numbers(zero: Scalar, address: int) -> Numbers:
    n = _values(zero, address, 12)
    return Numbers(n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8], n[9], n[10], n[11])


@_loop
def _step_at(zero: Scalar, p: GeneralPlan, address: int) -> _Step:
    H = p.H
    v = _values(zero, address, STEP_VALUES * H)
    s, z, gates, raw_c, c = (
        v[: 4 * H],
        v[4 * H : 8 * H],
        v[8 * H : 12 * H],
        v[12 * H : 13 * H],
        v[13 * H : 14 * H],
    )
    q, a, m = v[14 * H : 15 * H], v[15 * H : 16 * H], v[16 * H :]
    if p.norm != NORM_GATES:
        z = s
    if p.norm != NORM_SUMS:
        q = c
    return _Step(s, z, gates, raw_c, c, q, a, m)


@_loop
def _gate(v: Values, gate: int) -> Values:
    """Return the values of one gate."""
    H = v.size // GATES
    return v[gate * H : (gate + 1) * H]


@_loop
def _within(x: Scalar, bound: Scalar) -> Scalar:
    """Clip x; nan stays nan."""
    return bound if x > bound else -bound if x < -bound else x


@_loop
def _activate(
    zero: Scalar, name: int, alpha: Scalar, beta: Scalar, bound: Scalar, x: Values, y: Values
) -> None:
    """y = the function of x, with x within +-bound: (15) and (17)."""
    if name == SIGMOID:
        for k in range(y.size):
            y[k] = _sigmoid(zero, _within(x[k], bound))
    elif name == TANH:
        for k in range(y.size):
            y[k] = _tanh_of(zero, _within(x[k], bound))
    elif name == RELU:
        for k in range(y.size):
            v = _within(x[k], bound)
            y[k] = zero if v <= 0 else v
    elif name == AFFINE:
        for k in range(y.size):
            y[k] = alpha * _within(x[k], bound) + beta
    elif name == LEAKY_RELU:
        for k in range(y.size):
            v = _within(x[k], bound)
            y[k] = alpha * v if v < 0 else v
    elif name == THRESHOLDED_RELU:
        for k in range(y.size):
            v = _within(x[k], bound)
            y[k] = zero if v <= alpha else v
    elif name == SCALED_TANH:
        for k in range(y.size):
            y[k] = alpha * _tanh_of(zero, beta * _within(x[k], bound))
    elif name == HARD_SIGMOID:
        for k in range(y.size):
            v = alpha * _within(x[k], bound) + beta
            y[k] = zero if v < 0 else zero + _ONE if v > 1 else v
    elif name == ELU:
        for k in range(y.size):
            v = _within(x[k], bound)
            y[k] = alpha * math.expm1(v) if v < 0 else v
    elif name == SOFTSIGN:
        for k in range(y.size):
            v = _within(x[k], bound)
            y[k] = v / (_ONE + abs(v))
    else:
        for k in range(y.size):
            v = _within(x[k], bound)
            y[k] = (zero if v <= 0 else v) + math.log1p(math.exp(-abs(v)))


@_loop
def _go_back(
    zero: Scalar,
    name: int,
    alpha: Scalar,
    beta: Scalar,
    bound: Scalar,
    x: Values,
    y: Values,
    d: Values,
) -> None:
    """d = d times the derivative of `_activate`, which made y of x."""
    one = zero + _ONE
    if name == SIGMOID:
        for k in range(d.size):
            d[k] *= y[k] * (one - y[k])
    elif name == TANH:
        for k in range(d.size):
            d[k] *= one - y[k] * y[k]
    elif name == RELU:
        for k in range(d.size):
            d[k] = zero if x[k] <= 0 else d[k]
    elif name == AFFINE:
        for k in range(d.size):
            d[k] *= alpha
    elif name == LEAKY_RELU:
        for k in range(d.size):
            d[k] *= alpha if x[k] <= 0 else one
    elif name == THRESHOLDED_RELU:
        for k in range(d.size):
            d[k] = zero if _within(x[k], bound) <= alpha else d[k]
    elif name == SCALED_TANH:
        for k in range(d.size):
            t = _tanh_of(zero, beta * _within(x[k], bound))
            d[k] *= alpha * beta * (one - t * t)
    elif name == HARD_SIGMOID:
        for k in range(d.size):
            v = alpha * _within(x[k], bound) + beta
            d[k] *= zero if v <= 0 else zero if v >= 1 else alpha
    elif name == ELU:
        for k in range(d.size):
            v = _within(x[k], bound)
            d[k] *= alpha * math.exp(v) if v <= 0 else one
    elif name == SOFTSIGN:
        for k in range(d.size):
            v = one + abs(_within(x[k], bound))
            d[k] *= one / (v * v)
    else:
        for k in range(d.size):
            d[k] *= _sigmoid(zero, _within(x[k], bound))
    for k in range(d.size):
        d[k] = zero if abs(x[k]) > bound else d[k]


# A sum over a row is made in 16 parts, of which value k goes to part k modulo 16, and the parts are
# added in pairs. So it does not depend on how many lanes the machine's vectors have.
_PARTS = 16


def _emit_parts(
    builder: ir.IRBuilder, parts: ir.Value, count: ir.Value, factors: Sequence[Sequence[ir.Value]]
) -> None:
    """parts += the products of so many values of each factor.

    A factor is an address and the number that is taken from each value there.
    """
    addresses, less = zip(*factors, strict=True)
    kind = ir.VectorType(less[0].type, _PARTS)
    size = {"float": 4, "double": 8}[str(kind.element)]

    def add(sums: ir.Value, loaded: Sequence[ir.Value]) -> ir.Value:
        first, *rest = (
            _Vector(builder, value) - _Vector(builder, _broadcast(builder, number, kind))
            for value, number in zip(loaded, less, strict=True)
        )
        sums = _Vector(builder, sums)
        return (first.fma(rest[0], sums) if rest else sums + first).value

    def step(values: Sequence[ir.Value]) -> Sequence[ir.Value]:
        *at, sums = values
        sums = add(sums, [_load(builder, address, kind, size) for address in at])
        return *(builder.add(address, _INT(_PARTS * size)) for address in at), sums

    whole = builder.and_(count, _INT(-_PARTS))
    start = [*addresses, _load(builder, parts, kind, size)]
    *at, sums = _count_down(builder, whole, _PARTS, start, step)
    mask, bytes_ = _first_lanes(builder, kind, builder.sub(count, whole)), ir.IntType(32)(size)
    pointers = [builder.inttoptr(address, kind.as_pointer()) for address in at]
    zero = _constant(kind, 0.0)
    rest = [_masked(builder, "load", kind, p, bytes_, mask, zero) for p in pointers]
    _store(builder, builder.select(mask, add(sums, rest), sums), parts, size)


@intrinsic
def _add_to_parts(typing, zero, parts, count, a):
    """parts += values at a."""

    def emit(context, builder, signature, args):
        number, parts, count, a = args
        _emit_parts(builder, parts, count, [(a, number)])
        return context.get_dummy_value()

    return types.void(zero, *[types.int64] * 3), emit


@intrinsic
def _add_products_to_parts(typing, zero, parts, count, a, less_a, b, less_b):
    """parts += (values at a - less_a) (values at b - less_b)."""

    def emit(context, builder, signature, args):
        _, parts, count, *factors = args
        _emit_parts(builder, parts, count, [factors[:2], factors[2:]])
        return context.get_dummy_value()

    return types.void(zero, *[types.int64] * 3, zero, types.int64, zero), emit


@intrinsic
def _own_parts(typing, zero):
    """Return the address of `_PARTS` values, which live as long as the function that asks."""

    def emit(context, builder, signature, args):
        own = cgutils.alloca_once(builder, context.get_value_type(zero), _PARTS)
        return builder.ptrtoint(own, _INT)

    return types.int64(zero), emit


@_loop
def _add_parts(parts: Values) -> Scalar:
    count = parts.size // 2
    while count > 0:
        for k in range(count):
            parts[k] += parts[k + count]
        count //= 2
    total: Scalar = parts[0]
    return total


@_loop
def _sum_of(zero: Scalar, v: Values, H: int, gone: int) -> Scalar:
    """Return the sum of v, without the H values of the gate that is gone."""
    at, size = _own_parts(zero), _size(zero)
    parts = _values(zero, at, _PARTS)
    parts[:] = zero
    for gate in range(v.size // H):
        if gate != gone:
            _add_to_parts(zero, at, H, v.ctypes.data + gate * H * size)
    total: Scalar = _add_parts(parts)
    return total


@_loop
def _sum_of_products(
    zero: Scalar, a: Values, less_a: Scalar, b: Values, less_b: Scalar, H: int, gone: int
) -> Scalar:
    """Return the sum of (a - less_a) (b - less_b), likewise."""
    at, size = _own_parts(zero), _size(zero)
    parts = _values(zero, at, _PARTS)
    parts[:] = zero
    for gate in range(a.size // H):
        if gate != gone:
            own_a, own_b = a.ctypes.data + gate * H * size, b.ctypes.data + gate * H * size
            _add_products_to_parts(zero, at, H, own_a, less_a, own_b, less_b)
    total: Scalar = _add_parts(parts)
    return total


@_loop
def _moments(zero: Scalar, v: Values, H: int, gone: int, epsilon: Scalar) -> tuple[Scalar, Scalar]:
    """Return the mean of v and 1 / sqrt(variance + epsilon), without the gate that is gone."""
    count = np.float32(v.size if gone < 0 else v.size - H)
    mean = _sum_of(zero, v, H, gone) / count
    variance = _sum_of_products(zero, v, mean, v, mean, H, gone) / count
    return mean, (zero + _ONE) / np.sqrt(variance + epsilon)


@_loop
def _norm_back(
    zero: Scalar, v: Values, H: int, gone: int, mean: Scalar, scale: Scalar, d: Values, to: Values
) -> None:
    """to = the gradient of v, from the gradient d of norm(v); a gate that is gone gets zeros."""
    count = np.float32(v.size if gone < 0 else v.size - H)
    total = _sum_of(zero, d, H, gone) / count
    product = _sum_of_products(zero, d, zero, v, mean, H, gone) / count * scale
    for k in range(v.size):
        to[k] = scale * (d[k] - total - (v[k] - mean) * scale * product)
    if gone >= 0:
        to[gone * H : (gone + 1) * H] = zero


@_loop
def _norm(v: Values, mean: Scalar, scale: Scalar, gain: Values, b: Values, to: Values) -> None:
    """to = b + gain * norm(v)."""
    for k in range(v.size):
        to[k] = b[k] + gain[k] * ((v[k] - mean) * scale)


@_loop
def _norm_gradients(
    v: Values, mean: Scalar, scale: Scalar, gain: Values, d_gain: Values, d: Values, to: Values
) -> None:
    """d_gain += what follows from d, the gradient of gain * norm(v); to = that of norm(v)."""
    for k in range(v.size):
        d_gain[k] += d[k] * ((v[k] - mean) * scale)
    for k in range(v.size):
        to[k] = d[k] * gain[k]


@_loop
def _add_products(target: Values, a: Values, b: Values) -> None:
    for k in range(target.size):
        target[k] += a[k] * b[k]


@_loop
def _norm_gate(zero: Scalar, p: GeneralPlan, n: Numbers, gate: int, step: _Step) -> None:
    """(14) of one gate."""
    H = p.H
    if p.norm == NORM_GATES:
        s, at = _gate(step.s, gate), gate * H * _size(zero)
        mean, scale = _moments(zero, s, H, -1, n.epsilon)
        gain, b = _values(zero, p.ln + at, H), _values(zero, p.b + at, H)
        _norm(s, mean, scale, gain, b, _gate(step.z, gate))


@_loop
def _compute(
    zero: Scalar, p: GeneralPlan, n: Numbers, sums: Values, c_0: Values, step: _Step
) -> None:
    """Compute (13) to (17) of one row, but for the projection.

    `sums` are those of (12): 4H values, or with NORM_SUMS both products, 8H.
    """
    H, one, s = p.H, zero + _ONE, step.s
    i, f, g, o = (
        _gate(step.gates, 0),
        _gate(step.gates, 1),
        _gate(step.gates, 2),
        _gate(step.gates, 3),
    )
    if p.norm == NORM_SUMS:
        x, h = sums[: 4 * H], sums[4 * H :]
        mean, scale = _moments(zero, x, H, p.gone, n.epsilon)
        _norm(x, mean, scale, _values(zero, p.ln_ih, 4 * H), _values(zero, p.b, 4 * H), s)
        mean, scale = _moments(zero, h, H, p.gone, n.epsilon)
        _norm(h, mean, scale, _values(zero, p.ln_hh, 4 * H), s, s)
    else:
        _copy(s.ctypes.data, sums.ctypes.data, 4 * H * _size(zero))
    if p.w_ci != 0:
        _add_products(_gate(s, 0), _values(zero, p.w_ci, H), c_0)
        _add_products(_gate(s, 1), _values(zero, p.w_cf, H), c_0)
    for gate in range(3):
        if gate != p.gone:
            _norm_gate(zero, p, n, gate, step)
            name, alpha, beta = p.gate, n.gate_alpha, n.gate_beta
            if gate == 2:
                name, alpha, beta = p.cell, n.cell_alpha, n.cell_beta
            to = _gate(step.gates, gate)
            _activate(zero, name, alpha, beta, n.gate_clip, _gate(step.z, gate), to)
    if p.gone == 0:
        for k in range(H):
            i[k] = one - f[k]
    elif p.gone == 1:
        for k in range(H):
            f[k] = one - i[k]
    raw_c, c, q, a, m = step.raw_c, step.c, step.q, step.a, step.m
    for k in range(H):
        raw_c[k] = f[k] * c_0[k] + i[k] * g[k]
    for k in range(H):
        c[k] = _within(raw_c[k], n.cell_clip)
    if p.w_co != 0:
        _add_products(_gate(s, 3), _values(zero, p.w_co, H), c)
    _norm_gate(zero, p, n, 3, step)
    _activate(zero, p.gate, n.gate_alpha, n.gate_beta, n.gate_clip, _gate(step.z, 3), o)
    if p.norm == NORM_SUMS:
        mean, scale = _moments(zero, c, H, -1, n.epsilon)
        _norm(c, mean, scale, _values(zero, p.ln_c, H), _values(zero, p.b_c, H), q)
    infinite = zero + np.float32(np.inf)
    _activate(zero, p.output, n.output_alpha, n.output_beta, infinite, q, a)
    for k in range(H):
        m[k] = o[k] * a[k]


@_loop
def _keep_some(zero: Scalar, zone: int, probability: Scalar, new: Values, state: Values) -> None:
    """state = new, or what zoneout leaves of the two: (19); `zone` is a mask's address or 0."""
    if zone != 0:
        mask = _values(zero, zone, state.size)
        for k in range(state.size):
            state[k] = (_ONE - mask[k]) * new[k] + mask[k] * state[k]
    elif probability != 0:
        for k in range(state.size):
            state[k] = (_ONE - probability) * new[k] + probability * state[k]
    else:
        _copy(state.ctypes.data, new.ctypes.data, state.size * _size(zero))


@_loop
def _share(zero: Scalar, zone: int, probability: Scalar, d: Values, new: Values) -> None:
    """Share d, the gradient of a state of (19): new = that of the new value, d = the old one's."""
    if zone != 0:
        mask = _values(zero, zone, d.size)
        for k in range(d.size):
            new[k] = d[k] * (_ONE - mask[k])
        for k in range(d.size):
            d[k] *= mask[k]
    elif probability != 0:
        for k in range(d.size):
            new[k] = d[k] * (_ONE - probability)
        for k in range(d.size):
            d[k] *= probability
    else:
        _copy(new.ctypes.data, d.ctypes.data, d.size * _size(zero))
        d[:] = zero


@_loop
def _zone(zone: int, row: int, size: int) -> int:
    """Return the address of a row's mask, if there are masks."""
    return zone + row * size if zone != 0 else 0


@_loop
def _steps_together(sizes: np.ndarray, begin: int, most: int, reverse: bool) -> tuple[int, int]:
    """Return how many steps from `begin` on have at most so many rows, and how many rows.

    With `reverse`, steps are counted from the last one.
    """
    n, count = begin, 0
    while n < sizes.size:
        live = sizes[sizes.size - 1 - n if reverse else n]
        if count + live > most and n > begin:
            break
        count += live
        n += 1
    return n - begin, count


@_kernel
def run_general(
    zero: Scalar,
    plan: int,
    work: int,
    chunk_rows: int,
    x: int,
    x_stride: int,
    y: int,
    y_stride: int,
    saved: int,
    cells: int,
    noise_h: int,
    zone_h: int,
    zone_c: int,
    sizes: np.ndarray,
    rows: int,
    h_n: np.ndarray,
    c_n: np.ndarray,
    reverse: bool,
) -> None:
    """Run one layer in one direction: equations (11) to (19), as `run` of the contract.

    The input's share of the sums is made for some steps at once, of at most `chunk_rows` rows or
    one step. `saved` and `cells` are 0 if nothing is to be saved; `noise_h`, `zone_h` and `zone_c`
    are 0 where there is no noise.
    """
    p = _read(GeneralPlan, plan)
    n = _read_numbers(zero, p.numbers)
    I, H, P = p.I, p.H, p.P
    size = _size(zero)
    most, products = sizes[0], 2 if p.norm == NORM_SUMS else 1
    x_rows, y_rows = Rows(x, x_stride), Rows(y, y_stride)
    w_ih, w_hh, w_hr = Rows(p.w_ih, I * PANEL), Rows(p.w_hh, P * PANEL), Rows(p.w_hr, H * PANEL)
    zeros = Rows(p.zeros, 0)
    states_h = Rows(np.int64(h_n.ctypes.data), P * size)
    states_c = Rows(np.int64(c_n.ctypes.data), H * size)
    all_sums = Rows(work, p.sums_stride)
    sums_h = Rows(_row(all_sums, chunk_rows), p.sums_stride)
    m_rows = Rows(_row(sums_h, most), p.m_stride)
    projected = Rows(_row(m_rows, most), p.h_stride)
    noisy_h = Rows(_row(projected, most), p.h_stride)
    both = _values(zero, _row(noisy_h, most), 8 * H)
    step = _step_at(zero, p, _row(noisy_h, most) + 8 * H * size)

    first = rows if reverse else 0  # the chunk's first row in x and y
    begin = 0
    while begin < sizes.size:
        steps, count = _steps_together(sizes, begin, chunk_rows, reverse)
        if reverse:
            first -= count
        _product(
            zero,
            count,
            4 * H,
            all_sums,
            PANEL,
            Rows(p.start, 0),
            w_ih,
            _from(x_rows, first, 0),
            size,
            I,
        )
        at = count if reverse else 0  # the step's first row in the chunk
        for k in range(begin, begin + steps):
            live = sizes[sizes.size - 1 - k if reverse else k]
            if reverse:
                at -= live
            h = states_h
            if noise_h != 0:  # (11)
                for r in range(live):
                    to = _values(zero, _row(noisy_h, r), P)
                    to[:] = zero
                    factors = _values(zero, noise_h + r * P * size, P)
                    _add_products(to, _values(zero, _row(h, r), P), factors)
                h = noisy_h
            sums = _from(all_sums, at, 0)  # (12)
            if p.norm == NORM_SUMS:
                _product(zero, live, 4 * H, sums_h, PANEL, zeros, w_hh, h, size, P)
            else:
                _product(zero, live, 4 * H, sums, PANEL, sums, w_hh, h, size, P)
            for r in range(live):
                row = first + at + r
                c = _values(zero, _row(states_c, r), H)
                state_h = _values(zero, _row(states_h, r), P)
                own = _values(zero, _row(sums, r), 4 * H)
                if p.norm == NORM_SUMS:
                    _copy(both.ctypes.data, _row(sums, r), 4 * H * size)
                    _copy(both.ctypes.data + 4 * H * size, _row(sums_h, r), 4 * H * size)
                    own = both
                _compute(zero, p, n, own, c, step)
                _keep_some(zero, _zone(zone_c, row, H * size), n.zoneout_c, step.c, c)
                if saved != 0:
                    bytes_ = 4 * H * products * size
                    _copy(saved + row * bytes_, own.ctypes.data, bytes_)
                    _copy(cells + row * H * size, c.ctypes.data, H * size)
                if P == H:
                    _keep_some(zero, _zone(zone_h, row, P * size), n.zoneout_h, step.m, state_h)
                    _copy(_row(y_rows, row), state_h.ctypes.data, P * size)
                else:
                    _copy(_row(m_rows, r), step.m.ctypes.data, H * size)
            if P != H:  # (18)
                _product(zero, live, P, projected, PANEL, zeros, w_hr, m_rows, size, H)
                for r in range(live):
                    row = first + at + r
                    new = _values(zero, _row(projected, r), P)
                    state_h = _values(zero, _row(states_h, r), P)
                    for u in range(P):
                        new[u] = _within(new[u], n.proj_clip)
                    _keep_some(zero, _zone(zone_h, row, P * size), n.zoneout_h, new, state_h)
                    _copy(_row(y_rows, row), state_h.ctypes.data, P * size)
            if not reverse:
                at += live
        if not reverse:
            first += count
        begin += steps


# ---- the way back of the cell with options ---------------------------------------------------


class GeneralPlaces(NamedTuple):
    """The arrays of one call of `back`, as `BackPlaces`; what is not there is 0."""

    x: int
    x_stride: int
    y: int
    y_stride: int
    saved: int
    cells: int
    dy: int
    dy_stride: int
    h: int
    c: int
    dh: int
    dc: int
    dx: int
    dcells: int
    noise_h: int
    zone_h: int
    zone_c: int
    w_ih: int  # panels of the weights as factors on the right
    w_hh: int
    w_hr: int
    dw_ih: int  # the gradients of a cell's arrays
    dw_hh: int
    db: int
    dw_hr: int
    dw_ci: int
    dw_cf: int
    dw_co: int
    dln: int
    dln_ih: int
    dln_hh: int
    dln_c: int
    db_c: int


@_loop
def _back_to_sums(
    zero: Scalar,
    p: GeneralPlan,
    n: Numbers,
    arrays: GeneralPlaces,
    gate: int,
    step: _Step,
    d: Values,
    ds: Values,
) -> None:
    """Go back from d, the gradient of a gate, to that of its sums: (15) and (14)."""
    H, at = p.H, gate * p.H * _size(zero)
    name, alpha, beta = p.gate, n.gate_alpha, n.gate_beta
    if gate == 2:
        name, alpha, beta = p.cell, n.cell_alpha, n.cell_beta
    z, s, to = _gate(step.z, gate), _gate(step.s, gate), _gate(ds, gate)
    _go_back(zero, name, alpha, beta, n.gate_clip, z, _gate(step.gates, gate), d)
    db = _values(zero, arrays.db + at, H)
    for k in range(H):
        db[k] += d[k]
    if p.norm == NORM_GATES:
        mean, scale = _moments(zero, s, H, -1, n.epsilon)
        gain, d_gain = _values(zero, p.ln + at, H), _values(zero, arrays.dln + at, H)
        _norm_gradients(s, mean, scale, gain, d_gain, d, d)
        _norm_back(zero, s, H, -1, mean, scale, d, to)
    else:
        for k in range(H):
            to[k] = d[k]


@_loop
def _back_to_product(
    zero: Scalar,
    p: GeneralPlan,
    epsilon: Scalar,
    product: Values,
    gain: int,
    d_gain: int,
    ds: Values,
    to: Values,
) -> None:
    """Go back from ds to one of the two products of (12) with NORM_SUMS."""
    gains, d_gains = _values(zero, gain, 4 * p.H), _values(zero, d_gain, 4 * p.H)
    mean, scale = _moments(zero, product, p.H, p.gone, epsilon)
    _norm_gradients(product, mean, scale, gains, d_gains, ds, to)
    _norm_back(zero, product, p.H, p.gone, mean, scale, to, to)


@_loop
def _back_through_step(
    zero: Scalar,
    p: GeneralPlan,
    n: Numbers,
    arrays: GeneralPlaces,
    step: _Step,
    c_0: Values,
    dm: Values,
    dc: Values,
    dc_new: Values,
    d: Values,
    d_other: Values,
    ds: Values,
) -> None:
    """Go back through (17) to (13) of one row, from dm and dc_new, the gradient of c'.

    `ds` becomes the gradient of the sums with the peepholes' terms; that of c_0 is added to dc.
    `d` and `d_other` are memory for what is on its way.
    """
    H, a, c = p.H, step.a, step.c
    i, f, g, o = (
        _gate(step.gates, 0),
        _gate(step.gates, 1),
        _gate(step.gates, 2),
        _gate(step.gates, 3),
    )
    for k in range(H):  # (17)
        d[k] = dm[k] * o[k]
    infinite = zero + np.float32(np.inf)
    _go_back(zero, p.output, n.output_alpha, n.output_beta, infinite, step.q, a, d)
    if p.norm == NORM_SUMS:
        mean, scale = _moments(zero, c, H, -1, n.epsilon)
        db_c = _values(zero, arrays.db_c, H)
        for k in range(H):
            db_c[k] += d[k]
        _norm_gradients(
            c, mean, scale, _values(zero, p.ln_c, H), _values(zero, arrays.dln_c, H), d, d
        )
        _norm_back(zero, c, H, -1, mean, scale, d, d)
    for k in range(H):
        dc_new[k] += d[k]
    for k in range(H):
        d[k] = dm[k] * a[k]
    _back_to_sums(zero, p, n, arrays, 3, step, d, ds)
    ds_i, ds_f, ds_o = _gate(ds, 0), _gate(ds, 1), _gate(ds, 3)
    if p.w_co != 0:  # (13)
        _add_products(_values(zero, arrays.dw_co, H), ds_o, c)
        _add_products(dc_new, ds_o, _values(zero, p.w_co, H))
    for k in range(H):  # (16)
        dc_new[k] = zero if abs(step.raw_c[k]) > n.cell_clip else dc_new[k]
    for k in range(H):
        d[k] = dc_new[k] * g[k]
    for k in range(H):
        d_other[k] = dc_new[k] * c_0[k]
    if p.gone == 0:
        for k in range(H):
            d_other[k] -= d[k]
        ds_i[:] = zero
    elif p.gone == 1:
        for k in range(H):
            d[k] -= d_other[k]
        ds_f[:] = zero
    if p.gone != 0:
        _back_to_sums(zero, p, n, arrays, 0, step, d, ds)
    if p.gone != 1:
        _back_to_sums(zero, p, n, arrays, 1, step, d_other, ds)
    for k in range(H):
        d[k] = dc_new[k] * i[k]
    _back_to_sums(zero, p, n, arrays, 2, step, d, ds)
    _add_products(dc, dc_new, f)
    if p.w_ci != 0:
        _add_products(_values(zero, arrays.dw_ci, H), ds_i, c_0)
        _add_products(_values(zero, arrays.dw_cf, H), ds_f, c_0)
        _add_products(dc, ds_i, _values(zero, p.w_ci, H))
        _add_products(dc, ds_f, _values(zero, p.w_cf, H))


@_loop
def _copy_to_panels(size: int, panels: Rows, at: int, source: int) -> None:
    """Copy a row of so many bytes to panels; at is where it goes in each."""
    for panel in range(-(-size // PANEL)):
        _copy(_row(panels, panel) + at * PANEL, source + panel * PANEL, PANEL)


@_loop
def _add_sums_of_panels(zero: Scalar, columns: int, rows: int, target: int, sums: int) -> None:
    """target (columns, rows) += sums, which are [panel][row][column]."""
    wide = PANEL // _size(zero)
    to = _values(zero, target, columns * rows)
    for n in range(columns):
        panel = _values(zero, sums + n // wide * rows * PANEL, rows * wide)
        for k in range(rows):
            to[n * rows + k] += panel[k * wide + n % wide]


@_loop
def _row_before(sizes: np.ndarray, t: int, row: int, reverse: bool) -> tuple[int, int]:
    """Return the first row of the step before t, and how many sequences of t had it.

    Step t begins at `row`; with `reverse`, the step before is t + 1.
    """
    before = t + 1 if reverse else t - 1
    if before < 0 or before >= sizes.size:
        return row, 0
    return row + (sizes[t] if reverse else -sizes[before]), min(sizes[t], sizes[before])


@_kernel
def gates_general(
    zero: Scalar,
    plan: int,
    work: int,
    saved: int,
    cells: int,
    c: int,
    gates: int,
    sizes: np.ndarray,
    reverse: bool,
) -> None:
    """Fill `gates` (N, 4H) with i, f, g, o of a saved run that began with `c`."""
    p = _read(GeneralPlan, plan)
    n = _read_numbers(zero, p.numbers)
    H, size = p.H, _size(zero)
    many = (8 if p.norm == NORM_SUMS else 4) * H
    step = _step_at(zero, p, work)
    row = 0
    for t in range(sizes.size):
        row_before, both = _row_before(sizes, t, row, reverse)
        for r in range(sizes[t]):
            c_0 = cells + (row_before + r) * H * size if r < both else c + r * H * size
            sums = _values(zero, saved + (row + r) * many * size, many)
            _compute(zero, p, n, sums, _values(zero, c_0, H), step)
            _copy(gates + (row + r) * 4 * H * size, step.gates.ctypes.data, 4 * H * size)
        row += sizes[t]


@_kernel
def back_general(
    zero: Scalar,
    plan: int,
    places: tuple[int, ...],
    work: int,
    chunk_rows: int,
    sizes: np.ndarray,
    rows: int,
    reverse: bool,
) -> None:
    """Go back through a run of `run_general`.

    Steps are taken in chunks of at most `chunk_rows` rows or one step, as in `back_layer`.
    """
    p, arrays = _read(GeneralPlan, plan), GeneralPlaces(*places)
    n = _read_numbers(zero, p.numbers)
    I, H, P = p.I, p.H, p.P
    size = _size(zero)
    most, many = sizes[0], (8 if p.norm == NORM_SUMS else 4) * H
    x, y = Rows(arrays.x, arrays.x_stride), Rows(arrays.y, arrays.y_stride)
    dy, cells = Rows(arrays.dy, arrays.dy_stride), Rows(arrays.cells, H * size)
    h_0, c_0 = Rows(arrays.h, P * size), Rows(arrays.c, H * size)
    dh, dc = Rows(arrays.dh, P * size), Rows(arrays.dc, H * size)
    w_ih, w_hh = Rows(arrays.w_ih, 4 * H * PANEL), Rows(arrays.w_hh, 4 * H * PANEL)
    w_hr, w_hr_forth = Rows(arrays.w_hr, P * PANEL), Rows(p.w_hr, H * PANEL)
    zeros = Rows(p.zeros, 0)

    # the work space: for each sequence
    steps_at = Rows(work, p.step_stride)
    dm = Rows(_row(steps_at, most), p.m_stride)
    dh_new = Rows(_row(dm, most), p.h_stride)  # of the new h in (19)
    projected = Rows(_row(dh_new, most), p.h_stride)  # then the gradient of m in (11)
    rest = _row(projected, most)
    dc_new = _values(zero, rest, H)
    d, d_other = _values(zero, rest + H * size, H), _values(zero, rest + 2 * H * size, H)
    # for each row of a chunk
    sums_panels, h_panels = p.sums_stride // PANEL, p.h_stride // PANEL
    ds_x = Rows(rest + 3 * p.m_stride, p.sums_stride)
    ds_x_panels = Rows(_row(ds_x, chunk_rows), chunk_rows * PANEL)
    ds_h, ds_h_panels = ds_x, ds_x_panels
    end = _row(ds_x_panels, sums_panels)
    if p.norm == NORM_SUMS:
        ds_h = Rows(end, p.sums_stride)
        ds_h_panels = Rows(_row(ds_h, chunk_rows), chunk_rows * PANEL)
        end = _row(ds_h_panels, sums_panels)
    h_before = Rows(end, p.h_stride)  # m of (11)
    dx = Rows(_row(h_before, chunk_rows), -(-I * size // PANEL) * PANEL)
    m = Rows(_row(dx, chunk_rows), p.m_stride)
    dh_panels = Rows(_row(m, chunk_rows), chunk_rows * PANEL)
    # sums over all rows, in panels
    sums_ih = _row(dh_panels, h_panels)
    sums_hh = sums_ih + sums_panels * I * PANEL
    sums_hr = sums_hh + sums_panels * P * PANEL
    part = sums_hr + h_panels * H * PANEL

    first = 0 if reverse else rows  # the chunk's first row in x and y
    begin = 0
    while begin < sizes.size:
        steps, count = _steps_together(sizes, begin, chunk_rows, not reverse)
        if not reverse:
            first -= count
        at = 0 if reverse else count  # the step's first row in the chunk
        for k in range(begin, begin + steps):
            t = k if reverse else sizes.size - 1 - k
            live = sizes[t]
            if not reverse:
                at -= live
            row = first + at
            row_before, both = _row_before(sizes, t, row, reverse)
            _add_rows(zero, live, P, dh, _from(dy, row, 0))
            if arrays.dcells != 0:
                _add_rows(zero, live, H, dc, Rows(arrays.dcells + row * H * size, H * size))
            for r in range(live):
                c_r = _row(cells, row_before + r) if r < both else _row(c_0, r)
                sums = _values(zero, arrays.saved + (row + r) * many * size, many)
                step = _step_at(zero, p, _row(steps_at, r))
                _compute(zero, p, n, sums, _values(zero, c_r, H), step)
                _copy(_row(m, at + r), step.m.ctypes.data, H * size)
                # (19)
                new, old = _values(zero, _row(dh_new, r), P), _values(zero, _row(dh, r), P)
                _share(zero, _zone(arrays.zone_h, row + r, P * size), n.zoneout_h, old, new)
            d_m = dh_new
            if P != H:  # (18)
                if n.proj_clip < np.inf:
                    _product(
                        zero, live, P, projected, PANEL, zeros, w_hr_forth, _from(m, at, 0), size, H
                    )
                    for r in range(live):
                        new, old = (
                            _values(zero, _row(dh_new, r), P),
                            _values(zero, _row(projected, r), P),
                        )
                        for u in range(P):
                            new[u] = zero if abs(old[u]) > n.proj_clip else new[u]
                for r in range(live):
                    _copy_to_panels(P * size, dh_panels, at + r, _row(dh_new, r))
                _product(zero, live, H, dm, PANEL, zeros, w_hr, dh_new, size, P)
                d_m = dm
            for r in range(live):
                c_r = _row(cells, row_before + r) if r < both else _row(c_0, r)
                dc_r, dm_r = _values(zero, _row(dc, r), H), _values(zero, _row(d_m, r), H)
                ds = _values(zero, _row(ds_x, at + r), 4 * H)
                step = _step_at(zero, p, _row(steps_at, r))
                _share(zero, _zone(arrays.zone_c, row + r, H * size), n.zoneout_c, dc_r, dc_new)
                before = _values(zero, c_r, H)
                _back_through_step(
                    zero, p, n, arrays, step, before, dm_r, dc_r, dc_new, d, d_other, ds
                )
                if p.norm == NORM_SUMS:  # (12)
                    products = _values(zero, arrays.saved + (row + r) * many * size, many)
                    own_x, own_h = products[: 4 * H], products[4 * H :]
                    to = _values(zero, _row(ds_h, at + r), 4 * H)
                    _back_to_product(zero, p, n.epsilon, own_h, p.ln_hh, arrays.dln_hh, ds, to)
                    _back_to_product(zero, p, n.epsilon, own_x, p.ln_ih, arrays.dln_ih, ds, ds)
                    _copy_to_panels(4 * H * size, ds_h_panels, at + r, _row(ds_h, at + r))
                _copy_to_panels(4 * H * size, ds_x_panels, at + r, _row(ds_x, at + r))
            # (11)
            _copy_rows(both, P * size, _from(h_before, at, 0), _from(y, row_before, 0))
            _copy_rows(live - both, P * size, _from(h_before, at + both, 0), _from(h_0, both, 0))
            _product(zero, live, P, projected, PANEL, zeros, w_hh, _from(ds_h, at, 0), size, 4 * H)
            for r in range(live):
                new, to = _values(zero, _row(projected, r), P), _values(zero, _row(dh, r), P)
                if arrays.noise_h != 0:
                    factors = _values(zero, arrays.noise_h + r * P * size, P)
                    noisy = _values(zero, _row(h_before, at + r), P)
                    for u in range(P):
                        noisy[u] *= factors[u]
                    _add_products(to, new, factors)
                else:
                    for u in range(P):
                        to[u] += new[u]
            if reverse:
                at += live
        # (10), for the rows of the chunk
        is_first, w = begin == 0, ds_x_panels
        x_chunk = _from(x, first, 0)
        _add_product(zero, I, 4 * H, sums_ih, is_first, part, p.zeros, w, x_chunk, count)
        w = ds_h_panels
        _add_product(zero, P, 4 * H, sums_hh, is_first, part, p.zeros, w, h_before, count)
        if P != H:
            _add_product(zero, H, P, sums_hr, is_first, part, p.zeros, dh_panels, m, count)
        if arrays.dx != 0:
            _product(zero, count, I, dx, PANEL, zeros, w_ih, ds_x, size, 4 * H)
            _add_rows(zero, count, I, Rows(arrays.dx + first * I * size, I * size), dx)
        if reverse:
            first += count
        begin += steps
    _add_sums_of_panels(zero, 4 * H, I, arrays.dw_ih, sums_ih)
    _add_sums_of_panels(zero, 4 * H, P, arrays.dw_hh, sums_hh)
    if P != H:
        _add_sums_of_panels(zero, P, H, arrays.dw_hr, sums_hr)


@_kernel
def address_of(array: np.ndarray) -> int:
    """Return where an array's values begin."""
    return array.ctypes.data
