"""Measure Python threads that call one LSTM at once: ``python -m benchmarks.callers --help``.

Each caller has a batch of its own. With one thread each, they must not disturb each other; with all
processors for each, they must share these fairly.
"""

from __future__ import annotations

from . import THREADS, processors  # first: it pins the threads of whatever is imported next

# isort: split
import concurrent.futures
import contextlib
import functools
import json
import pathlib
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import report
from .cases import CASES, Case
from .compare import Rounds, command_line, engines_there, setting, settle
from .peers import TOLERANCE, Contestant, fastlstm_layer, torch_layer, truth


class Part(NamedTuple):
    """What is measured: cases, numbers of callers, and the most threads that a call may take.

    `bar` is the least throughput, as a share of so many times that of one caller.
    """

    heading: str
    cases: tuple[str, ...]
    callers: tuple[int, ...]
    threads: int
    bar: float | None


ALONE = Part(
    "One thread each",
    ("100,1,128,128", "100,1,256,256", "100,8,128,128"),
    tuple(n for n in (1, 2, 4, 8, 16) if n <= processors()),
    threads=1,
    bar=0.75,
)
SHARING = Part(
    "All processors for each",
    ("100,1,256,256", "100,32,256,256"),
    (1, 2, 4),
    threads=processors(),
    bar=None,
)
NAMES = tuple(dict.fromkeys(ALONE.cases + SHARING.cases))


@contextlib.contextmanager
def _inference(torch: Any, threads: int) -> Iterator[None]:
    """Prepare a caller's thread: torch has settings for each."""
    torch.set_num_threads(threads)
    with torch.inference_mode():
        yield


def contestants(engine: str, case: Case, callers: int, threads: int) -> dict[str, list[Contestant]]:
    """Return what each caller does: with our layer, and with torch's if it is there.

    All call the same layer, each with an x of its own.
    """
    weights, _ = case.draw()
    rng = np.random.default_rng(1)
    xs = rng.standard_normal((callers, case.T, case.B, case.I)).astype(case.dtype)
    ours = fastlstm_layer(engine, case, weights, threads)
    found = {engine: [Contestant(functools.partial(ours, x), lambda got: got[0]) for x in xs]}
    with contextlib.suppress(ImportError):
        torch, theirs = torch_layer(case, weights)
        context = functools.partial(_inference, torch, threads)
        found["torch"] = [
            Contestant(functools.partial(theirs, x), lambda got: got[0].numpy(), context)
            for x in map(torch.from_numpy, xs)
        ]
    for k, x in enumerate(xs):
        right = truth(case, weights, x)[0]
        for name, of_callers in found.items():
            of_callers[k] = _checked(name, case, of_callers[k], right)
    return found


def _checked(name: str, case: Case, one: Contestant, right: np.ndarray) -> Contestant:
    """Let `read` of a contestant compare the outputs with the right ones."""

    def read(got: Any) -> None:
        error = float(np.abs(one.read(got) - right).max())
        assert error <= TOLERANCE[case.dtype], (
            f"{name} is wrong in case {case.name}, called by several threads: it differs from the "
            f"truth by {error:.1e}, expected at most {TOLERANCE[case.dtype]:.0e}"
        )

    return one._replace(read=read)


def rates(callers: Sequence[Contestant], seconds: float) -> list[float]:
    """Return how many calls a second each caller makes while all of them call; check the last.

    Calls count after half of this time, in which the system finds each caller a processor.
    """
    ready = threading.Barrier(len(callers))

    def caller(one: Contestant) -> float:
        with one.context():
            one.run()
            ready.wait(timeout=60)
            _calls(one, seconds / 2)
            rate, got = _calls(one, seconds)
            one.read(got)
        return rate

    with concurrent.futures.ThreadPoolExecutor(len(callers)) as pool:
        return list(pool.map(caller, callers))


def _calls(one: Contestant, seconds: float) -> tuple[float, Any]:
    """Call for so long; return the calls a second, and the last result."""
    calls, taken, begin = 0, 0.0, time.perf_counter()
    while taken < seconds:
        got = one.run()
        calls += 1
        taken = time.perf_counter() - begin
    return calls / taken, got


def measure(engine: str, case: Case, part: Part, rounds: Rounds) -> dict[str, Any]:
    """Measure all numbers of callers in turn; return the case's entry in the results."""
    found = contestants(engine, case, max(part.callers), part.threads)
    turns = [(name, number) for name in found for number in part.callers]
    blocks: dict[str, dict[int, list[list[float]]]] = {
        name: {number: [] for number in part.callers} for name in found
    }
    for block in range(rounds.blocks):
        first = block % len(turns)
        for name, number in turns[first:] + turns[:first]:
            settle()
            taken = rates(found[name][:number], rounds.seconds_per_block)
            blocks[name][number].append(taken)
    return {
        "name": case.name,
        "group": part.heading,
        "threads": part.threads,
        "bar": part.bar,
        "rates": blocks,
    }


def main() -> None:
    """Measure what the command line names, and write the results."""
    parser = command_line("python -m benchmarks.callers", __doc__, NAMES, ("native",))
    args = parser.parse_args()
    if THREADS > 1:
        parser.error("each part has its own number of threads")
    rounds = Rounds(3, 0.1) if args.quick else Rounds(7, 0.2)
    engines, absent = engines_there(args.engines)
    results = {
        **setting(engines[:1]),
        **rounds._asdict(),
        "processors": processors(),
        "absent": absent,
        "cases": [],
    }
    for part in (ALONE, SHARING):
        for name in (name for name in part.cases if name in args.cases):
            print(f"{part.heading}: {name}", file=sys.stderr, flush=True)
            results["cases"].append(measure(engines[0], CASES[name], part, rounds))
    write(results, args.out)


def write(results: dict[str, Any], folder: pathlib.Path) -> None:
    """Write callers.json and .md."""
    folder.mkdir(parents=True, exist_ok=True)
    written = json.dumps(results, indent=1)
    (folder / "callers.json").write_text(written + "\n")
    text = report.callers(json.loads(written))  # in which all keys are strings
    (folder / "callers.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
