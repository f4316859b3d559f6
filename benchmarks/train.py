"""Measure training steps, their memory and a whole program: ``python -m benchmarks.train --help``.

A step is forward and backward: from x, the weights and the gradient of the output to the gradients
of x and of all weights. README.md has the protocol.
"""

from . import THREADS  # first: it pins the threads of whatever is imported next

# isort: split
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

import numpy as np

from . import machine, plots, report
from .cases import TRAINING
from .compare import HERE, command_line, engines_there, in_turn, made, setting
from .peers import ENGINES, Contestant, fastlstm_layer, torch_layer, without_onednn

DEFAULT_ENGINES = ("native", "numba")
# The greatest error of a gradient against torch in float64, as a share of its greatest value: a sum
# over the up to 93440 rows of a case walks at random some eps sqrt(rows) away.
TOLERANCE = {"float32": 2e-5, "float64": 4e-14}
THREADS_BAR = 1.7  # one thread's time / two threads', for batches of at least 32
CLEAR_PEAK = pathlib.Path("/proc/self/clear_refs")  # where Linux is
STEPS_REMEMBERED = 3  # whose peak of memory counts
MEMORY = "from benchmarks import train; print(train.peak_memory({case!r}, {name!r}))"
PROGRAMS = {  # (file in programs/, its argument)
    "fastlstm.fit": ("with_fastlstm.py", "fit"),
    "fastlstm, own loop": ("with_fastlstm.py", "loop"),
    "torch, DataLoader": ("with_torch.py", "DataLoader"),
    "torch, slices": ("with_torch.py", "slices"),
}
PROGRAM_BAR = 4  # torch with its DataLoader / fastlstm.fit
PROGRAM_RUNS = 7
LOSSES_APART = 1e-3  # as a share, at most, of the two programs' losses in any epoch


def draw(case):
    """Return the weights, x and the gradient of the output, N(0, 1), zero past the lengths."""
    weights, x = case.draw()
    shape = case.T, case.B, case.directions * case.output_size
    dy = np.random.default_rng(1).standard_normal(shape).astype(case.dtype)
    dy[np.arange(case.T)[:, None] >= case.lengths] = 0
    return weights, x, dy


# ---- one step: each as its users write it, gradients forgotten first ----------------------------


def _fastlstm(engine, case, weights, x, dy, num_threads=THREADS):
    """Weights count as changed, so that packing them is in the time, as after an update."""
    lstm = fastlstm_layer(engine, case, weights, num_threads)
    lengths = case.lengths if case.shortest is not None else None

    def step():
        lstm.changed()
        lstm.zero_grad()
        _, pullback = lstm.vjp(x, lengths=lengths)
        return pullback(dy)[0]

    return Contestant(step, lambda dx: {"x": dx, **lstm.grads})


def _torch(case, weights, x, dy):
    """Ragged batches are computed over all of their padding, where the gradient is zero."""
    torch, lstm = torch_layer(case, weights)
    x, dy = torch.from_numpy(x).requires_grad_(), torch.from_numpy(dy)

    def step():
        lstm.zero_grad(set_to_none=True)
        x.grad = None
        y, _ = lstm(x)
        y.backward(dy)
        return x.grad

    return Contestant(step, functools.partial(_gradients, lstm))


def _torch_without_onednn(case, weights, x, dy):
    if case.dtype != "float32":
        return None  # it is not used in any case
    return _torch(case, weights, x, dy)._replace(context=without_onednn)


def _torch_packed(case, weights, x, dy):
    """Packed before the clock starts, and left so: output, its gradient and that of x."""
    if case.shortest is None:
        return None
    torch, lstm = torch_layer(case, weights)
    rnn, lengths = torch.nn.utils.rnn, torch.from_numpy(case.lengths)
    packed, d_packed = (
        rnn.pack_padded_sequence(torch.from_numpy(array), lengths, enforce_sorted=False)
        for array in (x, dy)
    )
    packed.data.requires_grad_()

    def step():
        lstm.zero_grad(set_to_none=True)
        packed.data.grad = None
        y, _ = lstm(packed)
        y.data.backward(d_packed.data)
        return packed.data.grad

    def read(d_data):
        dx, _ = rnn.pad_packed_sequence(rnn.PackedSequence(d_data, *packed[1:]))
        return _gradients(lstm, dx)

    return Contestant(step, read)


def _gradients(lstm, dx):
    return {"x": dx.numpy(), **{name: p.grad.numpy() for name, p in lstm.named_parameters()}}


PEERS = {
    "torch": _torch,
    "torch without oneDNN": _torch_without_onednn,
    "torch packed": _torch_packed,
}
CONTESTANTS = {
    **{name: functools.partial(_fastlstm, name) for name in ENGINES},
    **{f"{name}, 1 thread": functools.partial(_fastlstm, name, num_threads=1) for name in ENGINES},
    **PEERS,
}


def truth(case, weights, x, dy):
    """All gradients by torch in float64."""
    weights = {name: value.astype(np.float64) for name, value in weights.items()}
    drawn = case._replace(dtype="float64"), weights, x.astype(np.float64), dy.astype(np.float64)
    contestant = _torch(*drawn)
    return contestant.read(contestant.run())


def check(name, case, contestant, expected):
    """Return a contestant's greatest error in any gradient; AssertionError if it is too great."""
    with contestant.context():
        got = contestant.read(contestant.run())
    assert got.keys() == expected.keys(), f"{name}, {case.name}: {list(got)}, {list(expected)}"
    worst = 0.0
    for what, right in expected.items():
        assert got[what].shape == right.shape, f"{name}, {case.name}, {what}: {got[what].shape}"
        error = float(np.abs(got[what] - right).max() / np.abs(right).max())
        assert error <= TOLERANCE[case.dtype], (
            f"{name} is wrong in case {case.name}: its gradient of {what} differs from the truth "
            f"by {error:.1e} of the greatest value, expected {TOLERANCE[case.dtype]:.0e} at most"
        )
        worst = max(worst, error)
    return worst


def measure(case, names, rounds, absent):
    """Check all contestants, then time them; return the case's entry in the results."""
    drawn = case, *draw(case)
    contestants = made(CONTESTANTS, names, drawn, absent)
    expected = truth(*drawn)
    errors = {name: check(name, case, one, expected) for name, one in contestants.items()}
    times = in_turn(contestants, *rounds)
    return {
        "name": case.name,
        "group": case.group,
        "dtype": case.dtype,
        "against": against(case),
        "bar": case.bar if THREADS == 1 else None,
        "threads_bar": THREADS_BAR if case.B >= 32 else None,
        "operations": 3 * case.operations,
        "errors": errors,
        "blocks": times,
        "seconds": {name: statistics.median(taken) for name, taken in times.items()},
    }


def against(case):
    """Torch as one would have it in a case: what bars and memory are held against."""
    return "torch" if case.shortest is None else "torch packed"


# ---- memory: each in a fresh process ------------------------------------------------------------


def peak_memory(case, name):
    """Bytes that steps of a contestant take at their peak, above x, dy and the weights.

    For a process of its own: what other work has left behind would be used again, unseen. A step
    of a tiny case comes first, so that the libraries have loaded what they load late.
    """
    case, make = TRAINING[case], CONTESTANTS[name]
    shortest = None if case.shortest is None else 1
    tiny = case._replace(T=2, B=2, I=4, H=4, shortest=shortest)
    make(tiny, *draw(tiny)).run()
    step = make(case, *draw(case)).run
    gc.collect()
    getattr(ctypes.CDLL(None), "malloc_trim", int)(0)  # glibc keeps what was freed
    CLEAR_PEAK.write_text("5")  # the peak is the present from here on
    before = _resident("VmRSS")
    for _ in range(STEPS_REMEMBERED):
        step()
    return _resident("VmHWM") - before


def _resident(field):
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{field}:\s*(\d+) kB", status)[1])


def memory(case, engine):
    """The case's entry in the results: the peaks of an engine and of torch, fresh processes all."""
    peaks = []
    for name in (engine, against(case)):
        command = [sys.executable, "-c", MEMORY.format(case=case.name, name=name)]
        command += ["--threads", str(THREADS)]
        peaks.append(int(subprocess.check_output(command, cwd=HERE.parent)))
    return {"name": case.name, "against": against(case), "ours": peaks[0], "torch": peaks[1]}


# ---- a whole program ----------------------------------------------------------------------------


def run_program(name, engine):
    """Run one program: (seconds of the process, seconds after its imports, losses printed)."""
    file, argument = PROGRAMS[name]
    command = [sys.executable, HERE / "programs" / file, argument]
    environment = {**os.environ, "FASTLSTM_ENGINE": engine}
    begin = time.perf_counter()
    text = subprocess.check_output(command, env=environment, text=True)
    seconds = time.perf_counter() - begin
    losses = re.findall(r"^epoch \d+: train (\S+), test (\S+)$", text, re.M)
    after_imports = float(re.search(r"^after imports: (\S+) s$", text, re.M)[1])
    return seconds, after_imports, np.array(losses, float)


def program(engine, runs):
    """Run all programs in turn, `runs` times after one that is not counted; check their losses."""
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


def arguments():
    parser = command_line("python -m benchmarks.train", __doc__, TRAINING, DEFAULT_ENGINES)
    parts = ["steps"] + ["memory"] * CLEAR_PEAK.exists() + ["program"] * (THREADS == 1)
    parser.add_argument(
        "--only", nargs="+", choices=parts, default=parts, help="what to measure; default: all"
    )
    return parser.parse_args()


def main():
    args = arguments()
    if importlib.util.find_spec("torch") is None:
        sys.exit("Expected torch, the only peer in training: pip install -e '.[bench]'")
    blocks, seconds = (3, 0.01) if args.quick else (7, 0.05)
    engines, absent = engines_there(args.engines)
    results = {
        **setting(engines),
        "blocks": blocks,
        "seconds_per_block": seconds,
        "tolerance": TOLERANCE,
        "peers": list(PEERS),
        "absent": absent,
        "limits": {"peak": {dtype: machine.peak(dtype) for dtype in TOLERANCE}},
        "cases": [],
        "memory": [],
        "program": None,
    }
    names = [*engines, *filter(None, [results["one_thread"]]), *PEERS]
    cases = [TRAINING[name] for name in args.cases]
    if "steps" in args.only:
        for case in cases:
            print(f"step {case.name}", file=sys.stderr, flush=True)
            results["cases"].append(measure(case, names, (blocks, seconds), absent))
    if "memory" in args.only:
        for case in cases:
            print(f"memory {case.name}", file=sys.stderr, flush=True)
            results["memory"].append(memory(case, engines[0]))
    if "program" in args.only:
        print("the program", file=sys.stderr, flush=True)
        results["program"] = program(engines[0], 1 if args.quick else PROGRAM_RUNS)
    write(results, args.out)


def write(results, folder):
    """train.json, .md and .png, with -2threads behind the name if so."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ("train" if THREADS == 1 else f"train-{THREADS}threads")
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
