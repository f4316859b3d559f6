"""Measure `fit` by several ranks of MPI: ``python -m benchmarks.mpi_fit --help``.

Before anything is timed, the losses and the parameters of all ranks are compared with those of one
process. Then one process and several take turns, each started by mpirun. The pieces of a step are
measured as well: steps of smaller batches, the sum of the gradients over shared memory and over TCP
of this machine, the exchange of three numbers. From these `predicted` computes what machines that
are not here would give.
"""

from __future__ import annotations

from . import processors  # first: it pins the threads of whatever is imported next

# isort: split
import argparse
import hashlib
import json
import math
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

import fastlstm
from fastlstm.training import MPI, Adam, MSELoss, fit

from . import machine

CASES = ("100,64,256,256", "100,64,256,256,2", "50,64,32,64")  # T,B,I,H and layers
PARTS = 8
STEPS = 3  # in an epoch, of which each gives one time
BAR = 1.7  # how many times faster two ranks must be than one
LINKS = {"shared memory": [], "TCP": ["--mca", "btl", "tcp,self"]}
BATCHES = (1, 2, 4, 8, 16, 32, 64)
NETWORKS = (10, 25)  # Gbit/s, of the machines that are not here
LATENCY = 30e-6  # seconds of a message between two of them, by TCP


def sizes(name: str) -> tuple[int, int, int, int, int]:
    """Return T, B, I, H and the number of layers of a case."""
    numbers = [int(number) for number in name.split(",")]
    return (*numbers, 1)[:5] if len(numbers) == 4 else tuple(numbers)  # type: ignore[return-value]


def train(
    name: str, parallel: MPI | None, epochs: int, batch: int | None = None
) -> tuple[Any, dict[str, list[float]]]:
    """Train the model of a case for so many epochs; return it and the history."""
    T, B, I, H, layers = sizes(name)
    B = batch or B
    rng = np.random.default_rng(0)
    x = rng.standard_normal((B * STEPS, T, I)).astype(np.float32)
    y = rng.standard_normal((B * STEPS, 1)).astype(np.float32)
    model = fastlstm.Sequential(
        fastlstm.LSTM(I, H, layers, seed=0), fastlstm.Last(), fastlstm.Linear(H, 1, seed=0)
    )
    optimizer = Adam(model)
    history = fit(model, (x, y), MSELoss(), optimizer, epochs, B, parallel=parallel, progress=False)
    return model, dict(history)


def digest(model: Any) -> str:
    """Return a hash of all parameters."""
    state = model.state_dict()
    return hashlib.sha256(b"".join(value.tobytes() for value in state.values())).hexdigest()


def child(task: dict[str, Any]) -> None:
    """Do what one rank of a run does; rank 0 prints what the ranks have found, as JSON."""
    from mpi4py import MPI as library

    comm = library.COMM_WORLD
    if "case" in task:
        alone = task["ranks"] == 1 and not task["parts"]
        parallel = None if alone else MPI(parts=task["parts"])
        model, history = train(task["case"], parallel, task["epochs"], task.get("batch"))
        found: Any = {
            "seconds": [seconds / STEPS for seconds in history["seconds"][1:]],
            "loss": history["loss"],
            "digest": digest(model),
        }
    else:
        found = pieces(comm, task["numbers"])
    everybody = comm.gather(found)
    if comm.rank == 0:
        print("RESULT " + json.dumps(everybody))


def pieces(comm: Any, numbers: int) -> dict[str, list[float]]:
    """Return the times of a sum of so many gradients, and of an exchange of three numbers."""
    gradients = np.ones(numbers, np.float32)
    sent, received = np.zeros(3), np.zeros((comm.size, 3))
    found: dict[str, list[float]] = {"sum": [], "exchange": []}
    for _ in range(100):
        for kind, call in (
            ("sum", lambda: comm.Allreduce(None, gradients)),
            ("exchange", lambda: comm.Allgather(sent, received)),
        ):
            comm.Barrier()
            began = time.perf_counter()
            call()
            found[kind].append(time.perf_counter() - began)
        gradients[...] = 1
    return found


def run(ranks: int, task: dict[str, Any], link: str = "shared memory") -> list[Any]:
    """Start a task on so many ranks, each on a processor of its own; return what each has found."""
    root = ["--allow-run-as-root"] if hasattr(os, "getuid") and os.getuid() == 0 else []
    command = ["mpirun", *root, *LINKS[link], "--bind-to", "core", "-n", str(ranks)]
    command += [sys.executable, "-m", "mpi4py", "-m", "benchmarks.mpi_fit", "--task"]
    done = subprocess.run(
        [*command, json.dumps({**task, "ranks": ranks})], capture_output=True, text=True
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        raise RuntimeError(f"{ranks} ranks have failed:\n{done.stdout}{done.stderr}")
    everybody: list[Any] = json.loads(lines[0].removeprefix("RESULT "))
    return everybody


def check(name: str, most: int) -> None:
    """Refuse to go on unless ranks train as one process does, and with parts to the same bits."""
    _, alone = train(name, None, 3)
    digests = set()
    for ranks in range(1, most + 1):
        for parts in (None, PARTS):
            everybody = run(ranks, {"case": name, "parts": parts, "epochs": 3})
            assert len({own["digest"] for own in everybody}) == 1, "ranks have other parameters"
            for own in everybody:  # float32: sums in another order, some steps of Adam
                np.testing.assert_allclose(own["loss"], alone["loss"], rtol=1e-4)
            if parts:
                digests.add(everybody[0]["digest"])
    assert len(digests) == 1, "with parts, numbers of ranks give other bits"


def measure(name: str, most: int, rounds: int, epochs: int) -> dict[str, Any]:
    """Measure the steps of a case on each number of ranks in turn, with parts and without."""
    turns = [(ranks, parts) for parts in (None, PARTS) for ranks in range(1, most + 1)]
    times: dict[str, list[float]] = {f"{ranks},{parts}": [] for ranks, parts in turns}
    for number in range(rounds):
        first = number % len(turns)
        for ranks, parts in turns[first:] + turns[:first]:
            everybody = run(ranks, {"case": name, "parts": parts, "epochs": epochs})
            times[f"{ranks},{parts}"] += everybody[0]["seconds"]
    return {"name": name, "times": times}


def summing(numbers: int, machines: int, gigabits: float, latency: float) -> float:
    """Return the seconds of a sum of float32 gradients, by halves and back (Rabenseifner)."""
    if machines == 1:
        return 0.0
    share = 2 * (machines - 1) / machines
    rounds = 2 * math.ceil(math.log2(machines))
    return share * 4 * numbers / (gigabits * 1e9 / 8) + rounds * latency


def predicted(
    step: dict[int, float], numbers: int, batch: int, machines: int, gigabits: float, latency: float
) -> float:
    """Return the seconds of a step by so many machines, of one rank each, in this model.

    ``t(n) = step(B / n) + sum(gradients, n) + exchange(n)``. `step` has the measured times of a
    step of one rank, with its feed from memory and its update, by the size of its batch. Between
    these they are interpolated; the largest counts in proportion beyond itself.
    """
    own = math.ceil(batch / machines)
    known = sorted(step)
    if own >= known[-1]:
        compute = step[known[-1]] * own / known[-1]
    else:
        compute = float(np.interp(own, known, [step[b] for b in known]))
    exchange = math.ceil(math.log2(machines)) * latency if machines > 1 else 0.0
    return compute + summing(numbers, machines, gigabits, latency) + exchange


def tables(results: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of all tables, in Markdown."""
    yield f"{results['cpu']}, {results['cores']} cores, {results['mpi']}; load {results['load']}"
    yield ""
    yield "| case | parts | ranks | ms a step, median (best) | times one rank, median (best) |"
    yield "| --- | --- | --- | --- | --- |"
    for case in results["cases"]:
        alone = case["times"]["1,None"]
        for key, times in case["times"].items():
            ranks, parts = key.split(",")
            middle, best = statistics.median(times), min(times)
            gain = f"{statistics.median(alone) / middle:.2f} ({min(alone) / best:.2f})"
            yield (
                f"| {case['name']} | {parts.replace('None', '-')} | {ranks} | "
                f"{1e3 * middle:.1f} ({1e3 * best:.1f}) | {gain} |"
            )
    yield ""
    yield "| between two ranks, by | gradients, MB | sum, ms: median (best) | exchange, us |"
    yield "| --- | --- | --- | --- |"
    for piece in results["pieces"]:
        total, exchange = piece["sum"], piece["exchange"]
        yield (
            f"| {piece['link']} | {4e-6 * piece['numbers']:.1f} | "
            f"{1e3 * statistics.median(total):.2f} ({1e3 * min(total):.2f}) | "
            f"{1e6 * statistics.median(exchange):.0f} ({1e6 * min(exchange):.0f}) |"
        )
    yield ""
    step = {int(batch): min(times) for batch, times in results["step"].items()}
    yield "| sequences of 100,B,256,256 on one rank | " + " | ".join(map(str, step)) + " |"
    yield "| --- |" + " --- |" * len(step)
    yield "| ms a step, best | " + " | ".join(f"{1e3 * t:.1f}" for t in step.values()) + " |"
    yield ""
    yield from forecast(step, results["numbers"])


def forecast(step: dict[int, float], numbers: int) -> Iterator[str]:
    """Yield the table of what many machines would give, and what they would read meanwhile."""
    T, _, I, _, _ = sizes(CASES[0])
    works = [("512 in all", 512, False), ("64 a machine", 64, True)]
    names = [f"batch of {name}, {gigabits} Gbit/s" for name, _, _ in works for gigabits in NETWORKS]
    yield "| machines | " + " | ".join([*names, "GB/s read by all, 64 a machine"]) + " |"
    yield "| --- |" + " --- |" * (len(names) + 1)
    for machines in (1, 2, 4, 8, 16, 32, 64, 100):
        cells = []
        for _, batch, grows in works:
            whole = batch * machines if grows else batch
            for gigabits in NETWORKS:
                one = predicted(step, numbers, batch, 1, gigabits, LATENCY)
                many = predicted(step, numbers, whole, machines, gigabits, LATENCY)
                gain = whole / many / (batch / one)
                cells.append(f"{1e3 * many:.1f} ms, {gain:.1f} times ({gain / machines:.0%})")
        cells.append(f"{whole * T * I * 4 / many / 1e9:.2f}")
        yield f"| {machines} | " + " | ".join(cells) + " |"


def main() -> None:
    """Measure what the command line names, and write the results."""
    parser = argparse.ArgumentParser("python -m benchmarks.mpi_fit", description=__doc__)
    parser.add_argument("--cases", nargs="+", default=CASES, help="T,B,I,H or T,B,I,H,layers")
    parser.add_argument("--ranks", type=int, default=processors(), help="up to so many")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--epochs", type=int, default=5, help="in each round, the first not counted"
    )
    parser.add_argument("--out", type=pathlib.Path, help="a folder; results/<machine> if not given")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task:
        child(json.loads(args.task))
        return
    if not shutil.which("mpirun"):
        parser.error("needs mpirun, such as that of Debian's openmpi-bin")
    # this process starts no MPI itself: mpirun would take it for a rank
    version = subprocess.run(["mpirun", "--version"], capture_output=True, text=True, check=True)
    described = machine.describe()
    _, _, I, H, _ = sizes(CASES[0])
    results: dict[str, Any] = {
        **described,
        "mpi": version.stdout.partition("\n")[0],
        "load": [os.getloadavg()[0]],
        "cases": [],
        "pieces": [],
        "step": {},
        "numbers": 4 * H * (I + H + 2) + H + 1,
    }
    for name in args.cases:
        print(name, file=sys.stderr, flush=True)
        check(name, args.ranks)
        results["cases"].append(measure(name, args.ranks, args.rounds, args.epochs))
    for link in LINKS:
        for layers in (1, 2):
            numbers = layers * results["numbers"]
            [found, *_] = run(2, {"numbers": numbers}, link)
            results["pieces"].append({"link": link, "numbers": numbers, **found})
    for batch in BATCHES:
        task = {"case": CASES[0], "parts": None, "epochs": args.epochs + 2, "batch": batch}
        results["step"][batch] = run(1, task)[0]["seconds"]
    results["load"].append(os.getloadavg()[0])
    folder = args.out or pathlib.Path(__file__).parent / "results" / machine.slug(described)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mpi_fit.json").write_text(json.dumps(results, indent=1) + "\n")
    text = "\n".join(["# `fit` by several ranks of MPI", "", *tables(results), ""])
    (folder / "mpi_fit.md").write_text(text)
    print(text)
    for case in results["cases"]:
        if case["name"] == CASES[0] and args.ranks > 1:
            gain = min(case["times"]["1,None"]) / min(case["times"]["2,None"])
            print(f"bar: two ranks {BAR} times one; best of all blocks {gain:.2f}")


if __name__ == "__main__":
    main()
