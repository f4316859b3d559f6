"""Validation losses with three learning rates."""

from _page import names_of
from _style import plots
from matplotlib.figure import Figure

COLORS = {0.0003: "tab:gray", 0.01: "tab:blue", 0.3: "tab:red"}
SAYS = {0.0003: "too small", 0.01: "right", 0.3: "too large"}


def draw() -> Figure:
    rates = names_of("tutorial/07-training-step-by-step")["rates"]
    figure, axes = plots(size=(7, 3))
    for rate, values in rates.items():
        epochs = range(1, len(values) + 1)
        axes.semilogy(epochs, values, color=COLORS[rate], lw=1.8)
        label = f"{rate:g}: {SAYS[rate]}"
        axes.text(len(values) + 0.5, values[-1], label, color=COLORS[rate], va="center")
    axes.set(xlabel="epoch", ylabel="validation loss", xlim=(1, 26))
    axes.set_yticks([0.05, 0.1, 0.2, 0.5], ["0.05", "0.1", "0.2", "0.5"])
    axes.minorticks_off()
    axes.set_xticks(range(5, 21, 5))
    return figure
