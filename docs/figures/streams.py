"""A sequence in one call, in chunks and step by step; the state is what goes from call to call."""

from _style import FAINT, GATES, INK, H, arrow, box, canvas, text
from matplotlib.figure import Figure

STEPS, WIDE = 12, 1.02
CUTS = [("lstm(x)", [12]), ("stream.run, in chunks", [5, 3, 4]), ("stream.step", [1] * 12)]


def draw() -> Figure:
    figure, axes = canvas(18.6, 6.9, 0.47)
    left = 4.4
    for step in range(STEPS):
        text(axes, left + (step + 0.5) * WIDE, 6.5, f"$x_{{{step}}}$", INK, fontsize=10)
    for number, (name, lengths) in enumerate(CUTS):
        y = 5.5 - number * 2.0
        text(axes, left - 0.75, y, name, fontsize=10, ha="right", family="monospace")
        x = left
        for length in lengths:
            width = length * WIDE - 0.34
            box(axes, x + length * WIDE / 2, y, "", GATES["i"], width, 0.95, share=0.25)
            for step in range(length):
                at = x + (step + 0.5) * WIDE
                text(axes, at, y, "●", GATES["i"], fontsize=8)
            x += length * WIDE
            arrow(axes, (x - 0.17, y), (x + 0.19, y), color=H, width=1.3)
        arrow(axes, (left - 0.45, y), (left + 0.19, y), color=H, width=1.3)
        text(axes, x + 0.4, y, "the same (h, c)", H, fontsize=9.5, ha="left")
    text(axes, left + STEPS * WIDE / 2, 0.4, "an arrow is the state, which the stream keeps "
         "from call to call", FAINT, fontsize=9.5)  # fmt: skip
    return figure
