"""ONNX's operators of shapes, and those that make, move, cut and repeat arrays.

What is moved or cut is a view of its input wherever NumPy can give one. What repeats asks the
limits. An array without elements may have axes of any length, which a file gets for nothing:
nothing is made here that is as long as such an axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache, partial
from operator import itemgetter, methodcaller
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import short
from .elementwise import DTYPES
from .limits import MOST_AXES, Limits
from .makers import (
    MANY,
    SMALL,
    Table,
    allow,
    alone,
    along,
    attribute,
    axes_of,
    axis_of,
    known_wholes,
    whole,
    wholes,
    word,
)
from .plan import Compute, Node, Operator, Value

if TYPE_CHECKING:
    from ..arrays import Array, Integers

SHAPES = Table()


def _same(x: Value) -> Value:
    return x


# ---- constants ----------------------------------------------------------------------------------

_CONSTANTS = {
    "value": None,
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
    "value_string": np.str_,
    "value_strings": np.str_,
}


@SHAPES.enter("Constant", inputs=(0, 0))
def _make_constant(operator: Operator) -> Compute | None:
    names = [name for name in _CONSTANTS if name in operator.attributes]
    if len(names) != 1:
        return None
    value = operator.attributes[names[0]]
    return partial(_same, np.asarray(value, _CONSTANTS[names[0]]))


@SHAPES.enter("ConstantOfShape")
def _make_constant_of_shape(operator: Operator) -> Compute:
    value = np.asarray(attribute(operator, "value", np.zeros(1, np.float32)))
    if value.size != 1:
        raise ValueError(f"the attribute 'value' must hold one number, got {value.size}")
    return partial(_filled, value.reshape(()), operator.draft.limits)


def _filled(value: Array, limits: Limits, shape: Integers) -> Array:
    sizes = shape.ravel().tolist()
    allow(limits, sizes, value.dtype)
    return np.full(sizes, value)


@SHAPES.plain("Range", inputs=(3, 3), limited=True)
def _range(limits: Limits, start: Array, end: Array, step: Array) -> Any:
    if not step.item():
        raise ValueError("the step is 0")
    size = max(math.ceil((end.item() - start.item()) / step.item()), 0)
    allow(limits, (size,), start.dtype)
    return np.add(np.arange(size, dtype=start.dtype) * step.reshape(()), start.reshape(()))


@SHAPES.enter("EyeLike")
def _make_eye_like(operator: Operator) -> Compute | None:
    number = whole(operator, "dtype", 0)
    if number and number not in DTYPES:
        return None
    return partial(_eye_like, whole(operator, "k", 0), DTYPES.get(number), operator.draft.limits)


def _eye_like(diagonal: int, dtype: np.dtype[Any] | None, limits: Limits, x: Array) -> Array:
    rows, columns = x.shape
    dtype = dtype or x.dtype
    allow(limits, x.shape, dtype)
    return np.eye(rows, columns, max(-rows, min(diagonal, columns)), dtype)


@SHAPES.enter("OneHot", inputs=(3, 3))
def _make_one_hot(operator: Operator) -> Compute:
    return partial(_one_hot, whole(operator, "axis", -1), operator.draft.limits)


def _one_hot(axis: int, limits: Limits, indices: Array, depth: Array, values: Array) -> Any:
    size, (off, on) = int(depth.item()), values
    indices = indices.astype(np.int64) if indices.dtype.kind == "f" else indices
    axis = axis_of(axis, indices.ndim + 1)
    allow(limits, (*indices.shape[:axis], size, *indices.shape[axis:]), values.dtype)
    allow(limits, (size,), np.dtype(np.int64))  # where there are no indices too
    places = np.arange(size).reshape(size, *[1] * (indices.ndim - axis))
    indices = np.expand_dims(np.where(np.less(indices, 0), indices + size, indices), axis)
    return np.where(np.equal(indices, places), on, off)


# ---- shapes -------------------------------------------------------------------------------------


@SHAPES.enter("Identity")
def _make_identity(operator: Operator) -> Compute:
    return _same


@SHAPES.enter("Shape")
def _make_shape(operator: Operator) -> Compute:
    end = operator.attributes.get("end")
    return partial(_shape, whole(operator, "start", 0), end and whole(operator, "end"))


def _shape(start: int, end: int | None, x: Array) -> Integers:
    return np.array(x.shape[start:end], np.int64)


@SHAPES.plain("Size")
def _size(x: Array) -> Integers:
    return np.array(x.size, np.int64)


@SHAPES.enter("Reshape", inputs=(2, 2))
def _make_reshape(operator: Operator) -> Compute | Node:
    zero_is_old = not whole(operator, "allowzero", 0)
    sizes = known_wholes(operator, "", 1)
    if sizes is None:
        return partial(_reshape_to, zero_is_old)
    if zero_is_old and 0 in sizes:
        return alone(operator, partial(_reshape_like, sizes))
    return alone(operator, methodcaller("reshape", _checked_sizes(sizes)))


def _reshape_to(zero_is_old: bool, x: Array, shape: Integers) -> Array:
    sizes = shape.ravel().tolist()
    if zero_is_old and 0 in sizes:
        return _reshape_like(sizes, x)
    return x.reshape(_checked_sizes(sizes))


def _reshape_like(sizes: Sequence[int], x: Array) -> Array:
    """Return x in a shape where 0 stands for the size that the axis has now."""
    if 0 in sizes[x.ndim :]:
        raise ValueError(f"the shape {tuple(sizes)} has a 0 where x, of {x.shape}, has no axis")
    old = x.shape
    return x.reshape([size or old[axis] for axis, size in enumerate(_checked_sizes(sizes))])


def _checked_sizes(sizes: Sequence[int]) -> Sequence[int]:
    if min(sizes, default=0) < -1:
        raise ValueError(f"the shape {tuple(sizes)} has a size below -1")
    return sizes


@SHAPES.enter("Flatten")
def _make_flatten(operator: Operator) -> Compute:
    return partial(_flatten, whole(operator, "axis", 1))


def _flatten(axis: int, x: Array) -> Array:
    if not -x.ndim <= axis <= x.ndim:
        raise ValueError(f"there is no axis {axis} among {x.ndim}")
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@SHAPES.enter("Transpose")
def _make_transpose(operator: Operator) -> Compute:
    if "perm" not in operator.attributes:
        return methodcaller("transpose")
    return methodcaller("transpose", wholes(operator.attributes["perm"]))


@SHAPES.enter("Squeeze", inputs=(1, 2))
def _make_squeeze(operator: Operator) -> Compute | Node:
    axes = known_wholes(operator, "axes", 1)
    if axes is None and operator.has(1):
        return _squeeze
    return alone(operator, methodcaller("squeeze", axes or None))


def _squeeze(x: Array, axes: Integers) -> Array:
    """Return x without these axes of size 1, without all of them if none is named."""
    return x.squeeze(wholes(axes) or None)


@SHAPES.enter("Unsqueeze", inputs=(1, 2))
def _make_unsqueeze(operator: Operator) -> Compute | Node:
    axes = known_wholes(operator, "axes", 1)
    if axes is None:
        if not operator.has(1):
            raise ValueError("its axes are missing")
        return _unsqueeze
    if len(axes) == 1:
        return alone(operator, itemgetter(along(axes[0], None)))
    return alone(operator, partial(_unsqueeze, axes=axes))


def _unsqueeze(x: Array, axes: Integers | tuple[int, ...]) -> Array:
    wanted = wholes(axes)
    rank = x.ndim + len(wanted)
    if rank > MOST_AXES:
        raise ValueError(f"there would be {rank} axes, at most {MOST_AXES} go")
    new = axes_of(wanted, rank)
    return x[tuple([None if axis in new else slice(None) for axis in range(rank)])]


@SHAPES.plain("Expand", inputs=(2, 2), limited=True)
def _expand(limits: Limits, x: Array, shape: Integers) -> Array:
    wanted = shape.ravel().tolist()
    if (*wanted,) == x.shape:
        return x
    rank = max(x.ndim, len(wanted))
    pairs = zip((1,) * (rank - x.ndim) + x.shape, [1] * (rank - len(wanted)) + wanted, strict=True)
    sizes = tuple([old if new == 1 else new for old, new in pairs])
    if sizes == x.shape:
        return x
    allow(limits, sizes, x.dtype)
    return np.broadcast_to(x, sizes)


@SHAPES.plain("Tile", inputs=(2, 2), limited=True)
def _tile(limits: Limits, x: Array, repeats: Integers) -> Array:
    times = wholes(repeats)
    if len(times) != x.ndim:
        raise ValueError(f"it has {len(times)} repeats for an array of {x.ndim} axes")
    allow(limits, [size * n for size, n in zip(x.shape, times, strict=True)], x.dtype)
    return np.tile(x, times)


# ---- put together and cut -----------------------------------------------------------------------


@SHAPES.enter("Concat", inputs=(1, MANY))
def _make_concat(operator: Operator) -> Compute:
    return partial(concat, whole(operator, "axis"), operator.draft.limits)


def concat(axis: int, limits: Limits, *arrays: Array) -> Array:
    if (size := sum([x.nbytes for x in arrays])) > limits.most:
        limits.allow((size,), 1)
    return np.concatenate(arrays, axis)


@SHAPES.enter("Split", inputs=(1, 2), outputs=(1, MANY))
def _make_split(operator: Operator) -> Compute | Node:
    axis, count = whole(operator, "axis", 0), len(operator.outputs)
    if whole(operator, "num_outputs", count) != count:
        raise ValueError(f"the attribute 'num_outputs' does not say {count}, as it has outputs")
    sizes = known_wholes(operator, "split", 1)
    if sizes is not None:
        parts = cuts(axis, _checked_split(sizes, count))
        return alone(operator, partial(_split_at, axis, sum(sizes), parts))
    if operator.has(1):
        return partial(_split, axis, count)
    even = operator.version < 18
    return alone(operator, _EvenSplit(axis, count, even))


def _checked_split(sizes: tuple[int, ...], count: int) -> tuple[int, ...]:
    if len(sizes) != count or min(sizes) < 0:
        raise ValueError(f"sizes {short(sizes)} are no split into {count} outputs")
    return sizes


def cuts(axis: int, sizes: Sequence[int]) -> list[tuple[Any, ...]]:
    """Return the indices of parts of these sizes, one behind another along an axis."""
    ends = np.cumsum(sizes).tolist()
    return [along(axis, slice(end - size, end)) for end, size in zip(ends, sizes, strict=True)]


def _split_at(axis: int, size: int, parts: Sequence[Any], x: Array) -> Any:
    if x.shape[axis] != size:
        raise ValueError(f"the sizes of its split add up to {size}, and not {x.shape[axis]}")
    return tuple([x[part] for part in parts]) if len(parts) > 1 else x


def _split(axis: int, count: int, x: Array, split: Integers) -> Any:
    sizes = _checked_split(wholes(split), count)
    return _split_at(axis, sum(sizes), cuts(axis, sizes), x)


class _EvenSplit:
    """A split into parts of equal sizes, or a smaller last one unless `even`.

    The indices of the parts are kept for the next array.
    """

    def __init__(self, axis: int, count: int, even: bool) -> None:
        self.axis, self.count, self.even = axis, count, even
        self._last: Any = None, ()  # the size of an axis, and the parts

    def __call__(self, x: Array) -> Any:
        size = x.shape[self.axis]
        last, parts = self._last
        if size != last:
            parts = self._parts(size)
            self._last = size, parts
        return _split_at(self.axis, size, parts, x)

    def _parts(self, size: int) -> list[tuple[Any, ...]]:
        part = -(-size // self.count)
        last = size - part * (self.count - 1)
        if last < 0 or (self.even and last != part):
            raise ValueError(f"an axis of size {size} is not split into {self.count} equal parts")
        return cuts(self.axis, [part] * (self.count - 1) + [last])


@SHAPES.enter("Slice", inputs=(1, 5))
def _make_slice(operator: Operator) -> Compute | Node:
    if operator.version < 10:
        starts, ends = (wholes(attribute(operator, name)) for name in ("starts", "ends"))
        axes, steps = operator.attributes.get("axes"), None
    else:
        if len(operator.inputs) < 3:
            raise ValueError("its starts and ends are missing")
        places = [place for place in range(1, 5) if operator.has(place)]
        if any(operator.constant(place) is None for place in places):
            return _slice
        starts, ends, axes, steps = (operator.constant(place) for place in range(1, 5))
    bounds = _Bounds(starts, ends, axes, steps)
    fixed = bounds.fixed()
    return alone(operator, bounds if fixed is None else itemgetter(fixed))


def _slice(
    x: Array, starts: Any, ends: Any, axes: Any | None = None, steps: Any | None = None
) -> Array:
    return _Bounds(starts, ends, axes, steps)(x)


_NO_END = (1 << 31) - 1, (1 << 63) - 1


class _Bounds:
    """The bounds of a Slice; called with an array, it returns the slice.

    They are those of Python's slices but for two cases, both with a step below 0. A start far below
    0 is the first element, and the largest integer as the end means that there is none.
    """

    def __init__(self, starts: Any, ends: Any, axes: Any | None, steps: Any | None) -> None:
        self.starts, ends = wholes(starts), wholes(ends)
        self.axes = wholes(range(len(self.starts)) if axes is None else axes)
        self.steps = (1,) * len(self.starts) if steps is None else wholes(steps)
        if not len(self.starts) == len(ends) == len(self.axes) == len(self.steps):
            raise ValueError("its starts, ends, axes and steps are not equally many")
        if 0 in self.steps:
            raise ValueError("a step is 0")
        self.ends = [
            None if step < 0 and end in _NO_END else end
            for end, step in zip(ends, self.steps, strict=True)
        ]

    def __call__(self, x: Array) -> Array:
        axes = axes_of(self.axes, x.ndim)
        index = [slice(None)] * x.ndim
        for axis, start, end, step in zip(axes, self.starts, self.ends, self.steps, strict=True):
            start = max(start, -x.shape[axis]) if step < 0 else start
            index[axis] = slice(start, end, step)
        return x[tuple(index)]

    def fixed(self) -> tuple[Any, ...] | None:
        """Return the index that gives the slice of any array; None if it depends on its shape."""
        backwards = any(
            a < -1 and step < 0 for a, step in zip(self.starts, self.steps, strict=True)
        )
        known = len(set(self.axes)) == len(self.axes) <= MOST_AXES
        if backwards or not known or max(map(abs, self.axes), default=0) > MOST_AXES:
            return None
        by_axis = dict(zip(self.axes, map(slice, self.starts, self.ends, self.steps), strict=True))
        low, high = min(self.axes, default=0), max(self.axes, default=-1)
        if low >= 0:
            return tuple([by_axis.get(axis, slice(None)) for axis in range(high + 1)])
        if high < 0:
            return (..., *[by_axis.get(axis, slice(None)) for axis in range(low, 0)])
        return None


@SHAPES.enter("Pad", inputs=(1, 4))
def _make_pad(operator: Operator) -> Compute | Node:
    modes = ("constant", "reflect", "edge", "wrap")
    mode = word(operator, "mode", modes, "constant")
    pad = partial(_pad, mode, operator.draft.limits)
    pads = known_wholes(operator, "pads", 1)
    axes = known_wholes(operator, "", 3)
    if pads is None and not operator.has(1):
        raise ValueError("its pads are missing")
    if pads is None or (axes is None and operator.has(3)):
        return pad
    value = operator.attributes.get("value", 0.0) if operator.version < 11 else None
    if operator.has(2):
        value = operator.constant(2)
        if value is None:
            return pad
    known = partial(pad, pads=pads, value=value, axes=axes)
    return alone(operator, known if mode == "constant" else _KnownPad(known))


class _KnownPad:
    """A padding by elements of the array itself; where a small one's lie is kept for the next."""

    def __init__(self, pad: Compute) -> None:
        self.pad = pad
        self._last: Any = None, None  # the shape of an array, places in it for each of the result

    def __call__(self, x: Array) -> Array:
        shape, places = self._last
        if shape == x.shape:
            same: Array = x.take(places)
            return same
        padded: Array = self.pad(x)
        if padded.size <= SMALL:
            self._last = x.shape, self.pad(np.arange(x.size).reshape(x.shape))
        return padded


def _pad(
    mode: str, limits: Limits, x: Array, pads: Any, value: Any = None, axes: Any | None = None
) -> Array:
    """Return x with as many elements more, or fewer, before and behind it as `pads` says."""
    if not isinstance(pads, tuple):
        pads, axes = wholes(pads), None if axes is None else wholes(axes)
    axes = range(x.ndim) if axes is None else axes_of(axes, x.ndim)
    if len(pads) != 2 * len(axes):
        raise ValueError(f"it has {len(pads)} pads for {len(axes)} axes")
    shape, inner, widths = list(x.shape), [slice(None)] * x.ndim, []
    for axis, before, behind in zip(axes, pads, pads[len(axes) :], strict=False):
        if before < 0 or behind < 0:
            size = x.shape[axis]
            if size + before + behind < 0:
                raise ValueError(f"its pads cut more from axis {axis} than there is, {size}")
            x = x[along(axis, slice(max(-before, 0), size + min(behind, 0)))]
        before, behind = max(before, 0), max(behind, 0)
        size = x.shape[axis]
        shape[axis], inner[axis] = before + size + behind, slice(before, before + size)
        if before or behind:
            widths.append((axis, size, before, behind))
    allow(limits, shape, x.dtype)
    if mode == "constant":
        padded = np.zeros(shape, x.dtype)
        if value is not None:
            padded.fill(np.asarray(value).item())
        padded[tuple(inner)] = x
        return padded
    for axis, size, before, behind in widths:
        if not size:
            raise ValueError(f"there is nothing on axis {axis} that could be repeated")
        x = x.take(_padding(mode, size, before, behind), axis)
    return x


@lru_cache(maxsize=16)
def _padding(mode: str, size: int, before: int, behind: int) -> Integers:
    """Return from which places along an axis a padded one is taken."""
    places = np.arange(-before, size + behind)
    if mode == "edge":
        return places.clip(0, size - 1)
    if mode == "wrap" or size == 1:
        return places % size
    last = size - 1
    return last - np.abs(places % (2 * last) - last)
