"""What holds for doctests and tests: threads of others, the names of doctests, what needs Numba."""

import importlib.util
import os
import shutil

# Read when NumPy and torch are imported. On arrays as small as the tests', a second thread of
# BLAS or torch spins for longer than it works.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest

# Files that a missing library keeps from being imported, or whose examples use it.
NEEDS = {
    "numba": ["fastlstm/engines/_numba*.py"],
    "matplotlib": ["fastlstm/plot.py", "fastlstm/visualize.py"],
    "pandas": ["fastlstm/training/splitting.py"],
    "torch": ["fastlstm/torch/*.py"],
    "dask": ["fastlstm/dask.py"],
    "mpi4py": ["fastlstm/training/mpi.py"],
    "fastlstm.engines._native": ["fastlstm/torch/*.py"],
}
collect_ignore_glob = [
    file
    for library, files in NEEDS.items()
    if not importlib.util.find_spec(library)
    for file in files
]
if not shutil.which("mpirun"):  # mpi4py's wheel comes without the library that it needs
    collect_ignore_glob.append("fastlstm/training/mpi.py")


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace):
    import fastlstm

    doctest_namespace.update(fastlstm=fastlstm, np=np)
