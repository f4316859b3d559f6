"""Measure fastlstm and its peers in turn in one run: ``python -m benchmarks.compare --help``."""

from __future__ import annotations

from . import COMMAND, NUMBERS, THREADS  # first: it pins the threads of whatever is imported next

# isort: split
import argparse
import datetime
import gc
import importlib.metadata
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import fastlstm

from . import alone, limit, machine, plots, report, scaling
from .cases import TELLING, Case, fewer, threads_bars, with_threads
from .field import FIELD
from .peers import (
    CONTESTANTS,
    ENGINES,
    FEWER_THREADS,
    PEERS,
    TOLERANCE,
    Contestant,
    Maker,
    check,
    truth,
)

HERE = pathlib.Path(__file__).parent
LIBRARIES = (
    "numpy", "numba", "llvmlite", "torch", "onnxruntime", "openvino",
    "ai-edge-litert", "mnn", "ncnn", "tract", "jax",
)  # fmt: skip
# Threads that spin while they wait for more work are asleep when the process has done next to
# nothing for so many seconds: some Linux counts what threads do every 10 ms. The wait has an end.
QUIET, AT_MOST = 0.012, 0.6
# This measures a first call, in a process and with a cache of compiled code of its own.
FIRST_CALL = """
import time, numpy, fastlstm
begin = time.perf_counter()
lstm = fastlstm.LSTM(32, 32, engine={engine!r})
lstm(numpy.zeros((10, 2, 32), "float32"))
print(time.perf_counter() - begin)
"""


def calls_of(contestant: Contestant, seconds: float) -> int:
    """Return how many calls take `seconds`, measured after a first call has warmed up."""
    with contestant.context():
        contestant.run()
        calls = 1
        while True:
            begin = time.perf_counter()
            for _ in range(calls):
                contestant.run()
            taken = time.perf_counter() - begin
            if taken >= seconds / 2:
                return max(1, round(calls * seconds / taken))
            calls *= 2


def settle() -> None:
    """Sleep until the threads of whoever ran before have gone to sleep, too."""
    end = time.perf_counter() + AT_MOST
    busy = QUIET
    while busy > QUIET / 10 and time.perf_counter() < end:
        begin = time.process_time()  # of all threads
        time.sleep(QUIET)
        busy = time.process_time() - begin


class Rounds(NamedTuple):
    """How many blocks there are, and how many seconds each takes.

    Who takes more than `beyond` times as long as the fastest has one block. That never holds for
    the first contestant.
    """

    blocks: int
    seconds_per_block: float
    beyond: float | None = None


def in_turn(contestants: dict[str, Contestant], rounds: Rounds) -> dict[str, list[float]]:
    """Return the seconds of a call in each block of each contestant, in turn: A B C, B C A, ..."""
    calls = {
        name: calls_of(contestant, rounds.seconds_per_block)
        for name, contestant in contestants.items()
    }
    times = {name: [] for name in contestants}
    names = list(contestants)
    gc.collect()
    gc.disable()
    try:
        for block in range(rounds.blocks):
            if block == 1 and rounds.beyond:
                longest = rounds.beyond * min(taken[0] for taken in times.values())
                names[1:] = [name for name in names[1:] if times[name][0] <= longest]
            first = block % len(names)
            for name in names[first:] + names[:first]:
                run = contestants[name].run
                if THREADS > 1:
                    settle()
                with contestants[name].context():
                    if calls[name] > 1:
                        run()  # brings the weights back into the caches
                    begin = time.perf_counter()
                    for _ in range(calls[name]):
                        run()
                    times[name].append((time.perf_counter() - begin) / calls[name])
    finally:
        gc.enable()
    return times


def timed(contestants: dict[str, Contestant], rounds: Rounds) -> dict[str, Any]:
    """Time contestants in turn; return each one's blocks and their median, in seconds."""
    times = in_turn(contestants, rounds)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    return {"blocks": times, "seconds": medians}


class Task(NamedTuple):
    """What contestants do: how they are made, with what numbers, and what the right result is.

    ``draw(case)`` returns all but the first argument of ``makers[name](case, ...)`` and
    ``truth(case, ...)``; ``check(name, case, contestant, truth)`` returns the greatest error.
    """

    makers: dict[str, Maker]
    draw: Callable[[Case], Sequence[Any]]
    truth: Callable[..., Any]
    check: Callable[[str, Case, Contestant, Any], float]


RUN = Task({**CONTESTANTS, **FIELD, **FEWER_THREADS}, Case.draw, truth, check)


def checked(
    task: Task, case: Case, names: Sequence[str], absent: dict[str, str]
) -> tuple[dict[str, Contestant], dict[str, float]]:
    """Make the contestants that take part in a case, and check them; return them and their errors.

    The names of missing libraries are added to `absent`, with the reason.
    """
    drawn = case, *task.draw(case)
    contestants = {}
    for name in names:
        try:
            made = task.makers[name](*drawn)
        except ImportError as error:
            absent[name] = str(error)
        else:
            if made:
                contestants[name] = made
    right = task.truth(*drawn)
    errors = {name: task.check(name, case, one, right) for name, one in contestants.items()}
    return contestants, errors


def measure(
    case: Case,
    names: Sequence[str],
    rounds: Rounds,
    limits: dict[str, dict[str, float]],
    absent: dict[str, str],
) -> dict[str, Any]:
    """Check all contestants, then time them; return the case's entry in the results.

    `checked` says what `absent` is.
    """
    contestants, errors = checked(RUN, case, names, absent)
    return {
        "name": case.name,
        "group": case.group,
        "steps": case.T,
        "batch": case.B,
        "dtype": case.dtype,
        "bar": case.bar,
        "peak_bar": case.peak_bar,
        **threads_bars(case, THREADS),
        "operations": case.operations,
        **limit.of(case, limits),
        "errors": errors,
        **timed(contestants, rounds),
    }


def first_calls(engine: str) -> dict[str, float]:
    """Return the seconds of an engine's first call, with nothing compiled and then with a cache."""
    command = [sys.executable, "-c", FIRST_CALL.format(engine=engine)]
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
        cold, cached = (
            float(
                subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
            )
            for _ in range(2)
        )
    return {"cold": cold, "cached": cached}


def commit() -> str | None:
    """Return the commit that is measured, with "+" if files differ from it.

    Outside git it is what the variable FASTLSTM_COMMIT says, or None.
    """

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", *args], cwd=HERE, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", ":/fastlstm", ":/benchmarks")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("FASTLSTM_COMMIT")


def versions() -> dict[str, str]:
    """Return the versions of the libraries that are there."""
    found = {"fastlstm": fastlstm.__version__}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def command_line(
    prog: str, description: str, cases: Iterable[str], engines: Iterable[str]
) -> argparse.ArgumentParser:
    """Return a parser of what `compare`, `train` and `options` have; `engines` are the default."""
    parser = argparse.ArgumentParser(
        prog=prog, description=description, parents=[COMMAND], allow_abbrev=False
    )
    option = parser.add_argument
    option("--cases", nargs="+", choices=cases, metavar="CASE", default=list(cases),
           help="by name, as 100,32,256,256 (T,B,I,H); all if not given")  # fmt: skip
    option("--engines", nargs="+", choices=ENGINES, default=list(engines),
           help="of fastlstm; bars are for the first that is there")  # fmt: skip
    option("--quick", action="store_true", help="3 short blocks: a look, no figures")
    folder = HERE / "results" / machine.slug(machine.describe())
    option("--out", type=pathlib.Path, default=folder, metavar="FOLDER",
           help=f"for tables, plots and JSON; default: results/{folder.name}")  # fmt: skip
    return parser


def rounds_of(args: argparse.Namespace, blocks: int) -> Rounds:
    """Return how contestants are timed: in so many blocks, if no option says otherwise."""
    if args.quick:
        return Rounds(3, 0.01)
    return Rounds(5, 0.02, 2.5) if getattr(args, "budget", None) else Rounds(blocks, 0.05)


def engines_there(asked: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return which of these engines are available, and why others are not."""
    absent = {n: e["reason"] for n, e in fastlstm.engine_info().items() if not e["available"]}
    engines = [name for name in asked if name not in absent]
    if not engines:
        sys.exit(f"No engine to measure: {absent}")
    return engines, absent


def of_fewer(engines: Sequence[str]) -> list[str]:
    """Return the contestants that are the first engine, with fewer threads than the others have."""
    return [report.with_threads(engines[0], number) for number in fewer(THREADS)]


def setting(engines: Sequence[str]) -> dict[str, Any]:
    """Return the first entries of the results: what is measured, when and where."""
    described = fastlstm.engine_info()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "threads": THREADS,
        "machine": machine.describe(),
        "versions": versions(),
        "instruction_sets": {name: described[name]["instruction_set"] for name in engines},
        "engines": engines,
        "fewer": fewer(THREADS),
    }


def main() -> None:
    """Measure the cases that the command line names, and write the results."""
    known = with_threads(THREADS)
    parser = command_line(COMMAND.prog, __doc__, known, ENGINES)
    scaling.add_budget(parser)
    args = parser.parse_args()
    if len(NUMBERS) > 1:
        scaling.run("compare", args, with_threads)
        return
    rounds = rounds_of(args, 9)
    engines, absent = engines_there(args.engines)

    limits, cases = machine.limits(0.02 if args.budget else 0.1), []
    names = [*engines, *of_fewer(engines), *scaling.racing([*PEERS, *FIELD], args, absent)]
    for number, name in enumerate(scaling.in_time(args.cases, TELLING, args.budget), 1):
        print(f"{number}/{len(args.cases)} {name}", file=sys.stderr, flush=True)
        cases.append(measure(known[name], names, rounds, limits, absent))
    c_program = []
    if THREADS == 1 and not args.budget:
        try:
            c_program = alone.measure()
        except FileNotFoundError as error:
            absent["step.c"] = str(error)
    results = {
        **setting(engines),
        **rounds._asdict(),
        "tolerance": TOLERANCE,
        "peers": [name for name in (*PEERS, *FIELD) if name not in absent],
        "absent": absent,
        "first_call": {name: first_calls(name) for name in engines},
        "limits": limits,
        "cases": cases,
        "left_out": scaling.left_out(args, cases),
        "c_program": c_program,
    }
    write(results, args.out)


def write(results: dict[str, Any], folder: pathlib.Path) -> None:
    """Write compare.json, .md and .png and roofline.png; with two threads, -2threads is added."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / report.file_name("compare", THREADS)
    path.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    text = report.markdown(results)
    path.with_suffix(".md").write_text(text)
    plots.ratios(
        report.ratios(results), results, path.with_suffix(".png"),
        "the best peer of each case", "best peer's time / ours (right of 1: ours is faster)",
    )  # fmt: skip
    plots.roofline(results, folder / f"{report.file_name('roofline', THREADS)}.png")
    print(text)


if __name__ == "__main__":
    main()
