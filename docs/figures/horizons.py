"""How errors grow with the weeks ahead."""

from _page import FORECAST, names_of
from _style import plots
from matplotlib.figure import Figure

LINES = {
    "persistence": {"color": "0.65", "ls": "--"},
    "linear": {"color": "0.45", "ls": "-."},
    "LSTM": {"color": "tab:purple"},
    "Residual": {"color": FORECAST, "lw": 2.2},
}


def draw() -> Figure:
    errors = names_of("tutorial/06-many-inputs-and-outputs")["errors"]
    figure, all_axes = plots(1, 2, size=(8, 3.1))
    for k, axes in enumerate(all_axes):
        for name, line in LINES.items():
            axes.plot(range(1, 7), errors[name][:, k], marker="o", ms=4, label=name, **line)
        unit = ("flow [mm a week]", "snow [mm]")[k]
        axes.set(xlabel="weeks ahead", ylabel=f"error of the {unit}", ylim=(0, None))
    all_axes[1].legend(frameon=False)
    return figure
