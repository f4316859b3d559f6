"""A series cut into three parts, in the order of time."""

from _page import names_of
from _style import plots
from matplotlib.figure import Figure

PARTS = ("training", "tab:blue"), ("validation", "tab:orange"), ("test", "tab:green")


def draw() -> Figure:
    page = names_of("tutorial/07-training-step-by-step")
    day, visitors = page["day"], page["visitors"]
    figure, axes = plots(size=(8, 2.6))
    for first, last, (name, color) in zip((0, 660, 880), (660, 880, 1100), PARTS, strict=True):
        axes.plot(day[first:last], visitors[first:last], color=color, lw=0.8)
        axes.axvspan(first, last, color=color, alpha=0.1, lw=0)
        top = axes.get_xaxis_transform()
        axes.text((first + last) / 2, 1.04, name, color=color, ha="center", transform=top)
    axes.set(xlabel="day", ylabel="visitors a day", xlim=(0, 1100), ylim=(0, None))
    return figure
