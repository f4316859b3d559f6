"""Two layers on top of each other, and one layer that reads in both directions."""

from _style import GATES, INK, H, X, arrow, box, canvas, text
from matplotlib.figure import Figure

STEPS, WIDE = 4, 1.9
FIRST, SECOND = GATES["i"], GATES["f"]


def draw() -> Figure:
    figure, axes = canvas(21.4, 8.6, 0.43)
    stacked(axes, 1.1)
    bidirectional(axes, 12.4)
    return figure


def steps(x: float) -> list[tuple[int, float]]:
    return [(step + 1, x + 1.6 + step * WIDE) for step in range(STEPS)]


def row(axes, x: float, y: float, color, words: str, back: bool = False) -> None:
    """Draw the cells of one layer in one direction, joined by their states."""
    text(axes, x + 0.55, y, words, color, fontsize=9, ha="right")
    for step, at in steps(x):
        box(axes, at, y, "LSTM", color, 1.15, 0.85, fontsize=8)
        ends = [(at - WIDE + 0.6, y), (at - 0.6, y)]
        if step > 1:
            arrow(axes, *(ends[::-1] if back else ends), color=color)


def stacked(axes, x: float) -> None:
    middle = x + 1.6 + WIDE * (STEPS - 1) / 2
    text(axes, middle, 8.2, "two layers", fontsize=12, weight="bold")
    row(axes, x, 2.6, FIRST, "layer 0")
    row(axes, x, 4.9, SECOND, "layer 1")
    for step, at in steps(x):
        arrow(axes, (at, 1.2), (at, 2.15), color=X)
        arrow(axes, (at, 3.05), (at, 4.45), color=FIRST)
        arrow(axes, (at, 5.35), (at, 6.9), color=H)
        text(axes, at, 0.8, f"$x_{step}$", X, fontsize=12)
        text(axes, at, 7.25, f"$h_{step}$", H, fontsize=12)


def bidirectional(axes, x: float) -> None:
    middle = x + 1.6 + WIDE * (STEPS - 1) / 2
    text(axes, middle, 8.2, "two directions", fontsize=12, weight="bold")
    row(axes, x, 2.6, FIRST, "forward")
    row(axes, x, 4.5, SECOND, "backward", back=True)
    for step, at in steps(x):
        # Each passes by the other direction's box: neither reads what the other has made.
        arrow(axes, (at, 1.2), (at, 2.15), color=X)
        by = [(at, 1.55), (at + 0.82, 1.55), (at + 0.82, 3.6), (at + 0.2, 3.6), (at + 0.2, 4.05)]
        arrow(axes, *by, color=X)
        by = [(at - 0.2, 3.05), (at - 0.2, 3.35), (at - 0.82, 3.35), (at - 0.82, 5.45)]
        arrow(axes, *by, (at - 0.275, 5.45), (at - 0.275, 6.2), color=FIRST)
        arrow(axes, (at + 0.275, 4.95), (at + 0.275, 6.2), color=SECOND)
        box(axes, at, 6.45, "", INK, 1.15, 0.45, share=0.0)
        box(axes, at - 0.275, 6.45, "", FIRST, 0.5, 0.34, share=0.5, rounded=0.05)
        box(axes, at + 0.275, 6.45, "", SECOND, 0.5, 0.34, share=0.5, rounded=0.05)
        text(axes, at, 0.8, f"$x_{step}$", X, fontsize=12)
        text(axes, at, 7.15, f"$h_{step}$", H, fontsize=12)
    text(axes, x + 0.7, 6.45, "both, side\nby side", INK, fontsize=9, ha="right")
