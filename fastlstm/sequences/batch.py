"""A batch of sequences as its caller holds it: padded, padded with lengths, or packed.

Engines see packed rows only: the rows of step 0, then those of step 1, and so on, the longest
sequence first. `arrange` checks an input and returns a batch of one of three classes. All three
have ``x`` (N, I), the packed rows; ``batch_sizes`` (T,), how many sequences are alive at each step;
``size``, the number B of sequences; and ``batched``, whether the caller's arrays have an axis for
the batch. Their methods lead into the engines' order and back:

- ``output_shape(wide)`` is the shape of the caller's output with `wide` features;
- ``rows(array)`` turns an array of that shape into packed rows, and ``restore(rows)`` turns packed
  rows into an array of that shape;
- ``sort(states)`` brings the caller's states (..., B, features) into the engines' order. Sequences
  without steps are left out, because engines never see them;
- ``unsort(states, initial)`` brings final states back into the caller's order. A sequence without
  steps keeps its `initial` state. The result may use the memory of `initial`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import as_float, as_rows
from .packing import (
    PackedSequence,
    batch_sizes_of,
    check_lengths,
    check_packed,
    rows_of,
    uniform_sizes,
)

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import ArrayLike

    from ..arrays import Floats, Integers

    States: TypeAlias = tuple[Floats, Floats]  # h and c


class Padded:
    """Sequences of one length. They are in the engines' order already, if time comes first.

    `swap` says that the caller's arrays have the batch first.
    """

    def __init__(
        self, x: Floats, batch_sizes: Integers, size: int, batched: bool, swap: bool
    ) -> None:
        self.x, self.batch_sizes, self.size = x, batch_sizes, size
        self.batched, self.swap = batched, swap

    def output_shape(self, wide: int) -> tuple[int, ...]:
        steps = len(self.batch_sizes)
        if not self.batched:
            return steps, wide
        return (self.size, steps, wide) if self.swap else (steps, self.size, wide)

    def rows(self, array: Floats) -> Floats:
        return as_rows(array.swapaxes(0, 1) if self.swap else array)

    def restore(self, rows: Floats) -> Floats:
        if not self.batched:
            return rows
        output = rows.reshape(len(self.batch_sizes), self.size, rows.shape[1])
        return output.swapaxes(0, 1) if self.swap else output

    def sort(self, states: States) -> States:
        return states

    def unsort(self, states: States, initial: States) -> States:
        return states if self.batched else (states[0][:, 0], states[1][:, 0])


class Ragged:
    """Padded sequences with lengths. `index` says where among the padding each packed row stands.

    `order` holds the numbers of the sequences that have steps, the longest first; `shape` is the
    caller's (T, B) or (B, T).
    """

    batched = True

    def __init__(
        self,
        x: Floats,
        batch_sizes: Integers,
        size: int,
        order: Integers,
        index: Integers,
        shape: tuple[int, ...],
    ) -> None:
        self.x, self.batch_sizes, self.size = x, batch_sizes, size
        self.order, self.index, self.shape = order, index, shape

    def output_shape(self, wide: int) -> tuple[int, ...]:
        return *self.shape, wide

    def rows(self, array: Floats) -> Floats:
        return as_rows(array)[self.index]

    def restore(self, rows: Floats) -> Floats:
        output = np.zeros((*self.shape, rows.shape[1]), rows.dtype)
        output.reshape(-1, rows.shape[1])[self.index] = rows
        return output

    def sort(self, states: States) -> States:
        return _sorted(states, self.order)

    def unsort(self, states: States, initial: States) -> States:
        return _unsorted(states, initial, self.order)


class Packed:
    """A `PackedSequence`, whose rows are in the engines' order as they are.

    `indices` are its sorted and unsorted indices, or two times None if it came without them.
    """

    batched = True

    def __init__(
        self,
        x: Floats,
        batch_sizes: Integers,
        order: Integers,
        indices: tuple[Integers | None, Integers | None],
    ) -> None:
        self.x, self.batch_sizes, self.size = x, batch_sizes, len(order)
        self.order, self.indices = order, indices

    def output_shape(self, wide: int) -> tuple[int, ...]:
        return len(self.x), wide

    def rows(self, array: Floats) -> Floats:
        return as_rows(array)

    def restore(self, rows: Floats) -> PackedSequence:
        return PackedSequence(rows, self.batch_sizes, *self.indices)

    def sort(self, states: States) -> States:
        return _sorted(states, self.order)

    def unsort(self, states: States, initial: States) -> States:
        return _unsorted(states, initial, self.order)

    def is_packed_as(self, batch_sizes: Integers, order: Integers) -> bool:
        """Tell whether another pack has the same lengths in the same order."""
        same_sizes = np.array_equal(self.batch_sizes, batch_sizes)
        return same_sizes and np.array_equal(self.order, order)


def arrange(
    input: ArrayLike | PackedSequence,
    lengths: ArrayLike | None,
    features: int,
    dtype: np.dtype[Any],
    batch_first: bool | None,
) -> Padded | Ragged | Packed:
    """Check the input of an LSTM, and bring it into the layout that engines see.

    Parameters
    ----------
    input : array of shape (T, B, I), or (B, T, I) if `batch_first`, or (T, I); PackedSequence
    lengths : B ints from 0 to T, or None
        The real steps of each sequence.
    features : int
        I, which the input must have.
    dtype : dtype
        Which the input must have; see `fastlstm.arrays` for what is converted.
    batch_first : bool or None
        None means that this is undecided: an input with a batch is then refused.

    Returns
    -------
    Padded, Ragged or Packed

    Raises
    ------
    ValueError, TypeError
        If a shape, dtype or length does not fit. The sentences are torch's where torch has one.

    Notes
    -----
    Cost: nothing is copied for a contiguous input with time first, or for a pack. With
    `batch_first` or `lengths` the input is copied once.
    """
    if type(input) is not np.ndarray and hasattr(input, "batch_sizes"):
        return _arrange_packed(input, lengths, features, dtype)
    x = as_float(input, dtype)
    batched = x.ndim == 3
    if not batched and x.ndim != 2:
        raise ValueError(f"LSTM: Expected input to be 2D or 3D, got {x.ndim}D instead")
    if batched and batch_first is None:
        raise undecided("LSTM", x.shape)
    _check_features(x, features)
    swap = batched and bool(batch_first)
    time, batch = (1, 0) if swap else (0, 1)
    steps, size = x.shape[time], x.shape[batch] if batched else 1
    if lengths is not None:
        if not batched:
            raise ValueError("lengths needs batched 3-D input, got unbatched 2-D input")
        lengths = check_lengths(lengths, size, steps, least=0)
    elif not steps:
        raise ValueError("Expected sequence length to be larger than 0 in RNN")
    if lengths is None or not size:
        rows = as_rows(x.swapaxes(0, 1) if swap else x)
        return Padded(rows, uniform_sizes(steps, size), size, batched, swap)
    order = np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)]
    batch_sizes = batch_sizes_of(lengths)
    step, sequence = rows_of(order, batch_sizes)
    index = sequence * steps + step if swap else step * size + sequence
    return Ragged(as_rows(x)[index], batch_sizes, size, order, index, x.shape[:2])


def undecided(owner: str, shape: tuple[int, ...]) -> ValueError:
    """Return the error of a batched input for a layer whose `batch_first` is None."""
    return ValueError(
        f"{owner}: batched input of shape {shape} may be (B, T, features) or (T, B, features), and "
        "batch_first is undecided: the file that the model comes from does not tell. Say it with "
        "load(path, batch_first=True), or False, or set batch_first of the layer itself"
    )


def _arrange_packed(
    packed: Any, lengths: ArrayLike | None, features: int, dtype: np.dtype[Any]
) -> Packed:
    """Do what `arrange` does for a pack, which may be torch's."""
    if lengths is not None:
        raise ValueError("lengths cannot be given with a PackedSequence, which has its own")
    data, batch_sizes, order, restore = check_packed(packed)
    x = as_float(data, dtype)
    if x.ndim != 2:
        raise ValueError(f"LSTM: Expected data of a PackedSequence to be 2D, got {x.ndim}D")
    _check_features(x, features)
    in_order = packed.sorted_indices is None and packed.unsorted_indices is None
    return Packed(as_rows(x), batch_sizes, order, (None, None) if in_order else (order, restore))


def _check_features(x: Floats, features: int) -> None:
    if x.shape[-1] != features:
        raise ValueError(
            f"input.size(-1) must be equal to input_size. Expected {features}, got {x.shape[-1]}"
        )


def _sorted(states: States, order: Integers) -> States:
    """Take the states of the sequences in `order` alone."""
    return states[0].take(order, axis=1), states[1].take(order, axis=1)


def _unsorted(states: States, initial: States, order: Integers) -> States:
    """Put the states of the sequences in `order` back among the initial ones."""
    for state, whole in zip(states, initial, strict=True):
        whole[:, order] = state
    return initial
