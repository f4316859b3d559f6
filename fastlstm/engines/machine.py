"""The machine: how many processors this process may use, and so how many threads a call may."""

from __future__ import annotations

import contextlib
import os
import pathlib
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
    for quota, period in _quotas(pathlib.Path(root)):
        if quota > 0:
            count = min(count, max(1, quota // period))
    return count


def _quotas(root: pathlib.Path) -> Iterator[tuple[int, int]]:
    """Yield the quota of each control group that this process is in.

    A quota is a pair: so many microseconds of processor time, in so many microseconds.
    """
    groups = root / "sys/fs/cgroup"
    with contextlib.suppress(OSError, ValueError):
        lines = (root / "proc/self/cgroup").read_text().splitlines()
        own = next((line[3:] for line in lines if line.startswith("0::")), "/")
        group = groups / own.strip("/")
        for folder in (group, *group.parents):
            if (folder / "cpu.max").exists():
                quota, period = (folder / "cpu.max").read_text().split()
                yield (0 if quota == "max" else int(quota)), int(period)
    with contextlib.suppress(OSError, ValueError):
        folder = groups / "cpu"
        quota, period = (
            (folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
        )
        yield int(quota), int(period)
