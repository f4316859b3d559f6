"""The water in the bucket, and what can be read of it from the LSTM's outputs."""

from _page import FORECAST, TRUTH, names_of
from _style import plots
from matplotlib.figure import Figure


def draw() -> Figure:
    page = names_of("tutorial/03-regression")
    shown = slice(3800, 3950)
    days = range(shown.start, shown.stop)
    figure, axes = plots(size=(8, 2.8))
    water, remembered = page["water"][shown], page["remembered"][shown]
    axes.plot(days, water, color=TRUTH, lw=3, alpha=0.8, label="water in the bucket")
    axes.plot(days, remembered, color=FORECAST, lw=1.5, label="read from the LSTM's 16 outputs")
    axes.set(xlabel="day", ylabel="water [mm]")
    axes.legend(frameon=False)
    return figure
