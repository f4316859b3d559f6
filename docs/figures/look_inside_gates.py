"""Gates and states of an LSTM that keeps the marked value of a sequence."""

from _recall import trained
from matplotlib.figure import Figure

import fastlstm


def draw() -> Figure:
    model, x = trained()
    trace = fastlstm.visualize.trace(model, x[510])
    return fastlstm.visualize.plot_gates(trace, names=["value", "mark"])
