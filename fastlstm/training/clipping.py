"""Clipping of gradients, by their norm or by their values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import check_bool, check_number
from ..layers import Layer
from .blocks import BLOCK, learnt_gradients
from .optimiser import Optimiser


def clip_grad_norm(
    model: Layer | Optimiser, max_norm: float, *, error_if_nonfinite: bool = False
) -> float:
    """Scale all gradients of a model so that their norm is at most `max_norm`.

    Parameters
    ----------
    model : Layer, or an optimiser of one
        Frozen parameters do not count. For an optimiser, those with a factor of 0 in its
        `lr_factors` do not count either.
    max_norm : float >= 0
        With inf the gradients stay as they are; only their norm is returned.
    error_if_nonfinite : bool
        Refuse a norm that is nan or inf. Otherwise the gradients are scaled all the same, as in
        torch: by nan, or by 0, which makes nan of inf.

    Returns
    -------
    float
        The 2-norm that all these gradients had before, taken as one vector; summed in float64.

    Raises
    ------
    RuntimeError
        If the norm is not finite and `error_if_nonfinite` is set. The gradients are unchanged then.

    Notes
    -----
    The factor is max_norm / (norm + 1e-6), at most 1. Source: ``torch.nn.utils.clip_grad_norm_``.

    Examples
    --------
    >>> model = fastlstm.Linear(2, 1, bias=False)
    >>> model.grads["weight"][...] = [3.0, 4.0]
    >>> fastlstm.training.clip_grad_norm(model, 1.0)
    5.0
    >>> model.grads["weight"].round(4)
    array([[0.6, 0.8]], dtype=float32)
    """
    gradients = _gradients_of(model)
    if max_norm != math.inf:
        check_number("max_norm", max_norm, least=0)
    check_bool("error_if_nonfinite", error_if_nonfinite)
    with np.errstate(all="ignore"):
        total = math.sqrt(sum(_squares(gradient) for gradient in gradients))
        if error_if_nonfinite and not math.isfinite(total):
            raise RuntimeError(
                f"The total norm of the gradients is {total}, so they cannot be clipped. To scale "
                "them by it anyway, set error_if_nonfinite=False"
            )
        factor = float(max_norm) / (total + 1e-6)
        if not factor >= 1:
            for gradient in gradients:
                gradient *= factor
    return total


def _gradients_of(model: Layer | Optimiser) -> list[NDArray[Any]]:
    """Return the gradients that count, as flat pieces of the layers' buffers."""
    if isinstance(model, Optimiser):
        return list(model.learnt_gradients())
    return learnt_gradients(model)


def _squares(array: NDArray[Any]) -> float:
    """Return the sum of squares, in float64, block by block."""
    blocks = (array[k : k + BLOCK].astype(np.float64) for k in range(0, array.size, BLOCK))
    return sum(float(np.sum(block * block)) for block in blocks)


def clip_grad_value(model: Layer | Optimiser, value: float) -> None:
    """Set each gradient outside [-value, value] to the nearer end.

    Parameters
    ----------
    model : Layer, or an optimiser of one
    value : float >= 0

    Returns
    -------
    None

    Raises
    ------
    ValueError, TypeError
        If `value` is not a number of at least 0, or `model` is neither a layer nor an optimiser.

    Notes
    -----
    A nan stays nan. Source: ``torch.nn.utils.clip_grad_value_``.

    Examples
    --------
    >>> model = fastlstm.Linear(2, 1, bias=False)
    >>> model.grads["weight"][...] = [3.0, -4.0]
    >>> fastlstm.training.clip_grad_value(model, 3.5)
    >>> model.grads["weight"]
    array([[ 3. , -3.5]], dtype=float32)
    """
    gradients = _gradients_of(model)
    check_number("value", value, least=0)
    with np.errstate(over="ignore"):  # a value too large for float32 clips nothing
        for gradient in gradients:
            np.clip(gradient, -value, value, out=gradient)
