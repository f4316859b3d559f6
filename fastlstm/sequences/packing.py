"""Sequences of different lengths side by side: torch.nn.utils.rnn's names and rules, in NumPy."""

import functools
from typing import NamedTuple

import numpy as np

from ..arrays import as_array, as_integers


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

    data: np.ndarray
    batch_sizes: np.ndarray
    sorted_indices: np.ndarray | None = None
    unsorted_indices: np.ndarray | None = None


def check_lengths(lengths, batch_size, longest=None, least=1):
    """Return `lengths` as (B,) int64, each from `least` (0 or 1) to `longest`; torch's sentences.

    A PackedSequence, torch's and so ours, has no place for a sequence of length 0.
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


def uniform_sizes(steps, rows):
    """Return the batch sizes of sequences of one length; a few are kept, for small calls' sake."""
    return _few_uniform_sizes(steps, rows) if steps <= 1024 else np.full(steps, rows, np.int64)


@functools.lru_cache(maxsize=64)
def _few_uniform_sizes(steps, rows):
    return np.full(steps, rows, np.int64)


def batch_sizes_of(lengths):
    """How many sequences are alive at each step: (T,) int64, T = the greatest length."""
    steps = lengths.max(initial=0)
    return len(lengths) - np.cumsum(np.bincount(lengths, minlength=steps + 1))[:steps]


def rows_of(sorted_indices, batch_sizes):
    """Arrays (step, sequence) of every packed row, (N,) each: they gather and scatter padding."""
    steps = np.arange(len(batch_sizes)).repeat(batch_sizes)
    firsts = _firsts(batch_sizes).repeat(batch_sizes)
    return steps, sorted_indices[np.arange(len(steps)) - firsts]


def pack_padded_sequence(input, lengths, batch_first=False, enforce_sorted=True):
    """Take the padding out of a batch of sequences.

    Parameters
    ----------
    input : array of shape (T, B, ...), or (B, T, ...) if `batch_first`
    lengths : B ints, each from 1 to T
    batch_first : bool
    enforce_sorted : bool
        If true, `lengths` must not increase; else the sequences are sorted, stably.

    Returns
    -------
    PackedSequence

    Raises
    ------
    ValueError
        If lengths do not fit, torch's sentences; also where torch makes a malformed pack, for a
        length greater than T.

    Notes
    -----
    Copies the real steps once, an input that is not contiguous whole before. Source:
    torch.nn.utils.rnn.pack_padded_sequence.

    Examples
    --------
    >>> packed = fastlstm.pack_padded_sequence(np.array([[1, 2, 0], [3, 4, 5]]), [2, 3],
    ...                                        batch_first=True, enforce_sorted=False)
    >>> packed.data.tolist(), packed.batch_sizes.tolist(), packed.sorted_indices.tolist()
    ([3, 1, 4, 2, 5], [2, 2, 1], [1, 0])
    """
    input = as_array(input, "input")
    if input.ndim < 2:
        raise ValueError(f"Expected input to have at least 2 dimensions, got {input.ndim}")
    batch, steps = input.shape[:2] if batch_first else input.shape[1::-1]
    lengths = check_lengths(lengths, batch, steps)
    if not batch:
        raise ValueError("Cannot pack empty tensors: the batch has no sequences")
    rows = input.reshape(batch * steps, *input.shape[2:])
    firsts, stride = (np.arange(batch) * steps, 1) if batch_first else (np.arange(batch), batch)
    return _pack(rows, firsts, stride, lengths, enforce_sorted)


def pad_packed_sequence(sequence, batch_first=False, padding_value=0.0, total_length=None):
    """Put the padding back: the inverse of `pack_padded_sequence`.

    Parameters
    ----------
    sequence : PackedSequence
    batch_first : bool
    padding_value : float
        What stands past each sequence's end.
    total_length : int, optional
        Pad to so many steps instead of the longest sequence's.

    Returns
    -------
    padded : ndarray of shape (T, B, ...), or (B, T, ...) if `batch_first`
        In the caller's order of sequences.
    lengths : int64 ndarray of shape (B,)

    Raises
    ------
    ValueError
        If `total_length` is less than the longest sequence, or the pack is malformed.

    Examples
    --------
    >>> packed = fastlstm.pack_sequence([np.array([1, 2]), np.array([3])])
    >>> padded, lengths = fastlstm.pad_packed_sequence(packed, batch_first=True, padding_value=-1)
    >>> padded.tolist(), lengths.tolist()
    ([[1, 2], [3, -1]], [2, 1])
    """
    data, batch_sizes, order, restore = check_packed(sequence)
    steps = len(batch_sizes)
    if total_length is not None and total_length < steps:
        raise ValueError(
            "Expected total_length to be at least the length of the longest sequence in input, "
            f"but got total_length={total_length} and max sequence length being {steps}"
        )
    shape = (total_length or steps, len(order), *data.shape[1:])
    padded = np.full(shape, padding_value, data.dtype)
    if data.size:
        step, sequence = rows_of(order, batch_sizes)
        size = data[0].size
        _items(padded, size)[step * len(order) + sequence] = _items(data, size)
    lengths = lengths_of(batch_sizes)[restore]
    return (padded.swapaxes(0, 1) if batch_first else padded), lengths


def pad_sequence(sequences, batch_first=False, padding_value=0.0, padding_side="right"):
    """Stack sequences of different lengths into one padded array.

    Parameters
    ----------
    sequences : list of arrays of shape (length, ...)
    batch_first : bool
    padding_value : float
    padding_side : {"right", "left"}

    Returns
    -------
    ndarray of shape (T, B, ...), or (B, T, ...) if `batch_first`

    Raises
    ------
    ValueError
        If there are no sequences, their further dimensions differ, or the side is unknown.

    Examples
    --------
    >>> fastlstm.pad_sequence([np.array([1, 2]), np.array([3])], batch_first=True).tolist()
    [[1, 2], [3, 0]]
    """
    if padding_side not in ("right", "left"):
        raise ValueError(f"padding_side should be either 'right' or 'left', but got {padding_side}")
    sequences = _check_sequences(sequences)
    longest = max(len(s) for s in sequences)
    shape = (len(sequences), longest, *sequences[0].shape[1:])
    padded = np.full(shape, padding_value, np.result_type(*sequences))
    for row, s in zip(padded, sequences, strict=True):
        row[longest - len(s) if padding_side == "left" else 0 :][: len(s)] = s
    return padded if batch_first else padded.swapaxes(0, 1)


def pack_sequence(sequences, enforce_sorted=True):
    """Pack a list of sequences of different lengths.

    Parameters
    ----------
    sequences : list of arrays of shape (length, ...)
    enforce_sorted : bool
        If true, lengths must not increase; else the sequences are sorted, stably.

    Returns
    -------
    PackedSequence

    Raises
    ------
    ValueError
        As `pack_padded_sequence` and `pad_sequence`.

    Notes
    -----
    Copies the steps twice and pads nothing: one long sequence among short ones costs no more.

    Examples
    --------
    >>> fastlstm.pack_sequence([np.array([1, 2]), np.array([3])]).data.tolist()
    [1, 3, 2]
    """
    sequences = _check_sequences(sequences)
    lengths = check_lengths([len(s) for s in sequences], len(sequences))
    return _pack(np.concatenate(sequences), _firsts(lengths), 1, lengths, enforce_sorted)


def unpack_sequence(packed_sequence):
    """Return the sequences of a pack as a list of arrays, in the caller's order.

    Parameters
    ----------
    packed_sequence : PackedSequence

    Returns
    -------
    list of ndarray of shape (length, ...)
        Copies, each with memory of its own.

    Raises
    ------
    ValueError
        If the pack is malformed.

    Examples
    --------
    >>> packed = fastlstm.pack_sequence([np.array([1, 2]), np.array([3])])
    >>> [s.tolist() for s in fastlstm.unpack_sequence(packed)]
    [[1, 2], [3]]
    """
    data, batch_sizes, _, restore = check_packed(packed_sequence)
    firsts, lengths = _firsts(batch_sizes), lengths_of(batch_sizes).tolist()
    return [data.take(firsts[: lengths[k]] + k, axis=0) for k in restore.tolist()]


def lengths_of(batch_sizes):
    """The lengths, longest first, (B,) int64, of sequences of which so many live at each step."""
    return np.searchsorted(-batch_sizes, -np.arange(1, batch_sizes[0] + 1), side="right")


def check_packed(sequence):
    """(data, batch_sizes, order, restore) of a pack, ours or torch's; refused if malformed."""
    if not hasattr(sequence, "batch_sizes"):
        raise TypeError(f"Expected a PackedSequence, got {type(sequence).__name__}")
    data = as_array(sequence.data, "data of a PackedSequence")
    batch_sizes = as_integers(sequence.batch_sizes, "batch_sizes")
    order, restore = (
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
    if order is None and restore is None:
        return data, batch_sizes, identity, identity
    name, given = ("unsorted", restore) if order is None else ("sorted", order)
    if given.shape != identity.shape or (np.sort(given) != identity).any():
        raise ValueError(
            f"{name}_indices of a PackedSequence must be a permutation of 0..{len(identity) - 1}, "
            f"got {given.tolist()}"
        )
    undone = _inverse(given)
    if order is None:
        return data, batch_sizes, undone, restore
    if restore is not None and not np.array_equal(restore, undone):
        raise ValueError(
            "unsorted_indices of a PackedSequence must undo its sorted_indices: expected "
            f"{undone.tolist()}, got {restore.tolist()}"
        )
    return data, batch_sizes, order, undone


def _pack(rows, firsts, stride, lengths, enforce_sorted):
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


def _firsts(counts):
    """Where each of consecutive groups of so many rows begins."""
    return counts.cumsum() - counts


def _inverse(order):
    """The permutation that undoes `order`; argsort would take far longer."""
    inverse = np.empty_like(order)
    inverse[order] = np.arange(len(order))
    return inverse


def _items(array, size):
    """Each `size` values as one opaque item: NumPy scatters those several times faster."""
    rows = np.ascontiguousarray(array).reshape(-1, size)
    return rows.view(np.dtype((np.void, size * rows.itemsize)))[:, 0]


def _check_sequences(sequences):
    sequences = [as_array(s, "a sequence") for s in sequences]
    if not sequences:
        raise ValueError("Expected a list of at least one sequence, got an empty one")
    like = next((s for s in sequences if s.shape != (0,)), sequences[0])
    empty = np.empty((0, *like.shape[1:]), like.dtype)  # [] has neither features nor a type
    sequences = [empty if s.shape == (0,) else s for s in sequences]
    shapes = {s.shape[1:] if s.ndim else None for s in sequences}
    if len(shapes) > 1 or None in shapes:
        raise ValueError(
            "Expected sequences of shape (length, ...) that agree after the first dimension, got "
            f"{[s.shape for s in sequences]}"
        )
    return sequences
