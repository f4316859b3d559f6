"""How data flow from a window to one number, or to the scores of classes."""

from _flow import Flow
from _style import GATES, H, X
from matplotlib.figure import Figure


def draw() -> Figure:
    flow = Flow(16.6)
    flow.array("window", "(B, 24, 1)", X, columns=4, note="24 readings")
    flow.layer("LSTM", H, "reads them\none by one")
    flow.array("output", "(B, 24, 24)", H, columns=4, rows=4, note="24 numbers\nfor each reading")
    flow.layer("Last", "0.35", "takes the\nlast step")
    flow.array("summary", "(B, 24)", H, columns=1, rows=4, note="24 numbers\nfor the window")
    flow.layer("Linear", GATES["i"])
    flow.array(
        "answer", "(B, 1) or (B, 3)", GATES["i"], columns=1, rows=3, gap=1.0,
        note="a number, or a score\nfor each of 3 classes",
    )  # fmt: skip
    return flow.figure
