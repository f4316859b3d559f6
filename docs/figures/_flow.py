"""Pictures of how data flow through a model: arrays of cubes, layers as boxes, shapes below."""

from typing import Any

from _style import FAINT, INK, arrow, block, box, canvas, text

SIZE = 0.42  # of a cube
MIDDLE = 2.15  # the height of all middles


class Flow:
    """A drawing that grows from the left to the right: arrays and layers, an arrow between them."""

    def __init__(self, width: float, height: float = 4.1) -> None:
        self.figure, self.axes = canvas(width, height)
        self.x = 0.3

    def array(
        self,
        name: str,
        shape: str,
        color: Any = INK,
        *,
        columns: int = 1,
        rows: int = 1,
        depth: int = 2,
        gap: float = 0.62,
        note: str = "",
    ) -> "Flow":
        """Draw an array, time to the right, features down, samples into the depth."""
        deep = 0.55 * SIZE * depth
        width = columns * SIZE + deep
        self._arrow_to(gap)
        top = MIDDLE + rows * SIZE / 2
        block(self.axes, self.x, top, rows, columns, depth, lambda row, column: color, SIZE)
        middle = self.x + width / 2
        text(self.axes, middle, top + 0.4 * SIZE * depth + 0.32, name, fontsize=10.5)
        text(self.axes, middle, MIDDLE - rows * SIZE / 2 - 0.32, shape, family="monospace")
        if note:
            below = MIDDLE - rows * SIZE / 2 - 0.66
            text(self.axes, middle, below, note, fontsize=9, va="top", linespacing=1.25)
        self.x += width + 0.1
        return self

    def layer(
        self, name: str, color: Any, note: str = "", width: float = 1.45, gap: float = 0.55
    ) -> "Flow":
        """Draw a layer."""
        self._arrow_to(gap)
        box(self.axes, self.x + width / 2, MIDDLE, name, color, width, 1.0, fontsize=10.5)
        if note:
            place = self.x + width / 2, MIDDLE - 0.68
            text(self.axes, *place, note, fontsize=9, va="top", linespacing=1.25)
        self.x += width + 0.1
        return self

    def _arrow_to(self, gap: float) -> None:
        if self.x > 0.5:
            arrow(self.axes, (self.x, MIDDLE), (self.x + gap - 0.12, MIDDLE), color=INK)
            self.x += gap


def axes_of_cubes(axes: Any, x: float, y: float) -> None:
    """Draw which way time, features and samples go."""
    arrow(axes, (x, y), (x + 0.8, y), color=FAINT, width=1.2)
    arrow(axes, (x, y), (x, y - 0.7), color=FAINT, width=1.2)
    arrow(axes, (x, y), (x + 0.45, y + 0.33), color=FAINT, width=1.2)
    text(axes, x + 0.9, y, "time", "0.45", fontsize=8.5, ha="left")
    text(axes, x, y - 0.85, "features", "0.45", fontsize=8.5)
    text(axes, x + 0.55, y + 0.42, "samples", "0.45", fontsize=8.5, ha="left")
