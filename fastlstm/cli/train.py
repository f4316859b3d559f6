"""``fastlstm train``: a table in, a forecaster out."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..checks import listed
from ..files import check_writable, written_aside
from ..layers import LSTM, Last, Linear, Sequential
from ..plot import plot_history
from ..terminal import above_bars, show
from ..training import (
    SGD,
    Adam,
    AdamW,
    Checkpoint,
    EarlyStopping,
    Forecaster,
    History,
    MSELoss,
    RMSprop,
    Standardizer,
    State,
    fit,
    seasonal_naive,
)
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

_OPTIMISERS = {"adam": Adam, "adamw": AdamW, "rmsprop": RMSprop, "sgd": SGD}
_CHANGED = ("batch_size", "lr", "patience")  # what may change when a training is continued
_CLIP = 1.0  # norm of the gradients: a single large one would undo much of what was learnt

_HeldOut = list[tuple[NDArray[np.float64], int]]  # series with the first step to forecast

_DESCRIPTION = f"""\
Train an LSTM to forecast columns of a table: from --window steps to the next --horizon.

{TABLE}
The last --validation of the rows are not trained on: they tell which epoch was best, whose
weights are kept, and how good the forecasts are, beside the forecast that all will be as
one season ago (or as the last value). What the model needs to forecast in the table's own
units stands in its file; `fastlstm.load` reads the bare model from it.

Ctrl-C ends the training and keeps what was learnt. With --checkpoint a training that was
killed goes on where it was when the same command is given again: with more --epochs, and
with what --changed names. Another table, or another option, is refused.
"""


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    train = add_command(commands, "train", "train a forecaster on a table", _DESCRIPTION)
    train.set_defaults(action=_train)
    add_files(train, "model to write, .npz", required=True)
    of_model = train.add_argument_group("the model")
    of_model.add_argument(
        "--target", metavar="COL", action="append", required=True, dest="targets",
        help="a column to forecast; may be given more than once",
    )  # fmt: skip
    of_model.add_argument(
        "--inputs", metavar="COL", nargs="+", help="columns to forecast from (default: the targets)"
    )
    add_number(of_model, "--window", parser.count, None, "steps to forecast from")
    add_number(of_model, "--horizon", parser.count, None, "steps to forecast")
    add_number(of_model, "--hidden", parser.count, 32, "hidden units of a layer")
    add_number(of_model, "--layers", parser.few, 1, "layers of the LSTM")
    learning = train.add_argument_group("the training")
    add_number(learning, "--epochs", parser.count, 100, "most times to go through the rows")
    add_number(learning, "--batch-size", parser.count, 32, "windows for one update")
    add_number(learning, "--lr", parser.positive, 0.005, "learning rate")
    learning.add_argument(
        "--optimizer", choices=_OPTIMISERS, default="adam", help="(default: adam)"
    )
    add_number(
        learning,
        "--validation",
        parser.share,
        0.2,
        "share of the rows, the last ones, to validate with; or 0",
    )
    add_number(
        learning,
        "--patience",
        parser.count,
        20,
        "epochs without a better one after which the training ends",
    )
    add_number(learning, "--seed", parser.whole, 0, "of the first weights and the order of windows")
    add_number(
        learning, "--season", parser.count, 1, "steps of a season, to compare with; 1: last value"
    )
    learning.add_argument(
        "--checkpoint", metavar="FILE", type=Path, help="write each epoch here, and go on from it"
    )
    learning.add_argument(
        "--changed", choices=_CHANGED, action="append", default=[],
        help="an option that differs from the checkpoint's on purpose; may be given more than once",
    )  # fmt: skip


def _train(args: argparse.Namespace) -> None:
    check_output(args.output, ".npz", [args.data])
    check_plot(args.plot)
    if args.checkpoint is not None and args.checkpoint.resolve() == args.output.resolve():
        raise ValueError(f"--checkpoint and --output must be two files, got {args.output} for both")
    if args.checkpoint is not None:
        check_writable(args.checkpoint)
    inputs, targets = (list(dict.fromkeys(c)) for c in (args.inputs or args.targets, args.targets))
    columns = list(dict.fromkeys([*inputs, *targets]))
    tables = tables_of(args, columns)
    for table in tables:
        table.check()
        _show_notes(table)
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
        show_errors(targets, truth, forecast, naive, args.season, "stdout")
    if history.interrupted:
        raise KeyboardInterrupt


def _show_notes(table: Table) -> None:
    """Print where a table was cut, and what else was found in its times."""
    if table.notes:
        cut = "cut, and no window crosses: " if len(table.parts) > 1 else ""
        show(f"{table.title}: {cut}{listed(table.notes, 5)}", to="stderr")


def _rows_of_series(args: argparse.Namespace, tables: list[Table]) -> str:
    rows = sum(len(table.values) for table in tables)
    return f"{rows} rows of {len(tables)} series, by {args.group}"


def _split(
    args: argparse.Namespace, tables: list[Table]
) -> tuple[list[NDArray[np.float64]], _HeldOut]:
    """Return the series to train on, and those to validate with.

    Both are the parts of tables between gaps. The rows of a table that are held out, its last ones,
    are only in the second.
    """
    train: list[NDArray[np.float64]] = []
    held_out: _HeldOut = []
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


def _backtests(
    args: argparse.Namespace, forecaster: Forecaster, held_out: _HeldOut
) -> list[NDArray[np.float64]]:
    """Return the truth, the forecasts and those of a season ago, each (N, horizon, targets)."""
    parts = []
    for values, start in held_out:
        first, forecast, truth = forecaster.backtest(values, start)
        known = values[:, forecaster.targets]
        parts.append((truth, forecast, seasonal_naive(known, first, args.horizon, args.season)))
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def _fit(
    args: argparse.Namespace,
    forecaster: Forecaster,
    train: list[NDArray[np.float64]],
    held_out: _HeldOut,
) -> History:
    """Train the forecaster's model; an error about a checkpoint names the options to give."""
    callbacks: list[Callable[[State], object]] = [_report]
    validation, resume = None, None
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


def _report(state: State) -> None:
    """Print a line for an epoch, above the bar if there is one."""
    losses = (
        f"{name.replace('_', ' ')} {values[-1]:.4g}"
        for name, values in state.history.items()
        if name.endswith("loss")
    )
    with above_bars():
        show(f"epoch {state.epoch}/{state.epochs}: {', '.join(losses)}")


def _ending(history: History) -> str:
    """Tell which epoch's weights the model has, and why the training ended."""
    losses = history.get("validation_loss")
    best = f"those of epoch {int(np.argmin(losses)) + 1}" if losses else "the last ones"
    done = f"{len(history['loss'])} epochs"
    return f"{best} of {done}" + (", interrupted" if history.interrupted else "")
