"""What ``train`` and ``forecast`` share: arguments about a table, its picture, printed errors."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..files import check_writable
from ..plot import check_matplotlib
from ..terminal import show
from .parser import check_suffix, separator
from .table import Table, read_tables

if TYPE_CHECKING:
    from .parser import Commands

TABLE = """\
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


def add_command(
    commands: Commands, name: str, summary: str, description: str
) -> argparse.ArgumentParser:
    """Add a command whose description, about tables, keeps its lines."""
    return commands.add_parser(
        name, help=summary, description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip


def add_files(command: argparse.ArgumentParser, output: str, *, required: bool) -> None:
    """Add the arguments that name the table, the output and a picture, and how the table is read.

    `output` is the help for the output, and `required` says whether it must be given.
    """
    command.add_argument("data", metavar="DATA.csv", type=Path, help="the table")
    command.add_argument("-o", "--output", metavar="OUT", type=Path, required=required, help=output)
    command.add_argument(
        "--plot", metavar="PNG", type=Path, help="picture to draw; needs matplotlib"
    )
    table = command.add_argument_group("the table")
    table.add_argument(
        "--sep", metavar="C", type=separator, default=",", help="between columns (default: ,)"
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


def check_output(path: Path, suffix: str, inputs: Sequence[Path]) -> None:
    """Refuse an output that could not be written, or would be written over an input."""
    check_suffix("output", path, [suffix])
    check_writable(path, inputs)


def check_plot(path: Path | None) -> None:
    """Refuse a picture that could not be drawn, before the work rather than after it."""
    if path is not None:
        check_suffix("--plot", path, [".png"])
        check_writable(path)
        check_matplotlib()


def tables_of(args: argparse.Namespace, columns: list[str]) -> list[Table]:
    """Read these columns of the table that the arguments name."""
    return read_tables(
        args.data, columns, group=args.group, sep=args.sep, decimal=args.decimal,
        date_format=args.date_format, gaps=args.gaps,
    )  # fmt: skip


def show_errors(
    names: Sequence[str],
    truth: NDArray[Any],
    forecast: NDArray[Any],
    naive: NDArray[Any],
    season: int,
    to: Literal["stdout", "stderr"],
) -> None:
    """Print the errors of a forecast and of one that repeats the last season, for each target.

    The arrays have shape (..., targets).
    """
    baseline = "last value" if season == 1 else f"as {season} steps ago"
    width = max(len("forecast"), len(baseline), *map(len, names)) + 2
    show(f"{'':{width}}{'RMSE':>12}{'MAE':>12}", to=to)
    for number, name in enumerate(names):
        show(name, to=to)
        for what, values in (("forecast", forecast), (baseline, naive)):
            error = values[..., number] - truth[..., number]
            rmse, mae = math.sqrt(np.mean(error**2)), np.mean(np.abs(error))
            show(f"{'  ' + what:{width}}{rmse:12.4g}{mae:12.4g}", to=to)
