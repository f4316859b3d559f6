"""Parameters that a state dict holds in pieces, put together to those that the layer runs with.

=============================  ================================================================
``weight_g``, ``weight_v``     weight norm: v times g / ||v||, over the axes where g has one number;
                               also ``parametrizations.weight.original0``, ``original1``
``weight_orig``, ``_mask``     pruning: their product
``weight_orig``, ``_u, _v``    spectral norm in evaluation: the weight over its first singular
                               value u W v; also ``parametrizations.weight.original``, ``0._u, _v``
``weight_raw``                 weight drop: the raw weight; the one of the plain name was dropped
=============================  ================================================================

All of them are computed in float64 and rounded once. What stands beside a parameter under any other
such name makes something else of it, and nobody knows what: it is never taken as if it were plain.
"""

import re

import numpy as np

from ..checks import quoted, short

PARAMETER = r"(?:weight|bias)(?:_(?:ih|hh|hr)(?:_l(?:0|[1-9]\d{0,5})(?:_reverse)?)?)?"
_PIECE = re.compile(
    rf"((?:.*\.)?)(?:parametrizations\.({PARAMETER})\.(.+)|({PARAMETER})_([^.]+))", re.DOTALL
)
NAME = re.compile(rf"((?:.*\.)?)({PARAMETER})", re.DOTALL)


def fold(state):
    """Put the pieces in a state dict together.

    Returns
    -------
    state : dict of str -> ndarray
        With plain parameters in place of their pieces.
    faults : dict of str -> str
        By the prefix of the layer, why one of its parameters cannot be told.
    """
    matches = (NAME.fullmatch(name) for name in state)
    lstms = {match[1] for match in matches if match and "_" in match[2]}
    wrapped = {}  # prefix of a layer -> the LSTMs right inside it
    for prefix in lstms - {""}:
        wrapped.setdefault(prefix[:-1].rpartition(".")[0], []).append(prefix)
    pieces, owner, names = {}, {}, {}  # parameter -> kind of piece -> array; piece -> parameter
    for name, array in state.items():
        match = None if NAME.fullmatch(name) else _PIECE.fullmatch(name)
        if match:
            prefix, local, kind = match[1], match[2] or match[4], match[3] or match[5]
            inside = wrapped.get(prefix.removesuffix("."), [])
            if kind == "raw" and prefix not in lstms and len(inside) == 1:
                prefix = inside[0]  # which weight drop wraps
            owner[name] = parameter = prefix + local
            pieces.setdefault(parameter, {})[kind] = array
            names.setdefault(parameter, []).append(name)
    folded, faults, done = {}, {}, set()
    for name, array in state.items():
        parameter = owner.get(name, name)
        if parameter in done or (name in owner and parameter in state):
            continue
        done.add(parameter)
        if parameter in pieces:
            array = _together(state.get(parameter), pieces[parameter])
            if array is None:
                fault = f"what {quoted(names[parameter])} makes of {short(parameter)} is not known"
                faults[NAME.fullmatch(parameter)[1]] = fault
                array = state.get(parameter)
        if array is not None:
            folded[parameter] = array
    return folded, faults


def _together(plain, pieces):
    """The parameter of these pieces, or None if they are of no known kind or do not fit."""
    kinds = set(pieces)
    if any(a.dtype.kind not in ("fbiu" if kind == "mask" else "f") for kind, a in pieces.items()):
        return None
    if kinds == {"raw"}:
        return pieces["raw"]
    if kinds == {"mask"} and plain is not None:  # harmless where it has been multiplied already
        fits = plain.shape == pieces["mask"].shape
        return plain if fits and np.array_equal(plain * pieces["mask"], plain) else None
    for names, rule in _RULES.items():
        if kinds == set(names):
            return rule(*(pieces[name] for name in names))
    return None


def _weight_norm(g, v):
    if g.ndim not in (0, v.ndim) or any(
        n not in (1, m) for n, m in zip(g.shape, v.shape, strict=False)
    ):
        return None
    axes = tuple(k for k in range(v.ndim) if not g.ndim or g.shape[k] == 1)
    wide = v.astype(float)
    with np.errstate(all="ignore"):  # nan where v is 0, as torch
        norm = np.sqrt((wide * wide).sum(axis=axes, keepdims=True))
        return (wide * (g.reshape(g.shape or (1,) * v.ndim) / norm)).astype(v.dtype)


def _pruning(orig, mask):
    return orig * mask.astype(orig.dtype) if orig.shape == mask.shape else None


def _spectral_norm(weight, u, v):
    matrix = weight.reshape(len(weight), -1).astype(float) if weight.ndim else None
    if matrix is None or (*u.shape, *v.shape) != matrix.shape:
        return None
    with np.errstate(all="ignore"):
        return (weight / (u @ matrix @ v)).astype(weight.dtype)


_RULES = {
    ("g", "v"): _weight_norm,
    ("original0", "original1"): _weight_norm,
    ("orig", "mask"): _pruning,
    ("orig", "u", "v"): _spectral_norm,
    ("original", "0._u", "0._v"): _spectral_norm,
}
