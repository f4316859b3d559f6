"""Forecasts of the room's temperature, and what came."""

import numpy as np
from _page import FORECAST, TRUTH, names_of
from _style import plots
from matplotlib.figure import Figure


def draw() -> Figure:
    page = names_of("tutorial/04-many-to-one")
    opened = 100 + np.flatnonzero(page["state"][page["places"][100:]] == 2)[0]
    shown = slice(opened - 70, opened + 26)
    hours = np.arange(96) / 12
    figure, axes = plots(size=(8, 3))
    axes.plot(hours, page["then"][shown], color=TRUTH, lw=3, alpha=0.8, label="what came")
    axes.plot(
        hours, page["ways"]["persistence"][shown], "--", color="0.6", lw=1, label="persistence"
    )
    label = "LSTM, half an hour before"
    axes.plot(hours, page["forecast"][shown], color=FORECAST, lw=1.5, label=label)
    low = page["then"][shown].min()
    axes.annotate(
        "the window\nis opened", (hours[70], page["then"][opened]), (hours[70] - 1.3, low + 0.6),
        ha="center", arrowprops={"arrowstyle": "->", "color": "0.4"}, color="0.3", fontsize=9,
    )  # fmt: skip
    axes.set(xlabel="hours", ylabel="°C", xlim=(hours[0], hours[-1]))
    figure.legend(
        *axes.get_legend_handles_labels(), frameon=False, ncols=3, loc="outside upper left"
    )
    return figure
