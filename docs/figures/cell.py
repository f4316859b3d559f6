"""One step of an LSTM, with the names of all that is in it."""

from _cell import HEIGHT, INPUT, LOWER, UPPER, WIDTH, cell
from _style import GATES, INK, C, H, X, arrow, canvas, text
from matplotlib.figure import Figure


def draw() -> Figure:
    figure, axes = canvas(12.6, 8.6, 0.6)
    x, y = 2.6, 1.7
    end = x + WIDTH
    cell(axes, x, y)
    for height, name, what, color in (
        (UPPER, "c", "the cell state", C),
        (LOWER, "h", "the output", H),
    ):
        wide = 2.2 if name == "c" else 1.6
        arrow(axes, (x - 0.9, y + height), (x, y + height), color=color, head=False, width=wide)
        arrow(axes, (end, y + height), (end + 0.9, y + height), color=color, width=wide)
        text(axes, x - 1.05, y + height, f"${name}_{{t-1}}$", color, fontsize=15, ha="right")
        text(axes, end + 1.05, y + height, f"${name}_t$", color, fontsize=15, ha="left")
        text(axes, end + 1.7, y + height, what, color, fontsize=10, ha="left")
    text(axes, x + INPUT, y - 1.2, "$x_t$", X, fontsize=15)
    text(axes, x + INPUT + 0.4, y - 1.2, "the input of this step", X, fontsize=10, ha="left")
    for dx, words, color in (
        (0.7, "forget: $f$ says\nhow much of c is kept", GATES["f"]),
        (3.1, "write: $i$ says how\nmuch of $g$ is added", INK),
        (5.5, "read: $o$ says how\nmuch of c is shown", GATES["o"]),
    ):
        text(axes, x + dx, y + HEIGHT + 0.65, words, color, fontsize=9)
    return figure
