"""How data flow from rain to runoff, a value for every step."""

from _flow import Flow, axes_of_cubes
from _style import GATES, H, X
from matplotlib.figure import Figure


def draw() -> Figure:
    flow = Flow(15.6)
    flow.array("rain", "(B, 180, 1)", X, columns=5, note="B pieces of 180 days,\n1 series")
    flow.layer("LSTM", H, "reads day by day,\nkeeps a memory")
    flow.array("what it knows", "(B, 180, 16)", H, columns=5, rows=4, note="16 numbers a day")
    flow.layer("Linear", GATES["i"], "the same weights\non every day")
    flow.array("flow", "(B, 180, 1)", GATES["i"], columns=5, note="one value for every day")
    axes_of_cubes(flow.axes, 4.4, 3.8)
    return flow.figure
