"""Measurements of fastlstm and its peers, in turn and in one run; README.md has the protocol.

Importing this package pins every library to one thread, or to as many as the command line says:
``--threads 4``. Libraries read the variables when they are loaded, so this package must come first.
Several numbers, ``--threads 1,2,4``, are for `scaling`, which starts a process for each.
"""

import argparse
import os
import sys


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _numbers(text: str) -> tuple[int, ...]:
    """Read 1,2,4: numbers of threads, of which none may be without a processor of its own."""
    try:
        numbers = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers as 1,2,4, got {text!r}") from None
    for number in numbers:
        if not 1 <= number <= processors():
            raise argparse.ArgumentTypeError(
                f"expected from 1 to {processors()} threads, as many as there are processors for "
                f"this process, got {number}"
            )
    return numbers


COMMAND = argparse.ArgumentParser(
    "python -m benchmarks.compare", add_help=False, allow_abbrev=False
)
COMMAND.add_argument(
    "--threads", type=_numbers, default=(1,), metavar="N[,N...]",
    help="for everyone; several, as 1,2,4: one after the other, and how times scale; default: 1",
)  # fmt: skip
NUMBERS = COMMAND.parse_known_args()[0].threads
THREADS = NUMBERS[-1]
_VARIABLES = (
    "FASTLSTM_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NPROC",  # XLA's, of JAX
)
# Only our engine `numpy` uses NumPy's BLAS, and its threads are slices of the batch.
_BLAS = ("OPENBLAS_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_pinned = {**dict.fromkeys(_VARIABLES, str(THREADS)), **dict.fromkeys(_BLAS, "1")}

if "numpy" in sys.modules and not _pinned.items() <= os.environ.items():
    raise RuntimeError(
        "benchmarks must be imported before NumPy, to pin its threads: expected "
        "`python -m benchmarks.compare` or `python -m pytest -p benchmarks benchmarks`"
    )
os.environ.update(_pinned)
