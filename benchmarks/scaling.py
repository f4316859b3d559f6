"""How times scale with threads: a command runs once for each number of them, then this gathers.

Libraries read how many threads they have when they are loaded, so that each number is a process of
its own: the command itself, with one number. `compare` and `train` call this if they are given
several, as ``--threads 1,2,4``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence

from . import NUMBERS, plots, report
from .field import FIELD


def add_budget(parser: argparse.ArgumentParser) -> None:
    """Add ``--budget``."""
    parser.add_argument(
        "--budget", type=float, metavar="SECONDS",
        help="5 short blocks, one for slow peers, none for those of [bench-all]; the cases that "
        "tell most come first, and none begins after this time, which is that of all numbers of "
        "threads together",
    )  # fmt: skip


def in_time(names: Sequence[str], telling: Sequence[str], budget: float | None) -> Iterator[str]:
    """Yield the names; with a budget of seconds those in `telling` first, until it is spent."""
    if budget is None:
        yield from names
        return
    end = time.monotonic() + budget
    ordered = [*(n for n in telling if n in names), *(n for n in names if n not in telling)]
    for k, name in enumerate(ordered):
        if k and time.monotonic() > end:
            return
        yield name


def racing(names: Sequence[str], args: argparse.Namespace, absent: dict[str, str]) -> list[str]:
    """Return the peers that take part; with a budget those of [bench-all] are absent."""
    if args.budget is None:
        return list(names)
    absent |= {name: "left out of runs with --budget" for name in names if name in FIELD}
    return [name for name in names if name not in FIELD]


def left_out(args: argparse.Namespace, cases: Sequence[report.Entry]) -> list[str]:
    """Return the names of the cases that were asked for, and for which there was no time."""
    measured = {case["name"] for case in cases}
    return [name for name in args.cases if name not in measured]


def run(kind: str, args: argparse.Namespace, known: Callable[[int], Collection[str]]) -> None:
    """Run this command once for each number of threads, then write `kind`-scaling.md and .png.

    `known(number)` returns the names of the cases that there are for so many threads.
    """
    begin = time.monotonic()
    cases = {number: [name for name in args.cases if name in known(number)] for number in NUMBERS}
    numbers = [number for number in NUMBERS if cases[number]]
    for k, number in enumerate(numbers):
        print(f"-- {number} of {numbers} threads", file=sys.stderr, flush=True)
        command = [sys.executable, *sys.orig_argv[1:], "--threads", str(number)]
        command += ["--cases", *cases[number]]
        if args.budget:
            left = args.budget - (time.monotonic() - begin)
            command += ["--budget", str(max(1, left / (len(numbers) - k)))]
        subprocess.run(command, check=True)
    runs = {
        number: json.loads((args.out / f"{report.file_name(kind, number)}.json").read_text())
        for number in numbers
    }
    text = report.scaling(kind, runs)
    (args.out / f"{kind}-scaling.md").write_text(text)
    plots.scaling(runs, args.out / f"{kind}-scaling.png")
    print(text)
