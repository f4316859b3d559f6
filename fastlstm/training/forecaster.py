"""A model together with all that a forecast needs: columns, units, window and horizon.

On disk it is an .npz file of the model, which `fastlstm.load` can read, with notes in it; or an .fl
file, which the C library runs: its nodes bring the inputs from their units, and the forecast back.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arrays import column_names, is_column
from ..checks import check_not_newer, check_size
from ..files import written_aside
from ..formats import fl, load, npz
from ..formats.source import Source, file_name, opened
from ..layers import Layer
from .columns import (
    Columns,
    SeriesOrList,
    as_table,
    check_names,
    check_order,
    positions,
)
from .datasets import Batch
from .predict import predict
from .standardizer import Standardizer
from .view import SamplesFirst, mode
from .windows import Windows

if TYPE_CHECKING:
    from ..engines import EngineChoice

_KIND, _VERSION = "forecaster", 1
_KEPT = ("window", "horizon", "inputs", "targets", "columns")


class Forecaster:
    """A model that forecasts series in their own units.

    Parameters
    ----------
    model : Layer
        It goes from `window` steps of the inputs to all values of the forecast at once, step by
        step: ``Sequential(LSTM(inputs, hidden), Last(), Linear(hidden, horizon * targets))``.
    standardizer : Standardizer
        It covers all columns of the series and was fitted on the training part.
    window : int
        The number of steps that a forecast is made from.
    horizon : int
        The number of steps that the model forecasts.
    inputs, targets : list of column names or positions, or one of them, optional
        The columns that the model takes and those that it forecasts; all, if not given.
    columns : list of str, optional
        The names of all columns; those of the standardizer, if not given. By these names the
        columns are found in a DataFrame, in any order and among others.

    Attributes
    ----------
    inputs, targets : list of int
        The positions of the columns.

    Raises
    ------
    ValueError, TypeError
        If something does not fit. To find out, the model is run on one step, in evaluation mode.

    Examples
    --------
    >>> series = 50 + 10 * np.sin(np.arange(300) * 2 * np.pi / 12)
    >>> model = fastlstm.Sequential(
    ...     fastlstm.LSTM(1, 8, seed=0), fastlstm.Last(), fastlstm.Linear(8, 6, seed=0)
    ... )
    >>> standardizer = fastlstm.training.Standardizer.fit(series[:240])
    >>> forecaster = fastlstm.training.Forecaster(model, standardizer, window=12, horizon=6)
    >>> history = fastlstm.training.fit(
    ...     model, forecaster.windows(series[:240]), fastlstm.training.MSELoss(),
    ...     fastlstm.training.Adam(model, lr=0.01), epochs=30,
    ... )
    >>> bool(np.abs(forecaster.forecast(series[:250])[:, 0] - series[250:256]).max() < 1)
    True
    """

    def __init__(
        self,
        model: Layer,
        standardizer: Standardizer,
        window: int,
        horizon: int = 1,
        *,
        inputs: Columns | None = None,
        targets: Columns | None = None,
        columns: Sequence[str] | NDArray[Any] | None = None,
    ) -> None:
        if not isinstance(model, Layer):
            raise TypeError(f"model should be a layer, got: {type(model).__name__}")
        if not isinstance(standardizer, Standardizer):
            raise TypeError(f"Expected a Standardizer, got {type(standardizer).__name__}")
        self.model, self.standardizer = model, standardizer
        self.window, self.horizon = check_size("window", window), check_size("horizon", horizon)
        count = len(standardizer.mean)
        names = standardizer.state_dict().get("names") if columns is None else columns
        self.columns = None if names is None else _check_columns(names, count)
        check_names(standardizer.names, self.columns, "standardizer")
        self.inputs = positions("inputs", inputs, self.columns, count)
        self.targets = positions("targets", targets, self.columns, count)
        self._check_model()

    def __repr__(self) -> str:
        names: Sequence[Any] = self.columns or range(len(self.standardizer.mean))
        into, out_of = ([names[n] for n in columns] for columns in (self.inputs, self.targets))
        return (
            f"Forecaster(window={self.window}, horizon={self.horizon}, inputs={into}, "
            f"targets={out_of})"
        )

    def windows(self, series: SeriesOrList, stride: int = 1) -> Windows:
        """Return the data set to train the model on: standardised inputs and targets.

        Parameters
        ----------
        series : array of shape (T, F) or (T,), DataFrame, or list of those
        stride : int
            Steps from the start of a window to the start of the next.

        Returns
        -------
        Windows
            With this window, horizon, inputs and targets, flat, in the model's dtype.

        Raises
        ------
        ValueError
            If the columns are not those of the standardizer, the series are too short, or their
            dates say that rows are not in the order of time, or have gaps.
        """
        used = {*self.inputs, *self.targets}
        tables: SeriesOrList
        if isinstance(series, (list, tuple)):
            tables = [self._table(one, used) for one in series]
        else:
            tables = self._table(series, used)
        return Windows(
            tables, self.window, self.horizon, inputs=self.inputs, targets=self.targets,
            stride=stride, standardizer=self.standardizer, flat=True, dtype=self.model.dtype,
        )  # fmt: skip

    def forecast(self, series: ArrayLike, steps: int | None = None) -> NDArray[np.float64]:
        """Forecast what comes after a series.

        Parameters
        ----------
        series : array of shape (T, F) or (T,), or DataFrame
            T is at least `window`. Only the last `window` steps are used, and only the columns that
            are inputs: a DataFrame need not have the others, and an array (T, inputs) is understood
            as the inputs alone.
        steps : int, optional
            The number of steps; `horizon`, if not given. More than `horizon` need a model whose
            inputs are its targets: it continues from its own forecasts.

        Returns
        -------
        float64 ndarray of shape (steps, targets)
            In the series' own units.

        Raises
        ------
        ValueError
            If the series is too short, values that the forecast is made from are not finite, their
            dates have gaps, or the model cannot forecast so many steps.
        TypeError
            If it is a list of series.

        Notes
        -----
        Beyond the horizon errors add up, as the model's inputs are its own forecasts then, which
        are smoother than the series that it was trained on. A backtest says nothing about these
        steps: it measures forecasts up to the horizon.
        """
        steps = self.horizon if steps is None else check_size("steps", steps)
        own = sorted(self.inputs) == sorted(self.targets)
        if steps > self.horizon and not own:
            raise ValueError(
                f"Expected at most the horizon of {self.horizon} steps, got steps={steps}: only a "
                "model whose inputs are its targets can go on from its own forecasts"
            )
        _check_one(series, "forecast")
        known = self._known(series)
        back = [self.targets.index(column) for column in self.inputs] if own else None
        parts = []
        for _ in range(0, steps, self.horizon):
            y = predict(self.model, known[None]).reshape(self.horizon, len(self.targets))
            parts.append(y)
            if own:
                known = np.concatenate([known, y[:, back]])[-self.window :]
        return self._in_units(np.concatenate(parts)[:steps])

    def backtest(
        self, series: ArrayLike, start: int | None = None, stride: int = 1
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Forecast from many points of a series whose continuation is known.

        Parameters
        ----------
        series : array of shape (T, F) or (T,), or DataFrame
        start : int, optional
            The first step that is forecast; `window`, the earliest possible, if not given. With the
            length of the training part all steps are forecast that the model has not seen.
        stride : int
            Steps from the beginning of a forecast to that of the next.

        Returns
        -------
        first : int64 ndarray of shape (N,)
            The first step of each forecast.
        forecast : float64 ndarray of shape (N, horizon, targets)
            In the series' own units.
        truth : float64 ndarray of shape (N, horizon, targets)
            The values of the series at these steps.

        Raises
        ------
        ValueError
            If there are fewer than `window` steps before the start, or fewer than `horizon` after
            it.

        Notes
        -----
        Each forecast uses the true values before its first step, as it could have at that time.
        """
        _check_one(series, "backtest")
        table = self._table(series, {*self.inputs, *self.targets})
        start = self.window if start is None else check_size("start", start, least=self.window)
        if start + self.horizon > len(table):
            raise ValueError(
                f"Expected at least {self.horizon} steps from step {start} on, got a series of "
                f"{len(table)}"
            )
        data = self.windows(table[start - self.window :], stride)
        first = data.where(slice(None))[1] + start - self.window
        y = predict(self.model, data).reshape(len(data), self.horizon, len(self.targets))
        return first, self._in_units(y), _taken(table[:, self.targets], first, self.horizon)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the model and all that a forecast needs in one file.

        Parameters
        ----------
        path : str or path-like
            Its suffix is .npz, or .fl for a program in C. `fastlstm.load` reads the model alone
            from it.

        Raises
        ------
        ValueError
            If it has another suffix, or if an .fl file cannot hold the model.
        TypeError
            If the model's structure cannot be stored.

        Notes
        -----
        The file holds arrays and JSON. It is written aside and renamed, so a failure leaves the old
        file as it was.

        In C, the model of an .fl file takes the inputs of a step in their own units, in the order
        of `inputs`. After `window` steps from the first state on it gives the forecast, (horizon,
        targets), in the targets' units. It standardises in the model's dtype, where `forecast` does
        it in float64: with float32, what it takes is rounded to about 7 digits.
        """
        path = Path(path)
        if path.suffix.lower() not in _WRITERS:
            suffixes = " or ".join(_WRITERS)
            raise ValueError(
                f"{path}: a forecaster's suffix must be {suffixes}, got {path.suffix!r}"
            )
        with written_aside(path) as file:
            try:
                _WRITERS[path.suffix.lower()](file, self)
            except ValueError as fault:
                raise ValueError(f"{path}: {fault}") from fault

    @classmethod
    def load(
        cls, path: str | os.PathLike[str] | BinaryIO, engine: EngineChoice = "auto"
    ) -> Forecaster:
        """Load what `save` wrote.

        Parameters
        ----------
        path : str, path-like or binary file
        engine : str
            The engine of the model's LSTMs; see `LSTM`.

        Returns
        -------
        Forecaster
            A forecaster whose model is in evaluation mode.

        Raises
        ------
        ValueError
            If the file is damaged, hostile or holds only a model. The error names the file.
        OSError
            If it cannot be opened.
        """
        try:
            arguments = _check_notes(_read_notes(path))
        except ValueError as fault:
            raise ValueError(f"{file_name(path)}: {fault}") from fault
        model = load(path, engine=engine)
        try:
            mean, scale = arguments.pop("mean"), arguments.pop("scale")
            forecaster = cls(model, Standardizer(mean, scale, arguments["columns"]), **arguments)
            with opened(path) as file:
                source = Source(file)
                if fl.recognises(source) and not fl.is_same(source, _model_in_c(forecaster)):
                    raise ValueError("its nodes compute something else")
            return forecaster
        except (ValueError, TypeError, OverflowError) as fault:
            raise ValueError(f"{file_name(path)}: its notes do not fit: {fault}") from fault

    def _table(self, series: Any, used: Iterable[int]) -> NDArray[Any]:
        """Return a series as an array (T, F), with its columns in the standardizer's order.

        If columns have names, only those `used` are looked for, and the others are nan.
        """
        check_order(series)
        if is_column(series):
            series = series.to_frame()
        count, names = len(self.standardizer.mean), column_names(series)
        if self.columns is not None and names and names != list(range(len(names))):
            needed = sorted(used)
            wanted = [self.columns[n] for n in needed]
            if twice := [name for name in wanted if names.count(name) > 1]:
                raise ValueError(f"Expected the columns {wanted} once, got more of {twice}")
            if missing := [name for name in wanted if name not in names]:
                raise ValueError(
                    f"Expected the columns {wanted}, got a DataFrame without {missing}"
                )
            series = series.select(wanted) if hasattr(series, "select") else series[wanted]
            if hasattr(series, "infer_objects"):
                series = series.infer_objects()  # blanks elsewhere made objects of numbers
            return _spread(as_table(series)[0], needed, count)
        table, own_names = as_table(series)
        check_names(self.columns or self.standardizer.names, own_names, "standardizer")
        if table.shape[1] != count:
            raise ValueError(
                f"Expected a series of {count} columns, as the standardizer has, got "
                f"{table.shape[1]}"
            )
        return table

    def _known(self, series: Any) -> NDArray[Any]:
        """Return the last window of a series' inputs, standardised: (window, inputs)."""
        if column_names(series) is None and not is_column(series):
            series, _ = as_table(series)
            if series.shape[1] == len(self.inputs) < len(self.standardizer.mean):
                series = _spread(series, self.inputs, len(self.standardizer.mean))
        if len(series) < self.window:
            raise ValueError(
                f"Expected a series of at least {self.window} steps, the window, got {len(series)}"
            )
        first = len(series) - self.window
        rows = getattr(series, "iloc", series)  # a DataFrame's own brackets may mean labels
        part = self._table(rows[first:], self.inputs)[:, self.inputs]
        if not np.isfinite(part).all():
            step, column = np.argwhere(~np.isfinite(part))[0]
            raise ValueError(
                f"Expected finite values in the last {self.window} steps, got {part[step, column]} "
                f"at step {first + step} of column {self.inputs[column]}"
            )
        return self.standardizer.transform(part, self.inputs).astype(self.model.dtype)

    def _in_units(self, y: NDArray[Any]) -> NDArray[np.float64]:
        return self.standardizer.inverse(y.astype(np.float64), self.targets)

    def _check_model(self) -> None:
        """Refuse a model that does not go from the inputs to the forecast."""
        x = np.zeros((1, 1, len(self.inputs)), self.model.dtype)
        try:
            with mode(self.model, training=False):
                y = SamplesFirst(self.model)(Batch(x, x))
        except (TypeError, ValueError) as fault:
            raise type(fault)(f"model: {fault}") from fault
        expected = (1, self.horizon * len(self.targets))
        if np.shape(y) != expected:
            raise ValueError(
                f"model: Expected one that gives (B, horizon * targets) = (B, {expected[1]}), got "
                f"{('B', *np.shape(y)[1:])}"
            )


def is_forecaster(path: str | os.PathLike[str] | BinaryIO) -> bool:
    """Tell whether `Forecaster.save` wrote a file, without reading its model.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    bool
        It is False for a damaged file as well; `Forecaster.load` says what is wrong with it.

    Raises
    ------
    OSError
        If it cannot be opened.

    Examples
    --------
    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "model.npz")
    >>> fastlstm.save(fastlstm.LSTM(3, 4), path)
    >>> fastlstm.training.is_forecaster(path)
    False
    """
    try:
        notes = _read_notes(path)
    except ValueError:
        return False
    return notes is not None and notes.get("kind") == _KIND


def seasonal_naive(
    series: ArrayLike, first: int | ArrayLike, horizon: int, season: int = 1
) -> NDArray[Any]:
    """Forecast the values of one season ago: the baseline that a useful model must beat.

    Parameters
    ----------
    series : array of shape (T, C) or (T,)
    first : int, or list of N ints
        The first step of each forecast, which uses nothing of the series from there on.
    horizon : int
        The steps of a forecast. If it is longer than a season, the last known season is repeated.
    season : int
        The steps of a season. With 1 the forecast is the last known value.

    Returns
    -------
    ndarray of shape (N, horizon, C)
        Or (horizon, C) if `first` is a number.

    Raises
    ------
    ValueError
        If there is less than a season before a forecast.

    Examples
    --------
    >>> series = np.array([1, 2, 3, 4, 5, 6])
    >>> fastlstm.training.seasonal_naive(series, 3, 4)[:, 0]
    array([3, 3, 3, 3])
    >>> fastlstm.training.seasonal_naive(series, [3, 6], 4, season=2)[..., 0]
    array([[2, 3, 2, 3],
           [5, 6, 5, 6]])
    """
    check_order(series)
    table, _ = as_table(series)
    check_size("horizon", horizon)
    check_size("season", season)
    starts = np.asarray(first)
    if starts.min() < season or starts.max() > len(table):
        raise ValueError(
            f"Expected forecasts from step {season}, a season, to {len(table)}, the series' end, "
            f"got one from step {starts.min() if starts.min() < season else starts.max()}"
        )
    return table[starts[..., None] - season + np.arange(horizon) % season]


def _taken(table: NDArray[Any], first: NDArray[np.int64], horizon: int) -> NDArray[np.float64]:
    """Return the `horizon` rows of a table from each `first` on, as float64."""
    rows: NDArray[Any] = table[first[:, None] + np.arange(horizon)]
    return rows.astype(np.float64)


def _check_one(series: object, what: str) -> None:
    """Refuse a list of series."""
    if isinstance(series, (list, tuple)) and any(np.shape(one) for one in series):
        raise TypeError(
            f"{what} takes one series, got a list of {len(series)}: call it for each of them"
        )


def _spread(table: NDArray[Any], columns: list[int], count: int) -> NDArray[Any]:
    """Return a table of `count` columns: these ones from another table, nan elsewhere."""
    if columns == list(range(count)):
        return table
    whole = np.full((len(table), count), np.nan, np.promote_types(table.dtype, np.float32))
    whole[:, columns] = table
    return whole


def _check_columns(columns: Sequence[str] | NDArray[Any], count: int) -> list[str]:
    """Return the names of columns as a list; refuse names that are not all different texts."""
    names = columns.tolist() if isinstance(columns, np.ndarray) else list(columns)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"columns should be a list of names, got {columns!r}")
    if len(names) != count or len(set(names)) != count:
        raise ValueError(
            f"Expected the names of {count} columns, as the standardizer has, all different, got "
            f"{names}"
        )
    return names


def _notes(forecaster: Forecaster) -> dict[str, Any]:
    """Return what a file holds beside the model, as JSON can hold it."""
    notes = {"kind": _KIND, "version": _VERSION}
    notes |= {name: getattr(forecaster, name) for name in _KEPT}
    standardizer = forecaster.standardizer
    return notes | {name: getattr(standardizer, name).tolist() for name in ("mean", "scale")}


def _scales(forecaster: Forecaster) -> tuple[fl.Scale, fl.Scale]:
    """Return the means and scales of the inputs of a step, and of all values of a forecast."""
    mean, scale = forecaster.standardizer.mean, forecaster.standardizer.scale
    into, targets = forecaster.inputs, forecaster.targets * forecaster.horizon
    return fl.Scale(mean[into], scale[into]), fl.Scale(mean[targets], scale[targets])


def _model_in_c(forecaster: Forecaster) -> fl.Model:
    return fl.model_of(forecaster.model, *_scales(forecaster))


def _write_npz(file: IO[bytes], forecaster: Forecaster) -> None:
    npz.write(file, forecaster.model, _notes(forecaster))


def write_fl(file: IO[bytes], forecaster: Forecaster) -> None:
    """Write a forecaster as the C library takes it; see `Forecaster.save`."""
    inputs, outputs = _scales(forecaster)
    fl.write(file, forecaster.model, inputs=inputs, outputs=outputs, notes=_notes(forecaster))


_WRITERS = {".npz": _write_npz, ".fl": write_fl}


def _read_notes(path: str | os.PathLike[str] | BinaryIO) -> dict[str, Any] | None:
    """Return the notes of an .npz or .fl file; None if it has none or is of another format."""
    with opened(path) as file:
        source = Source(file)
        if fl.recognises(source):
            return fl.read_notes(source)
        return npz.read_notes(source) if npz.recognises(source) else None


def _check_notes(notes: dict[str, Any] | None) -> dict[str, Any]:
    """Return the arguments in a file's notes; `Forecaster` itself checks their values."""
    if notes is None or notes.get("kind") != _KIND:
        raise ValueError("it holds no forecaster, as `Forecaster.save` and `fastlstm train` write")
    check_not_newer("its forecaster", notes.get("version"), _VERSION)
    arguments = {name: notes[name] for name in notes if name not in ("kind", "version")}
    if notes.get("version") != _VERSION or arguments.keys() != {*_KEPT, "mean", "scale"}:
        raise ValueError(
            f"its notes must be of version {_VERSION} and have {', '.join(_KEPT)}, mean and scale, "
            f"got {str(sorted(notes))[:200]}"
        )
    lists = ["inputs", "targets", "mean", "scale"]
    lists += ["columns"] * (arguments["columns"] is not None)
    if wrong := [name for name in lists if not isinstance(arguments[name], list)]:
        raise ValueError(f"its notes must have lists as {wrong[0]}")
    return arguments
