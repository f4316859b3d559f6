"""The losses of a model that learns its few samples by heart."""

import numpy as np
from _page import names_of
from _style import plots
from matplotlib.figure import Figure


def draw() -> Figure:
    history = names_of("tutorial/07-training-step-by-step")["long_history"]
    training, held_out = history["loss"], history["validation_loss"]
    best, epochs = int(np.argmin(held_out)), range(1, len(training) + 1)
    figure, axes = plots(size=(7, 3))
    axes.semilogy(epochs, training, color="tab:blue", lw=1.8, label="loss")
    axes.semilogy(epochs, held_out, color="tab:orange", lw=1.8, label="validation loss")
    axes.plot(best + 1, held_out[best], "o", color="tab:orange", label="its least value: stop here")
    axes.set(xlabel="epoch", ylabel="loss", xlim=(1, len(training)))
    axes.set_yticks([0.02, 0.05, 0.1, 0.2, 0.5, 1], ["0.02", "0.05", "0.1", "0.2", "0.5", "1"])
    axes.minorticks_off()
    axes.legend(frameon=False)
    return figure
