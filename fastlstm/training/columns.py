"""How a time series is read: as an array (T, F), with names of columns and times of rows.

A series is an array (T, F), or (T,) for one feature, or a pandas DataFrame or Series; memory-mapped
arrays are read where they are needed. A list is always a list of series (stations, machines,
patients) with the same columns.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arrays import as_array, column_names, is_column
from ..checks import check_size, listed
from ..dates import looks_like_a_date, read_times
from ..times import are_runs, breaks, span

SeriesOrList = ArrayLike | Sequence[ArrayLike]
Columns = Sequence[str] | Sequence[int] | str | int  # by names or positions
Names = list[Any] | None  # of columns; None where they have none

_Many = TypeVar("_Many", bound=Sequence[Any])


def check_list(series: _Many) -> _Many:
    """Refuse an empty list of series."""
    if not len(series):
        raise ValueError("Expected at least one series, got an empty list")
    return series


def as_tables(series: SeriesOrList) -> tuple[list[NDArray[Any]], Names]:
    """Return a series, or each of a list, as an array (T, F), and the names of the columns."""
    many = check_list(series) if isinstance(series, (list, tuple)) else [series]
    tables, names = zip(*map(as_table, many), strict=True)
    for number, table in enumerate(tables):
        if table.shape[1] != tables[0].shape[1] or names[number] != names[0]:
            raise ValueError(
                "Expected all series to have the same columns, got "
                f"{names[0] or tables[0].shape[1]} in series 0 and "
                f"{names[number] or table.shape[1]} in series {number}"
            )
    return list(tables), names[0]


def as_table(series: Any) -> tuple[NDArray[Any], Names]:
    """Return one series as an array (T, F), not copied if possible, and its columns' names."""
    if is_column(series):
        series = series.to_frame()
    names = column_names(series)
    table = as_array(series, "a series")
    if table.dtype.kind not in "biuf":
        raise ValueError(f"Expected series of numbers, got dtype {table.dtype}")
    if table.ndim not in (1, 2) or 0 in table.shape[1:]:
        hint = " (a list is a list of series)" if table.ndim == 0 else ""
        raise ValueError(f"Expected series of shape (T, F) or (T,), got {table.shape}{hint}")
    return (table[:, None] if table.ndim == 1 else table), names


def check_names(expected: Names, got: Names, owner: str) -> None:
    """Refuse columns whose names, where both are known, differ or are in another order."""
    if expected is None or got is None or expected == got:
        return
    numbers = list(range(len(expected)))  # pandas gives these names to columns without names
    if numbers in (expected, got) and not set(expected) & set(got):
        return
    sentence = f"Expected the columns of the {owner}, {_shown(expected)}, in this order, got "
    sentence += _shown(got)
    missing = [name for name in expected if name not in got]
    more = [name for name in got if name not in expected]
    if missing or more:
        shown = [_shown(names) if names else "none" for names in (missing, more)]
        sentence += f": {shown[0]} missing, {shown[1]} unknown"
    raise ValueError(sentence)


def _shown(names: list[Any]) -> str:
    return f"[{listed(list(map(repr, names)))}]"


def positions(what: str, columns: Columns | None, names: Names, count: int) -> list[int]:
    """Return the positions of columns, given by names or positions; of all if they are None."""
    if columns is None:
        return list(range(count))
    if isinstance(columns, (str, int, np.integer)):
        return [_position(what, columns, names, count)]
    if not len(columns):
        raise ValueError(f"{what} must be at least one column, got none")
    return [_position(what, column, names, count) for column in columns]


def _position(what: str, column: str | int, names: Names, count: int) -> int:
    if isinstance(column, str):
        if names is None:
            raise ValueError(
                f"{what}: only the columns of a DataFrame have names, got {column!r}; give "
                f"positions from 0 to {count - 1}"
            )
        if names.count(column) != 1:
            raise ValueError(f"{what}: Expected one of the columns {names}, got {column!r}")
        return names.index(column)
    if not -count <= check_size(what, column, least=None) < count:
        raise ValueError(f"{what}: Expected a column from 0 to {count - 1}, got {column}")
    return int(column) % count


def times_of(series: object) -> NDArray[Any] | None:
    """Return the times of a series' rows, or None if it has none.

    They are dates or numbers in the index of pandas, or else the first column of dates.
    """
    index: Any = getattr(series, "index", None)
    if not hasattr(index, "nlevels"):
        return _column_of_dates(series)
    if index.nlevels > 1:
        if any(len(index.get_level_values(n).unique()) > 1 for n in range(index.nlevels - 1)):
            raise ValueError(_several(index))
        index = index.get_level_values(-1)
    if hasattr(index, "to_timestamp"):
        index = index.to_timestamp()
    if getattr(index, "tz", None) is not None:
        local = index.tz_localize(None)
        by_day = len((local - local.normalize()).unique()) == 1
        index = local if by_day else index.tz_convert(None)
    if index.dtype.kind in "mM":
        return np.asarray(index.to_numpy())
    if len(index) and all(isinstance(label, (str, datetime.date)) for label in index):
        labels = list(map(str, index))
        try:
            times = read_times(labels) if looks_like_a_date(labels[0]) else None
        except ValueError as error:
            fault = str(error).partition(": give ")[0]
            raise ValueError(
                f"Expected an index that tells times, got texts: {fault}. Make it one of dates, as "
                "by pandas.to_datetime(series.index, format=...)"
            ) from None
        if times is not None:
            return times.values
    dates = _column_of_dates(series)
    if dates is not None:
        return dates
    values: NDArray[Any] = index.to_numpy()
    if values.dtype.kind in "iuOSUT" and len(values) and are_runs(values):
        raise ValueError(_several(index))
    return values if values.dtype.kind in "iuf" else None


def _several(index: Any) -> str:
    return (
        f"Expected one series, got several by its index {list(index.names)}: pass a list, as "
        "[one for _, one in table.groupby(level=0)]"
    )


def _column_of_dates(series: Any) -> NDArray[Any] | None:
    """Return the values of the first column of dates that are not all the same, or None."""
    for name in column_names(series) or ():
        dates = _as_dates(series[name])
        if dates is not None and (dates != dates[:1]).any():
            return dates
    return None


def _as_dates(column: Any) -> NDArray[Any] | None:
    """Return the values of a column of dates, or of texts that are different dates; or None."""
    kind = str(getattr(column, "dtype", getattr(column, "type", ""))).lower()
    if kind.startswith(("date", "timestamp")):
        return np.asarray(column, "M8[us]")
    if not kind.startswith(("obj", "str", "large_string")):
        return None
    if not looks_like_a_date(str(next(iter(column), ""))):
        return None
    with contextlib.suppress(ValueError):  # it may be unclear which is the day and which the month
        times = read_times(list(map(str, column)))
        if times is not None and len(np.unique(times.values)) == len(times.values):
            return times.values
    return None


def check_order(series: object, gaps: bool = True) -> None:
    """Refuse a series whose times are not in order or, if `gaps` count, not equally far apart."""
    times = times_of(series)
    if times is None or len(times) < 2:
        return
    steps, dates = np.diff(times), times.dtype.kind in "mM"
    early = ~(steps >= steps.dtype.type(0))  # a missing time counts as early, too
    if early.any():
        row = int(early.argmax()) + 1
        how = "series.sort_index() or by the column of dates"
        if not dates:
            how = "series.sort_index() if its numbers tell times; pass series.reset_index(drop="
            how += "True) if rows are in the order of time all the same"
        raise ValueError(
            f"Expected rows in the order of time, got {times[row]} behind {times[row - 1]}, in row "
            f"{row}: sort them, as by {how}; or make a list of them if they are of several series"
        )
    if not gaps or not dates:
        return
    rows, usual = breaks(times)
    advice = "if each row is one step all the same, pass series.to_numpy()"
    if usual is None:
        raise ValueError(
            f"Expected rows at equal distances, got some from {span(steps.min())} to "
            f"{span(steps.max())}: {advice}"
        )
    if len(rows):
        row = int(rows[0])
        more = f", and {len(rows) - 1} more such places" if len(rows) > 1 else ""
        raise ValueError(
            f"Expected rows at equal distances, got {times[row]} in row {row}, "
            f"{span(steps[row - 1])} after the row before, where {span(usual)} is usual{more}. Cut "
            f"the series there by fastlstm.training.split_at_gaps(series); or, {advice}"
        )
