"""Tables of numbers in time: the columns of a CSV file, and when each row was.

Rows must be in the order of time. A row that is not at the usual distance from the row before it
begins a new part of the table.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import listed, short
from ..times import breaks, continued, span
from .table_file import REPEATED, TableFile, find_times, is_missing

_SOME = 5  # of many places, a message names this many


@dataclasses.dataclass
class Table:
    """One series of a file: the columns that were asked for, and the times of its rows.

    Parameters
    ----------
    path : str or path-like
    title : str
        What a message calls it: the file, and which series of the file.
    columns : list of str
        The names of the columns of `values`.
    values : float64 ndarray of shape (T, columns)
        nan where the file has no number; `check` tells what it has there.
    lines : list of T int
        Where in the file each row is.
    faults : dict of (row, column) -> str
        What the file has where there is no number.
    decimal : str
        The character before the fraction of a number.
    group : str or None
        The name of the series, from the column that tells series apart.
    time : str or None
        The name of the column that `labels` are from.
    labels : list of T str, or None
        The times of the rows, as the file has them.
    times : ndarray of T dates or numbers, or None
        The same as dates or numbers.
    write : callable or None
        Writes times as the file has them.
    parts : list of (int, int)
        The first row of each part and the one behind its last; parts end where rows are missing or
        a time is repeated.
    notes : list of str
        Why there is more than one part: a sentence for each such place.
    """

    path: str | PathLike[str]
    title: str
    columns: list[str]
    values: NDArray[np.float64]
    lines: list[int]
    faults: dict[tuple[int, int], str]
    decimal: str = "."
    group: str | None = None
    time: str | None = None
    labels: list[str] | None = None
    times: NDArray[Any] | None = None
    write: Callable[[NDArray[Any]], list[str]] | None = None
    parts: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        times = f" from {self.labels[0]} to {self.labels[-1]}" if self.labels else ""
        return f"{len(self.values)} rows{times}"

    def check(
        self, first: int = 0, stop: int | None = None, columns: Sequence[int] | None = None
    ) -> None:
        """Raise a ValueError for the first value that is missing in these rows and columns."""
        columns = range(len(self.columns)) if columns is None else columns
        part = self.values[first:stop][:, list(columns)]
        for row, column in np.argwhere(np.isnan(part))[:1].tolist():
            place = first + row, columns[column]
            raise ValueError(
                f"{self.path}, line {self.lines[place[0]]}, column {self.columns[place[1]]!r}: "
                f"{_fault(self.faults[place], self.decimal)}"
            )

    def times_from(self, first: int, count: int) -> NDArray[Any] | None:
        """Return the times of `count` steps from row `first` on, or None where they are unknown.

        Steps behind the last row have times if the last rows are at equal distances.
        """
        times = self.times
        if times is None:
            return None
        behind = first + count - len(times)
        if behind > 0:
            more = continued(times[self.parts[-1][0] :], behind)
            if more is None:
                return None
            times = np.concatenate([times, more])
        return times[first : first + count]

    def labels_from(self, first: int, count: int) -> list[str] | None:
        """Return the same times in the form that the file has."""
        if self.labels is not None and first + count <= len(self.labels):
            return self.labels[first : first + count]
        times = self.times_from(first, count)
        return None if times is None or self.write is None else self.write(times)


def read_tables(
    path: str | PathLike[str],
    columns: list[str],
    *,
    group: str | None = None,
    sep: str = ",",
    decimal: str = ".",
    date_format: str | None = None,
    gaps: str = "cut",
) -> list[Table]:
    """Read the columns of these names: a `Table` for each series in the file.

    Parameters
    ----------
    path : str or path-like
    columns : list of str
    group : str, optional
        The column that tells series apart; without one, all rows belong to one series.
    sep : str
        The character between columns.
    decimal : str
        The character before the fraction of a number.
    date_format : str, optional
        How times are written, as `datetime.strptime` understands it. It is needed only where the
        order of days and months cannot be told.
    gaps : {"cut", "error"}
        What to do where the distance of a row from the row before it is unusual.

    Returns
    -------
    list of Table
        In the order in which the file begins them.

    Raises
    ------
    ValueError
        If the file is no such table, its times do not increase or cannot be told; with
        ``gaps="error"`` if there is a gap.
    OSError
        If the file cannot be opened.
    """
    file = TableFile(path, columns, group, sep, decimal)
    if not file.lines:
        raise ValueError(f"{path} holds no rows behind the names of its columns")
    groups = file.groups()
    found = find_times(file, list(groups.values()), date_format)
    tables = []
    for name, mine in groups.items():
        faults = {
            (n, column): text
            for n, row in enumerate(mine.tolist())
            for column, text in file.faults.get(row, {}).items()
        }
        table = Table(
            path, f"{path}" if name is None else f"{path}, {group} {name!r}", columns,
            file.values[mine], [file.lines[row] for row in mine], faults, decimal, name,
            parts=[(0, len(mine))],
        )  # fmt: skip
        if found is not None:
            place, times = found
            table.time, table.write = file.name(place), times.write
            labels = [file.texts[place][row] for row in mine]
            table.labels, table.times = labels, times.values[mine]
            _cut(table, table.times, labels, gaps)
        tables.append(table)
    return tables


def _cut(table: Table, times: NDArray[Any], labels: list[str], gaps: str) -> None:
    """Refuse times that do not increase; cut the rows into parts at unusual distances."""
    steps = np.diff(times)
    zero = steps.dtype.type(0)
    if (steps < zero).any() or np.count_nonzero(steps == zero) > REPEATED * len(steps):
        raise ValueError(_disorder(table, times, labels))
    places, usual = breaks(times)
    for row in places.tolist():
        now, before, step = labels[row], labels[row - 1], steps[row - 1]
        what = f"{now} comes {span(step)} after {before}" if step else f"{now} is repeated"
        gap = "a gap, " if usual is not None and step > usual else ""
        table.notes.append(f"line {table.lines[row]}: {gap}{what}")
    if len(places) and usual is not None:
        table.notes[-1] += f"; usual is {span(usual)}"
    irregular = usual is None and len(steps) > 1
    if irregular:
        table.notes.append(
            f"rows are at irregular distances, from {span(steps.min())} to {span(steps.max())}, "
            "and each is taken as one step"
        )
    if gaps == "error" and table.notes:
        raise ValueError(
            f"{table.path}, {listed(table.notes, _SOME)}. With --gaps cut, the rows between gaps "
            "are series of their own"
        )
    bounds = [0, *places.tolist(), len(table.values)]
    table.parts = list(zip(bounds[:-1], bounds[1:], strict=True))


def _disorder(table: Table, times: NDArray[Any], labels: list[str]) -> str:
    """Return a message about rows that are not in the order of time, or repeat too many times."""
    steps = np.diff(times)
    zero = steps.dtype.type(0)
    back, late = steps < zero, steps <= zero
    rows = np.flatnonzero(back if back.any() else late) + 1
    first = int(rows[0])
    sentence = (
        f"{table.path}, line {table.lines[first]}: {labels[first]} does not come after "
        f"{labels[first - 1]}; rows must be in the order of time"
    )
    if back.all():
        return f"{sentence}, the oldest first: reverse their order"
    if len(rows) > 1:
        more = listed([str(table.lines[row]) for row in rows[1:]], _SOME)
        sentence += f". The same is so at lines {more}"
    if times.dtype.kind != "M":
        sentence += ". Numbers that are not times must not be in the first column"
    if table.group is None:
        sentence += ". Rows of several series need --group, the column that tells them apart"
    return sentence


def _fault(text: str, decimal: str) -> str:
    """Return what is wrong with a text that stands where a number should."""
    if is_missing(text):
        return "a value is missing: fill it in first"
    other = "," if decimal == "." else "."
    hint = ""
    if re.fullmatch(rf"[+-]?\d+{re.escape(other)}\d+", text.strip(), re.ASCII):
        hint = f"; is it --decimal {other}?"
    return f"expected a number, got {short(text)}{hint}"
