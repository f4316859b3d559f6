"""How data flow from the words of a sentence to the scores of classes."""

from _flow import Flow
from _style import GATES, H, X
from matplotlib.figure import Figure


def draw() -> Figure:
    flow = Flow(24.6)
    flow.array("words", "(B, T)", X, columns=5, note="numbers of words,\n0 on the padding")
    flow.layer("Embedding", GATES["g"], "looks up a vector\nfor each word", 1.9)
    flow.array("vectors", "(B, T, 8)", GATES["g"], columns=5, rows=2, note="8 numbers\na word")
    flow.layer("LSTM", H, "reads words\none by one")
    flow.array("output", "(B, T, 32)", H, columns=5, rows=4, note="32 numbers\nafter each word")
    flow.layer("Last", "0.35", "takes each sentence's\nown last word")
    flow.array("summary", "(B, 32)", H, rows=4, note="32 numbers\na sentence")
    flow.layer("Linear", GATES["i"])
    flow.array("scores", "(B, 5)", GATES["i"], rows=3, gap=0.75, note="one for\neach verb")
    return flow.figure
