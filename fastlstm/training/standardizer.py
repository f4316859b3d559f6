"""Columns brought to mean 0 and standard deviation 1, and back."""

import numpy as np

from ..arrays import as_array, column_names, quiet
from ..checks import check_bool
from .columns import as_tables, check_names, positions

_CHUNK = 2**17  # values of a series in float64 at a time, 1 MB


class Standardizer:
    """z = (x - mean) / scale, column by column: mean 0 and standard deviation 1.

    Fit it on the training part alone, then use it for every part, and keep it with the model, as
    ``Standardizer(**state_dict)`` is the same one again.

    Parameters
    ----------
    mean, scale : array of shape (F,)
        Finite; scales are positive. Usually `fit` finds them.
    names : list of F column names, optional
        With them columns that have names are compared, as scikit-learn does.

    Attributes
    ----------
    mean, scale : float64 ndarray of shape (F,)
    names : list, or None

    Raises
    ------
    ValueError
        If they are no such arrays.

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

    def __init__(self, mean, scale, names=None):
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
        names = names.tolist() if isinstance(names, np.ndarray) else names
        if names is not None and len(names) != len(mean):
            raise ValueError(f"Expected names of {len(mean)} columns, got {str(names)[:200]}")
        self.mean, self.scale = mean, scale
        self.names = None if names is None else list(names)

    @classmethod
    def fit(cls, series, *, skip=(), ignore_missing=False):
        """Take the mean and the standard deviation (of the population) of each column.

        Parameters
        ----------
        series : array of shape (T, F) or (T,), DataFrame, or list of those
            The training part. A list's steps count together.
        skip : list of column names or positions, or one of them
            Columns to leave as they are, with mean 0 and scale 1, as of a one-hot code.
        ignore_missing : bool
            Pass over nan, as of targets that `Windows` will mask, rather than refuse it.

        Returns
        -------
        Standardizer
            A column that is constant has scale 1, also where its values differ by no more than
            rounding makes them: a deviation of 4 eps times the mean, eps being the column's type's
            or that of sums of T values in float64, sqrt(T) times as much.

        Raises
        ------
        ValueError
            If there are no steps, or values that are not finite: how many, and where the first is.

        Notes
        -----
        One pass in float64, over about a megabyte at a time, that merges the moments of the pieces
        (Chan, Golub & LeVeque 1979).
        """
        tables, names = as_tables(series)
        check_bool("ignore_missing", ignore_missing)
        add = np.nansum if ignore_missing else np.sum
        columns = tables[0].shape[1]
        count, mean, squares = np.zeros((3, columns))
        origin = np.full(columns, np.nan)
        with np.errstate(all="ignore"):  # what is not finite is looked for at the end
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
        if np.ndim(skip) == 0 or len(skip):
            skipped = positions("skip", skip, names, columns)
            mean[skipped], scale[skipped] = 0, 1
        return cls(mean, scale, names)

    @quiet
    def transform(self, values, columns=None):
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
            If the last axis has not one value for each column, or has columns of other names, or
            of another order.
        """
        x, mean, scale = self._fitting(values, columns)
        z = x - mean
        z /= scale
        return z.astype(_precision(x), copy=False)

    @quiet
    def inverse(self, values, columns=None):
        """Undo `transform`: from a model's predictions to the series' own units.

        Parameters
        ----------
        values : array of shape (..., F), or (T,) if F is 1
            Or, flat, (N, steps * F), step by step, as ``Windows(..., flat=True)`` has targets and
            a model predicts them.
        columns : list of column names or positions, optional
            Which of the columns the last axis holds, as the `targets` of Windows; all, if not
            given.

        Returns
        -------
        ndarray of the same shape
            float32 if the values are, otherwise float64; computed in float64.

        Raises
        ------
        ValueError
            If the last axis has not one value for each column.
        """
        flat, many = np.shape(values), len(self._kept(columns))
        if len(flat) == 2 and flat[1] > many and flat[1] % many == 0:
            values = as_array(values, "values").reshape(flat[0], -1, many)
        z, mean, scale = self._fitting(values, columns)
        x = z * scale
        x += mean
        return x.astype(_precision(z), copy=False).reshape(flat)

    def state_dict(self):
        """Return mean, scale and, where all columns have names, these: the arguments, as copies.

        Returns
        -------
        dict of str -> ndarray
        """
        state = {"mean": self.mean.copy(), "scale": self.scale.copy()}
        if self.names is not None and all(isinstance(name, str) for name in self.names):
            state["names"] = np.array(self.names)
        return state

    def _kept(self, columns):
        return positions("columns", columns, self.names, len(self.mean))

    def _fitting(self, values, columns):
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


def check_standardizer(standardizer, columns, names):
    """Return a standardizer, or None, that fits series of so many columns of these names."""
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


def _names_of(values, count):
    """The names of so many columns: of a Series its own, of one that is a row its labels."""
    if not hasattr(values, "to_frame") or column_names(values) is not None:
        return column_names(values)
    names = [values.name] if count == 1 else list(getattr(values, "index", ()))
    return names if names and all(isinstance(name, str) for name in names) else None


def _eps_of(series, table):
    """The eps of each column's type, (F,), 0 of integers: those of a DataFrame may differ."""
    dtypes = [table.dtype] * table.shape[1]
    if hasattr(series, "dtypes") and column_names(series) is not None:
        dtypes = list(series.dtypes)
    names = [getattr(dtype, "name", str(dtype)).lower() for dtype in dtypes]  # Float32 is polars'
    return [np.finfo(name).eps if name.startswith("float") else 0 for name in names]


def _chunks(tables):
    """Yield (number of the table, first row, rows in float64), not too many values at a time."""
    for number, table in enumerate(tables):
        rows = max(1, _CHUNK // table.shape[1])
        for first in range(0, len(table), rows):
            yield number, first, table[first : first + rows].astype(float)


def _what_is_not_finite(tables, ignore_missing):
    """A sentence on values that no mean can be taken of: how many, and where the first is."""
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


def _precision(array):
    return np.float32 if array.dtype == np.float32 else np.float64
