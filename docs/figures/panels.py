"""How the native engine lays weights out: a panel, and the sums in registers that it feeds."""

from _style import GATES, INK, NAMES, X, arrow, canvas, grid, text
from matplotlib.figure import Figure

UNITS, LANES, INPUTS, ROWS, SIZE = 8, 4, 5, 3, 0.3
STRONG, WEAK = 0.75, 0.18


def draw() -> Figure:
    figure, axes = canvas(19.5, 11.6, 0.42)
    # A weight matrix of torch: the rows of gate i, then those of f, g and o.
    x, y = 1.2, 10.6
    text(axes, x + INPUTS * SIZE / 2, 11.15, "weight_ih, (4H, I)", fontsize=9)
    for number, (gate, color) in enumerate(GATES.items()):
        top = y - number * UNITS * SIZE
        grid(axes, x, top, LANES, INPUTS, color, SIZE, share=STRONG)
        grid(axes, x, top - LANES * SIZE, UNITS - LANES, INPUTS, color, SIZE, share=WEAK)
        text(axes, x - 0.35, top - UNITS * SIZE / 2, gate, color, fontsize=11)
    text(axes, x + INPUTS * SIZE / 2, y - 4 * UNITS * SIZE - 0.35, "k: inputs", fontsize=8)
    # The panel of the first units: for each k, all gates side by side.
    left, width = 6.6, 4 * LANES * SIZE
    text(axes, left + width / 2, 11.15, "a panel, [k][gate][lane]: units 0 to 3", fontsize=9)
    for number, color in enumerate(GATES.values()):
        grid(axes, left + number * LANES * SIZE, y, INPUTS, LANES, color, SIZE, share=STRONG)
    for k in range(INPUTS):
        text(axes, left - 0.3, y - (k + 0.5) * SIZE, str(k), fontsize=7.5)
    text(axes, left - 0.75, y - INPUTS * SIZE / 2, "k", fontsize=9)
    arrow(axes, (3.3, y - 0.7), (left - 1.1, y - 0.7), color=INK, width=1.4)
    text(axes, 4.35, y - 0.35, "packed once", fontsize=8)
    # Inputs of some rows, and the sums that wait in registers.
    low = 5.6
    grid(axes, 3.9, low, ROWS, INPUTS, X, SIZE, share=0.35)
    text(axes, 3.9 + INPUTS * SIZE / 2, low + 0.3, "x, of 3 sequences", fontsize=8.5)
    for number, color in enumerate(GATES.values()):
        grid(axes, left + number * LANES * SIZE, low, ROWS, LANES, color, SIZE, share=0.35)
    arrow(axes, (left + width / 2, y - INPUTS * SIZE - 0.2), (left + width / 2, low + 0.2))
    text(
        axes, left + width / 2 + 0.25, (y - INPUTS * SIZE + low) / 2,
        "for each k: sum[row][gate] += x[row][k] * panel[k][gate],\n"
        "one fused multiply-add for a vector of lanes",
        ha="left", fontsize=8,
    )  # fmt: skip
    arrow(axes, (5.6, low - 0.45), (left - 0.25, low - 0.45))
    text(
        axes,
        left + width + 0.3,
        low - 0.45,
        "the tile: sums of all gates, in registers",
        ha="left",
        fontsize=8.5,
    )
    # The cell follows from them without a detour through memory.
    arrow(axes, (left + width / 2, low - ROWS * SIZE - 0.15), (left + width / 2, 3.0))
    text(
        axes,
        left + width / 2 + 0.25,
        3.85,
        "the cell: c = f c + i g,  h = o tanh(c)",
        ha="left",
        fontsize=8.5,
    )
    grid(axes, left + width / 2 - LANES * SIZE - 0.2, 2.75, ROWS, LANES, "black", SIZE)
    grid(axes, left + width / 2 + 0.2, 2.75, ROWS, LANES, "tab:purple", SIZE, share=0.35)
    text(axes, left + width / 2 - LANES * SIZE / 2 - 0.2, 1.55, "c", fontsize=10)
    text(axes, left + width / 2 + LANES * SIZE / 2 + 0.2, 1.55, "h", "tab:purple", fontsize=10)
    text(axes, left + width / 2 + 2.0, 2.3, "to memory go c and h alone", ha="left", fontsize=8.5)
    for number, (gate, color) in enumerate(GATES.items()):
        text(
            axes,
            14.2,
            10.4 - 0.42 * number,
            f"{gate}  {NAMES[gate]}",
            color,
            ha="left",
            fontsize=8.5,
        )
    return figure
