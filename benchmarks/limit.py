"""The least time that a case can take on this machine, from the measured limits of its cores.

The input products of a sequence need no earlier step, so all of them run at the peak. Then every
layer reads its recurrent weights at every step, from the smallest cache that holds them, or
multiplies by them, whichever takes longer. A single step reads all weights. Activations do not
count. Threads share weights and work, and each has the limits of one core.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from . import THREADS
from .cases import Case
from .machine import caches


def level(size: float, levels: Iterable[str]) -> str:
    """Return the first of `levels` that holds `size` bytes, shared by all threads."""
    sizes = caches()
    return next(name for name in levels if size / THREADS <= sizes.get(name, np.inf))


def bytes_read(case: Case) -> tuple[int, int]:
    """Return how many bytes of weights are read again and again, and at how many steps."""
    itemsize = np.dtype(case.dtype).itemsize
    if case.T == 1:
        return itemsize * sum(map(sum, case.layer_work)), 1
    return itemsize * sum(recurrent for _, recurrent in case.layer_work), case.T


def of(case: Case, limits: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Return the case's "least_seconds", the "level" that holds its weights, and "bytes" read."""
    peak = limits["peak"][case.dtype] * 1e9 * THREADS
    size, steps = bytes_read(case)
    layers = 1 if case.T == 1 else case.layers * case.directions
    where = level(size / layers, limits["read_by_level"])
    read = size / (limits["read_by_level"][where] * 1e9 * THREADS)
    rows = (np.arange(case.T)[:, None] < case.lengths).sum(1)  # of each step
    inputs, recurrent = (2 * sum(weights) for weights in zip(*case.layer_work, strict=True))
    if case.T == 1:
        seconds = max(case.operations / peak, read)
    else:
        seconds = rows.sum() * inputs / peak + np.maximum(rows * recurrent / peak, read).sum()
    return {"least_seconds": float(seconds), "level": where, "bytes": size * steps}
