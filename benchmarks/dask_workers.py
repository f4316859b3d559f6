"""Measure one worker of Dask and two: ``python -m benchmarks.dask_workers --help``.

Each worker is a process with one thread, and computes the same array of samples, in blocks that it
makes itself. The result is compared with `fastlstm.predict` in this process, bit for bit.
Their malloc keeps memory, as docs/howto/clusters.md advises.
"""

from __future__ import annotations

from . import THREADS, processors  # first: it pins the threads of whatever is imported next

# isort: split
import contextlib
import json
import pathlib
import sys
import time
from typing import Any

import numpy as np

import fastlstm

from . import report
from .compare import command_line, engines_there, setting, settle

BAR = 1.8  # two workers, as times the speed of one
KEEPS = {"MALLOC_MMAP_THRESHOLD_": 32 << 20, "MALLOC_TRIM_THRESHOLD_": 128 << 20}
CASES = {  # T,B,I,H, where B are the samples of a block: how many samples there are
    "100,1024,64,128": 32768,
    "20,32768,8,32": 1048576,
}


def program(case: str) -> tuple[fastlstm.Sequential, Any]:
    """Return a model of a case, and its samples as an array of Dask."""
    import dask.array as da

    steps, block, features, units = map(int, case.split(","))
    model = fastlstm.Sequential(
        fastlstm.LSTM(features, units, batch_first=True, seed=0),
        fastlstm.Last(batch_first=True),
        fastlstm.Linear(units, 8, seed=0),
    )
    shape = CASES[case], steps, features
    return model, da.random.default_rng(0).random(shape, "f4", chunks=(block, -1, -1))


def measure(case: str, clients: dict[int, Any], blocks: int) -> dict[str, Any]:
    """Measure a case with each number of workers in turn, and in this process without Dask."""
    import fastlstm.dask

    model, x = program(case)
    here = x.compute(scheduler="synchronous")
    for layer in (model[0], model[2]):
        layer.num_threads = 1
    expected = fastlstm.predict(model, here)
    seconds: dict[str, list[float]] = {str(name): [] for name in ("here", *clients)}
    turns = list(seconds)
    for block in range(blocks):
        for name in turns[block % len(turns) :] + turns[: block % len(turns)]:
            settle()
            begin = time.perf_counter()
            if name == "here":
                got = fastlstm.predict(model, here)
            else:
                y = fastlstm.dask.predict(model, x)
                got = clients[int(name)].compute(y).result()
            seconds[name].append(time.perf_counter() - begin)
            if not np.array_equal(got, expected):
                raise SystemExit(f"{case}: {name} has other bits than fastlstm.predict")
    return {"name": case, "samples": CASES[case], "seconds": seconds}


def main() -> None:
    """Measure what the command line names, and write the results."""
    parser = command_line("python -m benchmarks.dask_workers", __doc__, CASES, ("native",))
    args = parser.parse_args()
    if THREADS > 1 or processors() < 2:
        parser.error("each worker has one thread, and two need two processors")
    engines, _ = engines_there(args.engines)
    import dask
    import distributed

    environment = "distributed.nanny.pre-spawn-environ"
    dask.config.set({environment: {**dask.config.get(environment), **KEEPS}})
    with contextlib.ExitStack() as stack:
        clients = {}
        for number in (1, 2):
            cluster = stack.enter_context(
                distributed.LocalCluster(
                    n_workers=number, threads_per_worker=1, dashboard_address="127.0.0.1:0"
                )
            )
            clients[number] = stack.enter_context(distributed.Client(cluster))
        cases = []
        for case in args.cases:
            print(case, file=sys.stderr, flush=True)
            cases.append(measure(case, clients, 3 if args.quick else 5))
    results = {**setting(engines[:1]), "processors": processors(), "bar": BAR, "cases": cases}
    write(results, args.out)


def write(results: dict[str, Any], folder: pathlib.Path) -> None:
    """Write dask_workers.json and .md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dask_workers.json").write_text(json.dumps(results, indent=1) + "\n")
    text = report.dask_workers(results)
    (folder / "dask_workers.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
