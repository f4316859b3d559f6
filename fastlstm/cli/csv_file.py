"""Rows and numbers of CSV files."""

from __future__ import annotations

import csv
import math
from array import array
from collections.abc import Iterable, Iterator
from os import PathLike
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ..checks import short


def read_rows(
    path: str | PathLike[str], sep: str = ",", *, skip_spaces: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """Read a CSV file row by row, without the empty rows.

    Parameters
    ----------
    path : str or path-like
    sep : str
        The character between columns.
    skip_spaces : bool
        Whether spaces behind a separator belong to no cell.

    Yields
    ------
    line : int
        The line of the file at which the row ends.
    row : list of str
        The cells.

    Raises
    ------
    ValueError
        If the file cannot be read as CSV, or a row is not as long as the first one.
    OSError
        If the file cannot be opened.
    """
    columns = 0
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file, strict=True, delimiter=sep, skipinitialspace=skip_spaces)
            for row in filter(None, rows):
                columns = columns or len(row)
                if len(row) != columns:
                    raise ValueError(
                        f"{path}, line {rows.line_num}: expected {columns} columns, got {len(row)}"
                    )
                yield rows.line_num, row
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as CSV: {error}") from error


def read_numbers(path: str | PathLike[str]) -> NDArray[np.float64]:
    """Read a CSV file of numbers as an array (rows, columns).

    The first line is left out if it names the columns: if it holds words and no number.

    Raises
    ------
    ValueError
        If the file cannot be read as CSV, holds anything but finite numbers, or holds none.
    OSError
        If the file cannot be opened.
    """
    values, columns = array("d"), 0
    for line, row in read_rows(path):
        columns = len(row)
        if line == 1 and _are_names(row):
            continue
        try:
            values.extend(map(_finite, row))
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {error}") from None
    if not values:
        raise ValueError(f"{path} holds no rows of numbers")
    return np.frombuffer(values).reshape(-1, columns)


def number(text: str, decimal: str = ".") -> float | None:
    """Return the finite number in a cell, or None if there is none.

    It must be written in ASCII without underscores: `float` alone accepts more than other programs.
    """
    if decimal != ".":
        text = text.replace(".", " ").replace(decimal, ".")
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and text.isascii() and "_" not in text else None


def write_rows(file: IO[bytes], pieces: Iterable[NDArray[np.floating]]) -> None:
    """Write pieces of an array, cut along its first axis, as rows of their last axis.

    The digits are as many as give the same floating-point numbers when they are read again.
    """
    for piece in pieces:
        digits = "%.9g" if piece.dtype == np.float32 else "%.17g"
        np.savetxt(file, piece.reshape(-1, piece.shape[-1]), fmt=digits, delimiter=",")


def _are_names(row: list[str]) -> bool:
    """Tell whether a first row names the columns: whether it holds words, and no number at all.

    Infinity and nan count as numbers here, so that they are refused and not passed over.
    """

    def is_number(text: str) -> bool:
        try:
            float(text)
        except ValueError:
            return False
        return True

    return any(map(str.strip, row)) and not any(map(is_number, row))


def _finite(text: str) -> float:
    """Return the number in a cell; raise ValueError if there is none."""
    value = number(text)
    if value is None:
        raise ValueError(f"expected a finite number in digits, got {short(text)}")
    return value
