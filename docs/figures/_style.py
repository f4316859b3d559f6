"""What the figures share: the colours of gates and states, and boxes, circles and arrows.

Drawings are made on a canvas whose unit is the same in both directions; y points up. A figure is a
module beside this one with a function ``draw() -> Figure``; it says ``from _style import ...``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Polygon
from matplotlib.path import Path

GATES = {"i": "tab:blue", "f": "tab:orange", "g": "tab:green", "o": "tab:red"}
NAMES = {"i": "input gate", "f": "forget gate", "g": "candidate", "o": "output gate"}
C, H, X = "black", "tab:purple", "tab:gray"  # the cell state, the output, the input
INK, FAINT = "0.2", "0.65"  # text; what stays in the background

matplotlib.rcParams["svg.hashsalt"] = "fastlstm"  # equal figures are equal files


def canvas(width: float, height: float, unit: float = 0.55) -> tuple[Figure, Axes]:
    """Return a figure without axes' frames, `width` x `height` units, each of `unit` inches."""
    figure = Figure(figsize=(width * unit, height * unit))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axes.axis("off")
    return figure, axes


def plots(
    rows: int = 1, columns: int = 1, size: tuple[float, float] = (7.5, 3), **more: Any
) -> Any:
    """Return a figure with axes for curves, without the frames' upper and right lines."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, **more)
    for one in [axes] if isinstance(axes, Axes) else axes.flat:
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def pale(color: Any, share: float = 0.2) -> tuple[float, float, float]:
    """Return a colour mixed with white, of which `share` is left."""
    red, green, blue = (1 - share * (1 - part) for part in to_rgb(color))
    return red, green, blue


def text(axes: Axes, x: float, y: float, words: str, color: Any = INK, **more: Any) -> Any:
    """Write words whose middle is at x, y."""
    more = {"ha": "center", "va": "center", "fontsize": 10, "zorder": 5} | more
    return axes.text(x, y, words, color=color, **more)


def box(
    axes: Axes,
    x: float,
    y: float,
    words: str = "",
    color: Any = INK,
    width: float = 1.0,
    height: float = 0.7,
    *,
    share: float = 0.2,
    rounded: float = 0.12,
    zorder: float = 3,
    **more: Any,
) -> None:
    """Draw a box with round corners and words in its middle, which is at x, y."""
    corner = x - width / 2 + rounded, y - height / 2 + rounded
    shape = FancyBboxPatch(
        corner,
        width - 2 * rounded,
        height - 2 * rounded,
        boxstyle=f"round,pad={rounded}",
        facecolor=pale(color, share),
        edgecolor=color,
        linewidth=1.4,
        zorder=zorder,
    )
    axes.add_patch(shape)
    if words:
        text(axes, x, y, words, **more)


def circle(
    axes: Axes,
    x: float,
    y: float,
    words: str = "",
    color: Any = INK,
    radius: float = 0.26,
    **more: Any,
) -> None:
    """Draw a circle with words in its middle, as of an operation on numbers."""
    axes.add_patch(Circle((x, y), radius, facecolor="white", edgecolor=color, lw=1.4, zorder=4))
    text(axes, x, y, words, color, **more)


def arrow(
    axes: Axes,
    *points: Sequence[float],
    color: Any = INK,
    head: bool = True,
    width: float = 1.6,
    rounded: float = 0.18,
    zorder: float = 2,
    style: str = "-",
) -> None:
    """Draw a line through points with round corners, and an arrow's head at its end."""
    path = Path(*_rounded(points, rounded))
    axes.add_patch(
        FancyArrowPatch(
            path=path,
            arrowstyle="-|>" if head else "-",
            mutation_scale=4 + 4.5 * width,
            color=color,
            linewidth=width,
            linestyle=style,
            shrinkA=0,
            shrinkB=0,
            joinstyle="round",
            zorder=zorder,
        )
    )


def _rounded(points: Sequence[Sequence[float]], radius: float) -> tuple[list, list]:
    """Return the places and codes of a path whose corners are curves."""
    places, codes = [points[0]], [Path.MOVETO]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        places += [_towards(corner, before, radius), corner, _towards(corner, after, radius)]
        codes += [Path.LINETO, Path.CURVE3, Path.CURVE3]
    return [*places, points[-1]], [*codes, Path.LINETO]


def _towards(start: Sequence[float], end: Sequence[float], far: float) -> tuple[float, float]:
    """Return the point `far` from start on the way to end, at most half of it."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    share = min(far / max((dx**2 + dy**2) ** 0.5, 1e-9), 0.5)
    return start[0] + share * dx, start[1] + share * dy


def grid(
    axes: Axes,
    x: float,
    y: float,
    rows: int,
    columns: int,
    color: Any = INK,
    size: float = 0.5,
    *,
    share: float = 0.25,
    zorder: float = 3,
) -> None:
    """Draw rows x columns of squares, an array, whose upper left corner is at x, y."""
    for row in range(rows):
        for column in range(columns):
            left, top = x + column * size, y - row * size
            corners = [
                (left, top),
                (left + size, top),
                (left + size, top - size),
                (left, top - size),
            ]
            _face(axes, corners, color, share, zorder)


def block(
    axes: Axes,
    x: float,
    y: float,
    rows: int,
    columns: int,
    depth: int,
    color: Callable[[int, int], Any],
    size: float = 0.5,
    *,
    slant: tuple[float, float] = (0.55, 0.4),
    share: float = 0.3,
    zorder: float = 3,
) -> None:
    """Draw rows x columns x depth cubes, whose front's upper left corner is at x, y.

    ``color(row, column)`` is the colour of the cubes at a place of the front and behind it.
    """
    dx, dy = slant[0] * size, slant[1] * size

    def at(row: float, column: float, deep: float) -> tuple[float, float]:
        return x + column * size + deep * dx, y - row * size + deep * dy

    for row in range(rows):
        for column in range(columns):
            corners = [at(row + a, column + b, 0) for a, b in ((0, 0), (0, 1), (1, 1), (1, 0))]
            _face(axes, corners, color(row, column), share, zorder)
    for deep in range(depth):
        for column in range(columns):
            corners = [at(0, column + b, deep + d) for b, d in ((0, 0), (1, 0), (1, 1), (0, 1))]
            _face(axes, corners, color(0, column), share * 0.6, zorder)
        for row in range(rows):
            corners = [at(row + a, columns, deep + d) for a, d in ((0, 0), (1, 0), (1, 1), (0, 1))]
            _face(axes, corners, color(row, columns - 1), share * 1.6, zorder)


def _face(axes: Axes, corners: list, color: Any, share: float, zorder: float) -> None:
    axes.add_patch(
        Polygon(
            corners,
            facecolor=pale(color, share),
            edgecolor=color,
            lw=0.9,
            joinstyle="round",
            zorder=zorder,
        )
    )
