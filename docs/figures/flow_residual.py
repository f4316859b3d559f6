"""A forecast in two parts: persistence past the LSTM, and what the LSTM adds to it."""

from _style import GATES, INK, H, arrow, box, canvas, circle, text
from matplotlib.figure import Figure


def draw() -> Figure:
    figure, axes = canvas(13.6, 4.2)
    upper, lower, begin, end = 3.1, 1.2, 1.9, 11.3
    text(axes, 0.85, upper, "window\n(B, 26, 6)")
    arrow(axes, (begin - 0.2, upper), (2.55, upper))
    arrow(axes, (2.1, upper), (2.1, lower), (2.55, lower))
    for x, name, color in ((3.4, "LSTM", H), (5.8, "Last", "0.35"), (8.2, "Linear", GATES["i"])):
        box(axes, x, upper, name, color, 1.5, 0.9)
        if x > 4:
            arrow(axes, (x - 1.65, upper), (x - 0.78, upper))
    text(axes, 8.2, upper + 0.72, "weights begin at 0", fontsize=9)
    box(axes, 3.4, lower, "Last", "0.35", 1.5, 0.9)
    box(axes, 6.7, lower, "Linear", GATES["i"], 1.5, 0.9)
    arrow(axes, (4.15, lower), (5.92, lower))
    text(axes, 6.7, lower - 0.72, "copies the last flow and snow", fontsize=9)
    text(axes, 3.4, upper + 0.72, "layer", H, fontsize=9)
    text(axes, 3.4, lower - 0.72, "the last week", fontsize=9)
    text(axes, 5.05, lower + 0.3, "projection", GATES["i"], fontsize=9)
    middle = (upper + lower) / 2
    arrow(axes, (8.95, upper), (10.3, upper), (10.3, middle + 0.28))
    arrow(axes, (7.45, lower), (10.3, lower), (10.3, middle - 0.28))
    circle(axes, 10.3, middle, "+", INK)
    arrow(axes, (10.58, middle), (end + 0.1, middle))
    text(axes, 12.3, middle, "forecast\n(B, 12)")
    return figure
