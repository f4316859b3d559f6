"""How data flow from a window of several series to several weeks of two of them."""

from _flow import Flow
from _style import GATES, H, X
from matplotlib.figure import Figure


def draw() -> Figure:
    flow = Flow(19.4)
    flow.array("window", "(B, 26, 6)", X, columns=4, rows=4, note="26 weeks of\n6 columns")
    flow.layer("LSTM", H)
    flow.array("output", "(B, 26, 24)", H, columns=4, rows=5)
    flow.layer("Last", "0.35")
    flow.array("summary", "(B, 24)", H, rows=5)
    flow.layer("Linear", GATES["i"])
    flow.array("flat", "(B, 12)", GATES["i"], rows=5, note="12 values")
    flow.layer("reshape", "0.35")
    flow.array(
        "forecast", "(B, 6, 2)", GATES["i"], columns=3, rows=2, note="6 weeks of\nflow and snow"
    )
    return flow.figure
