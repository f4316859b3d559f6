"""The ``fastlstm`` command: train, run and look into models from a shell.

Each command has a file of its own, which adds its arguments to the parser and holds the function
that runs it. This file puts them together and turns errors into messages and exit codes.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from .. import __version__
from ..terminal import one_line, show, writing
from ..training import NonFiniteError
from . import convert, engines, export, forecast, info, run, train
from .parser import Parser

_FAULTS = (ValueError, TypeError, OSError, ImportError, MemoryError, NonFiniteError, RecursionError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : list of str, optional
        The arguments; the process's own if not given.

    Returns
    -------
    int
        The exit code: 0; 1 if something is wrong with a file or a value, which one line on stderr
        tells; 130 if the command was interrupted; 141 if the reader of the output went away.
        Wrong usage leaves through argparse, with 2.

    Examples
    --------
    >>> fastlstm.cli.main(["info", "missing.npz"])
    1
    """
    fault: str | None
    try:
        try:
            args = _parser().parse_args(argv)
            args.action(args)
        finally:
            if sys.stdout is not None:
                with writing():
                    sys.stdout.flush()  # what argparse printed may not be written yet
    except BrokenPipeError:
        code, fault = 141, None
    except KeyboardInterrupt:
        code, fault = 130, None
    except _FAULTS as error:
        code, fault = 1, one_line(error) or type(error).__name__
    except Exception as error:
        code, fault = 1, f"unexpected {type(error).__name__}{_where(error)}: {one_line(error)}"
    else:
        return 0
    if fault:
        with contextlib.suppress(OSError):
            show(f"fastlstm: error: {fault}", to="stderr")
    _forget_output()
    return code


def _parser() -> Parser:
    parser = Parser(
        prog="fastlstm",
        description="Train and run LSTMs on a CPU, without a deep-learning framework.",
    )
    parser.add_argument("--version", action="version", version=f"fastlstm {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (
        info,
        convert,
        export,
        run,
        train,
        forecast,
        engines,
    ):  # the order in which --help lists them
        command.add_to(commands)
    return parser


def _where(error: Exception) -> str:
    """Return the place of an error that nobody expected, for a report of it."""
    *_, last = traceback.extract_tb(error.__traceback__)
    return f" at {Path(last.filename).name}:{last.lineno}, a fault of fastlstm, please report it"


def _forget_output() -> None:
    """Drop what the outputs did not take, because Python would complain about it at its exit."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
