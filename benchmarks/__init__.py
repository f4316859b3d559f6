"""Measurements of fastlstm and its peers, in turn and in one run; README.md has the protocol.

Importing this package pins every library to one thread, or to two where the command line says
``--threads 2``. Libraries read the variables when they are loaded, so this package must come first.
"""

import argparse
import os
import sys

COMMAND = argparse.ArgumentParser(
    "python -m benchmarks.compare", add_help=False, allow_abbrev=False
)
COMMAND.add_argument(
    "--threads", type=int, choices=(1, 2), default=1, help="for everyone; default: 1"
)
THREADS = COMMAND.parse_known_args()[0].threads
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
