"""What those of TFLite's operators compute that ONNX has not, or has in another form.

Each function takes what its operator's options are first, and then values, as `functools.partial`
of it is what a node computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .control import truth
from .limits import MOST_AXES
from .makers import allow, axes_of, axis_of, wholes

if TYPE_CHECKING:
    from ..arrays import Array, Integers
    from ..layers import LSTM, Embedding, Linear
    from .limits import Limits
    from .plan import Plan, Value

# ---- LSTMs --------------------------------------------------------------------------------------


def lstm(layer: LSTM, apart: bool, limits: Limits, x: Array, *states: Array) -> Any:
    """Return the outputs of an LSTM, and h and c of each direction.

    `apart` is whether the outputs of two directions are two values.
    """
    _allow_outputs(limits, x, (1 + layer.bidirectional) * states[0].shape[1], layer)
    if len(states) == 2:
        y, (h, c) = layer(x, (states[0][None], states[1][None]))
        return y, h[0], c[0]
    y, (h, c) = layer(x, (np.stack(states[::2]), np.stack(states[1::2])))
    ends = h[0], c[0], h[1], c[1]
    if apart:
        return y[..., : h.shape[2]], y[..., h.shape[2] :], *ends
    return y, *ends


def two_lstms(
    ahead: LSTM,
    back: LSTM,
    apart: bool,
    limits: Limits,
    x: Array,
    z: Array,
    *states: Array,
) -> Any:
    """Do what `lstm` does with two layers, each of which has an input of its own."""
    y, *first = lstm(ahead, False, limits, x, *states[:2])
    w, *second = lstm(back, False, limits, z, *states[2:])
    outputs = (y, w) if apart else (np.concatenate([y, w], axis=2),)
    return *outputs, *first, *second


def one_step(layer: LSTM, shown: bool, x: Array, h: Array, c: Array) -> Any:
    """Return the output of one step x (B, I), and h and c; with `shown` h is the output."""
    y, (h, c) = layer(x[None], (h[None], c[None]))
    return (h[0], c[0]) if shown else (y[0], h[0], c[0])


def _allow_outputs(limits: Limits, x: Array, wide: int, layer: LSTM) -> None:
    if len(x.shape) == 3 and x.shape[0] * x.shape[1] * wide * 4 > limits.most:
        limits.allow((*x.shape[:2], wide), layer.dtype.itemsize)


# ---- shapes -------------------------------------------------------------------------------------


def shape(dtype: np.dtype[Any], x: Array) -> Integers:
    """Return the sizes of x."""
    return np.array(x.shape, dtype)


def rank(x: Array) -> Integers:
    """Return how many axes x has."""
    return np.array(x.ndim, np.int32)


def zeros(x: Array) -> Array:
    """Return zeros, as many as x has numbers."""
    return np.zeros_like(x)


def transpose(x: Array, axes: Integers) -> Array:
    """Return x with its axes in this order."""
    turned: Array = x.transpose(wholes(axes))
    return turned


def reverse(x: Array, axes: Any) -> Array:
    """Return x with the order of its elements reversed along axes."""
    return np.flip(x, tuple(axes_of(wholes(axes), x.ndim)))


def cut(x: Array, begin: Any, size: Any) -> Array:
    """Return what SLICE gives: so many elements from `begin` on, of size -1 all that are left."""
    begin, size = wholes(begin), wholes(size)
    if not len(begin) == len(size) == x.ndim:
        raise ValueError(f"it has {len(begin)} places and {len(size)} sizes for {x.ndim} axes")
    index = []
    for start, count, most in zip(begin, size, x.shape, strict=True):
        count = most - start if count == -1 else count
        if not (0 <= start and 0 <= count and start + count <= most):
            raise ValueError(f"it takes {count} elements from {start} on, of an axis of {most}")
        index.append(slice(start, start + count))
    return x[tuple(index)]


MASKS = "begin", "end", "ellipsis", "new_axis", "shrink"


class StridedSlice:
    """What STRIDED_SLICE gives, as Python's x[begin:end:step, ...] for each axis.

    A bit of a mask is about one axis of the three lists: its begin or end does not count, it stands
    for all axes that are not named, it is a new axis, or it takes one element.
    """

    def __init__(self, masks: dict[str, int]) -> None:
        self.masks = masks

    def index(self, begin: Any, end: Any, steps: Any) -> tuple[Any, ...]:
        """Return the index that gives the slice of an array."""
        begin, end, steps = wholes(begin), wholes(end), wholes(steps)
        if not len(begin) == len(end) == len(steps) <= MOST_AXES:
            raise ValueError("its begins, ends and steps are not equally many")
        index: list[Any] = []
        for axis, (start, stop, step) in enumerate(zip(begin, end, steps, strict=True)):
            if self._has("ellipsis", axis):
                index.append(...)
            elif self._has("new_axis", axis):
                index.append(None)
            elif self._has("shrink", axis):
                index.append(0 if self._has("begin", axis) else start)
            elif not step:
                raise ValueError("a step is 0")
            else:
                index.append(
                    slice(
                        None if self._has("begin", axis) else start,
                        None if self._has("end", axis) else stop,
                        step,
                    )
                )
        if index.count(...) > 1:
            raise ValueError("it has two ellipses")
        return tuple(index)

    def _has(self, mask: str, axis: int) -> bool:
        return bool(self.masks[mask] >> axis & 1)

    def __call__(self, x: Array, begin: Any, end: Any, steps: Any) -> Array:
        return np.asarray(x[self.index(begin, end, steps)])


def unpack(axis: int, count: int, x: Array) -> Any:
    """Return the parts of x along an axis, without that axis."""
    axis = axis_of(axis, x.ndim)
    if x.shape[axis] != count:
        raise ValueError(f"it has {count} outputs, and its axis {x.shape[axis]} elements")
    parts = np.moveaxis(x, axis, 0)
    return tuple(parts) if count > 1 else parts[0]


def split(count: int, x: Array, axis: Array) -> Any:
    """Return x in parts of the same size along an axis."""
    (place,) = axes_of(wholes(axis), x.ndim)
    if x.shape[place] % count:
        raise ValueError(f"an axis of {x.shape[place]} is not split into {count} equal parts")
    parts = np.split(x, count, place)
    return tuple(parts) if count > 1 else parts[0]


def split_at(count: int, x: Array, sizes: Array, axis: Array) -> Any:
    """Return x in parts of these sizes along an axis; one of them may be -1, which is the rest."""
    (place,) = axes_of(wholes(axis), x.ndim)
    wanted, whole = list(wholes(sizes)), x.shape[place]
    if len(wanted) == count and wanted.count(-1) == 1:
        wanted[wanted.index(-1)] = whole - sum(wanted) - 1
    if len(wanted) != count or sum(wanted) != whole or min(wanted) < 0:
        raise ValueError(f"its sizes do not cut an axis of {whole} into {count} parts")
    parts = np.split(x, np.cumsum(wanted[:-1]), place)
    return tuple(parts) if count > 1 else parts[0]


def pack(axis: int, limits: Limits, *parts: Array) -> Array:
    """Return arrays of one shape beside each other along a new axis."""
    if (size := sum([part.nbytes for part in parts])) > limits.most:
        limits.allow((size,), 1)
    return np.stack(parts, axis)


def fill(limits: Limits, sizes: Array, value: Array) -> Array:
    """Return an array of this shape that has one number everywhere."""
    shape = wholes(sizes)
    if value.size != 1:
        raise ValueError(f"it fills with one number, got {value.size}")
    limits.allow(shape, value.itemsize)
    return np.full(shape, value.reshape(()))


def pad(
    mode: Any, sides: Sequence[tuple[int, int]], limits: Limits, x: Array, value: Any = 0
) -> Array:
    """Return x with so many elements more before and behind it, for each axis."""
    if len(sides) != x.ndim or min((side for pair in sides for side in pair), default=0) < 0:
        raise ValueError(f"its widths {sides} do not go with the shape {x.shape}")
    sizes = [before + size + behind for size, (before, behind) in zip(x.shape, sides, strict=True)]
    limits.allow(sizes, x.itemsize)
    if mode == "constant":
        return np.pad(x, sides, constant_values=np.asarray(value).reshape(()))
    shift = mode == "reflect"
    for size, pair in zip(x.shape, sides, strict=True):
        if max(pair) > size - shift:
            raise ValueError(f"its widths {pair} are more than an axis of {size} has to mirror")
    return np.pad(x, sides, mode=mode)


# ---- places -------------------------------------------------------------------------------------


def gather(axis: int, batch_dims: int, limits: Limits, x: Array, indices: Integers) -> Array:
    """Return the elements of x at places along an axis; the first axes of both may go together."""
    axis = axis_of(axis, x.ndim)
    batch = axis_of(batch_dims, indices.ndim) if batch_dims < 0 else batch_dims
    if not 0 <= batch <= min(axis, indices.ndim) or x.shape[:batch] != indices.shape[:batch]:
        raise ValueError(f"its first {batch_dims} axes do not go together")
    check_places(indices, x.shape[axis])
    kept = indices.shape[batch:]
    allow(limits, (*x.shape[:axis], *kept, *x.shape[axis + 1 :]), x.dtype)
    if not batch:
        return np.asarray(x.take(indices, axis))
    parts = np.ndindex(indices.shape[:batch])
    taken = [x[part].take(indices[part], axis - batch) for part in parts]
    result = (*x.shape[:axis], *kept, *x.shape[axis + 1 :])
    return np.stack(taken).reshape(result) if taken else np.zeros(result, x.dtype)


def embed(embedding: Embedding, limits: Limits, indices: Integers) -> Array:
    """Return the rows of a table that indices name."""
    allow(limits, (*indices.shape, embedding.embedding_dim), embedding.dtype)
    return embedding(indices)


def check_places(indices: Integers, size: int) -> None:
    """Raise ValueError if an index is none of an axis of this size."""
    if indices.size and not (0 <= indices.min() and indices.max() < size):
        wrong = indices.min() if indices.min() < 0 else indices.max()
        raise ValueError(f"index {wrong} is out of bounds for an axis of {size}")


def arg(find: Any, dtype: np.dtype[Any], x: Array, axis: Array) -> Any:
    """Return the place of the largest or smallest number along an axis."""
    (place,) = axes_of(wholes(axis), x.ndim)
    return find(x, place).astype(dtype)


def one_hot(
    axis: int, limits: Limits, indices: Integers, depth: Array, on: Array, off: Array
) -> Array:
    """Return `on` at the place that an index names, along a new axis, and `off` elsewhere."""
    (count,) = wholes(depth)
    axis = axis_of(axis, indices.ndim + 1)
    limits.allow((*indices.shape, max(count, 0)), on.itemsize)
    hit = np.expand_dims(indices, axis) == np.arange(count).reshape(
        [-1 if n == axis else 1 for n in range(indices.ndim + 1)]
    )
    return np.where(hit, on, off)


# ---- numbers ------------------------------------------------------------------------------------


def spread(compute: Callable[[Array, Array], Any], limits: Limits, x: Array, y: Array) -> Any:
    """Return what a function of two arrays gives that are spread over each other."""
    if x.shape != y.shape:
        allow(limits, np.broadcast_shapes(x.shape, y.shape), x.dtype)
    return compute(x, y)


def divide(x: Array, y: Array) -> Any:
    """Return x / y, rounded towards 0 if both are integers."""
    if x.dtype.kind == "f":
        return np.true_divide(x, y)
    _refuse_zero(y)
    return np.floor_divide(x - np.fmod(x, y), y)


def floor_divide(x: Array, y: Array) -> Any:
    """Return x / y, rounded down."""
    if x.dtype.kind == "f":
        return np.floor(np.true_divide(x, y))
    _refuse_zero(y)
    return np.floor_divide(x, y)


def remainder(x: Array, y: Array) -> Any:
    """Return what is left of x when it is divided by y and rounded down; it has the sign of y."""
    if x.dtype.kind != "f":
        _refuse_zero(y)
    return np.remainder(x, y)


def _refuse_zero(y: Array) -> None:
    if not np.all(y):
        raise ValueError("it divides by 0")


def select(limits: Limits, condition: Array, x: Array, y: Array) -> Any:
    """Return SELECT: x where the condition holds, y elsewhere; its rows may have one condition."""
    if condition.ndim == 1 < x.ndim and condition.shape[0] == x.shape[0]:
        condition = condition.reshape(-1, *(1,) * (x.ndim - 1))
    if condition.ndim and condition.shape[0] not in (1, x.shape[0]):
        raise ValueError(f"a condition of {condition.shape} does not go with {x.shape}")
    if x.shape != y.shape:
        raise ValueError(f"its values have the shapes {x.shape} and {y.shape}")
    allow(limits, np.broadcast_shapes(condition.shape, x.shape), x.dtype)
    return np.where(condition, x, y)


def squared_difference(x: Array, y: Array) -> Any:
    """Return (x - y)^2."""
    return np.square(x - y)


def any_of(keep: bool, find: Any, x: Array, axes: Array) -> Any:
    """Return whether any, or all, of the numbers along axes are true."""
    return find(x, axis=tuple(axes_of(wholes(axes), x.ndim)), keepdims=keep)


def cast(dtype: np.dtype[Any], limits: Limits, x: Array) -> Array:
    """Return x as another type.

    Floats are cut to integers, and beyond these they are the largest or smallest one; nan is the
    largest.
    """
    if dtype.itemsize > x.itemsize:
        allow(limits, x.shape, dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        found = x.astype(dtype)
        if x.dtype.kind == "f" and dtype.kind in "iu":  # where C, and so NumPy, says nothing
            ends = np.iinfo(dtype)
            found = np.where(x > float(ends.min), found, dtype.type(ends.min))
            found = np.where(x < float(ends.max), found, dtype.type(ends.max))
    return found


def dequantize(scale: Array, zero_point: Array, axis: int, limits: Limits, x: Array) -> Array:
    """Return scale * (x - zero point) as float32; there may be one of both for each of an axis."""
    # Differences of short integers are exact in float32 too, so that its one rounding is the same.
    dtype = np.dtype(np.float32 if x.dtype.itemsize < 4 else np.float64)
    allow(limits, x.shape, dtype)
    sizes = [-1 if n == axis else 1 for n in range(x.ndim)] if scale.size > 1 else []
    shifted = x.astype(dtype) - zero_point.astype(dtype).reshape(sizes)
    return (scale.astype(dtype).reshape(sizes) * shifted).astype(np.float32, copy=False)


# ---- products -----------------------------------------------------------------------------------


def fully_connected(linear: Linear, keep: bool, limits: Limits, x: Array) -> Array:
    """Return x W^T + b; unless all axes are to be kept, x is taken as rows."""
    if not keep and x.ndim != 2:
        x = x.reshape(-1, linear.in_features)
    if x.size * linear.out_features * 4 > limits.most * linear.in_features:
        limits.allow((x.size // linear.in_features, linear.out_features), 4)
    return linear(x)


def times_matrix(keep: bool, limits: Limits, x: Array, weight: Array) -> Array:
    """Do the same with a matrix that is computed, and no bias."""
    if weight.ndim != 2:
        raise ValueError(f"its weights must have 2 axes, got the shape {weight.shape}")
    if not keep and x.ndim != 2:
        x = x.reshape(-1, weight.shape[1])
    limits.allow((*x.shape[:-1], weight.shape[0]), x.itemsize)
    return np.asarray(x @ weight.T)


def adjoint(x: Array) -> Array:
    """Return x with its last two axes exchanged."""
    turned: Array = x.swapaxes(-1, -2)
    return turned


# ---- graphs inside operators --------------------------------------------------------------------


class While:
    """Computes a WHILE: what its body makes of the values, again and again while a condition holds.

    As with ONNX's Loop, the file decides how often.
    """

    def __init__(self, condition: Plan, body: Plan) -> None:
        self.plans = condition, body

    def __call__(self, *values: Value) -> Any:
        condition, body = self.plans
        now: Sequence[Value] = values
        while truth(condition.run(now)[0]):
            now = body.run(now)
        return tuple(now) if len(now) > 1 else now[0]


class Branches:
    """Computes an IF: one of two graphs, and nothing of the other one."""

    def __init__(self, then: Plan, other: Plan) -> None:
        self.plans = then, other

    def __call__(self, condition: Value, *values: Value) -> Any:
        then, other = self.plans
        found = (then if truth(condition) else other).run(values)
        return tuple(found) if len(found) > 1 else found[0]
