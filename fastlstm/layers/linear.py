"""Linear: a product with a matrix, for every row, by the engine's own kernels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import as_float, as_gradient, as_rows
from ..checks import check_bool, check_size
from ..engines.contract import Link
from ..initialisers import uniform
from .chain import Given, who
from .computed import Computed
from .parameters import begins_drawn

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ..arrays import Floats
    from ..checks import Precision
    from ..engines import EngineChoice
    from ..engines.contract import Engine, Product

# Numbers multiplied in one call of an engine: between two, Python runs the handlers of signals.
_PIECE = 1 << 30


class Linear(Computed):
    """y = x W^T + b, as torch.nn.Linear.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
    dtype : {"float32", "float64"}
    engine, num_threads
        As `LSTM`'s. With engine native or numba a row's result does not depend, bit for bit, on the
        other rows.
    seed : int or numpy.random.Generator, optional
        For the initial parameters, U(-1/sqrt(in_features), 1/sqrt(in_features)).

    Attributes
    ----------
    weight : ndarray of shape (out_features, in_features)
    bias : ndarray of shape (out_features,), or None

    Examples
    --------
    >>> linear = fastlstm.Linear(2, 1)
    >>> linear.weight, linear.bias = [[1, 2]], [3]
    >>> linear(np.array([[10, 20]], np.float32))
    array([[53.]], dtype=float32)
    """

    stepwise = True
    weight: Any
    bias: Any
    _fixed = Computed._fixed | {"in_features", "out_features", "bias"}

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dtype: Precision = "float32",
        engine: EngineChoice = "auto",
        num_threads: int | None = None,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        self.in_features = check_size("in_features", in_features)
        self.out_features = check_size("out_features", out_features)
        shapes: dict[str, tuple[int, ...]] = {"weight": (out_features, in_features)}
        if check_bool("bias", bias):
            shapes["bias"] = (out_features,)
        else:
            self.bias = None
        super().__init__(shapes, dtype, engine)
        self._most_rows = max(1, _PIECE // (self.in_features * self.out_features))
        # The version of the parameters, and what was made of them: packed, a copy of the weight.
        self._packed: tuple[int, Any] = -1, None
        self._copied: tuple[int, Floats | None] = -1, None
        self.num_threads = num_threads
        if begins_drawn():
            self.reset_parameters(seed)

    def __getstate__(self) -> dict[str, Any]:
        nothing = -1, None
        return {**super().__getstate__(), "_packed": nothing, "_copied": nothing}

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "num_threads" or "_packed" not in self.__dict__:
            super().__setattr__(name, value)
            return
        with self._exclusive():  # or another thread could go on packing with what was there before
            super().__setattr__(name, value)
            self._discard()  # so that streams take it over

    def changed(self) -> None:
        """Tell the layer that its parameters were written: what is packed from them is stale."""
        super().changed()
        self._discard()

    def _discard(self) -> None:
        """Forget the product; streams that hold it take another."""
        _, weights = self._packed
        if weights is not None:
            self.__dict__["_packed"] = -1, None  # as is quicker than by `__setattr__`
            weights.stale = True

    def _release(self) -> None:
        self._copied = -1, None

    def reset_parameters(self, seed: int | np.random.Generator | None = None) -> None:
        """Draw the parameters anew from U(-1/sqrt(in_features), 1/sqrt(in_features)).

        Parameters
        ----------
        seed : int or numpy.random.Generator, optional
        """
        rng = np.random.default_rng(seed)
        bound = 1 / math.sqrt(self.in_features)
        self._set({n: uniform(rng, v.shape, bound, self.dtype) for n, v in self._views.items()})

    def __call__(self, input: ArrayLike) -> Floats:
        """Multiply by the weight and add the bias.

        Parameters
        ----------
        input : array of shape (..., in_features)

        Returns
        -------
        ndarray of shape (..., out_features)

        Raises
        ------
        ValueError
            If the features do not fit.
        """
        version, weights = self._packed
        if version == self._version:  # else the weights are packed after the checks
            y: Floats | None = weights.call(input, self.num_threads)
            if y is not None:
                return y
        return self._run(self._arrange(input))

    def vjp(
        self, input: ArrayLike, *, input_gradient: bool = True
    ) -> tuple[Floats, Callable[[ArrayLike], Floats | None]]:
        """Run, and return how to go backwards.

        Parameters
        ----------
        input : array of shape (..., in_features)
            As in a call. Kept, not copied: do not write into it before the pullback.
        input_gradient : bool
            False: nobody needs `dx`. It is None then, and not computed.

        Returns
        -------
        y : ndarray of shape (..., out_features)
            As a call's.
        pullback : callable
            ``dx = pullback(d_output)``: from the gradient of y, an array of its shape and dtype, to
            that of `input`, and adds those of the parameters to `grads`. May be called again, with
            other gradients; several may be alive. It goes back through the run that it came from,
            whatever has become of the parameters since.

        Raises
        ------
        ValueError, TypeError
            As a call. The pullback, if `d_output` does not fit; nothing has been added then.

        Notes
        -----
        Cost: 2 in_features out_features floating-point operations for every row, and backwards
        twice that, in one product over all rows for each of dx and the weight's gradient. Kept are
        the input and, for all runs of one version of the parameters, one copy of the weight.

        Examples
        --------
        >>> linear = fastlstm.Linear(2, 1)
        >>> linear.weight = [[1, 2]]
        >>> y, pullback = linear.vjp(np.array([[10, 20]], np.float32))
        >>> pullback(np.ones_like(y))
        array([[1., 2.]], dtype=float32)
        >>> linear.grads["weight"]
        array([[10., 20.]], dtype=float32)
        """
        x = self._arrange(input)
        with self._exclusive():  # the weight of the way back is that of the run
            weights, weight = self._newest_product(), self._copy_of_weight()
        y = self._run(x, weights)
        shape = y.shape

        def pullback(d_output: ArrayLike) -> Floats | None:
            dy = as_rows(as_gradient(d_output, shape, self.dtype, "Linear"))
            grads = self._learnt_grads()
            with np.errstate(all="ignore"), self._all_or_nothing():
                if "weight" in grads:
                    grads["weight"] += dy.T @ as_rows(x)
                if "bias" in grads:
                    grads["bias"] += dy.sum(axis=0)
                return (dy @ weight).reshape(x.shape) if input_gradient else None

        return y, pullback

    def _arrange(self, input: Any) -> Floats:
        x = as_float(input, self.dtype, owner="Linear")
        if x.ndim < 1 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"Linear: Expected input of shape (..., {self.in_features}), got {x.shape}"
            )
        return x

    def _run(self, x: Floats, weights: Product | None = None) -> Floats:
        weights = weights or self._product()
        rows = as_rows(x)
        y = np.empty((len(rows), self.out_features), self.dtype)
        for start in range(0, len(rows), self._most_rows):
            piece = slice(start, start + self._most_rows)
            weights.run(rows[piece], y[piece], self.num_threads)
        return y.reshape(*x.shape[:-1], self.out_features)

    def _product(self) -> Product:
        """Return the engine's product with the parameters as they are now."""
        version, weights = self._packed
        if version != self._version:
            with self._exclusive():
                return self._newest_product()
        product: Product = weights
        return product

    def _newest_product(self) -> Product:
        """Return the same, packed now unless another thread has done so. In `_exclusive`."""
        version, weights = self._packed
        if version != self._version:
            version, views = self._version, self._views
            weights = self._engine.Product(views["weight"], views.get("bias"))
            self.__dict__["_packed"] = version, weights
            if version != self._version:
                weights.stale = True  # somebody has written parameters without `_exclusive`
        product: Product = weights
        return product

    def _present(self) -> tuple[Product, int]:
        """Return what a stream computes by now, and the number of its threads."""
        return self._product(), self.num_threads

    def _link(self, takes: int, engine: Engine) -> Link | None:
        if engine is not self._engine or type(self).__call__ is not Linear.__call__:
            return None
        return Link(takes, self.in_features, self.out_features, product=self._present)

    def _join(self, name: str, given: Given) -> tuple[Linear, Given]:
        given = given.check(self.in_features, who(name, self))
        features, giver = self.out_features, who(name, self)
        return self, given._replace(features=features, giver=giver, directions=False)

    def _copy_of_weight(self) -> Floats:
        """Return a copy of the weight, for pullbacks that are called after it has changed.

        In `_exclusive`.
        """
        version, weight = self._copied
        if weight is None or version != self._version:
            version, weight = self._version, self._views["weight"].copy()
            self.__dict__["_copied"] = version, weight
        return weight

    def _arguments(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}"
        )
