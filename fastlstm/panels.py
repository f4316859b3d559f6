"""Panels below each other over one axis of time: lines, bars or colours; and grids of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .plot import check_matplotlib

if TYPE_CHECKING:
    from os import PathLike
    from typing import IO, TypeAlias

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Place: TypeAlias = str | PathLike[str] | IO[bytes] | None

_OPEN, _SIGNED = "viridis", "RdBu_r"  # colour maps: of what goes from 0 to 1; of what has a sign
_UP, _DOWN = "#b2182b", "#2166ac"  # the ends of the latter
FEW = 4  # up to so many units or features are drawn as lines
_WIDTH, _DPI = 8.0, 150  # of every figure: inches, and dots in each


class Panel(NamedTuple):
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
        return not self.bars and (self.as_map or self.values.shape[1] > FEW)


def draw_timeline(
    panels: Sequence[Panel], labels: ArrayLike | None = None, path: Place = None
) -> Figure:
    """Draw panels below each other, over one axis of time; save the figure if there is a path.

    `labels` are written at the steps, in place of their numbers.
    """
    steps = len(panels[0].values)
    if not steps:
        raise ValueError("the sequence has no steps to draw")
    heights = [1.05 if panel.is_map else 1.15 for panel in panels]
    figure = check_matplotlib()(
        figsize=(_WIDTH, sum(heights) + 0.4), dpi=_DPI, layout="constrained"
    )
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
    return _saved(figure, path)


def _draw_map(figure: Figure, axes: Axes, panel: Panel) -> None:
    """Draw values as colours, the first unit or feature at the top, and a colour bar."""
    values = panel.values if panel.places is None else panel.values[:, panel.places]
    low, high = _limits(panel)
    count = values.shape[1]
    # Squares have sharp edges where there is room for them; otherwise neighbours are averaged.
    room = len(values) <= _WIDTH * _DPI / 2 and count <= _DPI / 2
    image = axes.imshow(
        values.T,
        aspect="auto",
        interpolation="nearest" if room else "auto",
        cmap=_OPEN if panel.whole else _SIGNED,
        vmin=low,
        vmax=high,
        extent=(-0.5, len(values) - 0.5, count - 0.5, -0.5),
    )
    bar = figure.colorbar(
        image, ax=axes, pad=0.01, aspect=8, extend=_beyond(panel.values, high), extendfrac=0.08
    )
    bar.ax.locator_params(nbins=3)
    axes.set_ylabel("unit" if panel.of_units else "feature")
    if count <= 2 * FEW:
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


def _draw_lines(figure: Figure, axes: Axes, panel: Panel) -> None:
    count = panel.values.shape[1]
    x = np.arange(len(panel.values))
    mark = "." if len(x) <= 60 else None
    for k, column in enumerate(panel.values.T):
        name = panel.names[k] if panel.names else f"{'unit' if panel.of_units else 'feature'} {k}"
        colour = panel.colour if count == 1 else f"C{k}"
        axes.plot(x, column, color=colour, label=name, linewidth=1.2, marker=mark)
    if panel.of_units:
        low, high = _limits(panel)
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        axes.set_ylabel("unit 0" if count == 1 else "")
    if count > 1:  # on the line of the title
        axes.legend(
            frameon=False, fontsize="small", ncols=count, loc="lower right", borderaxespad=0,
            bbox_to_anchor=(1, 1), columnspacing=1, handlelength=1.2,
        )  # fmt: skip
    _plain(axes)


def _draw_bars(figure: Figure, axes: Axes, panel: Panel) -> None:
    """Draw the one column of values from 0 upwards in red, and downwards in blue."""
    y, x = panel.values[:, 0], np.arange(len(panel.values))
    if len(y) <= 200:
        axes.bar(x, y, width=0.8, color=np.where(y > 0, _UP, _DOWN))
    else:
        for colour, part in (_UP, np.maximum(y, 0)), (_DOWN, np.minimum(y, 0)):
            axes.fill_between(x, part, step="mid", color=colour, linewidth=0)
    axes.axhline(0, color="0.5", linewidth=0.8)
    _plain(axes)


def _limits(panel: Panel) -> tuple[float, float]:
    """Return the ends of the scale: 0 and 1 of gates, otherwise alike on both sides of 0."""
    if panel.whole:
        finite = panel.values[np.isfinite(panel.values)]
        return float(finite.min(initial=0)), float(finite.max(initial=1))
    # As colours, a few large states shall not make the others pale.
    bound = _bound(panel.values, 98 if panel.is_map and panel.of_units else 100)
    return -bound, bound


def _bound(values: NDArray[Any], percent: float) -> float:
    """Return a percentile of the sizes of numbers, without nan and inf; 1 if that is 0."""
    sizes = np.abs(values[np.isfinite(values)])
    return float(np.percentile(sizes, percent)) or 1.0 if sizes.size else 1.0


def _beyond(values: NDArray[Any], bound: float) -> Literal["both", "neither"]:
    """Tell whether a colour bar must show that there are values beyond its ends."""
    return "both" if (np.abs(values) > bound * 1.000001).any() else "neither"


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


def draw_weights(
    rows: Sequence[tuple[str, str]],
    columns: Mapping[str, Sequence[NDArray[Any]]],
    path: Place = None,
) -> Figure:
    """Draw matrices as a grid, in one scale of colours; save the figure if there is a path.

    `rows` are the title and the colour of each row, `columns` by their titles the matrices of each
    row: those of the input's features, those of units, and columns of one value for each unit.
    """
    everything = np.concatenate([part.ravel() for parts in columns.values() for part in parts])
    bound = _bound(everything, 99.5)
    widths = [parts[0].shape[1] for parts in columns.values()]
    widest = max(widths)
    ratios = [max(width, widest / 4) for width in widths[:2]] + [widest / 14] * len(widths[2:])
    figure = check_matplotlib()(
        figsize=(_WIDTH, 1.4 * len(rows) + 0.8), dpi=_DPI, layout="constrained"
    )
    grid = figure.subplots(
        len(rows), len(columns), sharex="col", sharey=True, squeeze=False,
        gridspec_kw={"width_ratios": ratios},
    )  # fmt: skip
    for k, (title, parts) in enumerate(columns.items()):
        grid[0, k].set_title(title, fontsize="medium" if k < 2 else "small")
        grid[-1, k].set_xlabel(("feature", "unit", "", "")[k])
        for axes, (name, colour), part in zip(grid[:, k], rows, parts, strict=True):
            image = axes.imshow(
                part, aspect="auto", interpolation="nearest", cmap=_SIGNED, vmin=-bound, vmax=bound
            )
            axes.yaxis.set_major_locator(_locator(4))
            axes.xaxis.set_major_locator(_locator())
            if k == 0:
                axes.set_ylabel(name, color=colour)
            if np.isnan(part).all():
                axes.set_facecolor("0.9")
            axes.tick_params(left=k == 0, bottom=k < 2, labelbottom=k < 2 and axes is grid[-1, k])
    bar = figure.colorbar(
        image, ax=grid, pad=0.01, aspect=40, extend=_beyond(everything, bound), extendfrac=0.02
    )
    bar.set_label("weight")
    return _saved(figure, path)


def _locator(nbins: int = 9) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins, integer=True, min_n_ticks=1)


def _plain(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _saved(figure: Figure, path: Place) -> Figure:
    """Save the figure if there is a path, and return it."""
    if path is not None:
        figure.savefig(path)
    return figure
