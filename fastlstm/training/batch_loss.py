"""A loss as the training loop asks it: over a batch, with what the batch has for it."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arguments import about
from .datasets import Batch
from .losses import CrossEntropyLoss, Loss, LossFunction


class BatchLoss:
    """The loss of a batch, and the denominator by which the means of batches are put together.

    Parameters
    ----------
    loss : callable
        As `fit` gets it: a loss of this package, a function, or a `functools.partial` of one.

    Attributes
    ----------
    unwrapped : callable
        The loss without `functools.partial`.
    adds_up : bool
        Whether its value is a sum, so that batches are added.
    """

    def __init__(self, loss: LossFunction) -> None:
        self._loss = loss
        self._options: dict[str, Any] = {}  # which functools.partial gives it
        self.unwrapped: Any = loss
        while isinstance(self.unwrapped, functools.partial):
            self._options = self.unwrapped.keywords | self._options
            self.unwrapped = self.unwrapped.func
        self.adds_up: bool = getattr(self.unwrapped, "reduction", "mean") == "sum"
        self._takes_std = _takes(loss, "std")
        self._tells = hasattr(self.unwrapped, "denominator")
        self._bound = {n: v for n, v in self._options.items() if n in ("weights", "mask")}
        self._summed = self
        if isinstance(self.unwrapped, Loss) and not self.adds_up:
            summed = copy.copy(self.unwrapped)
            summed.reduction = "sum"
            self._summed = BatchLoss(_around(loss, summed))

    def __call__(self, prediction: NDArray[Any], batch: Batch) -> tuple[Any, Any]:
        """Return the value and the gradient."""
        given = _without_none({"weights": batch.weights, "mask": batch.mask})
        if self._takes_std:
            given |= _without_none({"std": getattr(batch, "std", None)})
        if isinstance(self.unwrapped, Loss):
            return self._loss(prediction, batch.y, **given)
        try:
            return self._loss(prediction, batch.y, **given)
        except (TypeError, ValueError) as fault:
            arguments = ", ".join(["prediction", "target", *(f"{name}=..." for name in given)])
            raise about(f"loss({arguments})", fault) from fault

    def denominator(self, prediction: NDArray[Any], batch: Batch) -> float:
        """Return what the mean over a batch divides by, as far as the loss can tell."""
        if not self._tells:
            return _weight(batch)
        given = self._bound | _without_none({"weights": batch.weights, "mask": batch.mask})
        return float(self.unwrapped.denominator(prediction, batch.y, **given))

    def share(self, prediction: NDArray[Any], batch: Batch) -> tuple[float, float, NDArray[Any]]:
        """Return what a part of a batch adds to the sum over all of it, which a mean divides.

        Returns
        -------
        value, denominator : float
            The loss of the whole batch is sum(value) / sum(denominator), or sum(value) if the loss
            is a sum.
        gradient : ndarray
            That of the value by the prediction. It is divided as the value is.
        """
        denominator = self.denominator(prediction, batch)
        is_sum = self._summed is not self or self.adds_up
        if not denominator and not is_sum:  # a mean over nothing has no value, or is an error
            return 0.0, 0.0, np.zeros_like(prediction)
        value, gradient = self._summed(prediction, batch)
        gradient = np.asarray(gradient)
        if is_sum:
            return float(value), denominator, gradient
        return float(value) * denominator, denominator, gradient * gradient.dtype.type(denominator)

    @property
    def counts_weightless(self) -> bool:
        """Whether a batch whose denominator is 0 may add something to the sum."""
        return isinstance(self.unwrapped, CrossEntropyLoss) and self.unwrapped.label_smoothing > 0

    def of_weightless(self, prediction: NDArray[Any], batch: Batch) -> float:
        """Return what a batch whose denominator is 0 adds to the sum over all batches.

        That is what smoothed labels give where no target's class has a weight.
        """
        if not self.counts_weightless:
            return 0.0
        loss = copy.copy(self.unwrapped)
        loss.reduction = "sum"
        given = _without_none({"weights": batch.weights, "mask": batch.mask})
        return float(loss(prediction, batch.y, **given)[0])


def _around(loss: LossFunction, inside: Loss) -> LossFunction:
    """Return `inside` with the arguments that each `functools.partial` around a loss gives."""
    if not isinstance(loss, functools.partial):
        return inside
    return functools.partial(_around(loss.func, inside), *loss.args, **loss.keywords)


def _weight(batch: Batch) -> float:
    """Return how much a batch counts if its loss cannot tell: the weights of samples or steps."""
    given = [a for a in (batch.weights, batch.mask) if a is not None]
    if not given:
        return float(len(batch.y))
    axes = max(array.ndim for array in given)
    weights, mask = (
        np.ones((1,) * axes) if a is None else a.reshape(a.shape + (1,) * (axes - a.ndim))
        for a in (batch.weights, batch.mask)
    )
    counted = np.where(mask, weights, 0)
    rows = len(batch.y) if len(counted) == 1 else 1  # one row may be for all samples
    return float(np.sum(counted, dtype=np.float64)) * rows


def _without_none(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _takes(function: Callable[..., Any], name: str) -> bool:
    """Tell whether a callable has a parameter of this name, or takes any."""
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # some built-in functions do not say
        return False
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
