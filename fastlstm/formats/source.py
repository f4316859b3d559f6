"""What readers work on: a file that is read at any place, and the arrays that are found in it."""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any, cast

from ..checks import short
from . import archive
from .archive import Member
from .budget import Budget

if TYPE_CHECKING:
    from typing import TypeAlias

    from ..arrays import Array

    ModelFile: TypeAlias = str | os.PathLike[str] | IO[bytes]

_CHUNK = 1 << 20  # bytes
_BYTES = (bytes, bytearray, memoryview)
_LONGEST_PATH = 4096  # characters, the most that Linux takes


def file_name(path: ModelFile) -> str:
    """Return the name of a path or of an open file, for messages; raise if it is neither."""
    if isinstance(path, io.TextIOBase):
        raise TypeError('a file must be open for bytes, as open(path, "rb") gives it, not for text')
    if _is_file(path):
        own = getattr(path, "name", None)
        return own if isinstance(own, str) else f"<{type(path).__name__}>"
    name: object = os.fspath(path) if isinstance(path, (str, os.PathLike)) else path
    if not isinstance(name, str):
        way_out = "; io.BytesIO(...) makes a file of bytes" if isinstance(name, _BYTES) else ""
        raise TypeError(
            f"path must be a str, a path-like or a binary file, got {type(name).__name__}{way_out}"
        )
    if len(name) > _LONGEST_PATH:
        raise ValueError(f"path must be the name of a file, got a str of {len(name)} characters")
    return name


def folder_of(path: ModelFile) -> str | None:
    """Return the folder of a path; None for an open file, which may be no file of a folder."""
    return None if _is_file(path) else os.path.dirname(os.path.abspath(file_name(path)))


@contextmanager
def opened(path: ModelFile) -> Iterator[IO[bytes]]:
    """Open a path, or lend an open file, which is put back to its position if it is seekable."""
    name = file_name(path)
    if not _is_file(path):
        path = cast("str | os.PathLike[str]", path)
        if os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, "it is a folder, a file is expected", name)
        with open(path, "rb") as opened_here:
            yield opened_here
        return
    file = cast("IO[bytes]", path)
    if not _is_seekable(file):
        yield file
        return
    place = file.tell()
    try:
        yield file
    finally:
        file.seek(place)


def _is_file(path: Any) -> bool:
    """Tell an open file from a path. Some objects that are paths have a method `read` too."""
    return hasattr(path, "read") and not isinstance(path, os.PathLike)


def _is_seekable(file: Any) -> bool:
    return hasattr(file, "seekable") and bool(file.seekable())


class Source:
    """An open binary file from its current position on, and the budget of its reading.

    Parameters
    ----------
    file : binary file
        Any object with ``read``. A file that is not seekable, such as a download, is read to its
        end at once.
    folder : str, optional
        The folder of the file, where there is one: some formats have files beside it.
    """

    def __init__(self, file: IO[bytes], folder: str | None = None) -> None:
        self.folder = folder
        if not _is_seekable(file):
            file = io.BytesIO(file.read())
        self.file, self.start = file, file.tell()
        file.seek(0, io.SEEK_END)
        self.size = max(0, file.tell() - self.start)
        self.budget = Budget(self.size)

    def read(self, start: int, size: int) -> bytearray:
        """Return `size` bytes from `start` on; raise ValueError if the file ends before.

        No more memory is taken than the file has bytes.
        """
        if start + size > self.size:
            raise ValueError(
                f"it is truncated: {size} bytes are wanted from byte {start} on, it has {self.size}"
            )
        data, filled = bytearray(size), 0
        self.file.seek(self.start + start)
        if size > _CHUNK and isinstance(self.file, io.BufferedReader):
            filled = self.file.readinto(data)  # which spares a copy
        while filled < size:
            chunk = self.file.read(min(size - filled, _CHUNK))
            if not chunk:
                raise ValueError("it became shorter while it was read")
            data[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
        return data

    @cached_property
    def head(self) -> bytes:
        """The first bytes, by which a format is recognised."""
        return bytes(self.read(0, min(self.size, 512)))

    @cached_property
    def members(self) -> dict[str, Member] | None:
        """The members of a zip file by their names, in its order; None if it is no zip file."""
        return archive.members(self) if self.head.startswith(archive.MAGIC) else None


class State(dict[str, "Array"]):
    """Arrays by their names, in the order of the file.

    ``refused`` says why an entry was not read, by its name. ``batch_first`` has the layout of those
    LSTMs of which the file tells it, by the prefix of their parameters' names.
    """

    def __init__(self) -> None:
        super().__init__()
        self.refused: dict[str, str] = {}
        self.batch_first: dict[str, bool | None] = {}

    def require(self, prefix: str = "", local: str = "") -> State:
        """Return self; raise ValueError if an entry of this prefix and pattern was refused."""
        for name, reason in self.refused.items():
            if name.startswith(prefix) and re.match(local, name.removeprefix(prefix)):
                raise ValueError(f"entry {short(name)} {reason}")
        return self
