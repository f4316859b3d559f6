"""The drawing of one step of an LSTM, for the figures that show it once or several times."""

from __future__ import annotations

from typing import Any

from _style import FAINT, GATES, INK, C, H, X, arrow, box, circle, text
from matplotlib.axes import Axes

WIDTH, HEIGHT = 7.4, 5.6
LOWER, UPPER = 0.8, 4.7  # where h and c come in and go out


def cell(axes: Axes, x: float, y: float) -> None:
    """Draw a cell whose lower left corner is at x, y; h and c run from its left to its right."""
    box(axes, x + WIDTH / 2, y + HEIGHT / 2, "", FAINT, WIDTH, HEIGHT, share=0.08, zorder=0)

    def line(*points: tuple[float, float], **how: Any) -> None:
        arrow(axes, *((x + dx, y + dy) for dx, dy in points), **how)

    at = {"f": 1.6, "i": 2.7, "g": 4.1, "o": 5.2}
    forget, write, read, middle = at["f"], 3.4, 6.2, 3.15
    # h and x go into all four.
    line((0, LOWER), (at["o"], LOWER), (at["o"], 1.4), color=H, head=False)
    line((0.7, -0.9), (0.7, LOWER), (1.1, LOWER), color=X, head=False)
    for gate, dx in at.items():
        line((dx, LOWER), (dx, 1.45), color=INK, width=1.2)
        name = "tanh" if gate == "g" else "σ"
        box(axes, x + dx, y + 1.8, name, GATES[gate], 0.86, 0.62, fontsize=9.5)
        side, ends = (-0.2, "right") if gate in "fi" else (0.2, "left")
        text(axes, x + dx + side, y + 2.42, f"${gate}$", GATES[gate], fontsize=12, ha=ends)
    # c runs through.
    line((0, UPPER), (WIDTH, UPPER), color=C, width=2.4)
    line((forget, 2.12), (forget, UPPER - 0.28), color=GATES["f"])
    line((at["i"], 2.12), (at["i"], middle), (write - 0.28, middle), color=GATES["i"])
    line((at["g"], 2.12), (at["g"], middle), (write + 0.28, middle), color=GATES["g"])
    line((write, middle), (write, UPPER - 0.28), color=C)
    line((read, UPPER), (read, 4.2), color=C, head=False)
    line((read, 3.6), (read, middle + 0.28), color=C)
    line((at["o"], 2.12), (at["o"], middle), (read - 0.28, middle), color=GATES["o"])
    line((read, middle), (read, LOWER), (WIDTH, LOWER), color=H)
    box(axes, x + read, y + 3.9, "tanh", INK, 0.86, 0.56, share=0.0, fontsize=9)
    circle(axes, x + forget, y + UPPER, "×", INK)
    circle(axes, x + write, y + UPPER, "+", INK)
    circle(axes, x + write, y + middle, "×", INK)
    circle(axes, x + read, y + middle, "×", INK)
