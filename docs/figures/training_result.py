"""Forecasts of visitors for the next day, and who came."""

import numpy as np
from _page import FORECAST, TRUTH, names_of
from _style import plots
from matplotlib.figure import Figure


def draw() -> Figure:
    page = names_of("tutorial/07-training-step-by-step")
    figure, axes = plots(size=(8, 2.8))
    days, shown = np.arange(42), slice(42)
    axes.plot(days, page["came"][shown], color=TRUTH, lw=3, alpha=0.8, label="what came")
    axes.plot(
        days, page["ways"]["as a week ago"][shown], "--", color="0.6", lw=1, label="as a week ago"
    )
    axes.plot(days, page["predicted"][shown], color=FORECAST, lw=1.5, label="LSTM, the day before")
    axes.set(xlabel="day", ylabel="visitors a day", xlim=(0, 41), ylim=(0, None))
    axes.set_xticks(range(0, 42, 7))
    figure.legend(
        *axes.get_legend_handles_labels(), frameon=False, ncols=3, loc="outside upper left"
    )
    return figure
