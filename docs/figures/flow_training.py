"""One update of a training: forward, loss, backward, step, and again."""

from _style import GATES, C, H, X, arrow, box, canvas, text
from matplotlib.figure import Figure

BACK = GATES["o"]


def draw() -> Figure:
    figure, axes = canvas(14.4, 6.6)
    upper, lower = 5.2, 2.2
    box(axes, 1.5, upper, "batch", X, 2.0, 1.0)
    box(axes, 6.0, upper, "model", H, 2.2, 1.0)
    box(axes, 11.2, upper, "loss", C, 2.0, 1.0, share=0.08)
    box(axes, 6.0, lower, "pullback", BACK, 2.2, 1.0)
    box(axes, 1.5, lower, "optimiser", GATES["g"], 2.0, 1.0)

    arrow(axes, (2.55, upper), (4.85, upper))
    label(axes, 3.7, upper, "input x", "(32, 21, 1)")
    arrow(axes, (7.15, upper), (10.15, upper))
    label(axes, 8.6, upper, "prediction", "(32, 1)")
    arrow(axes, (1.5, upper + 0.55), (1.5, upper + 1.1), (11.2, upper + 1.1), (11.2, upper + 0.55))
    text(axes, 6.4, upper + 1.3, "target y   (32, 1)", fontsize=9.5)
    arrow(axes, (12.25, upper), (12.95, upper))
    text(axes, 13.8, upper, "value,\na number", fontsize=9.5)

    arrow(axes, (11.2, upper - 0.55), (11.2, lower), (7.15, lower), color=BACK)
    label(axes, 9.2, lower, "gradient of the prediction", "(32, 1)", BACK)
    arrow(axes, (4.85, lower), (2.55, lower), color=BACK)
    label(axes, 3.7, lower, "gradients\nof all weights", "1,233", BACK)
    arrow(axes, (1.5, lower + 0.55), (1.5, 3.7), (6.0, 3.7), (6.0, upper - 0.55), color=GATES["g"])
    text(axes, 3.6, 3.92, "a small step of every weight", GATES["g"], fontsize=9.5)
    text(axes, 7.2, upper + 0.72, "forward", fontsize=11, style="italic", ha="left")
    text(axes, 7.4, lower - 0.8, "backward", BACK, fontsize=11, style="italic", ha="left")
    text(axes, 1.5, lower - 0.8, "update", GATES["g"], fontsize=11, style="italic")
    text(axes, 1.5, lower - 1.35, "then the next batch", fontsize=9.5)
    return figure


def label(axes, x, y, above, below, color="0.2") -> None:
    """Write what goes along an arrow above it, and its shape below."""
    text(axes, x, y + 0.14, above, color, fontsize=9.5, va="bottom", linespacing=1.1)
    text(axes, x, y - 0.16, below, color, fontsize=9.5, va="top", family="monospace")
