"""The temperature of a room, and what is going on in it."""

import numpy as np
from _page import TRUTH, names_of
from _style import X, plots
from matplotlib.figure import Figure
from matplotlib.patches import Patch

COLORS = ["tab:gray", "tab:red", "tab:cyan"]


def draw() -> Figure:
    page = names_of("tutorial/04-many-to-one")
    state = page["state"]
    opened = np.flatnonzero(state == 2)
    first = opened[1:][np.diff(opened) > 150][0] - 90  # the window was shut for a day before
    shown = np.arange(first, first + 120)
    hours = (shown - first) / 12
    figure, axes = plots(size=(8, 3))
    axes.plot(hours, page["temperature"][shown], ".", color=X, ms=4, label="thermometer")
    axes.plot(hours, page["truth"][shown], color=TRUTH, lw=2, label="truth")
    begins = np.flatnonzero(np.diff(state[shown], prepend=-1))
    for begin, end in zip(begins, [*begins[1:], len(shown)], strict=True):
        axes.axvspan(begin / 12, end / 12, color=COLORS[state[shown[begin]]], alpha=0.16, lw=0)
    for limit in (19, 21):
        axes.axhline(limit, color="0.4", lw=0.8, ls=":")
    axes.set(xlabel="hours", ylabel="°C", xlim=(hours[0], hours[-1]))
    lines, labels = axes.get_legend_handles_labels()
    patches = [Patch(color=color, alpha=0.16, lw=0) for color in COLORS]
    figure.legend(
        [*lines, *patches], [*labels, *page["STATES"]], frameon=False, ncols=5,
        loc="outside upper left",
    )  # fmt: skip
    return figure
