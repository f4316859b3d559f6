"""The instructions of a step of kernels, counted by Callgrind: a regression check without noise.

``python -m benchmarks.instructions`` stores the counts; ``--check`` compares with the stored ones.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import alone

STORED = pathlib.Path(__file__).parent / "results" / "instructions.json"
# Valgrind knows no AVX-512.
ISA = "neon" if platform.machine() in ("aarch64", "arm64") else "avx2"
KERNELS = [  # I, H, P, B, dtype: one row, eight, with a projection, in float64, cut to caches
    (128, 128, 128, 1, "float32"),
    (128, 128, 128, 8, "float32"),
    (128, 128, 64, 8, "float32"),
    (128, 128, 128, 8, "float64"),
    (512, 512, 512, 32, "float32"),
]
STEPS = 10
TOLERANCE = 1.02


def first_line(*command: str) -> str:
    """Return the first line that a command prints."""
    return subprocess.check_output(command, text=True).splitlines()[0]


def collected(program: pathlib.Path, sizes: Sequence[Any], steps: int) -> int:
    """Return the instructions of the whole program when it makes so many steps."""
    I, H, P, B, dtype = sizes
    arguments = map(str, (I, H, P, B, np.dtype(dtype).itemsize, steps, ISA))
    valgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    done = subprocess.run([*valgrind, program, *arguments], capture_output=True, check=True)
    return int(re.search(rb"Collected\s*:\s*(\d+)", done.stderr)[1])


def count() -> dict[str, Any]:
    """Check every kernel, then count what additional steps take, so that nothing else counts."""
    with tempfile.TemporaryDirectory() as folder:
        program, counts = alone.build(folder), {}
        for sizes in KERNELS:
            alone.check(program, *sizes, ISA)
            more, one = (collected(program, sizes, steps) for steps in (1 + STEPS, 1))
            name = "I {}, H {}, P {}, B {}, {}".format(*sizes)
            counts[name] = round((more - one) / STEPS)
    return {
        "compiler": first_line(alone.COMPILER, "--version"),
        "flags": " ".join(alone.FLAGS),
        "valgrind": first_line("valgrind", "--version"),
        "isa": ISA,
        "kernels": "; ".join(counts),
        "instructions": counts,
    }


def compare(counted: dict[str, Any], stored: dict[str, Any]) -> None:
    """Print both counts of each kernel; exit with a message if one grew or they do not compare."""
    for key in ("compiler", "flags", "isa", "kernels"):
        if counted[key] != stored[key]:
            sys.exit(
                f"Counts of another {key} cannot be compared: stored are those of {stored[key]}, "
                f"here is {counted[key]}. Without --check, this {key}'s counts are stored."
            )
    grown = []
    for name, now in counted["instructions"].items():
        before = stored["instructions"][name]
        print(f"{name}: {before} stored, {now} now, {now / before - 1:+.1%}")
        if now > TOLERANCE * before:
            grown.append(name)
    if grown:
        sys.exit(f"More than {TOLERANCE - 1:.0%} more instructions: {', '.join(grown)}")


def main() -> None:
    """Count, then compare or store."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help=f"fail on over {TOLERANCE - 1:.0%}% more than stored"
    )
    check, counted = parser.parse_args().check, count()
    if check:
        compare(counted, json.loads(STORED.read_text()))
    else:
        STORED.write_text(json.dumps(counted, indent=1) + "\n")
        for name, instructions in counted["instructions"].items():
            print(f"{name}: {instructions}")


if __name__ == "__main__":
    main()
