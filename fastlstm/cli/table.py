"""Tables of numbers in time: the columns of a CSV file, and when each row was.

The first line names the columns; a row for every step of time follows. Rows must be in the order
of time, and what is not at the usual distance from the row before begins a part of its own.
"""

import contextlib
import csv
import dataclasses
import itertools
import math
import re
from array import array

import numpy as np

from ..checks import listed, quoted, short
from ..times import (
    NUMBER,
    are_runs,
    breaks,
    continued,
    looks_like_a_date,
    read_times,
    same_form,
    span,
)

_MISSING = ("", "?", "na", "n/a", "nan", "null", "none")
_CLOCK = re.compile(r"\d{1,2}:\d\d(:\d\d(\.\d+)?)?( ?[ap]\.?m\.?)?", re.IGNORECASE | re.ASCII)
_HOUR = re.compile(r"[01]?\d|2[0-3]", re.ASCII)
_SEPARATORS = {",": "','", ";": "';'", "\t": "tab", "|": "'|'"}
_PARTS_OF_DATES = "year", "month", "day", "hour", "minute"
_SOME = 5  # as many places of many are named
_HEAD = 20  # first rows by which columns of dates are found
_MOSTLY = 0.9  # the share of steps by which numbers that grow are times, though some are wrong
_REPEATED = 0.1  # more times repeated than this share are of several series


@dataclasses.dataclass
class Table:
    """What was read of one series: the columns that were asked for, and the times of its rows.

    Parameters
    ----------
    path : str or path-like
    columns : list of str
        The names of the columns of `values`.
    values : float64 ndarray of shape (T, columns)
        nan where the file has no number; `check` tells what it has there.
    lines : list of T int
        Where in the file each row is.
    faults : dict of (row, column) -> str
        What the file has where there is no number.
    group : str or None
        What the file has in the column that tells series apart.
    time : str or None
        The name of the column that `labels` are from.
    labels : list of T str, or None
    times : ndarray of T dates or numbers, or None
        The labels, read.
    write : callable or None
        Makes labels of times.
    parts : list of (int, int)
        The rows, from and to, between gaps and repeated times.
    notes : list of str
        What these are, each in a sentence.
    """

    path: object
    columns: list
    values: np.ndarray
    lines: list
    faults: dict
    decimal: str = "."
    group: str | None = None
    time: str | None = None
    labels: list | None = None
    times: np.ndarray | None = None
    write: object = None
    parts: list = dataclasses.field(default_factory=list)
    notes: list = dataclasses.field(default_factory=list)

    def __str__(self):
        span = f" from {self.labels[0]} to {self.labels[-1]}" if self.labels else ""
        return f"{len(self.values)} rows{span}"

    def check(self, first=0, stop=None, columns=None):
        """Raise a ValueError for the first value that is missing in these rows and columns."""
        columns = range(len(self.columns)) if columns is None else columns
        part = self.values[first:stop][:, list(columns)]
        for row, column in np.argwhere(np.isnan(part))[:1].tolist():
            place = first + row, columns[column]
            raise ValueError(
                f"{self.path}, line {self.lines[place[0]]}, column {self.columns[place[1]]!r}: "
                f"{_fault(self.faults[place], self.decimal)}"
            )

    def times_from(self, first, count):
        """The times of so many steps, also of those behind the last row; None if there are none."""
        if self.times is None:
            return None
        behind, times = first + count - len(self.times), self.times
        if behind > 0:
            more = continued(times[self.parts[-1][0] :], behind)
            if more is None:
                return None
            times = np.concatenate([times, more])
        return times[first : first + count]

    def labels_from(self, first, count):
        """The same as text, as in the file."""
        if self.labels is None or first + count <= len(self.labels):
            return self.labels and self.labels[first : first + count]
        times = self.times_from(first, count)
        return None if times is None else self.write(times)


def read_table(path, columns, **options):
    """Read the columns of these names as one series, whole; options as for `read_tables`."""
    (table,) = read_tables(path, columns, **options)
    table.check()
    return table


def read_tables(
    path, columns, *, group=None, sep=",", decimal=".", date_format=None, gaps="cut"
):  # fmt: skip
    """Read the columns of these names, a `Table` for each series in the file.

    Parameters
    ----------
    path : str or path-like
    columns : list of str
    group : str, optional
        The column that tells series apart; without one all rows are of one series.
    sep, decimal : str
        What separates columns, and whole numbers from their fractions.
    date_format : str, optional
        How times are written, as `datetime.strptime` has it, where they do not tell themselves.
    gaps : {"cut", "error"}
        What to do where a row is not as far from the one before as rows usually are.

    Raises
    ------
    ValueError
        If the file is no such table, its times do not increase, or it cannot be told what they
        are; with ``gaps="error"`` for each gap.
    """
    file = _File(path, columns, group, sep, decimal)
    if not file.lines:
        raise ValueError(f"{path} holds no rows behind the names of its columns")
    groups = file.groups()
    found = _find_times(file, list(groups.values()), date_format)
    tables = []
    for name, mine in groups.items():
        faults = {
            (n, column): text
            for n, row in enumerate(mine.tolist())
            for column, text in file.faults.get(row, {}).items()
        }
        lines = [file.lines[row] for row in mine]
        table = Table(
            path, columns, file.values[mine], lines, faults, decimal, name, parts=[(0, len(mine))]
        )
        if found is not None:
            place, times = found
            table.time, table.write = file.name(place), times.write
            table.labels = [file.texts[place][row] for row in mine]
            table.times = times.values[mine]
            _cut(table, gaps)
        tables.append(table)
    return tables


def number(text, decimal="."):
    """The finite number in a text, or None: digits alone, not all that `float` takes."""
    if decimal != ".":
        text = text.replace(".", " ").replace(decimal, ".")
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and text.isascii() and "_" not in text else None


class _File:
    """The rows of a CSV file: numbers in the columns asked for, text where times may be."""

    def __init__(self, path, columns, group, sep, decimal):
        self.path, self.lines, self.faults = path, [], {}
        self.texts, self.parts = {}, {}
        values = array("d")
        try:
            with open(path, newline="", encoding="utf-8-sig") as file:
                rows = csv.reader(
                    file, strict=True, delimiter=sep, skipinitialspace=not sep.isspace()
                )
                numbered = ((row, rows.line_num) for row in rows if row)
                self.header = [name.strip() for name in next(numbered, ([], 0))[0]]
                if not self.header:
                    raise ValueError(f"{path} is empty; expected the names of its columns")
                places = [self._place(name, columns, sep) for name in columns]
                self.group = None if group is None else self._place(group, columns, sep)
                if self.group in places:
                    raise ValueError(f"--group {group}: this column is a target or an input")
                head = list(itertools.islice(numbered, _HEAD))
                self._choose_texts([row for row, _ in head], places)
                for row, line in itertools.chain(head, numbered):
                    if len(row) != len(self.header):
                        raise ValueError(
                            f"{path}, line {line}: expected {len(self.header)} columns, "
                            f"got {len(row)}"
                        )
                    numbers = [number(row[place], decimal) for place in places]
                    if None in numbers:
                        self.faults[len(self.lines)] = {
                            n: row[places[n]] for n, value in enumerate(numbers) if value is None
                        }
                        numbers = [math.nan if n is None else n for n in numbers]
                    values.extend(numbers)
                    for place, labels in self.texts.items():
                        labels.append(self._label(place, row))
                    self.lines.append(line)
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path} cannot be read as CSV: {error}") from error
        self.values = np.frombuffer(values).reshape(-1, len(columns))

    def _place(self, name, columns, sep):
        if self.header.count(name) == 1:
            return self.header.index(name)
        many = "has no" if name not in self.header else "has more than one"
        sentence = f"{self.path} {many} column {short(name)}; its columns are "
        sentence += quoted(self.header)
        for other, shown in _SEPARATORS.items():
            names = [name.strip(' "') for name in sep.join(self.header).split(other)]
            if other != sep and (set(columns) <= set(names) or len(self.header) == 1 < len(names)):
                raise ValueError(f"{sentence}. They seem to be separated otherwise: --sep {shown}")
        raise ValueError(sentence)

    def _choose_texts(self, head, places):
        """Keep the text of the group, of the first other column and of the first that has a date.

        A column of clock times behind a date belongs to it, and columns that are called year,
        month, day, hour and minute make a date together. Hours may belong to a date of one column.
        """
        self.inputs = set(places)
        free = [n for n in range(len(self.header)) if n not in places and n != self.group]
        first = 1 if self.group == 0 else 0
        self.first = first if first in free else None
        head = [[text.strip() for text in row] for row in head if len(row) == len(self.header)]
        sample = {n: next((r for r in head if looks_like_a_date(r[n])), None) for n in free}
        dates = [n for n in free if sample[n]]
        for n in dates:
            date, clock = sample[n][n], sample[n][n + 1] if n + 1 in free else ""
            if _CLOCK.fullmatch(clock) and looks_like_a_date(f"{date} {clock}"):
                self.parts[n] = [n, n + 1]
        self.dated = next((n for n in dates if n != self.first), None)
        called = {name.lower(): n for n, name in reversed([*enumerate(self.header)])}
        if not dates and {"year", "month"} <= called.keys():
            names = itertools.takewhile(called.__contains__, _PARTS_OF_DATES)
            self.dated = called["month"]  # the year may be the first column
            self.parts[self.dated] = [called[name] for name in names]
        self.hour = called.get("hour") if dates else None
        kept = self.group, self.first, self.dated, self.hour
        self.texts = {n: [] for n in kept if n is not None}

    def _label(self, place, row):
        """The text of a column, and of those that belong to it."""
        parts = [row[n].strip() for n in self.parts.get(place, [place])]
        if self.header[place].lower() != "month" or len(parts) == 1:
            return " ".join(parts)
        parts = [part.zfill(2) for part in parts]
        clock = ":".join([*parts[3:], "00"][:2])
        return "-".join(parts[:3]) + (f" {clock}" if parts[3:] else "")

    def name(self, place):
        return " ".join(self.header[n] for n in self.parts.get(place, [place]))

    def groups(self):
        """The rows of each series, by what the group's column has; in the order of the file."""
        if self.group is None:
            return {None: np.arange(len(self.lines))}
        rows = {}
        for row, name in enumerate(self.texts[self.group]):
            rows.setdefault(name, []).append(row)
        return {name: np.array(mine) for name, mine in rows.items()}

    def where(self, place):
        name = "first column" if place == 0 else f"column {self.header[place]!r}"
        return f"{self.path}, its {name}"

    def times(self, place):
        """The times in a column, or None."""
        self._add_hours(place)
        labels = self.texts[place]
        inputs = not self.inputs.isdisjoint(self.parts.get(place, []))
        if inputs and self.header[place].lower() == "month" and _repeated(labels) > _REPEATED:
            return None  # inputs like year and month do not tell the day
        try:
            times = read_times(labels)
            if times is None:
                self._refuse_exceptions(labels)
        except ValueError as error:
            raise ValueError(f"{self.where(place)}: {error}") from None
        return times

    def _add_hours(self, place):
        """Add the column of hours to dates that are the same for hours on end."""
        dates = self.texts[place]
        if self.hour in (None, place) or _repeated(dates) <= _REPEATED:
            return
        hours = self.texts[self.hour]
        if all(map(_HOUR.fullmatch, hours)) and looks_like_a_date(f"{dates[0]} 00:00"):
            pairs = zip(dates, hours, strict=True)
            self.texts[place] = [f"{date} {hour.zfill(2)}:00" for date, hour in pairs]
            self.parts[place] = [place, self.hour]

    def _refuse_exceptions(self, labels):
        """Refuse a column of times of which some are missing, or are written otherwise."""
        known = [label for label in labels if not _is_missing(label)]
        dates = list(filter(looks_like_a_date, known))
        numbers = read_times(known) if known and all(map(NUMBER.fullmatch, known)) else None
        if len(dates) * 2 > len(known):
            wrong = [not same_form(dates[0], label) for label in labels]
        elif numbers and len(known) > 1 and (np.diff(numbers.values) > 0).all():
            wrong = list(map(_is_missing, labels))
        else:
            return
        for line, label in itertools.compress(zip(self.lines, labels, strict=True), wrong):
            raise ValueError(f"line {line} has {short(label)}, which is no time as others are")

    def formatted(self, date_format):
        """(place of the first column that may hold such dates, its `Times`)."""
        fault = f"{self.path} has no column but targets and inputs that could hold times"
        for place in (self.first, self.dated):
            if place is not None:
                try:
                    return place, read_times(self.texts[place], date_format)
                except ValueError as error:
                    fault = f"{self.where(place)}: {error}"
        raise ValueError(fault)


def _find_times(file, groups, date_format):
    """(place of the column that tells the times, its `Times`), or None if no column does."""
    if date_format is not None:
        return file.formatted(date_format)
    times = None if file.first is None else file.times(file.first)
    if times is None and file.first is not None:
        labels = file.texts[file.first]
        words = not all(NUMBER.fullmatch(label) or _is_missing(label) for label in labels)
        if words and max(len({labels[row] for row in rows}) for rows in groups) > 1:
            raise ValueError(f"{file.where(file.first)}: {_what_words_are(file, labels)}")
    if times is not None and times.are_dates:
        return file.first, times
    steps = None if times is None else _steps(times, groups)
    grow = times is not None and (steps > 0).all()
    counter = grow and (steps == 1).all()  # of rows, as pandas writes its index
    if file.dated is not None:
        with contextlib.suppress(ValueError) if grow and not counter else contextlib.nullcontext():
            dates = file.times(file.dated)
            # numbers that grow may be keys of a database; or times, beside dates of another kind
            if dates is not None and (counter or not grow or (_steps(dates, groups) > 0).all()):
                return file.dated, dates
    if grow or times is not None and _are_times(file, steps, times.values):
        return file.first, times
    return None


def _steps(times, groups):
    """The distances between times, series by series."""
    steps = np.concatenate([np.diff(times.values[rows]) for rows in groups])
    return steps.astype(float) if times.are_dates else steps


def _are_times(file, steps, values):
    """Whether numbers, of which some do not grow, tell time rather than a measurement."""
    up, down = np.mean(steps > 0), np.mean(steps < 0)
    if up >= _MOSTLY or down >= _MOSTLY or (down and not up):
        return True
    if values.dtype.kind == "i" and file.group is None and are_runs(values):
        name = file.header[file.first]
        raise ValueError(
            f"{file.where(file.first)}: {name!r} holds runs of equal numbers. Where each is a "
            f"series of its own give --group {name}, otherwise put it behind another column"
        )
    return False


def _what_words_are(file, labels):
    name = file.header[file.first]
    some = quoted(dict.fromkeys(labels), most=3)
    return (
        f"{short(name)} holds no times that are known here, but words ({some}). Where each is a "
        f"series of its own give --group {name}; where they are times say how with --date-format; "
        "otherwise put it behind another column"
    )


def _cut(table, gaps):
    """Refuse times that do not increase; cut the rows into parts where one is not as usual."""
    steps = np.diff(table.times)
    zero = steps.dtype.type(0)
    if (steps < zero).any() or np.count_nonzero(steps == zero) > _REPEATED * len(steps):
        raise ValueError(_disorder(table, steps < zero, steps <= zero))
    places, usual = breaks(table.times)
    for row in places.tolist():
        now, before, step = table.labels[row], table.labels[row - 1], steps[row - 1]
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
            f"{table.path}, {listed(table.notes, _SOME)}. With --gaps cut the rows between are "
            "series of their own"
        )
    bounds = [0, *places.tolist(), len(table.values)]
    table.parts = list(zip(bounds[:-1], bounds[1:], strict=True))


def _disorder(table, back, late):
    """What to say of rows that are not in the order of time, or repeat too many of them."""
    rows = np.flatnonzero(back if back.any() else late) + 1
    first = int(rows[0])
    sentence = (
        f"{table.path}, line {table.lines[first]}: {table.labels[first]} does not come after "
        f"{table.labels[first - 1]}; rows must be in the order of time"
    )
    if back.all():
        return f"{sentence}, the oldest first: turn them round"
    if len(rows) > 1:
        sentence += (
            f". So it is at lines {listed([str(table.lines[row]) for row in rows[1:]], _SOME)}"
        )
    if table.times.dtype.kind != "M":
        sentence += ". Numbers that tell no time must not be in the first column"
    if table.group is None:
        sentence += ". Rows of several series need --group, the column that tells which"
    return sentence


def _repeated(labels):
    """The share of labels that are the same as the one before."""
    return np.mean([a == b for a, b in itertools.pairwise(labels)] or [False])


def _is_missing(text):
    return text.strip().lower() in _MISSING


def _fault(text, decimal):
    if _is_missing(text):
        return "a value is missing; fill the gap before"
    other = "," if decimal == "." else "."
    hint = ""
    if re.fullmatch(rf"[+-]?\d+{re.escape(other)}\d+", text.strip(), re.ASCII):
        hint = f"; is it --decimal {other}?"
    return f"expected a number, got {short(text)}{hint}"
