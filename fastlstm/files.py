"""Whole files: each is written aside and takes its name when it is complete.

If writing fails, or the process is killed, the file that was there before stays as it was. A killed
process leaves a side file, which is removed when the next file in that folder is written: a process
holds a lock on its side files as long as it lives. (Windows has no such lock, and the side file
stays there.)
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

fcntl: Any
try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None

_Path = str | os.PathLike[str]

_SIDE_FILE = re.compile(r"\..*\.[0-9a-f]{32}\.fastlstm", re.DOTALL)


@contextlib.contextmanager
def written_aside(path: _Path) -> Iterator[IO[bytes]]:
    """Give a file to write to: it becomes `path` if the block succeeds, and vanishes if not.

    A symbolic link stays, and the file that it names is written. A file that was there keeps its
    mode and, where that is permitted, its owner; a new one gets the mode that the umask leaves. A
    pipe or a device, as /dev/null, gets the bytes when they are complete.

    Raises
    ------
    OSError
        If `path` cannot be written; the message names it.
    """
    with _telling(path):
        target, old = _destination(path)
        if old is not None and not stat.S_ISREG(old.st_mode):
            with tempfile.TemporaryFile() as file:
                yield file
                _copy(file, target)
            return
        _remove_left_behind(target.parent)
        with _side_file(target, 0o666 if old is None else 0o600) as side:
            yield side
            side.flush()
            os.fsync(side.fileno())  # without it, a crash could leave the new name with no content
            if old is not None:
                _take_over(old, side.name)
            try:
                if fcntl is None:
                    side.close()  # Windows does not rename an open file
                os.replace(side.name, target)
            except OSError:
                if old is None:
                    raise
                # No file can take the name of a mount, but the mounted one can be written.
                with open(side.name, "rb") as whole:
                    _copy(whole, target)


def check_writable(path: _Path, inputs: Sequence[_Path] = ()) -> None:
    """Raise an OSError that says why `path` cannot be written, before long work begins.

    A side file is made in the folder, and removed again. A path that leads to one of `inputs`, the
    files that the work reads, is refused too.
    """
    with _telling(path):
        target, old = _destination(path)
        for read in inputs:
            if old is not None and os.path.exists(read) and os.path.samefile(read, path):
                raise OSError(f"{os.fspath(path)} cannot be written: it is read from")
        if old is None or stat.S_ISREG(old.st_mode):
            with _side_file(target, 0o600):
                pass


@contextlib.contextmanager
def _telling(path: _Path) -> Iterator[None]:
    """Make errors of the system name `path` where they name a side file, or no file."""
    own = ("None", str(path), os.path.realpath(path))  # "None" is the text of no name
    try:
        yield
    except OSError as error:
        name = str(error.filename)
        if error.strerror is None or name not in own and not _SIDE_FILE.fullmatch(Path(name).name):
            raise
        fault = type(error)(f"{os.fspath(path)} cannot be written: {error.strerror}")
        fault.errno = error.errno
        raise fault from error


def _destination(path: _Path) -> tuple[Path, os.stat_result | None]:
    """Return the file to write, behind all links, and its `os.stat`, or None if there is none."""
    target = Path(os.path.realpath(path))
    head = f"{os.fspath(path)} cannot be written: "
    try:
        old = os.stat(path)  # not of `target`: a pipe behind /dev/stdout has no path
    except (FileNotFoundError, NotADirectoryError):
        for folder in (Path(path).parent, target.parent):
            if not folder.is_dir():
                raise FileNotFoundError(f"{head}there is no folder {folder}") from None
        return target, None
    if stat.S_ISDIR(old.st_mode):
        raise IsADirectoryError(f"{head}it is a folder")
    if not os.access(path, os.W_OK):
        raise PermissionError(f"{head}it is write-protected")
    return (target if stat.S_ISREG(old.st_mode) else Path(path)), old


@contextlib.contextmanager
def _side_file(target: Path, mode: int) -> Iterator[IO[bytes]]:
    """Make a file beside `target`, open and locked. In the end it is removed if it was not renamed.

    Where the file system has no locks, `_remove_left_behind` removes nothing, as it locks nothing.
    """
    name = os.fsencode(target.name)[:100].decode("utf-8", "ignore")  # file systems limit names
    while True:
        aside = target.with_name(f".{name}.{uuid.uuid4().hex}.fastlstm")
        try:
            with open(aside, "xb", opener=lambda path, flags: os.open(path, flags, mode)) as file:
                if fcntl is not None:
                    with contextlib.suppress(OSError):  # some file systems have no locks
                        fcntl.flock(file, fcntl.LOCK_EX)
                if aside.exists():  # another process may have removed it before it was locked
                    yield file
                    return
        finally:
            aside.unlink(missing_ok=True)


def _remove_left_behind(folder: Path) -> None:
    """Remove the side files that no living process holds."""
    with contextlib.suppress(OSError):  # the folder may be writable, but not readable
        for name in filter(_SIDE_FILE.fullmatch, os.listdir(folder) if fcntl else ()):
            with contextlib.suppress(OSError):
                descriptor = os.open(folder / name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(folder / name)
                finally:
                    os.close(descriptor)


def _take_over(old: os.stat_result, path: str) -> None:
    """Give `path` the owner and the mode of another file, as far as that is permitted."""
    if hasattr(os, "chown"):
        for owner in (old.st_uid, -1):  # -1 keeps the owner and changes the group alone
            with contextlib.suppress(OSError):
                os.chown(path, owner, old.st_gid)
                break
    with contextlib.suppress(OSError):
        os.chmod(path, old.st_mode & 0o777)


def _copy(file: IO[bytes], path: Path) -> None:
    """Copy a whole file to a path."""
    file.seek(0)
    with open(path, "wb") as copy:
        shutil.copyfileobj(file, copy)
