"""The doctests: the names they start with, and the module that needs Numba to be imported."""

import importlib.util

import numpy as np
import pytest

collect_ignore = [] if importlib.util.find_spec("numba") else ["fastlstm/engines/_numba.py"]


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace):
    import fastlstm

    doctest_namespace.update(fastlstm=fastlstm, np=np)
