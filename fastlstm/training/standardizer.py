"""Standardisation: columns with mean 0 and standard deviation 1, and the way back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arrays import as_array, column_names, is_column, quiet
from ..checks import check_bool
from .columns import Columns, Names, SeriesOrList, as_tables, check_names, positions

_CHUNK = 2**17  # so many values are in float64 at a time: 1 MB


class Standardizer:
    """z = (x - mean) / scale, column by column: mean 0 and standard deviation 1.

    Fit it on the training part alone, then use it for every part. Keep it with the model: from
    ``state = standardizer.state_dict()`` one makes an equal one, ``Standardizer(**state)``.

    Parameters
    ----------
    mean, scale : array of shape (F,)
        Finite; scales are positive. Usually `fit` finds them.
    names : list of F column names, optional
        If they are given, names of columns are compared with them, as scikit-learn does.

    Attributes
    ----------
    mean, scale : float64 ndarray of shape (F,)
    names : list, or None

    Raises
    ------
    ValueError
        If mean and scale are not such arrays, or there is not one name for each column.

    Examples
    --------
    >>> train = np.array([[1.0, 7.0], [3.0, 7.0]])
    >>> standardizer = fastlstm.training.Standardizer.fit(train)
    >>> standardizer.mean.tolist(), standardizer.scale.tolist()
    ([2.0, 7.0], [1.0, 1.0])
    >>> standardizer.transform([[4.0, 8.0]])
    array([[2., 1.]])
    >>> standardizer.inverse([[2.0]], columns=[0])
    array([[4.]])
    """

    def __init__(
        self, mean: ArrayLike, scale: ArrayLike, names: ArrayLike | list[Any] | None = None
    ) -> None:
        mean = np.array(as_array(mean, "mean"), float)
        scale = np.array(as_array(scale, "scale"), float)
        if mean.ndim != 1 or mean.shape != scale.shape or not mean.size:
            raise ValueError(
                f"Expected mean and scale of one shape (F,), got {mean.shape} and {scale.shape}"
            )
        if not (np.isfinite(mean) & np.isfinite(scale) & (scale > 0)).all():
            raise ValueError(
                "Expected finite means and finite positive scales, got "
                f"{mean.tolist()} and {scale.tolist()}"
            )
        given: Any = names.tolist() if isinstance(names, np.ndarray) else names
        if given is not None and len(given) != len(mean):
            raise ValueError(f"Expected names of {len(mean)} columns, got {str(given)[:200]}")
        self.mean, self.scale = mean, scale
        self.names: Names = None if given is None else list(given)

    def __repr__(self) -> str:
        names = "" if self.names is None else f", names={self.names}"
        return f"Standardizer(mean={self.mean.tolist()}, scale={self.scale.tolist()}{names})"

    @classmethod
    def fit(
        cls, series: SeriesOrList, *, skip: Columns = (), ignore_missing: bool = False
    ) -> Standardizer:
        """Take the mean and the standard deviation (of the population) of each column.

        Parameters
        ----------
        series : array of shape (T, F) or (T,), DataFrame, or list of those
            The training part. The steps of all series in a list count together.
        skip : list of column names or positions, or one of them
            Columns to leave as they are, with mean 0 and scale 1: those of a one-hot code, say.
        ignore_missing : bool
            Ignore values that are nan, as targets may be that `Windows` will mask. Otherwise they
            are refused.

        Returns
        -------
        Standardizer
            A constant column has scale 1. A column counts as constant if its standard deviation is
            no larger than rounding makes it: at most 4 eps times its mean, where eps is that of the
            column's type or, if that is larger, sqrt(T) times that of float64, as sums of T values
            are rounded.

        Raises
        ------
        ValueError
            If there are no steps, or values that are not finite: how many, and where the first is.

        Notes
        -----
        The series are read once, about a megabyte at a time, in float64; the moments of the pieces
        are merged (Chan, Golub & LeVeque 1979).
        """
        tables, names = as_tables(series)
        check_bool("ignore_missing", ignore_missing)
        add = np.nansum if ignore_missing else np.sum
        columns = tables[0].shape[1]
        count, mean, squares = np.zeros((3, columns))
        origin = np.full(columns, np.nan)
        with np.errstate(all="ignore"):  # values that are not finite are found at the end
            for _, _, chunk in _chunks(tables):
                if np.isnan(origin).any():
                    first = chunk[np.isnan(chunk).argmin(axis=0), np.arange(columns)]
                    origin = np.where(np.isnan(origin), first, origin)
                rows = len(chunk) - (np.isnan(chunk).sum(axis=0) if ignore_missing else 0)
                chunk -= origin  # so that a constant column is exactly 0, and has no squares
                mine = add(chunk, axis=0) / np.maximum(rows, 1)
                away, total = mine - mean, np.maximum(count + rows, 1)
                squares += add((chunk - mine) ** 2, axis=0)
                squares += away**2 * (count * rows / total)
                mean += away * (rows / total)
                count += rows
            mean, scale = origin + mean, np.sqrt(squares / count)
        if not sum(map(len, tables)):
            raise ValueError("Expected series with at least one step, got none")
        if not count.all():
            raise ValueError(f"Expected values in every column, got none in {np.argmin(count)}")
        if not np.isfinite(squares).all():
            raise ValueError(_what_is_not_finite(tables, ignore_missing))
        many = series if isinstance(series, (list, tuple)) else [series]
        precision = np.max([_eps_of(*pair) for pair in zip(many, tables, strict=True)], axis=0)
        rounding = 4 * np.maximum(precision, np.sqrt(count) * np.finfo(float).eps)
        scale[scale <= rounding * np.abs(mean)] = 1
        if isinstance(skip, (str, int, np.integer)) or len(skip):
            skipped = positions("skip", skip, names, columns)
            mean[skipped], scale[skipped] = 0, 1
        return cls(mean, scale, names)

    @quiet
    def transform(self, values: ArrayLike, columns: Columns | None = None) -> NDArray[Any]:
        """Standardise values.

        Parameters
        ----------
        values : array of shape (..., F), or (T,) if F is 1, or DataFrame
        columns : list of column names or positions, optional
            Which of the columns the last axis holds; all, if not given.

        Returns
        -------
        ndarray of the same shape
            float32 if the values are, otherwise float64; computed in float64.

        Raises
        ------
        ValueError
            If the last axis does not have one value for each column, or the columns have other
            names or another order.
        """
        x, mean, scale = self._fitting(values, columns)
        z = x - mean
        z /= scale
        return z.astype(_precision(x), copy=False)

    @quiet
    def inverse(self, values: ArrayLike, columns: Columns | None = None) -> NDArray[Any]:
        """Undo `transform`: from a model's predictions to the series' own units.

        Parameters
        ----------
        values : array of shape (..., F), or (T,) if F is 1
            Or (N, steps * F), step by step, as the targets of ``Windows(..., flat=True)`` and a
            model's predictions of them are.
        columns : list of column names or positions, optional
            Which of the columns the last axis holds, such as the `targets` of `Windows`; all, if
            not given.

        Returns
        -------
        ndarray of the same shape
            float32 if the values are, otherwise float64; computed in float64.

        Raises
        ------
        ValueError
            If the last axis does not have one value for each column.
        """
        flat, many = np.shape(values), len(self._kept(columns))
        if len(flat) == 2 and flat[1] > many and flat[1] % many == 0:
            values = as_array(values, "values").reshape(flat[0], -1, many)
        z, mean, scale = self._fitting(values, columns)
        x = z * scale
        x += mean
        return x.astype(_precision(z), copy=False).reshape(flat)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return the arguments as copies: mean, scale and, if all of them are texts, the names.

        Returns
        -------
        dict of str -> ndarray
        """
        state = {"mean": self.mean.copy(), "scale": self.scale.copy()}
        if self.names is not None and all(isinstance(name, str) for name in self.names):
            state["names"] = np.array(self.names)
        return state

    def _kept(self, columns: Columns | None) -> list[int]:
        return positions("columns", columns, self.names, len(self.mean))

    def _fitting(
        self, values: ArrayLike, columns: Columns | None
    ) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.float64]]:
        """Return values as an array, with the mean and the scale of each of their columns."""
        x, kept = as_array(values, "values"), self._kept(columns)
        if self.names is not None:
            names = _names_of(values, len(kept))
            check_names([self.names[n] for n in kept], names, "standardizer")
        one_feature = len(kept) == 1 and x.ndim == 1
        if not one_feature and x.shape[-1:] != (len(kept),):
            raise ValueError(
                f"Expected values of shape (..., {len(kept)}), one for each column, got {x.shape}"
            )
        return x, self.mean[kept], self.scale[kept]


def check_standardizer(
    standardizer: Standardizer | None, columns: int, names: Names
) -> Standardizer | None:
    """Return the standardizer, or None; refuse one that does not fit series of these columns."""
    if standardizer is None:
        return None
    if not isinstance(standardizer, Standardizer):
        raise TypeError(f"Expected a Standardizer, got {type(standardizer).__name__}")
    if len(standardizer.mean) != columns:
        raise ValueError(
            f"Expected a standardizer of {columns} columns, as the series has, got one of "
            f"{len(standardizer.mean)}"
        )
    check_names(standardizer.names, names, "standardizer")
    return standardizer


def _names_of(values: Any, count: int) -> Names:
    """Return the names of the columns of a table, or of a Series that is a column or a row."""
    if not is_column(values):
        return column_names(values)
    names = [values.name] if count == 1 else list(getattr(values, "index", ()))
    return names if names and all(isinstance(name, str) for name in names) else None


def _eps_of(series: Any, table: NDArray[Any]) -> list[float]:
    """Return the eps of each column's type, 0 for integers; in a DataFrame types may differ."""
    dtypes: list[Any] = [table.dtype] * table.shape[1]
    if hasattr(series, "dtypes") and column_names(series) is not None:
        dtypes = list(series.dtypes)
    names = [getattr(dtype, "name", str(dtype)).lower() for dtype in dtypes]  # Float32 is polars'
    return [float(np.finfo(name).eps) if name.startswith("float") else 0 for name in names]


def _chunks(tables: list[NDArray[Any]]) -> Iterator[tuple[int, int, NDArray[np.float64]]]:
    """Yield (number of the table, first row, rows in float64), `_CHUNK` values at a time."""
    for number, table in enumerate(tables):
        rows = max(1, _CHUNK // table.shape[1])
        for first in range(0, len(table), rows):
            yield number, first, table[first : first + rows].astype(float)


def _what_is_not_finite(tables: list[NDArray[Any]], ignore_missing: bool) -> str:
    """Return a sentence: how many values are not finite, and where the first one is."""
    count, place = 0, ""
    for number, first, chunk in _chunks(tables):
        faults = np.argwhere(np.isinf(chunk) if ignore_missing else ~np.isfinite(chunk))
        if len(faults) and not count:
            step, column = faults[0]
            place = f"the first {chunk[step, column]} at step {first + step} of column {column}"
            place += f" of series {number}" if len(tables) > 1 else ""
        count += len(faults)
    if not count:
        return "Expected values whose squares are finite, got larger ones"
    return f"Expected finite values, got {count} that are not, {place}"


def _precision(array: NDArray[Any]) -> type[np.float32] | type[np.float64]:
    return np.float32 if array.dtype == np.float32 else np.float64
