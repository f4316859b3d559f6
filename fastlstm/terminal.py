"""What a user sees on a terminal: text without control characters, and bars of progress.

Text is often a name out of a file of unknown origin; such a name must not command the terminal.
"""

from __future__ import annotations

import contextlib
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any, Literal


def printable(text: object) -> str:
    r"""Return the text with an escape, as ``\x1b``, for each character that is not to be seen.

    Those are controls, line ends and tabs among them, characters that turn the direction of
    writing or have no width, halves of surrogate pairs, and what Unicode does not define.
    """
    return "".join(
        letter
        if letter.isprintable() or unicodedata.category(letter) == "Zs"  # any width of a space
        else letter.encode("unicode_escape").decode("ascii")
        for letter in str(text)
    )


def show(*lines: object, to: Literal["stdout", "stderr"] = "stdout") -> None:
    """Print lines on standard output or "stderr", by `printable` and as its encoding can.

    Raises
    ------
    OSError
        If standard output does not take them: nothing is lost in silence.
    """
    stream = getattr(sys, to)
    if stream is None:  # closed, as by ``>&-``
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
    """Make a sentence of what the system says when an output takes no more."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(f"standard output cannot be written: {error.strerror}") from error


def progress_bar(
    steps: Iterable[Any] | None = None, *, total: int | None = None, unit: str = "it"
) -> Any:
    """Return a bar of tqdm over these steps; the steps themselves where nobody would see it move.

    The bar appears after one second and goes away at the end. Without `steps` it is None that
    comes back in place of a bar; of a bar the caller calls `update` for each of the `total` steps,
    and `close`.
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
    """The class of tqdm's bars; None where it is not installed, or nobody would see a bar move.

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
