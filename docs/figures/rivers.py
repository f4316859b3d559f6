"""Two rivers over four years: a high one, and a low one."""

import numpy as np
from _page import names_of
from _style import X, plots
from matplotlib.figure import Figure


def draw() -> Figure:
    page = names_of("tutorial/06-many-inputs-and-outputs")
    rivers, height = page["rivers"], page["HEIGHT"]
    heights = [one[0, height] for one in rivers]
    pair = rivers[int(np.argmax(heights))], rivers[int(np.argmin(heights))]
    columns = ("RAIN", "rain\n[mm a week]", X), ("WARMTH", "valley\n[°C]", "tab:red")
    columns += ("FLOW", "flow\n[mm a week]", "tab:blue"), ("SNOW", "snow\n[mm]", "tab:cyan")
    figure, all_axes = plots(4, 2, size=(9, 5.2), sharex=True, sharey="row")
    for side, table in enumerate(pair):
        for axes, (name, label, color) in zip(all_axes[:, side], columns, strict=True):
            values, weeks = table[:, page[name]], np.arange(len(table)) / 52
            if name == "WARMTH":
                axes.axhline(6 * table[0, height], color="0.5", lw=0.8, ls=":")
                axes.plot(weeks, values, color=color, lw=1)
            else:
                axes.fill_between(weeks, values, color=color, alpha=0.6, lw=0)
            if not side:
                axes.set_ylabel(label)
        above, sand = 1000 * table[0, height], table[0, page["SAND"]]
        all_axes[0, side].set_title(f"{above:.0f} m above the station, sand {sand:.0%}", size=10)
        all_axes[-1, side].set(xlabel="years", xticks=range(5))
    figure.align_ylabels()
    return figure
