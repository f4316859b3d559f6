"""Which steps of a sequence the answer of that LSTM comes from: the marked one."""

from _recall import trained
from matplotlib.figure import Figure

import fastlstm


def draw() -> Figure:
    model, x = trained()
    attribution = fastlstm.visualize.attribution(model, x[510], baseline=x[510] * [0, 1])
    return fastlstm.visualize.plot_attribution(attribution, names=["value", "mark"])
