"""Numbers, arrays and words out of JSON of unknown origin; what is another thing is refused."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import short

if TYPE_CHECKING:
    from ..arrays import Array

_MOST = 1 << 31  # of a size


def member(tree: Any, name: str, where: str, kind: type | tuple[type, ...]) -> Any:
    """Return the value of a name in an object; ValueError if it is not there or of another kind."""
    if not isinstance(tree, dict):
        raise ValueError(f"{where} must be an object, got {type(tree).__name__}")
    if name not in tree:
        raise ValueError(f"{where} has no {name!r}")
    value = tree[name]
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join(one.__name__ for one in kinds)
        raise ValueError(f"{name!r} of {where} must be of type {wanted}, got {short(str(value))}")
    return value


def size(tree: Any, name: str, where: str) -> int:
    """Return a whole number of at least 1 in an object."""
    value: int = member(tree, name, where, int)
    if not 0 < value < _MOST:
        raise ValueError(f"{name!r} of {where} must be a size, 1 or more, got {short(str(value))}")
    return value


def number(tree: Any, name: str, where: str, default: float) -> float:
    """Return a finite number in an object, or the default if it is not there or null."""
    if tree.get(name) is None:
        return default
    value = float(member(tree, name, where, (int, float)))
    if not math.isfinite(value):
        raise ValueError(f"{name!r} of {where} must be finite, got {value}")
    return value


def last_of_shape(tree: Any, name: str, where: str) -> int:
    """Return the size of the last axis of a shape, as ``[null, null, 8]``."""
    shape = member(tree, name, where, list)
    if not shape or type(shape[-1]) is not int or not 0 < shape[-1] < _MOST:
        raise ValueError(f"{name!r} of {where} must end in a size, got {short(str(shape))}")
    if len(shape) > 3:
        raise ValueError(
            f"{name!r} of {where} has {len(shape)} axes, which convolutions alone take"
        )
    return int(shape[-1])


def array(value: Any, what: str, *shape: int) -> Array:
    """Return nested lists of numbers as a float32 array of this shape.

    float32 is what the programs that read these files compute with. They too take a number as a
    double first.
    """
    rows: list[Any] = [value]
    for length in shape:
        for row in rows:
            if type(row) is not list or len(row) != length:
                got = f"{len(row)} entries" if type(row) is list else type(row).__name__
                raise ValueError(f"{what} must have shape {shape}, got {got} in place of {length}")
        rows = [entry for row in rows for entry in row]
    for entry in rows:
        if type(entry) not in (int, float):
            raise ValueError(f"{what} must be numbers, got {short(str(entry))}")
    try:
        found = np.array(rows, np.float64).reshape(shape)
    except OverflowError as fault:  # a whole number beyond a double
        raise ValueError(f"{what} has a number that float32 cannot hold") from fault
    if not (np.abs(found) <= np.finfo(np.float32).max).all():
        raise ValueError(f"{what} has a number that float32 cannot hold")
    return found.astype(np.float32)
