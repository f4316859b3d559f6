"""Cutting time series: into training and validation, and where rows are missing.

`fastlstm.training.columns` says what a series may be.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from ..checks import check_size
from ..times import breaks
from .columns import check_list, check_order, times_of

_Series = TypeVar("_Series")


def split_by_time(
    series: _Series, fractions: Sequence[float] = (0.8, 0.2), *, overlap: int = 0
) -> tuple[_Series, ...]:
    """Cut series into parts that follow each other in time, such as training and validation.

    Parameters
    ----------
    series : array of shape (T, ...), DataFrame, or list of those
        Each series of a list is cut by itself.
    fractions : tuple of float
        The shares of the steps, in the order of time; their sum is 1.
    overlap : int
        So many steps from the end of the part before are put in front of each part but the first.
        With ``window - 1 + lead`` of `Windows` (that is `window` for a forecast) the first target
        of a part is the first of its own steps. The steps in front are inputs alone, as they will
        be when the model is used, and no target is in two parts. With 0 no step at all is in two
        parts.

    Returns
    -------
    tuple
        As many parts as fractions, each of the kind of `series`: a view of an array, rows of a
        DataFrame, or a list of these.

    Raises
    ------
    ValueError
        If fractions are not positive, do not sum to 1, or leave a part without steps, or an index
        says that rows are not in the order of time.

    Examples
    --------
    >>> train, validation = fastlstm.training.split_by_time(np.arange(10), overlap=3)
    >>> train.tolist(), validation.tolist()
    ([0, 1, 2, 3, 4, 5, 6, 7], [5, 6, 7, 8, 9])
    >>> train, validation, test = fastlstm.training.split_by_time(np.arange(10), (0.6, 0.3, 0.1))
    >>> len(train), len(validation), len(test)
    (6, 3, 1)
    """
    check_size("overlap", overlap, least=0)
    shares = np.asarray(fractions, float)
    if shares.ndim != 1 or not (shares > 0).all() or not math.isclose(shares.sum(), 1):
        raise ValueError(f"Expected positive fractions that sum to 1, got {fractions!r}")
    whole: Any = series
    if isinstance(series, (list, tuple)):
        parts = [split_by_time(one, fractions, overlap=overlap) for one in check_list(series)]
        lists: Any = map(list, zip(*parts, strict=True))
        return tuple(lists)
    check_order(series, gaps=False)
    if not np.shape(whole):
        raise TypeError(
            f"Expected a series, or a list of series, got {type(series).__name__}: a list is a "
            "list of series, one series is an array"
        )
    bounds = [0, *np.rint(np.cumsum(shares) * len(whole)).astype(int).tolist()]
    if np.diff(bounds).min() < 1:
        raise ValueError(
            f"Expected enough steps for parts of {fractions!r}, got a series of {len(whole)}"
        )
    rows: Any = getattr(series, "iloc", series)  # a DataFrame's own brackets may mean labels
    return tuple(
        rows[max(0, start - overlap * (start > 0)) : stop]
        for start, stop in itertools.pairwise(bounds)
    )


def split_at_gaps(series: Any) -> list[Any]:
    """Cut series where their dates, an index or a column, say that rows are missing or repeated.

    Parameters
    ----------
    series : DataFrame or Series, or list of those

    Returns
    -------
    list
        The parts in their order, for `Windows`: no window crosses from one into the next.

    Raises
    ------
    ValueError
        If rows are not in the order of time.
    TypeError
        If there are no dates.

    Notes
    -----
    The usual distance between two rows is the median. A gap is a distance that differs from it by
    more than half. If all rows are on working days, which are Monday to Friday or the 5 or 6 days
    in a row that several weeks show, then weekends and holidays of up to a week are no gaps. If
    more than a third of the distances would be gaps, no distance is usual, and the series are cut
    only where times are repeated.

    Examples
    --------
    >>> import pandas
    >>> days = pandas.to_datetime(["2024-01-01", "2024-01-02", "2024-01-03", "2024-01-09"])
    >>> level = pandas.Series([1.0, 2.0, 3.0, 9.0], index=days)
    >>> [part.tolist() for part in fastlstm.training.split_at_gaps(level)]
    [[1.0, 2.0, 3.0], [9.0]]
    """
    if isinstance(series, (list, tuple)):
        return [part for one in check_list(series) for part in split_at_gaps(one)]
    check_order(series, gaps=False)
    times = times_of(series)
    if times is None or times.dtype.kind not in "mM":
        raise TypeError(
            "Expected a series with a column or an index of dates, which tells where gaps are"
        )
    bounds = [0, *breaks(times)[0].tolist(), len(times)]
    rows: Any = getattr(series, "iloc", series)
    return [rows[start:stop] for start, stop in itertools.pairwise(bounds)]
