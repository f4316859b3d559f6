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

Backward through the same step; `d` before a name is the gradient of it, `_0` after one what it was
before the step, dh and dc what the later steps left (with a projection, m is o * tanh(c)), and +=
sums over all steps::

    dh += dy;  dm = W_hr^T dh;  dW_hr += dh m^T          dm = dh without a projection (6)
    dc += dm * o * (1 - tanh(c)^2)                                                 (7)
    dz_i = dc * g * i * (1 - i);    dz_f = dc * c_0 * f * (1 - f)
    dz_g = dc * i * (1 - g^2);      dz_o = dm * tanh(c) * o * (1 - o)              (8)
    dc_0 = dc * f;  dh_0 = W_hh^T dz                                               (9)
    dx = W_ih^T dz;  dW_ih += dz x^T;  dW_hh += dz h_0^T;  db += dz                (10)

**The contract.** An engine is a module with these functions. The caller has checked and
allocated what is listed; an engine checks nothing, fills what it is given, keeps nothing that
could change a result, and may be called from many threads at once.

``prepare(dtype)``
    Makes ready what can be made ready before the first call, as compiling.

``pack(w_ih, w_hh, b, w_hr) -> weights``
    Brings one layer's parameters in one direction, (4H, I), (4H, P), (4H,) and (P, H) or None,
    all of one dtype, into the engine's own order, in memory of its own. Called once per version
    of the parameters; `weights` means nothing to anyone else, and its values do not change.

``run(weights, x, batch_sizes, h, c, y, reverse, saved=None)``
    One layer in one direction over whole sequences, equations (1) to (5).

    - `x` (N, I): the rows of step 0, then of step 1, ...; any distance between rows, values of
      one row side by side, aligned. Not written.
    - `batch_sizes` (T,) int64, not increasing: step t has the rows of the first
      ``batch_sizes[t]`` sequences, so that sequences are sorted by length, longest first. The first
      is B: what has no step at all is kept from engines.
    - `h` (B, P), `c` (B, H): C-contiguous, initial states in, and each sequence's state after
      its own last step out (with `reverse`, after its step 0).
    - `y` (N, P): h of every step, at its x's row. Filled; rows may lie apart, as `x`'s.
    - `reverse`: from each sequence's own last step to step 0.
    - `saved`: (gates, cells), (N, 4H) and (N, H), C-contiguous; filled with i, f, g, o and with c
      of every row, for `back`.

``back(weights, x, batch_sizes, h, c, y, saved, dy, dh, dc, dx, dw, reverse)``
    The gradients of such a run, equations (6) to (10).

    - `h`, `c`: the *initial* states; with x, y and `saved` as `run` had or left them. Not written.
    - `dy` (N, P), rows may lie apart. Not written.
    - `dh` (B, P), `dc` (B, H): C-contiguous; gradients of the final states in, of the initial out.
    - `dx` (N, I), or None where nobody needs it, and `dw`, which is dw_ih (4H, I), dw_hh (4H, P),
      db (4H,) and dw_hr (P, H) or None: C-contiguous, added into.

``pack_linear(w, b) -> weights``, ``run_linear(weights, x, y, threads)``
    y = w x + b for every row of `x` (N, I), N at least 1, into `y` (N, O), rows of which may lie
    apart; w (O, I), b (O,) or None. Each sum begins with b and adds x in order, as (1) does; engine
    numpy leaves that to its BLAS.

``describe() -> dict``
    For `engine_info`: the instruction set that runs, and the like.

Layers run `stack(module, parameters, directions)`, whole stacks with these methods:

``run(x, batch_sizes, h, c, y, threads)``
    As above, but for `h` (layers * directions, B, P), `c` (layers * directions, B, H) and `y`
    (N, directions * P); `threads` is how many may work at once.

``record(x, batch_sizes, h, c, y, threads, every=0) -> tape``
    The same for a stack of one layer, made with ``back=True``. The tape holds what `back` needs: x
    and y themselves, the initial states, gates and cells; with `every`, instead of the latter two
    the states at every so many steps, from which `back` runs again.

``back(tape, dy, dh, dc, dx, dw, threads)``
    As above for one layer: `dy` (N, directions * P), `dh` and `dc` (directions, B, ...); `dx`, if
    not None, is filled; `dw` has for each direction what is added into. A tape can be used again.

Between pieces of time, long calls of all three run the handlers of signals that came. If one
raises, as Ctrl-C's does, the call ends there, and what it fills or changes is worth nothing: states
and gradients are the caller's to put back. No bit depends on the pieces.

For engines that know no more than the contract this is a loop (`engines._stack`); the native engine
has a ``Stack`` of its own, one call into C, in place of `saved` and `back`, and a ``Stepper``, one
stream's step in one call.
"""

import contextlib
import functools
import importlib
import os
import pathlib
import sys
import warnings

import numpy as np

MODULES = {"native": "._native", "numba": "._numba", "numpy": "._numpy"}  # in order of preference
_REMEDIES = {
    # pip may have kept a wheel that was built without the engine
    "native": "install a C compiler (GCC or Clang), then, in the folder of fastlstm's source, "
    "pip install --force-reinstall --no-deps --no-cache-dir .",
    "numba": "pip install numba",
    "numpy": "pip install numpy",
}


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
    missing is an ImportError. A process that falls back on numpy is warned once.
    """
    name = _asked(name)
    if name == "auto":
        name = _first()
        if name == "numpy":
            _warn_of_numpy()
    return name, load(name)


def _asked(name):
    """The engine that is asked for, here or in the environment; "auto" if none is."""
    if name != "auto":
        return name
    name = os.environ.get("FASTLSTM_ENGINE") or "auto"
    if name not in ("auto", *MODULES):
        known = ", ".join(("auto", *MODULES))
        raise ValueError(f"FASTLSTM_ENGINE must be one of {known}, got {name!r}")
    return name


def _first():
    """The first engine that can be loaded."""
    return next(name for name in MODULES if _why_missing(name) is None)


def _why_missing(name):
    """Why an engine cannot be loaded, and how to get it; None if it can."""
    try:
        load(name)
    except ImportError as error:
        return str(error)
    return None


@functools.cache
def _warn_of_numpy():
    reasons = "; ".join(filter(None, map(_why_missing, MODULES)))
    package, frame, level = __package__.split(".")[0], sys._getframe(), 1
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] == package:
        frame, level = frame.f_back, level + 1  # up to the line that makes a layer
    warnings.warn(
        "fastlstm runs on its engine numpy here, which takes 2 to 50 times as long as the others. "
        f'{reasons}. To stay with numpy without this warning: engine="numpy", or '
        "FASTLSTM_ENGINE=numpy in the environment",
        stacklevel=level,
    )


def stack(module, parameters, directions, back=False, spare=None):
    """Pack a stack of layers for an engine.

    Parameters
    ----------
    module : module
        What `choose` returned.
    parameters : list of (w_ih, w_hh, b, w_hr)
        For each layer, and in it for each direction, as `pack` takes them.
    directions : {1, 2}
    back : bool
        Whether the stack's gradients will be asked for too.
    spare : dict, optional
        Memory that a layer's stacks hand on, one piece for each use: a step of training packs the
        weights anew and fills another tape, and fresh memory would cost it a tenth of its time.
    """
    if hasattr(module, "Stack"):
        return module.Stack(parameters, directions, back, spare)
    from ._stack import Stack

    return Stack(module, parameters, directions)


def engine_info() -> dict[str, dict[str, object]]:
    """Tell which engines there are, what each runs on, and why one is missing.

    Returns
    -------
    dict of str -> dict
        In order of preference: "native", "numba", "numpy". Each has "available" (bool) and
        "default" (bool: what ``engine="auto"`` takes now), and either what the engine says of
        itself ("version", "instruction_set", ...) or "reason", why it is missing and how to get it.

    Examples
    --------
    >>> fastlstm.engine_info()["numpy"]["available"]
    True
    """
    default = _asked("auto")
    if default == "auto":
        default = _first()
    table = {}
    for name in MODULES:
        try:
            table[name] = {"available": True, "default": name == default, **load(name).describe()}
        except ImportError as error:
            table[name] = {"available": False, "default": False, "reason": str(error)}
    return table


_MOST_THREADS = 1024


def threads(num_threads, engine):
    """Return how many threads a call may use: `num_threads`, FASTLSTM_NUM_THREADS, or `cpus()`.

    The engine numpy takes one, for its BLAS has threads of its own, unless it is told otherwise.
    """
    if num_threads is None:
        text = os.environ.get("FASTLSTM_NUM_THREADS")
        if not text:
            return 1 if engine == "numpy" else cpus()
        if not (text.isdecimal() and len(text) < 9 and 1 <= int(text) <= _MOST_THREADS):
            raise ValueError(
                f"FASTLSTM_NUM_THREADS must be an int from 1 to {_MOST_THREADS}, got {text!r}"
            )
        return int(text)
    if isinstance(num_threads, bool) or not isinstance(num_threads, (int, np.integer)):
        raise TypeError(f"num_threads should be of type int, got: {type(num_threads).__name__}")
    if not 1 <= num_threads <= _MOST_THREADS:
        raise ValueError(f"num_threads must be from 1 to {_MOST_THREADS}, got {num_threads}")
    return int(num_threads)


def cpus(root="/"):
    """Return how many processors this process may keep busy: its affinity, its container's quota.

    `root` is where the files of Linux's control groups, versions 2 and 1, are looked for.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    for quota, period in _quotas(pathlib.Path(root)):
        if quota > 0:
            count = min(count, max(1, quota // period))
    return count


def _quotas(root):
    """Yield (microseconds of processor time, in so many) for every group this process is in."""
    groups = root / "sys/fs/cgroup"
    with contextlib.suppress(OSError, ValueError):
        lines = (root / "proc/self/cgroup").read_text().splitlines()
        own = next((line[3:] for line in lines if line.startswith("0::")), "/")
        group = groups / own.strip("/")
        for folder in (group, *group.parents):
            if (folder / "cpu.max").exists():
                quota, period = (folder / "cpu.max").read_text().split()
                yield (0 if quota == "max" else int(quota)), int(period)
    with contextlib.suppress(OSError, ValueError):
        yield tuple(
            int((groups / "cpu" / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period")
        )
