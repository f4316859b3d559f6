"""What is printed: names out of files, which may be of anyone's making, command no terminal."""

import contextlib
import sys
import unicodedata


def printable(text):
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


def show(*lines, to="stdout"):
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
def writing():
    """Make a sentence of what the system says when an output takes no more."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(f"standard output cannot be written: {error.strerror}") from error
