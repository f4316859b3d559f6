"""Rain, the true flow and the predicted one, over some days of the test."""

from _page import FORECAST, TRUTH, names_of
from _style import X, plots
from matplotlib.figure import Figure


def draw() -> Figure:
    page = names_of("tutorial/03-regression")
    shown = slice(3800, 3950)  # in the test
    days = range(shown.start, shown.stop)
    figure, (above, below) = plots(
        2, size=(8, 4), sharex=True, gridspec_kw={"height_ratios": [1, 2.6]}
    )
    above.bar(days, page["rain"][shown], width=1, color=X, align="edge")
    above.invert_yaxis()
    above.set_ylabel("rain\n[mm a day]")
    above.spines["bottom"].set_visible(False)
    above.tick_params(bottom=False)
    below.plot(days, page["flow"][shown], color=TRUTH, lw=3, alpha=0.8, label="the true flow")
    below.plot(
        days, page["predicted"][shown], color=FORECAST, lw=1.5, label="LSTM, from the rain alone"
    )
    simple = page["ways"]["linear, 40 days"][shown]
    below.plot(days, simple, color="0.6", lw=1, ls="--", label="linear model, from the rain alone")
    below.set(xlabel="day", ylabel="flow [mm a day]")
    below.legend(frameon=False)
    figure.align_ylabels()
    return figure
