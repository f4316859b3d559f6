"""The file of a table: numbers in the columns that are asked for, and where its times stand.

The first line names the columns; each following row is a step. Which column holds the times is
found by its place, its name and what it holds.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from array import array
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import quoted, short
from ..dates import (
    NUMBER,
    Times,
    looks_like_a_date,
    read_formatted,
    read_times,
    same_form,
)
from ..times import are_runs
from .csv_file import number, read_rows

_MISSING = ("", "?", "na", "n/a", "nan", "null", "none")
_CLOCK = re.compile(r"\d{1,2}:\d\d(:\d\d(\.\d+)?)?( ?[ap]\.?m\.?)?", re.IGNORECASE | re.ASCII)
_HOUR = re.compile(r"[01]?\d|2[0-3]", re.ASCII)
_SEPARATORS = {",": "','", ";": "';'", "\t": "tab", "|": "'|'"}
_PARTS_OF_DATES = "year", "month", "day", "hour", "minute"
_HEAD = 20  # the first rows, by which columns of dates are found
_MOSTLY = 0.9  # the share of growing steps from which on numbers are times, though some are wrong
REPEATED = 0.1  # a column that repeats a larger share of its times holds those of several series


class TableFile:
    """The rows of a CSV file: numbers in the columns asked for, text where times may be.

    Parameters
    ----------
    path : str or path-like
    columns : list of str
        The names of the columns whose numbers are read.
    group : str or None
        The name of the column that tells series apart.
    sep, decimal : str
        The characters between columns and before the fraction of a number.

    Attributes
    ----------
    header : list of str
        The names of all columns. Columns are known by their places in it.
    values : float64 ndarray of shape (rows, columns)
        The numbers; nan where there is none.
    faults : dict of row -> dict of int -> str
        What stands in place of a number, by the column's place in `columns`.
    lines : list of int
        The line of each row in the file.
    texts : dict of place -> list of str
        The columns whose text is kept: those that may hold times, and the group's.
    group, first, dated : int or None
        The places of the column that tells series apart, of the first column that is free for
        times, and of the first column behind it that has a date.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        columns: list[str],
        group: str | None,
        sep: str,
        decimal: str,
    ) -> None:
        self.path = path
        self.lines: list[int] = []
        self.faults: dict[int, dict[int, str]] = {}
        self.texts: dict[int, list[str]] = {}
        self._parts: dict[int, list[int]] = {}  # the columns that make a time together, by one
        values = array("d")
        rows = read_rows(path, sep, skip_spaces=not sep.isspace())
        _, names = next(rows, (0, []))
        if not names:
            raise ValueError(f"{path} is empty; expected the names of its columns")
        self.header = [name.strip() for name in names]
        places = [self._place(name, columns, sep) for name in columns]
        self.group = None if group is None else self._place(group, columns, sep)
        if self.group in places:
            raise ValueError(f"--group {group}: this column is a target or an input")
        head = list(itertools.islice(rows, _HEAD))
        self._choose_texts([row for _, row in head], places)
        for line, row in itertools.chain(head, rows):
            for n, place in enumerate(places):
                value = number(row[place], decimal)
                if value is None:
                    self.faults.setdefault(len(self.lines), {})[n] = row[place]
                values.append(math.nan if value is None else value)
            for place, labels in self.texts.items():
                labels.append(self._label(place, row))
            self.lines.append(line)
        self.values: NDArray[np.float64] = np.frombuffer(values).reshape(-1, len(columns))

    def _place(self, name: str, columns: list[str], sep: str) -> int:
        """Return the place of a column; ValueError if the file has none or several of the name."""
        if self.header.count(name) == 1:
            return self.header.index(name)
        many = "has no" if name not in self.header else "has more than one"
        sentence = f"{self.path} {many} column {short(name)}; its columns are "
        sentence += quoted(self.header)
        for other, shown in _SEPARATORS.items():  # would another one give the columns?
            names = [name.strip(' "') for name in sep.join(self.header).split(other)]
            if other != sep and (set(columns) <= set(names) or len(self.header) == 1 < len(names)):
                raise ValueError(f"{sentence}. They seem to be separated otherwise: --sep {shown}")
        raise ValueError(sentence)

    def _choose_texts(self, head: list[list[str]], places: list[int]) -> None:
        """Choose the columns whose text is kept, by the first rows.

        These are the group's column, the first other one, and the first one that has a date. A
        column of clock times behind a date belongs to the date, and columns with the names year,
        month, day, hour and minute make a date together. A column of hours may belong to a date.
        """
        self._inputs = set(places)
        free = [n for n in range(len(self.header)) if n not in places and n != self.group]
        first = 1 if self.group == 0 else 0
        self.first = first if first in free else None
        head = [[text.strip() for text in row] for row in head]
        sample = {n: next((r for r in head if looks_like_a_date(r[n])), None) for n in free}
        dates = {n: row for n, row in sample.items() if row is not None}
        for n, row in dates.items():
            date, clock = row[n], row[n + 1] if n + 1 in free else ""
            if _CLOCK.fullmatch(clock) and looks_like_a_date(f"{date} {clock}"):
                self._parts[n] = [n, n + 1]
        self.dated = next((n for n in dates if n != self.first), None)
        called = {name.lower(): n for n, name in reversed([*enumerate(self.header)])}
        if not dates and {"year", "month"} <= called.keys():
            names = itertools.takewhile(called.__contains__, _PARTS_OF_DATES)
            self.dated = called["month"]  # the year may be the first column
            self._parts[self.dated] = [called[name] for name in names]
        self._hour = called.get("hour") if dates else None
        kept = self.group, self.first, self.dated, self._hour
        self.texts = {n: [] for n in kept if n is not None}

    def _label(self, place: int, row: list[str]) -> str:
        """Return the text of a column and of those that belong to it, as one time."""
        parts = [row[n].strip() for n in self._parts.get(place, [place])]
        if self.header[place].lower() != "month" or len(parts) == 1:
            return " ".join(parts)
        parts = [part.zfill(2) for part in parts]
        clock = ":".join([*parts[3:], "00"][:2])
        return "-".join(parts[:3]) + (f" {clock}" if parts[3:] else "")

    def name(self, place: int) -> str:
        """Return the name of a column and of those that belong to it."""
        return " ".join(self.header[n] for n in self._parts.get(place, [place]))

    def groups(self) -> dict[str | None, NDArray[np.intp]]:
        """Return the rows of each series by its name, in the order of the file."""
        if self.group is None:
            return {None: np.arange(len(self.lines))}
        rows: dict[str | None, list[int]] = {}
        for row, name in enumerate(self.texts[self.group]):
            rows.setdefault(name, []).append(row)
        return {name: np.array(mine) for name, mine in rows.items()}

    def where(self, place: int) -> str:
        """Return the file and the column at a place, for a message."""
        name = "first column" if place == 0 else f"column {self.header[place]!r}"
        return f"{self.path}, its {name}"

    def times(self, place: int) -> Times | None:
        """Return the times in a column, or None if it holds none."""
        self._add_hours(place)
        labels = self.texts[place]
        inputs = not self._inputs.isdisjoint(self._parts.get(place, []))
        if inputs and self.header[place].lower() == "month" and _repeated(labels) > REPEATED:
            return None  # year and month are inputs then, and do not tell the day
        try:
            times = read_times(labels)
            if times is None:
                self._refuse_exceptions(labels)
        except ValueError as error:
            raise ValueError(f"{self.where(place)}: {error}") from None
        return times

    def _add_hours(self, place: int) -> None:
        """Add the column of hours to dates that many rows repeat."""
        dates = self.texts[place]
        if self._hour is None or self._hour == place or _repeated(dates) <= REPEATED:
            return
        hours = self.texts[self._hour]
        if all(map(_HOUR.fullmatch, hours)) and looks_like_a_date(f"{dates[0]} 00:00"):
            pairs = zip(dates, hours, strict=True)
            self.texts[place] = [f"{date} {hour.zfill(2)}:00" for date, hour in pairs]
            self._parts[place] = [place, self._hour]

    def _refuse_exceptions(self, labels: list[str]) -> None:
        """Refuse a column of times if some are missing, or are written in another form."""
        known = [label for label in labels if not is_missing(label)]
        dates = list(filter(looks_like_a_date, known))
        numbers = read_times(known) if known and all(map(NUMBER.fullmatch, known)) else None
        if len(dates) * 2 > len(known):
            wrong = [not same_form(dates[0], label) for label in labels]
        elif numbers and len(known) > 1 and (np.diff(numbers.values) > 0).all():
            wrong = list(map(is_missing, labels))
        else:
            return
        for line, label in itertools.compress(zip(self.lines, labels, strict=True), wrong):
            raise ValueError(
                f"line {line} has {short(label)}, which is not a time in the form of the others"
            )

    def formatted(self, date_format: str) -> tuple[int, Times]:
        """Return the place of the first column with dates of this format, and its times."""
        fault = f"{self.path} has no column but targets and inputs that could hold times"
        for place in (self.first, self.dated):
            if place is not None:
                try:
                    return place, read_formatted(self.texts[place], date_format)
                except ValueError as error:
                    fault = f"{self.where(place)}: {error}"
        raise ValueError(fault)


def find_times(
    file: TableFile, groups: list[NDArray[np.intp]], date_format: str | None
) -> tuple[int, Times] | None:
    """Return the place of the column that tells the times, and its times; None if no column does.

    `groups` are the rows of each series.
    """
    if date_format is not None:
        return file.formatted(date_format)
    place = file.first
    times = None if place is None else file.times(place)
    if place is not None and times is None:
        labels = file.texts[place]
        words = not all(NUMBER.fullmatch(label) or is_missing(label) for label in labels)
        if words and max(len({labels[row] for row in rows}) for rows in groups) > 1:
            raise ValueError(f"{file.where(place)}: {_what_words_are(file, place)}")
    if place is None or times is None:
        return _dates_behind(file, groups, sure=True)
    if times.are_dates:
        return place, times
    steps = _steps(times, groups)
    grow = bool((steps > 0).all())
    counter = grow and bool((steps == 1).all())  # a number for each row, as pandas writes its index
    dates = _dates_behind(file, groups, sure=counter or not grow)
    if dates is not None:
        return dates
    return (place, times) if grow or _are_times(file, place, steps, times.values) else None


def _dates_behind(
    file: TableFile, groups: list[NDArray[np.intp]], *, sure: bool
) -> tuple[int, Times] | None:
    """Return the place of the column of dates behind the first one, and its times.

    Where the first column holds numbers that grow, the dates are not `sure` to be the times. The
    numbers may be keys of a database, or times beside dates of another kind. The dates count then
    only if they can be read and grow too.
    """
    if file.dated is None:
        return None
    with contextlib.nullcontext() if sure else contextlib.suppress(ValueError):
        dates = file.times(file.dated)
        if dates is not None and (sure or (_steps(dates, groups) > 0).all()):
            return file.dated, dates
    return None


def _steps(times: Times, groups: list[NDArray[np.intp]]) -> NDArray[Any]:
    """Return the distances between times, series by series."""
    steps: NDArray[Any] = np.concatenate([np.diff(times.values[rows]) for rows in groups])
    return steps.astype(float) if times.are_dates else steps


def _are_times(file: TableFile, place: int, steps: NDArray[Any], values: NDArray[Any]) -> bool:
    """Tell whether numbers, some of which do not grow, are times rather than measurements."""
    up, down = np.mean(steps > 0), np.mean(steps < 0)
    if up >= _MOSTLY or down >= _MOSTLY or (down and not up):
        return True
    if values.dtype.kind == "i" and file.group is None and are_runs(values):
        name = file.header[place]
        raise ValueError(
            f"{file.where(place)}: {name!r} holds runs of equal numbers. If each is a series of "
            f"its own, give --group {name}; otherwise put the column behind another one"
        )
    return False


def _what_words_are(file: TableFile, place: int) -> str:
    """Return a message about a column of words where times are expected."""
    name, labels = file.header[place], file.texts[place]
    some = quoted(dict.fromkeys(labels), most=3)
    return (
        f"{short(name)} holds words ({some}), and no times in a known form. If each is a series of "
        f"its own, give --group {name}; if they are times, say how they are written with "
        "--date-format; otherwise put the column behind another one"
    )


def _repeated(labels: list[str]) -> float:
    """Return the share of labels that are the same as the one before."""
    same = [a == b for a, b in itertools.pairwise(labels)]
    return sum(same) / max(1, len(same))


def is_missing(text: str) -> bool:
    """Tell whether a text stands for a missing value."""
    return text.strip().lower() in _MISSING
