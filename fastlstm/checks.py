"""Checks of arguments, and names of unknown origin in messages."""

from __future__ import annotations

import math

import numpy as np

DTYPES = ("float32", "float64")


def check_dtype(dtype):
    """Return np.dtype float32 or float64, or say that nothing else will do."""
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = None
    if dtype is None or name not in DTYPES:
        raise ValueError(f'dtype must be "float32" or "float64", got {dtype!r:.100}')
    return np.dtype(name)


def check_size(name, value, least=1):
    """Return `value` as an int, refused unless it is one of at least `least` (None: any)."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} should be of type int, got: {type(value).__name__}")
    if least is not None and value < least:
        bound = "greater than zero" if least == 1 else f"at least {least}"
        raise ValueError(f"{name} must be {bound}, got {value}")
    return int(value)


def check_batch_first(value):
    """Refuse what is neither a bool nor None, which stands for a layout that is undecided."""
    return None if value is None else check_bool("batch_first", value)


def check_number(name, value, *, least=-math.inf, above=-math.inf, most=math.inf, below=math.inf):
    """Return `value` as a float; refused unless it is a finite number within these bounds."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} should be a number, got: {type(value).__name__}")
    if not (least <= value <= most and above < value < below):
        bounds = {"of at least": least, "above": above, "of at most": most, "below": below}
        said = " and ".join(f"{w} {b:g}" for w, b in bounds.items() if math.isfinite(b))
        raise ValueError(f"{name} must be a finite number {said}".rstrip() + f", got {value!r}")
    return float(value)


def check_bool(name, value):
    """Refuse a switch that is not a bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} should be of type bool, got: {type(value).__name__}")
    return bool(value)


def check_probability(value):
    """Refuse a dropout that is not a probability, in torch's words."""
    numbers = (int, float, np.integer, np.floating)
    if not isinstance(value, numbers) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError(
            "dropout should be a number in range [0, 1] representing the probability of an "
            f"element being zeroed, got {value!r}"
        )
    return float(value)


def short(name, quote="'"):
    """A name of unknown origin for a message: quoted, escaped, and cut."""
    name = str(name)
    return quote + repr(name[:100])[1:-1] + quote + "..." * (len(name) > 100)


def listed(words, most=20):
    """The first words, ready to be read, and how many more there are."""
    words = list(words)
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def quoted(names, quote="'", most=20):
    """The first names of unknown origin, each `short`, and how many more there are."""
    names = list(names)
    return listed([*(short(name, quote) for name in names[:most]), *names[most:]], most)
