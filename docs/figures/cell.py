"""One step of an LSTM, with the names of all that is in it."""

from _cell import LOWER, UPPER, WIDTH, cell
from _style import C, H, X, arrow, canvas, text
from matplotlib.figure import Figure


def draw() -> Figure:
    figure, axes = canvas(12.6, 9, 0.56)
    x, y = 2.6, 1.9
    cell(axes, x, y)
    for height, name, color in ((UPPER, "c", C), (LOWER, "h", H)):
        arrow(axes, (x - 1, y + height), (x, y + height), color=color, head=False, width=2)
        end = x + WIDTH
        arrow(axes, (end, y + height), (end + 1, y + height), color=color, width=2)
        text(axes, x - 1.15, y + height, f"${name}_{{t-1}}$", color, fontsize=14, ha="right")
        text(axes, end + 1.15, y + height, f"${name}_t$", color, fontsize=14, ha="left")
    text(axes, x + 0.7, y - 1.25, "$x_t$", X, fontsize=14)
    return figure
