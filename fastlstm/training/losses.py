"""What a model is trained to make small: each loss gives its value and its gradient in one call.

A loss sees one value l per element, of a prediction and a target. What is passed to it and what
comes back is the same for all of them::

    value, gradient = loss(prediction, target, *, weights=None, mask=None)

`prediction` : array of float32 or float64
    What a model gave. Neither it nor anything else that is passed is written.
`target` : array of the prediction's dtype and shape, unless the loss says otherwise
`weights` : array of numbers >= 0, optional
    w, how much each element counts. Its axes are the first ones of the elements' array, each of
    that axis' length or 1: (B,) or (B, T) for predictions (B, T, F); (1, B) for (T, B, F).
`mask` : array of bool, optional
    True where an element counts, axes as for `weights`: (T, B) for ragged sequences in (T, B, F).
    Whatever stands where it is False, nan included, adds nothing, and the gradient there is 0.
`value` : float; with reduction "none" an array of the elements' shape and the prediction's dtype
    "mean": sum(w l) / sum(w) over the elements that count, w being 1 without weights: the
    weighted average, as torch's CrossEntropyLoss has it with its class weights. "sum":
    sum(w l). "none": w l, and 0 where masked. Sums are taken in float64. The mean over nothing
    is nan, as torch's.
`gradient` : array of the prediction's shape and dtype
    Of the value with respect to the prediction; with reduction "none", of the sum of the values.

What "mean" divides by is ``loss.denominator(prediction, target, weights=..., mask=...)``. So means
over batches can be put together: sum(value * denominator) / sum(denominator) is the mean over all
of them at once, whatever each batch's class weights, ignored targets or masks. `fit` does that, and
does it with a loss of one's own too if it has such a method.

nan and inf in what counts come out in value and gradient, without a warning, as in torch; so do
those where a weight is 0, for 0 * nan is nan: a mask leaves out, a weight does not.
"""

import math

import numpy as np

from ..arrays import as_array, as_float, as_integers, quiet
from ..checks import check_number, check_size


class Loss:
    """The reduction, and the reading of what every loss is given."""

    def __init__(self, reduction="mean"):
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"reduction must be one of mean, sum, none, got {reduction!r}")
        self.reduction = reduction

    def __call__(self, prediction, target, *, weights=None, mask=None):
        """Return (value, gradient); ValueError if what is passed does not fit together."""
        y, t = self._read(prediction, target)
        weights, mask = self._read_weights(weights, mask, y.shape, y.dtype)
        with np.errstate(all="ignore"):
            return self._reduce(*self._elements(y, t), weights, mask)

    def denominator(self, prediction, target, *, weights=None, mask=None) -> float:
        """Return what "mean" divides by: how much all elements that count weigh.

        Examples
        --------
        >>> y = np.zeros((2, 3))
        >>> fastlstm.training.MSELoss().denominator(y, y, weights=[1, 4])
        15.0
        """
        y = self._floats(prediction, "prediction")
        weights, mask = self._read_weights(weights, mask, y.shape, y.dtype)
        return _total(1.0 if weights is None else weights, mask, y.shape)

    def _elements(self, y, t):
        """The elements' losses, and their derivatives by the prediction."""
        raise NotImplementedError

    def _read(self, prediction, target):
        """Both as arrays, the target of the prediction's dtype and `_target_shape`."""
        y = self._floats(prediction, "prediction")
        t = self._floats(target, "target", y.dtype)
        self._check_shape(t, self._target_shape(y.shape), y.shape)
        return y, t

    def _target_shape(self, shape):
        return shape

    def _floats(self, value, name, dtype=None):
        """`value` as an array of `dtype`, the prediction's; None: float32 or float64, as it has."""
        array = as_array(value, name)
        wanted = dtype or np.dtype("float32" if array.dtype.itemsize <= 4 else "float64")
        try:
            return as_float(value, wanted, name)
        except ValueError:
            expected = f"{dtype}, as the prediction's" if dtype else "float32 or float64"
            raise ValueError(
                f"{self._name}: Expected {name} of {expected}, got {array.dtype}"
            ) from None

    def _check_shape(self, target, expected, shape):
        if target.shape != expected:
            raise ValueError(
                f"{self._name}: Expected target of shape {expected} for a prediction of shape "
                f"{shape}, got {target.shape}"
            )

    @quiet
    def _read_weights(self, weights, mask, shape, dtype):
        """Weights and mask, each None or with as many axes as the elements' `shape`."""
        if mask is not None:
            mask = as_array(mask, "mask")
            if mask.dtype != bool:
                raise ValueError(
                    f"{self._name}: mask must hold bools, True where an element counts, got "
                    f"{mask.dtype}"
                )
            mask = self._leading(mask, shape, "mask")
        if weights is not None:
            weights = self._per_element(weights, mask, shape, "weights").astype(dtype)
        return weights, mask

    def _per_element(self, value, mask, shape, name):
        """Numbers >= 0 with the axes of `_leading`; what is masked may be anything."""
        array = self._leading(as_array(value, name), shape, name)
        if mask is not None and array.dtype.kind == "f":
            array = np.where(mask, array, array.dtype.type(0))
        if array.dtype.kind not in "fiu" or not (array >= 0).all():
            raise ValueError(f"{self._name}: {name} must be numbers of at least 0")
        return array

    def _leading(self, array, shape, name):
        """`array` with axes of length 1 behind its own, so that it broadcasts to `shape`."""
        fits = zip(array.shape, shape, strict=False)
        if array.ndim > len(shape) or any(ours not in (1, all_) for ours, all_ in fits):
            raise ValueError(
                f"{self._name}: the axes of {name} must be the first ones of {shape}, each of "
                f"that length or 1, got {array.shape}"
            )
        return _with_axes(array, len(shape))

    @property
    def _name(self):
        return type(self).__name__

    def _reduce(self, losses, slopes, weights, mask, units=1.0):
        """Value and gradient from what the elements have; their `units` are what a mean counts."""
        if weights is not None:
            losses, units = losses * weights, units * weights
            slopes = slopes * _with_axes(weights, slopes.ndim)
        counts = True if mask is None else mask
        if self.reduction == "none":
            value = losses if mask is None else np.where(mask, losses, losses.dtype.type(0))
        else:
            value = np.sum(losses, dtype=np.float64, where=counts)
        if self.reduction == "mean":
            total = np.float64(_total(units, mask, losses.shape))
            value, slopes = value / total, slopes / slopes.dtype.type(total)
        if mask is not None:
            slopes = np.where(_with_axes(mask, slopes.ndim), slopes, slopes.dtype.type(0))
        return value if self.reduction == "none" else float(value), slopes


def _total(units, mask, shape):
    """The sum of the `units` of what counts among elements of this shape."""
    counts = True if mask is None else mask
    if mask is None and np.ndim(units) == 0:
        return float(units * math.prod(shape))
    return float(np.sum(np.broadcast_to(units, shape), dtype=np.float64, where=counts))


def _with_axes(array, ndim):
    return array.reshape(array.shape + (1,) * (ndim - array.ndim))


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

    def _elements(self, y, t):
        error = y - t
        return error * error, 2 * error


class L1Loss(Loss):
    """Absolute error: l = |y - t|; its derivative is taken as 0 where y = t.

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

    def _elements(self, y, t):
        error = y - t
        return np.abs(error), np.sign(error)


class HuberLoss(Loss):
    """Squared error near 0, absolute error beyond `delta`, so that outliers do not rule.

    With e = y - t: l = e^2 / 2 where |e| <= delta, otherwise delta (|e| - delta / 2).

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

    def __init__(self, reduction="mean", delta=1.0):
        super().__init__(reduction)
        self.delta = check_number("delta", delta, above=0)

    def _elements(self, y, t):
        error = y - t
        slope = np.clip(error, -self.delta, self.delta)
        return slope * (error - slope / 2), slope


class QuantileLoss(Loss):
    """Pinball loss: its minimum is the quantile q of what t can be, rather than its mean.

    With e = t - y: l = q e where e > 0, otherwise (q - 1) e; its derivative is taken as 0 where
    e = 0.

    Parameters
    ----------
    quantiles : float, or sequence of floats, in (0, 1)
        One: predictions have the target's shape. Several: the last axis of a prediction has one
        value for each of them, which the target has not: (T, B, Q) against (T, B).
    reduction : {"mean", "sum", "none"}
        Elements are the prediction's: the mean is over quantiles too.

    Raises
    ------
    ValueError, TypeError
        If a quantile is not a number between 0 and 1, or there is none.

    Notes
    -----
    A call takes and returns what `fastlstm.training.losses` says. Nothing keeps several quantiles
    from crossing. Source: Koenker & Bassett 1978.

    Examples
    --------
    >>> loss = fastlstm.training.QuantileLoss([0.25, 0.5], reduction="sum")
    >>> loss(np.array([[1.0, 3.0]]), np.array([2.0]))
    (0.75, array([[-0.25,  0.5 ]]))
    """

    def __init__(self, quantiles=0.5, reduction="mean"):
        super().__init__(reduction)
        self._several = isinstance(quantiles, (list, tuple, np.ndarray))
        values = list(quantiles) if self._several else [quantiles]
        self.quantiles = [check_number("quantile", q, above=0, below=1) for q in values]
        if not values:
            raise ValueError("quantiles must hold at least one number, got none")

    def _target_shape(self, shape):
        if self._several and shape[-1:] != (len(self.quantiles),):
            raise ValueError(
                f"QuantileLoss: Expected prediction of shape (..., {len(self.quantiles)}), one "
                f"value for each quantile, got {shape}"
            )
        return shape[:-1] if self._several else shape

    def _elements(self, y, t):
        q = np.array(self.quantiles, y.dtype)
        error = (t[..., None] if self._several else t) - y
        slope = np.where(error > 0, -q, np.where(error < 0, 1 - q, error))  # error: 0 or nan
        return np.maximum(q * error, (q - 1) * error), slope


class CrossEntropyLoss(Loss):
    """-log softmax(logits) of the right class, from logits.

    **Classes are on the last axis**, where this package's layers have their features; torch has
    them on axis 1. Elements are all the axes before it.

    Parameters
    ----------
    weight : sequence of C numbers >= 0, optional
        One for each class, w_c below; 1 without it.
    ignore_index : int
        Targets of this class do not count, as if masked. For class indices only.
    reduction : {"mean", "sum", "none"}
        As in torch, the mean divides by the sum of the targets' class weights; with class
        probabilities as targets, by the number of elements. Times sample weights, if there are.
    label_smoothing : float in [0, 1]
        s: so much of the target's probability is spread evenly over all classes.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of its range; in a call, if the target fits the logits neither as
        indices nor as probabilities, or an index that counts is not a class.

    Notes
    -----
    A call takes logits (..., C) and a target, either class indices (...), integers, or class
    probabilities (..., C), floats p_c of the logits' dtype::

        l = -sum_c w_c ((1 - s) p_c + s / C) log softmax(logits)_c

    where p_c is 1 for an index' class and 0 for the others. The rest is what
    `fastlstm.training.losses` says. Source: torch.nn.CrossEntropyLoss.

    Examples
    --------
    >>> loss = fastlstm.training.CrossEntropyLoss()
    >>> value, gradient = loss(np.log([[1.0, 3.0], [1.0, 1.0]]), np.array([1, -100]))
    >>> f"{value:.4f}", gradient
    ('0.2877', array([[ 0.25, -0.25],
           [ 0.  ,  0.  ]]))
    """

    def __init__(self, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0):
        super().__init__(reduction)
        if weight is not None:
            weight = as_array(weight, "weight").astype(np.float64)
            if weight.ndim != 1 or not (weight >= 0).all():
                raise ValueError("weight must hold one number of at least 0 for each class")
        self.weight = weight
        self.ignore_index = check_size("ignore_index", ignore_index, least=None)
        self.label_smoothing = check_number("label_smoothing", label_smoothing, least=0, most=1)

    def __call__(self, prediction, target, *, weights=None, mask=None):
        """Return (value, gradient) of logits (..., C) and indices (...) or probabilities."""
        logits, shares, index, class_weights, weights, mask = self._arrange(
            prediction, target, weights, mask
        )
        with np.errstate(all="ignore"):
            if index is None:
                return self._reduce(*self._of_shares(logits, class_weights, shares), weights, mask)
            losses, slopes = self._of_indices(logits, class_weights, index)
            return self._reduce(losses, slopes, weights, mask, class_weights[index])

    def denominator(self, prediction, target, *, weights=None, mask=None) -> float:
        """Return what "mean" divides by: the class weights of all targets that count.

        Examples
        --------
        >>> loss = fastlstm.training.CrossEntropyLoss(weight=[1, 5])
        >>> loss.denominator(np.zeros((3, 2)), np.array([1, 0, -100]))
        6.0
        """
        logits, _, index, class_weights, weights, mask = self._arrange(
            prediction, target, weights, mask
        )
        units = 1.0 if index is None else class_weights[index]
        units = units if weights is None else units * weights
        return _total(units, mask, logits.shape[:-1])

    def _arrange(self, prediction, target, weights, mask):
        """Logits, class probabilities or indices (the other None), class weights, weights, mask."""
        logits = self._floats(prediction, "prediction")
        if not logits.shape or not logits.shape[-1]:
            raise ValueError(
                f"CrossEntropyLoss: Expected logits (..., classes), got shape {logits.shape}"
            )
        class_weights = self._class_weights(logits)
        weights, mask = self._read_weights(weights, mask, logits.shape[:-1], logits.dtype)
        array = self._labels(target, logits)
        if array.dtype.kind == "f":
            shares = self._floats(target, "target", logits.dtype)
            return logits, shares, None, class_weights, weights, mask
        index = as_integers(array, "target of CrossEntropyLoss")
        self._check_shape(index, logits.shape[:-1], logits.shape)
        index, mask = self._counted(index, mask, logits.shape[-1])
        return logits, None, index, class_weights, weights, mask

    def _labels(self, target, logits):
        """`target` as an array of floats that are probabilities, or of integers."""
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
    def _class_weights(self, logits):
        classes = logits.shape[-1]
        if self.weight is None:
            return np.ones(classes, logits.dtype)
        if len(self.weight) != classes:
            raise ValueError(
                f"CrossEntropyLoss: weight has {len(self.weight)} classes, the logits have "
                f"{classes}"
            )
        return self.weight.astype(logits.dtype)

    def _counted(self, index, mask, classes):
        """Indices, 0 where they do not count, and the mask of those that do; None if all do."""
        counts = index != self.ignore_index
        if mask is not None:
            counts &= mask
        index = np.where(counts, index, 0)
        if index.size and not (0 <= index.min() and index.max() < classes):
            raise ValueError(
                f"CrossEntropyLoss: target must hold classes 0..{classes - 1}, got indices from "
                f"{index.min()} to {index.max()}"
            )
        return index, None if counts.all() else counts

    def _of_indices(self, logits, class_weights, index):
        """Losses and slopes of class indices; only what has a share is looked at, -inf or not."""
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

    def _of_shares(self, logits, class_weights, target):
        """Losses and slopes of class probabilities."""
        s = self.label_smoothing
        shifted, log_total, slopes = _softmax(logits)
        shares = class_weights * (target * (1 - s) + s / len(class_weights))
        slopes *= shares.sum(-1, keepdims=True)
        slopes -= shares
        return (shares * (log_total - shifted)).sum(-1), slopes


def _softmax(logits):
    """Logits less their greatest, the logarithm of the sum of their exponentials, the shares."""
    shifted = logits - logits.max(-1, keepdims=True)
    shares = np.exp(shifted)
    total = shares.sum(-1, keepdims=True)
    shares /= total
    return shifted, np.log(total), shares


class BCEWithLogitsLoss(Loss):
    """Binary cross-entropy from logits: each element is a yes-or-no question of its own.

    With sigma the sigmoid: l = -(p t log sigma(y) + (1 - t) log(1 - sigma(y))), computed from
    log(1 + exp(-|y|)), so that neither end overflows or loses digits.

    Parameters
    ----------
    pos_weight : number or sequence of numbers >= 0, optional
        p, what an answer "yes" weighs: (negatives / positives) evens out their numbers.
        Broadcast against the prediction's last axes. The mean does not divide by it.
    reduction : {"mean", "sum", "none"}

    Raises
    ------
    ValueError, TypeError
        If `pos_weight` is not numbers of at least 0; in a call, if it does not fit.

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

    def __init__(self, pos_weight=None, reduction="mean"):
        super().__init__(reduction)
        pos_weight = as_array(1.0 if pos_weight is None else pos_weight, "pos_weight")
        if pos_weight.dtype.kind not in "fiu" or not (pos_weight >= 0).all():
            raise ValueError("pos_weight must hold numbers of at least 0")
        self.pos_weight = pos_weight

    def _target_shape(self, shape):
        last = shape[len(shape) - self.pos_weight.ndim :]
        fits = zip(self.pos_weight.shape, last, strict=False)
        if self.pos_weight.ndim > len(shape) or any(ours not in (1, all_) for ours, all_ in fits):
            raise ValueError(
                f"BCEWithLogitsLoss: pos_weight of shape {self.pos_weight.shape} does not fit a "
                f"prediction of shape {shape}"
            )
        return shape

    def _elements(self, y, t):
        yes, no = t * self.pos_weight.astype(y.dtype), 1 - t
        small = np.exp(-np.abs(y))
        log = np.log1p(small)
        losses = yes * (np.maximum(-y, 0) + log) + no * (np.maximum(y, 0) + log)
        large = 1 / (1 + small)  # sigmoid(|y|); the other end is 1 - it, without cancellation
        small = small * large
        positive = y >= 0
        return losses, no * np.where(positive, large, small) - yes * np.where(
            positive, small, large
        )


class NSELoss(Loss):
    """Squared error in units of each basin's own variability, as hydrology trains with it.

    l = (y - t)^2 / (std + eps)^2, with the standard deviation of the target of the basin (or any
    other place, meter or person) that the sample is from. So wet basins, with their large floods,
    do not outweigh dry ones.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
    eps : float >= 0
        Added to each std, in its unit: keeps basins that hardly change from ruling.

    Raises
    ------
    ValueError, TypeError
        If `eps` is not a number of at least 0; in a call, if `std` is missing, does not fit or is
        negative.

    Notes
    -----
    The Nash-Sutcliffe efficiency of one basin (`nse`) is 1 - sum (y - t)^2 / sum (t - mean t)^2.
    With eps = 0 and the std of the very targets in the call, the mean of this loss is 1 - NSE; over
    basins with as many steps each, the mean of their 1 - NSE. In batches, which are small parts
    of a basin's record, `std` is that of the whole record, so that the loss does not depend on
    how it was cut.

    A call is ``loss(prediction, target, *, std, weights=None, mask=None)``; `std`, in the target's
    unit, has axes as `weights`. `fit` takes it from the data, a number for each sample:
    ``Arrays(x, y, std=...)``; ``functools.partial(loss, std=...)`` is a loss for one basin.
    Targets that are missing are masked: ``mask=~np.isnan(target)``. The rest is what
    `fastlstm.training.losses` says. Sources: Kratzert et al. 2019 (doi:10.5194/hess-23-5089-2019);
    neuralhydrology's MaskedNSELoss.

    Examples
    --------
    >>> target = np.array([1.0, 2.0, 6.0])
    >>> prediction = np.array([1.0, 2.0, 5.0])
    >>> value, gradient = fastlstm.training.NSELoss(eps=0)(prediction, target, std=target.std())
    >>> round(value, 6), round(1 - fastlstm.training.nse(prediction, target), 6)
    (0.071429, 0.071429)
    """

    def __init__(self, reduction="mean", eps=0.1):
        super().__init__(reduction)
        self.eps = check_number("eps", eps, least=0)

    def __call__(self, prediction, target, *, std=None, weights=None, mask=None):
        """Return (value, gradient); `std` is that of each sample's basin."""
        if std is None:
            raise ValueError(
                "NSELoss: Expected std, the standard deviation of the target in each sample's "
                "basin: for fit in the data, as Arrays(x, y, std=...), or of a single basin as "
                "functools.partial(NSELoss(), std=...)"
            )
        y, t = self._read(prediction, target)
        weights, mask = self._read_weights(weights, mask, y.shape, y.dtype)
        std = self._per_element(std, mask, y.shape, "std")
        with np.errstate(all="ignore"):
            scale = (1 / (std + self.eps) ** 2).astype(y.dtype)
            error = y - t
            return self._reduce(error * error * scale, 2 * error * scale, weights, mask)


def nse(prediction, target):
    """Return the Nash-Sutcliffe efficiency: what share of the target's variance is predicted.

    NSE = 1 - sum (y - t)^2 / sum (t - mean t)^2: 1 is perfect, 0 as good as the target's mean.

    Parameters
    ----------
    prediction, target : array of floats, of one shape
        One basin's record. Nothing is left out: a nan in either gives nan; for missing targets
        pass what is not missing, ``nse(y[ok], t[ok])``.

    Returns
    -------
    float
        At most 1; -inf or nan if the target is constant.

    Raises
    ------
    ValueError
        If the shapes differ, or there is nothing in them, or no numbers.

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
