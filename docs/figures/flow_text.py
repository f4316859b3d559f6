"""How data flow from the words of a sentence to the scores of classes."""

from _flow import Flow
from _style import GATES, H, X
from matplotlib.figure import Figure


def draw() -> Figure:
    flow = Flow(19.2)
    flow.array("words", "(B, T)", X, columns=3, note="numbers of\nthe words")
    flow.layer("Embedding", GATES["g"], "a vector for\neach word", 1.8)
    flow.array("vectors", "(B, T, 8)", GATES["g"], columns=3, rows=2, note="8 numbers\na word")
    flow.layer("LSTM", H, "reads them\none by one")
    flow.array("output", "(B, T, 32)", H, columns=3, rows=4, note="32 numbers\nafter each word")
    flow.layer("Last", "0.35", "takes the\nlast word")
    flow.array("summary", "(B, 32)", H, rows=4, note="32 numbers\na sentence")
    flow.layer("Linear", GATES["i"])
    flow.array("scores", "(B, 5)", GATES["i"], rows=3, note="one for\neach verb")
    return flow.figure
