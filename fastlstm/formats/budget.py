"""How much work and memory one file may ask of its reader, counted as it is read."""

from __future__ import annotations

_MIB = 1 << 20


class Budget:
    """Counts what the reading of one file takes, and refuses a file that asks for too much.

    All readers share these limits. Most of them grow with the file: a large file may take time and
    memory, a small one may not. Whatever a small file could multiply is counted: opcodes, which are
    a byte each; lists, dicts and calls; values that are kept to be used again; the items that are
    copied from one list or dict into others; the names that nested modules make; the bytes into
    which a compressed member is inflated. Real files stay far below the limits: a tensor in a file
    that torch wrote has at least 140 bytes, and takes 35 opcodes, 9 containers, 10 memoised values
    and 6 copied items. The counts so far stand in ``spent``.

    Parameters
    ----------
    size : int
        The size of the file in bytes.
    """

    LIMITS: dict[str, tuple[int, float]] = {  # a number, and how many more for each byte
        "opcodes of pickles": (_MIB, 1),
        "containers of pickles": (_MIB // 4, 1 / 4),
        "memoised values": (_MIB // 4, 1 / 4),
        "copied items": (_MIB // 4, 1 / 8),
        "names of modules and their tensors": (_MIB // 32, 1 / 32),
        "letters of names": (_MIB, 1),
        "inflated bytes": (64 * _MIB, 32),
        "members of a zip file": (_MIB // 2, 0),
        "bytes of a pickle": (64 * _MIB, 0),
        "bytes of a header": (16 * _MIB, 0),
        "bytes of JSON": (_MIB, 0),
        "messages of HDF5": (_MIB // 4, 1 / 4),
        "values of MATLAB": (_MIB // 16, 1 / 8),
        "bytes of a model's JSON": (1024 * _MIB, 0),
        "lists and objects of JSON": (_MIB // 4, 1 / 32),
        "names of JSON": (_MIB // 16, 1 / 32),
        "bytes of a network's JSON": (4 * _MIB, 1),
        "bytes of a training's JSON": (4 * _MIB, 1),
        "levels of modules": (64, 0),
        "levels of graphs": (32, 0),
        "levels of messages": (100, 0),
        "operators": (_MIB // 32, 1 / 16),
        "tables": (_MIB // 32, 1 / 16),
    }

    def __init__(self, size: int) -> None:
        self.limits = {what: n + int(more * size) for what, (n, more) in self.LIMITS.items()}
        self.spent = dict.fromkeys(self.limits, 0)

    def left(self, what: str) -> int:
        """Return how much may still be spent."""
        return self.limits[what] - self.spent[what]

    def spend(self, what: str, amount: int = 1) -> None:
        """Count an amount; raise ValueError if the sum is over the limit."""
        self.check(what, self.spent[what] + amount)
        self.spent[what] += amount

    def check(self, what: str, amount: int) -> None:
        """Raise ValueError if an amount is over the limit; it is not added to the sum."""
        if amount > self.limits[what]:
            raise ValueError(
                f"it has {amount} or more {what}; at most {self.limits[what]} are read"
            )
