"""How large the C library is, built in several ways, and how much memory a stream takes.

``python -m benchmarks.clib_sizes`` needs CMake, and for the small machines their cross compilers.
Nothing is timed: the sizes depend on the compiler and not on the machine.
"""

from __future__ import annotations

import json
import pathlib
import re
import shutil
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
NATIVE = ROOT / "fastlstm" / "native"
RESULTS = pathlib.Path(__file__).parent / "results"
FLOAT = ["-DFASTLSTM_DTYPE=float"]
INFERENCE = ["-DFASTLSTM_TRAINING=OFF"]
PORTABLE = [*FLOAT, *INFERENCE, "-DFASTLSTM_ISA=baseline", "-DFASTLSTM_THREADS=OFF"]
SMALLEST = [*PORTABLE, "-DCMAKE_BUILD_TYPE=MinSizeRel"]
# What is built: the prefix of the compiler and its tools, and the options.
BUILDS = {
    **{
        f"{isa}, float{what}": ("", [*FLOAT, f"-DFASTLSTM_ISA={isa}", *options])
        for isa in ("avx512", "avx2", "baseline")
        for what, options in (("", []), (", no training", INFERENCE))
    },
    "neon, float, no training": (
        "aarch64-linux-gnu-",
        [*FLOAT, *INFERENCE, "-DFASTLSTM_ISA=neon"],
    ),
    **{
        f"{isa}, float, no training, no threads": (
            "",
            [*FLOAT, *INFERENCE, f"-DFASTLSTM_ISA={isa}", "-DFASTLSTM_THREADS=OFF"],
        )
        for isa in ("avx512", "avx2")
    },
    "portable, x86-64": ("", PORTABLE),
    "portable, arm": ("arm-linux-gnueabihf-", PORTABLE),
    "portable, riscv64": ("riscv64-linux-gnu-", PORTABLE),
    "portable, smallest, arm": ("arm-linux-gnueabihf-", SMALLEST),
    "portable, smallest, riscv64": ("riscv64-linux-gnu-", SMALLEST),
    "everything": ("", []),
}
# A program that streams one layer, whose weights come from elsewhere; it prints what it takes.
PROGRAM = """
#include <stdio.h>
#include <stdlib.h>
#include "fastlstm.h"
int main(void)
{
    for (const int *H = (const int[]){16, 32, 40, 0}; *H; H++) {
        const fl_shape shape = {.struct_size = sizeof shape, .itemsize = 4, .layers = 1,
                                .directions = 1, .input = 1, .hidden = *H, .output = *H};
        float *w = calloc(4 * *H * (1 + *H), sizeof *w), x = 0, *y = calloc(*H, sizeof *y);
        const fl_arrays arrays = {.struct_size = sizeof arrays, .w_ih = w, .w_hh = w + 4 * *H};
        const size_t size = fl_stack_bytes(&shape, fl_isa("baseline"));
        fl_stack *stack;
        if (fl_pack(aligned_alloc(64, size), size, &shape, fl_isa("baseline"), &arrays, &stack))
            return 1;
        const size_t states = fl_stream_bytes(stack, 1);
        fl_stream *stream;
        void *memory = aligned_alloc(64, states);
        if (fl_make_stream(memory, states, stack, 1, &stream) || fl_step(stream, &x, y))
            return 1;
        printf("%d %zu %zu\\n", *H, size, states);
    }
}
"""


def output(*command: str | pathlib.Path) -> str:
    """Return what a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def text_and_data(size: str, path: pathlib.Path, members: set[str] | None = None) -> int:
    """Return the bytes of code and of initialised data in an archive, or in some members of it."""
    lines = [line.split() for line in output(size, path).splitlines()[1:]]
    return sum(int(n) for line in lines if not members or line[5] in members for n in line[:2])


def build(prefix: str, options: list[str], folder: pathlib.Path) -> dict[str, int]:
    """Build the library; return its sizes in bytes: the stripped shared one, and the archive."""
    built = folder / "build"
    shutil.rmtree(built, ignore_errors=True)
    cross = [f"-DCMAKE_C_COMPILER={prefix}gcc"]
    cross += ["-DCMAKE_SYSTEM_NAME=Linux"] * bool(prefix)
    output("cmake", "-S", NATIVE, "-B", built, "-DBUILD_TESTING=OFF", *cross, *options)
    output("cmake", "--build", built, "--parallel", "2")
    output(f"{prefix}strip", built / "libfastlstm.so")
    archive, program, mapped = built / "libfastlstm.a", folder / "program", folder / "map"
    (folder / "program.c").write_text(PROGRAM)
    link = [f"{prefix}gcc", "-std=c11", f"-I{NATIVE}", folder / "program.c", archive]
    output(*link, "-lm", "-pthread", f"-Wl,-Map={mapped}", "-o", program)
    # the members that a program takes which runs one layer, without a file of a model
    taken = set(re.findall(r"libfastlstm\.a\((\S+?)\)", mapped.read_text()))
    return {
        "stripped": (built / "libfastlstm.so").stat().st_size,
        "code": text_and_data(f"{prefix}size", archive),
        "stream": text_and_data(f"{prefix}size", archive, taken),
    }


def stream_of(folder: pathlib.Path) -> dict[str, dict[str, int]]:
    """Return what a layer of one input takes in the portable build, packed and as a stream."""
    (folder / "program.c").write_text(PROGRAM)
    left_out = ["-DFL_NO_THREADS", "-DFL_NO_DOUBLE", "-DFL_NO_TRAINING"]
    sources = sorted(NATIVE.glob("*.c"))
    flags = ["-std=c11", "-O0", "-ffp-contract=off", *left_out, f"-I{NATIVE}"]
    output("gcc", *flags, folder / "program.c", *sources, "-lm", "-o", folder / "program")
    rows = [map(int, line.split()) for line in output(folder / "program").splitlines()]
    return {f"I 1, H {H}": {"weights": w, "stream": s} for H, w, s in rows}


def measure() -> dict[str, object]:
    """Build everything that there is a compiler for."""
    sizes = {}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for what, (prefix, options) in BUILDS.items():
            if shutil.which(f"{prefix}gcc"):
                sizes[what] = build(prefix, options, folder)
                print(what, sizes[what], flush=True)
        memory = stream_of(folder)
    compiler = output("gcc", "--version").splitlines()[0]
    return {"compiler": compiler, "sizes": sizes, "memory": memory}


def table(measured: dict) -> str:
    """Return the results as Markdown."""
    lines = [f"Bytes of the C library, built by {measured['compiler']}, -O2 unless it is said.", ""]
    lines += ["| build | stripped, shared | archive: code, constants | of it, a stream's |"]
    lines += ["| --- | ---: | ---: | ---: |"]
    for what, sizes in measured["sizes"].items():
        lines.append("| " + " | ".join([what, *(f"{n:,}" for n in sizes.values())]) + " |")
    lines += [
        "",
        "Memory of one layer in float, one sequence, in the portable build for x86-64:",
        "",
    ]
    lines += ["| layer | packed weights, bytes | stream, bytes |", "| --- | ---: | ---: |"]
    for what, bytes_ in measured["memory"].items():
        lines.append(f"| {what} | {bytes_['weights']:,} | {bytes_['stream']:,} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    measured = measure()
    (RESULTS / "clib_sizes.json").write_text(json.dumps(measured, indent=1) + "\n")
    (RESULTS / "clib_sizes.md").write_text(table(measured))
    print(table(measured))
