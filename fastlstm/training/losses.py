"""Losses: what a training makes small. A call of a loss returns its value and its gradient.

A loss defines one value l for each element of a prediction and its target. All losses take the same
arguments and return the same two things::

    value, gradient = loss(prediction, target, *, weights=None, mask=None)

`prediction` : array of float32 or float64
    The output of a model. No argument is written to.
`target` : array of the prediction's dtype and shape, unless the loss says otherwise
`weights` : array of numbers >= 0, optional
    w, how much each element counts. Its axes are the first axes of the elements' array, each of
    the same length or 1: (B,) or (B, T) for predictions (B, T, F); (1, B) for (T, B, F).
`mask` : array of bool, optional
    True where an element counts, with axes as for `weights`: (T, B) for ragged sequences in
    (T, B, F). Where it is False the element adds nothing, even if it is nan, and its gradient is 0.
`value` : float; with reduction "none" an array of the elements' shape and the prediction's dtype
    "mean" is sum(w l) / sum(w) over the elements that count, where w is 1 without weights. It is a
    weighted average, as in torch's CrossEntropyLoss with class weights. "sum" is sum(w l). "none"
    is w l, and 0 where masked. Sums are taken in float64. The mean over nothing is nan, as in
    torch.
`gradient` : array of the prediction's shape and dtype
    The gradient of the value with respect to the prediction; with reduction "none" that of the sum
    of the values.

"mean" divides by ``loss.denominator(prediction, target, weights=..., mask=...)``. With it the means
of batches can be put together: sum(value * denominator) / sum(denominator) is the mean over all
batches at once, whatever class weights, ignored targets or masks each of them has. `fit` does so,
with a loss of your own, too, if it has such a method.

If an element that counts is nan or inf, so are the value and the gradient, without a warning, as in
torch. That is also so where its weight is 0, as 0 * nan is nan: a mask leaves an element out, a
weight does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ..arrays import as_array, as_float, as_integers, quiet
from ..checks import check_number, check_size

Reduction = Literal["mean", "sum", "none"]
LossFunction = Callable[..., tuple[Any, Any]]  # (value, gradient), as `fit` takes it

_FLOATS = np.dtype("float32"), np.dtype("float64")


class Loss:
    """What all losses share: how arguments are read, and how elements are reduced to a value.

    A subclass has the method `_elements`.
    """

    def __init__(self, reduction: Reduction = "mean") -> None:
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"reduction must be one of mean, sum, none, got {reduction!r}")
        self.reduction: Reduction = reduction

    def __repr__(self) -> str:
        options = (f"{n}={_shown(v)}" for n, v in vars(self).items() if not n.startswith("_"))
        return f"{type(self).__name__}({', '.join(options)})"

    def __call__(
        self,
        prediction: ArrayLike,
        target: ArrayLike,
        *,
        weights: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> tuple[float | Any, NDArray[Any]]:
        """Return (value, gradient); ValueError if the arguments do not fit together."""
        y, t = self._read(prediction, target)
        w, counts = self._read_weights(weights, mask, y.shape, y.dtype)
        with np.errstate(all="ignore"):
            return self._reduce(*self._elements(y, t), w, counts)

    def denominator(
        self,
        prediction: ArrayLike,
        target: ArrayLike,
        *,
        weights: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> float:
        """Return what "mean" divides by: the sum of the weights of all elements that count.

        Parameters
        ----------
        prediction, target, weights, mask
            As in a call.

        Returns
        -------
        float

        Examples
        --------
        >>> y = np.zeros((2, 3))
        >>> fastlstm.training.MSELoss().denominator(y, y, weights=[1, 4])
        15.0
        """
        y = self._floats(prediction, "prediction")
        w, counts = self._read_weights(weights, mask, y.shape, y.dtype)
        return _total(1.0 if w is None else w, counts, y.shape)

    def _elements(self, y: NDArray[Any], t: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the losses of the elements, and their derivatives by the prediction."""
        raise NotImplementedError

    def _read(self, prediction: ArrayLike, target: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return both as arrays, the target of the prediction's dtype and of `_target_shape`."""
        y = self._floats(prediction, "prediction")
        t = self._floats(target, "target", y.dtype)
        self._check_shape(t, self._target_shape(y.shape), y.shape)
        return y, t

    def _target_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def _floats(
        self, value: ArrayLike, name: str, dtype: np.dtype[Any] | None = None
    ) -> NDArray[Any]:
        """Return an array of the prediction's `dtype`; without it of its own float type."""
        if type(value) is np.ndarray and value.dtype in ((dtype,) if dtype else _FLOATS):
            return value  # as is usual
        array = as_array(value, name)
        wanted = dtype or np.dtype("float32" if array.dtype.itemsize <= 4 else "float64")
        try:
            return as_float(value, wanted, name)
        except ValueError:
            expected = f"{dtype}, as the prediction's" if dtype else "float32 or float64"
            raise ValueError(
                f"{self._name}: Expected {name} of {expected}, got {array.dtype}"
            ) from None

    def _check_shape(
        self, target: NDArray[Any], expected: tuple[int, ...], shape: tuple[int, ...]
    ) -> None:
        if target.shape != expected:
            raise ValueError(
                f"{self._name}: Expected target of shape {expected} for a prediction of shape "
                f"{shape}, got {target.shape}"
            )

    def _read_weights(
        self,
        weights: ArrayLike | None,
        mask: ArrayLike | None,
        shape: tuple[int, ...],
        dtype: DTypeLike,
    ) -> tuple[NDArray[Any] | None, NDArray[np.bool_] | None]:
        """Return weights and mask, each None or with as many axes as the elements' `shape`."""
        if weights is None and mask is None:  # as is usual: a small step is spared what follows
            return None, None
        counts = None
        if mask is not None:
            counts = as_array(mask, "mask")
            if counts.dtype != bool:
                raise ValueError(
                    f"{self._name}: mask must hold bools, True where an element counts, got "
                    f"{counts.dtype}"
                )
            counts = self._leading(counts, shape, "mask")
        if weights is None:
            return None, counts
        with np.errstate(all="ignore"):
            return self._per_element(weights, counts, shape, "weights").astype(dtype), counts

    def _per_element(
        self,
        value: ArrayLike,
        mask: NDArray[np.bool_] | None,
        shape: tuple[int, ...],
        name: str,
    ) -> NDArray[Any]:
        """Return numbers >= 0 with the axes of `_leading`; they may be anything where masked."""
        array = self._leading(as_array(value, name), shape, name)
        if mask is not None and array.dtype.kind == "f":
            array = np.where(mask, array, array.dtype.type(0))
        if array.dtype.kind not in "fiu" or not (array >= 0).all():
            raise ValueError(f"{self._name}: {name} must be numbers of at least 0")
        return array

    def _leading(self, array: NDArray[Any], shape: tuple[int, ...], name: str) -> NDArray[Any]:
        """Return `array` with axes of length 1 after its own, so that it broadcasts to `shape`."""
        fits = zip(array.shape, shape, strict=False)
        if array.ndim > len(shape) or any(ours not in (1, all_) for ours, all_ in fits):
            raise ValueError(
                f"{self._name}: the axes of {name} must be the first ones of {shape}, each of "
                f"that length or 1, got {array.shape}"
            )
        return _with_axes(array, len(shape))

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _reduce(
        self,
        losses: NDArray[Any],
        slopes: NDArray[Any],
        weights: NDArray[Any] | None,
        mask: NDArray[np.bool_] | None,
        units: float | NDArray[Any] = 1.0,
    ) -> tuple[float | Any, NDArray[Any]]:
        """Return value and gradient; in a mean an element counts as many `units` as it has."""
        if weights is not None:
            losses, units = losses * weights, units * weights
            slopes = slopes * _with_axes(weights, slopes.ndim)
        counts: Any = True if mask is None else mask
        value: Any
        if self.reduction == "none":
            value = losses if mask is None else np.where(mask, losses, losses.dtype.type(0))
        else:
            value = np.add.reduce(losses, axis=None, dtype=np.float64, where=counts)
        if self.reduction == "mean":
            total = np.float64(_total(units, mask, losses.shape))
            value, slopes = value / total, slopes / slopes.dtype.type(total)
        if mask is not None:
            slopes = np.where(_with_axes(mask, slopes.ndim), slopes, slopes.dtype.type(0))
        return value if self.reduction == "none" else float(value), slopes


def _total(
    units: float | NDArray[Any], mask: NDArray[np.bool_] | None, shape: tuple[int, ...]
) -> float:
    """Return the sum of the `units` of the elements, in an array of this shape, that count."""
    counts: Any = True if mask is None else mask
    if mask is None and not getattr(units, "ndim", 0):
        return float(units * math.prod(shape))
    return float(np.sum(np.broadcast_to(units, shape), dtype=np.float64, where=counts))


def _with_axes(array: NDArray[Any], ndim: int) -> NDArray[Any]:
    return array.reshape(array.shape + (1,) * (ndim - array.ndim))


def _shown(value: object) -> str:
    return str(value.tolist()) if isinstance(value, np.ndarray) else repr(value)


class MSELoss(Loss):
    """Squared error: l = (y - t)^2.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}

    Notes
    -----
    A call takes and returns what `fastlstm.training.losses` says. Source: torch.nn.MSELoss.

    Examples
    --------
    >>> value, gradient = fastlstm.training.MSELoss()(np.array([1.0, 5.0]), np.array([1.0, 2.0]))
    >>> value, gradient
    (4.5, array([0., 3.]))

    Sequences of 1 and 2 steps in one batch (T, B, F), padded with nan:

    >>> prediction, target = np.ones((2, 2, 1)), np.array([[[0.0], [1.0]], [[np.nan], [3.0]]])
    >>> mask = np.array([[True, True], [False, True]])
    >>> value, gradient = fastlstm.training.MSELoss("sum")(prediction, target, mask=mask)
    >>> value, gradient[..., 0]
    (5.0, array([[ 2.,  0.],
           [ 0., -4.]]))
    """

    def _elements(self, y: NDArray[Any], t: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        error = y - t
        return error * error, 2 * error


class L1Loss(Loss):
    """Absolute error: ``l = |y - t|``. Its derivative is taken to be 0 where y = t.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}

    Notes
    -----
    A call takes and returns what `fastlstm.training.losses` says. Source: torch.nn.L1Loss.

    Examples
    --------
    >>> fastlstm.training.L1Loss()(np.array([1.0, 5.0]), np.array([1.0, 2.0]))
    (1.5, array([0. , 0.5]))
    """

    def _elements(self, y: NDArray[Any], t: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        error = y - t
        return np.abs(error), np.sign(error)


class HuberLoss(Loss):
    """Squared error near 0, absolute error beyond `delta`, so that outliers count less.

    With ``e = y - t``, ``l = e^2 / 2`` where ``|e| <= delta``, and ``delta (|e| - delta / 2)``
    elsewhere.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
    delta : float > 0
        In the unit of the target.

    Raises
    ------
    ValueError, TypeError
        If `delta` is not a number above 0.

    Notes
    -----
    A call takes and returns what `fastlstm.training.losses` says. Sources: Huber 1964;
    torch.nn.HuberLoss.

    Examples
    --------
    >>> loss = fastlstm.training.HuberLoss("sum", delta=2.0)
    >>> loss(np.array([1.0, 5.0]), np.array([0.0, 0.0]))
    (8.5, array([1., 2.]))
    """

    def __init__(self, reduction: Reduction = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction)
        self.delta = check_number("delta", delta, above=0)

    def _elements(self, y: NDArray[Any], t: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        error = y - t
        slope = np.clip(error, -self.delta, self.delta)
        return slope * (error - slope / 2), slope


class QuantileLoss(Loss):
    """Pinball loss: it is least where the prediction is the quantile q of the target's values.

    With e = t - y: l = q e where e > 0, otherwise (q - 1) e. Its derivative is taken to be 0 where
    e = 0.

    Parameters
    ----------
    quantiles : float, or sequence of floats, in (0, 1)
        With one number predictions have the target's shape. With a sequence predictions have one
        more axis, the last, with a value for each quantile: (T, B, Q) against (T, B).
    reduction : {"mean", "sum", "none"}
        The elements are those of the prediction, so the mean is over quantiles, too.

    Raises
    ------
    ValueError, TypeError
        If a quantile is not a number between 0 and 1, or the sequence is empty.

    Notes
    -----
    A call takes and returns what `fastlstm.training.losses` says. Predictions of several quantiles
    may cross. Source: Koenker & Bassett 1978.

    Examples
    --------
    >>> loss = fastlstm.training.QuantileLoss([0.25, 0.5], reduction="sum")
    >>> loss(np.array([[1.0, 3.0]]), np.array([2.0]))
    (0.75, array([[-0.25,  0.5 ]]))
    """

    def __init__(
        self,
        quantiles: float | Sequence[float] | NDArray[Any] = 0.5,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction)
        self._several = isinstance(quantiles, (list, tuple, np.ndarray))
        given: Any = quantiles
        values = list(given) if self._several else [given]
        self.quantiles = [check_number("quantile", q, above=0, below=1) for q in values]
        if not values:
            raise ValueError("quantiles must hold at least one number, got none")

    def _target_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if self._several and shape[-1:] != (len(self.quantiles),):
            raise ValueError(
                f"QuantileLoss: Expected prediction of shape (..., {len(self.quantiles)}), one "
                f"value for each quantile, got {shape}"
            )
        return shape[:-1] if self._several else shape

    def _elements(self, y: NDArray[Any], t: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        q = np.array(self.quantiles, y.dtype)
        error = (t[..., None] if self._several else t) - y
        slope = np.where(error > 0, -q, np.where(error < 0, 1 - q, error))  # else it is 0 or nan
        return np.maximum(q * error, (q - 1) * error), slope


class CrossEntropyLoss(Loss):
    """Cross-entropy from logits: -log softmax(logits) of the right class.

    **Classes are on the last axis**, where the layers of this package have their features; torch
    has them on axis 1. The elements are on all axes before it.

    Parameters
    ----------
    weight : sequence of C numbers >= 0, optional
        The weight of each class, w_c below; 1 if it is not given.
    ignore_index : int
        Targets of this class do not count, as if they were masked. It is for class indices only.
    reduction : {"mean", "sum", "none"}
        As in torch, the mean divides by the sum of the targets' class weights or, if the targets
        are class probabilities, by the number of elements. With sample weights each element counts
        that many times.
    label_smoothing : float in [0, 1]
        The share s of the target's probability that is spread evenly over all classes.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of its range. A call raises it if the target fits the logits neither
        as indices nor as probabilities, or an index that counts is no class.

    Notes
    -----
    A call takes logits (..., C) and a target. That is either class indices (...), integers, or
    class probabilities (..., C), floats p_c of the logits' dtype::

        l = -sum_c w_c ((1 - s) p_c + s / C) log softmax(logits)_c

    where p_c of an index is 1 for its class and 0 for the others. The rest is as
    `fastlstm.training.losses` says. Source: torch.nn.CrossEntropyLoss.

    Examples
    --------
    >>> loss = fastlstm.training.CrossEntropyLoss()
    >>> value, gradient = loss(np.log([[1.0, 3.0], [1.0, 1.0]]), np.array([1, -100]))
    >>> f"{value:.4f}", gradient
    ('0.2877', array([[ 0.25, -0.25],
           [ 0.  ,  0.  ]]))
    """

    def __init__(
        self,
        weight: ArrayLike | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(reduction)
        self.weight = None if weight is None else as_array(weight, "weight").astype(np.float64)
        if self.weight is not None and (self.weight.ndim != 1 or not (self.weight >= 0).all()):
            raise ValueError("weight must hold one number of at least 0 for each class")
        self.ignore_index = check_size("ignore_index", ignore_index, least=None)
        self.label_smoothing = check_number("label_smoothing", label_smoothing, least=0, most=1)

    def __call__(
        self,
        prediction: ArrayLike,
        target: ArrayLike,
        *,
        weights: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> tuple[float | Any, NDArray[Any]]:
        """Return (value, gradient) of logits (..., C) and indices (...) or probabilities."""
        logits, labels, class_weights, w, counts = self._arrange(prediction, target, weights, mask)
        with np.errstate(all="ignore"):
            if labels.dtype.kind == "f":
                return self._reduce(*self._of_shares(logits, class_weights, labels), w, counts)
            losses, slopes = self._of_indices(logits, class_weights, labels)
            return self._reduce(losses, slopes, w, counts, class_weights[labels])

    def denominator(
        self,
        prediction: ArrayLike,
        target: ArrayLike,
        *,
        weights: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> float:
        """Return what "mean" divides by: the sum of the class weights of all targets that count.

        Parameters
        ----------
        prediction, target, weights, mask
            As in a call.

        Returns
        -------
        float

        Examples
        --------
        >>> loss = fastlstm.training.CrossEntropyLoss(weight=[1, 5])
        >>> loss.denominator(np.zeros((3, 2)), np.array([1, 0, -100]))
        6.0
        """
        logits, labels, class_weights, w, counts = self._arrange(prediction, target, weights, mask)
        units = 1.0 if labels.dtype.kind == "f" else class_weights[labels]
        return _total(units if w is None else units * w, counts, logits.shape[:-1])

    def _arrange(
        self,
        prediction: ArrayLike,
        target: ArrayLike,
        weights: ArrayLike | None,
        mask: ArrayLike | None,
    ) -> tuple[
        NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any] | None, NDArray[np.bool_] | None
    ]:
        """Return logits, probabilities (floats) or indices, class weights, weights and mask."""
        logits = self._floats(prediction, "prediction")
        if not logits.shape or not logits.shape[-1]:
            raise ValueError(
                f"CrossEntropyLoss: Expected logits (..., classes), got shape {logits.shape}"
            )
        class_weights = self._class_weights(logits)
        w, counts = self._read_weights(weights, mask, logits.shape[:-1], logits.dtype)
        array = self._labels(target, logits)
        if array.dtype.kind == "f":
            shares = self._floats(target, "target", logits.dtype)
            return logits, shares, class_weights, w, counts
        index = as_integers(array, "target of CrossEntropyLoss")
        self._check_shape(index, logits.shape[:-1], logits.shape)
        index, counts = self._counted(index, counts, logits.shape[-1])
        return logits, index, class_weights, w, counts

    def _labels(self, target: ArrayLike, logits: NDArray[Any]) -> NDArray[Any]:
        """Return `target` as an array: floats are probabilities, integers are indices."""
        shape, classes = logits.shape[:-1], logits.shape[-1]
        try:
            array = as_array(target, "target")
            array = array if array.size else array.astype(np.int64)
            got = f"{array.dtype} of shape {array.shape}"
        except TypeError as fault:
            array, got = np.zeros(0, object), str(fault)
        is_whole, kind = array.shape == logits.shape, array.dtype.kind
        if not (kind == "f" and is_whole or kind in "iu" and not is_whole):
            raise ValueError(
                f"CrossEntropyLoss: Expected target to hold class indices, integers from 0 to "
                f"{classes - 1} in an array of shape {shape}, or class probabilities, "
                f"{logits.dtype} of shape {logits.shape}, got {got}. Labels become indices by "
                "np.unique(labels, return_inverse=True)[1]"
            )
        return array

    @quiet
    def _class_weights(self, logits: NDArray[Any]) -> NDArray[Any]:
        classes = logits.shape[-1]
        if self.weight is None:
            return np.ones(classes, logits.dtype)
        if len(self.weight) != classes:
            raise ValueError(
                f"CrossEntropyLoss: weight has {len(self.weight)} classes, the logits have "
                f"{classes}"
            )
        return self.weight.astype(logits.dtype)

    def _counted(
        self, index: NDArray[np.int64], mask: NDArray[np.bool_] | None, classes: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
        """Return indices, 0 where they do not count, and the mask of those that do, if not all."""
        counts: NDArray[np.bool_] = index != self.ignore_index
        if mask is not None:
            counts &= mask
        index = np.where(counts, index, 0)
        if index.size and not (0 <= index.min() and index.max() < classes):
            raise ValueError(
                f"CrossEntropyLoss: target must hold classes 0..{classes - 1}, got indices from "
                f"{index.min()} to {index.max()}"
            )
        return index, None if counts.all() else counts

    def _of_indices(
        self, logits: NDArray[Any], class_weights: NDArray[Any], index: NDArray[np.int64]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return losses and slopes of class indices.

        Without smoothing only the logit of the right class is in the sum, so that others may be
        -inf.
        """
        at = index[..., None]
        shifted, log_total, slopes = _softmax(logits)
        chosen = np.take_along_axis(shifted, at, axis=-1)
        share = class_weights[at] * logits.dtype.type(1 - self.label_smoothing)
        losses = share * (log_total - chosen)
        if self.label_smoothing:
            spread = class_weights * (self.label_smoothing / len(class_weights))
            losses += ((log_total - shifted) * spread).sum(-1, keepdims=True)
            slopes *= share + spread.sum()
            slopes -= spread
        else:
            slopes *= share
        chosen = np.take_along_axis(slopes, at, axis=-1) - share
        np.put_along_axis(slopes, at, chosen, axis=-1)
        return losses[..., 0], slopes

    def _of_shares(
        self, logits: NDArray[Any], class_weights: NDArray[Any], target: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return losses and slopes of class probabilities."""
        s = self.label_smoothing
        shifted, log_total, slopes = _softmax(logits)
        shares = class_weights * (target * (1 - s) + s / len(class_weights))
        slopes *= shares.sum(-1, keepdims=True)
        slopes -= shares
        return (shares * (log_total - shifted)).sum(-1), slopes


def _softmax(logits: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the logits minus the greatest, the log of the sum of their exponentials, softmax."""
    shifted = logits - logits.max(-1, keepdims=True)
    shares = np.exp(shifted)
    total = shares.sum(-1, keepdims=True)
    shares /= total
    return shifted, np.log(total), shares


class BCEWithLogitsLoss(Loss):
    """Binary cross-entropy from logits: each element is a yes-or-no question of its own.

    With the sigmoid sigma, ``l = -(p t log sigma(y) + (1 - t) log(1 - sigma(y)))``. It is computed
    from ``log(1 + exp(-|y|))``, so that large values of y neither overflow nor lose digits.

    Parameters
    ----------
    pos_weight : number or sequence of numbers >= 0, optional
        The weight p of an answer "yes". The number of negatives divided by that of positives
        balances them. It is broadcast against the prediction's last axes. The mean does not divide
        by it.
    reduction : {"mean", "sum", "none"}

    Raises
    ------
    ValueError, TypeError
        If `pos_weight` is not numbers of at least 0. A call raises it if its shape does not fit.

    Notes
    -----
    Targets are floats, probabilities of "yes". A call takes and returns what
    `fastlstm.training.losses` says. Source: torch.nn.BCEWithLogitsLoss.

    Examples
    --------
    >>> loss = fastlstm.training.BCEWithLogitsLoss(reduction="none")
    >>> loss(np.array([0.0, 1e4, -1e4]), np.array([1.0, 0.0, 0.0]))
    (array([6.93147181e-01, 1.00000000e+04, 0.00000000e+00]), array([-0.5,  1. ,  0. ]))
    """

    def __init__(self, pos_weight: ArrayLike | None = None, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)
        self.pos_weight = as_array(1.0 if pos_weight is None else pos_weight, "pos_weight")
        if self.pos_weight.dtype.kind not in "fiu" or not (self.pos_weight >= 0).all():
            raise ValueError("pos_weight must hold numbers of at least 0")

    def _target_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        last = shape[len(shape) - self.pos_weight.ndim :]
        fits = zip(self.pos_weight.shape, last, strict=False)
        if self.pos_weight.ndim > len(shape) or any(ours not in (1, all_) for ours, all_ in fits):
            raise ValueError(
                f"BCEWithLogitsLoss: pos_weight of shape {self.pos_weight.shape} does not fit a "
                f"prediction of shape {shape}"
            )
        return shape

    def _elements(self, y: NDArray[Any], t: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        yes, no = t * self.pos_weight.astype(y.dtype), 1 - t
        small = np.exp(-np.abs(y))
        log = np.log1p(small)
        losses = yes * (np.maximum(-y, 0) + log) + no * (np.maximum(y, 0) + log)
        large = 1 / (1 + small)  # sigmoid(|y|); `small` becomes 1 - sigmoid(|y|), not subtracted
        small = small * large
        positive = y >= 0
        return losses, no * np.where(positive, large, small) - yes * np.where(
            positive, small, large
        )


class NSELoss(Loss):
    """Squared error in units of each basin's own variability, as hydrologists use it.

    l = (y - t)^2 / (std + eps)^2, where std is the standard deviation of the target in the basin
    (or any other place, meter or person) that the sample comes from. So wet basins with their large
    floods do not outweigh dry ones.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
    eps : float >= 0
        It is added to each std, in the same unit, so that basins that hardly change do not
        dominate.

    Raises
    ------
    ValueError, TypeError
        If `eps` is not a number of at least 0. A call raises it if `std` is missing, does not fit
        or is negative.

    Notes
    -----
    The Nash-Sutcliffe efficiency of one basin (`nse`) is 1 - sum (y - t)^2 / sum (t - mean t)^2.
    With eps = 0 and the std of the targets in the call, the mean of this loss is 1 - NSE; over
    several basins with equally many steps it is the mean of 1 - NSE. For batches, which are small
    parts of a basin's record, pass the std of the whole record, so that the loss does not depend on
    how the record was cut.

    A call is ``loss(prediction, target, *, std, weights=None, mask=None)``, where `std` is in the
    target's unit and has axes as `weights`. `fit` takes it from the data, a number for each sample:
    ``Arrays(x, y, std=...)``; ``functools.partial(loss, std=...)`` is a loss for one basin. Mask
    missing targets by ``mask=~np.isnan(target)``. The rest is as `fastlstm.training.losses` says.
    Sources: Kratzert et al. 2019 (doi:10.5194/hess-23-5089-2019);
    neuralhydrology's MaskedNSELoss.

    Examples
    --------
    >>> target = np.array([1.0, 2.0, 6.0])
    >>> prediction = np.array([1.0, 2.0, 5.0])
    >>> value, gradient = fastlstm.training.NSELoss(eps=0)(prediction, target, std=target.std())
    >>> round(value, 6), round(1 - fastlstm.training.nse(prediction, target), 6)
    (0.071429, 0.071429)
    """

    def __init__(self, reduction: Reduction = "mean", eps: float = 0.1) -> None:
        super().__init__(reduction)
        self.eps = check_number("eps", eps, least=0)

    def __call__(
        self,
        prediction: ArrayLike,
        target: ArrayLike,
        *,
        std: ArrayLike | None = None,
        weights: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> tuple[float | Any, NDArray[Any]]:
        """Return (value, gradient); `std` is that of each sample's basin."""
        if std is None:
            raise ValueError(
                "NSELoss: Expected std, the standard deviation of the target in each sample's "
                "basin: for fit in the data, as Arrays(x, y, std=...), or of a single basin as "
                "functools.partial(NSELoss(), std=...)"
            )
        y, t = self._read(prediction, target)
        w, counts = self._read_weights(weights, mask, y.shape, y.dtype)
        spread = self._per_element(std, counts, y.shape, "std")
        with np.errstate(all="ignore"):
            scale = (1 / (spread + self.eps) ** 2).astype(y.dtype)
            error = y - t
            return self._reduce(error * error * scale, 2 * error * scale, w, counts)


def nse(prediction: ArrayLike, target: ArrayLike) -> float:
    """Return the Nash-Sutcliffe efficiency: the share of the target's variance that is predicted.

    NSE = 1 - sum (y - t)^2 / sum (t - mean t)^2. It is 1 for a perfect prediction and 0 for one
    that is as good as the target's mean.

    Parameters
    ----------
    prediction, target : array of floats, of one shape
        One basin's record. No value is left out: with a nan in either the result is nan. If
        targets are missing, pass the others only: ``nse(y[ok], t[ok])``.

    Returns
    -------
    float
        At most 1; -inf or nan if the target is constant.

    Raises
    ------
    ValueError
        If the shapes differ, or the arrays are empty or hold no numbers.

    Notes
    -----
    Computed in float64. Source: Nash & Sutcliffe 1970.

    Examples
    --------
    >>> fastlstm.training.nse(np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.0, 3.0]))
    0.5
    """
    y, t = as_array(prediction, "prediction"), as_array(target, "target")
    if y.dtype.kind not in "fiu" or t.dtype.kind not in "fiu":
        raise ValueError(f"nse: Expected arrays of numbers, got {y.dtype} and {t.dtype}")
    if y.shape != t.shape or not y.size:
        raise ValueError(
            f"nse: Expected arrays of one shape, not empty, got {y.shape} and {t.shape}"
        )
    y, t = y.astype(np.float64), t.astype(np.float64)
    with np.errstate(all="ignore"):
        return float(1 - np.sum((y - t) ** 2) / np.sum((t - t.mean()) ** 2))
