"""Pictures of what happens inside an LSTM: its gates and states, its weights, its attributions.

`trace` and `attribution` give the numbers as NumPy's arrays. The other functions draw them by
matplotlib, which is imported when needed, into figures that are made without pyplot, so there is no
window, no global state and nothing to close.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arrays import as_array
from .checks import quoted
from .layers import LSTM, LSTMCell
from .layers.attribution import Attribution, attribution
from .layers.tracing import SIGNALS, LayerTrace, Trace, trace
from .plot import check_matplotlib

if TYPE_CHECKING:
    from typing import TypeAlias

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Place: TypeAlias = str | PathLike[str] | IO[bytes] | None

__all__ = [
    "Attribution",
    "LayerTrace",
    "Trace",
    "attribution",
    "plot_attribution",
    "plot_gates",
    "plot_states",
    "plot_weights",
    "trace",
]

_COLOURS = {
    "i": "tab:blue", "f": "tab:orange", "g": "tab:green", "o": "tab:red", "c": "black",
    "h": "tab:purple",
}  # fmt: skip
_TITLES = {
    "i": "input gate i", "f": "forget gate f", "g": "candidate g", "o": "output gate o",
    "c": "cell state c", "h": "output h",
}  # fmt: skip
_OPEN, _SIGNED = "viridis", "RdBu_r"  # colour maps: of what goes from 0 to 1; of what has a sign
_UP, _DOWN = "#b2182b", "#2166ac"  # the ends of the latter
_FEW = 4  # up to so many units or features are drawn as lines
_WIDTH = 9.0  # inches, of every figure


class _Panel(NamedTuple):
    """One picture of values (T, K) over time.

    `of_units` says that the K columns are units, and not features; `whole`, that values go from 0
    to 1; `places` is the order of the columns; `colour` is that of the title and of a single line.
    With `bars`, the one column is drawn as bars; `as_map` draws colours even of a few columns.
    """

    title: str
    values: NDArray[Any]
    of_units: bool = False
    whole: bool = False
    places: NDArray[np.intp] | None = None
    colour: str = "0.35"
    names: Sequence[str] = ()
    bars: bool = False
    as_map: bool = False

    @property
    def is_map(self) -> bool:
        return not self.bars and (self.as_map or self.values.shape[1] > _FEW)


def plot_gates(
    trace: Trace | LayerTrace,
    layer: str | None = None,
    sequence: int = 0,
    *,
    signals: Sequence[str] = SIGNALS,
    order: str = "similar",
    series: ArrayLike | None = None,
    names: str | Sequence[str] | None = None,
    labels: ArrayLike | None = None,
    path: Place = None,
) -> Figure:
    """Draw the gates and states of one layer over time, a row of colours for each unit.

    Up to four units are drawn as lines.

    Parameters
    ----------
    trace : Trace or LayerTrace
    layer : str, optional
        The key of the layer, such as "l0"; the first by default.
    sequence : int
        Which sequence of a batch.
    signals : sequence of {"i", "f", "g", "o", "c", "h"}
        What to draw, from top to bottom.
    order : {"similar", "number"}
        Whether units with similar cell states are next to each other, or in the order in which the
        arrays have them.
    series : array of shape (T,) or (T, C), optional
        What to draw above the gates; by default the input of the model, if it has numbers for
        every step.
    names : str, or list of C str, optional
        The names of the series, with their units.
    labels : T values, optional
        What to write at the steps: dates, or words. By default their numbers, from 0.
    path : str, path-like or binary file, optional
        Where to save the picture. The suffix gives the format: .png, .svg, .pdf; a file gets .png.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If an argument does not fit.
    KeyError, IndexError
        If there is no such layer or sequence.
    ImportError
        If matplotlib is missing.

    Examples
    --------
    >>> lstm = fastlstm.LSTM(1, 8, seed=0)
    >>> trace = fastlstm.visualize.trace(lstm, np.sin(np.arange(30, dtype="f4"))[:, np.newaxis])
    >>> figure = fastlstm.visualize.plot_gates(trace)
    >>> [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
    ['input', 'input gate i', 'forget gate f', 'candidate g', 'output gate o', 'cell state c', \
'output h']
    """
    chosen = trace if isinstance(trace, LayerTrace) else trace[layer or next(iter(trace.layers))]
    one = chosen.sequence(sequence)
    top = _top(trace, chosen, sequence, series, names)
    panels = [*top, *_panels(one, signals, order)]
    return _saved(_timeline(panels, labels), path)


def plot_states(
    trace: Trace,
    sequence: int = 0,
    *,
    layers: Sequence[str] | None = None,
    signals: Sequence[str] = ("c", "h"),
    order: str = "similar",
    series: ArrayLike | None = None,
    names: str | Sequence[str] | None = None,
    labels: ArrayLike | None = None,
    path: Place = None,
) -> Figure:
    """Draw the states of all layers and directions over time, one below the other.

    Parameters
    ----------
    trace : Trace
    sequence : int
        Which sequence of a batch.
    layers : sequence of str, optional
        The keys of the layers; all by default.
    signals : sequence of {"i", "f", "g", "o", "c", "h"}
        What to draw of each layer.
    order, series, names, labels, path
        As for `plot_gates`.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError, KeyError, IndexError, ImportError
        As for `plot_gates`, and ValueError if the layers do not have the same steps.

    Examples
    --------
    >>> lstm = fastlstm.LSTM(1, 8, bidirectional=True, seed=0)
    >>> trace = fastlstm.visualize.trace(lstm, np.sin(np.arange(30, dtype="f4"))[:, np.newaxis])
    >>> figure = fastlstm.visualize.plot_states(trace, signals="c")
    >>> [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
    ['input', 'l0: cell state c', 'l0_reverse (from the end): cell state c']
    """
    chosen = [trace[key] for key in layers or trace.layers]
    panels = []
    for layer in chosen:
        name = f"{layer.name} (from the end)" if layer.reverse else layer.name
        panels += _panels(layer.sequence(sequence), signals, order, f"{name}: ")
    if len({len(panel.values) for panel in panels}) > 1:
        raise ValueError(
            "the layers do not have the same number of steps; choose some of them by "
            f"layers=: {quoted(trace.layers)}"
        )
    top = _top(trace, chosen[0], sequence, series, names)
    return _saved(_timeline([*top, *panels], labels), path)


def plot_weights(
    lstm: LSTM | LSTMCell, layer: int = 0, reverse: bool = False, *, path: Place = None
) -> Figure:
    """Draw the weights and biases of one layer, gate by gate, in one scale of colours.

    Parameters
    ----------
    lstm : LSTM or LSTMCell
    layer : int
        Which layer, from 0.
    reverse : bool
        Whether to draw the second direction of a bidirectional LSTM.
    path
        As for `plot_gates`.

    Returns
    -------
    matplotlib.figure.Figure
        A row for each gate that has weights, and columns for those of the input (``weight_ih``),
        those of h (``weight_hh``), and the bias (``bias_ih + bias_hh``) with the peephole beside
        it. Colours end at the 99.5th percentile of all sizes, so that one large weight does not
        make the others pale.

    Raises
    ------
    TypeError
        If `lstm` is neither an LSTM nor an LSTMCell.
    ValueError
        If it has no such layer or direction.
    ImportError
        If matplotlib is missing.

    Examples
    --------
    >>> figure = fastlstm.visualize.plot_weights(fastlstm.LSTM(3, 8, seed=0))
    >>> [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    ['input gate i', 'forget gate f', 'candidate g', 'output gate o', 'weight']
    """
    if not isinstance(lstm, (LSTM, LSTMCell)):
        raise TypeError(f"lstm must be an LSTM or an LSTMCell, got {type(lstm).__name__}")
    suffix = ""
    if isinstance(lstm, LSTM):
        suffix = f"_l{layer}_reverse" if reverse else f"_l{layer}"
    state = lstm.state_dict()
    if "weight_ih" + suffix not in state or (reverse and not suffix):
        raise ValueError(f"there is no layer {layer}, reverse={bool(reverse)}, in {lstm!r}")
    gates = lstm.gates_of("weight_ih" + suffix)
    columns = {
        "input": np.split(state["weight_ih" + suffix], len(gates)),
        "h of the step before": np.split(state["weight_hh" + suffix], len(gates)),
    }
    if lstm.bias:
        bias = state["bias_ih" + suffix] + state["bias_hh" + suffix]
        columns["bias"] = np.split(bias[:, np.newaxis], len(gates))
    if lstm.peephole:
        nothing = np.full((len(columns["input"][0]), 1), np.nan)
        own = [state.get(f"weight_c{gate}{suffix}") for gate in gates]
        columns["peep-\nhole"] = [nothing if w is None else w[:, np.newaxis] for w in own]
    return _saved(_weights(gates, columns), path)


def plot_attribution(
    attribution: Attribution,
    sequence: int = 0,
    *,
    series: ArrayLike | None = None,
    names: str | Sequence[str] | None = None,
    labels: ArrayLike | None = None,
    path: Place = None,
) -> Figure:
    """Draw how much each step of an input contributed to an output, and each feature of it.

    Parameters
    ----------
    attribution : Attribution
    sequence : int
        Which sequence of a batch.
    series, names, labels, path
        As for `plot_gates`.

    Returns
    -------
    matplotlib.figure.Figure
        From top to bottom the input, the contributions of its steps, and, if it has more than one
        feature, those of each feature.

    Raises
    ------
    ValueError, IndexError, ImportError
        As for `plot_gates`.

    Examples
    --------
    >>> lstm = fastlstm.LSTM(1, 8, seed=0)
    >>> wave = np.sin(np.arange(30, dtype="f4"))[:, np.newaxis]
    >>> attribution = fastlstm.visualize.attribution(lstm, wave, output=(-1, 0))
    >>> figure = fastlstm.visualize.plot_attribution(attribution)
    >>> [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
    ['input', 'contribution of each step to the output -0.1337 (of the baseline: -0.1255)']
    """
    one = attribution.sequence(sequence)
    panels = []
    if series is not None:
        panels += [_top_panel("series", _columns(series, len(one.values)), names)]
    elif one.input.shape == one.values.shape:  # and not indices
        panels += [_top_panel("input", one.input, names)]
    title = f"contribution of each step to the output {one.output:.4g}"
    if not np.isnan(one.baseline_output):
        title += f" (of the baseline: {one.baseline_output:.4g})"
    if one.method == "gradient":
        title = f"gradient of the output {one.output:.4g} by each step"
    panels.append(_Panel(title, one.values.sum(axis=1, keepdims=True), bars=True))
    if one.values.shape[1] > 1:
        panels.append(_Panel("of each feature", one.values, as_map=True))
    return _saved(_timeline(panels, labels), path)


# ---- panels ---------------------------------------------------------------------------------


def _panels(one: LayerTrace, signals: Sequence[str], order: str, before: str = "") -> list[_Panel]:
    """Return a panel for each signal of one sequence's trace."""
    if unknown := [name for name in signals if name not in SIGNALS]:
        raise ValueError(f"signals must be of {', '.join(SIGNALS)}, got {quoted(unknown)}")
    if order not in ("similar", "number"):
        raise ValueError(f'order must be "similar" or "number", got {order!r:.100}')
    panels = []
    for name in signals:
        values = vars(one)[name]
        like = one.c if values.shape == one.c.shape else values  # h of a projection is narrower
        places = np.arange(values.shape[1])
        if order == "similar" and values.shape[1] > _FEW:
            places = _side_by_side(like)
        panels.append(_Panel(
            before + _TITLES[name], values, of_units=True, whole=name in "ifo",
            places=places, colour=_COLOURS[name],
        ))  # fmt: skip
    return panels


def _side_by_side(values: NDArray[Any]) -> NDArray[np.intp]:
    """Return an order of the units, of values (T, H), in which similar ones are neighbours.

    The two first principal components of the units' courses make a plane, in which similar courses
    point into similar directions. Units are ordered by that angle, from the widest gap on.
    """
    courses = np.nan_to_num(values.T.astype("float64"), posinf=0, neginf=0)
    courses -= courses.mean(axis=1, keepdims=True)
    courses /= np.linalg.norm(courses, axis=1, keepdims=True) + 1e-12
    _, vectors = np.linalg.eigh(courses @ courses.T)
    first, second = (v * np.sign(v[np.abs(v).argmax()]) for v in vectors.T[:-3:-1])
    angles = np.arctan2(second, first)
    order = np.argsort(angles, kind="stable")
    gaps = np.diff(angles[order], append=angles[order[0]] + 2 * np.pi)
    return np.roll(order, -1 - int(gaps.argmax()))


def _top(
    trace: Trace | LayerTrace,
    layer: LayerTrace,
    sequence: int,
    series: ArrayLike | None,
    names: str | Sequence[str] | None,
) -> list[_Panel]:
    """Return the panel of the series or of the input, if there is one for the steps of a layer."""
    steps = len(layer.sequence(sequence).c)
    if series is not None:
        return [_top_panel("series", _columns(series, steps), names)]
    values = layer.like(trace.input, sequence) if isinstance(trace, Trace) else None
    return [] if values is None else [_top_panel("input", values, names)]


def _columns(series: ArrayLike, steps: int) -> NDArray[Any]:
    """Return a series (T,) or (T, C) as (T, C), if it has so many steps."""
    array = as_array(series, "series")
    columns = array[:, np.newaxis] if array.ndim == 1 else array
    if columns.ndim != 2 or len(columns) != steps or not columns.shape[1]:
        raise ValueError(
            f"Expected series of shape ({steps},) or ({steps}, C), a value for each step, got "
            f"{array.shape}"
        )
    return columns


def _top_panel(title: str, values: NDArray[Any], names: str | Sequence[str] | None) -> _Panel:
    names, count = [names] if isinstance(names, str) else names or (), values.shape[1]
    if names and len(names) != count:
        raise ValueError(f"Expected a name for each of {count} series, got {len(names)}")
    return _Panel(title, values, names=names)


# ---- drawing --------------------------------------------------------------------------------


def _timeline(panels: list[_Panel], labels: ArrayLike | None) -> Figure:
    """Draw panels below each other, over one axis of time."""
    steps = len(panels[0].values)
    heights = [1.0 if panel.is_map else 1.15 for panel in panels]
    figure = check_matplotlib()(figsize=(_WIDTH, sum(heights) + 0.4), layout="constrained")
    rows = figure.subplots(
        len(panels), sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    all_axes: list[Axes] = list(rows[:, 0])
    for axes, panel in zip(all_axes, panels, strict=True):
        axes.set_title(panel.title, loc="left", fontsize="medium", color=panel.colour)
        draw = _draw_map if panel.is_map else _draw_bars if panel.bars else _draw_lines
        draw(figure, axes, panel)
    all_axes[-1].set_xlim(-0.5, steps - 0.5)
    all_axes[-1].set_xlabel("step" if labels is None else "")
    _label_steps(all_axes[-1], steps, labels)
    figure.align_ylabels(all_axes)
    return figure


def _draw_map(figure: Figure, axes: Axes, panel: _Panel) -> None:
    """Draw values as colours, the first unit or feature at the top, and a colour bar."""
    values = panel.values if panel.places is None else panel.values[:, panel.places]
    low, high = _limits(panel)
    count = values.shape[1]
    image = axes.imshow(
        values.T, aspect="auto", cmap=_OPEN if panel.whole else _SIGNED, vmin=low, vmax=high,
        extent=(-0.5, len(values) - 0.5, count - 0.5, -0.5),
    )  # fmt: skip
    bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=8)
    bar.ax.locator_params(nbins=3)
    axes.set_ylabel("unit" if panel.of_units else "feature")
    if count <= 2 * _FEW:
        numbers = np.arange(count) if panel.places is None else panel.places
        text = panel.names or [str(number) for number in numbers]
        axes.set_yticks(range(count), text, fontsize="x-small")
        if panel.names:
            axes.set_ylabel("")
    elif panel.places is not None and (np.diff(panel.places) != 1).any():
        axes.set_yticks([])
        axes.set_ylabel(f"{count} units")
    else:
        axes.yaxis.set_major_locator(_locator(4))


def _draw_lines(figure: Figure, axes: Axes, panel: _Panel) -> None:
    count = panel.values.shape[1]
    x = np.arange(len(panel.values))
    mark = "." if len(x) < 3 else None
    for k, column in enumerate(panel.values.T):
        name = panel.names[k] if panel.names else f"{'unit' if panel.of_units else 'feature'} {k}"
        colour = panel.colour if count == 1 else f"C{k}"
        axes.plot(x, column, color=colour, label=name, linewidth=1.2, marker=mark)
    if panel.of_units:
        low, high = _limits(panel)
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        axes.set_ylabel("unit 0" if count == 1 else "")
    elif count == 1:
        axes.set_ylabel(panel.names[0] if panel.names else "")
    if count > 1:  # on the line of the title
        axes.legend(
            frameon=False, fontsize="small", ncols=count, loc="lower right", borderaxespad=0,
            bbox_to_anchor=(1, 1), columnspacing=1, handlelength=1.2,
        )  # fmt: skip
    _plain(axes)


def _draw_bars(figure: Figure, axes: Axes, panel: _Panel) -> None:
    """Draw the one column of values from 0 upwards in red, and downwards in blue."""
    y, x = panel.values[:, 0], np.arange(len(panel.values))
    if len(y) <= 200:
        axes.bar(x, y, width=0.8, color=np.where(y > 0, _UP, _DOWN))
    else:
        for colour, part in (_UP, np.maximum(y, 0)), (_DOWN, np.minimum(y, 0)):
            axes.fill_between(x, part, step="mid", color=colour, linewidth=0)
    axes.axhline(0, color="0.5", linewidth=0.8)
    _plain(axes)


def _limits(panel: _Panel) -> tuple[float, float]:
    """Return the ends of the scale: 0 and 1 of gates, otherwise alike on both sides of 0."""
    finite = panel.values[np.isfinite(panel.values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if panel.whole:
        return min(low, 0.0), max(high, 1.0)
    bound = max(-low, high)
    return -(bound or 1.0), bound or 1.0


def _label_steps(axes: Axes, steps: int, labels: ArrayLike | None) -> None:
    """Write whole steps, or what stands for them, on the axis of time."""
    axes.xaxis.set_major_locator(_locator())
    if labels is None:
        return
    given = np.asarray(labels)
    text = np.datetime_as_string(given) if given.dtype.kind == "M" else given.astype(str)
    if text.shape != (steps,):
        raise ValueError(f"Expected {steps} labels, one for each step, got shape {text.shape}")
    if given.dtype.kind in "UO" and steps <= 60:
        turned = sum(map(len, text)) > 70
        axes.set_xticks(range(steps), text, rotation=90 if turned else 0)
        return
    axes.xaxis.set_major_formatter(lambda x, _: text[round(x)] if round(x) in range(steps) else "")


def _weights(gates: str, columns: dict[str, list[NDArray[Any]]]) -> Figure:
    """Draw a row of heat maps for each gate, with one scale of colours."""
    everything = np.concatenate([part.ravel() for parts in columns.values() for part in parts])
    sizes = np.abs(everything[np.isfinite(everything)])
    bound = float(np.percentile(sizes, 99.5)) or 1.0 if sizes.size else 1.0
    widths = [parts[0].shape[1] for parts in columns.values()]
    widest = max(widths)
    ratios = [max(width, widest / 4) for width in widths[:2]] + [widest / 14] * len(widths[2:])
    figure = check_matplotlib()(figsize=(_WIDTH, 1.4 * len(gates) + 0.8), layout="constrained")
    rows = figure.subplots(
        len(gates), len(columns), sharex="col", sharey=True, squeeze=False,
        gridspec_kw={"width_ratios": ratios},
    )  # fmt: skip
    for k, (title, parts) in enumerate(columns.items()):
        rows[0, k].set_title(title, fontsize="medium" if k < 2 else "small")
        rows[-1, k].set_xlabel(("feature", "unit", "", "")[k])
        for axes, gate, part in zip(rows[:, k], gates, parts, strict=True):
            image = axes.imshow(
                part, aspect="auto", interpolation="nearest", cmap=_SIGNED, vmin=-bound, vmax=bound
            )
            axes.yaxis.set_major_locator(_locator(4))
            axes.xaxis.set_major_locator(_locator())
            if k == 0:
                axes.set_ylabel(_TITLES[gate], color=_COLOURS[gate])
            if np.isnan(part).all():
                axes.set_facecolor("0.9")
            axes.tick_params(left=k == 0, bottom=k < 2, labelbottom=k < 2 and gate == gates[-1])
    beyond = sizes.size and sizes.max() > bound
    bar = figure.colorbar(
        image, ax=rows, pad=0.01, aspect=40, extend="both" if beyond else "neither"
    )
    bar.set_label("weight")
    return figure


def _locator(nbins: int = 9) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins, integer=True, min_n_ticks=1)


def _plain(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _saved(figure: Figure, path: Place) -> Figure:
    """Save the figure if there is a path, and return it."""
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
