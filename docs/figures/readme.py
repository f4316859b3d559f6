"""Gates and cell states of an LSTM that reads the yearly numbers of sunspots."""

import numpy as np
from _sunspots import trained
from matplotlib.figure import Figure

import fastlstm


def draw() -> Figure:
    model, years, x = trained()
    said = np.concatenate([np.full((1, 1), np.nan), model(x)[:-1]])  # the year before
    trace = fastlstm.visualize.trace(model, x)
    figure = fastlstm.visualize.plot_gates(
        trace,
        signals="ifc",
        series=100 * np.concatenate([x, said], axis=1),
        names=["sunspots of the year", "what the LSTM said the year before"],
        labels=years,
    )
    figure.set_size_inches(8, 4)
    return figure
