"""What readers take and give: a file that can be read from anywhere, and the arrays found in it."""

import errno
import io
import os
import re
from contextlib import contextmanager
from functools import cached_property

from ..checks import short
from . import archive
from .budget import Budget

_CHUNK = 1 << 20  # bytes
_BYTES = (bytes, bytearray, memoryview)
_LONGEST_PATH = 4096  # characters, the most that Linux takes


def file_name(path):
    """Return the name of a path or of an open file, for messages; refuse what is neither."""
    if isinstance(path, io.TextIOBase):
        raise TypeError('a file must be open for bytes, as open(path, "rb") gives it, not for text')
    if _is_file(path):
        name = getattr(path, "name", None)
        return name if isinstance(name, str) else f"<{type(path).__name__}>"
    name = os.fspath(path) if isinstance(path, (str, os.PathLike)) else path
    if not isinstance(name, str):
        way_out = "; io.BytesIO(...) makes a file of bytes" if isinstance(name, _BYTES) else ""
        raise TypeError(
            f"path must be a str, a path-like or a binary file, got {type(name).__name__}{way_out}"
        )
    if len(name) > _LONGEST_PATH:
        raise ValueError(f"path must be the name of a file, got a str of {len(name)} characters")
    return name


@contextmanager
def opened(path):
    """Open a path; an open file, if it can be sought, stands afterwards where it stood."""
    name = file_name(path)
    if not _is_file(path):
        if os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, "it is a folder, a file is expected", name)
        with open(path, "rb") as file:
            yield file
    elif not _is_sought(path):
        yield path
    else:
        place = path.tell()
        try:
            yield path
        finally:
            path.seek(place)


def _is_file(path):
    """Tell an open file from a path, of which some can be read too."""
    return hasattr(path, "read") and not isinstance(path, os.PathLike)


def _is_sought(file):
    return hasattr(file, "seekable") and file.seekable()


class Source:
    """An open binary file from its current position on, and the budget of its reading.

    Parameters
    ----------
    file : binary file
        Anything with ``read``. What cannot be sought, as a download, is read to its end.
    """

    def __init__(self, file):
        if not _is_sought(file):
            file = io.BytesIO(file.read())
        self.file, self.start = file, file.tell()
        file.seek(0, io.SEEK_END)
        self.size = max(0, file.tell() - self.start)
        self.budget = Budget(self.size)

    def read(self, start, size):
        """Return `size` bytes from `start` on as a bytearray; ValueError if the file ends before.

        Memory is taken only for what the file has.
        """
        if start + size > self.size:
            raise ValueError(
                f"it is truncated: {size} bytes are wanted from byte {start} on, it has {self.size}"
            )
        data, filled = bytearray(size), 0
        self.file.seek(self.start + start)
        while filled < size:
            chunk = self.file.read(min(size - filled, _CHUNK))
            if not chunk:
                raise ValueError("it became shorter while it was read")
            data[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
        return data

    @cached_property
    def head(self):
        """The first bytes, by which a format is told."""
        return bytes(self.read(0, min(self.size, 512)))

    @cached_property
    def members(self):
        """The members of a zip file by their names, in its order; None if it is none."""
        return archive.members(self) if self.head.startswith(archive.MAGIC) else None


class State(dict):
    """Arrays by their names; ``refused`` says of each name that was not read why not.

    ``batch_first`` says it of LSTMs, by the prefix of their names, where the file tells.
    """

    def __init__(self):
        self.refused, self.batch_first = {}, {}

    def require(self, prefix="", local=""):
        """Return self; ValueError if a name of this prefix and pattern was not read."""
        for name, reason in self.refused.items():
            if name.startswith(prefix) and re.match(local, name.removeprefix(prefix)):
                raise ValueError(f"entry {short(name)} {reason}")
        return self
