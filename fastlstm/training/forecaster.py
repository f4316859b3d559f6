"""A model together with what it takes to forecast with it: columns, units, window, horizon.

On disk it is the model's own .npz file, which `fastlstm.load` reads as ever, with notes in it.
"""

from pathlib import Path

import numpy as np

from ..arrays import column_names
from ..checks import check_size
from ..files import written_aside
from ..formats import load, npz
from ..formats.source import Source, file_name, opened
from ..layers import Layer
from .columns import as_table, check_names, check_order, positions
from .datasets import Batch
from .predict import predict
from .standardizer import Standardizer
from .view import SamplesFirst, mode
from .windows import Windows

_KIND, _VERSION = "forecaster", 1
_KEPT = ("window", "horizon", "inputs", "targets", "columns")


class Forecaster:
    """A model that forecasts series in their own units.

    Parameters
    ----------
    model : Layer
        From `window` steps of the inputs to all values of the forecast at once, step by step:
        ``Sequential(LSTM(inputs, hidden), Last(), Linear(hidden, horizon * targets))``.
    standardizer : Standardizer
        Of all columns of the series, fitted on the training part.
    window : int
        Steps that a forecast is made from.
    horizon : int
        Steps that the model forecasts.
    inputs, targets : list of column names or positions, or one of them, optional
        Which columns go in and which come out; all, if not given.
    columns : list of str, optional
        The names of all columns; those of the standardizer, if not given. With them a DataFrame's
        columns are found by name, in any order and among others.

    Attributes
    ----------
    inputs, targets : list of int
        The columns' positions.

    Raises
    ------
    ValueError, TypeError
        If something does not fit. The model has run on one step by then, in evaluation mode.

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
        self, model, standardizer, window, horizon=1, *, inputs=None, targets=None, columns=None
    ):
        if not isinstance(model, Layer):
            raise TypeError(f"model should be a layer, got: {type(model).__name__}")
        if not isinstance(standardizer, Standardizer):
            raise TypeError(f"Expected a Standardizer, got {type(standardizer).__name__}")
        self.model, self.standardizer = model, standardizer
        self.window, self.horizon = check_size("window", window), check_size("horizon", horizon)
        count = len(standardizer.mean)
        columns = standardizer.state_dict().get("names") if columns is None else columns
        self.columns = None if columns is None else _check_columns(columns, count)
        check_names(standardizer.names, self.columns, "standardizer")
        self.inputs = positions("inputs", inputs, self.columns, count)
        self.targets = positions("targets", targets, self.columns, count)
        self._check_model()

    def __repr__(self):
        names = self.columns or range(len(self.standardizer.mean))
        into, out_of = ([names[n] for n in columns] for columns in (self.inputs, self.targets))
        return (
            f"Forecaster(window={self.window}, horizon={self.horizon}, inputs={into}, "
            f"targets={out_of})"
        )

    def windows(self, series, stride=1):
        """The data set to train the model on: what goes in and should come out, standardised.

        Parameters
        ----------
        series : array of shape (T, F) or (T,), DataFrame, or list of those
        stride : int
            Steps from the start of a window to the start of the next.

        Returns
        -------
        Windows
            Of this window, horizon, inputs and targets, flat, of the model's dtype.

        Raises
        ------
        ValueError
            If the columns are not those of the standardizer, the series are too short, or their
            dates say that rows are not in the order of time, or have gaps.
        """
        many, used = isinstance(series, (list, tuple)), {*self.inputs, *self.targets}
        series = [self._table(n, used) for n in series] if many else self._table(series, used)
        return Windows(
            series, self.window, self.horizon, inputs=self.inputs, targets=self.targets,
            stride=stride, standardizer=self.standardizer, flat=True, dtype=self.model.dtype,
        )  # fmt: skip

    def forecast(self, series, steps=None):
        """Forecast what comes after a series.

        Parameters
        ----------
        series : array of shape (T, F) or (T,), or DataFrame
            T is `window` at least; of the steps before the last `window` nothing is used, nor of
            columns that are no inputs: a DataFrame need not have them, and an array (T, inputs)
            is taken for the inputs alone.
        steps : int, optional
            How many; `horizon`, if not given. More need a model whose inputs are its targets: then
            it goes on from its own forecasts.

        Returns
        -------
        float64 ndarray of shape (steps, targets)
            In the series' own units.

        Raises
        ------
        ValueError
            If the series is too short, values that the forecast is made from are not finite, their
            dates have gaps, or there are to be more steps than the model can give.
        TypeError
            If it is a list of series.

        Notes
        -----
        Behind the horizon errors add up: what goes in there are forecasts, which are smoother than
        the series that the model was trained on. Nothing is known about them that a backtest told.
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

    def backtest(self, series, start=None, stride=1):
        """Forecast from many points of a series whose continuation is known.

        Parameters
        ----------
        series : array of shape (T, F) or (T,), or DataFrame
        start : int, optional
            The first step that is forecast. With the length of the training part all is forecast
            that the model has not seen; `window`, the first step that can be, if not given.
        stride : int
            Steps from one forecast's beginning to the next one's.

        Returns
        -------
        first : int64 ndarray of shape (N,)
            The first step of each forecast.
        forecast : float64 ndarray of shape (N, horizon, targets)
            In the series' own units.
        truth : float64 ndarray of shape (N, horizon, targets)
            What the series has there.

        Raises
        ------
        ValueError
            If there are less than `window` steps before the start, or less than `horizon` after it.

        Notes
        -----
        Each forecast knows all that was before its first step, as it would have been at that time.
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

    def save(self, path):
        """Save the model and all that belongs to the forecast in one file.

        Parameters
        ----------
        path : str or path-like
            Its suffix is .npz. `fastlstm.load` reads the model alone from it.

        Raises
        ------
        ValueError
            If it has another suffix.
        TypeError
            If the model's structure cannot be stored.

        Notes
        -----
        The file holds arrays and JSON. It is written aside and renamed, so a failure leaves the old
        one as it was.
        """
        path = Path(path)
        if path.suffix.lower() != ".npz":
            raise ValueError(f"{path}: a forecaster's suffix must be .npz, got {path.suffix!r}")
        notes = {"kind": _KIND, "version": _VERSION} | {name: getattr(self, name) for name in _KEPT}
        notes |= {name: getattr(self.standardizer, name).tolist() for name in ("mean", "scale")}
        with written_aside(path) as file:
            npz.write(file, self.model, notes)

    @classmethod
    def load(cls, path, engine="auto"):
        """Load what `save` wrote.

        Parameters
        ----------
        path : str, path-like or binary file
        engine : str
            For the model's LSTMs; see `LSTM`.

        Returns
        -------
        Forecaster
            Its model is in evaluation mode.

        Raises
        ------
        ValueError
            If the file is damaged, hostile or holds a model alone; the sentence names it.
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
            return cls(model, Standardizer(mean, scale, arguments["columns"]), **arguments)
        except (ValueError, TypeError, OverflowError) as fault:
            raise ValueError(f"{file_name(path)}: its notes do not fit: {fault}") from fault

    def _table(self, series, used):
        """One series as an array (T, F), its columns in the standardizer's order.

        Where columns have names only those `used` are looked for; the others are nan then.
        """
        check_order(series)
        if hasattr(series, "to_frame") and column_names(series) is None:
            series = series.to_frame()  # one column, which may have a name
        count, names = len(self.standardizer.mean), column_names(series)
        used = sorted(used)
        if self.columns is not None and names and names != list(range(len(names))):
            wanted = [self.columns[n] for n in used]
            if twice := [name for name in wanted if names.count(name) > 1]:
                raise ValueError(f"Expected the columns {wanted} once, got more of {twice}")
            if missing := [name for name in wanted if name not in names]:
                raise ValueError(
                    f"Expected the columns {wanted}, got a DataFrame without {missing}"
                )
            series = series.select(wanted) if hasattr(series, "select") else series[wanted]
            if hasattr(series, "infer_objects"):
                series = series.infer_objects()  # blanks elsewhere have made objects of numbers
            return _spread(as_table(series)[0], used, count)
        table, own_names = as_table(series)
        check_names(self.columns or self.standardizer.names, own_names, "standardizer")
        if table.shape[1] != count:
            raise ValueError(
                f"Expected a series of {count} columns, as the standardizer has, got "
                f"{table.shape[1]}"
            )
        return table

    def _known(self, series):
        """The last window of a series' inputs, standardised: (window, inputs)."""
        if column_names(series) is None and not hasattr(series, "to_frame"):
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

    def _in_units(self, y):
        return self.standardizer.inverse(y.astype(np.float64), self.targets)

    def _check_model(self):
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


def is_forecaster(path):
    """Tell whether a file is one that `Forecaster.save` wrote, without reading its model.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    bool
        False for a damaged file as well: whoever loads it will say what is wrong.

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


def seasonal_naive(series, first, horizon, season=1):
    """Forecast that all will be as one season ago: what a model must beat to be worth its while.

    Parameters
    ----------
    series : array of shape (T, C) or (T,)
    first : int, or list of N ints
        The first step of each forecast. It knows nothing of the series from there on.
    horizon : int
        Steps of a forecast; behind a season the last known one is repeated.
    season : int
        Steps of a season. With 1 it is the last known value.

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
    check_size("horizon", horizon), check_size("season", season)
    first = np.asarray(first)
    if first.min() < season or first.max() > len(table):
        raise ValueError(
            f"Expected forecasts from step {season}, a season, to {len(table)}, the series' end, "
            f"got one from step {first.min() if first.min() < season else first.max()}"
        )
    return table[first[..., None] - season + np.arange(horizon) % season]


def _taken(table, first, horizon):
    """The `horizon` rows of a table from each `first` on, as float64."""
    return table[first[:, None] + np.arange(horizon)].astype(np.float64)


def _check_one(series, what):
    if isinstance(series, (list, tuple)) and any(np.shape(one) for one in series):
        raise TypeError(
            f"{what} takes one series, got a list of {len(series)}: call it for each of them"
        )


def _spread(table, columns, count):
    """A table of these columns as one of `count` columns, nan elsewhere."""
    if columns == list(range(count)):
        return table
    whole = np.full((len(table), count), np.nan, np.promote_types(table.dtype, np.float32))
    whole[:, columns] = table
    return whole


def _check_columns(columns, count):
    names = columns.tolist() if isinstance(columns, np.ndarray) else list(columns)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"columns should be a list of names, got {columns!r}")
    if len(names) != count or len(set(names)) != count:
        raise ValueError(
            f"Expected the names of {count} columns, as the standardizer has, all different, got "
            f"{names}"
        )
    return names


def _read_notes(path):
    """The notes of an .npz file; None if it has none, or is of another format."""
    with opened(path) as file:
        source = Source(file)
        return npz.read_notes(source) if npz.recognises(source) else None


def _check_notes(notes):
    """The arguments in a file's notes, whose values `Forecaster` itself will check."""
    if notes is None or notes.get("kind") != _KIND:
        raise ValueError("it holds no forecaster, as `Forecaster.save` and `fastlstm train` write")
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
