"""ONNX's operators of single elements: arithmetic, comparisons, activations, casts.

Most of them are ufuncs of NumPy. A ufunc spreads its arguments over each other, so that a column
and a row, which take little, make a whole matrix: `_spread` asks before they do. Types are ONNX's:
both arguments have one type, and so has the result. Whoever calls these has switched off NumPy's
warnings of floating-point errors, as `GraphModel` does once for all operators.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from .limits import Limits
from .makers import MANY, SMALL, Table, alone, number, whole, word
from .plan import Compute, Node, Operator

if TYPE_CHECKING:
    from ..arrays import Array, Floats

ELEMENTWISE = Table()

_UNARY = {
    "Abs": np.absolute,
    "Neg": np.negative,
    "Sign": np.sign,
    "Reciprocal": np.reciprocal,
    "Floor": np.floor,
    "Ceil": np.ceil,
    "Round": np.rint,
    "Sqrt": np.sqrt,
    "Exp": np.exp,
    "Log": np.log,
    "IsNaN": np.isnan,
    "Not": np.logical_not,
    "BitwiseNot": np.invert,
    "Sin": np.sin,
    "Cos": np.cos,
    "Tan": np.tan,
    "Asin": np.arcsin,
    "Acos": np.arccos,
    "Atan": np.arctan,
    "Sinh": np.sinh,
    "Cosh": np.cosh,
    "Tanh": np.tanh,
    "Asinh": np.arcsinh,
    "Acosh": np.arccosh,
    "Atanh": np.arctanh,
}
_BINARY = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Equal": np.equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Xor": np.logical_xor,
    "BitwiseAnd": np.bitwise_and,
    "BitwiseOr": np.bitwise_or,
    "BitwiseXor": np.bitwise_xor,
}
_VARIADIC = {"Sum": np.add, "Max": np.maximum, "Min": np.minimum}

# The types by their numbers in ONNX's TensorProto, as far as NumPy has them.
DTYPES = {
    number: np.dtype(name)
    for number, name in {
        1: "float32",
        2: "uint8",
        3: "int8",
        4: "uint16",
        5: "int16",
        6: "int32",
        7: "int64",
        9: "bool",
        10: "float16",
        11: "float64",
        12: "uint32",
        13: "uint64",
        14: "complex64",
        15: "complex128",
    }.items()
}
# Zero and one as arrays of each type. A ufunc takes these faster than Python's numbers, and
# before NumPy 2 a number of Python makes a float64 of an array without axes.
_ZERO = {dtype: np.zeros((), dtype) for dtype in DTYPES.values()}
_ONE = {dtype: np.ones((), dtype) for dtype in DTYPES.values()}


# ---- arithmetic, comparisons --------------------------------------------------------------------


def _one_argument(ufunc: np.ufunc, operator: Operator) -> Compute:
    return ufunc


def _two_arguments(function: Compute, operator: Operator) -> Compute:
    if any(np.size(known) == 1 for known in operator.constants if known is not None):
        return function  # the result is as large as the other argument
    return partial(_spread, function, operator.draft.limits)


def _spread(function: Compute, limits: Limits, x: Array, y: Array) -> Any:
    """Return f(x, y), if it is not too large."""
    if x.size * y.size > SMALL and x.shape != y.shape:
        _allow_spread(limits, x, y)
    return function(x, y)


def _allow_spread(limits: Limits, *arrays: Array) -> None:
    spread = np.broadcast(*arrays)
    if spread.size > max(array.size for array in arrays):
        limits.allow(spread.shape, max(array.itemsize for array in arrays))


for _name in _UNARY:
    ELEMENTWISE.enter(_name)(partial(_one_argument, _UNARY[_name]))
for _name in _BINARY:
    ELEMENTWISE.enter(_name, inputs=(2, 2))(partial(_two_arguments, _BINARY[_name]))


@ELEMENTWISE.enter(*_VARIADIC, inputs=(1, MANY))
def _make_variadic(operator: Operator) -> Compute:
    ufunc = _VARIADIC[operator.type]
    if len(operator.inputs) == 2:
        return _two_arguments(ufunc, operator)
    return partial(_over_all, partial(_spread, ufunc, operator.draft.limits))


def _over_all(pair: Compute, *arrays: Array) -> Array:
    return reduce(pair, arrays)


@ELEMENTWISE.enter("Mean", inputs=(1, MANY))
def _make_mean(operator: Operator) -> Compute:
    return partial(_mean, partial(_spread, np.add, operator.draft.limits))


def _mean(pair: Compute, *arrays: Array) -> Any:
    total = reduce(pair, arrays)
    return np.true_divide(total, total.dtype.type(len(arrays)))


@ELEMENTWISE.enter("Div", inputs=(2, 2))
def _make_div(operator: Operator) -> Compute:
    known = [value.dtype.kind for value in operator.constants if value is not None]
    return _two_arguments(np.true_divide if "f" in known else _divide, operator)


def _divide(x: Array, y: Array) -> Array:
    """Return x / y; that of integers is rounded towards zero."""
    if x.dtype.kind not in "iu":
        return np.true_divide(x, y)
    return np.floor_divide(np.subtract(x, np.fmod(x, y)), y)


@ELEMENTWISE.enter("Mod", inputs=(2, 2))
def _make_mod(operator: Operator) -> Compute:
    return _two_arguments(np.fmod if whole(operator, "fmod", 0) else np.remainder, operator)


@ELEMENTWISE.enter("Pow", inputs=(2, 2))
def _make_pow(operator: Operator) -> Compute | Node:
    exponent = operator.constant(1)
    if exponent is not None and exponent.ndim == 0 and exponent == 2:
        return alone(operator, np.square)
    return _two_arguments(_power, operator)


def _power(x: Array, y: Array) -> Array:
    """Return x^y in the type of x, whatever that of y."""
    return np.power(x, y).astype(x.dtype, copy=False)


@ELEMENTWISE.enter("BitShift", inputs=(2, 2))
def _make_bit_shift(operator: Operator) -> Compute:
    left = word(operator, "direction", ("LEFT", "RIGHT"), "") == "LEFT"
    return _two_arguments(np.left_shift if left else np.right_shift, operator)


@ELEMENTWISE.enter("IsInf")
def _make_is_inf(operator: Operator) -> Compute:
    negative = bool(whole(operator, "detect_negative", 1))
    positive = bool(whole(operator, "detect_positive", 1))
    return np.isinf if negative and positive else partial(_is_inf, negative, positive)


def _is_inf(negative: bool, positive: bool, x: Floats) -> Array:
    return np.isinf(x) & (np.less(x, 0) & negative | np.greater(x, 0) & positive)


@ELEMENTWISE.plain("Where", inputs=(3, 3), limited=True)
def _where(limits: Limits, condition: Array, x: Array, y: Array) -> Array:
    if condition.size * x.size * y.size > SMALL and not condition.shape == x.shape == y.shape:
        _allow_spread(limits, condition, x, y)
    return np.where(condition, x, y)


@ELEMENTWISE.enter("Clip", inputs=(1, 3))
def _make_clip(operator: Operator) -> Compute:
    if operator.version >= 11:
        return _clip
    most = float(np.finfo(np.float32).max)
    lower, upper = number(operator, "min", -most), number(operator, "max", most)
    return partial(_clip_between, lower, upper)


def _clip(x: Array, lower: Array | None = None, upper: Array | None = None) -> Array:
    """Return x between both, and the upper one where they contradict each other."""
    if lower is not None:
        x = np.maximum(x, lower)
    return x if upper is None else np.minimum(x, upper)


def _clip_between(lower: float, upper: float, x: Floats) -> Any:
    exact = x.dtype.type
    return np.minimum(np.maximum(x, exact(lower)), exact(upper))


# ---- types --------------------------------------------------------------------------------------


@ELEMENTWISE.enter("Cast")
def _make_cast(operator: Operator) -> Compute | None:
    dtype = DTYPES.get(whole(operator, "to"))
    return dtype and partial(_cast, dtype, operator.draft.limits)


@ELEMENTWISE.enter("CastLike", inputs=(2, 2))
def _make_cast_like(operator: Operator) -> Compute | None:
    like = operator.constant(1)
    if like is not None and like.dtype not in _ZERO:
        return None
    return partial(_cast_like, operator.draft.limits)


def _cast_like(limits: Limits, x: Array, like: Array) -> Array:
    if like.dtype not in _ZERO:
        raise ValueError(f"a cast to {like.dtype} is not supported")
    return _cast(like.dtype, limits, x)


def _cast(dtype: np.dtype[Any], limits: Limits, x: Array) -> Array:
    if x.dtype == dtype:
        return x
    if x.size > SMALL:
        limits.allow(x.shape, dtype.itemsize)
    return x.astype(dtype)


# ---- activations --------------------------------------------------------------------------------


def _activation(function: Compute, *parameters: tuple[str, float]) -> Callable[[Operator], Compute]:
    """Return the maker of an activation whose parameters are attributes with these defaults."""

    def make(operator: Operator) -> Compute:
        values = [number(operator, name, default) for name, default in parameters]
        return partial(function, *values) if values else function

    return make


def _relu(x: Array) -> Array:
    return np.maximum(x, _ZERO.get(x.dtype, 0))


def sigmoid(x: Floats) -> Floats:
    """Return 1 / (1 + e^-x): where e^-x overflows, it is 0, as it ought to be."""
    if x.itemsize == 2:
        return sigmoid(x.astype(np.float32)).astype(x.dtype)
    y = np.negative(x, np.empty_like(x))
    np.exp(y, y)
    y += _ONE[y.dtype]
    return np.reciprocal(y, y)


def _hard_sigmoid(alpha: float, beta: float, x: Floats) -> Floats:
    """Return alpha x + beta, between 0 and 1."""
    y = np.multiply(x, alpha, np.empty_like(x))
    y += beta
    np.maximum(y, 0, out=y)
    return np.minimum(y, 1, out=y)


def _hard_swish(x: Floats) -> Floats:
    return np.multiply(x, _hard_sigmoid(1 / 6, 0.5, x))


def softplus(x: Floats) -> Floats:
    """Return log(1 + e^x)."""
    return np.logaddexp(x, _ZERO.get(x.dtype, 0))


def softsign(x: Floats) -> Floats:
    """Return x / (1 + |x|)."""
    y = np.absolute(x, np.empty_like(x))
    y += 1
    return np.divide(x, y, y)


def _leaky_relu(alpha: float, x: Floats) -> Floats:
    return np.where(np.less(x, 0), np.multiply(x, x.dtype.type(alpha)), x)


def _thresholded_relu(alpha: float, x: Floats) -> Floats:
    return np.where(np.greater(x, alpha), x, x.dtype.type(0))


def elu(alpha: float, x: Floats) -> Floats:
    """Return x above 0, and alpha (e^x - 1) below."""
    y = np.minimum(x, 0, out=np.empty_like(x))
    np.expm1(y, y)
    y *= alpha
    y += np.maximum(x, 0)
    return y


def selu(alpha: float, gamma: float, x: Floats) -> Floats:
    """Return gamma elu(x)."""
    y = elu(alpha, x)
    y *= gamma
    return y


def celu(alpha: float, x: Floats) -> Floats:
    """Return x above 0, and alpha (e^(x / alpha) - 1) below."""
    y = np.divide(x, alpha, np.empty_like(x))
    y = elu(1.0, y)
    y *= alpha
    return y


# erf(x) is x P(x^2) / Q(x^2) within the last bits of float32 between -4 and 4, and 1 behind. These
# are the coefficients of Eigen, https://gitlab.com/libeigen/eigen, from the highest power down.
_ERF_P = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
_ERF_Q = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)
_exact_erf = np.frompyfunc(math.erf, 1, 1)


def _erf(x: Array) -> Array:
    if x.dtype.kind != "f" or x.itemsize == 8:
        return np.asarray(_exact_erf(x)).astype(x.dtype)
    z = np.clip(np.asarray(x, np.float32), -4, 4)
    square = z * z
    above, below = np.full_like(z, _ERF_P[0]), np.full_like(z, _ERF_Q[0])
    for coefficient in _ERF_P[1:]:
        above *= square
        above += coefficient
    for coefficient in _ERF_Q[1:]:
        below *= square
        below += coefficient
    z *= above
    z /= below
    return z.astype(x.dtype, copy=False)


SELU = 1.67326319217681884765625, 1.05070102214813232421875  # alpha, gamma
_ACTIVATIONS: dict[str, Callable[[Operator], Compute]] = {
    "Relu": _activation(_relu),
    "Sigmoid": _activation(sigmoid),
    "HardSigmoid": _activation(_hard_sigmoid, ("alpha", 0.2), ("beta", 0.5)),
    "HardSwish": _activation(_hard_swish),
    "Softplus": _activation(softplus),
    "Softsign": _activation(softsign),
    "LeakyRelu": _activation(_leaky_relu, ("alpha", 0.01)),
    "ThresholdedRelu": _activation(_thresholded_relu, ("alpha", 1.0)),
    "Elu": _activation(elu, ("alpha", 1.0)),
    "Selu": _activation(selu, ("alpha", SELU[0]), ("gamma", SELU[1])),
    "Celu": _activation(celu, ("alpha", 1.0)),
    "Erf": _activation(_erf),
}
for _name, _make in _ACTIVATIONS.items():
    ELEMENTWISE.enter(_name)(_make)


@ELEMENTWISE.enter("PRelu", inputs=(2, 2))
def _make_prelu(operator: Operator) -> Compute:
    return partial(_prelu, _two_arguments(np.multiply, operator))


def _prelu(times: Compute, x: Floats, slope: Floats) -> Floats:
    return np.where(np.less(x, 0), times(x, slope), x)


@ELEMENTWISE.enter("Gelu")
def _make_gelu(operator: Operator) -> Compute:
    exact = word(operator, "approximate", ("none", "tanh"), "none") == "none"
    return partial(_in_float32, gelu if exact else gelu_by_tanh)


def _in_float32(function: Compute, x: Floats) -> Any:
    """Return f(x), of half precision as if it were float32: 1 + y loses much where y is near -1."""
    if x.itemsize == 2:
        return function(x.astype(np.float32)).astype(x.dtype)
    return function(x)


def gelu(x: Floats) -> Floats:
    """Return x / 2 (1 + erf(x / sqrt(2)))."""
    y = _erf(np.multiply(x, math.sqrt(0.5), np.empty_like(x)))
    return _half_of(x, y)


def gelu_by_tanh(x: Floats) -> Floats:
    """Return x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
    y = np.multiply(x, x, np.empty_like(x))
    y *= 0.044715
    y += 1
    y *= x
    y *= math.sqrt(2 / math.pi)
    return _half_of(x, np.tanh(y, y))


def _half_of(x: Floats, y: Floats) -> Floats:
    """Return x / 2 (1 + y), written over y."""
    y += 1
    y *= x
    y *= 0.5
    return y


# ---- numbers of a few bits ----------------------------------------------------------------------


@ELEMENTWISE.enter("DequantizeLinear", inputs=(2, 3))
def _make_dequantize(operator: Operator) -> Compute | None:
    if whole(operator, "block_size", 0) or whole(operator, "output_dtype", 0):
        return None
    return partial(_dequantize, whole(operator, "axis", 1))


def _dequantize(axis: int, x: Array, scale: Floats, zero: Array | None = None) -> Floats:
    """Return (x - zero) scale."""
    exact = np.dtype(np.int32) if x.dtype.kind in "iu" else scale.dtype
    y = x.astype(exact)
    if zero is not None:
        y = y - _per_axis(axis, zero, y).astype(exact)
    return np.multiply(y.astype(scale.dtype), _per_axis(axis, scale, y))


@ELEMENTWISE.enter("QuantizeLinear", inputs=(2, 3))
def _make_quantize(operator: Operator) -> Compute | None:
    zero = operator.constant(2)
    if operator.has(2):
        dtype = None if zero is None else zero.dtype
    else:
        dtype = DTYPES.get(whole(operator, "output_dtype", 0) or 2)
    if dtype is None or dtype.kind not in "iu" or whole(operator, "block_size", 0):
        return None
    if whole(operator, "precision", 0):
        return None
    return partial(_quantize, whole(operator, "axis", 1), dtype)


def _quantize(
    axis: int, dtype: np.dtype[Any], x: Array, scale: Floats, zero: Array | None = None
) -> Array:
    """Return x / scale + zero, rounded; what is too far is the last number of the type."""
    if x.itemsize == 2:
        x, scale = x.astype(np.float32), scale.astype(np.float32)
    y = np.rint(np.true_divide(x, _per_axis(axis, scale, x)))
    if zero is not None:
        y = y + _per_axis(axis, zero, x).astype(y.dtype)
    return np.clip(y, np.iinfo(dtype).min, np.iinfo(dtype).max).astype(dtype)


def _per_axis(axis: int, parameter: Array, x: Array) -> Array:
    """Return a parameter for all of x, or one for each place along an axis, so that it spreads."""
    if parameter.size == 1:
        return parameter.reshape(())
    shape = [1] * x.ndim
    shape[axis] = x.shape[axis]
    return parameter.reshape(shape)


@ELEMENTWISE.enter("DynamicQuantizeLinear", outputs=(1, 3))
def _make_dynamic_quantize(operator: Operator) -> Compute:
    return partial(_dynamic_quantize, len(operator.outputs))


def _dynamic_quantize(outputs: int, x: Floats) -> Any:
    """Return x as bytes, and the scale and the zero by which these hold all of x, and 0."""
    lowest, highest = np.minimum(x.min(), 0, dtype=x.dtype), np.maximum(x.max(), 0, dtype=x.dtype)
    scale = np.asarray((highest - lowest) / x.dtype.type(255) or 1, x.dtype)
    zero = np.clip(np.rint(-lowest / scale), 0, 255).astype(np.uint8)
    found = _quantize(0, np.dtype(np.uint8), x, scale, zero), scale, np.asarray(zero)
    return found[:outputs] if outputs > 1 else found[0]
