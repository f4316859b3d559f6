"""The optimisers SGD, RMSprop, Adam and AdamW, as torch has them.

Operations and their order are those of torch's single-tensor code, in the dtype of the layers, so a
step differs from torch's by rounding alone. Gradients that are not finite do what they do in torch.
How a step goes through the parameters is in `fastlstm.training.optimiser`.

Every optimiser takes `lr_factors` and `decay_factors`, as MATLAB's lstmLayer has them. They
multiply `lr` and `weight_decay` for some of the parameters. Both are dicts. The keys are patterns,
as `fnmatch` has them, over the names in ``model.state_dict()``. The values are a number or, for
parameters that have the rows of an LSTM's gates, one for each gate in the order i, f, g, o::

    lr_factors={"*bias*": 2, "lstm.weight_hh_l0": [1, 2, 1, 1]}, decay_factors={"*bias*": 0}

If several patterns match a name, the last one counts; a name that none matches has the factor 1. A
parameter whose learning rate has the factor 0 is frozen, as by `Layer.freeze`: it and its moments
do not change, even if its gradients are nan, and these do not count in a norm.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import check_bool, check_number
from ..engines.contract import Rule
from ..layers import Layer
from .blocks import Factors
from .optimiser import Optimiser


def _decayed(p: NDArray[Any], g: NDArray[Any], decay: float, out: NDArray[Any]) -> NDArray[Any]:
    """Return g + decay * p, the gradients with those of the penalty, in `out`; g itself at 0."""
    if not decay:
        return g
    np.multiply(p, decay, out=out)
    out += g
    return out


def _lerp(old: NDArray[Any], new: NDArray[Any], weight: float, scratch: NDArray[Any]) -> None:
    """Write old + weight * (new - old) into `old`, from the nearer end as torch does."""
    np.subtract(new, old, out=scratch)
    if weight < 0.5:
        scratch *= weight
        old += scratch
    else:
        scratch *= 1 - weight
        np.subtract(new, scratch, out=old)


def _add_squares(
    average: NDArray[Any], g: NDArray[Any], beta: float, scratch: NDArray[Any]
) -> None:
    """Write beta * average + (1 - beta) * g * g into `average`."""
    np.multiply(g, 1 - beta, out=scratch)
    scratch *= g
    average *= beta
    average += scratch


class SGD(Optimiser):
    """Stochastic gradient descent, with momentum if it is not 0: torch.optim.SGD.

    Parameters
    ----------
    model : Layer
        The model whose parameters `step` changes.
    lr : float >= 0
        The learning rate. Schedules change it, as ``optimizer.lr``.
    momentum : float >= 0
    dampening : float
        The gradient goes into the momentum times 1 - dampening, but in the first step times 1.
    weight_decay : float >= 0
        The parameters times this are added to the gradients.
    nesterov : bool
        Use Nesterov's momentum. It needs a momentum and no dampening.
    lr_factors, decay_factors : dict of str -> float or four floats, optional
        By patterns of the parameters' names: see `fastlstm.training.optimisers`.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of its range or of another type.

    Notes
    -----
    With g the gradient, ``b = momentum b + (1 - dampening) g`` and ``p = p - lr b``; with
    `nesterov` ``p = p - lr (g + momentum b)``. With momentum, memory: b, of the parameters' size.
    The factors are those of MATLAB's lstmLayer. Source: torch.optim.SGD.

    Examples
    --------
    >>> model = fastlstm.Linear(1, 1, bias=False)
    >>> model.weight = [[1.0]]
    >>> optimizer = fastlstm.training.SGD(model, lr=0.5)
    >>> model.grads["weight"][...] = 1.0
    >>> optimizer.step()
    >>> model.weight
    array([[0.5]], dtype=float32)
    """

    options = ("lr", "momentum", "dampening", "weight_decay", "nesterov")
    moment_names = ("momentum_buffer",)

    def __init__(
        self,
        model: Layer,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        lr_factors: Factors | None = None,
        decay_factors: Factors | None = None,
    ) -> None:
        super().__init__(model, lr, weight_decay, lr_factors, decay_factors)
        self.momentum = check_number("momentum", momentum, least=0)
        self.dampening = check_number("dampening", dampening)
        self.nesterov = check_bool("nesterov", nesterov)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")

    def _needed(self) -> tuple[str, ...]:
        return ("momentum_buffer",) if self.momentum else ()

    def _rule(self, lr: float, decay: float, steps: int) -> Rule:
        return Rule(
            "sgd", -lr, decay, momentum=self.momentum, dampening=self.dampening,
            nesterov=self.nesterov, first=bool(self._fresh) or steps == 1,
        )  # fmt: skip

    def _compute(
        self,
        p: NDArray[Any],
        g: NDArray[Any],
        moments: dict[str, NDArray[Any]],
        scratch: NDArray[Any],
        lr: float,
        decay: float,
        steps: int,
    ) -> None:
        g, change = _decayed(p, g, decay, scratch[0]), scratch[1]
        for b in moments.values():
            if self._fresh or steps == 1:
                b[...] = g
            else:
                np.multiply(g, 1 - self.dampening, out=change)
                b *= self.momentum
                b += change
            if self.nesterov:
                np.multiply(b, self.momentum, out=change)
                change += g
                g = change
            else:
                g = b
        np.multiply(g, -lr, out=change)
        p += change


class RMSprop(Optimiser):
    """Gradients divided by the root of their mean square: torch.optim.RMSprop.

    Parameters
    ----------
    model : Layer
        The model whose parameters `step` changes.
    lr : float >= 0
        The learning rate. Schedules change it, as ``optimizer.lr``.
    alpha : float in [0, 1]
        The share of the mean square that a step keeps.
    eps : float >= 0
        It is added to the root.
    weight_decay : float >= 0
        The parameters times this are added to the gradients.
    momentum : float >= 0
    centered : bool
        Use the variance instead of the mean square.
    lr_factors, decay_factors : dict of str -> float or four floats, optional
        By patterns of the parameters' names: see `fastlstm.training.optimisers`.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of its range or of another type.

    Notes
    -----
    With g the gradient, ``v = alpha v + (1 - alpha) g^2`` and ``p = p - lr g / (sqrt(v) + eps)``;
    with `centered` the root is ``sqrt(v - m^2)``, where m is the mean of g as v is that of g^2;
    with momentum ``b = momentum b + g / (...)`` and ``p = p - lr b``. Memory: v, m and b, each of
    the parameters' size. The factors are those of MATLAB's lstmLayer. Sources: Hinton's lecture;
    Graves 2013 (centered); torch.optim.RMSprop.

    Examples
    --------
    >>> model = fastlstm.Linear(1, 1, bias=False)
    >>> model.weight = [[1.0]]
    >>> optimizer = fastlstm.training.RMSprop(model, lr=0.05, alpha=0.75)
    >>> model.grads["weight"][...] = 8.0
    >>> optimizer.step()
    >>> model.weight
    array([[0.9]], dtype=float32)
    """

    options = ("lr", "alpha", "eps", "weight_decay", "momentum", "centered")
    moment_names = ("square_avg", "grad_avg", "momentum_buffer")

    def __init__(
        self,
        model: Layer,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        lr_factors: Factors | None = None,
        decay_factors: Factors | None = None,
    ) -> None:
        super().__init__(model, lr, weight_decay, lr_factors, decay_factors)
        self.alpha = check_number("alpha", alpha, least=0, most=1)
        self.eps = check_number("eps", eps, least=0)
        self.momentum = check_number("momentum", momentum, least=0)
        self.centered = check_bool("centered", centered)

    def _needed(self) -> tuple[str, ...]:
        kept = True, self.centered, self.momentum > 0
        return tuple(name for name, is_kept in zip(self.moment_names, kept, strict=True) if is_kept)

    def _rule(self, lr: float, decay: float, steps: int) -> Rule:
        return Rule(
            "rmsprop", -lr, decay, momentum=self.momentum, mean=self.alpha, square=self.alpha,
            eps=self.eps,
        )  # fmt: skip

    def _compute(
        self,
        p: NDArray[Any],
        g: NDArray[Any],
        moments: dict[str, NDArray[Any]],
        scratch: NDArray[Any],
        lr: float,
        decay: float,
        steps: int,
    ) -> None:
        g, root = _decayed(p, g, decay, scratch[0]), scratch[1]
        v = moments["square_avg"]
        _add_squares(v, g, self.alpha, root)
        if self.centered:
            m = moments["grad_avg"]
            _lerp(m, g, 1 - self.alpha, root)
            np.multiply(m, m, out=root)
            np.subtract(v, root, out=root)
        np.sqrt(root if self.centered else v, out=root)
        root += self.eps
        change = scratch[0]
        if self.momentum > 0:
            b = moments["momentum_buffer"]
            np.divide(g, root, out=change)
            b *= self.momentum
            b += change
            np.multiply(b, -lr, out=change)
        else:
            np.multiply(g, -lr, out=change)
            change /= root
        p += change


class Adam(Optimiser):
    """Mean gradients divided by the root of their mean square, both unbiased: torch.optim.Adam.

    Parameters
    ----------
    model : Layer
        The model whose parameters `step` changes.
    lr : float >= 0
        The learning rate. Schedules change it, as ``optimizer.lr``.
    betas : (float, float) in [0, 1)
        The shares of the mean and of the mean square that a step keeps.
    eps : float >= 0
        It is added to the root.
    weight_decay : float >= 0
        The parameters times this are added to the gradients. So the penalty is scaled by the root,
        too.
    amsgrad : bool
        Use the largest mean square so far.
    lr_factors, decay_factors : dict of str -> float or four floats, optional
        By patterns of the parameters' names: see `fastlstm.training.optimisers`.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of its range or of another type.

    Notes
    -----
    With g the gradient of step n, from 1, ``m = beta1 m + (1 - beta1) g``, ``v = beta2 v + (1 -
    beta2) g^2`` and ``p = p - lr / (1 - beta1^n) m / (sqrt(v) / sqrt(1 - beta2^n) + eps)``.
    Memory: m and v, and the largest v with `amsgrad`, each of the parameters' size. The factors are
    those of MATLAB's lstmLayer. Sources: Kingma & Ba 2015; Reddi et al. 2018 (amsgrad);
    torch.optim.Adam.

    Examples
    --------
    >>> model = fastlstm.Sequential({"lstm": fastlstm.LSTM(3, 4), "fc": fastlstm.Linear(4, 1)})
    >>> optimizer = fastlstm.training.Adam(model, lr=0.01, lr_factors={"lstm.*": 0, "fc.bias": 2})
    >>> model.fc.bias = [1.0]
    >>> for gradient in model.grads.values():
    ...     gradient[...] = 3.0
    >>> optimizer.step()
    >>> model.fc.bias
    array([0.98], dtype=float32)
    """

    options = ("lr", "betas", "eps", "weight_decay", "amsgrad")
    moment_names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

    def __init__(
        self,
        model: Layer,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        lr_factors: Factors | None = None,
        decay_factors: Factors | None = None,
    ) -> None:
        super().__init__(model, lr, weight_decay, lr_factors, decay_factors)
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise ValueError(f"betas must be two numbers, got {betas!r}")
        first, second = (check_number("beta", beta, least=0, below=1) for beta in betas)
        self.betas = first, second
        self.eps = check_number("eps", eps, least=0)
        self.amsgrad = check_bool("amsgrad", amsgrad)

    def _needed(self) -> tuple[str, ...]:
        return self.moment_names if self.amsgrad else self.moment_names[:2]

    def _rule(self, lr: float, decay: float, steps: int) -> Rule:
        beta1, beta2 = self.betas
        return Rule(
            "adam", -lr / (1 - beta1**steps), decay, mean=beta1, square=beta2,
            root=(1 - beta2**steps) ** 0.5, eps=self.eps,
        )  # fmt: skip

    def _compute(
        self,
        p: NDArray[Any],
        g: NDArray[Any],
        moments: dict[str, NDArray[Any]],
        scratch: NDArray[Any],
        lr: float,
        decay: float,
        steps: int,
    ) -> None:
        m, v, *largest = moments.values()
        beta1, beta2 = self.betas
        g = _decayed(p, g, decay, scratch[0])
        root, change = scratch
        _lerp(m, g, 1 - beta1, change)
        _add_squares(v, g, beta2, change)
        for highest in largest:
            v = np.maximum(highest, v, out=highest)
        np.sqrt(v, out=root)
        root /= (1 - beta2**steps) ** 0.5
        root += self.eps
        np.multiply(m, -lr / (1 - beta1**steps), out=change)
        change /= root
        p += change


class AdamW(Adam):
    """Adam whose weight decay shrinks the parameters themselves: torch.optim.AdamW.

    Parameters
    ----------
    model : Layer
        The model whose parameters `step` changes.
    lr : float >= 0
        The learning rate. Schedules change it, as ``optimizer.lr``.
    betas : (float, float) in [0, 1)
        The shares of the mean and of the mean square that a step keeps.
    eps : float >= 0
        It is added to the root.
    weight_decay : float >= 0
        A step first shrinks each parameter by the share lr * weight_decay.
    amsgrad : bool
        Use the largest mean square so far.
    lr_factors, decay_factors : dict of str -> float or four floats, optional
        By patterns of the parameters' names: see `fastlstm.training.optimisers`.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of its range or of another type.

    Notes
    -----
    A step is ``p = p (1 - lr weight_decay)``, then that of `Adam`. Sources: Loshchilov & Hutter
    2019; torch.optim.AdamW.

    Examples
    --------
    >>> model = fastlstm.Linear(1, 1, bias=False)
    >>> model.weight = [[1.0]]
    >>> fastlstm.training.AdamW(model, lr=0.5, weight_decay=0.5).step()
    >>> model.weight
    array([[0.75]], dtype=float32)
    """

    def __init__(
        self,
        model: Layer,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        lr_factors: Factors | None = None,
        decay_factors: Factors | None = None,
    ) -> None:
        super().__init__(
            model, lr, betas, eps, weight_decay, amsgrad,
            lr_factors=lr_factors, decay_factors=decay_factors,
        )  # fmt: skip

    def _rule(self, lr: float, decay: float, steps: int) -> Rule:
        return super()._rule(lr, 0.0, steps)._replace(shrink=1 - lr * decay)

    def _compute(
        self,
        p: NDArray[Any],
        g: NDArray[Any],
        moments: dict[str, NDArray[Any]],
        scratch: NDArray[Any],
        lr: float,
        decay: float,
        steps: int,
    ) -> None:
        if decay:
            p *= 1 - lr * decay
        super()._compute(p, g, moments, scratch, lr, 0.0, steps)
