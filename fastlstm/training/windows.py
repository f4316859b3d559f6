"""Sliding windows over time series, as training data.

A series is an array (T, F), or (T,) for one feature, or a pandas DataFrame or Series; memory-mapped
arrays are read where they are needed. A list is always a list of series (stations, machines,
patients) with the same columns: windows never cross from one into another.
"""

import math

import numpy as np

from ..arrays import as_array
from ..checks import check_bool, check_dtype, check_size
from .columns import as_tables, check_order, positions
from .datasets import Batch, check_indices
from .standardizer import check_standardizer


class Windows:
    """Sliding windows over series: so many steps in, so many steps out.

    Sample n starts at step s = n * stride. Its inputs are the steps s to s + window - 1, and its
    targets are `horizon` steps, of which the first is `lead` behind the last input.

    Parameters
    ----------
    series : array of shape (T, F) or (T,), DataFrame, or list of those
        Not copied, but for DataFrames of several types. Of many series the windows of the first
        come first, and so on; one too short for a window has none. An index of dates must
        increase, at equal distances (weekends are no gaps in working days); see `split_at_gaps`.
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
    weights : array of shape (T,) or, of many series, a list of such, optional
        How much each step counts as a target; or, as an array of shape (N,), each sample.
    std : number, or sequence of one for each series, optional
        For `NSELoss`: the standard deviation of each series' targets, in the unit that the windows
        have them in.
    mask_missing : bool
        Take targets that are nan out of the loss, by the batches' mask.
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
        If no series has enough steps, series or columns do not fit, or an index says that rows
        are not in the order of time, or have gaps. With a `lead` below 1 if
        no `inputs` are named: then the targets would be among them.

    Notes
    -----
    Takes no memory but a batch's: the samples x time x features cube is never made unless it is
    asked for, ``data[:]``. Values that are missing go in as they are; `Standardizer.fit` finds
    them, or passes over them with ``ignore_missing=True``.

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
        standardizer=None, weights=None, std=None, mask_missing=False, flat=False, dtype="float32",
    ):  # fmt: skip
        self.window = check_size("window", window)
        self.horizon = check_size("horizon", horizon)
        self.stride = check_size("stride", stride)
        self.lead = check_size("lead", lead, least=1 - window)
        self.flat = check_bool("flat", flat)
        self.mask_missing = check_bool("mask_missing", mask_missing)
        self.dtype = check_dtype(dtype)
        self.series, names = as_tables(series)
        for one in series if isinstance(series, (list, tuple)) else [series]:
            check_order(one)
        columns = self.series[0].shape[1]
        self.inputs = positions("inputs", inputs, names, columns)
        self.targets = positions("targets", targets, names, columns)
        if lead < 1 and inputs is None:
            raise ValueError(
                f"With lead={lead} targets are at steps of the inputs: name the inputs, so that no "
                "target is among them by mistake"
            )
        self.standardizer = check_standardizer(standardizer, columns, names)
        self._first_target = window - 1 + lead
        span = max(window, self._first_target + horizon)
        lengths = np.array([len(one) for one in self.series])
        if lengths.max() < span:
            raise ValueError(
                f"Expected a series of at least {span} steps for window={window}, "
                f"horizon={horizon} and lead={lead}, got {lengths.max()} at most"
            )
        self._ends = np.cumsum(np.maximum(lengths - span, -stride) // stride + 1)
        self.weights = None if weights is None else self._checked_weights(weights)
        self.std = None if std is None else self._checked_std(std)

    def _checked_std(self, std):
        """A number for each series."""
        std, expected = as_array(std, "std"), (len(self.series),)
        if std.shape not in ((), expected):
            raise ValueError(
                f"Expected std to be a number, or of shape {expected}, one a series, got "
                f"{std.shape}"
            )
        return np.broadcast_to(std, expected)

    def _checked_weights(self, weights):
        """Weights as an array, one a sample, or as a list of arrays, one a step of each series."""
        if not (isinstance(weights, (list, tuple)) and any(map(np.ndim, weights))):
            weights = as_array(weights, "weights")
            if weights.shape == (len(self),):
                return weights
            weights = [weights]
        weights = [as_array(w, "weights") for w in weights]
        shapes, expected = [w.shape for w in weights], [(len(one),) for one in self.series]
        if shapes != expected:
            raise ValueError(
                f"Expected weights of shape {expected}, one a step of each series, or "
                f"({len(self)},), one a sample, got {shapes}"
            )
        return weights

    def __len__(self):
        """How many samples there are, of all series."""
        return int(self._ends[-1])

    def __getitem__(self, indices):
        """Return the Batch of these samples: x (B, window, inputs), y (B, horizon, targets)."""
        indices = check_indices(indices, len(self))
        number, first = self.where(indices)
        into = first[:, None] - self._first_target + np.arange(self.window)
        out_of = first[:, None] + np.arange(self.horizon)
        x, y = self._gather(number, into, self.inputs), self._gather(number, out_of, self.targets)
        weights = self.weights
        if isinstance(weights, list):
            weights = np.stack([weights[n][s] for n, s in zip(number, out_of, strict=True)])
            weights = weights.repeat(len(self.targets), axis=1) if self.flat else weights
        elif weights is not None:
            weights = weights[indices]
        y = y.reshape(len(y), math.prod(y.shape[1:])) if self.flat else y
        std = None if self.std is None else self.std[number]
        return Batch(x, y, weights, ~np.isnan(y) if self.mask_missing else None, std=std)

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
            with np.errstate(under="ignore"):
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


def _as_slice(columns):
    """Columns side by side as a slice, with which NumPy copies nothing."""
    first, count = columns[0], len(columns)
    return slice(first, first + count) if columns == [*range(first, first + count)] else columns
