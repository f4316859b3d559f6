"""How data flow from rain to runoff, a value for every step."""

from _flow import Flow, axes_of_cubes
from _style import GATES, H, X
from matplotlib.figure import Figure


def draw() -> Figure:
    flow = Flow(13.2)
    flow.array("rain", "(B, 180, 1)", X, columns=4, note="B pieces of\n180 days")
    flow.layer("LSTM", H, "reads them\nday by day")
    flow.array(
        "what it knows", "(B, 180, 16)", H, columns=4, rows=4, note="16 numbers\nfor every day"
    )
    flow.layer("Linear", GATES["i"], "the same weights\non every day")
    flow.array("flow", "(B, 180, 1)", GATES["i"], columns=4, note="one value\nfor every day")
    axes_of_cubes(flow.axes, 3.3, 3.75)
    return flow.figure
