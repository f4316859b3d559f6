"""An LSTM without Python, step.c: it is built, compared with the engine `numpy`, and timed."""

from __future__ import annotations

import os
import pathlib
import platform
import statistics
import subprocess
import tempfile
from typing import Any

import numpy as np

import fastlstm

from .peers import STEPS_CHECKED, TOLERANCE

HERE = pathlib.Path(__file__).parent
NATIVE = HERE.parent / "fastlstm" / "native"
COMPILER = os.environ.get("CC", "cc")
# As setup.py has them.
FLAGS = (
    "-std=c11",
    "-O2",
    "-fpeel-loops",
    "-Wno-ignored-optimization-argument",
    "-ffp-contract=off",
    "-pthread",
)
SIZES = [(1, H) for H in (8, 12, 16, 20, 24, 32, 40, 64)] + [(64, 64)]  # (I, H)
# Nanoseconds of a step in blocks, by (I, H): those of a Zen 3 up to 24 units, then of a Zen 5.
BARS = {(1, 8): 55, (1, 16): 75, (1, 24): 125, (1, 32): 130, (1, 40): 170, (64, 64): 620}
# What fixed.c is built for; the best counts. Wide vectors are not always the quicker ones there.
X86 = platform.machine().lower() in ("x86_64", "amd64")
MACHINES = ("-march=native", "-march=haswell") if X86 else ("-mcpu=native",)
FIXED_TOLERANCE = 5e-3  # of its outputs; its tanh may be 1.4e-3 off
RUNS = 5  # the median counts, because processes differ in where their memory lies


def build(folder: str | os.PathLike[str]) -> pathlib.Path:
    """Compile step.c into `folder` and return the program; FileNotFoundError without sources."""
    program, sources = pathlib.Path(folder) / "step", sorted(NATIVE.glob("*.c"))
    if not sources:
        raise FileNotFoundError("no C files in fastlstm/native")
    files = [f"-I{NATIVE}", HERE / "step.c", *sources, "-lm", "-o", program]
    subprocess.run([COMPILER, *FLAGS, *files], check=True)
    return program


def check(program: pathlib.Path, I: int, H: int, P: int, B: int, dtype: str, *isa: str) -> float:
    """Return the greatest error of some steps; AssertionError if it is too great."""
    sizes = map(str, (I, H, P, B, np.dtype(dtype).itemsize, STEPS_CHECKED))
    raw = subprocess.run([program, *sizes, *isa], stdout=subprocess.PIPE, check=True).stdout
    shapes = {
        "weight_ih_l0": (4 * H, I), "weight_hh_l0": (4 * H, P), "bias_ih_l0": (4 * H,),
        "weight_hr_l0": (P, H if P < H else 0), "x": (B, I), "y": (B, P), "h": (1, B, P),
        "c": (1, B, H),
    }  # fmt: skip
    ends = np.cumsum([np.prod(shape) for shape in shapes.values()])
    values = np.split(np.frombuffer(raw, dtype).astype(np.float64), ends)
    arrays = {n: v.reshape(s) for (n, s), v in zip(shapes.items(), values[:-1], strict=True)}
    x, y, h, c = map(arrays.pop, "xyhc")
    if P == H:
        del arrays["weight_hr_l0"]
    proj_size = P if P < H else 0
    lstm = fastlstm.LSTM(I, H, proj_size=proj_size, dtype="float64", engine="numpy")
    lstm.load_state_dict({**arrays, "bias_hh_l0": np.zeros(4 * H)})
    right, states = lstm(np.stack([x] * STEPS_CHECKED))
    pairs = zip((y, h, c), (right[-1], *states), strict=True)
    error = max(float(np.abs(got - expected).max()) for got, expected in pairs)
    assert error <= TOLERANCE[dtype], (
        f"step.c is wrong with I {I}, H {H}, P {P}, B {B} in {dtype}: it differs from the engine "
        f"numpy by {error:.1e}, expected at most {TOLERANCE[dtype]:.0e}"
    )
    return error


def times(program: pathlib.Path, *arguments: int) -> tuple[float, float]:
    """Return the nanoseconds that a program prints: of a step by itself, and in blocks."""
    command = [program, *map(str, arguments)]
    printed = [subprocess.check_output(command).split()[:2] for _ in range(RUNS)]
    one, block = ([float(time) for time in column] for column in zip(*printed, strict=True))
    return statistics.median(one), statistics.median(block)


def build_fixed(folder: str | os.PathLike[str], I: int, H: int, target: str) -> pathlib.Path:
    """Compile fixed.c for a size and a machine into `folder` and return the program."""
    program = pathlib.Path(folder) / "fixed"
    flags = ["-std=c11", "-O3", "-ffast-math", target, f"-DI={I}", f"-DH={H}"]
    subprocess.run([COMPILER, *flags, HERE / "fixed.c", "-lm", "-o", program], check=True)
    return program


def check_fixed(program: pathlib.Path) -> float:
    """Return the greatest error of fixed.c's outputs; AssertionError if it is too great."""
    error = float(subprocess.check_output([program]).split()[-1])
    assert error <= FIXED_TOLERANCE, (
        f"fixed.c is wrong: its outputs are {error:.1e} off, expected at most {FIXED_TOLERANCE:g}"
    )
    return error


def fixed(folder: str | os.PathLike[str], I: int, H: int) -> tuple[float, float]:
    """Build and check fixed.c for a size and return the least times, as `times`."""
    measured = []
    for target in MACHINES:
        program = build_fixed(folder, I, H, target)
        try:
            check_fixed(program)
            measured.append(times(program))
        except subprocess.CalledProcessError:  # this machine has no AVX2
            continue
    one, block = zip(*measured, strict=True)
    return min(one), min(block)


def measure() -> list[dict[str, Any]]:
    """Build, check and time; return what each size takes, ours and that of fixed.c."""
    with tempfile.TemporaryDirectory() as folder:
        program, measured = build(folder), []
        for I, H in SIZES:
            error = check(program, I, H, H, 1, "float32")
            one, block = times(program, I, H)
            fixed_one, fixed_block = fixed(folder, I, H)
            measured.append(
                {
                    "sizes": f"I {I}, H {H}",
                    "nanoseconds": one,
                    "in_blocks": block,
                    "fixed": fixed_one,
                    "fixed_in_blocks": fixed_block,
                    "bar": BARS.get((I, H)),
                    "error": error,
                }
            )
    return measured
