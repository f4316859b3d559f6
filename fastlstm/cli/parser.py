"""What the commands share in describing their arguments: the parser, kinds of values, suffixes."""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from ..formats.format import MAX_BYTES
from ..formats.shards import in_folder
from ..terminal import printable, writing

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

Number = TypeVar("Number", int, float)


class Parser(argparse.ArgumentParser):
    """A parser whose messages are printable, although they cite the command line."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))

    def _print_message(self, message: str, file: Any = None) -> None:
        if message and file is not None:
            with writing():  # argparse itself would ignore a failure
                file.write(message)


def add_model(command: argparse.ArgumentParser) -> None:
    """Add the arguments that name a model: its file, and which part of it."""
    command.add_argument(
        "model",
        metavar="MODEL",
        type=_model_file,
        help="model file: .npz, .pt, .onnx, .keras, ..., or the folder of one in several files",
    )
    command.add_argument("--key", help="which state dict of a checkpoint that nests several")
    command.add_argument(
        "--prefix", help="take only the part whose parameters' names begin so, as encoder.lstm"
    )
    command.add_argument(
        "--max-bytes",
        metavar="N",
        type=bytes_,
        default=MAX_BYTES,
        help="the most bytes of one array whose size a number in a file of a graph decides "
        f"(default: {MAX_BYTES})",
    )


def _model_file(text: str) -> str:
    """Return a file's name as it is, and in place of a folder's that of the model in it."""
    return str(in_folder(text))


def add_number(
    group: argparse._ActionsContainer,
    name: str,
    kind: Callable[[str], float],
    default: float | None,
    text: str,
) -> None:
    """Add an option that takes a number, which must be given if there is no default."""
    text += "" if default is None else f" (default: {default})"
    required = default is None
    group.add_argument(name, metavar="N", type=kind, default=default, required=required, help=text)


def check_suffix(what: str, path: Path, suffixes: Collection[str]) -> str:
    """Return the suffix of a path in lower case.

    Raises
    ------
    ValueError
        If it is none of `suffixes`; `what` names the argument.
    """
    suffix = path.suffix.lower()
    if suffix not in suffixes:
        raise ValueError(f"{what} must end in {' or '.join(suffixes)}, got {path}")
    return suffix


# The kinds of values that options take


def _number_type(
    what: str, kind: Callable[[str], Number], fits: Callable[[Number], bool]
) -> Callable[[str], Number]:
    def convert(text: str) -> Number:
        with contextlib.suppress(ValueError):
            value = kind(text)
            if fits(value) and "_" not in text:  # only Python reads 1_000 as a number
                return value
        raise argparse.ArgumentTypeError(f"expected {what}, got {text[:60]!r}")

    return convert


count = _number_type("a whole number from 1 to 999999999", int, lambda n: 1 <= n < 10**9)
few = _number_type("a whole number from 1 to 1000", int, lambda n: 1 <= n <= 1000)
bytes_ = _number_type("a number of bytes from 1", int, lambda n: 1 <= n < 1 << 63)
whole = _number_type("a whole number from 0", int, lambda n: n >= 0)
positive = _number_type("a number above 0", float, lambda x: 0 < x < math.inf)
share = _number_type("a share from 0 to less than 1", float, lambda x: 0 <= x < 1)


def separator(text: str) -> str:
    """Return the character that an option gives as the separator of columns."""
    text = {"tab": "\t", "\\t": "\t"}.get(text, text)
    if len(text) != 1 or text.isalnum() or text in '"\r\n':
        raise argparse.ArgumentTypeError(f"expected one character or tab, got {text!r}")
    return text
