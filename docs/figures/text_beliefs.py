"""What the model believes after each word of three commands."""

from _page import names_of
from _style import plots
from matplotlib.figure import Figure

COMMANDS = [
    "jump left after you walk twice",
    "before you turn left jump",
    "do not run but look back",
]


def draw() -> Figure:
    page = names_of("tutorial/05-text")
    figure, all_axes = plots(1, 3, size=(9, 2.9), sharey=True)
    for axes, command in zip(all_axes, COMMANDS, strict=True):
        words = command.split()
        probabilities = page["beliefs"](command)
        shades = axes.imshow(probabilities.T, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(words)), words, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(5), page["VERBS"])
        axes.set_xticks([n + 0.5 for n in range(len(words) - 1)], minor=True)
        axes.set_yticks([n + 0.5 for n in range(4)], minor=True)
        axes.grid(which="minor", color="white", lw=1.5)
        axes.tick_params(which="both", length=0)
        axes.spines[:].set_visible(False)
        for step, row in enumerate(probabilities):
            for verb, p in enumerate(row):
                if p > 0.15:
                    color = "white" if p > 0.6 else "0.25"
                    axes.text(step, verb, f"{p:.1f}", ha="center", va="center", color=color, size=8)
    all_axes[0].set_ylabel("what comes first?")
    bar = figure.colorbar(shades, ax=all_axes, label="probability", pad=0.01)
    bar.outline.set_visible(False)
    return figure
