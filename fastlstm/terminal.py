"""What a user sees on a terminal: text without control characters, and bars of progress.

Text may hold names from files of unknown origin, which must not control the terminal.
"""

from __future__ import annotations

import contextlib
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any, Literal


def printable(text: object) -> str:
    r"""Return the text with an escape, as ``\x1b``, in place of each invisible character.

    These are controls, among them line ends and tabs, characters that change the direction of
    writing or have no width, halves of surrogate pairs, and code points that Unicode leaves
    undefined.
    """
    return "".join(
        letter
        if letter.isprintable() or unicodedata.category(letter) == "Zs"  # any width of a space
        else letter.encode("unicode_escape").decode("ascii")
        for letter in str(text)
    )


def one_line(text: object) -> str:
    """Return the text in one line: each run of spaces and line ends becomes one space."""
    return " ".join(str(text).split())


def show(*lines: object, to: Literal["stdout", "stderr"] = "stdout") -> None:
    """Print lines, `printable`, with escapes for characters that the output's encoding lacks.

    Raises
    ------
    OSError
        If standard output does not take the lines, so that no loss goes unnoticed.
    """
    stream = getattr(sys, to)
    if stream is None:  # it was closed, as by ``>&-``
        if to == "stderr":
            return
        raise OSError("standard output cannot be written: it is closed")
    encoding = getattr(stream, "encoding", None) or "utf-8"
    text = "".join(printable(line) + "\n" for line in lines)
    with writing():
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Turn the system's error inside the block into a sentence about standard output."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(f"standard output cannot be written: {error.strerror}") from error


def progress_bar(
    steps: Iterable[Any] | None = None, *, total: int | None = None, unit: str = "it"
) -> Any:
    """Return a bar of tqdm over these steps, or the steps alone where nobody would see a bar.

    The bar appears after one second and goes away at the end. A caller without `steps` gets a bar,
    or None, calls its `update` for each of the `total` steps, and closes it.
    """
    tqdm = _tqdm()
    if tqdm is None:
        return steps
    return tqdm(steps, total=total, unit=unit, delay=1, leave=False)


@contextlib.contextmanager
def above_bars() -> Iterator[None]:
    """Take all bars off the terminal while this block writes, then draw them below its text."""
    tqdm = _tqdm()
    with tqdm.external_write_mode() if tqdm else contextlib.nullcontext():
        yield


def _tqdm() -> Any:
    """Return the class of tqdm's bars, or None if it is missing or nobody would see a bar.

    A bar is seen on a terminal and in a notebook, whose bars `tqdm.auto` draws.
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    in_notebook = shell is not None and "IPKernelApp" in shell.config
    if not in_notebook and (sys.stderr is None or not sys.stderr.isatty()):
        return None
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm
