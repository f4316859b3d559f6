"""Flow and snow of an unseen river: simulated with and without what is known of it."""

import numpy as np
from _page import FORECAST, TRUTH, names_of
from _style import plots
from matplotlib.figure import Figure


def draw() -> Figure:
    page = names_of("tutorial/06-many-inputs-and-outputs")
    which = int(np.argmax([one[0, page["HEIGHT"]] for one in page["test"]]))
    years = np.arange(52, 208) / 52
    figure, all_axes = plots(2, size=(8, 4.4), sharex=True)
    for k, (axes, label) in enumerate(
        zip(all_axes, ("flow [mm a week]", "snow [mm]"), strict=True)
    ):
        axes.plot(years, page["truth"][which, 52:, k], color=TRUTH, lw=3, alpha=0.8, label="truth")
        without, known = (page["simulated"][name][which, 52:, k] for name in ("without", "with"))
        axes.plot(
            years, without, "--", color="0.55", lw=1.2, label="LSTM, from rain and temperature"
        )
        axes.plot(years, known, color=FORECAST, lw=1.5, label="LSTM, height and sand as well")
        axes.set_ylabel(label)
    all_axes[1].set(xlabel="years", xticks=range(1, 5))
    figure.legend(
        *all_axes[0].get_legend_handles_labels(), frameon=False, ncols=3, loc="outside upper left"
    )
    figure.align_ylabels()
    return figure
