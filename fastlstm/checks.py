"""Checks of arguments, and how names of unknown origin are shown in messages."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from typing import Literal, TypeAlias

    Names: TypeAlias = Literal["float32", "float64"]
    Precision: TypeAlias = Names | type[np.float32] | type[np.float64] | np.dtype[Any]

DTYPES = ("float32", "float64")


def check_dtype(dtype: Any) -> np.dtype[Any]:
    """Return `dtype` as a NumPy dtype; raise ValueError unless it is float32 or float64."""
    try:
        name = None if dtype is None else np.dtype(dtype).name
    except TypeError:
        name = None
    if name not in DTYPES:
        raise ValueError(f'dtype must be "float32" or "float64", got {dtype!r:.100}')
    checked: np.dtype[Any] = np.dtype(name)
    return checked


def check_size(name: str, value: Any, least: int | None = 1) -> int:
    """Return `value` as an int; raise unless it is an int of at least `least` (None: any)."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} should be of type int, got: {type(value).__name__}")
    if least is not None and value < least:
        bound = "greater than zero" if least == 1 else f"at least {least}"
        raise ValueError(f"{name} must be {bound}, got {value}")
    return int(value)


def check_not_newer(part: str, version: Any, known: int) -> None:
    """Raise ValueError if a part of a file is of a version that only a newer fastlstm knows."""
    if type(version) is int and version > known:
        raise ValueError(f"{part} was written by a newer fastlstm: install that to read it")


def check_batch_first(value: Any) -> bool | None:
    """Return `value`; raise unless it is a bool, or None for a layout that is undecided."""
    return None if value is None else check_bool("batch_first", value)


def check_number(
    name: str,
    value: Any,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
) -> float:
    """Return `value` as a float; raise unless it is a finite number within these bounds.

    The bounds `least` and `most` are themselves allowed, `above` and `below` are not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} should be a number, got: {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:  # an int may have more digits than a float can hold
        number = math.inf
    if not (least <= number <= most and above < number < below):
        bounds = {"of at least": least, "above": above, "of at most": most, "below": below}
        said = " and ".join(f"{w} {b:g}" for w, b in bounds.items() if math.isfinite(b))
        raise ValueError(
            f"{name} must be a finite number {said}".rstrip() + f", got {value!r:.100}"
        )
    return number


def check_bool(name: str, value: Any) -> bool:
    """Return `value` as a bool; raise unless it is one."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} should be of type bool, got: {type(value).__name__}")
    return bool(value)


def check_probability(value: Any, name: str = "dropout") -> float:
    """Return the `value` of a dropout as a float; raise in torch's words unless it is in [0, 1]."""
    numbers = (int, float, np.integer, np.floating)
    if not isinstance(value, numbers) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError(
            f"{name} should be a number in range [0, 1] representing the probability of an "
            f"element being zeroed, got {value!r}"
        )
    return float(value)


def short(name: object, quote: str = "'") -> str:
    """Return a name of unknown origin for a message: quoted, escaped, and cut.

    >>> short("tags"), short((2, 3))
    ("'tags'", '(2, 3)')
    """
    quote = "" if isinstance(name, tuple) else quote  # a shape reads well as it is
    name = str(name)
    return quote + repr(name[:100])[1:-1] + quote + "..." * (len(name) > 100)


def listed(words: Iterable[str], most: int = 20) -> str:
    """Return the first `most` words as a list to be read, and how many more there are."""
    words = list(words)
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def quoted(names: Iterable[object], quote: str = "'", most: int = 20) -> str:
    """Return the first `most` names of unknown origin, each as `short` shows it; see `listed`."""
    names = list(names)
    return listed([*(short(name, quote) for name in names[:most]), *map(str, names[most:])], most)
