"""How data flow from rain, temperature and static features to flow and snow."""

from _flow import Flow
from _style import GATES, H, X
from matplotlib.figure import Figure


def draw() -> Figure:
    flow = Flow(13.6)
    note = "rain, temperature,\nheight, sand"
    flow.array("what is known", "(B, 104, 4)", X, columns=4, rows=4, note=note)
    flow.layer("LSTM", H, "reads them\nweek by week")
    flow.array("output", "(B, 104, 24)", H, columns=4, rows=5, note="24 numbers\nfor every week")
    flow.layer("Linear", GATES["i"], "the same weights\nin every week")
    flow.array(
        "prediction",
        "(B, 104, 2)",
        GATES["i"],
        columns=4,
        rows=2,
        note="flow and snow\nin every week",
    )
    return flow.figure
