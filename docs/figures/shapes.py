"""What output, h_n and c_n are, of two layers in two directions over four steps."""

from _style import FAINT, INK, H, arrow, box, canvas, text
from matplotlib.figure import Figure

STEPS, WIDE = 4, 1.9
LEFT, SHOWN = 4.2, 13.9  # the first step; h_n
ROWS = [(0, "forward", 1.6), (0, "backward", 2.9), (1, "forward", 4.9), (1, "backward", 6.2)]


def draw() -> Figure:
    figure, axes = canvas(16, 8.1, 0.5)
    for number, (layer, direction, y) in enumerate(ROWS):
        back = direction == "backward"
        last = 0 if back else STEPS - 1
        text(axes, LEFT - 1.15, y, f"layer {layer}, {direction}", fontsize=10, ha="right")
        for step in range(STEPS):
            x = LEFT + step * WIDE
            shade, letters = (0.85, "white") if step == last else (0.12, H)
            box(axes, x, y, "", H, 1.1, 0.8, share=shade, rounded=0.1)
            text(axes, x, y, f"$h_{step + 1}$", letters, fontsize=11)
            if step:
                ends = [(x - WIDE + 0.58, y), (x - 0.58, y)]
                arrow(axes, *(ends[::-1] if back else ends), color=INK, width=1.2)
        # The state with which this row ends.
        x, y_n = LEFT + last * WIDE, y
        if back:
            way = [(x, y - 0.42), (x, y - 0.65), (SHOWN - 1.5, y - 0.65), (SHOWN - 1.5, y - 0.1)]
            way += [(SHOWN - 0.8, y - 0.1)]
        else:
            way = [(x + 0.58, y), (SHOWN - 0.8, y)]
        arrow(axes, *way, color=H, width=1.1, zorder=1)
        box(axes, SHOWN, y_n, "", H, 1.5, 0.8, share=0.85, rounded=0.1)
        text(axes, SHOWN, y_n, f"h_n[{number}]", "white", fontsize=10)
    middle = LEFT + (STEPS - 1) * WIDE / 2
    frame(axes, middle, 5.55, STEPS * WIDE - 0.35, 2.55, INK)
    text(axes, middle, 7.3, "output (T, B, 2 H): the upper layer, every step", INK, fontsize=11)
    frame(axes, SHOWN, 3.9, 2.0, 5.85, H)
    words = "h_n (4, B, H): every layer,\nthe end of its reading\n(c_n: the same of c)"
    text(axes, SHOWN, 7.5, words, H, fontsize=11)
    arrow(axes, (LEFT - 0.5, 0.55), (LEFT + 3 * WIDE + 0.5, 0.55), color=FAINT)
    text(axes, middle, 0.2, "time", FAINT)
    return figure


def frame(axes, x: float, y: float, width: float, height: float, color) -> None:
    """Draw a box around others."""
    box(axes, x, y, "", color, width, height, share=0.04, zorder=0)
