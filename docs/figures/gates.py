"""The gates of an LSTM of four units, trained on the yearly numbers of sunspots, over a century."""

from _style import GATES, NAMES, C, H, plots
from _sunspots import trained
from matplotlib.figure import Figure

import fastlstm


def draw() -> Figure:
    model, time, x = trained(units=4, epochs=400, lr=0.03)
    trace = fastlstm.visualize.trace(model, x)["lstm.l0"]
    unit = int(trace.f.std(0).argmax())  # the one whose forget gate moves most
    shown = slice(200, None)
    time = time[shown]

    figure, (above, middle, below) = plots(
        3, size=(8, 6.6), sharex=True, height_ratios=[1.1, 1.3, 1.1]
    )
    above.plot(time, 100 * x[shown, 0], color="0.35", label="sunspots of the year")
    above.plot(time + 1, 100 * model(x)[shown, 0], color="tab:cyan", ls="--",
               label="what the LSTM said the year before")  # fmt: skip
    above.set(title="the series", ylabel="sunspots")
    above.legend(loc="upper left", ncols=2, frameon=False, fontsize=8.5)
    above.set_ylim(0, 255)
    for name, color in GATES.items():
        middle.plot(time, getattr(trace, name)[shown, unit], color=color,
                    label=f"{NAMES[name]} {name}")  # fmt: skip
    middle.set(title=f"gates of unit {unit}", ylabel="gate", ylim=(-1.05, 1.45), yticks=(-1, 0, 1))
    middle.axhline(0, color="0.85", lw=0.8, zorder=0)
    middle.legend(loc="upper left", ncols=4, frameon=False, fontsize=8.5)
    below.plot(time, trace.c[shown, unit], color=C, label="cell state c")
    below.plot(time, trace.h[shown, unit], color=H, label="output h")
    below.set(title=f"states of unit {unit}", ylabel="state", xlabel="year")
    below.axhline(0, color="0.85", lw=0.8, zorder=0)
    below.legend(loc="upper left", ncols=2, frameon=False, fontsize=8.5)
    for axes in (above, middle, below):
        axes.set_title(axes.get_title(), loc="left", fontsize=10, weight="bold")
        axes.set_title("")
    return figure
