"""fastlstm and its peers, measured in turn in one run; README.md has the protocol.

Importing this package pins every library to one thread. They look at these variables when they are
loaded, so it has to come before them.
"""

import os
import sys

THREADS = 1
_VARIABLES = (
    "FASTLSTM_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
_pinned = dict.fromkeys(_VARIABLES, str(THREADS))

if "numpy" in sys.modules and not _pinned.items() <= os.environ.items():
    raise RuntimeError(
        "benchmarks must be imported before NumPy, to pin its threads: expected "
        "`python -m benchmarks.compare` or `python -m pytest -p benchmarks benchmarks`"
    )
os.environ.update(_pinned)
