"""Forecasts by an LSTM: sunspots for 11 years, or carbon dioxide for 12 months.

    pip install ".[plot]"
    pip install --no-deps statsmodels
    python examples/forecast.py sunspots
    python examples/forecast.py co2 -o co2.png

The program trains five LSTMs that differ only in their random seeds, lets them forecast from every
point of years that they have not seen, prints their errors beside those of simple rules, and draws
the forecasts. Training takes seconds.

A series is cut into three parts: the first is for training, the second tells which epoch was best,
and the third is the test, which no training sees. Both series are in the public domain and come
with statsmodels, whose files are read and whose code is not run.
"""

import argparse
import csv
import importlib.util
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

import fastlstm
from fastlstm.plot import plot_forecast
from fastlstm.training import (
    AdamW,
    EarlyStopping,
    Forecaster,
    MSELoss,
    Standardizer,
    seasonal_naive,
)

# The cycles of the sun have one shape and many heights, and those of the test are higher than any
# before. So the LSTMs are also trained on the training part made lower and higher.
SCALES = 0.5, 0.7, 1, 1.4, 2


class Test(NamedTuple):
    """The outcome: forecasts from many points, by each seed and by the simple rules.

    Parameters
    ----------
    step : str
        What a step is called, in the plural.
    unit : str
        What the values, the forecasts and their errors are measured in.
    times, values : array of shape (T,)
    first : int array of shape (N,)
        The first step of each forecast.
    truth : array of shape (N, horizon)
    rules : dict of str -> array of shape (N, horizon)
        The forecasts by simple rules; the seasonal-naive one comes first.
    forecasts : array of shape (seeds, N, horizon)
    panels : dict of str -> array of shape (T,)
        What to draw, by its label: the values, from which these are subtracted.
    """

    step: str
    unit: str
    times: np.ndarray
    values: np.ndarray
    first: np.ndarray
    truth: np.ndarray
    rules: dict[str, np.ndarray]
    forecasts: np.ndarray
    panels: dict[str, np.ndarray]


def train(
    series: list[np.ndarray], held_out: np.ndarray, window: int, horizon: int, seed: int
) -> Forecaster:
    """Train on a list of series, and keep the weights of the epoch that is best on `held_out`."""
    model = fastlstm.Sequential(
        fastlstm.LSTM(1, 16, seed=seed),
        fastlstm.Last(),
        fastlstm.Linear(16, horizon, seed=seed),
    )
    forecaster = Forecaster(model, Standardizer.fit(series), window, horizon)
    # Some hundred numbers are few: with less decay, seeds differ more, and most are worse.
    optimizer = AdamW(model, lr=0.005, weight_decay=0.5)
    fastlstm.fit(
        model, forecaster.windows(series), MSELoss(), optimizer, epochs=100,
        validation=forecaster.windows(held_out), clip_norm=1, seed=seed,
        callbacks=[EarlyStopping(patience=15)],
    )  # fmt: skip
    return forecaster


def sunspots(seeds: Iterable[int]) -> Test:
    """Forecast the sunspots of 11 years, a cycle, from the three cycles before.

    The test begins in 1949.
    """
    rows = read("sunspots")
    years, values = np.array(rows, float).T
    window, horizon = 33, 11
    held_out, start = np.searchsorted(years, (1905, 1949))
    series = [scale * values[:held_out] for scale in SCALES]
    forecasts = []
    for seed in seeds:
        forecaster = train(series, values[held_out - window : start], window, horizon, seed)
        first, forecast, truth = forecaster.backtest(values, start)
        forecasts.append(np.maximum(forecast[..., 0], 0))
    rules = {"as 11 years before": seasonal_naive(values, first, horizon, season=11)[..., 0]}
    panels = {"sunspots a year": np.zeros_like(values)}
    forecasts, truth = np.array(forecasts), truth[..., 0]
    return Test("years", "sunspots", years, values, first, truth, rules, forecasts, panels)


def co2(seeds: Iterable[int]) -> Test:
    """Forecast the carbon dioxide in the air for 12 months; the test is the last 10 years.

    A model that sees levels cannot forecast a level that was never there before. So the model sees
    and forecasts by how much each month is above the same month of the year before.
    """
    months, values = monthly(read("co2"))
    window = horizon = season = 12
    growth = values[season:] - values[:-season]  # of the months from `season` on
    start = len(growth) - 120
    held_out = start - 48
    forecasts = []
    for seed in seeds:
        forecaster = train(
            [growth[:held_out]], growth[held_out - window : start], window, horizon, seed
        )
        first, forecast, _ = forecaster.backtest(growth, start)
        forecasts.append(forecast[..., 0])
    first = first + season
    before = seasonal_naive(values, first, horizon, season)[..., 0]
    drift = (values[first - 1] - values[first - 1 - season])[:, None]
    rules = {"as last year": before, "as last year, and the last growth": before + drift}
    truth = values[first[:, None] + np.arange(horizon)]
    year_before = np.append(np.full(season, np.nan), values[:-season])
    panels = {"CO2 [ppm]": np.zeros_like(values), "growth in 12 months [ppm]": year_before}
    levels = np.array(forecasts) + before
    return Test("months", "ppm", months, values, first, truth, rules, levels, panels)


def read(name: str) -> list[list[str]]:
    """Return the rows of one of statsmodels' data sets, without importing the package."""
    package = importlib.util.find_spec("statsmodels")
    if package is None:
        sys.exit(
            "forecast.py needs the package that carries the data: pip install --no-deps statsmodels"
        )
    path = Path(package.submodule_search_locations[0], "datasets", name, f"{name}.csv")
    with open(path, newline="") as file:
        return list(csv.reader(file))[1:]


def monthly(rows: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the months (T,) of weekly rows and their means (T,), with gaps interpolated."""
    days = np.array([f"{d[:4]}-{d[4:6]}-{d[6:]}" for d, _ in rows], "datetime64[D]")
    weekly = np.array([float(value or "nan") for _, value in rows])
    known = np.isfinite(weekly)
    weekly = np.interp(days.astype(int), days[known].astype(int), weekly[known])
    months, of = np.unique(days.astype("datetime64[M]"), return_inverse=True)
    return months, np.bincount(of, weekly) / np.bincount(of)


def errors(test: Test) -> dict[str, tuple[float, float]]:
    """Return the errors of the rules, of each seed and of the seeds' mean.

    They are the root of the mean squared error and the mean absolute error.
    """
    models = {f"LSTM, seed {n}": forecast for n, forecast in enumerate(test.forecasts)}
    mean = {f"LSTM, mean of {len(models)} seeds": test.forecasts.mean(axis=0)}
    return {
        name: (np.sqrt(np.mean((y - test.truth) ** 2)), np.mean(np.abs(y - test.truth)))
        for name, y in {**test.rules, **models, **mean}.items()
    }


def show(test: Test) -> None:
    """Print the errors."""
    count, horizon = test.truth.shape
    begun = test.times[test.first[[0, -1]]]
    begun = " to ".join(f"{t:g}" if t.dtype.kind == "f" else str(t) for t in begun)
    title = next(iter(test.panels))
    print(f"{title}: {count} forecasts of {horizon} {test.step}, begun in {begun}")
    print(f"Errors in {test.unit}:\n")
    print(f"{'':36}{'RMSE':>8}{'MAE':>8}")
    for name, error in errors(test).items():
        print(f"{name:36}" + "".join(f"{value:#8.3g}" for value in error))


def draw(test: Test, path: Path) -> None:
    """Draw forecasts one behind the other, each of them made at its dotted line."""
    horizon = test.truth.shape[1]
    chosen = np.arange(len(test.first))[::-horizon][::-1]
    begins = test.first[chosen]
    steps = np.arange(begins[0] - 4 * horizon, begins[-1] + horizon)
    past, then = np.split(steps, [4 * horizon])

    def panels(values: np.ndarray, at: np.ndarray) -> np.ndarray:
        return np.stack([values - less[at] for less in test.panels.values()], axis=1)

    parts = test.forecasts[:, chosen].reshape(len(test.forecasts), -1)
    figure = plot_forecast(
        panels(test.values[past], past),
        panels(parts.mean(axis=0), then),
        panels(test.values[then], then),
        band=(panels(parts.min(axis=0), then), panels(parts.max(axis=0), then)),
        names=list(test.panels),
        times=test.times[steps],
    )
    for axes in figure.axes:
        for begin in begins:
            axes.axvline(test.times[begin], color="0.6", linewidth=0.8, linestyle=":", zorder=0)
    figure.axes[0].get_legend().remove()
    handles, _ = figure.axes[0].get_legend_handles_labels()
    names = "before", "truth", f"forecast: mean of {len(parts)} seeds", "least to greatest of them"
    figure.legend(handles, names, frameon=False, ncols=4, loc="outside upper center")
    figure.axes[-1].set_xlabel(
        f"each dotted line begins a forecast of {horizon} {test.step} that knows all before it"
    )
    figure.savefig(path, dpi=150)


def main(arguments: list[str] | None = None) -> dict[str, tuple[float, float]]:
    """Train, test, print and draw; return what `errors` does."""
    parser = argparse.ArgumentParser(description="Forecasts of sunspots and of carbon dioxide.")
    parser.add_argument("series", choices=("sunspots", "co2"))
    parser.add_argument("-o", "--output", type=Path, help="picture (default: SERIES.png)")
    parser.add_argument("--seeds", type=int, default=5, help="how many LSTMs (default: 5)")
    args = parser.parse_args(arguments)
    path = args.output or Path(f"{args.series}.png")
    if importlib.util.find_spec("matplotlib") is None:
        sys.exit("forecast.py draws with matplotlib: pip install matplotlib")
    began = time.perf_counter()
    test = {"sunspots": sunspots, "co2": co2}[args.series](range(args.seeds))
    seconds = time.perf_counter() - began
    show(test)
    draw(test, path)
    print(f"\n{args.seeds} trainings and their tests took {seconds:.1f} s; the picture: {path}")
    return errors(test)


if __name__ == "__main__":
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads the rest of the output any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
