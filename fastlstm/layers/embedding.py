"""Embedding: a row of a table for every index."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import as_gradient, as_integers, as_rows, quiet
from ..checks import check_size
from .chain import Given, who
from .layer import Layer
from .lookup import Lookup
from .parameters import begins_drawn

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ..arrays import Floats, Integers
    from ..checks import Precision


class Embedding(Layer):
    """A row of `weight` for every index, as torch.nn.Embedding.

    Parameters
    ----------
    num_embeddings, embedding_dim : int
    padding_idx : int, optional
        This row begins as zeros; negative counts from the end.
    dtype : {"float32", "float64"}
    seed : int or numpy.random.Generator, optional
        For the initial weights, N(0, 1).

    Attributes
    ----------
    weight : ndarray of shape (num_embeddings, embedding_dim)

    Notes
    -----
    Behind an Embedding in a `Sequential`, or behind it and a `Dropout` in evaluation, the engine
    native computes what an LSTM makes of each row, b + W_ih x, only once. It does so when twice as
    many rows have been looked up as there are, in calls and in steps of streams, and anew after a
    change of parameters. That takes `num_embeddings` * 4 H * D values of memory; if these are more
    than 256 KB for each of the inputs but four, or more than 64 MB, each row is multiplied every
    time. No bit of a result depends on it.

    Examples
    --------
    >>> embedding = fastlstm.Embedding(3, 2, padding_idx=0)
    >>> embedding([[0, 0]])
    array([[[0., 0.],
            [0., 0.]]], dtype=float32)
    """

    stepwise = True
    weight: Any
    _takes_indices = True
    _looks_up = True
    _fixed = Layer._fixed | {"num_embeddings", "embedding_dim", "padding_idx"}
    # The gradient is large, and is written last and at once: a pullback needs no copy of it.
    _guarded = True

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        dtype: Precision = "float32",
        seed: int | np.random.Generator | None = None,
    ) -> None:
        self.num_embeddings = check_size("num_embeddings", num_embeddings)
        self.embedding_dim = check_size("embedding_dim", embedding_dim)
        if padding_idx is not None:
            check_size("padding_idx", padding_idx, least=None)
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ValueError(
                    f"Padding_idx must be within num_embeddings, got {padding_idx} for "
                    f"{num_embeddings} embeddings"
                )
            padding_idx = int(padding_idx) % num_embeddings
        self.padding_idx = padding_idx
        super().__init__({"weight": (num_embeddings, embedding_dim)}, dtype)
        if begins_drawn():
            self.reset_parameters(seed)

    def reset_parameters(self, seed: int | np.random.Generator | None = None) -> None:
        """Draw the weights anew from N(0, 1); the padding row is zeros.

        Parameters
        ----------
        seed : int or numpy.random.Generator, optional
        """
        weight = np.random.default_rng(seed).standard_normal(
            self._views["weight"].shape, self.dtype.type
        )
        if self.padding_idx is not None:
            weight[self.padding_idx] = 0
        self._set({"weight": weight})

    def __call__(self, input: ArrayLike) -> Floats:
        """Look up the vectors of indices.

        Parameters
        ----------
        input : array of int of shape (...)

        Returns
        -------
        ndarray of shape (..., embedding_dim)

        Raises
        ------
        ValueError
            If an index is out of range.
        """
        return self._rows(self._arrange(input))

    def _rows(self, index: Integers) -> Floats:
        """Return these rows of the weight, all of one version."""
        with self._exclusive():
            rows: Floats = self._views["weight"][index]
        return rows

    def _look_up(self, input: Any) -> Lookup:
        return Lookup(self, self._arrange(input))

    def vjp(self, input: ArrayLike) -> tuple[Floats, Callable[[ArrayLike], None]]:
        """Run, and return how to go backwards; see `Linear.vjp`.

        Parameters
        ----------
        input : array of int of shape (...)

        Returns
        -------
        y : ndarray of shape (..., embedding_dim)
        pullback : callable
            ``None = pullback(d_output)``, for indices have no gradient. Touches only the rows of
            ``grads["weight"]`` that were read: each gets the sum of its gradients, that of
            `padding_idx` none, as torch's.
        """
        index = self._arrange(input)
        y = self._rows(index)
        shape, index = y.shape, index.ravel()

        def pullback(d_output: ArrayLike) -> None:
            dy = as_rows(as_gradient(d_output, shape, self.dtype, "Embedding"))
            self._add(index, dy)

        return y, pullback

    def _join(self, name: str, given: Given) -> tuple[Embedding, Given]:
        if given.features is not None:
            raise ValueError(
                f"{given.owner}: {who(name, self)} takes indices, {given.giver} gives features"
            )
        added = None if given.added is None else given.added + 1
        features, giver = self.embedding_dim, who(name, self)
        return self, given.behind(features=features, giver=giver, added=added)

    @quiet
    def _add(self, index: Integers, dy: Floats) -> None:
        """Add rows dy (N, embedding_dim) to those of the gradient that `index` (N,) names."""
        gradient = self._learnt_grads().get("weight")
        if gradient is None:
            return
        order = np.argsort(index, kind="stable")
        if self.padding_idx is not None:
            order = order[index[order] != self.padding_idx]
        if not order.size:
            return
        index = index[order]
        new = np.concatenate([[True], index[1:] != index[:-1]])
        first = np.flatnonzero(new)  # of each group of equal indices
        gradient[index[first]] += np.add.reduceat(dy[order], first, axis=0)

    def _arrange(self, input: Any) -> Integers:
        index = as_integers(input, "input of Embedding")
        if index.size and not (0 <= index.min() and index.max() < self.num_embeddings):
            raise ValueError(
                f"index out of range: Embedding has rows 0..{self.num_embeddings - 1}, got indices "
                f"from {index.min()} to {index.max()}"
            )
        return index

    def _arguments(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"
