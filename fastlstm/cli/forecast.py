"""``fastlstm forecast``: a table and a forecaster in, a table of what comes next out."""

from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..files import written_aside
from ..plot import plot_forecast
from ..terminal import show
from ..training import Forecaster, seasonal_naive
from . import parser
from .parser import add_number
from .scores import show_errors
from .table import Table
from .table_arguments import (
    TABLE,
    add_command,
    add_files,
    check_output,
    check_plot,
    tables_of,
)

if TYPE_CHECKING:
    from .parser import Commands

_SHOWN = 48  # steps before a forecast in its picture, at least

_Array = NDArray[np.float64]

_DESCRIPTION = f"""\
Forecast what comes after the last row of a table, or of each of its series, with a model that
`fastlstm train` wrote.

{TABLE}
The output is a CSV file with a row for every step of the forecast, with its time, or, where
the last rows do not tell how times go on, its number. Only the columns and rows that the
forecast is made from must be there. Steps behind the model's horizon are made from its own
forecasts, which needs a model whose inputs are its targets.
"""


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    forecast = add_command(commands, "forecast", "forecast with such a model", _DESCRIPTION)
    forecast.set_defaults(action=_forecast)
    forecast.add_argument("model", metavar="MODEL", type=Path, help="what `fastlstm train` wrote")
    add_files(forecast, "CSV file to write (default: print it)", required=False)
    forecast.add_argument(
        "--steps", metavar="N", type=parser.count, help="steps to forecast (default: the horizon)"
    )
    forecast.add_argument(
        "--holdout", metavar="N", type=parser.count,
        help="keep the last rows from the model, and compare its forecast with them",
    )  # fmt: skip
    add_number(
        forecast, "--season", parser.count, 1, "steps of a season, for --holdout; 1: last value"
    )


def _forecast(args: argparse.Namespace) -> None:
    if args.output is not None:
        check_output(args.output, ".csv", [args.data, args.model])
    check_plot(args.plot)
    forecaster = Forecaster.load(args.model)
    if forecaster.columns is None:
        raise ValueError(f"{args.model} does not name its columns: give Forecaster columns=[...]")
    names = [forecaster.columns[n] for n in forecaster.targets]
    columns = [forecaster.columns[n] for n in forecaster.inputs]
    if args.holdout or args.plot is not None:
        columns = list(dict.fromkeys([*columns, *names]))
    tables = tables_of(args, columns)
    if args.plot is not None and len(tables) > 1:
        raise ValueError(f"--plot draws one series, {args.data} has {len(tables)}")
    forecasts = [_forecast_of(args, forecaster, table) for table in tables]
    _write_forecasts(args, tables, names, forecasts)
    if args.plot is not None:
        _plot_forecast(args.plot, tables[0], names, forecasts[0], args.holdout or 0)
    if args.holdout:
        pairs = zip(tables, forecasts, strict=True)
        held_out = [_held_out(args, table, names, forecast) for table, forecast in pairs]
        truth, forecast, naive = (np.concatenate(arrays) for arrays in zip(*held_out, strict=True))
        show_errors(
            names, truth, forecast, naive, args.season,
            "stderr" if args.output is None else "stdout",
        )  # fmt: skip


def _forecast_of(args: argparse.Namespace, forecaster: Forecaster, table: Table) -> _Array:
    """Forecast what comes after a table, or after the rows that --holdout leaves of it."""
    assert forecaster.columns is not None
    count, (first, _) = len(table.values) - (args.holdout or 0), table.parts[-1]
    if count - first < forecaster.window:
        has = f"{len(table.values)} rows, which leave {max(0, count)} to forecast from"
        if first:
            rows = f"{max(0, count - first)} rows to forecast from where it was cut last"
            has = f"{rows} ({table.notes[-1]})"
        raise ValueError(
            f"{table.title} has {has}; expected the model's window of {forecaster.window} at least"
        )
    if args.holdout and args.season > count - first:
        raise ValueError(
            f"--season {args.season} is more than the {count - first} rows of {table.title} "
            "before the forecast"
        )
    inputs = [table.columns.index(forecaster.columns[n]) for n in forecaster.inputs]
    table.check(count - forecaster.window, count, inputs)
    values = np.full((count, len(forecaster.columns)), np.nan)
    for n, name in enumerate(table.columns):
        values[:, forecaster.columns.index(name)] = table.values[:count, n]
    if args.holdout:
        targets = [table.columns.index(forecaster.columns[n]) for n in forecaster.targets]
        table.check(max(first, count - args.season), None, targets)
    return forecaster.forecast(values, args.steps)


def _held_out(
    args: argparse.Namespace, table: Table, names: list[str], forecast: _Array
) -> tuple[_Array, _Array, _Array]:
    """Return the truth, the forecast and that of a season ago for the rows that were held out.

    Each has shape (steps, targets).
    """
    known = _known(table, names)
    count, (first, _) = len(known) - args.holdout, table.parts[-1]
    truth = known[count : count + len(forecast)]
    naive = seasonal_naive(known[first:], count - first, len(truth), args.season)
    return truth, forecast[: len(truth)], naive


def _known(table: Table, names: list[str]) -> _Array:
    """Return the values of a table's columns of these names."""
    return table.values[:, [table.columns.index(name) for name in names]]


def _write_forecasts(
    args: argparse.Namespace, tables: list[Table], names: list[str], forecasts: list[_Array]
) -> None:
    """Write a row for each step; steps whose times are unknown are numbered from 1."""
    labels = []
    for table, forecast in zip(tables, forecasts, strict=True):
        first = len(table.values) - (args.holdout or 0)
        own = table.labels_from(first, len(forecast))
        if own is not None:
            labels.append(own)
        elif table.time is not None:
            show(
                f"{table.title}: its last rows do not tell the times of those that follow, "
                "which are numbered",
                to="stderr",
            )
    timed = len(labels) == len(tables)
    if not timed:
        labels = [[str(n + 1) for n in range(len(forecast))] for forecast in forecasts]
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    group = [] if args.group is None else [args.group]
    rows.writerow([*group, tables[0].time if timed else "step", *names])
    for table, own, forecast in zip(tables, labels, forecasts, strict=True):
        group = [] if table.group is None else [table.group]
        for label, row in zip(own, forecast, strict=True):
            digits = [f"{value:.9g}" for value in row]  # as many as float32 has
            rows.writerow([*group, label, *digits])
    if args.output is None:
        show(*text.getvalue().rstrip("\n").split("\n"))
    else:
        with written_aside(args.output) as file:
            file.write(text.getvalue().encode())


def _plot_forecast(
    path: Path, table: Table, names: list[str], forecast: _Array, holdout: int
) -> None:
    """Draw a forecast behind the last rows that it continues: behind all, it would be small."""
    known, steps = _known(table, names), len(forecast)
    first = len(known) - holdout
    shown = min(first, max(_SHOWN, 3 * steps))
    truth = known[first : first + steps]
    whole = np.full_like(forecast, np.nan)
    whole[: len(truth)] = truth
    with written_aside(path) as file:
        plot_forecast(
            known[first - shown : first], forecast, whole if len(truth) else None,
            path=file, names=names, times=table.times_from(first - shown, shown + steps),
        )  # fmt: skip
