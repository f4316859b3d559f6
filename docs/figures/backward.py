"""The two ways of the gradient back in time: by c, through forget gates; by h, through weights."""

from _style import GATES, INK, C, H, arrow, box, canvas, circle, text
from matplotlib.figure import Figure

STEPS, WIDE, LEFT = 3, 4.4, 2.0
UPPER, LOWER = 4.3, 1.5


def draw() -> Figure:
    figure, axes = canvas(17.4, 6.3, 0.46)
    end = LEFT + STEPS * WIDE
    for name, y, color in (("c", UPPER, C), ("h", LOWER, H)):
        text(axes, LEFT - 0.95, y, f"$d{name}_0$", color, fontsize=13)
        text(axes, end + 0.6, y, f"$d{name}_{STEPS}$", color, fontsize=13)
    for step in range(STEPS, 0, -1):
        right = LEFT + step * WIDE
        left = right - WIDE
        times, gates = left + 0.75, left + 2.2
        last, first = step == STEPS, step == 1
        # By c: multiplied by f.
        arrow(axes, (right - 0.05 if last else right + 0.45, UPPER), (times + 0.3, UPPER), color=C)
        circle(axes, times, UPPER, "×")
        arrow(axes, (times, UPPER + 1.05), (times, UPPER + 0.28), color=GATES["f"])
        text(axes, times, UPPER + 1.35, f"$f_{step}$", GATES["f"], fontsize=12)
        # By h: through the gates and W_hh.
        arrow(axes, (right - 0.05 if last else right + 0.15, LOWER), (gates + 1.0, LOWER), color=H)
        box(axes, gates + 0.5, LOWER, "gates", INK, 1.0, 0.8, share=0.1, fontsize=9)
        arrow(axes, (gates, LOWER), (times + 0.65, LOWER), color=H)
        box(axes, times, LOWER, "$W_{hh}^T$", INK, 1.2, 0.8, share=0.1, fontsize=9)
        # Between the two: dh goes into c by o, and dc into the gates.
        down, up = gates + 0.25, gates + 0.75
        arrow(axes, (down, UPPER), (down, LOWER + 0.42), color=C, width=1.2)
        arrow(axes, (up, LOWER + 0.42), (up, UPPER - 0.06), color=H, width=1.2)
        if first:
            arrow(axes, (times - 0.28, UPPER), (LEFT - 0.5, UPPER), color=C)
            arrow(axes, (times - 0.62, LOWER), (LEFT - 0.5, LOWER), color=H)
        # The gradient of the loss by the output of this step.
        arrow(axes, (right - 0.55, 0.45), (right - 0.55, LOWER - 0.05), color=H, width=1.2)
        text(axes, right - 0.55, 0.15, f"$dy_{step}$", H, fontsize=11)
    return figure
