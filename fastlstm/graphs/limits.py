"""How much memory numbers that stand in a file may ask for.

A few bytes of a file can say "a million by a million zeros". Whoever makes an array whose size a
number decides, and not the size of what goes in, asks `Limits.allow` first. This is so for
operators that repeat, pad, broadcast or multiply out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from ..checks import short

_MIB = 1 << 20
MOST_AXES = 64  # which NumPy has, before version 2 half as many


class TooLarge(ValueError):
    """An array would take more bytes than are allowed."""


class Limits:
    """The most bytes that one array may take whose size a number decides.

    While a file is read, and its constants are computed, the limits follow the size of the file:
    see `for_file`. Later the model has limits of its own, `most`, which a caller may raise.

    Parameters
    ----------
    most : int
        In bytes.
    """

    def __init__(self, most: int) -> None:
        self.most = most

    def __repr__(self) -> str:
        return f"Limits({self.most})"

    @classmethod
    def for_file(cls, size: int) -> Limits:
        """Return the limits for constants that are computed while a file of this size is read."""
        return cls(_MIB + 4 * size)

    def allow(self, shape: Iterable[int], itemsize: int) -> None:
        """Raise TooLarge if an array of this shape takes too many bytes."""
        shape = tuple(int(size) for size in shape)
        if len(shape) > MOST_AXES:
            raise ValueError(f"an array would have {len(shape)} axes, at most {MOST_AXES} go")
        if any(size < 0 for size in shape):
            raise ValueError(f"a shape has a size below 0: {short(shape)}")
        if (size := math.prod(shape) * itemsize) > self.most:
            raise TooLarge(
                f"an array of shape {short(shape)} would take {size} bytes, at most {self.most} "
                "are allowed; load(path, max_bytes=...) or --max-bytes allow more"
            )
