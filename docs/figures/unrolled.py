"""The cell unrolled over three steps: the same cell three times, joined by h and c."""

from _cell import HEIGHT, INPUT, LOWER, UPPER, WIDTH, cell
from _style import C, H, X, arrow, canvas, text
from matplotlib.figure import Figure

GAP, SCALE, STEPS = 0.6, 0.88, 3


def draw() -> Figure:
    figure, axes = canvas(22.9, 8.4, 0.36)
    y = 1.6
    for step in range(STEPS):
        x = 1.2 + step * (WIDTH + GAP)
        cell(axes, x, y, SCALE)
        for height, name, color in ((UPPER, "c", C), (LOWER, "h", H)):
            width = SCALE * (2.2 if name == "c" else 1.6)
            arrow(
                axes,
                (x - GAP, y + height),
                (x, y + height),
                color=color,
                width=width,
                head=not step,
            )
            if step == 0:
                text(axes, x - GAP - 0.1, y + height, f"${name}_0$", color, ha="right")
        # What a step gives: h, drawn upwards behind c.
        end = x + WIDTH
        arrow(
            axes,
            (end - 0.3, y + LOWER),
            (end - 0.3, y + HEIGHT + 0.7),
            color=H,
            width=1.2,
            zorder=1,
        )
        text(axes, end - 0.3, y + HEIGHT + 1.05, f"$h_{step + 1}$", H, fontsize=11)
        text(axes, x + INPUT, y - 1.2, f"$x_{step + 1}$", X, fontsize=11)
    end += GAP
    for height, name, color in ((UPPER, "c", C), (LOWER, "h", H)):
        arrow(axes, (end - GAP, y + height), (end, y + height), color=color, width=1.2)
        text(axes, end + 0.1, y + height, f"${name}_{STEPS}$", color, ha="left")
    return figure
