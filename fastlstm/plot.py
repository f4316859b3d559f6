"""Pictures of a training and of a forecast, with matplotlib, which is imported when one is drawn.

Figures are made without pyplot: there is no window, no global state, nothing to close.
"""

import numpy as np

from .arrays import as_array

_PAST, _FORECAST, _TRUTH = "0.35", "tab:blue", "tab:orange"


def plot_history(history, path=None):
    """Draw the losses of a training, epoch by epoch.

    Parameters
    ----------
    history : History, or dict of str -> list
        What `fastlstm.training.fit` returned: every list whose name ends in "loss" is drawn; on a
        logarithmic scale if all values are above 0. The epoch of the least validation loss is
        marked.
    path : str or path-like, optional
        Where to save the picture, as its suffix says: .png, .svg, .pdf.

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
    if values := losses.get("validation_loss"):
        best = int(np.argmin(values))
        label = f"best: {values[best]:.4g} in epoch {best + 1}"
        axes.plot(best + 1, values[best], "o", color=axes.lines[-1].get_color(), label=label)
    if min(map(min, losses.values())) > 0:
        axes.set_yscale("log")
    axes.set(xlabel="epoch", ylabel="loss")
    axes.xaxis.get_major_locator().set_params(integer=True)
    return _finished(figure, path)


def plot_forecast(series, forecast, truth=None, band=None, path=None, *, names=None, times=None):
    """Draw a forecast behind the series that it goes on from.

    Parameters
    ----------
    series : array of shape (T,) or (T, C)
        What was known: as much of it as should be seen. C series are drawn below each other.
    forecast : array of shape (N,) or (N, C)
        The N steps after it.
    truth : array of the forecast's shape, optional
        What came of them.
    band : pair of arrays of the forecast's shape, optional
        Lower and upper quantile of the forecast.
    path : str or path-like, optional
        Where to save the picture, as its suffix says: .png, .svg, .pdf.
    names : str, or C of them, optional
        Of the series, with units.
    times : array of shape (T + N,), optional
        Dates or numbers for the axis of time. Without them the forecast's first step is 1.

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
    series, forecast = _columns(series, "series"), _columns(forecast, "forecast")
    count = forecast.shape[1]
    if series.shape[1] != count:
        raise ValueError(f"Expected a forecast for each of {series.shape[1]} series, got {count}")
    low, high = (None, None) if band is None else _pair(band)
    others = {"truth": truth, "band[0]": low, "band[1]": high}
    truth, low, high = (
        None if value is None else _columns(value, name, forecast.shape)
        for name, value in others.items()
    )
    names = [names] if isinstance(names, str) else names or [""] * count
    if len(names) != count:
        raise ValueError(f"Expected a name for each of {count} series, got {len(names)}")
    past, future = len(series), len(forecast)
    times = np.arange(1 - past, future + 1) if times is None else np.asarray(times)
    if len(times) != past + future:
        raise ValueError(
            f"Expected {past} + {future} times, one for each step of series and forecast, got "
            f"{len(times)}"
        )
    then = times[past:]
    figure, all_axes = _figure(count, 2 + 2 / count)
    for k, axes in enumerate(all_axes):
        axes.plot(times[:past], series[:, k], color=_PAST, label="series")
        if truth is not None:
            axes.plot(then, truth[:, k], color=_TRUTH, label="truth")
        axes.plot(then, forecast[:, k], color=_FORECAST, label="forecast")
        if low is not None:
            shade = {"color": _FORECAST, "alpha": 0.2, "linewidth": 0}
            axes.fill_between(then, low[:, k], high[:, k], label="quantiles", **shade)
        axes.set_ylabel(names[k])
    if times.dtype.kind == "M":
        _write_dates(axes.xaxis)
    return _finished(figure, path)


def _columns(values, name, shape=None):
    """Values (T,) or (T, C) as an array (T, C) of numbers; of `shape` if one is given."""
    array = as_array(values, name)
    columns = array[:, None] if array.ndim == 1 else array
    if columns.ndim != 2 or not columns.size:
        raise ValueError(f"Expected {name} of shape (T,) or (T, C), got {array.shape}")
    if shape is not None and columns.shape != shape:
        raise ValueError(f"Expected {name} of the forecast's shape {shape}, got {array.shape}")
    return columns


def _pair(band):
    if len(band) != 2:
        raise ValueError(f"Expected band with a lower and an upper quantile, got {len(band)}")
    return band


def _figure(rows, height):
    """A figure with so many axes below each other, each `height` inches high, on one x-axis."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "plots need matplotlib, which is missing: pip install matplotlib"
        ) from error
    figure = Figure(figsize=(8, rows * height), layout="constrained")
    return figure, figure.subplots(rows, sharex=True, squeeze=False)[:, 0]


def _write_dates(axis):
    """Write what dates on an axis have in common once, so that they do not run into each other."""
    from matplotlib.dates import ConciseDateFormatter

    axis.set_major_formatter(ConciseDateFormatter(axis.get_major_locator()))


def _finished(figure, path):
    for axes in figure.axes:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
