"""The machine: its name, and the limits of one core, measured by two loops of LLVM vectors.

``python -m benchmarks.machine`` prints both.
"""

from __future__ import annotations

import functools
import os
import pathlib
import platform
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numba
import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import report

_FEATURES = {name for name, there in binding.get_host_cpu_features().items() if there}
_ARM = binding.get_process_triple().startswith(("aarch64", "arm64"))
_FMA = _ARM or "fma" in _FEATURES
VECTOR_BYTES = 64 if "avx512f" in _FEATURES else 32 if "avx" in _FEATURES else 16
# sums under way at once: as many as leave room for the operands in 32 registers, or in 16
_SUMS = 24 if _ARM or "avx512f" in _FEATURES else 12
_STREAMS = 8
_INT = ir.IntType(64)


def _loop(
    builder: ir.IRBuilder,
    count: ir.Value,
    sums: Sequence[ir.Value],
    offset: ir.Value,
    body: Callable[[list[ir.Value], ir.Value], tuple[list[ir.Value], ir.Value]],
) -> ir.Value:
    """Emit ``for _ in range(count): sums, offset = body(sums, offset)``.

    Returns lane 0 of sum(sums).
    """
    before, loop = builder.block, builder.append_basic_block("loop")
    after = builder.append_basic_block("after")
    builder.branch(loop)
    builder.position_at_end(loop)
    carried = [count, offset, *sums]
    phis = [builder.phi(value.type) for value in carried]
    left, at, *values = phis
    values, at = body(values, at)
    left = builder.sub(left, _INT(1))
    for phi, first, later in zip(phis, carried, (left, at, *values), strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(later, loop)
    builder.cbranch(builder.icmp_signed(">", left, _INT(0)), loop, after)
    builder.position_at_end(after)
    total = functools.reduce(builder.fadd, values)
    return builder.extract_element(total, ir.IntType(32)(0))


def _vector(context: Any, dtype: types.Float) -> ir.VectorType:
    return ir.VectorType(context.get_value_type(dtype), VECTOR_BYTES * 8 // dtype.bitwidth)


@intrinsic
def _multiply_add(typing, count, factor, addend):
    """`count` times s = s * factor + addend, for _SUMS vectors s that are independent."""

    def emit(context, builder, signature, args):
        kind = _vector(context, signature.return_type)
        suffix = f"v{kind.count}f{signature.return_type.bitwidth}"
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(kind, [kind] * 3),
            f"llvm.{'fma' if _FMA else 'fmuladd'}.{suffix}",
        )
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), kind.count), [0] * kind.count)
        undefined = ir.Constant(kind, ir.Undefined)
        factor, addend = (
            builder.shuffle_vector(
                builder.insert_element(undefined, value, ir.IntType(32)(0)), undefined, lanes
            )
            for value in args[1:]
        )
        sums = [ir.Constant(kind, [float(n)] * kind.count) for n in range(_SUMS)]
        return _loop(
            builder, args[0], sums, _INT(0),
            lambda values, at: ([builder.call(function, [v, factor, addend]) for v in values], at),
        )  # fmt: skip

    return factor(types.int64, factor, factor), emit


@intrinsic
def _read(typing, count, address, size):
    """`count` times the next _STREAMS vectors of `size` bytes, a power of 2, at `address`."""

    def emit(context, builder, signature, args):
        kind = _vector(context, types.float32)
        count, address, size = args
        mask = builder.sub(size, _INT(1))

        def body(values, at):
            base = builder.add(address, at)
            added = []
            for n, value in enumerate(values):
                place = builder.add(base, _INT(n * VECTOR_BYTES))
                pointer = builder.inttoptr(place, kind.as_pointer())
                added.append(builder.fadd(value, builder.load(pointer, align=VECTOR_BYTES)))
            return added, builder.and_(builder.add(at, _INT(_STREAMS * VECTOR_BYTES)), mask)

        zero = ir.Constant(kind, [0.0] * kind.count)
        return _loop(builder, count, [zero] * _STREAMS, _INT(0), body)

    return types.float32(types.int64, types.int64, types.int64), emit


@numba.njit(nogil=True)
def multiply_add(count: int, factor: float, addend: float) -> float:
    return _multiply_add(count, factor, addend)


@numba.njit(nogil=True)
def read(count: int, address: int, size: int) -> float:
    return _read(count, address, size)


def _best(call: Callable[[], object], amount: float, seconds: float) -> float:
    """Return the greatest rate, the amount of one call over its time, in `seconds` of calls."""
    call()
    end, best = time.perf_counter() + seconds, np.inf
    while time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - begin)
    return amount / best


def peak(dtype: str, seconds: float = 0.3) -> float:
    """Return the GFLOP/s of one core in fused multiply-adds of `dtype` that touch no memory."""
    number, count = np.dtype(dtype).type, 200_000
    operations = 2 * count * _SUMS * VECTOR_BYTES // np.dtype(dtype).itemsize
    call = functools.partial(multiply_add, count, number(0.9999), number(1e-6))
    return _best(call, operations, seconds) / 1e9


def bandwidth(size: int, seconds: float = 0.1) -> float:
    """Return the GB/s of one core that reads `size` bytes, a power of 2, over and over."""
    room = np.ones((size + 64) // 4, np.float32)
    aligned = room.ctypes.data + -room.ctypes.data % 64
    per_count = _STREAMS * VECTOR_BYTES
    count = max(size, 1 << 23) // per_count
    call = functools.partial(read, count, aligned, size)
    return _best(call, count * per_count, seconds) / 1e9


def _data_caches() -> Iterator[tuple[str, pathlib.Path]]:
    """Yield the name and the folder of each of a core's data caches; none without Linux."""
    for index in sorted(pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if (index / "type").read_text().strip() != "Instruction":
            yield f"L{(index / 'level').read_text().strip()}", index


def caches() -> dict[str, int]:
    """Return the sizes of a core's data caches in bytes, {"L1": ..., ...}; none without Linux."""
    sizes = {name: (index / "size").read_text().strip() for name, index in _data_caches()}
    return {name: int(size.removesuffix("K")) * 1024 for name, size in sizes.items()}


def sharers() -> dict[str, int]:
    """Return how many of the system's cores share each of these caches, {"L1": 1, ...}."""
    lists = {n: (index / "shared_cpu_list").read_text().strip() for n, index in _data_caches()}
    return {name: count_cpus(text) for name, text in lists.items()}


def count_cpus(text: str) -> int:
    """Return how many CPUs are in a list of Linux, as 0-3,8."""
    ends = (part.split("-") for part in text.split(","))
    return sum(int(end[-1]) - int(end[0]) + 1 for end in ends)


def limits(seconds: float = 0.1) -> dict[str, dict[str, float]]:
    """Measure {"peak": GFLOP/s by dtype, "read": GB/s by KB read, "read_by_level": GB/s}.

    The figure of a level is the best one of the sizes that fit into it and not into the one before.
    Sizes go up to 128 MB, and up to twice the last cache where that is at most 1 GB. Each size is
    read for so many seconds.
    """
    largest = min(max(caches().values(), default=0), 1 << 29)
    sizes = [1 << n for n in range(14, max(28, (2 * largest - 1).bit_length() + 1))]
    curve = {size: bandwidth(size, seconds) for size in sizes}
    levels, below = {}, 0
    for level, size in (*caches().items(), ("memory", np.inf)):
        within = [rate for n, rate in curve.items() if below < n <= size]
        if within:
            levels[level] = max(within)
        below = size
    return {
        "peak": {dtype: peak(dtype) for dtype in ("float32", "float64")},
        "read": {str(size // 1024): rate for size, rate in curve.items()},
        "read_by_level": levels,
    }


def describe() -> dict[str, Any]:
    """Return the name and the features of the CPU, and the operating system."""
    name = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        lines = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        name = {key.strip(): value.strip() for key, value in lines.items()}.get("model name", name)
    return {
        "cpu": name,
        "architecture": binding.get_host_cpu_name(),
        "vector_bits": VECTOR_BYTES * 8,
        "features": " ".join(sorted(_FEATURES)),
        "caches": caches(),
        "sharers": sharers(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def slug(described: dict[str, Any]) -> str:
    """Return a name for the folder of a machine's results, as intel-xeon-avx512-2cores.

    LLVM's name for the architecture is a part of it for AMD's processors, of which systems often
    know no more than EPYC. LLVM errs about Intel's where a virtual machine gives another's number.
    """
    name = re.sub(r"\(\w+\)|@.*|\bCPU\b|\bProcessor\b|\d+-Core", " ", described["cpu"])
    zen = re.fullmatch(r"znver(\d)", described["architecture"])
    arm = described["system"].endswith(("aarch64", "arm64"))
    vectors = {512: "avx512", 256: "avx2"}.get(described["vector_bits"], "neon" if arm else "sse")
    words = [name, f"zen{zen[1]}" if zen else "", vectors, f"{described['cores']}cores"]
    return "-".join(re.findall(r"[a-z0-9]+", " ".join(words).lower()))


def main() -> None:
    """Print the machine's name, its limits, and the folder of its results."""
    described = describe()
    print(f"{described['cpu']}, {described['cores']} cores; results/{slug(described)}\n")
    print(report.limits_table(described, limits()))


if __name__ == "__main__":
    main()
