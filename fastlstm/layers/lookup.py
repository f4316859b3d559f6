"""An LSTM's input that is looked up in a table: what is made of the table's rows ahead.

Behind an `Embedding`, an LSTM sees the same rows again and again. Equation (1) begins with b + W_ih
x, which the engine native computes once for each row: a step then adds W_hh h alone. No bit of a
result depends on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ..arrays import Floats, Integers
    from ..engines.contract import Stack
    from .embedding import Embedding

# A table of products is made if it has at most so many bytes for each input beyond the first four.
# The more inputs there are, the longer the products take; to copy a row of the table takes as long
# as the products of four inputs where the table is near, and longer the larger it is (measured: see
# "Rows of a table" in docs/architecture.md).
_BYTES_PER_INPUT, _COPY = 1 << 18, 4
_MOST_BYTES = 1 << 26  # of a table in any case: what a model takes is not to be a surprise
# It is made when so many rows have been looked up for each that it has: it takes about as long as
# making the products of these, and most of its rows will be used.
_LOOKED_UP = 2


class Lookup:
    """``embedding.weight[index]``, which nobody has made yet; an LSTM takes it as its input.

    It has the methods of an array that bring steps and sequences into another order.

    Parameters
    ----------
    embedding : Embedding
    index : int64 ndarray
        Within the rows of the embedding; of the shape of the LSTM's input, without the features.
    """

    __slots__ = ("embedding", "index")

    def __init__(self, embedding: Embedding, index: Integers) -> None:
        self.embedding, self.index = embedding, index

    def rows(self) -> Floats:
        """Return the input as an array."""
        return self.embedding._rows(self.index)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.embedding.dtype

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def shape(self) -> tuple[int, ...]:
        return *self.index.shape, self.embedding.embedding_dim

    @property
    def size(self) -> int:
        return self.index.size * self.embedding.embedding_dim

    def take(self, indices: Integers, axis: int) -> Any:
        if 0 <= axis < self.index.ndim:
            return Lookup(self.embedding, self.index.take(indices, axis))
        return self.rows().take(indices, axis)

    def transpose(self, axes: Sequence[int] | None = None) -> Any:
        *first, last = axes or (0,)
        if last == self.index.ndim > 0 and min(first) >= 0:
            return Lookup(self.embedding, self.index.transpose(first))
        return self.rows().transpose(axes)

    def swapaxes(self, one: int, other: int) -> Any:
        if {one, other} <= {*range(self.index.ndim)}:
            return Lookup(self.embedding, self.index.swapaxes(one, other))
        return self.rows().swapaxes(one, other)


class Ahead:
    """The products of an embedding's rows for an LSTM's stacks: counts rows until they pay.

    Parameters
    ----------
    stacks : list of Stack
        Of all groups; the first one takes the products, and no other stack may.
    embedding : Embedding
        With as many features, of the same dtype, as the first stack takes.
    wide : int
        How many products a row has: 4H for each direction.
    """

    def __init__(self, stacks: list[Stack], embedding: Embedding, wide: int) -> None:
        self.stacks, self.embedding, self.version = stacks, embedding, embedding._version
        rows, inputs = embedding.num_embeddings, embedding.embedding_dim
        most = min((inputs - _COPY) * _BYTES_PER_INPUT, _MOST_BYTES)
        self.pays = rows * wide * embedding.dtype.itemsize <= most
        self.left = _LOOKED_UP * rows  # how many are to be looked up before
        self.made: Any = None

    def is_of(self, stack: Stack, embedding: Embedding) -> bool:
        """Whether the products are those of this stack and embedding, as they are now."""
        same = self.stacks[0] is stack and self.embedding is embedding
        return same and self.version == embedding._version

    def is_made(self, looked_up: int) -> bool:
        """Whether there is what the engine takes, `made`; so many rows are looked up now."""
        if self.made is None and self.pays:
            self.left -= looked_up
            if self.left <= 0:
                with self.embedding._exclusive():
                    self._make()
        return self.made is not None

    def _make(self) -> None:
        """Make the products, unless another thread has made them, or has changed the rows."""
        if self.made is None and self.version == self.embedding._version:
            self.made = self.stacks[0].table(self.embedding._views["weight"])
            self.pays = self.made is not None
