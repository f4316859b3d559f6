"""Weights of an LSTM that keeps the marked value of a sequence, gate by gate."""

from _recall import trained
from matplotlib.figure import Figure

import fastlstm


def draw() -> Figure:
    return fastlstm.visualize.plot_weights(trained()[0]["lstm"])
