"""Sliding windows over time series, as training data: a data set, and the arrays themselves.

`fastlstm.training.columns` says what a series may be. Windows never cross from one series of a list
into another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ..arrays import as_array
from ..checks import check_bool, check_dtype, check_size
from .columns import Columns, SeriesOrList, as_tables, check_order, positions
from .datasets import Batch, Indices, check_indices
from .standardizer import Standardizer, check_standardizer


class Windows:
    """Sliding windows over series: some steps are the input, some later steps the target.

    Sample n starts at step s = n * stride. Its inputs are the steps s to s + window - 1, and its
    targets are `horizon` steps, of which the first is `lead` steps after the last input.

    Parameters
    ----------
    series : array of shape (T, F) or (T,), DataFrame, or list of those
        They are not copied, unless a DataFrame has columns of several types. In a list the windows
        of the first series come first, and so on; a series that is too short for a window has none.
        An index of dates must increase, at equal distances (weekends are no gaps in working days);
        see `split_at_gaps`.
    window : int
        The number of input steps.
    horizon : int
        The number of target steps.
    inputs, targets : list of column names or positions, or one of them, optional
        The columns of the input and of the target; all, if not given. Strings are names of a
        DataFrame's columns, integers are always positions.
    lead : int
        Steps from the last input to the first target. With 1 the targets begin at the next step: a
        forecast. With 0 they begin at the last step of the inputs, as for runoff after rain. With
        ``1 - window`` and ``horizon=window`` there is a target at every step of the inputs.
    stride : int
        Steps from the start of a window to the start of the next.
    standardizer : Standardizer, optional
        Standardises the series, batch by batch, before they become windows.
    weights : array of shape (T,) or, for many series, a list of such arrays, optional
        How much each step counts as a target. An array of shape (N,) has a weight for each sample.
    std : number, or sequence with one for each series, optional
        For `NSELoss`: the standard deviation of each series' targets, in the unit that they have in
        the windows.
    mask_missing : bool
        Leave targets that are nan out of the loss, by the mask of the batches.
    flat : bool
        Give y as (B, horizon * targets), step by step, which is what a Linear after a Last
        predicts; otherwise as (B, horizon, targets).
    dtype : {"float32", "float64"}
        Of x and y.

    Attributes
    ----------
    inputs, targets : list of int
        The positions of the columns.

    Raises
    ------
    ValueError
        If no series has enough steps, series or columns do not fit, or an index says that rows
        are not in the order of time, or have gaps. If `lead` is below 1 and no `inputs` are named,
        as the targets would be among the inputs then.

    Notes
    -----
    Only the batch at hand takes memory: the cube of samples, time and features is never made unless
    one asks for it by ``data[:]``. Missing values are not replaced; `Standardizer.fit` reports
    them, or ignores them with ``ignore_missing=True``.

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
        self,
        series: SeriesOrList,
        window: int,
        horizon: int = 1,
        *,
        inputs: Columns | None = None,
        targets: Columns | None = None,
        lead: int = 1,
        stride: int = 1,
        standardizer: Standardizer | None = None,
        weights: ArrayLike | Sequence[ArrayLike] | None = None,
        std: ArrayLike | None = None,
        mask_missing: bool = False,
        flat: bool = False,
        dtype: DTypeLike = "float32",
    ) -> None:
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

    def __repr__(self) -> str:
        steps = ", ".join(str(len(one)) for one in self.series[:3])
        more = ", ..." if len(self.series) > 3 else ""
        return (
            f"Windows({len(self)} of series of {steps}{more} steps, window={self.window}, "
            f"horizon={self.horizon}, inputs={self.inputs}, targets={self.targets}, "
            f"lead={self.lead}, stride={self.stride})"
        )

    def _checked_std(self, std: ArrayLike) -> NDArray[Any]:
        """Return a number for each series."""
        array, expected = as_array(std, "std"), (len(self.series),)
        if array.shape not in ((), expected):
            raise ValueError(
                f"Expected std to be a number, or of shape {expected}, one a series, got "
                f"{array.shape}"
            )
        return np.broadcast_to(array, expected)

    def _checked_weights(
        self, given: ArrayLike | Sequence[ArrayLike]
    ) -> NDArray[Any] | list[NDArray[Any]]:
        """Return weights of samples as an array, those of steps as a list with one per series."""
        if isinstance(given, (list, tuple)) and any(map(np.ndim, given)):
            weights = [as_array(w, "weights") for w in given]
        else:
            array = as_array(given, "weights")
            if array.shape == (len(self),):
                return array
            weights = [array]
        shapes, expected = [w.shape for w in weights], [(len(one),) for one in self.series]
        if shapes != expected:
            raise ValueError(
                f"Expected weights of shape {expected}, one a step of each series, or "
                f"({len(self)},), one a sample, got {shapes}"
            )
        return weights

    def __len__(self) -> int:
        """Return the number of samples of all series together."""
        return int(self._ends[-1])

    def __getitem__(self, indices: Indices) -> Batch:
        """Return the Batch of these samples: x (B, window, inputs), y (B, horizon, targets)."""
        indices = check_indices(indices, len(self))
        number, first = self.where(indices)
        into = first[:, None] - self._first_target + np.arange(self.window)
        out_of = first[:, None] + np.arange(self.horizon)
        x, y = self._gather(number, into, self.inputs), self._gather(number, out_of, self.targets)
        weights: NDArray[Any] | None
        if isinstance(self.weights, list):
            of_steps = zip(number, out_of, strict=True)
            weights = np.stack([self.weights[n][steps] for n, steps in of_steps])
            weights = weights.repeat(len(self.targets), axis=1) if self.flat else weights
        else:
            weights = None if self.weights is None else self.weights[indices]
        y = y.reshape(len(y), math.prod(y.shape[1:])) if self.flat else y
        std = None if self.std is None else self.std[number]
        return Batch(x, y, weights, ~np.isnan(y) if self.mask_missing else None, std=std)

    def where(self, indices: Indices) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the place of each sample: its series, and the step of its first target.

        Parameters
        ----------
        indices : list of int, or slice
            The samples.

        Returns
        -------
        number : int64 ndarray of shape (B,)
            The number of the series; 0 if there is one.
        first : int64 ndarray of shape (B,)
            The step of the first target in that series.
        """
        indices = check_indices(indices, len(self))
        number = np.searchsorted(self._ends, indices, side="right")
        starts = np.append(0, self._ends)[number]
        return number, (indices - starts) * self.stride + self._first_target

    def _gather(
        self, number: NDArray[np.int64], steps: NDArray[np.int64], columns: list[int]
    ) -> NDArray[Any]:
        """Return the rows `steps` (B, S) of the series `number` (B,) as (B, S, columns)."""
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
    series: SeriesOrList,
    window: int,
    horizon: int = 1,
    *,
    inputs: Columns | None = None,
    targets: Columns | None = None,
    lead: int = 1,
    stride: int = 1,
    flat: bool = False,
    dtype: DTypeLike = "float32",
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Cut series into windows: the cube of samples, time and features, and its targets.

    Parameters
    ----------
    series, window, horizon, inputs, targets, lead, stride, flat, dtype
        As for `Windows`.

    Returns
    -------
    x : ndarray of shape (N, window, inputs)
    y : ndarray of shape (N, horizon, targets), or (N, horizon * targets) if `flat`

    Raises
    ------
    ValueError
        For the same reasons as `Windows`.

    Notes
    -----
    The result takes about ``window / stride`` times the memory of the series; `Windows` takes none.

    Examples
    --------
    >>> x, y = fastlstm.training.windows(np.arange(10.0), window=4, horizon=2, stride=2)
    >>> x.shape, y.shape
    ((3, 4, 1), (3, 2, 1))
    >>> y[..., 0].tolist()
    [[4.0, 5.0], [6.0, 7.0], [8.0, 9.0]]
    """
    batch = Windows(
        series, window, horizon, inputs=inputs, targets=targets, lead=lead, stride=stride,
        flat=flat, dtype=dtype,
    )[:]  # fmt: skip
    return batch.x, batch.y


def _as_slice(columns: list[int]) -> slice | list[int]:
    """Return columns that are side by side as a slice, with which NumPy copies nothing."""
    first, count = columns[0], len(columns)
    return slice(first, first + count) if columns == [*range(first, first + count)] else columns
