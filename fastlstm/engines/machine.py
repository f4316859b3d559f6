"""The machine: how many processors this process may use, and so how many threads a call may.

Also its caches, as the environment or Linux tells; the native engine asks the processor itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

_MOST_THREADS = 1024


def threads(num_threads: object, engine: str) -> int:
    """Return how many threads a call may use: `num_threads`, FASTLSTM_NUM_THREADS, or `cpus()`.

    The engine numpy takes one unless it is told otherwise, for its BLAS has threads of its own.
    """
    if num_threads is None:
        return asked_threads() or (1 if engine == "numpy" else cpus())
    if isinstance(num_threads, bool) or not isinstance(num_threads, (int, np.integer)):
        raise TypeError(f"num_threads should be of type int, got: {type(num_threads).__name__}")
    if not 1 <= num_threads <= _MOST_THREADS:
        raise ValueError(f"num_threads must be from 1 to {_MOST_THREADS}, got {num_threads}")
    return int(num_threads)


def asked_threads() -> int | None:
    """Return how many threads FASTLSTM_NUM_THREADS names, or None."""
    text = os.environ.get("FASTLSTM_NUM_THREADS")
    if not text:
        return None
    if text.isdecimal() and len(text) < 9 and 1 <= int(text) <= _MOST_THREADS:
        return int(text)
    raise ValueError(f"FASTLSTM_NUM_THREADS must be an int from 1 to {_MOST_THREADS}, got {text!r}")


class Caches(NamedTuple):
    """The data caches that one core uses, in bytes; `l3` is 0 if there is no third level."""

    l1: int
    l2: int
    l3: int
    l3_sharers: int  # how many processors share the third level

    def __str__(self) -> str:
        l1, l2, l3 = (f"{n >> 20} MB" if n >= 1 << 20 else f"{n >> 10} KB" for n in self[:3])
        return f"L1 {l1}, L2 {l2}" + (f", L3 {l3} for {self.l3_sharers}" if self.l3 else "")


def asked_caches() -> Caches | None:
    """Return the caches that FASTLSTM_CACHES names, or None: the engine is to ask the machine.

    The variable is for tests and experiments. It changes the time of a call and no value.
    """
    text = os.environ.get("FASTLSTM_CACHES")
    if not text:
        return None
    found = re.fullmatch(
        r"([0-9]{1,6}[KM]),([0-9]{1,6}[KM]),(0|[0-9]{1,6}[KM]),([1-9][0-9]{0,3})", text
    )
    if found:
        l1, l2, l3 = (
            int(size.rstrip("KM")) << (20 if size.endswith("M") else 10)
            for size in found.groups()[:3]
        )
        if 4096 <= l1 <= l2 and (l3 == 0 or l2 <= l3):
            return Caches(l1, l2, l3, int(found[4]))
    raise ValueError(
        "FASTLSTM_CACHES must be the sizes of the first, second and third level (or 0 for none), "
        "none smaller than the one before, and how many processors share the third, as in "
        f"48K,2M,32M,8; got {text!r}"
    )


# Where nothing tells, or what it tells cannot be: those of a small machine of today.
_USUAL = Caches(32 << 10, 512 << 10, 8 << 20, 4)


def caches(root: str | os.PathLike[str] = "/") -> Caches:
    """Return the caches that FASTLSTM_CACHES names, or else those of the first processor.

    `root` is where the files of Linux are looked for. Where there are none, they are usual ones.
    """
    asked = asked_caches()
    if asked is not None:
        return asked
    folder = os.path.join(root, "sys", "devices", "system", "cpu", "cpu0", "cache")
    told: dict[int, tuple[int, int]] = {}  # of each level, bytes and sharers
    with contextlib.suppress(OSError, ValueError):
        for name in os.listdir(folder):
            if name.startswith("index") and _text(folder, name, "type").strip() != "Instruction":
                level, size, processors = (
                    _text(folder, name, file).strip()
                    for file in ("level", "size", "shared_cpu_list")
                )
                unit = 1 << (20 if size.endswith("M") else 10)
                told[int(level)] = int(size.rstrip("KM")) * unit, _listed(processors)
    # Virtual machines can have any numbers, and some have none.
    (l1, _), (l2, _), (l3, sharers) = (told.get(level, (0, 1)) for level in (1, 2, 3))
    if not 4 << 10 <= l1 <= 1 << 20 or not 2 * l1 <= l2 <= 64 << 20:
        return _USUAL
    return Caches(l1, l2, l3 if l3 >= l2 else 0, sharers)


def _listed(processors: str) -> int:
    """Return how many processors a list such as 0-3,8-11 names."""
    ranges = (part.partition("-") for part in processors.split(","))
    return sum(int(last or first) - int(first) + 1 for first, _, last in ranges)


def cpus(root: str | os.PathLike[str] = "/") -> int:
    """Return how many processors this process may keep busy, by its affinity and its quotas.

    `root` is where the files of Linux's control groups, versions 2 and 1, are looked for.
    """
    count = _allowed() or os.cpu_count() or 1
    for quota, period in _quotas(os.fspath(root)):
        if quota > 0:
            count = min(count, max(1, quota // period))
    return count


def _allowed() -> int:
    """Return how many processors this process may run on, or 0 where nothing tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    if sys.platform == "win32":
        here, there = ctypes.c_size_t(), ctypes.c_size_t()  # sets, with a bit for each processor
        own = ctypes.c_void_p(-1)  # this process
        kernel = ctypes.WinDLL("kernel32")
        # No bit is set if the process runs in several groups, of up to 64 processors each.
        if kernel.GetProcessAffinityMask(own, ctypes.byref(here), ctypes.byref(there)):
            return here.value.bit_count()
    return 0


def _quotas(root: str) -> Iterator[tuple[int, int]]:
    """Yield the quota of each control group that this process is in.

    A quota is a pair: so many microseconds of processor time, in so many microseconds. Every layer
    that an engine computes asks for it when it is built, and a pathlib.Path takes as long as what
    it reads.
    """
    groups = os.path.join(root, "sys", "fs", "cgroup")
    with contextlib.suppress(OSError, ValueError):
        lines = _text(root, "proc", "self", "cgroup").splitlines()
        own = next((line[3:] for line in lines if line.startswith("0::")), "/")
        names = [name for name in own.split("/") if name]
        for depth in range(len(names), -1, -1):
            with contextlib.suppress(FileNotFoundError):
                quota, period = _text(groups, *names[:depth], "cpu.max").split()
                yield (0 if quota == "max" else int(quota)), int(period)
    with contextlib.suppress(OSError, ValueError):
        quota, period = (_text(groups, "cpu", f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        yield int(quota), int(period)


def _text(*path: str) -> str:
    with open(os.path.join(*path), encoding="utf-8", errors="surrogateescape") as file:
        return file.read()
