"""Parameters that a state dict holds in pieces are put together to those that the layer runs with.

=============================  ================================================================
``weight_g``, ``weight_v``     weight norm: v times g / ||v||, over the axes where g has one number;
                               also ``parametrizations.weight.original0``, ``original1``
``weight_orig``, ``_mask``     pruning: their product
``weight_orig``, ``_u, _v``    spectral norm in evaluation: the weight over its first singular
                               value u W v; also ``parametrizations.weight.original``, ``0._u, _v``
``weight_raw``                 weight drop: the raw weight; the one of the plain name was dropped
=============================  ================================================================

All of them are computed in float64 and rounded once. If an array stands beside a parameter under
another name of this kind, something unknown is done to the parameter. It is then refused, and never
taken as if it were plain.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..checks import quoted, short

if TYPE_CHECKING:
    from ..arrays import Array

_KINDS = "ih|hh|hr|c[ifo]|ln(?:_ih|_hh|_c)?"  # of matrices, peepholes and layer norms of an LSTM
LAYER = r"_l(?:0|[1-9]\d{0,5})(?:_reverse)?"
PARAMETER = rf"(?:weight|bias)(?:_(?:{_KINDS})(?:{LAYER})?)?"
_PIECE = re.compile(
    rf"((?:.*\.)?)(?:parametrizations\.({PARAMETER})\.(.+)|({PARAMETER})_([^.]+))", re.DOTALL
)
NAME = re.compile(rf"((?:.*\.)?)({PARAMETER})", re.DOTALL)


def fold(state: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, str]]:
    """Put the pieces in a state dict together.

    Returns
    -------
    state : dict of str -> ndarray
        With plain parameters in the place of their pieces.
    faults : dict of str -> str
        Why a parameter of a layer cannot be put together, by the prefix of the layer.
    """
    matches = (NAME.fullmatch(name) for name in state)
    lstms = {match[1] for match in matches if match and "_" in match[2]}
    wrapped: dict[str, list[str]] = {}  # prefix of a layer -> the LSTMs right inside it
    for prefix in lstms - {""}:
        wrapped.setdefault(prefix[:-1].rpartition(".")[0], []).append(prefix)
    pieces: dict[str, dict[str, Array]] = {}  # parameter -> kind of piece -> array
    owner: dict[str, str] = {}  # name of a piece -> parameter
    names: dict[str, list[str]] = {}  # parameter -> names of its pieces
    for name, array in state.items():
        match = None if NAME.fullmatch(name) else _PIECE.fullmatch(name)
        if match:
            prefix, local, kind = match[1], match[2] or match[4], match[3] or match[5]
            inside = wrapped.get(prefix.removesuffix("."), [])
            if kind == "raw" and prefix not in lstms and len(inside) == 1:
                prefix = inside[0]  # the LSTM that weight drop wraps
            owner[name] = parameter = prefix + local
            pieces.setdefault(parameter, {})[kind] = array
            names.setdefault(parameter, []).append(name)
    folded: dict[str, Array] = {}
    faults: dict[str, str] = {}
    done = set()
    for name, array in state.items():
        parameter = owner.get(name, name)
        if parameter in done or (name in owner and parameter in state):
            continue
        done.add(parameter)
        whole: Array | None = array
        if parameter in pieces:
            whole = _together(state.get(parameter), pieces[parameter])
            if whole is None:
                fault = f"what {quoted(names[parameter])} makes of {short(parameter)} is not known"
                prefix = parameter[: parameter.rfind(".") + 1]
                faults[prefix] = fault
                whole = state.get(parameter)
        if whole is not None:
            folded[parameter] = whole
    return folded, faults


def _together(plain: Array | None, pieces: Mapping[str, Array]) -> Array | None:
    """Return the parameter of these pieces; None if they are of no known kind or do not fit."""
    kinds = set(pieces)
    if any(a.dtype.kind not in ("fbiu" if kind == "mask" else "f") for kind, a in pieces.items()):
        return None
    if kinds == {"raw"}:
        return pieces["raw"]
    if kinds == {"mask"} and plain is not None:  # a mask that has been multiplied in is harmless
        fits = plain.shape == pieces["mask"].shape
        return plain if fits and np.array_equal(plain * pieces["mask"], plain) else None
    for names, rule in _RULES.items():
        if kinds == set(names):
            return rule(*(pieces[name] for name in names))
    return None


def _weight_norm(g: Array, v: Array) -> Array | None:
    if g.ndim not in (0, v.ndim) or any(
        n not in (1, m) for n, m in zip(g.shape, v.shape, strict=False)
    ):
        return None
    axes = tuple(k for k in range(v.ndim) if not g.ndim or g.shape[k] == 1)
    wide = v.astype(float)
    with np.errstate(all="ignore"):  # where v is 0 the result is nan, as in torch
        norm = np.sqrt((wide * wide).sum(axis=axes, keepdims=True))
        folded: Array = (wide * (g.reshape(g.shape or (1,) * v.ndim) / norm)).astype(v.dtype)
        return folded


def _pruning(orig: Array, mask: Array) -> Array | None:
    return orig * mask.astype(orig.dtype) if orig.shape == mask.shape else None


def _spectral_norm(weight: Array, u: Array, v: Array) -> Array | None:
    matrix = weight.reshape(len(weight), -1).astype(float) if weight.ndim else None
    if matrix is None or (*u.shape, *v.shape) != matrix.shape:
        return None
    with np.errstate(all="ignore"):
        folded: Array = (weight / (u @ matrix @ v)).astype(weight.dtype)
        return folded


_RULES: dict[tuple[str, ...], Callable[..., Array | None]] = {
    ("g", "v"): _weight_norm,
    ("original0", "original1"): _weight_norm,
    ("orig", "mask"): _pruning,
    ("orig", "u", "v"): _spectral_norm,
    ("original", "0._u", "0._v"): _spectral_norm,
}
