"""The arguments about a table, an output and a picture, which ``train`` and ``forecast`` share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import check_writable
from ..plot import check_matplotlib
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
twice, the table is cut, and no window crosses the cut (weekends, and holidays of up to a
week, are no gaps where all rows are on working days). Where days and months cannot be told
apart, say how they are written: --date-format %d/%m/%Y. With --group store, each store is a
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
