"""The parameters of a layer: four blocks of rows, one for each gate."""

from _style import GATES, INK, NAMES, H, X, canvas, grid, text
from matplotlib.figure import Figure

HIDDEN, INPUT, SIZE = 3, 2, 0.42


def draw() -> Figure:
    figure, axes = canvas(15.4, 7.4, 0.5)
    top, height = 6.4, 4 * HIDDEN * SIZE
    middle = top - height / 2
    x = 2.3
    for number, (gate, color) in enumerate(GATES.items()):
        y = top - (number + 0.5) * HIDDEN * SIZE
        text(axes, x - 0.25, y, f"{NAMES[gate]} ${gate}$", color, fontsize=10, ha="right")
    matrix(axes, x, top, INPUT, "weight_ih_l0\n(4 H, I)")
    x += INPUT * SIZE
    column(axes, x + 0.35, middle, INPUT, X, "$x_t$")
    x += 0.35 + SIZE
    text(axes, x + 0.45, middle, "+", fontsize=15)
    x += 0.9
    matrix(axes, x, top, HIDDEN, "weight_hh_l0\n(4 H, H)")
    x += HIDDEN * SIZE
    column(axes, x + 0.35, middle, HIDDEN, H, "$h_{t-1}$")
    x += 0.35 + SIZE
    for name in ("bias_ih_l0", "bias_hh_l0"):
        text(axes, x + 0.75, middle, "+", fontsize=15)
        x += 1.55
        matrix(axes, x, top, 1, f"{name}\n(4 H,)")
        x += SIZE
    text(axes, x + 0.55, middle, "=", fontsize=15)
    x += 1.1
    matrix(axes, x, top, 1, "$z$")
    for number, gate in enumerate(GATES):
        y = top - (number + 0.5) * HIDDEN * SIZE
        name = "tanh" if gate == "g" else "σ"
        words = f"{name}$(z_{gate})$ = ${gate}$"
        text(axes, x + 0.65, y, words, GATES[gate], fontsize=10, ha="left")
    text(axes, 7.7, 0.35, f"drawn with H = {HIDDEN} and I = {INPUT}", INK, fontsize=9)
    return figure


def matrix(axes, x: float, top: float, columns: int, words: str) -> None:
    for number, color in enumerate(GATES.values()):
        grid(axes, x, top - number * HIDDEN * SIZE, HIDDEN, columns, color, SIZE, share=0.35)
    text(axes, x + columns * SIZE / 2, top + 0.55, words, fontsize=9)


def column(axes, x: float, middle: float, rows: int, color, words: str) -> None:
    top = middle + rows * SIZE / 2
    grid(axes, x, top, rows, 1, color, SIZE, share=0.35)
    text(axes, x + SIZE / 2, top + 0.35, words, color, fontsize=12)
