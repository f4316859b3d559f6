"""Measure training steps, their memory and a whole program: ``python -m benchmarks.train --help``.

A step is forward and backward: from x, the weights and the gradient of the output to the gradients
of x and of all weights. README.md has the protocol.
"""

from __future__ import annotations

from . import NUMBERS, THREADS  # first: it pins the threads of whatever is imported next

# isort: split
import argparse
import ctypes
import functools
import gc
import importlib.util
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import machine, plots, report, scaling
from .cases import (
    JAX_BARS,
    TELLING_IN_TRAINING,
    TRAINING,
    Case,
    fewer,
    threads_bars,
    training_with_threads,
)
from .compare import (
    HERE,
    Rounds,
    Task,
    checked,
    command_line,
    engines_there,
    of_fewer,
    rounds_of,
    setting,
    timed,
)
from .field import jax_layer, one_layer
from .peers import ENGINES, Contestant, Maker, Weights, fastlstm_layer, torch_layer, without_onednn

DEFAULT_ENGINES = ("native", "numba")
# The greatest error of a gradient against torch in float64, as a share of its greatest value. The
# rounding of a sum over a case's rows, up to 93440, is a random walk of some eps sqrt(rows).
TOLERANCE = {"float32": 2e-5, "float64": 4e-14}
CLEAR_PEAK = pathlib.Path("/proc/self/clear_refs")  # only Linux has it
MEMORY_STEPS = 3  # the peak of memory is that of so many steps
MEMORY = "from benchmarks import train; print(train.peak_memory({case!r}, {name!r}))"
PROGRAMS = {  # (file in programs/, its argument)
    "fastlstm.fit": ("with_fastlstm.py", "fit"),
    "fastlstm, own loop": ("with_fastlstm.py", "loop"),
    "torch, DataLoader": ("with_torch.py", "DataLoader"),
    "torch, slices": ("with_torch.py", "slices"),
}
PROGRAM_BAR = 4  # the time of torch with its DataLoader over that of fastlstm.fit
PROGRAM_RUNS = 7
LOSSES_APART = 1e-3  # the programs' losses of any epoch differ by this share at most


def draw(case: Case) -> tuple[Weights, np.ndarray, np.ndarray]:
    """Return the weights, x and the gradient of the output, N(0, 1), zero past the lengths."""
    weights, x = case.draw()
    shape = case.T, case.B, case.directions * case.output_size
    dy = np.random.default_rng(1).standard_normal(shape).astype(case.dtype)
    dy[np.arange(case.T)[:, None] >= case.lengths] = 0
    return weights, x, dy


# ---- one step, as the users of each library write it; it begins without gradients ---------------


def _fastlstm(
    engine: str,
    case: Case,
    weights: Weights,
    x: np.ndarray,
    dy: np.ndarray,
    num_threads: int = THREADS,
) -> Contestant:
    """Make fastlstm's step. Weights count as changed, so that the time includes packing them."""
    lstm = fastlstm_layer(engine, case, weights, num_threads)
    lengths = case.lengths if case.shortest is not None else None
    reset = case.reset

    def step() -> np.ndarray:
        lstm.changed()
        lstm.zero_grad()
        _, pullback = lstm.vjp(x, lengths=lengths, reset=reset)
        return pullback(dy)[0]

    return Contestant(step, lambda dx: {"x": dx, **lstm.grads})


def torch_step(case: Case, weights: Weights, x: np.ndarray, dy: np.ndarray) -> Contestant:
    """Make torch's step. It computes all padding of a ragged batch; the gradient is zero there."""
    torch, lstm = torch_layer(case, weights)
    x, dy = torch.from_numpy(x).requires_grad_(), torch.from_numpy(dy)

    def step() -> Any:
        lstm.zero_grad(set_to_none=True)
        x.grad = None
        y, _ = lstm(x)
        y.backward(dy)
        return x.grad

    return Contestant(step, functools.partial(gradients, lstm))


def _torch_without_onednn(
    case: Case, weights: Weights, x: np.ndarray, dy: np.ndarray
) -> Contestant | None:
    if case.dtype != "float32":
        return None  # torch never uses oneDNN there
    return torch_step(case, weights, x, dy)._replace(context=without_onednn)


def _torch_packed(case: Case, weights: Weights, x: np.ndarray, dy: np.ndarray) -> Contestant | None:
    if case.shortest is None:
        return None
    return torch_packed_step(case, weights, x, dy, case.lengths)


def torch_packed_step(
    case: Case, weights: Weights, x: np.ndarray, dy: np.ndarray, lengths: np.ndarray
) -> Contestant:
    """Make torch's step on sequences that are packed before the clock starts, and stay packed."""
    torch, lstm = torch_layer(case, weights)
    rnn = torch.nn.utils.rnn
    packed, d_packed = (
        rnn.pack_padded_sequence(
            torch.from_numpy(array), torch.from_numpy(lengths), enforce_sorted=False
        )
        for array in (x, dy)
    )
    packed.data.requires_grad_()

    def step() -> Any:
        lstm.zero_grad(set_to_none=True)
        packed.data.grad = None
        y, _ = lstm(packed)
        y.data.backward(d_packed.data)
        return packed.data.grad

    def read(d_data: Any) -> Weights:
        dx, _ = rnn.pad_packed_sequence(rnn.PackedSequence(d_data, *packed[1:]))
        return gradients(lstm, dx)

    return Contestant(step, read)


def _jax(case: Case, weights: Weights, x: np.ndarray, dy: np.ndarray) -> Contestant | None:
    """Make JAX's step, which is compiled as a whole."""
    if not one_layer(case):
        return None
    jax, forward = jax_layer(case)

    def step(x: Any, weights: dict[str, Any], dy: Any) -> tuple[Any, dict[str, Any]]:
        _, pullback = jax.vjp(lambda *given: forward(*given)[0], x, weights)
        return pullback(dy)

    run, arguments = jax.jit(step), jax.device_put((x, weights, dy))

    def read(got: tuple[Any, dict[str, Any]]) -> Weights:
        return {name: np.asarray(value) for name, value in ({"x": got[0]} | got[1]).items()}

    return Contestant(lambda: jax.block_until_ready(run(*arguments)), read)


def gradients(lstm: Any, dx: Any) -> Weights:
    """Return all gradients by name."""
    return {"x": dx.numpy(), **{name: p.grad.numpy() for name, p in lstm.named_parameters()}}


PEERS: dict[str, Maker] = {
    "torch": torch_step,
    "torch without oneDNN": _torch_without_onednn,
    "torch packed": _torch_packed,
    "JAX": _jax,
}
CONTESTANTS: dict[str, Maker] = {
    **{name: functools.partial(_fastlstm, name) for name in ENGINES},
    **{
        report.with_threads(name, number): functools.partial(_fastlstm, name, num_threads=number)
        for name in ENGINES
        for number in fewer(THREADS)
    },
    **PEERS,
}


def truth(case: Case, weights: Weights, x: np.ndarray, dy: np.ndarray) -> Weights:
    """Return all gradients in float64, by torch, or by engine numpy with options of the cell."""
    make = CONTESTANTS["numpy" if case.options else "torch"]
    contestant = make(*doubled(case, weights, x, dy))
    return contestant.read(contestant.run())


def doubled(case: Case, weights: Weights, *arrays: np.ndarray) -> tuple[Any, ...]:
    """Return the same in float64."""
    weights = {name: value.astype(np.float64) for name, value in weights.items()}
    arrays = tuple(array.astype(np.float64) for array in arrays)
    return case._replace(dtype="float64"), weights, *arrays


def check(name: str, case: Case, contestant: Contestant, expected: Weights) -> float:
    """Return a contestant's greatest error in any gradient; AssertionError if it is too great."""
    with contestant.context():
        got = contestant.read(contestant.run())
    assert got.keys() == expected.keys(), f"{name}, {case.name}: {list(got)}, {list(expected)}"
    worst = 0.0
    for what, right in expected.items():
        assert got[what].shape == right.shape, f"{name}, {case.name}, {what}: {got[what].shape}"
        error = float(np.abs(got[what] - right).max() / (np.abs(right).max() or 1))
        assert error <= TOLERANCE[case.dtype], (
            f"{name} is wrong in case {case.name}: {what} differs from the truth "
            f"by {error:.1e} of the greatest value, expected {TOLERANCE[case.dtype]:.0e} at most"
        )
        worst = max(worst, error)
    return worst


STEP = Task(CONTESTANTS, draw, truth, check)


def measure(
    case: Case, names: Sequence[str], rounds: Rounds, absent: dict[str, str]
) -> dict[str, Any]:
    """Check all contestants, then time them; return the case's entry in the results."""
    contestants, errors = checked(STEP, case, names, absent)
    return {
        "name": case.name,
        "group": case.group,
        "batch": case.B,
        "dtype": case.dtype,
        "against": against(case),
        "bar": case.bar,
        "jax_bar": JAX_BARS.get(case.name) if THREADS == 1 else None,
        **threads_bars(case, THREADS),
        "operations": 3 * case.operations,
        "errors": errors,
        **timed(contestants, rounds),
    }


def against(case: Case) -> str:
    """Return the form of torch that bars and memory are compared with in a case."""
    return "torch" if case.shortest is None else "torch packed"


# ---- memory, each measured in a fresh process ---------------------------------------------------


def peak_memory(case_name: str, name: str) -> int:
    """Return the bytes that steps of a contestant take at their peak, above x, dy and the weights.

    It needs a process of its own: memory that other work has freed would be used again, unseen. A
    step of a tiny case comes first, so that the libraries have loaded what they load late.
    """
    case, make = TRAINING[case_name], CONTESTANTS[name]
    shortest = None if case.shortest is None else 1
    tiny = case._replace(T=2, B=2, I=4, H=4, shortest=shortest)
    make(tiny, *draw(tiny)).run()
    step = make(case, *draw(case)).run
    gc.collect()
    getattr(ctypes.CDLL(None), "malloc_trim", int)(0)  # glibc keeps what was freed
    CLEAR_PEAK.write_text("5")  # the peak is measured from here on
    before = _resident("VmRSS")
    for _ in range(MEMORY_STEPS):
        step()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    """Return a field of the process's status, in bytes."""
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{field}:\s*(\d+) kB", status)[1])


def memory(case: Case, engine: str) -> dict[str, Any]:
    """Return the case's entry in the results: the peaks of an engine and of torch."""
    peaks = []
    for name in (engine, against(case)):
        command = [sys.executable, "-c", MEMORY.format(case=case.name, name=name)]
        command += ["--threads", str(THREADS)]
        peaks.append(int(subprocess.check_output(command, cwd=HERE.parent)))
    return {"name": case.name, "against": against(case), "ours": peaks[0], "torch": peaks[1]}


# ---- a whole program ----------------------------------------------------------------------------


def run_program(name: str, engine: str) -> tuple[float, float, np.ndarray]:
    """Run one program; return the seconds of the process, those after imports, and the losses."""
    file, argument = PROGRAMS[name]
    command = [sys.executable, HERE / "programs" / file, argument]
    environment = {**os.environ, "FASTLSTM_ENGINE": engine}
    begin = time.perf_counter()
    text = subprocess.check_output(command, env=environment, text=True)
    seconds = time.perf_counter() - begin
    losses = re.findall(r"^epoch \d+: train (\S+), test (\S+)$", text, re.M)
    after_imports = float(re.search(r"^after imports: (\S+) s$", text, re.M)[1])
    return seconds, after_imports, np.array(losses, float)


def program(engine: str, runs: int) -> dict[str, Any]:
    """Run all programs in turn, once without counting and then `runs` times; check the losses."""
    names = list(PROGRAMS)
    losses = {name: run_program(name, engine)[2] for name in names}
    right = losses["torch, DataLoader"]
    apart = {}
    for name, got in losses.items():
        assert got.shape == right.shape and got.size, f"{name}: losses of {len(got)} epochs"
        apart[name] = float((np.abs(got - right) / right).max())
        assert apart[name] <= LOSSES_APART, (
            f"{name} does not train as torch does: its losses differ from torch's by "
            f"{apart[name]:.1e} of these, expected at most {LOSSES_APART:.0e}"
        )
    times = {name: [] for name in names}
    for run in range(runs):
        first = run % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(run_program(name, engine)[:2])
    seconds, after_imports = (
        {name: statistics.median(pair[k] for pair in times[name]) for name in names} for k in (0, 1)
    )
    return {
        "bar": PROGRAM_BAR,
        "runs": times,
        "seconds": seconds,
        "after_imports": after_imports,
        "last_losses": {name: list(losses[name][-1]) for name in names},
        "apart": apart,
    }


# ---- the command --------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line("python -m benchmarks.train", __doc__, TRAINING, DEFAULT_ENGINES)
    scaling.add_budget(parser)
    parts = ["steps"] + ["memory"] * CLEAR_PEAK.exists() + ["program"]
    parser.add_argument(
        "--only", nargs="+", choices=parts, default=parts,
        help="what to measure; default: all (the program with one thread alone)",
    )  # fmt: skip
    return parser.parse_args()


def main() -> None:
    """Measure what the command line names, and write the results."""
    args = arguments()
    if importlib.util.find_spec("torch") is None:
        sys.exit("Expected torch, whose gradients are the right ones: pip install -e '.[bench]'")
    if len(NUMBERS) > 1:
        scaling.run("train", args, training_with_threads)
        return
    rounds = rounds_of(args, 7)
    engines, absent = engines_there(args.engines)
    results = {
        **setting(engines),
        **rounds._asdict(),
        "tolerance": TOLERANCE,
        "peers": [],  # known when all have been asked
        "absent": absent,
        "limits": {"peak": {dtype: machine.peak(dtype) for dtype in TOLERANCE}},
        "cases": [],
        "left_out": [],
        "memory": [],
        "program": None,
    }
    names = [*engines, *of_fewer(engines), *scaling.racing([*PEERS], args, absent)]
    known = training_with_threads(THREADS)
    cases = [known[name] for name in args.cases]
    if "steps" in args.only:
        for name in scaling.in_time(args.cases, TELLING_IN_TRAINING, args.budget):
            print(f"step {name}", file=sys.stderr, flush=True)
            results["cases"].append(measure(known[name], names, rounds, absent))
        results["left_out"] = scaling.left_out(args, results["cases"])
    results["peers"] = [name for name in PEERS if name not in absent]
    if "memory" in args.only:
        for case in cases:
            print(f"memory {case.name}", file=sys.stderr, flush=True)
            results["memory"].append(memory(case, engines[0]))
    if "program" in args.only and THREADS == 1:
        print("the program", file=sys.stderr, flush=True)
        results["program"] = program(engines[0], 1 if args.quick else PROGRAM_RUNS)
    write(results, args.out)


def write(results: dict[str, Any], folder: pathlib.Path) -> None:
    """Write train.json, .md and .png; with two threads, -2threads is added to their names."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / report.file_name("train", THREADS)
    path.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    text = report.training(results)
    path.with_suffix(".md").write_text(text)
    plots.ratios(
        report.training_ratios(results), results, path.with_suffix(".png"),
        "torch", "ratio (right of 1: ours is faster, or smaller)",
    )  # fmt: skip
    print(text)


if __name__ == "__main__":
    main()
