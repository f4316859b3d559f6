"""What one file may ask of its reader, counted as it is read."""

_MIB = 1 << 20


class Budget:
    """Counts what the reading of one file takes; a file that asks for too much is refused.

    All readers share these limits, most of which grow with the file: a large one may take time and
    memory, a small one may not. What a file could multiply is counted: opcodes, which are a byte
    each; lists, dicts and calls; values kept to be used again; the items that are copied from one
    list or dict into others; the names that nested modules make; the bytes into which a compressed
    member is inflated. Real files stay far below: a tensor in a file of torch's has 140 bytes or
    more, 35 opcodes, 9 containers, 10 memoised values and 6 copied items. ``spent`` tells the
    counts.

    Parameters
    ----------
    size : int
        Of the file, in bytes.
    """

    LIMITS = {  # so many, and so many more for each byte of the file
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
        "bytes of a training's JSON": (4 * _MIB, 1),
        "levels of modules": (64, 0),
    }

    def __init__(self, size):
        self.limits = {what: n + int(more * size) for what, (n, more) in self.LIMITS.items()}
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
