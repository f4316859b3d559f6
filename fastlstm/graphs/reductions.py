"""ONNX's operators that go along axes: sums, extremes, softmax, normalisation, sorting.

An axis without elements adds up to 0, and to as many of these as the other axes are long, which a
file gets for nothing: hence the limits are asked. Half precision is added up in float32.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .limits import Limits
from .makers import Table, allow, alone, along, axis_of, known_wholes, number, whole, wholes
from .plan import Compute, Node, Operator

if TYPE_CHECKING:
    from ..arrays import Array, Floats, Integers

REDUCTIONS = Table()


# ---- sums and extremes --------------------------------------------------------------------------


class _Reduction(NamedTuple):
    """A ufunc that is applied along axes, and what comes before and after it."""

    ufunc: np.ufunc
    before: np.ufunc | None = None
    after: np.ufunc | None = None


_REDUCTIONS = {
    "ReduceSum": _Reduction(np.add),
    "ReduceProd": _Reduction(np.multiply),
    "ReduceMax": _Reduction(np.maximum),
    "ReduceMin": _Reduction(np.minimum),
    "ReduceL1": _Reduction(np.add, before=np.absolute),
    "ReduceL2": _Reduction(np.add, before=np.square, after=np.sqrt),
    "ReduceSumSquare": _Reduction(np.add, before=np.square),
    "ReduceLogSum": _Reduction(np.add, after=np.log),
}


@REDUCTIONS.enter(*_REDUCTIONS, "ReduceMean", "ReduceLogSumExp", inputs=(1, 2))
def _make_reduction(operator: Operator) -> Compute | Node:
    if operator.type in _REDUCTIONS:
        reduce: Compute = partial(_reduce, _REDUCTIONS[operator.type])
    else:
        reduce = _mean if operator.type == "ReduceMean" else _log_sum_exp
    keep = bool(whole(operator, "keepdims", 1))
    empty = () if whole(operator, "noop_with_empty_axes", 0) else None
    reduce = partial(reduce, operator.draft.limits, keep)
    axes = known_wholes(operator, "axes", 1)
    if axes is None and operator.has(1):
        return partial(_reduce_along, reduce, empty)
    return alone(operator, partial(reduce, axes or empty))


def _reduce_along(reduce: Compute, empty: tuple[()] | None, x: Array, axes: Integers) -> Any:
    return reduce(wholes(axes) or empty, x)


def _reduce(
    how: _Reduction, limits: Limits, keep: bool, axes: tuple[int, ...] | None, x: Array
) -> Any:
    ufunc, before, after = how
    if not x.size:
        return _reduce_nothing(how, limits, keep, axes, x)
    if before is not None:
        x = before(x)
    y = ufunc.reduce(x, axes, x.dtype, keepdims=keep)
    return y if after is None else after(y).astype(x.dtype, copy=False)


def _reduce_nothing(
    how: _Reduction, limits: Limits, keep: bool, axes: tuple[int, ...] | None, x: Array
) -> Array:
    """Return the reduction of an array without elements: the value that adds nothing to others."""
    ufunc, after = how.ufunc, how.after
    gone = range(x.ndim) if axes is None else [axis_of(axis, x.ndim) for axis in axes]
    shape = [1 if axis in gone else size for axis, size in enumerate(x.shape)]
    allow(limits, shape, x.dtype)
    start: Any = int(ufunc is np.multiply)
    if ufunc is np.maximum or ufunc is np.minimum:
        least = ufunc is np.maximum  # the least of all is the maximum of nothing
        if x.dtype.kind in "iu":
            start = np.iinfo(x.dtype).min if least else np.iinfo(x.dtype).max
        else:
            start = not least if x.dtype.kind == "b" else -np.inf if least else np.inf
    y = np.full(shape, start, x.dtype)
    if after is not None:
        y = after(y).astype(x.dtype, copy=False)
    return y if keep else y.squeeze(tuple(gone))


def _mean(limits: Limits, keep: bool, axes: tuple[int, ...] | None, x: Array) -> Any:
    if x.itemsize == 2 and x.dtype.kind not in "iu":
        return _mean(limits, keep, axes, x.astype(np.float32)).astype(x.dtype)
    if x.size == 1 and axes is not None and len(axes) == 1 and -x.ndim <= axes[0] < x.ndim:
        return x.reshape([1] * (x.ndim - (not keep)))  # as models of one sequence have it
    total = _reduce(_REDUCTIONS["ReduceSum"], limits, keep, axes, x)
    count = total.dtype.type(x.size // (total.size or 1))
    if x.dtype.kind in "iu":
        return np.floor_divide(total - np.fmod(total, count), count)  # rounded towards zero
    return np.true_divide(total, count)


def _log_sum_exp(limits: Limits, keep: bool, axes: tuple[int, ...] | None, x: Floats) -> Floats:
    if not x.size:
        return _reduce_nothing(_REDUCTIONS["ReduceLogSum"], limits, keep, axes, x)
    most = np.maximum.reduce(x, axes, keepdims=True)
    shift = np.where(np.isfinite(most), most, most.dtype.type(0))
    total = np.add.reduce(np.exp(x - shift), axes, keepdims=True)
    y = (np.log(total) + shift).astype(x.dtype, copy=False)
    if keep:
        return y
    return np.squeeze(y, tuple(range(x.ndim)) if axes is None else axes)


@REDUCTIONS.enter("ArgMax", "ArgMin")
def _make_arg(operator: Operator) -> Compute:
    find = np.argmax if operator.type == "ArgMax" else np.argmin
    axis, keep = whole(operator, "axis", 0), bool(whole(operator, "keepdims", 1))
    return partial(_arg, find, axis, keep, bool(whole(operator, "select_last_index", 0)))


def _arg(find: Compute, axis: int, keep: bool, last: bool, x: Array) -> Any:
    places = find(np.flip(x, axis) if last else x, axis, keepdims=keep)
    if last:
        places = x.shape[axis] - 1 - places
    return places.astype(np.int64, copy=False)


# ---- softmax ------------------------------------------------------------------------------------


@REDUCTIONS.enter("Softmax", "LogSoftmax", "Hardmax")
def _make_softmax(operator: Operator) -> Compute:
    """Before version 13, the axis is the first of several that are taken together."""
    together = operator.version < 13
    axis = whole(operator, "axis", 1 if together else -1)
    return partial(_softmax, _SOFTMAX[operator.type], together, axis)


def _softmax(compute: Compute, together: bool, axis: int, x: Floats) -> Any:
    if not x.size:
        return x
    if x.itemsize == 2:
        return _softmax(compute, together, axis, x.astype(np.float32)).astype(x.dtype)
    if together and axis != x.ndim - 1:
        if not -x.ndim <= axis <= x.ndim:
            raise ValueError(f"there is no axis {axis} among {x.ndim}")
        axis = axis + x.ndim if axis < 0 else axis
        flat = x.reshape(*x.shape[:axis], -1)
        return compute(axis, flat).reshape(x.shape)
    return compute(axis, x)


def _exponentials(axis: int, x: Floats) -> Floats:
    y = np.subtract(x, np.maximum.reduce(x, axis, keepdims=True))
    np.exp(y, y)
    y /= np.add.reduce(y, axis, keepdims=True)
    return y


def _logarithms(axis: int, x: Floats) -> Floats:
    y = np.subtract(x, np.maximum.reduce(x, axis, keepdims=True))
    y -= np.log(np.add.reduce(np.exp(y), axis, keepdims=True))
    return y


def _largest(axis: int, x: Floats) -> Floats:
    """Return 1 at the first of the largest numbers, and 0 elsewhere."""
    y = np.zeros_like(x)
    np.put_along_axis(y, np.argmax(x, axis, keepdims=True), 1, axis)
    return y


_SOFTMAX = {"Softmax": _exponentials, "LogSoftmax": _logarithms, "Hardmax": _largest}


# ---- normalisation ------------------------------------------------------------------------------


@REDUCTIONS.enter("LayerNormalization", inputs=(2, 3), outputs=(1, 3))
def _make_layer_normalization(operator: Operator) -> Compute:
    axis, epsilon = whole(operator, "axis", -1), number(operator, "epsilon", 1e-5)
    return partial(_layer_normalization, axis, epsilon, len(operator.outputs))


def _layer_normalization(
    axis: int, epsilon: float, outputs: int, x: Floats, scale: Floats, bias: Floats | None = None
) -> Any:
    """Return (x - mean) / sqrt(variance + epsilon) scale + bias, over an axis and those behind it.

    If wanted, the mean and the reciprocal of the root too, which are float32.
    """
    if not x.size:
        raise ValueError("there is nothing to normalise")
    axes = tuple(range(axis_of(axis, x.ndim), x.ndim))
    wide = x.astype(np.float32) if x.itemsize == 2 else x
    mean = np.add.reduce(wide, axes, keepdims=True)
    count = wide.size // mean.size
    mean /= count
    y = np.subtract(wide, mean)
    variance = np.add.reduce(np.square(y), axes, keepdims=True)
    variance /= count
    variance += epsilon
    inverse = np.reciprocal(np.sqrt(variance, variance), variance)
    y *= inverse
    y = y.astype(x.dtype, copy=False)
    y *= scale
    if bias is not None:
        y += bias
    if outputs == 1:
        return y
    mean, inverse = mean.astype(np.float32, copy=False), inverse.astype(np.float32, copy=False)
    return (y, mean, inverse)[:outputs]


@REDUCTIONS.enter("GroupNormalization", inputs=(3, 3))
def _make_group_normalization(operator: Operator) -> Compute:
    groups, epsilon = whole(operator, "num_groups"), number(operator, "epsilon", 1e-5)
    return partial(_group_normalization, groups, epsilon)


def _group_normalization(
    groups: int, epsilon: float, x: Floats, scale: Floats, bias: Floats
) -> Floats:
    """Return x normalised over groups of channels; there is a scale for each channel, or group."""
    if x.ndim < 2 or groups < 1 or x.shape[1] % groups:
        raise ValueError(f"an array {x.shape} does not have {groups} equal groups of channels")
    one, none = np.ones((), x.dtype), np.zeros((), x.dtype)
    y = x.reshape(x.shape[0], groups, -1)
    y = _layer_normalization(-1, epsilon, 1, y, one, none).reshape(x.shape)
    each = x.shape[1] // scale.size
    return _scaled(np.repeat(scale, each), np.repeat(bias, each), y)


@REDUCTIONS.enter("LRN")
def _make_response_normalization(operator: Operator) -> Compute:
    size = whole(operator, "size")
    if size < 1:
        raise ValueError(f"the attribute 'size' must be at least 1, got {size}")
    alpha, beta = number(operator, "alpha", 1e-4), number(operator, "beta", 0.75)
    return partial(_response_normalization, size, alpha, beta, number(operator, "bias", 1.0))


def _response_normalization(size: int, alpha: float, beta: float, bias: float, x: Floats) -> Floats:
    """Return x / (bias + alpha / size s)^beta: s sums the squares of so many channels around."""
    if x.ndim < 3:
        raise ValueError(f"an array {x.shape} has no channels with axes behind")
    square = np.square(x, dtype=np.float32 if x.itemsize == 2 else x.dtype)
    total, channels = np.zeros_like(square), x.shape[1]
    before = min((size - 1) // 2, channels)
    behind = min(size // 2, channels)
    for shift in range(-before, behind + 1):
        here = slice(max(-shift, 0), max(channels - shift, 0))
        total[:, here] += square[:, max(shift, 0) : channels + min(shift, 0)]
    total *= alpha / size
    total += bias
    return np.divide(x, np.power(total, beta, total)).astype(x.dtype, copy=False)


@REDUCTIONS.enter("LpNormalization")
def _make_norm(operator: Operator) -> Compute:
    power = whole(operator, "p", 2)
    if power not in (1, 2):
        raise ValueError(f"the attribute 'p' must be 1 or 2, got {power}")
    norm = _REDUCTIONS[f"ReduceL{power}"]
    axis = whole(operator, "axis", -1)
    return partial(_normalised, partial(_reduce, norm, operator.draft.limits, True, (axis,)))


def _normalised(norm: Compute, x: Floats) -> Any:
    """Return x / |x| along an axis, and zeros where all x are."""
    size = norm(x)
    return np.divide(x, np.where(np.equal(size, 0), x.dtype.type(1), size))


@REDUCTIONS.enter("BatchNormalization", inputs=(5, 5), outputs=(1, 5))
def _make_batch_normalization(operator: Operator) -> Compute | Node | None:
    training = whole(operator, "training_mode", 0) or any(operator.outputs[1:])
    if training or not whole(operator, "spatial", 1):
        return None
    epsilon, known = number(operator, "epsilon", 1e-5), operator.constants[1:5]
    if any(value is None for value in known):
        return partial(_batch_normalization, epsilon)
    scale, shift = operator.draft.once(
        ("BatchNormalization", epsilon), known, partial(_scale_and_shift, epsilon, *known)
    )
    return alone(operator, partial(_scaled, scale, shift))


def _scale_and_shift(
    epsilon: float, scale: Floats, bias: Floats, mean: Floats, variance: Floats
) -> tuple[Floats, Floats]:
    factor = scale / np.sqrt(variance.astype(np.float64) + epsilon)
    return factor, bias - mean * factor


def _batch_normalization(epsilon: float, x: Floats, *parameters: Floats) -> Floats:
    return _scaled(*_scale_and_shift(epsilon, *parameters), x)


def _scaled(scale: Floats, shift: Floats, x: Floats) -> Floats:
    """Return x scale + shift, of one scale and shift for each place on the second axis."""
    if x.ndim < 2 or scale.shape != (x.shape[1],):
        raise ValueError(f"an array {x.shape} does not have {scale.size} channels")
    shape = (-1, *[1] * (x.ndim - 2))
    y = np.multiply(x, scale.astype(x.dtype).reshape(shape))
    y += shift.astype(x.dtype).reshape(shape)
    return y


@REDUCTIONS.enter("Dropout", inputs=(1, 3), outputs=(1, 2))
def _make_dropout(operator: Operator) -> Compute | Node | None:
    """It does nothing but in training, which is left to others."""
    if operator.has(2):
        training = operator.constant(2)
        if training is None or training.item():
            return None
    if len(operator.outputs) == 1:
        return alone(operator, _kept)
    dtype = np.bool_ if operator.version >= 10 else None
    return alone(operator, partial(_kept_all, operator.version >= 12, dtype))


def _kept(x: Array) -> Array:
    return x


def _kept_all(said: bool, dtype: Any, x: Array) -> tuple[Array, Array]:
    """Return x and its mask, which says whether a value is kept; before version 12, it is zeros."""
    return x, np.full(x.shape, said, dtype or x.dtype)


# ---- running sums, sorting ----------------------------------------------------------------------


@REDUCTIONS.enter("CumSum", inputs=(2, 2))
def _make_cumulative_sum(operator: Operator) -> Compute:
    exclusive, reverse = whole(operator, "exclusive", 0), whole(operator, "reverse", 0)
    return partial(_cumulative_sum, bool(exclusive), bool(reverse))


def _cumulative_sum(exclusive: bool, reverse: bool, x: Array, axis: Integers) -> Array:
    """Return the sums of each element and those before it, or of these alone."""
    steps = np.moveaxis(x, int(axis.item()), 0)
    steps = steps[::-1] if reverse else steps
    y = np.zeros_like(steps)
    if exclusive:
        np.add.accumulate(steps[:-1], 0, x.dtype, y[1:])
    else:
        np.add.accumulate(steps, 0, x.dtype, y)
    return np.moveaxis(y[::-1] if reverse else y, 0, int(axis.item()))


@REDUCTIONS.enter("TopK", inputs=(1, 2), outputs=(1, 2))
def _make_top(operator: Operator) -> Compute | Node:
    axis, largest = whole(operator, "axis", -1), bool(whole(operator, "largest", 1))
    top = partial(_top, axis, largest, len(operator.outputs))
    if operator.has(1):
        return top
    return alone(operator, partial(top, count=np.array(whole(operator, "k"))))


def _top(axis: int, largest: bool, outputs: int, x: Array, count: Array) -> Any:
    """Return the largest or smallest numbers along an axis in order, and their places.

    Of equal ones, that at the lowest place comes first.
    """
    size, wanted = x.shape[axis], int(count.item())
    if not 0 <= wanted <= size:
        raise ValueError(f"there are no {wanted} among {size}")
    if largest:
        places = size - 1 - np.flip(np.argsort(np.flip(x, axis), axis, kind="stable"), axis)
    else:
        places = np.argsort(x, axis, kind="stable")
    places = places[along(axis, slice(wanted))]
    found = np.take_along_axis(x, places, axis)
    return (found, places.astype(np.int64, copy=False)) if outputs > 1 else found
