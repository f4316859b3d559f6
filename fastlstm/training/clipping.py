"""Clipping of gradients, by their norm and by their values."""

import math

import numpy as np

from ..checks import check_bool, check_number
from .blocks import BLOCK, check_model, frozen_names, layout_of, runs_of, stretches
from .optimiser import Optimiser


def clip_grad_norm(model, max_norm, *, error_if_nonfinite=False):
    """Scale all gradients of a model so that their norm is at most `max_norm`.

    Parameters
    ----------
    model : Layer, or an optimiser of one
        What is frozen does not count, nor, of an optimiser, what its `lr_factors` let be.
    max_norm : float >= 0
        inf: only the norm is wanted.
    error_if_nonfinite : bool
        Refuses a norm that is nan or inf. Otherwise such gradients are scaled by it, as in
        torch: by nan, or by 0, which leaves nan where inf was.

    Returns
    -------
    float
        The 2-norm of all these gradients together, as one vector, before; summed in float64.

    Raises
    ------
    RuntimeError
        If the norm is not finite and `error_if_nonfinite`; the gradients have not been changed.

    Notes
    -----
    The factor is max_norm / (norm + 1e-6), at most 1. Source: torch.nn.utils.clip_grad_norm_.

    Examples
    --------
    >>> model = fastlstm.Linear(2, 1, bias=False)
    >>> model.grads["weight"][...] = [3.0, 4.0]
    >>> fastlstm.training.clip_grad_norm(model, 1.0)
    5.0
    >>> model.grads["weight"].round(4)
    array([[0.6, 0.8]], dtype=float32)
    """
    gradients = _learnt_gradients(model)
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


def _learnt_gradients(model):
    """Gradients of what is learnt: of a layer, all that is not frozen."""
    if isinstance(model, Optimiser):
        return list(model.learnt_gradients())
    layout, learnt = layout_of(check_model(model)), []
    frozen = frozen_names(model, layout)
    for (_, _, gradients), parts in zip(model.buffers(), layout, strict=True):
        factors = {part.name: (float(part.name not in frozen),) * 4 for part in parts}
        learnt += [gradients[where] for where in stretches(runs_of(parts, factors, factors, {}))]
    return learnt


def _squares(array):
    """The sum of squares, in float64, block by block."""
    blocks = (array[k : k + BLOCK].astype(np.float64) for k in range(0, array.size, BLOCK))
    return sum(float(np.sum(block * block)) for block in blocks)


def clip_grad_value(model, value):
    """Bring each gradient of a model into [-value, value].

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
        If `value` is not a number of at least 0, or `model` not a layer.

    Notes
    -----
    nan stays nan, as in torch.nn.utils.clip_grad_value_, the source.

    Examples
    --------
    >>> model = fastlstm.Linear(2, 1, bias=False)
    >>> model.grads["weight"][...] = [3.0, -4.0]
    >>> fastlstm.training.clip_grad_value(model, 3.5)
    >>> model.grads["weight"]
    array([[ 3. , -3.5]], dtype=float32)
    """
    gradients = _learnt_gradients(model)
    check_number("value", value, least=0)
    with np.errstate(over="ignore"):  # a value beyond float32 clips nothing
        for gradient in gradients:
            np.clip(gradient, -value, value, out=gradient)
