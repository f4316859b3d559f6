"""Whole files: each is written aside and takes its name when it is complete.

A failure, or a kill, leaves the file that was there before as it was. What a killed process leaves
beside it is removed when a file in that folder is written next: a side file is locked for as long
as its process lives. (Windows has no such lock; there it stays.)
"""

import contextlib
import os
import re
import shutil
import stat
import tempfile
import uuid
from pathlib import Path

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None

_SIDE_FILE = re.compile(r"\..*\.[0-9a-f]{32}\.fastlstm", re.DOTALL)


@contextlib.contextmanager
def written_aside(path):
    """Give a file to write to: it becomes `path` if all goes well, and vanishes if not.

    Through a symbolic link the file that it names is written. A file that was there keeps its mode
    and, where that is permitted, its owner; a new one gets what the umask leaves. What is no file
    (a pipe, /dev/null) gets the bytes when they are complete.
    """
    with _telling(path):
        target, old = _destination(path)
        if old is not None and not stat.S_ISREG(old.st_mode):
            with tempfile.TemporaryFile() as file:
                yield file
                _copy(file, target)
            return
        _remove_left_behind(target.parent)
        with _side_file(target, 0o666 if old is None else 0o600) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # or a crash could leave the new name with no content
            if old is not None:
                _take_over(old, file.name)
            try:
                if fcntl is None:
                    file.close()  # Windows renames no open file
                os.replace(file.name, target)
            except OSError:
                if old is None:
                    raise
                with open(file.name, "rb") as whole:  # `target` is a mount, say: no other can
                    _copy(whole, target)  # take its name, but it can be written


def check_writable(path, inputs=()):
    """Raise an OSError that says why if `path` cannot be written; nothing is left behind.

    For the time before a long work: the folder is tried by a file that is removed again. A file
    that the work reads, one of `inputs`, is not to be written over.
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
def _telling(path):
    """Make a sentence with the file's name of what the system says about no file in particular."""
    own = ("None", str(path), os.path.realpath(path))
    try:
        yield
    except OSError as error:
        name = str(error.filename)
        if error.strerror is None or name not in own and not _SIDE_FILE.fullmatch(Path(name).name):
            raise
        fault = type(error)(f"{os.fspath(path)} cannot be written: {error.strerror}")
        fault.errno = error.errno
        raise fault from error


def _destination(path):
    """Return the file to write, behind all links, and what `os.stat` says of it, or None."""
    target = Path(os.path.realpath(path))
    head = f"{os.fspath(path)} cannot be written: "
    try:
        old = os.stat(path)  # of a pipe behind /dev/stdout, which has no path
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
def _side_file(target, mode):
    """Make a file beside `target`, open and locked; in the end it is gone, if nobody renamed it."""
    name = os.fsencode(target.name)[:100].decode("utf-8", "ignore")  # no longer than names may be
    while True:
        aside = target.with_name(f".{name}.{uuid.uuid4().hex}.fastlstm")
        try:
            with open(aside, "xb", opener=lambda path, flags: os.open(path, flags, mode)) as file:
                if fcntl is not None:
                    with contextlib.suppress(OSError):  # where there are no locks, none is removed
                        fcntl.flock(file, fcntl.LOCK_EX)
                if aside.exists():  # and was not taken for left behind before it was locked
                    yield file
                    return
        finally:
            aside.unlink(missing_ok=True)


def _remove_left_behind(folder):
    """Remove the side files that no living process holds."""
    with contextlib.suppress(OSError):  # a folder may be writable and not readable
        for name in filter(_SIDE_FILE.fullmatch, os.listdir(folder) if fcntl else ()):
            with contextlib.suppress(OSError):
                descriptor = os.open(folder / name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(folder / name)
                finally:
                    os.close(descriptor)


def _take_over(old, path):
    """Give `path` the owner and the mode of another file, as far as that is permitted."""
    if hasattr(os, "chown"):
        for owner in (old.st_uid, -1):  # who may not give a file away may share it with a group
            with contextlib.suppress(OSError):
                os.chown(path, owner, old.st_gid)
                break
    with contextlib.suppress(OSError):
        os.chmod(path, old.st_mode & 0o777)


def _copy(file, path):
    file.seek(0)
    with open(path, "wb") as copy:
        shutil.copyfileobj(file, copy)
