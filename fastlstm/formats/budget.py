"""What one file may ask of its reader, counted as it is read."""

_MIB = 1 << 20


class Budget:
    """Counts what the reading of one file takes; a file that asks for too much is refused.

    All readers share these limits. Real files stay far below: a state dict of 100 000 tensors takes
    3.2 million opcodes and 100 000 members. What a small file could multiply is counted as well:
    the items that a pickle copies from one list into others, the names that nested modules make,
    and the bytes into which a compressed member is inflated. ``spent`` tells the counts.

    Parameters
    ----------
    size : int
        Of the file, in bytes.
    """

    LIMITS = {
        "opcodes of pickles": 8 * _MIB,
        "bytes of a pickle": 64 * _MIB,
        "copied items": 4 * _MIB,
        "names of modules and their tensors": _MIB,
        "members of a zip file": 256 * 1024,
        "letters of names": 32 * _MIB,
        "levels of modules": 64,
        "bytes of JSON": _MIB,
        "bytes of a header": 16 * _MIB,
    }

    def __init__(self, size):
        self.limits = self.LIMITS | {"inflated bytes": 64 * _MIB + 32 * size}
        self.spent = dict.fromkeys(self.limits, 0)

    def left(self, what):
        """How much may still be spent."""
        return self.limits[what] - self.spent[what]

    def spend(self, what, amount=1):
        """Count what is taken; ValueError before more is taken than there may be."""
        self.check(what, self.spent[what] + amount)
        self.spent[what] += amount

    def check(self, what, amount):
        """Refuse an amount over the limit, without adding it up."""
        if amount > self.limits[what]:
            raise ValueError(
                f"it has {amount} or more {what}; at most {self.limits[what]} are read"
            )
