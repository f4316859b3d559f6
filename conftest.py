"""Leaves out of the doctest run the one module that cannot be imported without Numba."""

import importlib.util

collect_ignore = [] if importlib.util.find_spec("numba") else ["fastlstm/engines/_numba.py"]
