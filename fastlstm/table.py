"""Tables of numbers in time: the columns of a CSV file, and when each row was.

The first line names the columns; a row for every step of time follows.
"""

import csv
import math
import re
from array import array
from typing import NamedTuple

import numpy as np

_MISSING = ("", "na", "n/a", "nan", "null", "none")
_DATE = re.compile(r"\d{4}-\d\d(-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?)?)?")
_COMPACT = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])(\d\d)?")  # no numbers: 20240131 + 1 is no date
_UNITS = {7: "M", 10: "D", 16: "m", 19: "s"}  # of dates of so many characters
_RECENT = 12  # times that tell how far the next ones are apart


class Table(NamedTuple):
    """What was read: the columns that were asked for, and the time of each row if there is one.

    Parameters
    ----------
    values : float64 ndarray of shape (T, columns)
    time : str or None
        The name of the column that `labels` are from.
    labels : list of T str, or None
    times : ndarray of T dates or numbers, or None
        The labels, where they can be read so.
    """

    values: np.ndarray
    time: str | None
    labels: list | None
    times: np.ndarray | None

    def __str__(self):
        span = f" from {self.labels[0]} to {self.labels[-1]}" if self.labels else ""
        return f"{len(self.values)} rows{span}"

    def times_from(self, first, count):
        """The times of so many steps, also of those behind the last row; None if there are none."""
        if self.times is None:
            return None
        behind = first + count - len(self.times)
        times = self.times
        if behind > 0:
            more = _continued(times[-_RECENT:], behind)
            if more is None:
                return None
            times = np.concatenate([times, more])
        return times[first : first + count]

    def labels_from(self, first, count):
        """The same as text, as in the file."""
        if self.labels is None or first + count <= len(self.labels):
            return self.labels and self.labels[first : first + count]
        times = self.times_from(first, count)
        if times is None:
            return None
        if times.dtype.kind != "M":
            return [f"{time:.12g}" for time in times]
        between = " " if " " in self.labels[-1] else "T"
        return [text.replace("T", between) for text in np.datetime_as_string(times).tolist()]


def read_table(path, columns):
    """Read the columns of these names, and the time of each row."""
    values, labels, lines = array("d"), [], []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file, strict=True)
            header = [name.strip() for name in next(rows, [])]
            places = [_place(path, header, name) for name in columns]
            for row in filter(None, rows):
                if len(row) != len(header):
                    raise ValueError(
                        f"{path}, line {rows.line_num}: expected {len(header)} columns, got "
                        f"{len(row)}"
                    )
                numbers = [_number(row[place]) for place in places]
                if None in numbers:
                    place = places[numbers.index(None)]
                    where = f"{path}, line {rows.line_num}, column {header[place]!r}"
                    raise ValueError(f"{where}: {_fault(row[place])}")
                values.extend(numbers)
                labels.append(row[0].strip())
                lines.append(rows.line_num)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as CSV: {error}") from error
    if not labels:
        raise ValueError(f"{path} holds no rows behind the names of its columns")
    table = np.frombuffer(values).reshape(-1, len(columns))
    if 0 in places:
        return Table(table, None, None, None)
    return Table(table, header[0], *_as_times(path, labels, lines))


def _place(path, header, name):
    if header.count(name) == 1:
        return header.index(name)
    many = "has no" if name not in header else "has more than one"
    raise ValueError(
        f"{path} {many} column {name!r}; its columns are {', '.join(map(repr, header))}"
    )


def _number(text):
    """The finite number in a text, or None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _fault(text):
    if text.strip().lower() in _MISSING:
        return "a value is missing; fill the gap before"
    return f"expected a number, got {text!r}"


def _as_times(path, labels, lines):
    """(labels, times) of a first column, each None if it holds no such thing.

    Numbers that do not increase are some measurement.
    """
    if all(map(_COMPACT.fullmatch, labels)):
        return labels, None
    if all(map(_DATE.fullmatch, labels)) and len(set(map(len, labels))) == 1:
        try:
            times = np.array(labels, f"datetime64[{_UNITS.get(len(labels[0]), 'us')}]")
        except ValueError as error:  # as 2024-02-30
            raise ValueError(f"{path}, its first column: {error}") from None
        late = np.flatnonzero(np.diff(times) <= np.timedelta64(0))
        if len(late):
            n = late[0]
            raise ValueError(
                f"{path}, line {lines[n + 1]}: {labels[n + 1]} does not come after {labels[n]}; "
                "rows must be in the order of time"
            )
        return labels, times
    try:
        times = np.array(labels, float)
    except ValueError:
        return labels, None
    return (labels, times) if (np.diff(times) > 0).all() else (None, None)


def _continued(times, count):
    """The next `count` of times at equal distances, by calendar months too; None if they are not.

    Months may be told by their last days: then the days after them are alike.
    """
    if len(times) < 2:
        return None
    after = np.arange(1, count + 1)
    if times.dtype.kind == "M" and np.datetime_data(times.dtype)[0] not in "YM":
        for day in np.arange(2).astype("timedelta64[D]"):
            months = (times + day).astype("datetime64[M]")
            steps, rest = np.diff(months), times + day - months
            if (steps == steps[0]).all() and steps[0].astype(int) and (rest == rest[0]).all():
                return (months[-1] + after * steps[0]).astype(times.dtype) + rest[0] - day
    steps = np.diff(times)
    if times.dtype.kind == "M":
        equal = (steps == steps[0]).all()
    else:
        equal = np.allclose(steps, steps[0], rtol=1e-6, atol=0)
    return times[-1] + after * steps[-1] if equal else None
