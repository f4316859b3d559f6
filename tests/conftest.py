"""What every test may ask for: an engine, a dtype, and the tolerance of the two."""

import collections
import functools
import pathlib
import signal

import pytest
import support
from hypothesis import settings

from fastlstm.engines import MODULES, load

# How long an example takes is a matter of what else the machine does.
settings.register_profile("fastlstm", deadline=None)
settings.load_profile("fastlstm")

collect_ignore = ["data"]  # makers of the stored files: they need the frameworks that made them

# Tests of the sources, which are not there where an installed wheel is tested.
OF_SOURCES = """benchmarks build build_windows coming_from cut_model docs examples examples_c
    examples_classics examples_hosts examples_torch examples_training house matlab model_c native_c
    release site"""
if not pathlib.Path(__file__).parents[1].joinpath("setup.py").exists():
    collect_ignore += [f"test_{name}.py" for name in OF_SOURCES.split()]


def pytest_addoption(parser):
    parser.addoption(
        "--require-engines", action="store_true", help="a missing engine is a failure, not a skip"
    )
    parser.addoption(
        "--require-native", action="store_true", help="the native engine must not be missing"
    )


def pytest_sessionstart():
    """Hear Ctrl-C, for the tests that send it: a shell lets what it starts with `&` ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Begin with the files that have slow tests, and with the largest: what comes last ends soon.

    So no process waits long for the other where two share the files.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    sizes = collections.Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path not in slow, -sizes[item.path]))


# Scope "session" throughout: the values never change, and hypothesis wants no fixture per test.


def _engine(config, name):
    try:
        load(name)
    except ImportError as error:
        native = name == "native" and config.getoption("--require-native")
        if native or config.getoption("--require-engines"):
            pytest.fail(str(error))
        pytest.skip(str(error))
    return name


@pytest.fixture(params=MODULES, scope="session")
def engine(request):
    """The name of each engine."""
    return _engine(request.config, request.param)


@pytest.fixture(params=[name for name in MODULES if name != "numpy"], scope="session")
def exact_engine(request):
    """The engines without BLAS, which promise the same bits however the work is cut."""
    return _engine(request.config, request.param)


@pytest.fixture(scope="session")
def native(request):
    """The native engine's module."""
    return load(_engine(request.config, "native"))


@pytest.fixture(params=["float32", "float64"], scope="session")
def dtype(request):
    return request.param


@pytest.fixture(scope="session")
def tolerance(engine, dtype):
    """`support.tolerance` of this engine and dtype: (terms, magnitude) -> keywords of allclose."""
    return functools.partial(support.tolerance, engine, dtype)


@pytest.fixture(scope="session")
def torch():
    """The framework whose names, shapes and values are ours."""
    return pytest.importorskip("torch", reason="compares with torch, which is not installed")
