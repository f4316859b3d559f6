"""Dropout: values left out at random in training."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import as_any_float, as_gradient, quiet
from ..checks import check_probability
from .chain import Given
from .layer import Layer
from .stream import Begins, Chain, Live

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ..arrays import Floats


class Dropout(Layer):
    """In training mode zeroes values with probability p and scales the others by 1 / (1 - p).

    Parameters
    ----------
    p : float in [0, 1]
    seed : int or numpy.random.Generator, optional
        An int gives other random numbers than those that a layer draws its parameters from when it
        has the same seed.

    Examples
    --------
    >>> fastlstm.Dropout(0.5).eval()(np.ones(3))
    array([1., 1., 1.])
    """

    stepwise = True

    def __init__(self, p: float = 0.5, *, seed: int | np.random.Generator | None = None) -> None:
        super().__init__({})
        self.p = p
        self._rng = masks_of(seed)

    def _checked(self, name: str, value: Any) -> Any:
        return check_probability(value) if name == "p" else super()._checked(name, value)

    @quiet
    def __call__(self, input: ArrayLike) -> Floats:
        """Drop values in training, and pass on the input as it is in evaluation.

        Parameters
        ----------
        input : array of any shape

        Returns
        -------
        ndarray of the input's shape
        """
        return self._run(input)[0]

    @quiet
    def vjp(self, input: ArrayLike) -> tuple[Floats, Callable[[ArrayLike], Floats]]:
        """Run, and return how to go backwards, with the same mask; see `Linear.vjp`.

        Parameters
        ----------
        input : array of any shape

        Returns
        -------
        y : ndarray
            Of the input's shape; the input itself in evaluation.
        pullback : callable
            ``dx = pullback(d_output)``; in evaluation it returns `d_output` itself.
        """
        y, mask = self._run(input)
        shape, dtype = y.shape, y.dtype

        def pullback(d_output: ArrayLike) -> Floats:
            dy = as_gradient(d_output, shape, dtype, "Dropout")
            if mask is None:
                return dy
            with np.errstate(all="ignore"):
                return dy * mask

        return y, pullback

    @property
    def _is_idle(self) -> bool:  # type: ignore[override]
        return not (self.training and self.p)

    def _join(self, name: str, given: Given) -> tuple[Dropout, Given]:
        return self, given

    def _live(self, name: str, given: Given, states: Begins) -> Live:
        """Pass a step on as it is, because a stream always evaluates."""
        return Chain([])

    def _run(self, input: Any) -> tuple[Floats, Floats | None]:
        """(output, mask); without dropout there is none."""
        x = as_any_float(input, "Dropout")
        if self._is_idle:
            return x, None
        mask = dropout_mask(x, self.p, self._rng)
        return x * mask, mask

    def _arguments(self) -> str:
        return f"p={self.p}"


def masks_of(seed: Any) -> np.random.Generator:
    """Return the generator of dropout's masks for a layer's seed.

    An int is split, so that masks and initial parameters are independent. A generator is taken as
    it is: the parameters have been drawn from it by then.
    """
    if seed is None or isinstance(seed, (int, np.integer)):
        seed = np.random.SeedSequence(seed).spawn(1)[0]
    return np.random.default_rng(seed)


def dropout_mask(values: Floats, p: float, rng: np.random.Generator) -> Floats:
    """Return factors for `values`: 0 with probability p, 1 / (1 - p) otherwise."""
    kept = rng.random(values.shape, values.dtype.type) >= p
    factors: Floats = kept * values.dtype.type(1 / (1 - p) if p < 1 else 0)
    return factors
