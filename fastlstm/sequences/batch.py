"""A batch as its caller holds it, padded, with lengths or packed; engines see packed rows.

What the three classes have in common: ``x`` (N, I), ``batch_sizes`` (T,), ``size`` B, and whether
the caller's arrays have an axis for the batch. `rows` brings what is shaped as the caller's output
into the engines' order, `restore` brings rows back. `sort` does so for pairs of states, but for
those of sequences without steps, which engines never see; `unsort` brings the final states back,
into the memory of the initial ones, where those of such sequences are.
"""

import numpy as np

from ..arrays import as_rows
from .packing import PackedSequence


class Padded:
    """Sequences of one length: already in the engines' order, but for a transposition."""

    def __init__(self, x, batch_sizes, size, batched, swap):
        self.x, self.batch_sizes, self.size = x, batch_sizes, size
        self.batched, self.swap = batched, swap

    def output_shape(self, wide):
        steps = len(self.batch_sizes)
        if not self.batched:
            return steps, wide
        return (self.size, steps, wide) if self.swap else (steps, self.size, wide)

    def rows(self, array):
        return as_rows(array.swapaxes(0, 1) if self.swap else array)

    def restore(self, rows):
        if not self.batched:
            return rows
        output = rows.reshape(len(self.batch_sizes), self.size, rows.shape[1])
        return output.swapaxes(0, 1) if self.swap else output

    def sort(self, states):
        return states

    def unsort(self, states, initial):
        return states if self.batched else tuple(state[:, 0] for state in states)


class Ragged:
    """Padded sequences of the lengths given: `index` says where each row lies among the padding.

    `order` has the numbers of the sequences that have steps, the longest first.
    """

    batched = True

    def __init__(self, x, batch_sizes, size, order, index, shape):
        self.x, self.batch_sizes, self.size = x, batch_sizes, size
        self.order, self.index, self.shape = order, index, shape

    def output_shape(self, wide):
        return *self.shape, wide

    def rows(self, array):
        return as_rows(array)[self.index]

    def restore(self, rows):
        output = np.zeros((*self.shape, rows.shape[1]), rows.dtype)
        output.reshape(-1, rows.shape[1])[self.index] = rows
        return output

    def sort(self, states):
        return tuple(state.take(self.order, axis=1) for state in states)

    def unsort(self, states, initial):
        for state, whole in zip(states, initial, strict=True):
            whole[:, self.order] = state
        return tuple(initial)


class Packed(Ragged):
    """A `PackedSequence`; `indices` are its own two, or None where it came sorted."""

    def __init__(self, x, batch_sizes, order, indices):
        super().__init__(x, batch_sizes, len(order), order, None, None)
        self.indices = indices

    def output_shape(self, wide):
        return len(self.x), wide

    def rows(self, array):
        return as_rows(array)

    def restore(self, rows):
        return PackedSequence(rows, self.batch_sizes, *self.indices)

    def is_packed_as(self, batch_sizes, order):
        same_sizes = np.array_equal(self.batch_sizes, batch_sizes)
        return same_sizes and np.array_equal(self.order, order)
