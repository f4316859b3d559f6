"""Pictures of a training and of a forecast, drawn by matplotlib, which is imported when needed.

Figures are made without pyplot, so there is no window, no global state and nothing to close.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arrays import as_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = ["plot_forecast", "plot_history"]

_PAST, _FORECAST, _TRUTH = "0.35", "tab:blue", "tab:orange"


def plot_history(
    history: Mapping[str, Sequence[float]], path: str | PathLike[str] | IO[bytes] | None = None
) -> Figure:
    """Draw the losses of a training, epoch by epoch.

    Parameters
    ----------
    history : History, or dict of str -> list
        What `fastlstm.training.fit` returned. Every list whose name ends in "loss" is drawn, on a
        logarithmic scale if all values are above 0. The epoch with the least validation loss is
        marked.
    path : str, path-like or binary file, optional
        Where to save the picture. The suffix gives the format: .png, .svg, .pdf; a file gets .png.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there is no loss, or no epoch.
    ImportError
        If matplotlib is missing.

    Examples
    --------
    >>> figure = fastlstm.plot.plot_history({"loss": [3.0, 1.0], "validation_loss": [4.0, 2.0]})
    >>> [line.get_label() for line in figure.axes[0].lines]
    ['loss', 'validation loss', 'best: 2 in epoch 2']
    """
    losses = {name: values for name, values in history.items() if name.endswith("loss")}
    if not any(losses.values()):
        raise ValueError(
            "history: Expected a loss with at least one epoch, got "
            f"{', '.join(history) or 'nothing'}"
        )
    figure, (axes,) = _figure(1, 4)
    for name, values in losses.items():
        axes.plot(range(1, len(values) + 1), values, label=name.replace("_", " "))
    if validation := losses.get("validation_loss"):
        best = int(np.argmin(validation))
        label = f"best: {validation[best]:.4g} in epoch {best + 1}"
        axes.plot(best + 1, validation[best], "o", color=axes.lines[-1].get_color(), label=label)
    if min(map(min, losses.values())) > 0:
        axes.set_yscale("log")
    axes.set(xlabel="epoch", ylabel="loss")
    locator: Any = axes.xaxis.get_major_locator()
    locator.set_params(integer=True)
    return _finished(figure, path)


def plot_forecast(
    series: ArrayLike,
    forecast: ArrayLike,
    truth: ArrayLike | None = None,
    band: Sequence[ArrayLike] | None = None,
    path: str | PathLike[str] | IO[bytes] | None = None,
    *,
    names: str | Sequence[str] | None = None,
    times: ArrayLike | None = None,
) -> Figure:
    """Draw a forecast behind the series that it continues.

    Parameters
    ----------
    series : array of shape (T,) or (T, C)
        The known values that should be seen. C series are drawn below each other.
    forecast : array of shape (N,) or (N, C)
        The N steps behind the series.
    truth : array of the forecast's shape, optional
        The true values of these steps.
    band : pair of arrays of the forecast's shape, optional
        The lower and the upper quantile of the forecast.
    path : str, path-like or binary file, optional
        Where to save the picture. The suffix gives the format: .png, .svg, .pdf; a file gets .png.
    names : str, or list of C str, optional
        The names of the series, with their units.
    times : array of shape (T + N,), optional
        Dates or numbers for the axis of time. Without them, the forecast's first step is 1.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the shapes do not fit.
    ImportError
        If matplotlib is missing.

    Examples
    --------
    >>> figure = fastlstm.plot.plot_forecast([1.0, 2.0, 3.0], [4.0, 5.0], truth=[4.5, 4.0])
    >>> [line.get_label() for line in figure.axes[0].lines]
    ['series', 'truth', 'forecast']
    >>> figure.axes[0].lines[-1].get_xdata()
    array([1, 2])
    """
    known, ahead = _columns(series, "series"), _columns(forecast, "forecast")
    past, future, count = len(known), len(ahead), ahead.shape[1]
    if known.shape[1] != count:
        raise ValueError(f"Expected a forecast for each of {known.shape[1]} series, got {count}")
    quantiles = [] if band is None else _pair(band)
    right = None if truth is None else _columns(truth, "truth", ahead.shape)
    bounds = [_columns(q, f"band[{n}]", ahead.shape) for n, q in enumerate(quantiles)]
    labels = [names] if isinstance(names, str) else names or [""] * count
    if len(labels) != count:
        raise ValueError(f"Expected a name for each of {count} series, got {len(labels)}")
    at = np.arange(1 - past, future + 1) if times is None else np.asarray(times)
    if len(at) != past + future:
        raise ValueError(
            f"Expected {past} + {future} times, one for each step of series and forecast, got "
            f"{len(at)}"
        )
    then = at[past:]
    figure, all_axes = _figure(count, 2 + 2 / count)
    for k, axes in enumerate(all_axes):
        axes.plot(at[:past], known[:, k], color=_PAST, label="series")
        if right is not None:
            axes.plot(then, right[:, k], color=_TRUTH, label="truth")
        axes.plot(then, ahead[:, k], color=_FORECAST, label="forecast")
        if bounds:
            low, high = (bound[:, k] for bound in bounds)
            axes.fill_between(
                then, low, high, label="quantiles", color=_FORECAST, alpha=0.2, linewidth=0
            )
        axes.set_ylabel(labels[k])
    if at.dtype.kind == "M":
        _write_dates(all_axes[-1].xaxis)
    return _finished(figure, path)


def check_matplotlib() -> type[Figure]:
    """Import matplotlib and return its class of figures.

    Raises
    ------
    ImportError
        If matplotlib is missing; the message says how to install it.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "plots need matplotlib, which is missing: pip install matplotlib"
        ) from error
    return Figure


def _columns(values: ArrayLike, name: str, shape: tuple[int, ...] | None = None) -> NDArray[Any]:
    """Return values (T,) or (T, C) as an array (T, C) of numbers, which must have `shape`."""
    array = as_array(values, name)
    columns = array[:, None] if array.ndim == 1 else array
    if columns.ndim != 2 or not columns.size:
        raise ValueError(f"Expected {name} of shape (T,) or (T, C), got {array.shape}")
    if shape is not None and columns.shape != shape:
        raise ValueError(f"Expected {name} of the forecast's shape {shape}, got {array.shape}")
    return columns


def _pair(band: Sequence[ArrayLike]) -> Sequence[ArrayLike]:
    """Refuse a band that is not two arrays."""
    if len(band) != 2:
        raise ValueError(f"Expected band with a lower and an upper quantile, got {len(band)}")
    return band


def _figure(rows: int, height: float) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure of axes below each other, each `height` inches high, with one x-axis."""
    figure = check_matplotlib()(figsize=(8, rows * height), layout="constrained")
    return figure, list(figure.subplots(rows, sharex=True, squeeze=False)[:, 0])


def _write_dates(axis: Axis) -> None:
    """Write what the dates on an axis have in common only once, so that their labels fit."""
    from matplotlib.dates import ConciseDateFormatter

    axis.set_major_formatter(ConciseDateFormatter(axis.get_major_locator()))


def _finished(figure: Figure, path: str | PathLike[str] | IO[bytes] | None) -> Figure:
    """Add the grid and the legend, save the figure if there is a path, and return it."""
    for axes in figure.axes:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
