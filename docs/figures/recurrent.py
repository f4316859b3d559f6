"""A recurrent network: with a loop, and the same unrolled over time."""

from _style import INK, H, X, arrow, box, canvas, text
from matplotlib.figure import Figure


def draw() -> Figure:
    figure, axes = canvas(15.5, 4.8, 0.53)
    middle = 2.4

    def unit(x: float, step: str) -> None:
        box(axes, x, middle, "tanh", INK, 1.3, 0.9, share=0.1, fontsize=11)
        arrow(axes, (x, middle - 1.35), (x, middle - 0.47), color=X)
        arrow(axes, (x, middle + 0.47), (x, middle + 1.35), color=H)
        text(axes, x, middle - 1.7, f"$x_{step}$", X, fontsize=14)
        text(axes, x, middle + 1.7, f"$h_{step}$", H, fontsize=14)

    unit(1.6, "t")
    loop = [(1.6, middle + 0.85), (2.9, middle + 0.85), (2.9, middle), (2.27, middle)]
    arrow(axes, *loop, color=H)
    text(axes, 4.35, middle, "=", fontsize=20)
    for step in range(1, 5):
        x = 4.1 + 2.5 * step
        unit(x, str(step))
        arrow(axes, (x - 1.85, middle), (x - 0.67, middle), color=H)
    text(axes, 4.1 + 0.55, middle, "", H)
    text(axes, 5.02, middle + 0.35, "$h_0$", H, fontsize=12)
    arrow(axes, (14.77, middle), (15.4, middle), color=H)
    return figure
