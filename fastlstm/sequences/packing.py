"""Sequences of different lengths side by side, under the names and rules of torch.nn.utils.rnn."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from ..arrays import as_array, as_integers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

    from ..arrays import Array, Integers


class PackedSequence(NamedTuple):
    """Sequences sorted by length, longest first, with the padding taken out.

    Attributes
    ----------
    data : ndarray of shape (sum of lengths, ...)
        Step 0 of all sequences, then step 1 of those that have one, and so on.
    batch_sizes : int64 ndarray of shape (T,)
        How many sequences are alive at each step; not increasing.
    sorted_indices, unsorted_indices : int64 ndarray of shape (B,), or None
        ``sequences[sorted_indices]`` is the packed order; ``unsorted_indices`` undoes it. None
        means that the caller's order was already sorted.
    """

    data: Array
    batch_sizes: Integers
    sorted_indices: Integers | None = None
    unsorted_indices: Integers | None = None

    def __repr__(self) -> str:
        data, sizes = np.asarray(self.data), np.asarray(self.batch_sizes, np.int64)
        shortest = np.count_nonzero(sizes == sizes.max(initial=0))
        return (
            f"PackedSequence({sizes.max(initial=0)} sequences of {shortest} to {len(sizes)} steps, "
            f"data: {data.shape} of {data.dtype})"
        )


def check_lengths(
    lengths: ArrayLike, batch_size: int, longest: int | None = None, least: int = 1
) -> Integers:
    """Return `lengths` as (B,) int64; raise in torch's words if one is not allowed.

    Each must be from `least` to `longest`. A PackedSequence cannot hold a sequence of length 0, so
    its `least` is 1; elsewhere 0 is allowed.
    """
    lengths = as_integers(lengths, "lengths")
    if lengths.ndim != 1 or len(lengths) != batch_size:
        got = len(lengths) if lengths.ndim == 1 else f"shape {lengths.shape}"
        raise ValueError(
            f"Expected `len(lengths)` to be equal to batch_size, but got {got} "
            f"(batch_size={batch_size})"
        )
    if lengths.size and lengths.min() < least:
        bound = "greater than 0" if least else "at least 0"
        raise ValueError(
            f"Length of all samples has to be {bound}, but found an element in 'lengths' "
            f"that is {'<= 0' if least else '< 0'}: {lengths.min()} at index {lengths.argmin()}"
        )
    if longest is not None and lengths.size and lengths.max() > longest:
        raise ValueError(
            f"Expected every length to be at most the input's {longest} steps, but got "
            f"{lengths.max()} at index {lengths.argmax()}"
        )
    return lengths


def uniform_sizes(steps: int, rows: int) -> Integers:
    """Return the batch sizes of `rows` sequences of one length, (T,).

    The last few short ones are kept, because making them anew would slow down small calls.
    """
    return _few_uniform_sizes(steps, rows) if steps <= 1024 else np.full(steps, rows, np.int64)


@functools.lru_cache(maxsize=64)
def _few_uniform_sizes(steps: int, rows: int) -> Integers:
    return np.full(steps, rows, np.int64)


def batch_sizes_of(lengths: Integers) -> Integers:
    """Return how many sequences are alive at each step, (T,) int64; T is the greatest length."""
    steps = lengths.max(initial=0)
    return len(lengths) - np.cumsum(np.bincount(lengths, minlength=steps + 1))[:steps]


def rows_of(sorted_indices: Integers, batch_sizes: Integers) -> tuple[Integers, Integers]:
    """Return the step and the sequence of every packed row, (N,) each.

    With them, padded rows are gathered into packed ones, and packed rows scattered.
    """
    steps = np.arange(len(batch_sizes)).repeat(batch_sizes)
    firsts = _firsts(batch_sizes).repeat(batch_sizes)
    return steps, sorted_indices[np.arange(len(steps)) - firsts]


def pack_padded_sequence(
    input: ArrayLike, lengths: ArrayLike, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Take the padding out of a batch of sequences.

    Parameters
    ----------
    input : array of shape (T, B, ...), or (B, T, ...) if `batch_first`
    lengths : B ints, each from 1 to T
    batch_first : bool
    enforce_sorted : bool
        If true, `lengths` must not increase; if false, the sequences are sorted, stably.

    Returns
    -------
    PackedSequence

    Raises
    ------
    ValueError
        If the lengths do not fit, in torch's words. A length greater than T is refused too, for
        which torch would make a malformed pack.

    Notes
    -----
    Cost: the real steps are copied once. An input that is not contiguous is copied whole before.
    Source: torch.nn.utils.rnn.pack_padded_sequence.

    Examples
    --------
    >>> packed = fastlstm.pack_padded_sequence(np.array([[1, 2, 0], [3, 4, 5]]), [2, 3],
    ...                                        batch_first=True, enforce_sorted=False)
    >>> packed.data.tolist(), packed.batch_sizes.tolist(), packed.sorted_indices.tolist()
    ([3, 1, 4, 2, 5], [2, 2, 1], [1, 0])
    """
    array = as_array(input, "input")
    if array.ndim < 2:
        raise ValueError(f"Expected input to have at least 2 dimensions, got {array.ndim}")
    batch, steps = array.shape[:2] if batch_first else array.shape[1::-1]
    checked = check_lengths(lengths, batch, steps)
    if not batch:
        raise ValueError("Cannot pack empty tensors: the batch has no sequences")
    rows = array.reshape(batch * steps, *array.shape[2:])
    firsts, stride = (np.arange(batch) * steps, 1) if batch_first else (np.arange(batch), batch)
    return _pack(rows, firsts, stride, checked, enforce_sorted)


def pad_packed_sequence(
    sequence: PackedSequence,
    batch_first: bool = False,
    padding_value: float = 0.0,
    total_length: int | None = None,
) -> tuple[Array, Integers]:
    """Put the padding back: the inverse of `pack_padded_sequence`.

    Parameters
    ----------
    sequence : PackedSequence
    batch_first : bool
    padding_value : float
        The value of every step past a sequence's end.
    total_length : int, optional
        How many steps to pad to, instead of as many as the longest sequence has.

    Returns
    -------
    padded : ndarray of shape (T, B, ...), or (B, T, ...) if `batch_first`
        The sequences are in the caller's order.
    lengths : int64 ndarray of shape (B,)

    Raises
    ------
    ValueError
        If `total_length` is less than the length of the longest sequence, or the pack is malformed.

    Notes
    -----
    Cost: the real steps are copied once. Source: torch.nn.utils.rnn.pad_packed_sequence.

    Examples
    --------
    >>> packed = fastlstm.pack_sequence([np.array([1, 2]), np.array([3])])
    >>> padded, lengths = fastlstm.pad_packed_sequence(packed, batch_first=True, padding_value=-1)
    >>> padded.tolist(), lengths.tolist()
    ([[1, 2], [3, -1]], [2, 1])
    """
    data, batch_sizes, order, undone = check_packed(sequence)
    steps = len(batch_sizes)
    if total_length is not None and total_length < steps:
        raise ValueError(
            "Expected total_length to be at least the length of the longest sequence in input, "
            f"but got total_length={total_length} and max sequence length being {steps}"
        )
    shape = (total_length or steps, len(order), *data.shape[1:])
    padded = np.full(shape, padding_value, data.dtype)
    if data.size:
        step, place = rows_of(order, batch_sizes)
        size = data[0].size
        _items(padded, size)[step * len(order) + place] = _items(data, size)
    lengths = lengths_of(batch_sizes)[undone]
    return (padded.swapaxes(0, 1) if batch_first else padded), lengths


def pad_sequence(
    sequences: Sequence[ArrayLike],
    batch_first: bool = False,
    padding_value: float = 0.0,
    padding_side: Literal["right", "left"] = "right",
) -> Array:
    """Stack sequences of different lengths into one padded array.

    Parameters
    ----------
    sequences : list of arrays of shape (length, ...)
    batch_first : bool
    padding_value : float
        The value of every step that a sequence does not have.
    padding_side : {"right", "left"}
        Whether these steps come after the sequence or before it.

    Returns
    -------
    ndarray of shape (T, B, ...), or (B, T, ...) if `batch_first`

    Raises
    ------
    ValueError
        If there are no sequences, their further dimensions differ, or the side is unknown.

    Notes
    -----
    Cost: every sequence is copied once. Source: torch.nn.utils.rnn.pad_sequence.

    Examples
    --------
    >>> fastlstm.pad_sequence([np.array([1, 2]), np.array([3])], batch_first=True).tolist()
    [[1, 2], [3, 0]]
    """
    if padding_side not in ("right", "left"):
        raise ValueError(f"padding_side should be either 'right' or 'left', but got {padding_side}")
    arrays = _check_sequences(sequences)
    longest = max(len(s) for s in arrays)
    shape = (len(arrays), longest, *arrays[0].shape[1:])
    padded: Array = np.full(shape, padding_value, np.result_type(*arrays))
    for row, s in zip(padded, arrays, strict=True):
        row[longest - len(s) if padding_side == "left" else 0 :][: len(s)] = s
    return padded if batch_first else padded.swapaxes(0, 1)


def pack_sequence(sequences: Sequence[ArrayLike], enforce_sorted: bool = True) -> PackedSequence:
    """Pack a list of sequences of different lengths.

    Parameters
    ----------
    sequences : list of arrays of shape (length, ...)
    enforce_sorted : bool
        If true, lengths must not increase; if false, the sequences are sorted, stably.

    Returns
    -------
    PackedSequence

    Raises
    ------
    ValueError
        As `pack_padded_sequence` and `pad_sequence` raise it.

    Notes
    -----
    Cost: the steps are copied twice. As nothing is padded, one long sequence among short ones
    costs no more than its own steps. Source: torch.nn.utils.rnn.pack_sequence.

    Examples
    --------
    >>> fastlstm.pack_sequence([np.array([1, 2]), np.array([3])]).data.tolist()
    [1, 3, 2]
    """
    arrays = _check_sequences(sequences)
    lengths = check_lengths([len(s) for s in arrays], len(arrays))
    return _pack(np.concatenate(arrays), _firsts(lengths), 1, lengths, enforce_sorted)


def unpack_sequence(packed_sequence: PackedSequence) -> list[Array]:
    """Return the sequences of a pack as a list of arrays, in the caller's order.

    Parameters
    ----------
    packed_sequence : PackedSequence

    Returns
    -------
    list of ndarray of shape (length, ...)
        Each is a copy with memory of its own.

    Raises
    ------
    ValueError
        If the pack is malformed.

    Notes
    -----
    Source: torch.nn.utils.rnn.unpack_sequence.

    Examples
    --------
    >>> packed = fastlstm.pack_sequence([np.array([1, 2]), np.array([3])])
    >>> [s.tolist() for s in fastlstm.unpack_sequence(packed)]
    [[1, 2], [3]]
    """
    data, batch_sizes, _, undone = check_packed(packed_sequence)
    firsts, lengths = _firsts(batch_sizes), lengths_of(batch_sizes).tolist()
    return [data.take(firsts[: lengths[k]] + k, axis=0) for k in undone.tolist()]


def lengths_of(batch_sizes: Integers) -> Integers:
    """Return the lengths of the sequences, the longest first, (B,) int64.

    `batch_sizes` says how many of them are alive at each step.
    """
    return np.searchsorted(-batch_sizes, -np.arange(1, batch_sizes[0] + 1), side="right")


def check_packed(sequence: Any) -> tuple[Array, Integers, Integers, Integers]:
    """Return data, batch sizes, sorted and unsorted indices of a pack, ours or torch's.

    Raise ValueError if it is malformed.
    """
    if not hasattr(sequence, "batch_sizes"):
        raise TypeError(f"Expected a PackedSequence, got {type(sequence).__name__}")
    data = as_array(sequence.data, "data of a PackedSequence")
    batch_sizes = as_integers(sequence.batch_sizes, "batch_sizes")
    order, undone = (
        None if part is None else as_integers(part, f"{name} of a PackedSequence")
        for name, part in zip(PackedSequence._fields[2:], sequence[2:], strict=True)
    )
    if (
        batch_sizes.ndim != 1
        or not batch_sizes.size
        or batch_sizes[-1] < 1
        or (batch_sizes[1:] > batch_sizes[:-1]).any()
    ):
        raise ValueError(
            "batch_sizes of a PackedSequence must be positive and not increasing, "
            f"got {batch_sizes.tolist()}"
        )
    if data.ndim < 1 or len(data) != batch_sizes.sum():
        raise ValueError(
            f"Expected data of a PackedSequence to have {batch_sizes.sum()} rows, the sum of its "
            f"batch_sizes, got shape {data.shape}"
        )
    identity = np.arange(batch_sizes[0])
    if order is not None:
        _check_permutation(order, identity, "sorted_indices")
        inverse = _inverse(order)
        if undone is not None and not np.array_equal(undone, inverse):
            raise ValueError(
                "unsorted_indices of a PackedSequence must undo its sorted_indices: expected "
                f"{inverse.tolist()}, got {undone.tolist()}"
            )
        return data, batch_sizes, order, inverse
    if undone is not None:
        _check_permutation(undone, identity, "unsorted_indices")
        return data, batch_sizes, _inverse(undone), undone
    return data, batch_sizes, identity, identity


def _check_permutation(given: Integers, identity: Integers, name: str) -> None:
    if given.shape != identity.shape or (np.sort(given) != identity).any():
        raise ValueError(
            f"{name} of a PackedSequence must be a permutation of 0..{len(identity) - 1}, "
            f"got {given.tolist()}"
        )


def _pack(
    rows: Array, firsts: Integers, stride: int, lengths: Integers, enforce_sorted: bool
) -> PackedSequence:
    """Pack sequences whose step t is rows[firsts + t * stride]; firsts and lengths are (B,)."""
    if enforce_sorted and (lengths[1:] > lengths[:-1]).any():
        raise ValueError(
            "`lengths` array must be sorted in decreasing order when `enforce_sorted` is True. "
            "You can pass `enforce_sorted=False` to pack_padded_sequence and/or pack_sequence "
            "to sidestep this requirement."
        )
    order = np.argsort(-lengths, kind="stable")
    batch_sizes = batch_sizes_of(lengths)
    step, sequence = rows_of(order, batch_sizes)
    data = rows.take(firsts[sequence] + step * stride, axis=0)
    if enforce_sorted:
        return PackedSequence(data, batch_sizes)
    return PackedSequence(data, batch_sizes, order, _inverse(order))


def _firsts(counts: Integers) -> Integers:
    """Return where each group begins, if groups of `counts` rows follow each other."""
    return counts.cumsum() - counts


def _inverse(order: Integers) -> Integers:
    """Return the permutation that undoes `order`; argsort would take far longer."""
    inverse = np.empty_like(order)
    inverse[order] = np.arange(len(order))
    return inverse


def _items(array: Array, size: int) -> Array:
    """Return a view of `size` values as one opaque item; NumPy scatters these much faster."""
    rows = np.ascontiguousarray(array).reshape(-1, size)
    return rows.view(np.dtype((np.void, size * rows.itemsize)))[:, 0]


def _check_sequences(sequences: Sequence[ArrayLike]) -> list[Array]:
    """Return sequences as arrays of shape (length, ...); raise ValueError if they do not agree."""
    arrays = [as_array(s, "a sequence") for s in sequences]
    if not arrays:
        raise ValueError("Expected a list of at least one sequence, got an empty one")
    like = next((s for s in arrays if s.shape != (0,)), arrays[0])
    empty = np.empty((0, *like.shape[1:]), like.dtype)  # [] has neither features nor a type
    arrays = [empty if s.shape == (0,) else s for s in arrays]
    shapes = {s.shape[1:] if s.ndim else None for s in arrays}
    if len(shapes) > 1 or None in shapes:
        raise ValueError(
            "Expected sequences of shape (length, ...) that agree after the first dimension, got "
            f"{[s.shape for s in arrays]}"
        )
    return arrays
