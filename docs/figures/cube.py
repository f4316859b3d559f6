"""The cube of samples, time and features, with the samples first and with time first."""

from _style import INK, arrow, block, canvas, text
from matplotlib.figure import Figure

COLORS = ["tab:blue", "tab:orange", "tab:green"]  # of the samples
SAMPLES, STEPS, FEATURES, SIZE = 3, 5, 2, 0.8


def draw() -> Figure:
    figure, axes = canvas(15.4, 7, 0.52)
    cube(axes, 1.9, 4.55, SAMPLES, STEPS, lambda row, column: COLORS[row], "samples B", "time T")
    cube(axes, 10.2, 5.2, STEPS, SAMPLES, lambda row, column: COLORS[column], "time T", "samples B")
    text(axes, 3.9, 6.6, "batch_first=True:  (B, T, I)", fontsize=12, weight="bold")
    text(axes, 11.4, 6.6, "batch_first=False:  (T, B, I)", fontsize=12, weight="bold")
    return figure


def cube(axes, x: float, y: float, rows: int, columns: int, color, down: str, right: str) -> None:
    """Draw the cube, and along its edges what its axes are."""
    block(axes, x, y, rows, columns, FEATURES, color, SIZE)
    bottom, end = y - rows * SIZE, x + columns * SIZE
    dx, dy = 0.55 * SIZE * FEATURES, 0.4 * SIZE * FEATURES
    arrow(axes, (x - 0.25, y), (x - 0.25, bottom))
    text(axes, x - 0.4, (y + bottom) / 2, down.replace(" ", "\n"), ha="right")
    arrow(axes, (x, bottom - 0.25), (end, bottom - 0.25))
    text(axes, (x + end) / 2, bottom - 0.6, right)
    arrow(axes, (end + 0.2, bottom - 0.1), (end + 0.2 + dx, bottom - 0.1 + dy))
    text(axes, end + 0.35 + dx / 2, bottom - 0.15, "features I", INK, ha="left")
