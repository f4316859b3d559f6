"""Pictures of gates, states, weights and attributions: what is drawn, by value."""

import inspect
import re
import subprocess
import sys

import numpy as np
import pytest
from errors import raises
from values import normal

import fastlstm
from fastlstm import LSTM, Embedding, Last, Linear, LSTMCell, Sequential
from fastlstm.visualize import (
    attribution,
    plot_attribution,
    plot_gates,
    plot_states,
    plot_weights,
    trace,
)

pytest.importorskip("matplotlib", reason="plots need matplotlib")

TITLES = {
    "i": "input gate i", "f": "forget gate f", "g": "candidate g", "o": "output gate o",
    "c": "cell state c", "h": "output h",
}  # fmt: skip


def panels(figure):
    """The axes that have a title at the left, by their titles; colour bars have none."""
    return {title: axes for axes in figure.axes if (title := axes.get_title(loc="left"))}


def colours(axes):
    """The values that an axes shows as colours, with time down, as the arrays have it."""
    (image,) = axes.images
    return np.asarray(image.get_array()).T


def lines(axes):
    return np.stack([line.get_ydata() for line in axes.lines], axis=1)


# ---- gates and states -----------------------------------------------------------------------


def test_gates_of_many_units_are_colours():
    lstm, x = LSTM(2, 12, seed=0), normal(20, 3, 2)
    found = trace(lstm, x)
    drawn = panels(plot_gates(found, sequence=1, order="number"))
    assert list(drawn) == ["input", *TITLES.values()]
    np.testing.assert_array_equal(lines(drawn["input"]), x[:, 1])
    for name, title in TITLES.items():
        np.testing.assert_array_equal(
            colours(drawn[title]), getattr(found["l0"], name)[:, 1], err_msg=name
        )
        (image,) = drawn[title].images
        assert image.get_extent() == [-0.5, 19.5, 11.5, -0.5]
        if name in "ifo":
            assert image.get_clim() == (0, 1)
        else:
            low, high = image.get_clim()
            sizes = np.abs(getattr(found["l0"], name)[:, 1])
            assert -low == high == pytest.approx(np.percentile(sizes, 98))


def test_similar_units_are_side_by_side():
    """Two kinds of courses, mixed: each kind is in one piece, in every panel in the same order."""
    rng = np.random.default_rng(0)
    kinds = rng.permutation(np.arange(12) % 2)
    found = trace(LSTM(1, 12, seed=0), normal(30, 1))
    time = np.arange(30)[:, np.newaxis]
    courses = np.where(kinds, np.sin(time / 3), np.cos(time / 3)) * rng.uniform(0.5, 2, 12)
    found["l0"].c = courses + 0.01 * rng.normal(size=(30, 12))
    drawn = panels(plot_gates(found))
    shown = colours(drawn["cell state c"])
    places = [
        int(np.flatnonzero((found["l0"].c == column[:, None]).all(0))[0]) for column in shown.T
    ]
    assert sorted(places) == list(range(12))
    assert np.count_nonzero(np.diff(kinds[places])) == 1
    np.testing.assert_array_equal(colours(drawn["input gate i"]), found["l0"].i[:, places])
    assert drawn["input gate i"].get_ylabel() == "12 units"


def test_gates_of_few_units_are_lines():
    found = trace(LSTM(1, 3, seed=0), normal(4, 1))
    drawn = panels(plot_gates(found, signals="fc"))
    assert list(drawn) == ["input", "forget gate f", "cell state c"]
    np.testing.assert_array_equal(lines(drawn["forget gate f"]), found["l0"].f)
    np.testing.assert_array_equal(lines(drawn["cell state c"]), found["l0"].c)
    low, high = drawn["forget gate f"].get_ylim()
    assert -0.1 < low < 0 and 1 < high < 1.1
    text = [entry.get_text() for entry in drawn["forget gate f"].get_legend().get_texts()]
    assert text == ["unit 0", "unit 1", "unit 2"]


@pytest.mark.parametrize("steps, hidden, features", [(1, 1, 1), (3, 1, 1), (2, 512, 30)])
def test_extreme_sizes(steps, hidden, features):
    found = trace(LSTM(features, hidden, seed=0), normal(steps, features))
    figure = plot_gates(found)
    figure.draw_without_rendering()
    assert list(panels(figure)) == ["input", *TITLES.values()]
    assert figure.axes[0].get_xlim() == (-0.5, steps - 0.5)


def test_gates_beyond_their_range():
    """Of other activations the scale goes as far as the values, nan and inf left out."""
    found = trace(LSTM(2, 6, gate_activation="relu", cell_activation="relu", seed=0), normal(5, 2))
    found["l0"].i[0, 0], found["l0"].i[1, 1] = 7, np.inf
    found["l0"].g[:] = 0
    drawn = panels(plot_gates(found, order="number"))
    assert drawn["input gate i"].images[0].get_clim() == (0, 7)
    assert drawn["candidate g"].images[0].get_clim() == (-1, 1)


def test_which_sequence_and_layer():
    lstm = LSTM(2, 6, num_layers=2, bidirectional=True, batch_first=True, seed=0)
    model = Sequential({"lstm": lstm, "fc": Linear(12, 1)})
    x, lengths = normal(3, 9, 2), [4, 9, 0]
    found = trace(model, x, lengths=lengths)
    drawn = panels(plot_gates(found, "lstm.l1_reverse", 0, signals=["o"], order="number"))
    np.testing.assert_array_equal(lines(drawn["input"]), x[0, :4])
    np.testing.assert_array_equal(
        colours(drawn["output gate o"]), found["lstm.l1_reverse"].o[0, :4]
    )
    one = panels(plot_gates(found["lstm.l1_reverse"], signals=["o"], order="number"))
    np.testing.assert_array_equal(colours(one["output gate o"]), colours(drawn["output gate o"]))
    assert list(one) == ["output gate o"]  # a layer alone does not know the model's input


def test_the_series_above():
    index = np.arange(6)[:, None] % 5
    model = Sequential(Embedding(5, 3, seed=0), LSTM(3, 6, seed=0), Last(), Linear(6, 2))
    found = trace(model, index)
    assert "input" not in panels(plot_gates(found))  # indices are no series
    level = np.arange(6.0)
    figure = plot_gates(found, series=level, names="level (m)", labels=list("abcdef"))
    drawn = panels(figure)
    np.testing.assert_array_equal(lines(drawn["series: level (m)"]), level[:, None])
    assert [tick.get_text() for tick in drawn["output h"].get_xticklabels()] == list("abcdef")
    dates = np.datetime64("2020-01-30") + np.arange(6)
    last = panels(plot_gates(found, labels=dates))["output h"]
    assert last.xaxis.get_major_formatter()(3, 0) == "2020-02-02"
    assert last.xaxis.get_major_formatter()(6, 0) == ""


def test_a_series_of_many_features():
    x, names = normal(9, 6), [*"abcdef"]
    found = trace(LSTM(6, 8, seed=0), x)
    drawn = panels(plot_gates(found, names=names))
    np.testing.assert_array_equal(colours(drawn["input"]), x)
    assert [tick.get_text() for tick in drawn["input"].get_yticklabels()] == names
    found.input = fastlstm.pack_sequence([x])  # which the arrays of the layer are not
    assert "input" not in panels(plot_gates(found))


def test_states_of_all_layers():
    lstm, x = LSTM(3, [6, 5], bidirectional=True, seed=0), normal(9, 3)
    found = trace(lstm, x)
    drawn = panels(plot_states(found, order="number"))
    ends = {"": "", "_reverse": " (from the end)"}
    names = [(f"l{n}{way}", end) for n in range(2) for way, end in ends.items()]
    assert list(drawn) == [
        "input", *(f"{name}{end}: {TITLES[s]}" for name, end in names for s in "ch")
    ]  # fmt: skip
    np.testing.assert_array_equal(
        colours(drawn["l1_reverse (from the end): output h"]), found["l1_reverse"].h
    )
    few = panels(plot_states(found, layers=["l1"], signals="c"))
    assert list(few) == ["input", "l1: cell state c"]


# ---- weights --------------------------------------------------------------------------------


def _parts(figure):
    """What each gate's row shows, from left to right, by the name of the gate."""
    drawn = [axes for axes in figure.axes if axes.images]
    columns = len(drawn) // sum(bool(axes.get_ylabel()) for axes in drawn)
    rows = [drawn[k : k + columns] for k in range(0, len(drawn), columns)]
    return {
        row[0].get_ylabel()[-1]: [np.asarray(axes.images[0].get_array()) for axes in row]
        for row in rows
    }


@pytest.mark.parametrize("reverse", [False, True])
def test_weights_by_gate(reverse):
    lstm = LSTM(3, 8, num_layers=2, bidirectional=True, proj_size=5, seed=0)
    figure = plot_weights(lstm, 1, reverse)
    parts, suffix = _parts(figure), "_l1_reverse" if reverse else "_l1"
    assert list(parts) == list("ifgo")
    w_ih, w_hh = getattr(lstm, "weight_ih" + suffix), getattr(lstm, "weight_hh" + suffix)
    bias = getattr(lstm, "bias_ih" + suffix) + getattr(lstm, "bias_hh" + suffix)
    for k, shown in enumerate(parts.values()):
        rows = slice(8 * k, 8 * k + 8)
        for got, expected in zip(shown, (w_ih[rows], w_hh[rows], bias[rows, None]), strict=True):
            np.testing.assert_array_equal(got, expected)
    limits = {axes.images[0].get_clim() for axes in figure.axes if axes.images}
    everything = np.abs(np.concatenate([w_ih.ravel(), w_hh.ravel(), bias]))
    bound = np.percentile(everything, 99.5)
    assert len(limits) == 1 and limits.pop() == pytest.approx((-bound, bound))


def test_weights_of_options():
    lstm = LSTM(3, 4, bias=False, peephole=True, coupled="i=1-f", seed=0)
    parts = _parts(plot_weights(lstm))
    assert list(parts) == list("fgo")
    np.testing.assert_array_equal(parts["f"][0], lstm.weight_ih_l0[:4])
    np.testing.assert_array_equal(parts["f"][2], lstm.weight_cf_l0[:, None])
    assert np.ma.getmaskarray(np.ma.masked_invalid(parts["g"][2])).all()
    np.testing.assert_array_equal(parts["o"][2], lstm.weight_co_l0[:, None])
    cell = LSTMCell(1, 1, seed=0)
    np.testing.assert_array_equal(_parts(plot_weights(cell))["g"][1], cell.weight_hh[2:3])
    zeros = LSTM(1, 1, seed=0)
    zeros.reset_parameters(0, weight_ih="zeros", weight_hh="zeros", bias="zeros")
    assert plot_weights(zeros).axes[0].images[0].get_clim() == (-1, 1)


# ---- attributions ---------------------------------------------------------------------------


def test_attribution_of_a_series():
    lstm, x = LSTM(2, 6, seed=0), normal(9, 3, 2)
    found = attribution(lstm, x, output=(-1, 1, 0))
    figure = plot_attribution(found, 1)
    drawn = panels(figure)
    first, second, third = drawn.values()
    assert list(drawn) == [
        "input",
        f"contribution of each step to the output {found.output:.4g} (of the baseline: "
        f"{found.baseline_output:.4g})",
        "of each feature",
    ]
    np.testing.assert_array_equal(lines(first), x[:, 1])
    heights = [bar.get_height() for bar in second.patches]
    np.testing.assert_allclose(heights, found.steps[:, 1], rtol=1e-6)
    assert [bar.get_facecolor()[0] > 0.5 for bar in second.patches] == [h > 0 for h in heights]
    np.testing.assert_array_equal(colours(third), found.values[:, 1])
    low, high = third.images[0].get_clim()
    assert -low == high == np.abs(found.values[:, 1]).max()


def test_attribution_of_a_long_series():
    lstm, x = LSTM(1, 6, seed=0), normal(500, 1)
    found = attribution(lstm, x, output=(-1, 0), method="gradient")
    drawn = panels(plot_attribution(found))
    title = f"gradient of the output {found.output:.4g} by each step"
    assert list(drawn) == ["input", title]
    up, down = (shade.get_paths()[0].vertices[:, 1] for shade in drawn[title].collections)
    assert up.max() == pytest.approx(found.values.max()) and up.min() == 0
    assert down.min() == pytest.approx(found.values.min()) and down.max() == 0


def test_attribution_of_words():
    words = ["it", "was", "not", "good"]
    model = Sequential(Embedding(5, 3, seed=0), LSTM(3, 6, seed=0), Last(), Linear(6, 2))
    found = attribution(model, np.arange(4)[:, None], output=(0, 1))
    drawn = panels(plot_attribution(found, labels=words))
    assert len(drawn) == 2  # the input is indices
    ticks = [tick.get_text() for tick in drawn["of each feature"].get_xticklabels()]
    assert ticks == words
    weights = np.arange(4.0)
    drawn = panels(plot_attribution(found, series=weights, names="weight"))
    np.testing.assert_array_equal(lines(drawn["series: weight"]), weights[:, None])


# ---- what is refused ------------------------------------------------------------------------


def test_what_is_refused():
    lstm = LSTM(2, 6, seed=0)
    found = trace(lstm, normal(9, 3, 2))
    ragged = trace(lstm, normal(9, 3, 2), lengths=[1, 0, 2])
    for call, kind, sentence in (
        (lambda: plot_gates(found, signals="ix"), ValueError,
         "signals must be of i, f, g, o, c, h, got 'x'"),
        (lambda: plot_gates(found, signals=""), ValueError,
         "signals must be of i, f, g, o, c, h, got none"),
        (lambda: plot_gates(found, order="size"), ValueError,
         "order must be \"similar\" or \"number\", got 'size'"),
        (lambda: plot_gates(found, series=np.zeros(8)), ValueError,
         "Expected series of shape (9,) or (9, C), a value for each step, got (8,)"),
        (lambda: plot_gates(found, names=["a"]), ValueError,
         "Expected a name for each of 2 series, got 1"),
        (lambda: plot_gates(found, labels=[1, 2]), ValueError,
         "Expected 9 labels, one for each step, got shape (2,)"),
        (lambda: plot_gates(found, "l1"), KeyError, repr("'l1' is none of 'l0'")),
        (lambda: plot_gates(found, sequence=3), IndexError,
         "there is no sequence 3, there are 3"),
        (lambda: plot_gates(ragged, sequence=1), ValueError,
         "the sequence has no steps to draw"),
        (lambda: plot_weights(Linear(2, 3)), TypeError,
         "lstm must be an LSTM or an LSTMCell, got Linear"),
        (lambda: plot_weights(lstm, 1), ValueError,
         "there is no layer 1, reverse=False, in LSTM(2, 6)"),
        (lambda: plot_weights(lstm, 0, True), ValueError,
         "there is no layer 0, reverse=True, in LSTM(2, 6)"),
    ):  # fmt: skip
        raises(call, kind, sentence)


def test_layers_of_different_steps():
    class Halved(fastlstm.Layer):
        def __init__(self):
            super().__init__(children={"a": LSTM(1, 6, seed=0), "b": LSTM(6, 6, seed=0)})

        def forward(self, input):
            return self.b(self.a(input)[0][::2])[0]

    found = trace(Halved(), normal(8, 1))
    raises(
        lambda: plot_states(found),
        ValueError,
        "the layers do not have the same number of steps; choose some of them by layers=: 'a.l0', "
        "'b.l0'",
    )
    drawn = panels(plot_states(found, layers=["b.l0"]))
    assert list(drawn) == ["b.l0: cell state c", "b.l0: output h"]  # the input has other steps


@pytest.mark.parametrize("name", fastlstm.visualize.__all__)
def test_everything_is_documented(name):
    thing = getattr(fastlstm.visualize, name)
    doc = inspect.getdoc(thing)
    assert doc.splitlines()[0].endswith(".") and ">>> " in doc.split("Examples\n--------\n")[1]
    if isinstance(thing, type):
        assert "Attributes\n----------" in doc
        return
    assert "Returns\n-------" in doc and "Raises\n------" in doc
    for argument in inspect.signature(thing).parameters.values():
        pattern = rf"^[*]*(\w+, )*{argument.name}(, \w+)*( :|$)"
        assert re.search(pattern, doc, re.MULTILINE), argument


# ---- files and what is loaded ------------------------------------------------------------------


def test_saved(tmp_path):
    image = pytest.importorskip("matplotlib.image")
    lstm, x = LSTM(2, 6, seed=0), normal(9, 2)
    found = trace(lstm, x)
    plot_gates(found, signals="f", path=tmp_path / "gates.png")
    plot_states(found, signals="c", path=tmp_path / "states.png")
    plot_weights(lstm, path=tmp_path / "weights.png")
    plot_attribution(attribution(lstm, x), path=tmp_path / "attribution.png")
    for name in ("gates", "states", "weights", "attribution"):
        picture = image.imread(tmp_path / f"{name}.png")
        assert picture.shape[1] == 1200 and picture.std() > 0.01
    plot_gates(found, signals="f", path=tmp_path / "gates.svg")
    assert b"<svg" in (tmp_path / "gates.svg").read_bytes()


def test_what_is_loaded():
    """The package loads the module when it is used, and that loads matplotlib when it draws."""
    code = (
        "import sys, numpy as np, fastlstm\n"
        "assert 'fastlstm.visualize' not in sys.modules\n"
        "lstm, x = fastlstm.LSTM(1, 2), np.ones((3, 1), 'f4')\n"
        "found = fastlstm.visualize.trace(lstm, x)\n"
        "fastlstm.visualize.attribution(lstm, x)\n"
        "assert 'matplotlib' not in sys.modules\n"
        "fastlstm.visualize.plot_gates(found)\n"
        "assert 'matplotlib.pyplot' not in sys.modules and 'matplotlib' in sys.modules\n"
        "assert fastlstm.plot.plot_history"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    lstm = LSTM(2, 6)
    for draw in (
        lambda: plot_gates(trace(lstm, normal(9, 2))),
        lambda: plot_weights(lstm),
        lambda: plot_attribution(attribution(lstm, normal(9, 2))),
    ):
        with pytest.raises(ImportError, match="pip install matplotlib"):
            draw()
