"""Times of rows, as dates or numbers: whether they are in order, where gaps are, how they continue.

Times are an array of datetime64 or of numbers, in which each row has one. `dates` reads them from
text.
"""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

_RECENT = 12  # so many of the last times tell how far the next ones are apart
_HOLIDAYS = 5  # where weekends have no rows, so many working days without a row are no gap
_WEEKENDS = 3  # so many show that a week has other working days than Monday to Friday
_IRREGULAR = 1 / 3  # the share of unusual distances from which on no distance is usual


def are_runs(values: NDArray[Any]) -> bool:
    """Tell whether rows of one value stand together, as where series stand below each other.

    Runs of years do not count: they come from the quarters or months of one series.
    """
    if values.dtype.kind in "iu" and 1500 <= values.min() <= values.max() <= 2200:
        return False
    first = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
    once = len(set(values[first].tolist())) == len(first) > 1
    return once and bool(np.diff(np.append(first, len(values))).min() > 1)


def breaks(values: NDArray[Any]) -> tuple[NDArray[np.intp], Any]:
    """Find the rows that are not at the usual distance from the row before.

    On working days, weekends and short holidays are usual.

    Returns
    -------
    rows : ndarray of int
        These rows, in order.
    usual : a distance, or None
        The usual distance. None if distances are irregular; then the rows are those that repeat a
        time.
    """
    steps = np.diff(values)
    zero = steps.dtype.type(0)
    later = steps[steps > zero]
    if not len(later):
        return np.flatnonzero(steps <= zero) + 1, None
    usual = np.sort(later)[len(later) // 2]
    if (week := _working_week(values)) is not None:
        days = values.astype("M8[D]")
        rest = np.busday_count(days[:-1], days[1:], week)
        return np.flatnonzero((rest > _HOLIDAYS + 1) | (steps <= zero)) + 1, usual
    off = np.abs(steps - usual) * 2 > usual
    if np.mean(off[steps > zero]) > _IRREGULAR:
        return np.flatnonzero(steps <= zero) + 1, None
    return np.flatnonzero(off) + 1, usual


def continued(values: NDArray[Any], count: int) -> NDArray[Any] | None:
    """Return the next `count` times, or None if the last ones are not at equal distances.

    Equal distances may also be calendar months, of which the last days may stand for each, or
    working days.
    """
    if len(values) < 2:
        return None
    more = _at_equal_distances(values[-_RECENT:], np.arange(1, count + 1), _working_week(values))
    if more is None or values.dtype.kind != "M":
        return more
    return more if more[-1].astype("M8[Y]").astype(int) + 1970 <= datetime.MAXYEAR else None


def _at_equal_distances(
    values: NDArray[Any], after: NDArray[np.int64], week: list[bool] | None
) -> NDArray[Any] | None:
    """Return the times that come `after` the last one by so many distances, if these are equal."""
    more: NDArray[Any]
    if values.dtype.kind == "M":
        # With one day added, the last days of months become the first ones of the next.
        for day in np.arange(2).astype("timedelta64[D]"):
            months = (values + day).astype("datetime64[M]")
            steps, rest = np.diff(months), values + day - months
            if (steps == steps[0]).all() and steps[0].astype(int) and (rest == rest[0]).all():
                more = (months[-1] + after * steps[0]).astype(values.dtype) + rest[0] - day
                return more
        if week is not None:
            days = values.astype("M8[D]")
            more = np.busday_offset(days[-1], after, weekmask=week).astype(values.dtype)
            more = more + (values - days)[-1]
            return more
    steps = np.diff(values)
    if values.dtype.kind == "f":
        equal = np.allclose(steps, steps[0], rtol=1e-6, atol=0)
    else:
        equal = (steps == steps[0]).all()
    if not equal or values.dtype.kind in "fiu" and not _fits(values, len(after)):
        return None
    more = values[-1] + after * steps[-1]
    return more


def _fits(values: NDArray[Any], count: int) -> bool:
    """Tell whether so many more numbers at the last distance are neither infinite nor wrap."""
    most = np.finfo(values.dtype).max if values.dtype.kind == "f" else np.iinfo(values.dtype).max
    last = float(values[-1])
    return abs(last + count * (last - float(values[-2]))) < float(most)


def span(step: Any) -> str:
    """Return a distance between times in words."""
    if not isinstance(step, np.timedelta64):
        return f"{step:.12g}"
    seconds = step / np.timedelta64(1, "s")
    units = {"day": 86400, "hour": 3600, "minute": 60}
    name, length = next((unit for unit in units.items() if seconds >= unit[1]), ("second", 1))
    number = f"{seconds / length:.4g}"
    return f"{number} {name}" + ("" if number == "1" else "s")


def _working_week(values: NDArray[Any]) -> list[bool] | None:
    """Return which days of the week have rows, Monday first; None if the rows have no such week.

    The days are Monday to Friday, if the rows pass one weekend at least, or other 5 or 6 days in a
    row that several weeks show. Most rows must be one working day apart, all at the same time of
    the day.
    """
    if values.dtype.kind != "M" or len(values) < 2:
        return None
    days = values.astype("M8[D]")
    if len(np.unique(values - days)) > 1:
        return None
    week = np.bincount((days.astype(int) + 3) % 7, minlength=7) > 0
    if not week[5:].any():
        week, least = np.arange(7) < 5, 1
    elif 5 <= np.count_nonzero(week) < 7 and np.count_nonzero(week != np.roll(week, 1)) == 2:
        least = _WEEKENDS
    else:
        return None
    worked: list[bool] = week.tolist()  # NumPy 1.24 warns of np.bool_ here
    steps = np.busday_count(days[:-1], days[1:], worked)
    weekends = (steps == 1) & (np.diff(days) > np.timedelta64(1, "D"))
    return worked if np.count_nonzero(weekends) >= least and np.median(steps) == 1 else None
