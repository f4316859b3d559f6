"""The drawing of one step of an LSTM, for the figures that show it once or several times."""

from __future__ import annotations

from typing import Any

from _style import FAINT, GATES, INK, C, H, X, arrow, box, circle, text
from matplotlib.axes import Axes

WIDTH, HEIGHT = 6.5, 5.5
LOWER, UPPER = 0.8, 4.7  # where h and c come in and go out
INPUT = 0.5  # where x comes in, from below


def cell(axes: Axes, x: float, y: float, scale: float = 1.0) -> None:
    """Draw a cell whose lower left corner is at x, y; h and c run from its left to its right.

    `scale` is that of letters and lines.
    """
    box(axes, x + WIDTH / 2, y + HEIGHT / 2, "", FAINT, WIDTH, HEIGHT, share=0.08, zorder=0)

    def line(*points: tuple[float, float], width: float = 1.6, **how: Any) -> None:
        arrow(axes, *((x + dx, y + dy) for dx, dy in points), width=width * scale, **how)

    at = {"f": 1.4, "i": 2.5, "g": 3.7, "o": 4.8}
    forget, write, read, middle = at["f"], 3.1, 5.75, 3.15
    # h and x go into all four.
    line((INPUT, -0.9), (INPUT, LOWER), (INPUT + 0.3, LOWER), color=X, head=False)
    line((0, LOWER), (at["o"], LOWER), (at["o"], 1.2), color=H, head=False)
    for gate, dx in at.items():
        if gate != "o":
            line((dx, LOWER), (dx, 1.47), color=H, width=1.2)
        else:
            line((dx, 1.1), (dx, 1.47), color=H, width=1.2)
        name = "tanh" if gate == "g" else "σ"
        box(axes, x + dx, y + 1.8, name, GATES[gate], 0.95, 0.66, fontsize=9.5 * scale)
        side, ends = (-0.16, "right") if gate in "fi" else (0.16, "left")
        text(axes, x + dx + side, y + 2.45, f"${gate}$", GATES[gate], fontsize=13 * scale, ha=ends)
    # c runs through.
    line((0, UPPER), (WIDTH, UPPER), color=C, width=2.2, head=False)
    line((forget, 2.12), (forget, UPPER - 0.26), color=GATES["f"])
    line((at["i"], 2.12), (at["i"], middle), (write - 0.26, middle), color=GATES["i"])
    line((at["g"], 2.12), (at["g"], middle), (write + 0.26, middle), color=GATES["g"])
    line((write, middle), (write, UPPER - 0.26), color=C)
    line((read, UPPER), (read, 4.2), color=C, head=False)
    line((read, 3.65), (read, middle + 0.24), color=C, width=1.3)
    line((at["o"], 2.12), (at["o"], middle), (read - 0.26, middle), color=GATES["o"])
    line((read, middle), (read, LOWER), (WIDTH, LOWER), color=H, head=False)
    box(axes, x + read, y + 3.95, "tanh", INK, 0.95, 0.56, share=0.0, fontsize=9.5 * scale)
    for dx, dy, sign in ((forget, UPPER, "×"), (write, UPPER, "+"), (write, middle, "×")):
        circle(axes, x + dx, y + dy, sign, fontsize=11 * scale)
    circle(axes, x + read, y + middle, "×", fontsize=11 * scale)
