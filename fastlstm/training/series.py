"""Time series as training data: parts in time, standardised, and cut into windows.

A series is an array (T, F), or (T,) for one feature, or a pandas DataFrame or Series; memory-mapped
arrays are read where they are needed. A list is always a list of series (stations, machines,
patients) with the same columns: windows never cross from one into another.
"""

import itertools
import math

import numpy as np

from ..arrays import as_array
from ..parameters import check_bool, check_dtype, check_size
from .batches import Batch, check_indices

_CHUNK = 2**17  # values of a series in float64 at a time, 1 MB


class Windows:
    """Sliding windows over series: so many steps in, so many steps out.

    Sample n starts at step s = n * stride. Its inputs are the steps s to s + window - 1, and its
    targets are `horizon` steps, of which the first is `lead` behind the last input.

    Parameters
    ----------
    series : array of shape (T, F) or (T,), DataFrame, or list of those
        Not copied, but for DataFrames of several types. Of many series the windows of the first
        come first, and so on; one too short for a window has none.
    window : int
        Input steps.
    horizon : int
        Target steps.
    inputs, targets : list of column names or positions, or one of them, optional
        Which columns go in and which should come out; all, if not given. Strings are names of a
        DataFrame's columns, integers are always positions.
    lead : int
        Steps from the last input to the first target. 1 is a forecast from the next step on. 0
        says what happens at the last step of the inputs, as runoff after rain. ``1 - window``
        with ``horizon=window`` has a target at every step of the inputs.
    stride : int
        Steps from the start of a window to the start of the next.
    standardizer : Standardizer, optional
        What the series pass through, batch by batch, on their way into a window.
    flat : bool
        Give y as (B, horizon * targets), step by step, which is what a Linear behind a Last
        predicts; otherwise as (B, horizon, targets).
    dtype : {"float32", "float64"}
        Of x and y.

    Attributes
    ----------
    inputs, targets : list of int
        The columns' positions.

    Raises
    ------
    ValueError
        If no series has enough steps, or series or columns do not fit. With a `lead` below 1 if
        no `inputs` are named: then the targets would be among them.

    Notes
    -----
    Takes no memory but a batch's: the samples x time x features cube is never made unless it is
    asked for, ``data[:]``. Values that are missing go in as they are; `Standardizer.fit` finds
    them.

    Examples
    --------
    >>> data = fastlstm.training.Windows(np.arange(6.0), window=3, horizon=2)
    >>> batch = data[:]
    >>> batch.x[..., 0].tolist(), batch.y[..., 0].tolist()
    ([[0.0, 1.0, 2.0], [1.0, 2.0, 3.0]], [[3.0, 4.0], [4.0, 5.0]])
    >>> rain_and_runoff = np.array([[5, 0], [7, 1], [0, 2], [3, 3]])
    >>> batch = fastlstm.training.Windows(rain_and_runoff, 3, inputs=0, targets=1, lead=0)[:]
    >>> batch.x[..., 0].tolist(), batch.y[..., 0].tolist()
    ([[5.0, 7.0, 0.0], [7.0, 0.0, 3.0]], [[2.0], [3.0]])
    """

    def __init__(
        self, series, window, horizon=1, *, inputs=None, targets=None, lead=1, stride=1,
        standardizer=None, flat=False, dtype="float32",
    ):  # fmt: skip
        self.window = check_size("window", window)
        self.horizon = check_size("horizon", horizon)
        self.stride = check_size("stride", stride)
        self.lead = check_size("lead", lead, least=1 - window)
        self.flat = check_bool("flat", flat)
        self.dtype = check_dtype(dtype)
        self.series, names = _as_tables(series)
        columns = self.series[0].shape[1]
        self.inputs = _positions("inputs", inputs, names, columns)
        self.targets = _positions("targets", targets, names, columns)
        if lead < 1 and inputs is None:
            raise ValueError(
                f"With lead={lead} targets are at steps of the inputs: name the inputs, so that no "
                "target is among them by mistake"
            )
        if not isinstance(standardizer, (Standardizer, type(None))):
            raise TypeError(f"Expected a Standardizer, got {type(standardizer).__name__}")
        self.standardizer = standardizer
        if standardizer is not None and len(standardizer.mean) != columns:
            raise ValueError(
                f"Expected a standardizer of {columns} columns, as the series has, got one of "
                f"{len(standardizer.mean)}"
            )
        self._first_target = window - 1 + lead
        span = max(window, self._first_target + horizon)
        lengths = np.array([len(one) for one in self.series])
        if lengths.max() < span:
            raise ValueError(
                f"Expected a series of at least {span} steps for window={window}, "
                f"horizon={horizon} and lead={lead}, got {lengths.max()} at most"
            )
        self._ends = np.cumsum(np.maximum(lengths - span, -stride) // stride + 1)

    def __len__(self):
        """How many samples there are, of all series."""
        return int(self._ends[-1])

    def __getitem__(self, indices):
        """Return the Batch of these samples: x (B, window, inputs), y (B, horizon, targets)."""
        number, first = self.where(indices)
        into = first[:, None] - self._first_target + np.arange(self.window)
        out_of = first[:, None] + np.arange(self.horizon)
        x, y = self._gather(number, into, self.inputs), self._gather(number, out_of, self.targets)
        return Batch(x, y.reshape(len(y), math.prod(y.shape[1:])) if self.flat else y)

    def where(self, indices):
        """Tell where samples lie in the series.

        Parameters
        ----------
        indices : list of int, or slice
            The samples.

        Returns
        -------
        number : int64 ndarray of shape (B,)
            Which series; 0 if there is one.
        first : int64 ndarray of shape (B,)
            The step of the first target in it.
        """
        indices = check_indices(indices, len(self))
        number = np.searchsorted(self._ends, indices, side="right")
        starts = np.append(0, self._ends)[number]
        return number, (indices - starts) * self.stride + self._first_target

    def _gather(self, number, steps, columns):
        """Rows `steps` (B, S) of the series `number` (B,), as (B, S, columns)."""
        values = np.empty((*steps.shape, len(columns)), self.dtype)
        for one in np.unique(number):
            mine = number == one
            part = self.series[one][steps[mine]][..., _as_slice(columns)]
            if self.standardizer is not None:
                part = self.standardizer.transform(part, columns)
            values[mine] = part
        return values


def windows(
    series, window, horizon=1, *, inputs=None, targets=None, lead=1, stride=1, flat=False,
    dtype="float32",
):  # fmt: skip
    """Cut series into windows: the samples x time x features cube, and its targets.

    Parameters
    ----------
    series, window, horizon, inputs, targets, lead, stride, flat, dtype
        As of `Windows`.

    Returns
    -------
    x : ndarray of shape (N, window, inputs)
    y : ndarray of shape (N, horizon, targets), or (N, horizon * targets) if `flat`

    Raises
    ------
    ValueError
        As `Windows`.

    Notes
    -----
    Takes about ``window / stride`` times the memory of the series; `Windows` takes none.

    Examples
    --------
    >>> x, y = fastlstm.training.windows(np.arange(10.0), window=4, horizon=2, stride=2)
    >>> x.shape, y.shape
    ((3, 4, 1), (3, 2, 1))
    >>> y[..., 0].tolist()
    [[4.0, 5.0], [6.0, 7.0], [8.0, 9.0]]
    """
    data = Windows(
        series, window, horizon, inputs=inputs, targets=targets, lead=lead, stride=stride,
        flat=flat, dtype=dtype,
    )  # fmt: skip
    return data[:][:2]


class Standardizer:
    """z = (x - mean) / scale, column by column: mean 0 and standard deviation 1.

    Fit it on the training part alone, then use it for every part, and keep it with the model, as
    ``Standardizer(**state_dict)`` is the same one again.

    Parameters
    ----------
    mean, scale : array of shape (F,)
        Finite; scales are positive. Usually `fit` finds them.

    Attributes
    ----------
    mean, scale : float64 ndarray of shape (F,)

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

    def __init__(self, mean, scale):
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
        self.mean, self.scale = mean, scale

    @classmethod
    def fit(cls, series):
        """Take the mean and the standard deviation (of the population) of each column.

        Parameters
        ----------
        series : array of shape (T, F) or (T,), DataFrame, or list of those
            The training part. A list's steps count together.

        Returns
        -------
        Standardizer
            A column that is constant has scale 1.

        Raises
        ------
        ValueError
            If there are no steps, or values that are not finite: how many, and where the first is.

        Notes
        -----
        One pass in float64, over about a megabyte at a time, that merges the moments of the pieces
        (Chan, Golub & LeVeque 1979).
        """
        tables, _ = _as_tables(series)
        count = 0
        with np.errstate(invalid="ignore", over="ignore"):  # looked for at the end
            for _, _, chunk in _chunks(tables):
                if not count:
                    origin = chunk[0].copy()
                    mean, squares = np.zeros_like(origin), np.zeros_like(origin)
                chunk -= origin  # so that a constant column is exactly 0, and has no squares
                rows, mine = len(chunk), chunk.mean(axis=0)
                away = mine - mean
                squares += ((chunk - mine) ** 2).sum(axis=0)
                squares += away**2 * (count * rows / (count + rows))
                count += rows
                mean += away * (rows / count)
        if not count:
            raise ValueError("Expected series with at least one step, got none")
        if not np.isfinite(squares).all():
            raise ValueError(_what_is_not_finite(tables))
        scale = np.sqrt(squares / count)
        return cls(origin + mean, np.where(scale > 0, scale, 1))

    def transform(self, values, columns=None):
        """Standardise values.

        Parameters
        ----------
        values : array of shape (..., F), or (T,) if F is 1
        columns : list of int, optional
            Which of the columns the last axis holds; all, if not given.

        Returns
        -------
        ndarray of the same shape
            float32 if the values are, otherwise float64; computed in float64.

        Raises
        ------
        ValueError
            If the last axis has not one value for each column.
        """
        x, mean, scale = self._fitting(values, columns)
        z = x - mean
        z /= scale
        return z.astype(_precision(x), copy=False)

    def inverse(self, values, columns=None):
        """Undo `transform`: from a model's predictions to the series' own units.

        Parameters
        ----------
        values : array of shape (..., F), or (T,) if F is 1
        columns : list of int, optional
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
        z, mean, scale = self._fitting(values, columns)
        x = z * scale
        x += mean
        return x.astype(_precision(z), copy=False)

    def state_dict(self):
        """Return mean and scale, the arguments of Standardizer, as copies.

        Returns
        -------
        dict of str -> ndarray
        """
        return {"mean": self.mean.copy(), "scale": self.scale.copy()}

    def _fitting(self, values, columns):
        x = as_array(values, "values")
        kept = _positions("columns", columns, None, len(self.mean))
        one_feature = len(kept) == 1 and x.ndim == 1
        if not one_feature and x.shape[-1:] != (len(kept),):
            raise ValueError(
                f"Expected values of shape (..., {len(kept)}), one for each column, got {x.shape}"
            )
        return x, self.mean[kept], self.scale[kept]


def split_by_time(series, fractions=(0.8, 0.2), *, overlap=0):
    """Cut series into parts that follow each other in time, as training before validation.

    Parameters
    ----------
    series : array of shape (T, ...), DataFrame, or list of those
        Each of a list is cut by itself.
    fractions : tuple of float
        Of the steps, in the order of time; their sum is 1.
    overlap : int
        How many steps before its own each part but the first holds too. With
        ``window - 1 + lead`` of `Windows` (that is `window` for a forecast) its first target is
        its first own step: the steps before are inputs alone, as they will be when the model is
        used, and no target is in two parts. With 0 no step at all is in two parts.

    Returns
    -------
    tuple
        As many parts as fractions, each what `series` is: a view, DataFrames by position, or a
        list of such.

    Raises
    ------
    ValueError
        If fractions are not positive, do not sum to 1, or leave a part without steps.

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
    if isinstance(series, (list, tuple)):
        parts = [split_by_time(one, fractions, overlap=overlap) for one in _check_list(series)]
        return tuple(map(list, zip(*parts, strict=True)))
    if not np.shape(series):
        raise TypeError(
            f"Expected a series, or a list of series, got {type(series).__name__}: a list is a "
            "list of series, one series is an array"
        )
    bounds = [0, *np.rint(np.cumsum(shares) * len(series)).astype(int).tolist()]
    if np.diff(bounds).min() < 1:
        raise ValueError(
            f"Expected enough steps for parts of {fractions!r}, got a series of {len(series)}"
        )
    rows = getattr(series, "iloc", series)  # a DataFrame's own brackets may mean labels
    return tuple(
        rows[max(0, start - overlap * (start > 0)) : stop]
        for start, stop in itertools.pairwise(bounds)
    )


def _check_list(series):
    if not len(series):
        raise ValueError("Expected at least one series, got an empty list")
    return series


def _as_tables(series):
    """(arrays (T, F), names of the columns or None) of a series, or of a list of them."""
    many = _check_list(series) if isinstance(series, (list, tuple)) else [series]
    tables, names = zip(*map(_as_table, many), strict=True)
    for number, table in enumerate(tables):
        if table.shape[1] != tables[0].shape[1] or names[number] != names[0]:
            raise ValueError(
                "Expected all series to have the same columns, got "
                f"{names[0] or tables[0].shape[1]} in series 0 and "
                f"{names[number] or table.shape[1]} in series {number}"
            )
    return list(tables), names[0]


def _as_table(series):
    """(array (T, F), names of its columns or None) of one series, without a copy if it can be."""
    names = None
    if hasattr(series, "iloc"):  # pandas, which need not be imported for this
        frame = series.to_frame() if hasattr(series, "to_frame") else series
        names = list(frame.columns)
        if wrong := [n for n, d in zip(names, frame.dtypes, strict=True) if d.kind not in "biuf"]:
            raise ValueError(
                f"Expected columns of numbers, got others in {wrong}: leave them out, or make them "
                "the index"
            )
        series = frame.to_numpy()
        if series.dtype == object:  # pandas' own types, which have a missing value of their own
            series = frame.to_numpy("float64", na_value=np.nan)
    table = as_array(series, "a series")
    if table.dtype.kind not in "biuf":
        raise ValueError(f"Expected series of numbers, got dtype {table.dtype}")
    if table.ndim not in (1, 2) or 0 in table.shape[1:]:
        hint = " (a list is a list of series)" if table.ndim == 0 else ""
        raise ValueError(f"Expected series of shape (T, F) or (T,), got {table.shape}{hint}")
    return (table[:, None] if table.ndim == 1 else table), names


def _positions(what, columns, names, count):
    """The positions of columns that are given by names, positions, or as None: all of them."""
    if columns is None:
        return list(range(count))
    if isinstance(columns, (str, int, np.integer)):
        columns = [columns]
    if not len(columns):
        raise ValueError(f"{what} must be at least one column, got none")
    return [_position(what, column, names, count) for column in columns]


def _position(what, column, names, count):
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


def _as_slice(columns):
    """Columns side by side as a slice, with which NumPy copies nothing."""
    first, count = columns[0], len(columns)
    return slice(first, first + count) if columns == [*range(first, first + count)] else columns


def _chunks(tables):
    """Yield (number of the table, first row, rows in float64), not too many values at a time."""
    for number, table in enumerate(tables):
        rows = max(1, _CHUNK // table.shape[1])
        for first in range(0, len(table), rows):
            yield number, first, table[first : first + rows].astype(float)


def _what_is_not_finite(tables):
    """A sentence on values that no mean can be taken of: how many, and where the first is."""
    count, place = 0, ""
    for number, first, chunk in _chunks(tables):
        faults = np.argwhere(~np.isfinite(chunk))
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
