"""A memory made by hand, as fastlstm.visualize draws its gates and its state."""

import numpy as np
from matplotlib.figure import Figure

import fastlstm


def draw() -> Figure:
    W_ih = np.array([[0, 20], [0, -20], [1, 0], [0, 0.0]])
    b = np.array([-10.0, 10, 0, 10])
    memory = fastlstm.LSTM.from_arrays(W_ih, np.zeros((4, 1)), b, dtype="float64")
    values = np.array([0.3, 0.8, -0.9, 0.1, 0.7, -0.5, 0.2, 0.9])
    marks = np.array([0, 1, 0, 0, 0, 1, 0, 0])
    x = np.stack([values, marks], axis=1)
    trace = fastlstm.visualize.trace(memory, x)
    return fastlstm.visualize.plot_gates(trace, names=["value", "mark"], signals="ifgoc")
