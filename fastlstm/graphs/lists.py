"""ONNX's operators of lists of arrays ("sequences"), and of what may be absent ("optional")."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from .limits import Limits
from .makers import MANY, SMALL, Table, along, whole, wholes
from .plan import Compute, Operator, Value
from .shapes import concat, cuts

if TYPE_CHECKING:
    from ..arrays import Array, Integers

LISTS = Table()


def _list(*arrays: Array) -> list[Array]:
    if any(isinstance(x, list) for x in arrays):
        raise ValueError("a sequence holds arrays, and no sequences")
    return list(arrays)


@LISTS.enter("SequenceEmpty", inputs=(0, 0))
@LISTS.enter("SequenceConstruct", inputs=(1, MANY))
def _make_sequence(operator: Operator) -> Compute:
    return _list


@LISTS.plain("SequenceAt", inputs=(2, 2))
def _sequence_at(arrays: list[Array], place: Array) -> Array:
    return arrays[int(place.item())]


@LISTS.plain("SequenceErase", inputs=(1, 2))
def _sequence_erase(arrays: list[Array], place: Array | None = None) -> list[Array]:
    kept = list(arrays)
    del kept[-1 if place is None else int(place.item())]
    return kept


@LISTS.plain("SequenceInsert", inputs=(2, 3))
def _sequence_insert(arrays: list[Array], x: Array, place: Array | None = None) -> list[Array]:
    at = len(arrays) if place is None else int(place.item())
    if not -len(arrays) <= at <= len(arrays):
        raise ValueError(f"there is no place {at} in a sequence of {len(arrays)}")
    return [*arrays[:at], *_list(x), *arrays[at:]]


@LISTS.plain("SequenceLength")
def _sequence_length(arrays: list[Array]) -> Integers:
    return np.array(len(arrays), np.int64)


@LISTS.enter("ConcatFromSequence")
def _make_concat_from_sequence(operator: Operator) -> Compute:
    axis, new = whole(operator, "axis"), bool(whole(operator, "new_axis", 0))
    return partial(_concat_from_sequence, axis, new, operator.draft.limits)


def _concat_from_sequence(axis: int, new: bool, limits: Limits, arrays: list[Array]) -> Array:
    if new:
        arrays = [np.expand_dims(x, axis) for x in arrays]
    return concat(axis, limits, *arrays)


@LISTS.enter("SplitToSequence", inputs=(1, 2))
def _make_split_to_sequence(operator: Operator) -> Compute:
    keep = bool(whole(operator, "keepdims", 1))
    return partial(_split_to_sequence, whole(operator, "axis", 0), keep, operator.draft.limits)


def _split_to_sequence(
    axis: int, keep: bool, limits: Limits, x: Array, split: Array | None = None
) -> list[Array]:
    """Return the parts of x: single ones, equal ones but for the last, or of given sizes."""
    size = x.shape[axis]
    if size > SMALL:
        limits.allow((size,), 256)  # each part is an array of its own
    if split is None:
        parts = [along(axis, slice(n, n + 1) if keep else n) for n in range(size)]
        return [x[part] for part in parts]
    sizes = wholes(split)
    if split.ndim == 0:
        if sizes[0] < 1:
            raise ValueError(f"a part has size {sizes[0]}")
        sizes = (*sizes * (size // sizes[0]), *filter(None, [size % sizes[0]]))
    elif sum(sizes) != size or min(sizes) < 0:
        raise ValueError(f"sizes {sizes} do not add up to {size}")
    return [x[part] for part in cuts(axis, sizes)]


def _is_there(x: Value = None) -> Array:
    return np.array(x is not None)


def _element(x: Value) -> Value:
    if x is None:
        raise ValueError("its value is absent")
    return x


def _optional(x: Value = None) -> Value:
    return x


@LISTS.enter("Optional", "OptionalHasElement", "OptionalGetElement", inputs=(0, 1))
def _make_optional(operator: Operator) -> Compute:
    if operator.type == "Optional":
        return _optional
    return _is_there if operator.type == "OptionalHasElement" else _element
