"""ONNX's operators that pick elements by their places, or put others there.

An array without elements may have axes of any length, which a file gets for nothing: nothing is
made here that is as long as such an axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from .limits import Limits
from .makers import SMALL, Table, allow, alone, along, axis_of, whole, wholes, word
from .plan import Compute, Node, Operator

if TYPE_CHECKING:
    from ..arrays import Array, Integers

INDEXING = Table()


@INDEXING.enter("Gather", inputs=(2, 2))
def _make_gather(operator: Operator) -> Compute | Node:
    axis, indices = whole(operator, "axis", 0), operator.constant(1)
    if indices is not None and np.ndim(indices) == 0:
        place = wholes(indices)[0]
        return alone(operator, itemgetter((*along(axis, place), *[...] * (axis >= 0))))
    return partial(_gather, axis, operator.draft.limits)


def _gather(axis: int, limits: Limits, x: Array, indices: Integers) -> Array:
    if indices.size * x.size > SMALL:
        shape = x.shape
        rest = x.size // (shape[axis] or 1)
        if indices.size * rest > x.size + indices.size:
            limits.allow((indices.size, rest), x.itemsize)
    return x.take(indices, axis)


def _places(shape: Sequence[int], rank: int) -> list[Integers]:
    """Return the places along each axis of this shape, as they spread over an array of `rank`."""
    found = np.indices(shape, sparse=True)
    return [places.reshape(places.shape + (1,) * (rank - len(shape))) for places in found]


def _one_by_one(axis: int, indices: Integers, x: Array) -> tuple[Integers, ...]:
    """Return the index of those elements of x that have places of their own along one axis."""
    if indices.ndim != x.ndim:
        raise ValueError(f"its indices have {indices.ndim} axes, and not {x.ndim}")
    places = _places(indices.shape, x.ndim)
    places[axis_of(axis, x.ndim)] = indices
    return tuple(places)


@INDEXING.enter("GatherElements", inputs=(2, 2))
def _make_gather_elements(operator: Operator) -> Compute:
    return partial(_gather_elements, whole(operator, "axis", 0))


def _gather_elements(axis: int, x: Array, indices: Integers) -> Array:
    if not indices.size:
        return np.empty(indices.shape, x.dtype)
    return x[_one_by_one(axis, indices, x)]


@INDEXING.enter("GatherND", inputs=(2, 2))
def _make_gather_nd(operator: Operator) -> Compute:
    return partial(_gather_nd, whole(operator, "batch_dims", 0), operator.draft.limits)


def _gather_nd(batch: int, limits: Limits, x: Array, indices: Integers) -> Array:
    depth = indices.shape[-1]
    if not 1 <= depth <= x.ndim - batch or x.shape[:batch] != indices.shape[:batch]:
        raise ValueError(f"indices {indices.shape} do not fit an array {x.shape}")
    shape = indices.shape[:-1] + x.shape[batch + depth :]
    if not indices.size:
        return np.empty(shape, x.dtype)
    allow(limits, shape, x.dtype)
    picked = [indices[..., n] for n in range(depth)]
    return x[tuple(_places(indices.shape[:batch], indices.ndim - 1) + picked)]


_SCATTERED = {
    "none": None,
    "add": np.add,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
}


def _scattered(x: Array, index: Any, updates: Array, ufunc: np.ufunc | None) -> Array:
    y = np.array(x)
    if ufunc is None:
        y[index] = updates
    else:
        ufunc.at(y, index, updates)
    return y


@INDEXING.enter("Scatter", "ScatterElements", inputs=(3, 3))
def _make_scatter_elements(operator: Operator) -> Compute:
    reduction = _SCATTERED[word(operator, "reduction", _SCATTERED, "none")]
    return partial(_scatter_elements, whole(operator, "axis", 0), reduction)


def _scatter_elements(
    axis: int, ufunc: np.ufunc | None, x: Array, indices: Integers, updates: Array
) -> Array:
    if updates.shape != indices.shape:
        raise ValueError(f"updates {updates.shape} do not fit indices {indices.shape}")
    if not indices.size:
        return x
    return _scattered(x, _one_by_one(axis, indices, x), updates, ufunc)


@INDEXING.enter("ScatterND", inputs=(3, 3))
def _make_scatter_nd(operator: Operator) -> Compute:
    return partial(_scatter_nd, _SCATTERED[word(operator, "reduction", _SCATTERED, "none")])


def _scatter_nd(ufunc: np.ufunc | None, x: Array, indices: Integers, updates: Array) -> Array:
    depth = indices.shape[-1]
    if not 1 <= depth <= x.ndim or updates.shape != indices.shape[:-1] + x.shape[depth:]:
        raise ValueError(
            f"updates {updates.shape} do not fit indices {indices.shape} of an array {x.shape}"
        )
    return _scattered(x, tuple([indices[..., n] for n in range(depth)]), updates, ufunc)


@INDEXING.plain("NonZero", limited=True)
def _non_zero(limits: Limits, x: Array) -> Integers:
    if x.size > SMALL:
        limits.allow((x.ndim, int(np.count_nonzero(x))), 8)
    if not x.ndim:
        return np.zeros((0, int(bool(x))), np.int64)
    return np.array(np.nonzero(x), np.int64)


@INDEXING.enter("ReverseSequence", inputs=(2, 2))
def _make_reverse_sequence(operator: Operator) -> Compute:
    axes = whole(operator, "batch_axis", 1), whole(operator, "time_axis", 0)
    if sorted(axes) != [0, 1]:
        raise ValueError(f"its axes of batch and time are {axes}, and not 0 and 1")
    return partial(reverse_sequence, axes[0] == 0)


def reverse_sequence(batch_first: bool, x: Array, lengths: Integers) -> Array:
    """Return x where of each sequence the steps before its length are in reverse order."""
    steps = x.swapaxes(0, 1) if batch_first else x
    length, count = steps.shape[:2]
    if lengths.shape != (count,):
        raise ValueError(f"it has lengths {lengths.shape} for {count} sequences")
    if not x.size:
        return x
    if lengths.min() < 0 or lengths.max() > length:
        raise ValueError(f"a length is not between 0 and {length}")
    t = np.arange(length)[:, None]
    y = steps[np.where(t < lengths, lengths - 1 - t, t), np.arange(count)]
    return y.swapaxes(0, 1) if batch_first else y


@INDEXING.enter("Trilu", inputs=(1, 2))
def _make_trilu(operator: Operator) -> Compute:
    return partial(_trilu, np.triu if whole(operator, "upper", 1) else np.tril)


def _trilu(part: Compute, x: Array, diagonal: Array | None = None) -> Any:
    if x.ndim < 2:
        raise ValueError(f"an array of {x.ndim} axes has no triangle")
    if not x.size:
        return x
    rows, columns = x.shape[-2:]
    k = 0 if diagonal is None else max(-rows, min(int(diagonal.item()), columns))
    return part(x, k)
