"""The forecasts of examples/forecast.py: better than the rules, from every seed, and honestly so.

The data come with statsmodels; without it these tests are skipped.
"""

import importlib.util
import sys

import numpy as np
import pytest
from test_examples import load_example

forecast = load_example("forecast")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if importlib.util.find_spec("statsmodels") is None:
        pytest.skip("needs statsmodels, for its data")


@pytest.mark.parametrize("name, least", [("sunspots", 0.9), ("co2", 0.5)])
def test_every_seed_beats_the_season_before(name, least, capsys):
    pytest.importorskip("matplotlib")
    errors = forecast.main([name, "--seeds", "3"])
    naive, *others = errors
    seeds = [f"LSTM, seed {n}" for n in range(3)]
    assert others[-4:] == [*seeds, "LSTM, mean of 3 seeds"]
    for model in others[-4:]:
        assert np.less(errors[model], errors[naive]).all()
    assert np.less(errors["LSTM, mean of 3 seeds"], least * np.array(errors[naive])).all()
    if name == "co2":
        drift = errors["as last year, and the last growth"]
        assert all(np.less(errors[model], drift).all() for model in others[-4:])
    out = capsys.readouterr().out
    assert {"sunspots": "Errors in sunspots:\n", "co2": "Errors in ppm:\n"}[name] in out
    for model, (rmse, mae) in errors.items():
        assert f"{model:36}{rmse:#8.3g}{mae:#8.3g}\n" in out
    assert out.endswith(f"; the picture: {name}.png\n")
    with open(f"{name}.png", "rb") as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"


class Untrained:
    """A stand-in for a training, which forecasts zeros and keeps what it was given."""

    calls = []

    def __init__(self, series, held_out, window, horizon, seed):
        self.horizon = horizon
        self.calls.append((series, held_out, window))

    def backtest(self, series, start):
        first = np.arange(start, len(series) - self.horizon + 1)
        truth = series[first[:, None] + np.arange(self.horizon)][..., None]
        return first, np.zeros_like(truth), truth


@pytest.fixture
def untrained(monkeypatch):
    monkeypatch.setattr(forecast, "train", Untrained)
    monkeypatch.setattr(Untrained, "calls", [])
    return Untrained.calls


def test_sunspots_are_split_in_time_and_compared_with_what_came(untrained):
    test = forecast.sunspots([0])
    assert test.times[0] == 1700 and test.times[-1] == 2008
    assert test.values[test.times == 1957] == 190.2
    ((series, held_out, window),) = untrained
    for scale, part in zip(forecast.SCALES, series, strict=True):
        np.testing.assert_array_equal(part, scale * test.values[:205])  # 1700 to 1904
    np.testing.assert_array_equal(held_out[window:], test.values[205:249])  # 1905 to 1948
    assert test.first.tolist() == list(range(249, 299))
    for n, step in enumerate(test.first):
        np.testing.assert_array_equal(test.truth[n], test.values[step : step + 11])
        np.testing.assert_array_equal(
            test.rules["as 11 years before"][n], test.values[step - 11 : step]
        )
    rmse, mae = forecast.errors(test)["LSTM, seed 0"]
    assert rmse == pytest.approx(np.sqrt(np.mean(test.truth**2)))
    assert mae == pytest.approx(np.mean(test.truth))


def test_carbon_dioxide_is_forecast_by_its_growth(untrained):
    """Without growth the forecast is the month a year before; the test is the last ten years."""
    test = forecast.co2([0])
    values = test.values
    assert str(test.times[0]) == "1958-03" and str(test.times[-1]) == "2001-12"
    assert len(values) == 526 and np.isfinite(values).all()
    ((series, held_out, window),) = untrained
    np.testing.assert_array_equal(series[0], (values[12:] - values[:-12])[: 526 - 12 - 168])
    end = 526 - 12 - 120
    np.testing.assert_array_equal(held_out[window:], (values[12:] - values[:-12])[end - 48 : end])
    assert str(test.times[test.first[0]]) == "1992-01"
    np.testing.assert_array_equal(test.forecasts[0], test.rules["as last year"])
    for n, step in enumerate(test.first):
        np.testing.assert_array_equal(test.truth[n], values[step : step + 12])
        before = values[step - 12 : step]
        np.testing.assert_array_equal(test.rules["as last year"][n], before)
        np.testing.assert_array_equal(
            test.rules["as last year, and the last growth"][n],
            before + (values[step - 1] - values[step - 13]),
        )


def test_gaps_are_filled_in_a_line_before_months_are_taken():
    rows = [["20000101", "1"], ["20000108", ""], ["20000115", "3"], ["20000205", "9"]]
    months, values = forecast.monthly(rows)
    assert [str(month) for month in months] == ["2000-01", "2000-02"]
    assert values.tolist() == [2, 9]


@pytest.mark.parametrize(
    "package, sentence",
    [
        ("statsmodels", r"pip install --no-deps statsmodels"),
        ("matplotlib", "pip install matplotlib"),
    ],
)
def test_it_says_what_it_needs(monkeypatch, package, sentence):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit, match=sentence):
        forecast.main(["sunspots"])
