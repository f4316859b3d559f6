"""Measure fleets of small models, and data that are read: ``python -m benchmarks.fleets --help``.

A fleet is trained by one worker, by a thread for each processor, and by as many processes of
joblib. `predict` reads files beside computing, and is compared with reading, computing and writing
in turn; of an array in memory, with one call of the model. README.md has the protocol.
"""

from __future__ import annotations

from . import THREADS, processors  # first: it pins the threads of whatever is imported next

# isort: split
import functools
import json
import pathlib
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

import fastlstm
from fastlstm.training import Adam, MSELoss, fit_many

from . import report
from .cases import Case
from .compare import Rounds, command_line, engines_there, rounds_of, setting, timed
from .peers import Contestant

ONE, THREADED, PROCESSES = "one worker", "threads", "loky"
# A step of training: T, B, I, H. How many batches a model has is made of the work.
FLEETS = [
    Case(30, 32, 4, 16),
    Case(168, 32, 4, 16),
    Case(96, 64, 4, 32),
    Case(168, 256, 4, 32),
    Case(96, 64, 4, 64),
    Case(168, 256, 4, 64),
    Case(365, 256, 8, 64),
]
BAR = 1.9 / 2  # of as many times the speed of one worker as there are workers
WORK, EPOCHS = 2e10, 5  # multiply-adds of a model in a call: about a second of one core
READ, ROWS = (
    Case(168, 256, 16, 64),
    4096,
)  # a batch that is predicted, and how many samples there are
MEMORY, HDF5, ZARR, NPY = "in memory", "HDF5, gzip", "zarr, zstd", "a map of .npy"
BEFORE = "before"  # what `predict` is compared with
NAMES = [case.name for case in FLEETS] + [MEMORY, NPY, HDF5, ZARR]


def models_of(case: Case, count: int) -> list[fastlstm.Sequential]:
    """Return untrained models, each with other weights."""
    return [
        fastlstm.Sequential(
            fastlstm.LSTM(case.I, case.H, batch_first=True, seed=n),
            fastlstm.Last(batch_first=True),
            fastlstm.Linear(case.H, 1, seed=n),
        )
        for n in range(count)
    ]


def fleet(case: Case, workers: int) -> dict[str, Any]:
    """Check that all ways of training agree, and return them; a call trains all models."""
    count = 2 * workers
    of_step = 12 * case.T * case.B * case.H * (case.I + case.H)
    batches = max(1, round(WORK / of_step / EPOCHS))
    rng = np.random.default_rng(0)
    data = [
        (
            rng.standard_normal((batches * case.B, case.T, case.I), np.float32),
            rng.standard_normal((batches * case.B, 1), np.float32),
        )
        for _ in range(count)
    ]
    ways = {
        ONE: {"num_workers": 1},
        THREADED: {"num_workers": workers},
        PROCESSES: {"num_workers": workers, "backend": "loky"},
    }
    trained = {}
    for way, options in ways.items():
        trained[way] = models_of(case, count)
        train(trained[way], data, case, options)
        for model, right in zip(trained[way], trained[ONE], strict=True):
            for name, weights in right.state_dict().items():
                same = np.array_equal(model.state_dict()[name], weights)
                assert same, f"{way}: {name} of a model of {case.name} has other bits"
    return {
        "models": count,
        "steps": batches * EPOCHS,
        "contestants": {
            way: Contestant(functools.partial(train, trained[way], data, case, options), _nothing)
            for way, options in ways.items()
        },
    }


def train(models: Any, data: Any, case: Case, options: dict[str, Any]) -> None:
    """Train a fleet for some epochs."""
    make = functools.partial(Adam, lr=1e-3)
    fit_many(models, data, MSELoss(), make, EPOCHS, case.B, progress=False, **options)


def _nothing(got: Any) -> None:
    """Read the result of a contestant that was checked before."""


def reading(name: str, folder: pathlib.Path) -> dict[str, Any]:
    """Check that all ways of predicting agree, and return them; they go from a file to a file."""
    model = fastlstm.Sequential(
        fastlstm.LSTM(READ.I, READ.H, batch_first=True, seed=0), fastlstm.Linear(READ.H, 2, seed=0)
    )
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, READ.T, READ.I), np.float32)
    x = np.round(x.cumsum(1), 1)  # measured values, which compress as such do
    right = model(x)
    if name == MEMORY:
        contestants: dict[str, Callable[[], Any]] = {
            "predict": lambda: fastlstm.predict(model, x, READ.B),
            BEFORE: lambda: model(x),
        }
    else:
        source, target = _stored(name, folder, x), _stored(name, folder, np.zeros_like(right))

        def in_turn() -> Any:
            for first in range(0, ROWS, READ.B):
                here = slice(first, first + READ.B)
                target[here] = model(np.array(source[here]))
            return target

        contestants = {
            "predict": lambda: fastlstm.predict(model, source, READ.B, out=target),
            BEFORE: in_turn,
        }

    def read(got: Any) -> None:
        assert np.array_equal(got[:], right), f"{name}: other bits than those of the whole at once"

    for run in contestants.values():
        read(run())
    return {
        "contestants": {way: Contestant(run, _nothing) for way, run in contestants.items()},
    }


def _stored(name: str, folder: pathlib.Path, array: np.ndarray) -> Any:
    """Write an array into a new file; return what reads and writes it."""
    path = folder / f"{len([*folder.iterdir()])}"
    chunks = (READ.B, *array.shape[1:])
    if name == NPY:
        np.save(path.with_suffix(".npy"), array)
        return np.load(path.with_suffix(".npy"), mmap_mode="r+")
    if name == HDF5:
        import h5py

        file = h5py.File(path, "w")
        return file.create_dataset("x", data=array, chunks=chunks, compression="gzip")
    import zarr

    stored = zarr.open(str(path), mode="w", shape=array.shape, chunks=chunks, dtype=array.dtype)
    stored[:] = array
    return stored


def main() -> None:
    """Measure what the command line names, and write the results."""
    parser = command_line("python -m benchmarks.fleets", __doc__, NAMES, ("native",))
    args = parser.parse_args()
    if THREADS > 1:
        parser.error("each model has one thread")
    engines, absent = engines_there(["native"])
    rounds, workers = rounds_of(args, 3), processors()
    cases = []
    for case in (case for case in FLEETS if case.name in args.cases):
        print(case.name, file=sys.stderr, flush=True)
        cases.append(measured(case.name, "fleets", fleet(case, workers), rounds))
    for name in (name for name in (MEMORY, NPY, HDF5, ZARR) if name in args.cases):
        print(name, file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = reading(name, pathlib.Path(folder))
            except ImportError as error:
                absent[name] = str(error)
                continue
            cases.append(measured(name, "reading", found, rounds_of(args, 7)))
    results = {
        **setting(engines),
        **rounds._asdict(),
        "workers": workers,
        "bar": BAR,
        "absent": absent,
        "cases": cases,
    }
    write(results, args.out)


def measured(name: str, group: str, found: dict[str, Any], rounds: Rounds) -> dict[str, Any]:
    """Time the contestants in turn; return the entry in the results."""
    contestants = found.pop("contestants")
    return {"name": name, "group": group, **found, **timed(contestants, rounds)}


def write(results: dict[str, Any], folder: pathlib.Path) -> None:
    """Write fleets.json and .md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "fleets.json").write_text(json.dumps(results, indent=1) + "\n")
    text = report.fleets(results)
    (folder / "fleets.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
