"""Measure pools of live streams: ``python -m benchmarks.pools --help``.

Steps of a thousand streams, all that there are or chosen from ten thousand, against one batch,
single streams, torch and onnxruntime, which gather and scatter states themselves; and a load of ten
thousand streams whose steps come at random times: how long each waits for its result. All of it on
one core. README.md has the protocol.
"""

from __future__ import annotations

from . import THREADS, processors  # first: it pins the threads of whatever is imported next

# isort: split
import argparse
import asyncio
import contextlib
import functools
import gc
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

import fastlstm

from . import report
from .cases import Case
from .compare import Rounds, command_line, engines_there, rounds_of, setting, timed
from .peers import TOLERANCE, Contestant, fastlstm_layer, onnx_model, torch_layer

OURS, PLAIN, SINGLE = "native", "one batch", "single streams"
SIZE, READY = 128, 1000  # I and H; how many streams have a step at once
GROUPS = {f"{READY} of {READY}": READY, f"{READY} of 10000": 10_000}
# What the pool's time must be against: the contestant, of which group, and the least ratio of its
# time to ours; "peers" is the best of them.
BARS = [
    ("1000 of 1000", PLAIN, 0.9),
    ("1000 of 10000", PLAIN, 0.8),
    ("1000 of 1000", SINGLE, 4),
    ("1000 of 10000", SINGLE, 4),
    ("1000 of 1000", "peers", 2),
    ("1000 of 10000", "peers", 2),
]
CHECKED = 4  # steps of each contestant whose results are checked
# The load test: streams, shares of the measured capacity, how often, and what a batch waits for.
STREAMS, LOADS, LOAD_BLOCKS, MAX_WAIT = 10_000, (0.5, 0.8, 0.95), 5, 0.001
TASKS = 200  # how many are there at once while the capacity of `submit` is measured
CHANGES = 500  # streams that leave, and as many that join, each second
FRAMES = 62.5  # steps a second of a stream with frames of 16 ms


class Streams(Protocol):
    """Streams that are numbered from 0; each contestant keeps their states in its own way."""

    def step(self, which: np.ndarray, x: np.ndarray) -> Any:
        """Advance these streams, of which none comes twice, by x (n, I); return y (n, H)."""

    def begin(self, number: int) -> None:
        """Let a stream leave, and another one join in its place."""


# ---- contestants --------------------------------------------------------------------------------


class OfPool:
    """Our pool, in which each number stands for the sid of a stream."""

    def __init__(self, lstm: fastlstm.LSTM, streams: int, **options: Any) -> None:
        self.pool = lstm.pool(streams, **options)
        self.sids = np.array([self.pool.open() for _ in range(streams)])
        self.out = np.empty((streams, lstm.hidden_size), np.float32)

    def step(self, which: np.ndarray, x: np.ndarray) -> np.ndarray:
        return self.pool.step(self.sids[which], x, self.out[: len(which)])

    def begin(self, number: int) -> None:
        self.pool.close(self.sids[number])
        self.sids[number] = self.pool.open()


class OfStreams:
    """A `Stream` for each."""

    def __init__(self, lstm: fastlstm.LSTM, streams: int) -> None:
        self.streams = [lstm.stream() for _ in range(streams)]
        self.out = np.empty((streams, 1, lstm.hidden_size), np.float32)

    def step(self, which: np.ndarray, x: np.ndarray) -> np.ndarray:
        streams, out = self.streams, self.out[: len(which)]
        for number, row, y in zip(which.tolist(), x[:, None], out, strict=True):
            streams[number].step(row, y)
        return out[:, 0]

    def begin(self, number: int) -> None:
        self.streams[number].reset()


class OfArrays:
    """States as rows of arrays, which are gathered and scattered by NumPy around `advance`.

    ``advance(x, h, c)`` returns y, h, c of a step.
    """

    def __init__(self, advance: Callable[..., Any], streams: int, hidden: int, dtype: Any) -> None:
        self.advance = advance
        self.h, self.c = (np.zeros((streams, hidden), dtype) for _ in "hc")

    def step(self, which: np.ndarray, x: np.ndarray) -> np.ndarray:
        y, self.h[which], self.c[which] = self.advance(x, self.h[which], self.c[which])
        return y

    def begin(self, number: int) -> None:
        self.h[number] = self.c[number] = 0


class OfTorch:
    """torch's layer, with states in tensors, gathered by index_select and put back by index_copy_.

    A cell, torch.nn.LSTMCell, takes and gives states without the axis of layers.
    """

    def __init__(self, torch: Any, layer: Any, streams: int, hidden: int) -> None:
        self.torch, self.layer, self.is_cell = torch, layer, isinstance(layer, torch.nn.LSTMCell)
        self.h, self.c = (torch.zeros(streams, hidden) for _ in "hc")

    def step(self, which: np.ndarray, x: np.ndarray) -> np.ndarray:
        index, x = self.torch.from_numpy(which), self.torch.from_numpy(x)
        h, c = self.h.index_select(0, index), self.c.index_select(0, index)
        if self.is_cell:
            y, c = self.layer(x, (h, c))
            h = y
        else:
            y, (h, c) = self.layer(x[None], (h[None], c[None]))
            y, h, c = y[0], h[0], c[0]
        self.h.index_copy_(0, index, h)
        self.c.index_copy_(0, index, c)
        return y.numpy()

    def begin(self, number: int) -> None:
        self.h[number] = self.c[number] = 0


class OneBatch:
    """A stream of a batch, whose rows all advance: what a pool is measured against."""

    def __init__(self, lstm: fastlstm.LSTM, rows: int) -> None:
        self.stream, self.out = lstm.stream(rows), np.empty((rows, lstm.hidden_size), np.float32)

    def step(self, which: np.ndarray, x: np.ndarray) -> np.ndarray:
        return self.stream.step(x, self.out)


def _onnxruntime(case: Case, weights: dict[str, np.ndarray]) -> Callable[..., Any]:
    """Return a step of onnxruntime with states in and out, of any number of rows."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = THREADS
    model = onnx_model(case._replace(B="rows"), weights, states=True)  # type: ignore[arg-type]
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def advance(x: np.ndarray, h: np.ndarray, c: np.ndarray) -> Any:
        y, h, c = session.run(None, {"x": x[None], "h": h[None], "c": c[None]})
        return y[0, 0], h[0], c[0]

    return advance


def makers(case: Case, absent: dict[str, str]) -> dict[str, Callable[[int], Streams]]:
    """Return what makes the contestants with so many streams; `absent` gets what is missing."""
    weights, _ = case.draw()
    lstm = fastlstm_layer(OURS, case, weights, THREADS)
    found: dict[str, Callable[[int], Streams]] = {
        OURS: functools.partial(OfPool, lstm),
        SINGLE: functools.partial(OfStreams, lstm),
    }
    try:
        torch, layer = torch_layer(case, weights)
        cell = torch.nn.LSTMCell(case.I, case.H)
        cell.load_state_dict({n.removesuffix("_l0"): torch.tensor(w) for n, w in weights.items()})
        for name, of in (("torch", layer), ("torch LSTMCell", cell)):
            found[name] = functools.partial(_of_torch, torch, of, case.H)
    except ImportError as error:
        absent["torch"] = str(error)
    try:
        advance = _onnxruntime(case, weights)
        found["onnxruntime"] = lambda streams: OfArrays(advance, streams, case.H, np.float32)
    except ImportError as error:
        absent["onnxruntime"] = str(error)
    return found


def _of_torch(torch: Any, layer: Any, hidden: int, streams: int) -> OfTorch:
    return OfTorch(torch, layer, streams, hidden)


def truth(case: Case, streams: int) -> OfArrays:
    """Return streams whose steps are computed by the equations in float64."""
    weights = {name: value.astype(np.float64) for name, value in case.draw()[0].items()}
    lstm = fastlstm_layer("numpy", case._replace(dtype="float64"), weights, 1)

    def advance(x: np.ndarray, h: np.ndarray, c: np.ndarray) -> Any:
        y, (h, c) = lstm(x[None].astype(np.float64), (h[None], c[None]))
        return y[0], h[0], c[0]

    return OfArrays(advance, streams, case.H, np.float64)


@contextlib.contextmanager
def inference(name: str) -> Iterator[None]:
    """Do what a contestant needs around its calls."""
    if name.startswith("torch"):
        import torch

        with torch.inference_mode():
            yield
    else:
        yield


def check(name: str, of: Streams, right: Streams, streams: int, ready: int, features: int) -> float:
    """Return the greatest error of some steps; AssertionError if it is too great.

    Between them streams leave and join.
    """
    rng, error = np.random.default_rng(2), 0.0
    with inference(name):
        for _ in range(CHECKED):
            which = rng.permutation(streams)[:ready]
            x = rng.standard_normal((ready, features), dtype=np.float32)
            error = max(error, float(np.abs(of.step(which, x) - right.step(which, x)).max()))
            for number in rng.permutation(streams)[: ready // 4].tolist():
                of.begin(number)
                right.begin(number)
    assert error <= TOLERANCE["float32"], (
        f"{name} is wrong with {ready} of {streams} streams: it differs from the truth by "
        f"{error:.1e}, expected at most {TOLERANCE['float32']:.0e}"
    )
    return error


# ---- one call after the other -------------------------------------------------------------------


def measure(
    case: Case, group: str, streams: int, rounds: Rounds, absent: dict[str, str]
) -> dict[str, Any]:
    """Check all contestants of a group and time them in turn; return the entry in the results."""
    rng = np.random.default_rng(1)
    ready = case.B
    chosen = [rng.permutation(streams)[:ready] for _ in range(16)]
    xs = rng.standard_normal((len(chosen), ready, case.I), dtype=np.float32)
    errors, contestants = {}, {}
    for name, make in makers(case, absent).items():
        of = make(streams)
        errors[name] = check(name, of, truth(case, streams), streams, ready, case.I)
        contestants[name] = _contestant(name, of, chosen, xs)
    lstm = fastlstm_layer(OURS, case, case.draw()[0], THREADS)
    contestants[PLAIN] = _contestant(PLAIN, OneBatch(lstm, ready), chosen, xs)
    return {"name": group, "group": "steps", "errors": errors, **timed(contestants, rounds)}


def _contestant(name: str, of: Streams, chosen: list[np.ndarray], xs: np.ndarray) -> Contestant:
    """Return a call of so many steps, each time of other streams."""
    turn = 0

    def run() -> Any:
        nonlocal turn
        turn = (turn + 1) % len(chosen)
        return of.step(chosen[turn], xs[turn])

    return Contestant(run, None, functools.partial(inference, name))


# ---- the load test ------------------------------------------------------------------------------


class Load:
    """Steps that come at random times: `times`, in seconds from the beginning, and `which` streams.

    Each stream's steps are a Poisson process with the same rate; so are all of them together.
    `bank` has their input. `CHANGES` streams leave each second, and as many join.
    """

    def __init__(self, streams: int, rate: float, seconds: float, features: int) -> None:
        rng = np.random.default_rng(3)
        count = int(streams * rate * seconds)
        self.streams, self.rate = streams, rate
        self.times = np.cumsum(rng.exponential(1 / (streams * rate), count))
        self.which = rng.integers(0, streams, count)
        self.bank = rng.standard_normal((8192, features), dtype=np.float32)
        changes = int(CHANGES * seconds)
        self.changes = np.cumsum(rng.exponential(1 / CHANGES, changes))
        self.changed = rng.integers(0, streams, changes)


class Behind(Exception):
    """Whoever is loaded cannot keep up."""


def through_loop(of: Streams, load: Load, max_batch: int, patience: float = 1) -> np.ndarray:
    """Advance streams as their steps come, in one thread; return how long each step took.

    A batch begins when its oldest step has waited for MAX_WAIT seconds, or `max_batch` steps are
    there. Of two steps of one stream the second has to wait for the next batch. `Behind` is raised
    once a step has waited for longer than `patience` seconds.
    """
    times, which, bank = load.times, load.which, load.bank
    latency, mark = np.empty(len(times)), np.zeros(load.streams, np.int64)
    clock, waiting, come, changed = time.perf_counter, np.empty(0, np.int64), 0, 0
    begin = clock()
    while come < len(times) or len(waiting):
        now = clock() - begin
        there = int(np.searchsorted(times, now))
        if there > come:
            waiting = np.concatenate([waiting, np.arange(come, there)])
            come = there
        if not len(waiting):
            _sleep(times[come] + MAX_WAIT / 2 - now)  # it would wait for others anyway
            continue
        oldest = times[waiting[0]]
        if len(waiting) < max_batch and now < oldest + MAX_WAIT:
            _sleep(oldest + MAX_WAIT - now)
            continue
        if now - oldest > patience:
            raise Behind
        while changed < len(load.changes) and load.changes[changed] <= now:
            of.begin(int(load.changed[changed]))
            changed += 1
        steps, streams = waiting[:max_batch], which[waiting[:max_batch]]
        places = np.arange(len(steps))
        mark[streams[::-1]] = places[::-1]
        first = mark[streams] == places
        if first.all():
            waiting = waiting[len(steps) :]
        else:
            waiting = np.concatenate([steps[~first], waiting[len(steps) :]])
            steps, streams = steps[first], streams[first]
        start = int(steps[0]) % (len(bank) - max_batch)
        of.step(streams, bank[start : start + len(streams)])
        latency[steps] = clock() - begin - times[steps]
    return latency


def _sleep(seconds: float) -> None:
    """Sleep so long, or go on at once where the system could not wake up in time."""
    if seconds > 1e-4:
        time.sleep(seconds - 5e-5)


def capacity_of_loop(of: Streams, seconds: float, max_batch: int) -> float:
    """Return how many steps a second are computed where more are always there."""
    load = Load(STREAMS, 1, 50 * max_batch / STREAMS, SIZE)
    load.times[:], load.changes = 0, np.empty(0)
    done, begin = 0, time.perf_counter()
    while (taken := time.perf_counter() - begin) < seconds:
        through_loop(of, load, max_batch, patience=np.inf)
        done += len(load.times)
    return done / taken


async def through_submit(
    of: OfPool, load: Load, most: float = np.inf, patience: float = 1
) -> np.ndarray:
    """Advance streams as their steps come, each by a task that awaits `submit`.

    There are `most` tasks at a time. `patience` is as above.
    """
    times, which, bank = load.times.tolist(), load.which.tolist(), load.bank
    latency, clock, changed = np.empty(len(times)), time.perf_counter, 0
    tasks: set[asyncio.Task[None]] = set()
    sids, submit = of.sids.tolist(), of.pool.submit
    begin = clock()

    async def step(number: int) -> None:
        while True:
            sid = sids[which[number]]
            try:
                await submit(sid, bank[number % len(bank)])
                break
            except ValueError:  # it has left, and another one has joined in its place
                if sid in of.pool:
                    raise
        latency[number] = clock() - begin - times[number]

    number = 0
    while number < len(times):
        now = clock() - begin
        if now - times[number] > patience:
            for task in tasks:
                task.cancel()
            raise Behind
        while changed < len(load.changes) and load.changes[changed] <= now:
            place = int(load.changed[changed])
            with contextlib.suppress(RuntimeError):  # it is being advanced
                of.begin(place)
                sids[place] = int(of.sids[place])
            changed += 1
        while number < len(times) and times[number] <= now and len(tasks) < most:
            task = asyncio.ensure_future(step(number))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
        await asyncio.sleep(max(0.0, min(times[min(number, len(times) - 1)] - now, 0.001)))
    await asyncio.gather(*tasks)
    return latency


def capacity_of_submit(of: OfPool, seconds: float, max_batch: int) -> float:
    """Return the same where a task awaits each step, and some hundred are always there."""
    load = Load(STREAMS, 1, 20 * max_batch / STREAMS, SIZE)
    load.times[:], load.changes = 0, np.empty(0)
    done, begin = 0, time.perf_counter()
    while (taken := time.perf_counter() - begin) < seconds:
        asyncio.run(through_submit(of, load, most=TASKS, patience=np.inf))
        done += len(load.times)
    return done / taken


class Job(NamedTuple):
    """A load for a contestant: `share` of its capacity; of ours, if that is None."""

    name: str
    make: Callable[[], Any]
    through: Callable[[Any, Load], np.ndarray]
    capacity: float
    share: float | None
    streams: int
    rate: float


def percentiles(job: Job, seconds: float, features: int) -> list[float] | None:
    """Return p50, p99 and p99.9 of the latencies under a load; None if it was too much."""
    load = Load(job.streams, job.rate, seconds, features)
    try:
        with inference(job.name):
            latency = job.through(job.make(), load)
    except Behind:
        return None
    return np.percentile(latency[len(latency) // 10 :], [50, 99, 99.9]).tolist()  # in full swing


def turns(calls: list[Callable[[], Any]], blocks: int) -> list[list[Any]]:
    """Return what calls return, which are made in turn, so many times."""
    found: list[list[Any]] = [[] for _ in calls]
    for block in range(blocks):
        first = block * len(calls) // blocks
        for number in [*range(first, len(calls)), *range(first)]:
            found[number].append(calls[number]())
    return found


def capacities(
    made: dict[str, Callable[[int], Streams]], blocks: int, seconds: float
) -> dict[str, float]:
    """Return the medians of the contestants' capacities in turn."""

    def measured(name: str) -> float:
        with inference(name):
            return capacity_of_loop(made[name](STREAMS), seconds, READY)

    found = turns([functools.partial(measured, name) for name in made], blocks)
    return {name: float(np.median(of_blocks)) for name, of_blocks in zip(made, found, strict=True)}


def under_load(jobs: list[Job], blocks: int, seconds: float, features: int) -> list[dict[str, Any]]:
    """Put all loads on in turn, several times; return the medians of what each round has shown."""
    found = turns([functools.partial(percentiles, job, seconds, features) for job in jobs], blocks)
    entries = []
    for job, of_blocks in zip(jobs, found, strict=True):
        behind = [np.inf] * 3  # in a block that was too much; if most were, so is the load
        medians = np.median([shown or behind for shown in of_blocks], axis=0).tolist()
        latency = None
        if np.isfinite(medians).all():
            latency = dict(zip(("p50", "p99", "p99.9"), medians, strict=True))
        entry = {"contestant": job.name, "capacity": job.capacity, "share": job.share}
        entry |= {"streams": job.streams, "rate": job.rate, "latency": latency}
        entries.append({**entry, "blocks": of_blocks})
    return entries


def loads(case: Case, blocks: int, seconds: float, absent: dict[str, str]) -> list[dict[str, Any]]:
    """Measure the capacity of each contestant, and how it does under shares of it.

    Peers also get the load that is half of what ours can do.
    """
    made, jobs = makers(case, absent), []
    del made[SINGLE]
    loop = functools.partial(through_loop, max_batch=READY)
    capacity = capacities(made, blocks, seconds / 2)
    ours = capacity[OURS]
    for name, make in made.items():
        new, most = functools.partial(make, STREAMS), capacity[name]
        for share in LOADS:
            jobs.append(Job(name, new, loop, most, share, STREAMS, share * most / STREAMS))
        if name != OURS:
            jobs.append(Job(name, new, loop, most, None, STREAMS, LOADS[0] * ours / STREAMS))
    for share in LOADS:
        frames = int(share * ours / FRAMES)
        new = functools.partial(made[OURS], frames)
        jobs.append(Job(OURS, new, loop, ours, share, frames, FRAMES))
    entries = under_load(jobs, blocks, seconds, case.I)

    gc.collect()
    gc.freeze()  # as servers do once they have begun: asyncio makes objects all the time
    new = functools.partial(made[OURS], STREAMS, max_wait=MAX_WAIT, max_batch=READY)
    of_blocks = [capacity_of_submit(new(), seconds / 2, READY) for _ in range(blocks)]
    most = float(np.median(of_blocks))

    def submits(of: OfPool, load: Load) -> np.ndarray:
        return asyncio.run(through_submit(of, load))

    name = f"{OURS}, submit"
    jobs = [Job(name, new, submits, most, p, STREAMS, p * most / STREAMS) for p in LOADS]
    return entries + under_load(jobs, blocks, seconds, case.I)


# ---- the command --------------------------------------------------------------------------------


def on_one_core() -> None:
    """Let the process, with all its threads, run on one core: the last that it may use."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def arguments() -> argparse.ArgumentParser:
    parser = command_line("python -m benchmarks.pools", __doc__, [*GROUPS, "load"], [OURS])
    parser.add_argument(
        "--seconds", type=float, default=1.5, help="of each load, in each block; default: 1.5"
    )
    return parser


def main() -> None:
    """Measure what the command line names, and write the results."""
    parser = arguments()
    args = parser.parse_args()
    if THREADS > 1:
        parser.error("the bars are for one core")
    engines, absent = engines_there([OURS])
    described = {**setting(engines), "processors": processors()}
    on_one_core()
    rounds, case = rounds_of(args, 9), Case(1, READY, SIZE, SIZE)
    cases = []
    for name in (name for name in GROUPS if name in args.cases):
        print(name, file=sys.stderr, flush=True)
        cases.append(measure(case, name, GROUPS[name], rounds, absent))
    results = {
        **described,
        **rounds._asdict(),
        "peers": ["torch", "torch LSTMCell", "onnxruntime"],
        "absent": absent,
        "bars": BARS,
        "cases": cases,
        "max_wait": MAX_WAIT,
        "max_batch": READY,
        "changes": CHANGES,
        "load_blocks": LOAD_BLOCKS,
        "loads": [],
    }
    if "load" in args.cases:
        print("load", file=sys.stderr, flush=True)
        results["loads"] = loads(case, LOAD_BLOCKS, args.seconds, absent)
    write(results, args.out)


def write(results: dict[str, Any], folder: pathlib.Path) -> None:
    """Write pools.json and .md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pools.json").write_text(json.dumps(results, indent=1) + "\n")
    text = report.pools(results)
    (folder / "pools.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
