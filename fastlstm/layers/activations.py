"""Activations: functions of one value each, and Softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import as_any_float, as_gradient, quiet
from ..checks import check_size
from .chain import Given, who
from .layer import Layer
from .stream import Begins, Live, Stepwise

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ..arrays import Floats


class _Activation(Layer):
    """A function without parameters whose derivative can be told from its output alone.

    Each kind has a `_value`, of any input, and `_back`, from the gradient dy of an output y to that
    of the input. The bits of a value do not depend on other values, nor on how an array lies in
    memory. NumPy has another exp for arrays that run backwards, so exp works on contiguous arrays.
    """

    stepwise = True

    def __init__(self) -> None:
        super().__init__()

    def __call__(self, input: ArrayLike) -> Floats:
        """Apply the function to every value.

        Parameters
        ----------
        input : array of any shape

        Returns
        -------
        ndarray of the input's shape

        Raises
        ------
        ValueError
            If it has no axis that is asked for.
        """
        return self._value(input)

    def _value(self, input: Any) -> Floats:
        raise NotImplementedError

    def _back(self, y: Floats, dy: Floats) -> Floats:
        raise NotImplementedError

    def vjp(self, input: ArrayLike) -> tuple[Floats, Callable[[ArrayLike], Floats]]:
        """Run, and return how to go backwards; see `Linear.vjp`.

        Parameters
        ----------
        input : array of any shape

        Returns
        -------
        y : ndarray
            Of the input's shape. Refuses writing, for the pullback reads it.
        pullback : callable
            ``dx = pullback(d_output)``.
        """
        y = np.asarray(self._value(input))
        y.flags.writeable = False

        def pullback(d_output: ArrayLike) -> Floats:
            dy = as_gradient(d_output, y.shape, y.dtype, type(self).__name__)
            with np.errstate(all="ignore"):
                return self._back(y, dy)

        return y, pullback

    def _join(self, name: str, given: Given) -> tuple[_Activation, Given]:
        return self, given


class ReLU(_Activation):
    """max(x, 0), element by element.

    Examples
    --------
    >>> fastlstm.ReLU()(np.array([-1.0, 2.0]))
    array([0., 2.])
    """

    @quiet
    def _value(self, input: Any) -> Floats:
        return np.maximum(as_any_float(input, "ReLU"), 0)

    def _back(self, y: Floats, dy: Floats) -> Floats:
        return np.where(y <= 0, y.dtype.type(0), dy)


class Tanh(_Activation):
    """tanh(x), element by element.

    Examples
    --------
    >>> fastlstm.Tanh()(np.array([0.0]))
    array([0.])
    """

    @quiet
    def _value(self, input: Any) -> Floats:
        return np.tanh(np.asarray(as_any_float(input, "Tanh"), order="C"))

    def _back(self, y: Floats, dy: Floats) -> Floats:
        return dy * (1 - y * y)


class Sigmoid(_Activation):
    """1 / (1 + exp(-x)), element by element.

    Examples
    --------
    >>> fastlstm.Sigmoid()(np.array([0.0]))
    array([0.5])
    """

    @quiet
    def _value(self, input: Any) -> Floats:
        x = as_any_float(input, "Sigmoid")
        y = np.negative(x, out=np.empty(x.shape, x.dtype))
        np.exp(y, out=y)  # where it is infinite, 1 / y is 0, as it should be
        y += 1
        return np.divide(1, y, out=y)

    def _back(self, y: Floats, dy: Floats) -> Floats:
        return dy * (y * (1 - y))


class Softmax(_Activation):
    """exp(x) / sum(exp(x)) along one axis.

    Parameters
    ----------
    dim : int

    Examples
    --------
    >>> fastlstm.Softmax()(np.zeros((1, 4)))
    array([[0.25, 0.25, 0.25, 0.25]])
    """

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def _checked(self, name: str, value: Any) -> Any:
        if name == "dim":
            return check_size("dim", value, least=None)
        return super()._checked(name, value)

    @quiet
    def _value(self, input: Any) -> Floats:
        x = as_any_float(input, "Softmax")
        if not -x.ndim <= self.dim < x.ndim:
            raise ValueError(f"Softmax: Expected input with an axis {self.dim}, got {x.ndim}D")
        x = np.moveaxis(x, self.dim, -1)
        y = np.subtract(x, x.max(axis=-1, keepdims=True, initial=-np.inf), order="C")
        np.exp(y, out=y)
        y /= y.sum(axis=-1, keepdims=True)  # side by side, or the order of the sum would be another
        return np.moveaxis(y, -1, self.dim)

    def _back(self, y: Floats, dy: Floats) -> Floats:
        dx: Floats = y * (dy - (dy * y).sum(axis=self.dim, keepdims=True))
        return dx

    def _live(self, name: str, given: Given, states: Begins) -> Live:
        """Take the last axis in any case, for in a step the features are the last of two axes."""
        if self.dim not in (-1, 1 if given.last else 2):
            raise ValueError(
                f"a stream has one step at a time: {who(name, self)} may sum over several"
            )
        return Stepwise(Softmax())

    @property
    def _goes_by_chunks(self) -> bool:
        return self.dim == -1

    def _arguments(self) -> str:
        return f"dim={self.dim}"
