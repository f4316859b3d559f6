"""JSON of unknown origin: numbers, arrays and words out of it, all else refused; arrays for it."""

from __future__ import annotations

import json
import math
from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ..checks import short

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..arrays import Array
    from .budget import Budget

_MOST = 1 << 31  # of a size
_LARGEST = float(np.finfo(np.float32).max)


def parsed(text: str, budget: Budget, damaged: str, has_nan: bool = False) -> Any:
    """Return what a text of JSON says.

    Lists and objects are counted before any is made, and so are the names in objects: an empty list
    takes 20 times the memory of its text, a name of one letter 40 times.

    Parameters
    ----------
    text : str
    budget : Budget
        Of the file.
    damaged : str
        What a fault is called, as "damaged JSON".
    has_nan : bool
        Whether NaN and Infinity are numbers, as Python's json has them and JSON itself does not.

    Raises
    ------
    ValueError
        If it is damaged, or an object has a name twice.
    """
    budget.spend("lists and objects of JSON", text.count("[") + text.count("{"))
    budget.spend("names of JSON", text.count(":"))
    constant: Callable[[str], Any] | None = None if has_nan else _refuse_constant
    try:
        return json.loads(text, parse_constant=constant, object_pairs_hook=_once)
    except (ValueError, RecursionError) as fault:
        raise ValueError(f"{damaged}: {str(fault)[:200]}") from fault


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; raise ValueError if a name stands in it twice."""
    made = dict(pairs)
    if len(made) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = counts.most_common(1)[0][0]
        raise ValueError(f"the name {short(twice)} stands in it twice")
    return made


def decoded(data: bytes, damaged: str) -> str:
    """Return the text of a file of JSON, which may begin with a mark of its byte order."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise ValueError(f"{damaged}: {str(fault)[:200]}") from fault


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
    """Return a number that float32 can hold; the default if it is not there or null."""
    if tree.get(name) is None:
        return default
    found = member(tree, name, where, (int, float))
    if not abs(found) <= _LARGEST:  # a whole number of JSON may be beyond every float
        raise ValueError(
            f"{name!r} of {where} must be a number that float32 can hold, got {short(str(found))}"
        )
    return float(found)


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
    """Return nested lists of numbers as a float32 array of this shape, which has an axis or more.

    float32 is what the programs that read these files compute with. They too take a number as a
    double first.
    """
    rows: list[Any] = [value]
    for axis, length in enumerate(shape):
        if axis:
            rows = [*chain.from_iterable(rows)]
        for row in rows:
            if type(row) is not list or len(row) != length:
                got = f"{len(row)} entries" if type(row) is list else type(row).__name__
                raise ValueError(f"{what} must have shape {shape}, got {got} in place of {length}")
    # A list of all numbers would take four times the bytes that "0," has in the file.
    if not set(map(type, chain.from_iterable(rows))) <= {int, float}:
        wrong = next(one for one in chain.from_iterable(rows) if type(one) not in (int, float))
        raise ValueError(f"{what} must be numbers, got {short(str(wrong))}")
    try:
        found = np.fromiter(chain.from_iterable(rows), np.float64, math.prod(shape))
    except OverflowError as fault:  # a whole number beyond a double
        raise ValueError(f"{what} has a number that float32 cannot hold") from fault
    if not max(found.max(initial=0), -found.min(initial=0)) <= _LARGEST:
        raise ValueError(f"{what} has a number that float32 cannot hold")
    return found.astype(np.float32).reshape(shape)


def nested(array: Array, what: str) -> Any:
    """Return an array as nested lists of numbers that `array` reads.

    Raises
    ------
    ValueError
        If one of them is none of float32: JSON has no nan, and no infinity.
    """
    if not (np.abs(array) <= _LARGEST).all():
        raise ValueError(f"{what} has a number that float32 cannot hold")
    return array.tolist()
