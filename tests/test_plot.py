"""Pictures of trainings and forecasts: what is drawn, by value, and what is refused."""

import subprocess
import sys

import numpy as np
import pytest

from fastlstm.plot import plot_forecast, plot_history

pytest.importorskip("matplotlib", reason="plots need matplotlib")

HISTORY = {
    "loss": [4.0, 2.0, 1.0], "validation_loss": [5.0, 3.0, 3.5], "lr": [0.1, 0.1, 0.1],
    "seconds": [1.0, 1.0, 1.0],
}  # fmt: skip


def _lines(axes):
    """What an axes shows: label -> (x, y)."""
    return {line.get_label(): [list(v) for v in line.get_data()] for line in axes.lines}


def test_history():
    (axes,) = plot_history(HISTORY).axes
    assert _lines(axes) == {
        "loss": [[1, 2, 3], [4.0, 2.0, 1.0]],
        "validation loss": [[1, 2, 3], [5.0, 3.0, 3.5]],
        "best: 3 in epoch 2": [[2], [3.0]],
    }
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_yscale()) == ("epoch", "loss", "log")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(_lines(axes))


def test_history_without_validation_and_below_zero():
    (axes,) = plot_history({"loss": [1.0, -1.0]}).axes
    assert _lines(axes) == {"loss": [[1, 2], [1.0, -1.0]]} and axes.get_yscale() == "linear"


@pytest.mark.parametrize("history", [{}, {"loss": []}, {"lr": [0.1]}], ids=str)
def test_history_of_nothing(history):
    with pytest.raises(ValueError, match="^history: Expected a loss with at least one epoch, got "):
        plot_history(history)


def test_forecast():
    past, ahead, truth = np.arange(5.0), np.array([5.0, 6.0]), [5.5, 5.0]
    (axes,) = plot_forecast(past, ahead, truth, (ahead - 1, ahead + 2), names="level (m)").axes
    assert _lines(axes) == {
        "series": [[-4, -3, -2, -1, 0], list(past)],
        "truth": [[1, 2], truth],
        "forecast": [[1, 2], [5.0, 6.0]],
    }
    (shade,) = axes.collections
    corners = {tuple(corner) for corner in shade.get_paths()[0].vertices}
    assert corners == {(1.0, 4.0), (2.0, 5.0), (1.0, 7.0), (2.0, 8.0)}
    assert axes.get_ylabel() == "level (m)"


def test_forecast_of_several_series():
    rng = np.random.default_rng(0)
    past, ahead = rng.random((7, 3)), rng.random((2, 3))
    figure = plot_forecast(past, ahead, names=["a", "b", "c"])
    for k, axes in enumerate(figure.axes):
        lines = _lines(axes)
        assert lines["series"][1] == list(past[:, k])
        assert lines["forecast"] == [[1, 2], list(ahead[:, k])]
        assert axes.get_ylabel() == "abc"[k]
    assert len(figure.axes) == 3


def test_forecast_with_dates():
    times = np.datetime64("2020-01-30") + np.arange(7)
    (axes,) = plot_forecast(np.arange(4.0), np.arange(3.0), times=times).axes
    assert _lines(axes)["forecast"][0] == list(times[4:])


BAD = {
    "series": (([[[1.0]]], [1.0]), {}, r"series of shape \(T,\) or \(T, C\), got \(1, 1, 1\)"),
    "empty": (([1.0], []), {}, r"forecast of shape .* got \(0,\)"),
    "count": ((np.ones((4, 2)), np.ones((4, 3))), {}, "for each of 2 series, got 3"),
    "truth": (([1.0], [1.0, 2.0]), {"truth": [1.0]}, r"truth of .* shape \(2, 1\), got \(1,\)"),
    "band": (([1.0], [1.0]), {"band": [[1.0]]}, "a lower and an upper quantile, got 1"),
    "high": (([1.0], [1.0]), {"band": ([1.0], [1.0, 2.0])}, r"band\[1\] of the forecast's shape"),
    "names": (([1.0], [1.0]), {"names": ["a", "b"]}, "a name for each of 1 series, got 2"),
    "times": (([1.0], [1.0]), {"times": [1, 2, 3]}, r"Expected 1 \+ 1 times, .* got 3"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_forecasts(name):
    arguments, options, sentence = BAD[name]
    with pytest.raises(ValueError, match=sentence):
        plot_forecast(*arguments, **options)


def test_saved(tmp_path):
    """The files are pictures of whole sizes that show the figure."""
    image = pytest.importorskip("matplotlib.image")
    plot_history(HISTORY, tmp_path / "history.png")
    plot_forecast(np.arange(4.0), np.arange(3.0), path=str(tmp_path / "forecast.png"))
    for name in ("history", "forecast"):
        picture = image.imread(tmp_path / f"{name}.png")
        assert picture.shape == (600, 1200, 4) and picture.std() > 0.01
    plot_history(HISTORY, tmp_path / "history.svg")
    assert b"<svg" in (tmp_path / "history.svg").read_bytes()


def test_no_global_state():
    """Neither pyplot nor, before something is drawn, matplotlib is loaded."""
    code = (
        "import sys, fastlstm.plot\n"
        "assert 'matplotlib' not in sys.modules\n"
        "fastlstm.plot.plot_history({'loss': [1.0]})\n"
        "assert 'matplotlib.pyplot' not in sys.modules and 'matplotlib' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        plot_history(HISTORY)
