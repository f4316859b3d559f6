"""``fastlstm train`` and ``fastlstm forecast``: a table in, a forecaster out, and its forecasts."""

import argparse
import contextlib
import csv
import io
import math
import re
import sys
from pathlib import Path

import numpy as np

from ..checks import listed
from ..files import check_writable, written_aside
from ..layers import LSTM, Last, Linear, Sequential
from ..plot import plot_forecast, plot_history
from ..terminal import above_bars, show
from ..training import (
    SGD,
    Adam,
    AdamW,
    Checkpoint,
    EarlyStopping,
    Forecaster,
    MSELoss,
    RMSprop,
    Standardizer,
    fit,
    seasonal_naive,
)
from .table import read_tables

_OPTIMISERS = {"adam": Adam, "adamw": AdamW, "rmsprop": RMSprop, "sgd": SGD}
_SHOWN = 48  # steps before a forecast in its picture, at least
_CHANGED = ("batch_size", "lr", "patience")  # what a training that goes on may have otherwise
_CLIP = 1.0  # norm of the gradients: a rare large one would undo much of what was learnt

_TABLE = """\
A table is a CSV file: the first line names the columns, then a row for every step, in the
order of time, at equal distances, without missing values in the columns that are used.

The first column that is neither target nor input tells the times, if it holds dates in a
common form (2024-01-31, 2024-01-31 18:00Z, 31.01.2024, 1/31/2024, Jan 31, 2024, 20240131,
2024-01, 2024Q1; a clock or the hour, or year, month, day and hour, may be columns of
their own) or numbers that increase (years, Unix seconds). Times that do not increase are an
error. Where a row is more than half the usual distance off its place, or a time is there
twice, the table is cut and no window crosses (weekends, and holidays of up to a week, are
no gaps where all rows are on working days). Where days and months cannot be told apart
say how they are written: --date-format %d/%m/%Y. With --group store each store is a
series of its own.
"""
_TRAIN_DESCRIPTION = f"""\
Train an LSTM to forecast columns of a table: from --window steps to the next --horizon.

{_TABLE}
The last --validation of the rows are not trained on: they tell which epoch was best, whose
weights are kept, and how good the forecasts are, beside the forecast that all will be as
one season ago (or as the last value). What the model needs to forecast in the table's own
units stands in its file; `fastlstm.load` reads the bare model from it.

Ctrl-C ends the training and keeps what was learnt. With --checkpoint a training that was
killed goes on where it was when the same command is given again: with more --epochs, and
with what --changed names. Another table, or another option, is refused.
"""
_FORECAST_DESCRIPTION = f"""\
Forecast what comes after the last row of a table, or of each of its series, with a model that
`fastlstm train` wrote.

{_TABLE}
The output is a CSV file with a row for every step of the forecast, with its time, or, where
the last rows do not tell how times go on, its number. Only the columns and rows that the
forecast is made from must be there. Steps behind the model's
horizon are made from its own forecasts, which needs a model whose inputs are its targets.
"""


def add_commands(commands):
    """Add `train` and `forecast` to the subparsers of a command line."""
    train = _command(commands, "train", "train a forecaster on a table", _TRAIN_DESCRIPTION)
    train.set_defaults(action=_train)
    _add_files(train, "model to write, .npz", required=True)
    of_model = train.add_argument_group("the model")
    of_model.add_argument(
        "--target", metavar="COL", action="append", required=True, dest="targets",
        help="a column to forecast; may be given more than once",
    )  # fmt: skip
    of_model.add_argument(
        "--inputs", metavar="COL", nargs="+", help="columns to forecast from (default: the targets)"
    )
    _add_number(of_model, "--window", _count, None, "steps to forecast from")
    _add_number(of_model, "--horizon", _count, None, "steps to forecast")
    _add_number(of_model, "--hidden", _count, 32, "hidden units of a layer")
    _add_number(of_model, "--layers", _few, 1, "layers of the LSTM")
    learning = train.add_argument_group("the training")
    _add_number(learning, "--epochs", _count, 100, "how often to go through the rows at most")
    _add_number(learning, "--batch-size", _count, 32, "windows for one update")
    _add_number(learning, "--lr", _positive, 0.005, "learning rate")
    learning.add_argument(
        "--optimizer", choices=_OPTIMISERS, default="adam", help="(default: adam)"
    )
    _add_number(learning, "--validation", _share, 0.2, "share of the rows, the last ones; or 0")
    _add_number(learning, "--patience", _count, 20, "epochs without a better one before the end")
    _add_number(learning, "--seed", _whole, 0, "of the first weights and the order of windows")
    _add_number(
        learning, "--season", _count, 1, "steps of a season, to compare with; 1: last value"
    )
    learning.add_argument(
        "--checkpoint", metavar="FILE", type=Path, help="write each epoch here, and go on from it"
    )
    learning.add_argument(
        "--changed", choices=_CHANGED, action="append", default=[],
        help="is on purpose another than in the checkpoint; may be given more than once",
    )  # fmt: skip

    forecast = _command(commands, "forecast", "forecast with such a model", _FORECAST_DESCRIPTION)
    forecast.set_defaults(action=_forecast)
    forecast.add_argument("model", metavar="MODEL", type=Path, help="what `fastlstm train` wrote")
    _add_files(forecast, "CSV file to write (default: print it)", required=False)
    forecast.add_argument(
        "--steps", metavar="N", type=_count, help="how many (default: the model's horizon)"
    )
    forecast.add_argument(
        "--holdout", metavar="N", type=_count,
        help="keep the last rows from the model, and compare its forecast with them",
    )  # fmt: skip
    _add_number(forecast, "--season", _count, 1, "for that: steps of a season; 1: last value")


def _command(commands, name, summary, description):
    return commands.add_parser(
        name, help=summary, description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip


def _add_files(parser, output, required):
    parser.add_argument("data", metavar="DATA.csv", type=Path, help="the table")
    parser.add_argument("-o", "--output", metavar="OUT", type=Path, required=required, help=output)
    parser.add_argument(
        "--plot", metavar="PNG", type=Path, help="picture to draw; needs matplotlib"
    )
    table = parser.add_argument_group("the table")
    table.add_argument(
        "--sep", metavar="C", type=_separator, default=",", help="between columns (default: ,)"
    )
    table.add_argument(
        "--decimal", metavar="C", choices=(".", ","), default=".",
        help="before fractions, . or , (default: .)",
    )  # fmt: skip
    table.add_argument(
        "--date-format", metavar="FORMAT", help="how times are written, as %%d/%%m/%%Y %%H:%%M"
    )
    table.add_argument("--group", metavar="COL", help="the column that tells series apart")
    table.add_argument(
        "--gaps", choices=("cut", "error"), default="cut",
        help="what to do where rows are missing or repeated (default: cut)",
    )  # fmt: skip


def _add_number(group, name, kind, default, text):
    """An option with a number, which must be given if there is no default."""
    text += "" if default is None else f" (default: {default})"
    required = default is None
    group.add_argument(name, metavar="N", type=kind, default=default, required=required, help=text)


def _train(args):
    _check_output(args.output, ".npz", [args.data])
    _check_plot(args.plot)
    if args.checkpoint is not None and args.checkpoint.resolve() == args.output.resolve():
        raise ValueError(f"--checkpoint and --output must be two files, got {args.output} for both")
    if args.checkpoint is not None:
        check_writable(args.checkpoint)
    inputs, targets = (list(dict.fromkeys(c)) for c in (args.inputs or args.targets, args.targets))
    columns = list(dict.fromkeys([*inputs, *targets]))
    tables = _read_tables(args, columns)
    for table in tables:
        table.check()
        _tell_notes(args, table)
    train, held_out = _split(args, tables)
    model = Sequential(
        {
            "lstm": LSTM(len(inputs), args.hidden, args.layers, seed=args.seed),
            "last": Last(),
            "linear": Linear(args.hidden, args.horizon * len(targets), seed=args.seed),
        }
    )
    forecaster = Forecaster(
        model, Standardizer.fit(train), args.window, args.horizon,
        inputs=inputs, targets=targets, columns=columns,
    )  # fmt: skip
    rows = str(tables[0]) if args.group is None else _rows_of_series(args, tables)
    show(f"{args.data}: {rows}; {sum(map(len, train))} to train on")
    history = _fit(args, forecaster, train, held_out)
    if not history["loss"]:
        show("interrupted before an epoch was done: nothing is written", to="stderr")
        raise KeyboardInterrupt
    forecaster.save(args.output)
    show(f"{args.output}: {model.num_parameters:,} parameters, {_ending(history)}")
    if args.plot is not None:
        with written_aside(args.plot) as file:
            plot_history(history, file)
    if held_out:
        truth, forecast, naive = _backtests(args, forecaster, held_out)
        show(f"validation: {len(truth)} forecasts of {args.horizon} steps, in the table's units")
        _print_errors(targets, truth, forecast, naive, args.season, "stdout")
    if history.interrupted:
        raise KeyboardInterrupt


def _read_tables(args, columns):
    return read_tables(
        args.data, columns, group=args.group, sep=args.sep, decimal=args.decimal,
        date_format=args.date_format, gaps=args.gaps,
    )  # fmt: skip


def _name(args, table):
    """The file, and which series of it."""
    return str(args.data) if table.group is None else f"{args.data}, {args.group} {table.group!r}"


def _tell_notes(args, table):
    if table.notes:
        cut = "cut, and no window crosses: " if len(table.parts) > 1 else ""
        show(f"{_name(args, table)}: {cut}{listed(table.notes, 5)}", to="stderr")


def _rows_of_series(args, tables):
    rows = sum(len(table.values) for table in tables)
    return f"{rows} rows of {len(tables)} series, by {args.group}"


def _split(args, tables):
    """Series to train on, and those to validate with, each with the first step to forecast.

    They are the parts of tables between gaps, which end or begin where rows are held out.
    """
    train, held_out = [], []
    for table in tables:
        cut = round((1 - args.validation) * len(table.values))
        for first, stop in table.parts:
            if first < cut:
                train.append(table.values[first : min(stop, cut)])
            start = max(cut, first + args.window, first + args.season)
            if args.validation and start + args.horizon <= stop:
                held_out.append((table.values[first:stop], start - first))
    rows, longest = sum(len(t.values) for t in tables), max(map(len, train), default=0)
    whole = len(tables) == 1 and len(tables[0].parts) == 1
    if longest < args.window + args.horizon:
        left = f"{rows} rows, which leave {longest} to train on"
        parts = f"{sum(len(t.parts) for t in tables)} parts, the longest with {longest} to train on"
        raise ValueError(
            f"{args.data} has {left if whole else parts}; "
            f"expected --window and --horizon, {args.window} + {args.horizon}, at least"
        )
    if args.validation and not held_out:
        left = f"leaves {rows - longest}" if whole else "leaves too few in each part"
        raise ValueError(
            f"{args.data} has {rows} rows, of which --validation {args.validation:g} {left}; "
            f"expected --horizon, {args.horizon}, at least"
        )
    if args.season > longest:
        raise ValueError(f"--season {args.season} is more than the {longest} rows to train on")
    return train, held_out


def _backtests(args, forecaster, held_out):
    """(truth, forecast, that of a season ago), each of shape (N, horizon, targets)."""
    parts = []
    for values, start in held_out:
        first, forecast, truth = forecaster.backtest(values, start)
        known = values[:, forecaster.targets]
        parts.append((truth, forecast, seasonal_naive(known, first, args.horizon, args.season)))
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def _fit(args, forecaster, train, held_out):
    callbacks, validation, resume = [_report], None, None
    if held_out:
        callbacks.append(EarlyStopping(args.patience))
        series = [values[start - args.window :] for values, start in held_out]
        validation = forecaster.windows(series)
    if args.checkpoint is not None:
        callbacks.append(Checkpoint(args.checkpoint))
        resume = args.checkpoint if args.checkpoint.exists() else None
    optimizer = _OPTIMISERS[args.optimizer](forecaster.model, lr=args.lr)
    try:
        return fit(
            forecaster.model, forecaster.windows(train), MSELoss(), optimizer, args.epochs,
            args.batch_size, validation=validation, clip_norm=_CLIP, callbacks=callbacks,
            seed=args.seed, resume=resume, changed=args.changed,
            progress=sys.stderr is not None and sys.stderr.isatty(),
        )  # fmt: skip
    except ValueError as fault:
        if not str(fault).startswith(f"{resume}: "):
            raise
        what, _, for_callers_of_fit = str(fault).partition(". To go on")
        names = re.findall(r"'(\w+)'", for_callers_of_fit.partition("changed=")[2])
        anew = "To train anew remove it, or give another --checkpoint"
        if names and set(names) <= set(_CHANGED):
            meant = " ".join(f"--changed {name}" for name in names)
            anew = f"If that is on purpose add {meant}. {anew}"
        raise ValueError(f"{what}. {anew}") from None


def _report(state):
    """Print a line for an epoch, above the bar if there is one."""
    losses = (
        f"{name.replace('_', ' ')} {values[-1]:.4g}"
        for name, values in state.history.items()
        if name.endswith("loss")
    )
    with above_bars():
        show(f"epoch {state.epoch}/{state.epochs}: {', '.join(losses)}")


def _ending(history):
    """Which epoch's weights the model has, and why the training ended."""
    losses = history.get("validation_loss")
    best = f"those of epoch {int(np.argmin(losses)) + 1}" if losses else "the last ones"
    done = f"{len(history['loss'])} epochs"
    return f"{best} of {done}" + (", interrupted" if history.interrupted else "")


def _print_errors(names, truth, forecast, naive, season, to):
    """Print the errors of each target, (..., C), the model's and the baseline's."""
    baseline = "last value" if season == 1 else f"as {season} steps ago"
    width = max(len("forecast"), len(baseline), *map(len, names)) + 2
    show(f"{'':{width}}{'RMSE':>12}{'MAE':>12}", to=to)
    for number, name in enumerate(names):
        show(name, to=to)
        for what, values in (("forecast", forecast), (baseline, naive)):
            error = values[..., number] - truth[..., number]
            rmse, mae = math.sqrt(np.mean(error**2)), np.mean(np.abs(error))
            show(f"{'  ' + what:{width}}{rmse:12.4g}{mae:12.4g}", to=to)


def _forecast(args):
    if args.output is not None:
        _check_output(args.output, ".csv", [args.data, args.model])
    _check_plot(args.plot)
    forecaster = Forecaster.load(args.model)
    if forecaster.columns is None:
        raise ValueError(f"{args.model} does not name its columns: give Forecaster columns=[...]")
    names = [forecaster.columns[n] for n in forecaster.targets]
    columns = [forecaster.columns[n] for n in forecaster.inputs]
    if args.holdout or args.plot is not None:
        columns = list(dict.fromkeys([*columns, *names]))
    tables = _read_tables(args, columns)
    if args.plot is not None and len(tables) > 1:
        raise ValueError(f"--plot draws one series, {args.data} has {len(tables)}")
    forecasts = [_forecast_of(args, forecaster, table) for table in tables]
    _write_forecasts(args, tables, names, forecasts)
    if args.plot is not None:
        (table,), (forecast,) = tables, forecasts
        _plot_forecast(args.plot, table, names, forecast, args.holdout or 0)
    if args.holdout:
        to = "stderr" if args.output is None else "stdout"
        pairs = zip(tables, forecasts, strict=True)
        errors = [_held_out(args, table, names, forecast) for table, forecast in pairs]
        truth, forecast, naive = (np.concatenate(arrays) for arrays in zip(*errors, strict=True))
        _print_errors(names, truth, forecast, naive, args.season, to)


def _forecast_of(args, forecaster, table):
    """Forecast what comes after a table, or after what is left of it."""
    count, (first, _) = len(table.values) - (args.holdout or 0), table.parts[-1]
    if count - first < forecaster.window:
        has = f"{len(table.values)} rows, which leave {max(0, count)} to forecast from"
        if first:
            rows = f"{max(0, count - first)} rows to forecast from where it was cut last"
            has = f"{rows} ({table.notes[-1]})"
        raise ValueError(
            f"{_name(args, table)} has {has}; expected the model's window of "
            f"{forecaster.window} at least"
        )
    if args.holdout and args.season > count - first:
        raise ValueError(
            f"--season {args.season} is more than the {count - first} rows of {_name(args, table)} "
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


def _held_out(args, table, names, forecast):
    """(truth, forecast, that of a season ago) of the rows that were held out, (steps, targets)."""
    known = _known(table, names)
    count, (first, _) = len(known) - args.holdout, table.parts[-1]
    truth = known[count : count + len(forecast)]
    naive = seasonal_naive(known[first:], count - first, len(truth), args.season)
    return truth, forecast[: len(truth)], naive


def _known(table, names):
    return table.values[:, [table.columns.index(name) for name in names]]


def _write_forecasts(args, tables, names, forecasts):
    """Write a row for each step; where times cannot be continued they are numbered from 1."""
    labels = []
    for table, forecast in zip(tables, forecasts, strict=True):
        labels.append(table.labels_from(len(table.values) - (args.holdout or 0), len(forecast)))
        if labels[-1] is None and table.time is not None:
            show(
                f"{_name(args, table)}: its last rows do not tell the times of those that follow, "
                "which are numbered",
                to="stderr",
            )
    timed = None not in labels
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    group = [] if args.group is None else [args.group]
    rows.writerow([*group, tables[0].time if timed else "step", *names])
    for table, own, forecast in zip(tables, labels, forecasts, strict=True):
        for n, row in enumerate(forecast):
            group = [] if args.group is None else [table.group]
            digits = [f"{value:.9g}" for value in row]  # those of float32
            rows.writerow([*group, own[n] if timed else n + 1, *digits])
    if args.output is None:
        show(*text.getvalue().rstrip("\n").split("\n"))
    else:
        with written_aside(args.output) as file:
            file.write(text.getvalue().encode())


def _plot_forecast(path, table, names, forecast, holdout):
    """Draw a forecast behind what it goes on from: some of that, or it would be small."""
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


# What is to be written


def _check_output(path, suffix, inputs):
    if path.suffix.lower() != suffix:
        raise ValueError(f"output must end in {suffix}, got {path}")
    check_writable(path, inputs)


def _check_plot(path):
    """Refuse a picture that could not be drawn, before the work rather than after it."""
    if path is not None:
        if path.suffix.lower() != ".png":
            raise ValueError(f"--plot must end in .png, got {path}")
        check_writable(path)
        plot_history({"loss": [1.0]})


# The kinds of values in options


def _separator(text):
    text = {"tab": "\t", "\\t": "\t"}.get(text, text)
    if len(text) != 1 or text.isalnum() or text in '"\r\n':
        raise argparse.ArgumentTypeError(f"expected one character or tab, got {text!r}")
    return text


def _number_type(what, kind, fits):
    def convert(text):
        with contextlib.suppress(ValueError):
            value = kind(text)
            if fits(value) and "_" not in text:  # 1_000 is Python's, not a number to others
                return value
        raise argparse.ArgumentTypeError(f"expected {what}, got {text[:60]!r}")

    return convert


_count = _number_type("a whole number from 1 to 999999999", int, lambda n: 1 <= n < 10**9)
_few = _number_type("a whole number from 1 to 1000", int, lambda n: 1 <= n <= 1000)
_whole = _number_type("a whole number from 0", int, lambda n: n >= 0)
_positive = _number_type("a number above 0", float, lambda x: 0 < x < math.inf)
_share = _number_type("a share from 0 to less than 1", float, lambda x: 0 <= x < 1)
