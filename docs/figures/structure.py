"""The code structure: what imports what, from the top down."""

from _style import FAINT, INK, arrow, box, canvas, text
from matplotlib.figure import Figure

LEFT, WIDTH, LINE = 0.5, 15.0, 1.25
FLOORS = [  # from the top: (name, share of the width, colour) of what stands side by side
    [("cli", 0.28, "tab:gray"), ("torch", 0.3, "tab:purple"), ("visualize", 0.42, "tab:cyan")],
    [("training", 1, "tab:green")],
    [("formats", 0.68, "tab:orange"), ("plot", 0.32, "tab:cyan")],
    [("graphs", 1, "tab:orange")],
    [("layers", 1, "tab:blue")],
    [("sequences", 0.35, "tab:blue"), ("engines", 0.65, "tab:red")],
]
SAID = {
    "cli": "the command line",
    "torch": "a drop-in for torch.nn.LSTM",
    "visualize": "pictures of gates, states and weights",
    "training": "losses, optimisers, data, fit, forecasts",
    "formats": "model files",
    "plot": "pictures of trainings",
    "graphs": "whole networks of ONNX and Keras files",
    "layers": "LSTM, the layers around it, streams; named parameters",
    "sequences": "ragged batches",
    "engines": "the equations; who computes",
}


def draw() -> Figure:
    figure, axes = canvas(18.6, 9.1, 0.42)
    top = 8.4
    for number, floor in enumerate(FLOORS):
        x, y = LEFT, top - number * LINE
        for name, share, color in floor:
            width = share * WIDTH - 0.25
            box(axes, x + width / 2, y, "", color, width, 0.95)
            text(axes, x + 0.3, y + 0.19, name, INK, ha="left", weight="bold", fontsize=9.5)
            text(axes, x + 0.3, y - 0.2, SAID[name], INK, ha="left", fontsize=8)
            x += share * WIDTH
    # The engines in a row of their own, of which none knows another.
    y = top - len(FLOORS) * LINE
    x = LEFT + 0.35 * WIDTH
    for name, width, said in (
        ("numpy", 2.5, "to read"),
        ("numba", 2.5, "jitted"),
        ("native", 4.25, "C11, of native/"),
    ):
        box(axes, x + width / 2, y, "", "tab:red", width, 0.95, share=0.4)
        text(axes, x + 0.25, y + 0.19, name, INK, ha="left", weight="bold", fontsize=9.5)
        text(axes, x + 0.25, y - 0.2, said, INK, ha="left", fontsize=7.5)
        x += width + 0.125
    box(axes, LEFT + (0.35 * WIDTH - 0.25) / 2, y, "", "tab:gray", 0.35 * WIDTH - 0.25, 0.95)
    text(axes, LEFT + 0.3, y + 0.19, "arrays, checks, files, ...", INK, ha="left", fontsize=8.5)
    text(axes, LEFT + 0.3, y - 0.2, "what everything may use", INK, ha="left", fontsize=8)
    side = LEFT + WIDTH + 0.5
    arrow(axes, (side, top + 0.3), (side, y - 0.3), color=FAINT, width=2.4)
    text(axes, side + 0.35, (top + y) / 2, "imports\npoint down\nonly", INK, ha="left", fontsize=9)
    return figure
