"""The seam: what an engine is, which ones there are, and how one is chosen.

Legend, used by every engine::

    T steps, B sequences (rows), I input size, H hidden size, P output size (H, or proj_size)
    N = sum(batch_sizes), the real steps of all sequences together
    gates i, f, g, o in torch's order: rows 0:H, H:2H, 2H:3H, 3H:4H of every (4H, ...) array
    z the gates' pre-activations; h the output state, c the cell state

One step of one layer in one direction::

    z = W_ih x + W_hh h + b                                              (1)
    i = sigmoid(z_i); f = sigmoid(z_f); g = tanh(z_g); o = sigmoid(z_o)  (2)
    c = f * c + i * g                                                    (3)
    h = o * tanh(c)                                                      (4)
    h = W_hr h                                    only with a projection (5)

(Hochreiter & Schmidhuber 1997; forget gate: Gers, Schmidhuber & Cummins 2000; projection: Sak,
Senior & Beaufays 2014.)

**The contract.** An engine is a module with these functions. The caller has checked and
allocated what is listed; an engine checks nothing, fills what it is given, keeps nothing that
could change a result, and may be called from many threads at once.

``prepare(dtype)``
    Makes ready what can be made ready before the first call, as compiling.

``pack(w_ih, w_hh, b, w_hr) -> weights``
    Brings one layer's parameters in one direction, (4H, I), (4H, P), (4H,) and (P, H) or None,
    all of one dtype, into the engine's own order, in memory of its own. Called once per version
    of the parameters; `weights` means nothing to anyone else, and its values do not change.

``run(weights, x, batch_sizes, h, c, y, reverse)``
    One layer in one direction over whole sequences, equations (1) to (5).

    - `x` (N, I): the rows of step 0, then of step 1, ...; any distance between rows, values of
      one row side by side, aligned. Not written.
    - `batch_sizes` (T,) int64, not increasing: step t has the rows of the first
      ``batch_sizes[t]`` sequences, so that sequences are sorted by length, longest first.
    - `h` (B, P), `c` (B, H): C-contiguous, initial states in, and each sequence's state after
      its own last step out (with `reverse`, after its step 0).
    - `y` (N, P): h of every step, at its x's row. Filled; rows may lie apart, as `x`'s.
    - `reverse`: from each sequence's own last step to step 0.

``describe() -> dict``
    For `engines`: the instruction set that runs, and the like.
"""

import functools
import importlib
import os

import numpy as np

MODULES = {"numba": "._numba", "numpy": "._numpy"}  # in order of preference
_REMEDIES = {"numba": 'pip install "fastlstm[numba]"', "numpy": "pip install numpy"}


@functools.cache
def load(name):
    """Return the engine's module; ImportError with the way out if it cannot be had."""
    if name not in MODULES:
        raise ValueError(f"engine must be one of {', '.join(('auto', *MODULES))}, got {name!r}")
    try:
        return importlib.import_module(MODULES[name], __package__)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError)
        way_out = f". To get it: {_REMEDIES[name]}" if missing else ""
        raise ImportError(f"engine {name!r} is not available here ({error}){way_out}") from error


def choose(name="auto"):
    """Return (name, module) of the engine: `name`, or FASTLSTM_ENGINE, or the first there is.

    Only "auto" looks at the environment variable or falls back; a name that is asked for and
    missing is an ImportError.
    """
    if name == "auto":
        name = os.environ.get("FASTLSTM_ENGINE") or "auto"
        if name not in ("auto", *MODULES):
            known = ", ".join(("auto", *MODULES))
            raise ValueError(f"FASTLSTM_ENGINE must be one of {known}, got {name!r}")
    if name != "auto":
        return name, load(name)
    for name in MODULES:
        try:
            return name, load(name)
        except ImportError:
            if name == "numpy":
                raise


def engines():
    """Tell which engines there are, what each runs on, and why one is missing.

    Returns
    -------
    dict of str -> dict
        In order of preference: "numba", "numpy". Each has "available" (bool) and "default"
        (bool: what ``engine="auto"`` takes now), and either what the engine says of itself
        ("version", "instruction_set", ...) or "reason", why it is missing and how to get it.

    Examples
    --------
    >>> fastlstm.engines()["numpy"]["available"]
    True
    """
    try:
        default = choose()[0]
    except ImportError:  # FASTLSTM_ENGINE asks for one that is missing; the table says why
        default = None
    table = {}
    for name in MODULES:
        try:
            table[name] = {"available": True, "default": name == default, **load(name).describe()}
        except ImportError as error:
            table[name] = {"available": False, "default": False, "reason": str(error)}
    return table


def threads(num_threads):
    """Return how many threads a call may use: `num_threads`, or FASTLSTM_NUM_THREADS, or 1."""
    if num_threads is None:
        text = os.environ.get("FASTLSTM_NUM_THREADS", "1")
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(f"FASTLSTM_NUM_THREADS must be an int of at least 1, got {text!r}")
        return int(text)
    if isinstance(num_threads, bool) or not isinstance(num_threads, (int, np.integer)):
        raise TypeError(f"num_threads should be of type int, got: {type(num_threads).__name__}")
    if num_threads < 1:
        raise ValueError(f"num_threads must be at least 1, got {num_threads}")
    return int(num_threads)
