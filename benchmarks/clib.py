"""Steps of the C library beside RTNeural's, whose sizes are known when it is compiled.

    RTNEURAL=/path/to/RTNeural python -m benchmarks.clib

RTNeural is no part of this repository: the path is that of its sources, with their modules Eigen,
xsimd and json. All its backends are built as its makers recommend, for this very machine; ours as
it is shipped.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
from typing import Any

from . import machine, report
from .alone import COMPILER, FLAGS, NATIVE
from .compare import HERE, commit

COMPILER_OF_PEERS = os.environ.get("CXX", "c++")
# What a step by itself has to reach, the time of the fastest backend / ours, by (I, H).
BARS = {(1, 16): 1.5, (1, 32): 2.0, (1, 40): 1.3, (64, 64): 1.1, (128, 128): 1.1}
BACKENDS = ("EIGEN", "XSIMD", "STL")
# RTNeural's own build sets the alignment to that of AVX. Eigen warns of models as large as 128,128.
PEER_FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-DNDEBUG",
    "-w",
    "-DRTNEURAL_NAMESPACE=RTNeural",
    "-DRTNEURAL_DEFAULT_ALIGNMENT=32",
    "-DEIGEN_STACK_ALLOCATION_LIMIT=0",
    "-fPIC",
    "-shared",
)
MODULES = ("", "modules/Eigen", "modules/xsimd/include", "modules/json")
TOLERANCE = 1e-5  # of outputs: our sums begin with the bias, RTNeural's end with it
PARTS = ("one step a call", "blocks of 64")


def build(folder: pathlib.Path) -> pathlib.Path:
    """Compile clib.c with the library into `folder` and return the program."""
    program = folder / "clib"
    files = [HERE / "clib.c", *sorted(NATIVE.glob("*.c"))]
    options = [f"-I{NATIVE}", "-lm", "-ldl", "-o", str(program)]
    subprocess.run([COMPILER, *FLAGS, *map(str, files), *options], check=True)
    return program


def build_peer(folder: pathlib.Path, rtneural: pathlib.Path, backend: str) -> pathlib.Path:
    """Compile rtneural.cpp with one of the backends into `folder` and return the library."""
    library = folder / f"{backend.lower()}.so"
    places = [f"-I{rtneural / module}" for module in MODULES]
    files = [f"-DRTNEURAL_USE_{backend}=1", *places, HERE / "rtneural.cpp", "-o", str(library)]
    options = [*PEER_FLAGS, *os.environ.get("CXXFLAGS", "").split()]
    subprocess.run([COMPILER_OF_PEERS, *options, *map(str, files)], check=True)
    return library


def measure(
    program: pathlib.Path, peers: list[pathlib.Path], I: int, H: int, isa: str
) -> dict[str, list[float]]:
    """Return the nanoseconds of a step by itself and in blocks, by contestant; ours comes first.

    Raises ValueError if the outputs of a peer are not ours.
    """
    command = [str(program), str(I), str(H), isa, *map(str, peers)]
    if shutil.which("taskset"):
        command = ["taskset", "-c", str(max(os.sched_getaffinity(0))), *command]
    found: dict[str, list[float]] = {}
    for line in subprocess.check_output(command, text=True).splitlines():
        name, one, block, error = line.rsplit(" ", 3)
        if float(error) > TOLERANCE:
            raise ValueError(
                f"{name} is wrong with I {I}, H {H}: its outputs differ from ours by {error}, "
                f"expected at most {TOLERANCE:g}"
            )
        found[pathlib.Path(name).stem] = [float(one), float(block)]
    return found


def table(results: dict[str, Any], isa: str) -> str:
    """Return the times of one instruction set and the ratios as a table."""
    peers = [backend.lower() for backend in results["backends"]]
    heads = [f"{part}: {name}" for part in PARTS for name in ("ours", *peers, "ratio")]
    rows = [["I, H", *heads, "bar"]]
    for case in results["cases"]:
        if case["isa"] != isa:
            continue
        row = [f"{case['I']}, {case['H']}"]
        for part in range(len(PARTS)):
            ours, *others = (case["nanoseconds"][name][part] for name in (isa, *peers))
            row += [*(f"{time:.0f}" for time in (ours, *others)), f"{min(others) / ours:.2f}"]
        rows.append([*row, f"{case['bar']:.1f}"])
    return report.markdown_table(rows)


def markdown(results: dict[str, Any]) -> str:
    """Return the results as tables."""
    limits = results["limits"]
    reads = ", ".join(f"{rate:.0f} from {level}" for level, rate in limits["read_by_level"].items())
    text = (
        f"# Steps in C beside RTNeural\n\n{results['machine']['cpu']}, {results['compiler']}; "
        f"RTNeural's by {results['compiler_of_peers']}, {' '.join(PEER_FLAGS[1:3])}. Commit "
        f"{results['commit']}, {results['date']}. One core: {limits['peak']['float32']:.0f} "
        f"GFLOP/s, reads in GB/s: {reads}.\n\n"
        "Nanoseconds of a step, float32, one sequence; medians, measured in turn in one process. "
        "The ratio is the time of the fastest backend / ours, and the bar that of one step a "
        "call.\n"
    )
    for isa in dict.fromkeys(case["isa"] for case in results["cases"]):
        text += f"\n## Ours with {isa}\n\n{table(results, isa)}"
    return text


def main() -> None:
    """Build, check, measure, and write the results."""
    parser = argparse.ArgumentParser("python -m benchmarks.clib", description=__doc__)
    parser.add_argument("--rtneural", type=pathlib.Path, default=os.environ.get("RTNEURAL"))
    folder = HERE / "results" / machine.slug(machine.describe())
    parser.add_argument("--out", type=pathlib.Path, default=folder, metavar="FOLDER")
    args = parser.parse_args()
    if not args.rtneural or not (args.rtneural / "RTNeural/RTNeural.h").exists():
        parser.error("expected the folder of RTNeural's sources, as --rtneural or RTNEURAL")
    cases = []
    with tempfile.TemporaryDirectory() as made:
        program = build(pathlib.Path(made))
        peers = [build_peer(pathlib.Path(made), args.rtneural, backend) for backend in BACKENDS]
        for isa in ("best", "avx2"):
            for I, H in BARS:
                found = measure(program, peers, I, H, isa)
                ours = next(iter(found))
                cases.append({"I": I, "H": H, "isa": ours, "bar": BARS[I, H], "nanoseconds": found})
            if ours != "avx512":
                break
    versions = [
        subprocess.check_output([compiler, "--version"], text=True).splitlines()[0]
        for compiler in (COMPILER, COMPILER_OF_PEERS)
    ]
    results = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine.describe(),
        "limits": machine.limits(),
        "compiler": versions[0],
        "compiler_of_peers": versions[1],
        "backends": BACKENDS,
        "cases": cases,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "clib.json").write_text(json.dumps(results, indent=1) + "\n")
    text = markdown(results)
    (args.out / "clib.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
