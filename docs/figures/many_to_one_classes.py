"""What really was, and what the model said: the table of three classes."""

import numpy as np
from _page import names_of
from _style import plots
from matplotlib.figure import Figure


def draw() -> Figure:
    page = names_of("tutorial/04-many-to-one")
    names, said, really = page["STATES"], page["said"], page["really"]
    table = np.zeros((3, 3), int)
    np.add.at(table, (really, said), 1)
    figure, axes = plots(size=(4.6, 3.2))
    axes.imshow(table / table.sum(axis=1, keepdims=True), cmap="Blues", vmin=0, vmax=1.15)
    for row, column in np.ndindex(table.shape):
        color = "white" if row == column else "0.25"
        axes.text(column, row, str(table[row, column]), ha="center", va="center", color=color)
    axes.set(
        xticks=range(3), xticklabels=names, yticks=range(3), yticklabels=names,
        xlabel="the model says", ylabel="it really is",
    )  # fmt: skip
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure
