"""An LSTM without Python, step.c: it is built, compared with the engine `numpy`, and timed."""

from __future__ import annotations

import os
import pathlib
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
FLAGS = ("-std=c11", "-O3", "-ffp-contract=off", "-pthread")  # as setup.py has them
BARS = {(1, 32): 130, (1, 40): 170, (64, 64): 620}  # nanoseconds of a step, by (I, H)
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


def measure() -> list[dict[str, Any]]:
    """Build, check and time; return {"sizes", "nanoseconds", "runs", "bar", "error"} of each."""
    with tempfile.TemporaryDirectory() as folder:
        program, measured = build(folder), []
        for (I, H), bar in BARS.items():
            error = check(program, I, H, H, 1, "float32")
            runs = [
                float(subprocess.check_output([program, str(I), str(H)]).split()[0])
                for _ in range(RUNS)
            ]
            measured.append(
                {
                    "sizes": f"I {I}, H {H}",
                    "nanoseconds": statistics.median(runs),
                    "runs": runs,
                    "bar": bar,
                    "error": error,
                }
            )
    return measured
