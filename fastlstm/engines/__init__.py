"""The engines: which ones there are, and how one is chosen.

An engine is a module that exports what `fastlstm.engines.contract` says: `Stack` and `Product`,
which compute, `line`, which joins them for a stream, `update` and `is_finite` for training,
`prepare` and `describe`.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import warnings
from typing import TYPE_CHECKING, cast

from . import contract
from ._layers import is_finite as is_finite

__doc__ += f"\n{contract.__doc__}"  # so that help(fastlstm.engines) shows the equations

if TYPE_CHECKING:
    from typing import Literal, TypeAlias

    EngineName: TypeAlias = Literal["native", "numba", "numpy"]
    EngineChoice: TypeAlias = Literal["auto"] | EngineName

    from . import _native, _numba, _numpy

    _EXPORTS: list[contract.Engine] = [_native, _numba, _numpy]  # a type checker compares each

MODULES = {"native": "._native", "numba": "._numba", "numpy": "._numpy"}  # in order of preference
_REMEDIES = {
    # pip may have kept a wheel that was built without the engine
    "native": "install a C compiler (GCC or Clang), then, in the folder of fastlstm's source, "
    "pip install --force-reinstall --no-deps --no-cache-dir .",
    "numba": "pip install numba",
    "numpy": "pip install numpy",
}


@functools.cache
def load(name: str) -> contract.Engine:
    """Return the engine's module. If it is missing, an ImportError says how to get it."""
    if name not in MODULES:
        raise ValueError(f"engine must be one of {', '.join(('auto', *MODULES))}, got {name!r}")
    try:
        return cast(contract.Engine, importlib.import_module(MODULES[name], __package__))
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError)
        way_out = f". To get it: {_REMEDIES[name]}" if missing else ""
        raise ImportError(f"engine {name!r} is not available here ({error}){way_out}") from error


def choose(name: str = "auto") -> tuple[EngineName, contract.Engine]:
    """Return (name, module) of the engine: `name`, or FASTLSTM_ENGINE, or the first there is.

    Only "auto" looks at the environment variable and falls back on another engine. An engine that
    is asked for and missing is an ImportError. A process that falls back on numpy is warned once.
    """
    name = _asked(name)
    if name == "auto":
        name = _first()
        if name == "numpy":
            _warn_of_numpy()
    return cast("EngineName", name), load(name)


def _asked(name: str) -> str:
    """The engine that is asked for, here or in the environment; "auto" if none is."""
    if name != "auto":
        return name
    name = os.environ.get("FASTLSTM_ENGINE") or "auto"
    if name not in ("auto", *MODULES):
        known = ", ".join(("auto", *MODULES))
        raise ValueError(f"FASTLSTM_ENGINE must be one of {known}, got {name!r}")
    return name


def _first() -> str:
    """The first engine that can be loaded."""
    return next(name for name in MODULES if _why_missing(name) is None)


def _why_missing(name: str) -> str | None:
    """Why an engine cannot be loaded, and how to get it; None if it can be loaded."""
    try:
        load(name)
    except ImportError as error:
        return str(error)
    return None


@functools.cache
def _warn_of_numpy() -> None:
    reasons = "; ".join(filter(None, map(_why_missing, MODULES)))
    package, frame, level = __name__.split(".")[0], sys._getframe(), 1
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] == package:
        frame, level = frame.f_back, level + 1  # up to the line that makes a layer
    warnings.warn(
        "fastlstm runs on its engine numpy here, which takes 2 to 50 times as long as the others. "
        f'{reasons}. To stay with numpy without this warning: engine="numpy", or '
        "FASTLSTM_ENGINE=numpy in the environment",
        stacklevel=level,
    )


def get_include() -> str:
    """Return the folder of the C library's header, ``fastlstm.h``.

    It has the library's sources too, and their ``CMakeLists.txt``: ``cmake -S`` takes it.

    Returns
    -------
    str
        The path of the folder.

    Examples
    --------
    >>> import pathlib, fastlstm
    >>> pathlib.Path(fastlstm.get_include(), "fastlstm.h").exists()
    True
    """
    return os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "native")


def engine_info() -> dict[str, dict[str, object]]:
    """Tell which engines there are, what each runs on, and why one is missing.

    Returns
    -------
    dict of str -> dict
        In order of preference: "native", "numba", "numpy". Each has "available" (bool) and
        "default" (bool: what ``engine="auto"`` takes now), and either what the engine says of
        itself ("version", "instruction_set", "caches", ...) or "reason", why it is missing and how
        to get it.

    Examples
    --------
    >>> fastlstm.engine_info()["numpy"]["available"]
    True
    """
    default = _asked("auto")
    if default == "auto":
        default = _first()
    table: dict[str, dict[str, object]] = {}
    for name in MODULES:
        try:
            table[name] = {"available": True, "default": name == default, **load(name).describe()}
        except ImportError as error:
            table[name] = {"available": False, "default": False, "reason": str(error)}
    return table
