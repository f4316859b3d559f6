"""Pictures of what happens inside an LSTM: its gates and states, its weights, its attributions.

`trace` and `attribution` give the numbers as NumPy's arrays. The other functions draw them by
matplotlib, which is imported when needed, into figures that are made without pyplot, so there is no
window, no global state and nothing to close.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arrays import as_array
from .checks import quoted
from .layers import LSTM, LSTMCell
from .layers.attribution import Attribution, attribution
from .layers.tracing import SIGNALS, LayerTrace, Trace, input_of, trace
from .panels import FEW, Panel, draw_timeline, draw_weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .panels import Place

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

_TITLES = {
    "i": "input gate i", "f": "forget gate f", "g": "candidate g", "o": "output gate o",
    "c": "cell state c", "h": "output h",
}  # fmt: skip
_COLOURS = {
    "i": "tab:blue", "f": "tab:orange", "g": "tab:green", "o": "tab:red", "c": "black",
    "h": "tab:purple",
}  # fmt: skip


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

    Notes
    -----
    All axes share the steps: ``figure.axes[0].set_xlim(900, 1000)`` shows a part of them. Colours
    of i, f and o go from 0 to 1. Those of g, c and h end at the 98th percentile of all sizes, so
    that a few large values do not make the others pale; the colour bar then ends in points.

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
    return draw_timeline(panels, labels, path)


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
    return draw_timeline([*top, *panels], labels, path)


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
    return draw_weights([(_TITLES[gate], _COLOURS[gate]) for gate in gates], columns, path)


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
    panels.append(Panel(title, one.values.sum(axis=1, keepdims=True), bars=True))
    if one.values.shape[1] > 1:
        known = [names] if isinstance(names, str) else names or ()
        known = known if len(known) == one.values.shape[1] else ()
        panels.append(Panel("of each feature", one.values, names=known, as_map=True))
    return draw_timeline(panels, labels, path)


# ---- panels ---------------------------------------------------------------------------------


def _panels(one: LayerTrace, signals: Sequence[str], order: str, before: str = "") -> list[Panel]:
    """Return a panel for each signal of one sequence's trace."""
    unknown = [name for name in signals if name not in SIGNALS]
    if unknown or not len(signals):
        got = quoted(unknown) if unknown else "none"
        raise ValueError(f"signals must be of {', '.join(SIGNALS)}, got {got}")
    if order not in ("similar", "number"):
        raise ValueError(f'order must be "similar" or "number", got {order!r:.100}')
    panels = []
    for name in signals:
        values = vars(one)[name]
        like = one.c if values.shape == one.c.shape else values  # h of a projection is narrower
        places = np.arange(values.shape[1])
        if order == "similar" and values.shape[1] > FEW and len(values):
            places = _side_by_side(like)
        panels.append(Panel(
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
) -> list[Panel]:
    """Return the panel of the series or of the input, if there is one for the steps of a layer."""
    steps = len(layer.sequence(sequence).c)
    if series is not None:
        return [_top_panel("series", _columns(series, steps), names)]
    values = input_of(trace, layer, sequence) if isinstance(trace, Trace) else None
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


def _top_panel(title: str, values: NDArray[Any], names: str | Sequence[str] | None) -> Panel:
    names, count = [names] if isinstance(names, str) else names or (), values.shape[1]
    if names and len(names) != count:
        raise ValueError(f"Expected a name for each of {count} series, got {len(names)}")
    if len(names) == 1:  # on the side there is no room for it
        title = f"{title}: {names[0]}"
    return Panel(title, values, names=names)
