"""The machine: how many processors this process may use, and so how many threads a call may."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import numpy as np

_MOST_THREADS = 1024


def threads(num_threads: object, engine: str) -> int:
    """Return how many threads a call may use: `num_threads`, FASTLSTM_NUM_THREADS, or `cpus()`.

    The engine numpy takes one unless it is told otherwise, for its BLAS has threads of its own.
    """
    if num_threads is None:
        text = os.environ.get("FASTLSTM_NUM_THREADS")
        if not text:
            return 1 if engine == "numpy" else cpus()
        if not (text.isdecimal() and len(text) < 9 and 1 <= int(text) <= _MOST_THREADS):
            raise ValueError(
                f"FASTLSTM_NUM_THREADS must be an int from 1 to {_MOST_THREADS}, got {text!r}"
            )
        return int(text)
    if isinstance(num_threads, bool) or not isinstance(num_threads, (int, np.integer)):
        raise TypeError(f"num_threads should be of type int, got: {type(num_threads).__name__}")
    if not 1 <= num_threads <= _MOST_THREADS:
        raise ValueError(f"num_threads must be from 1 to {_MOST_THREADS}, got {num_threads}")
    return int(num_threads)


def cpus(root: str | os.PathLike[str] = "/") -> int:
    """Return how many processors this process may keep busy, by its affinity and its quotas.

    `root` is where the files of Linux's control groups, versions 2 and 1, are looked for.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    for quota, period in _quotas(os.fspath(root)):
        if quota > 0:
            count = min(count, max(1, quota // period))
    return count


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
