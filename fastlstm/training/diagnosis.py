"""Where nan or inf appeared first: a step of training is repeated, part by part."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engines import is_finite
from ..layers import Layer
from .callbacks import History
from .datasets import Batch
from .view import SamplesFirst

_MOST_NAMED = 8  # a sentence names at most so many samples


class NonFiniteError(FloatingPointError):
    """A loss, a gradient or an updated parameter is nan or inf: `fit` stops and says where.

    The model has the weights from before that batch, or the best ones of `EarlyStopping`.

    Parameters
    ----------
    message : str
    epoch, batch : int
        Both are counted from 1.
    origin : str
        What was not finite first: the input or target of some samples, named by their numbers in
        the data; a parameter, the output of a layer, the loss, a gradient, or an update.
    history : History
        It has the epochs that were finished.

    Examples
    --------
    >>> x, y = np.zeros((8, 5, 1), np.float32), np.zeros((8, 1), np.float32)
    >>> x[6, 2] = np.nan
    >>> model = fastlstm.Sequential(fastlstm.LSTM(1, 4), fastlstm.Last(), fastlstm.Linear(4, 1))
    >>> loss, optimizer = fastlstm.training.MSELoss(), fastlstm.training.Adam(model)
    >>> try:
    ...     fastlstm.training.fit(model, (x, y), loss, optimizer, 1, 4, shuffle=False)
    ... except fastlstm.training.NonFiniteError as error:
    ...     error.epoch, error.batch, error.origin
    (1, 2, 'the input of sample 6')
    """

    def __init__(
        self,
        message: str,
        epoch: int | None = None,
        batch: int | None = None,
        origin: str | None = None,
        history: History | None = None,
    ) -> None:
        super().__init__(message)
        self.epoch, self.batch, self.origin, self.history = epoch, batch, origin, history


def first_in_forward(view: SamplesFirst, batch: Batch, numbers: NDArray[np.int64]) -> str | None:
    """Return what is not finite first between a batch of the samples `numbers` and its loss.

    It is None if everything is finite up to the model's output. The model of the view must be in
    evaluation mode: no random numbers are drawn then, and dropout makes no finite number infinite.
    """
    inputs, y, weights = _parts("input", batch.x), batch.y, batch.weights
    if batch.lengths is not None:
        inputs = {name: _real_steps(x, batch.lengths) for name, x in inputs.items()}
    if batch.mask is not None:
        y = _where(batch.mask, y)
        weights = None if weights is None else _where(batch.mask, weights)
    for name, array in {**inputs, "target": y, "weight": weights}.items():
        if array is not None and (who := _samples(array, numbers)):
            return f"the {name} of {who}"
    for name, parameter in view.model.state_dict().items():
        if not is_finite(parameter):
            return f"the parameter {name}"
    x = tuple(inputs.values()) if isinstance(batch.x, tuple) else inputs["input"]
    for name, values, has_steps in view.model._outputs(view.swapped(x), batch.lengths):
        samples_second = view.swaps_input and has_steps
        for part, array in _parts(f"output of {name}", values).items():
            if who := _samples(array.swapaxes(0, 1) if samples_second else array, numbers):
                return f"the {part} for {who}"
    return None


def first_in_backward(model: Layer) -> str:
    """Return which gradient was not finite first: that of the last such parameter."""
    names = [name for name, gradient in model.grads.items() if not is_finite(gradient)]
    return f"the gradient of {names[-1]}"


def _parts(name: str, value: Any) -> dict[str, NDArray[Any]]:
    """Return an array, or each array of a tuple, by its name."""
    if not isinstance(value, tuple):
        return {name: value}
    return {f"{name}[{k}]": np.asarray(part) for k, part in enumerate(value)}


def _real_steps(x: NDArray[Any], lengths: NDArray[np.int64]) -> NDArray[Any]:
    """Return x (B, T, ...) with 0 on all padding."""
    return x if x.ndim < 2 else _where(np.arange(x.shape[1]) < lengths[:, None], x)


def _where(mask: NDArray[np.bool_], array: NDArray[Any]) -> NDArray[Any]:
    """Return `array`, and 0 where `mask` is False; the one with fewer axes has the first ones."""
    axes = max(mask.ndim, array.ndim)
    wide_mask, wide = (a.reshape(a.shape + (1,) * (axes - a.ndim)) for a in (mask, array))
    return np.where(wide_mask, wide, array.dtype.type(0))


def _samples(array: NDArray[Any], numbers: NDArray[np.int64]) -> str | None:
    """Name the samples whose rows of an array are not finite; None if all are."""
    if array.dtype.kind != "f" or is_finite(array):
        return None
    bad = numbers[~np.isfinite(array).reshape(len(array), -1).all(axis=1)]
    named = ", ".join(map(str, bad[:_MOST_NAMED]))
    more = f" and {len(bad) - _MOST_NAMED} more" if len(bad) > _MOST_NAMED else ""
    return f"sample{'s' * (len(bad) > 1)} {named}{more}"
