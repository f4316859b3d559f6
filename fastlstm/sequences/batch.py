"""A batch of sequences as its caller holds it: padded, packed, or with steps that are left out.

Engines see packed rows only: the rows of step 0, then those of step 1, and so on, the longest
sequence first. `arrange` checks an input and returns a batch of one of four classes. The sequences
of the engine are the caller's, except where resets cut them into `Pieces`. All four classes have
``x`` (N, I), the packed rows; ``batch_sizes`` (T,), how many of the engine's sequences are alive at
each step; ``sequences``, which of the caller's sequences each of the engine's belongs to; ``size``,
the number B of the caller's sequences; and ``batched``, whether the caller's arrays have an axis
for the batch. Their methods lead into the engines' order and back:

- ``output_shape(wide)`` is the shape of the caller's output with `wide` features;
- ``output(rows)`` turns packed rows into the caller's output, and ``rows(d_output)`` is the way
  back: it turns the gradient of the output into that of the packed rows;
- ``restore(rows)`` turns packed rows into an array of the input's layout, with 0 where an engine
  computes no step;
- ``sort(states)`` brings the caller's states, a list of arrays (cells, B, features), into the
  engines' order. Sequences without steps are left out, because engines never see them;
- ``unsort(states, initial)`` brings final states back into the caller's order. A sequence without
  steps keeps its `initial` state. The result may use the memory of `initial`;
- `start` is what a piece begins with behind a reset: states without the axis B, zeros if there are
  none. It matters to `Pieces` alone, which also have the way back to it, `d_start`;
- with ``back=True``, both methods do the same for gradients: `sort` takes those of final states,
  and `unsort` returns those of initial states;
- ``pack`` is the `Packed` batch whose layout the output has, or None if the output is an array.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..arrays import as_array, as_float, as_rows
from .packing import (
    PackedSequence,
    batch_sizes_of,
    check_lengths,
    check_packed,
    lengths_of,
    rows_of,
    uniform_sizes,
)

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import ArrayLike, NDArray

    from ..arrays import Floats, Integers

    Booleans: TypeAlias = NDArray[np.bool_]
    States: TypeAlias = list[Floats]  # h of all layers, or of groups of them, and then c
    Batch: TypeAlias = "Padded | Ragged | Packed"  # Pieces are Ragged


class Padded:
    """Sequences of one length. They are in the engines' order already, if time comes first.

    `swap` says that the caller's arrays have the batch first.
    """

    pack = None

    def __init__(
        self, x: Floats, batch_sizes: Integers, size: int, batched: bool, swap: bool
    ) -> None:
        self.x, self.batch_sizes, self.size = x, batch_sizes, size
        self.batched, self.swap = batched, swap

    @property
    def sequences(self) -> Integers:
        return np.arange(self.size)

    def output_shape(self, wide: int) -> tuple[int, ...]:
        steps = len(self.batch_sizes)
        if not self.batched:
            return steps, wide
        return (self.size, steps, wide) if self.swap else (steps, self.size, wide)

    def rows(self, d_output: Floats) -> Floats:
        return as_rows(d_output.swapaxes(0, 1) if self.swap else d_output)

    def restore(self, rows: Floats) -> Floats:
        if not self.batched:
            return rows
        output = rows.reshape(len(self.batch_sizes), self.size, rows.shape[1])
        return output.swapaxes(0, 1) if self.swap else output

    output = restore

    def sort(self, states: States, start: States | None = None, back: bool = False) -> States:
        return states

    def unsort(
        self, states: States, initial: States, start: States | None = None, back: bool = False
    ) -> States:
        return states if self.batched else [state[:, 0] for state in states]


class Ragged:
    """Padded sequences with lengths. `index` says where among the padding each packed row stands.

    `sequences` holds the numbers of the sequences that have steps, the longest first; `shape` is
    the caller's (T, B) or (B, T).
    """

    batched = True
    pack: Packed | None = None

    def __init__(
        self,
        x: Floats,
        batch_sizes: Integers,
        size: int,
        sequences: Integers,
        index: Integers,
        shape: tuple[int, ...],
    ) -> None:
        self.x, self.batch_sizes, self.size = x, batch_sizes, size
        self.sequences, self.index, self.shape = sequences, index, shape

    def output_shape(self, wide: int) -> tuple[int, ...]:
        return *self.shape, wide

    def rows(self, d_output: Floats) -> Floats:
        return as_rows(d_output)[self.index]

    def restore(self, rows: Floats) -> Any:
        output = np.zeros((*self.shape, rows.shape[1]), rows.dtype)
        output.reshape(-1, rows.shape[1])[self.index] = rows
        return output

    def output(self, rows: Floats) -> Any:
        return self.restore(rows)

    def sort(self, states: States, start: States | None = None, back: bool = False) -> States:
        return _sorted(states, self.sequences)

    def unsort(
        self, states: States, initial: States, start: States | None = None, back: bool = False
    ) -> States:
        return _unsorted(states, initial, self.sequences)


class Ends(NamedTuple):
    """How the states of sequences and of their pieces belong together, in one direction.

    Attributes
    ----------
    first : (pieces, sequences)
        The pieces that begin with the state that was given for their sequence.
    last : (pieces, sequences)
        The pieces whose final state is that of their sequence.
    kept : sequences
        Those that end with the state that was given, because they have no step and no reset.
    """

    first: tuple[Integers, Integers]
    last: tuple[Integers, Integers]
    kept: Integers


class Repeats(NamedTuple):
    """Which outputs of one direction are repeated at masked steps.

    Attributes
    ----------
    places : where masked steps stand among the caller's rows
    sources : which packed row each of them repeats, in ascending order
    """

    places: Integers
    sources: Integers

    def add_back(self, d_places: Floats, d_rows: Floats) -> None:
        """Add the gradients of all repetitions to those of the packed rows."""
        if len(self.sources):
            firsts = np.flatnonzero(np.diff(self.sources, prepend=-1))
            sums = np.add.reduceat(d_places[self.places], firsts, axis=0)
            d_rows[self.sources[firsts]] += sums


class Pieces(Ragged):
    """Sequences of which a mask leaves steps out, and which resets cut into pieces.

    Each piece with at least one step is a sequence of its own for an engine. `sequences` says which
    of the caller's sequences it belongs to. `shape` is the shape of the caller's rows: (T, B),
    (B, T), (T,) if not `batched`, or (N,) of a `pack`.

    `ends` and `repeats` hold one item for each direction of a layer. `repeats` is empty if outputs
    at masked steps are 0.
    """

    def __init__(
        self,
        x: Floats,
        batch_sizes: Integers,
        size: int,
        sequences: Integers,
        index: Integers,
        shape: tuple[int, ...],
        batched: bool,
        pack: Packed | None,
        ends: list[Ends],
        repeats: list[Repeats],
    ) -> None:
        super().__init__(x, batch_sizes, size, sequences, index, shape)
        self.batched, self.pack = batched, pack
        self.ends, self.repeats = ends, repeats

    def rows(self, d_output: Floats) -> Floats:
        array = as_rows(d_output)
        rows = array[self.index]
        for features, repeat in self._repeated(rows):
            repeat.add_back(array[:, features], rows[:, features])
        return rows

    def restore(self, rows: Floats) -> Any:
        return self._given(super().restore(rows))

    def output(self, rows: Floats) -> Any:
        output = super().restore(rows)
        array = output.reshape(-1, rows.shape[1])
        for features, repeat in self._repeated(rows):
            array[repeat.places, features] = rows[repeat.sources, features]
        return self._given(output)

    def sort(self, states: States, start: States | None = None, back: bool = False) -> States:
        in_order = self._starts(states, len(self.sequences), start)
        for into, given in zip(in_order, states, strict=True):
            for k, end in enumerate(self.ends):
                pieces, sequences = end.last if back else end.first
                into[k :: len(self.ends), pieces] = given[k :: len(self.ends), sequences]
        return in_order

    def unsort(
        self, states: States, initial: States, start: States | None = None, back: bool = False
    ) -> States:
        unsorted = self._starts(initial, self.size, start)
        for into, given, before in zip(unsorted, states, initial, strict=True):
            for k, end in enumerate(self.ends):
                pieces, sequences = end.first if back else end.last
                into[k :: len(self.ends), sequences] = given[k :: len(self.ends), pieces]
                into[k :: len(self.ends), end.kept] = before[k :: len(self.ends), end.kept]
        return unsorted if self.batched else [state[:, 0] for state in unsorted]

    def d_start(self, d_pieces: States, d_final: States) -> States:
        """Return the gradient of `start`, from those of the pieces' and of the final states.

        `d_pieces` are the gradients of what the pieces began with. `start` gets the sum over the
        pieces that began with it, and over the sequences that ended with it because no step
        follows their last reset.
        """
        totals = [np.zeros((len(d), d.shape[2]), d.dtype) for d in d_pieces]
        for total, pieces, final in zip(totals, d_pieces, d_final, strict=True):
            for k, end in enumerate(self.ends):
                begun = np.ones(pieces.shape[1], bool)
                begun[end.first[0]] = False
                ended = np.ones(self.size, bool)
                ended[end.last[1]] = ended[end.kept] = False
                total[k :: len(self.ends)] = pieces[k :: len(self.ends), begun].sum(axis=1)
                total[k :: len(self.ends)] += final[k :: len(self.ends), ended].sum(axis=1)
        return totals

    def _starts(self, like: States, rows: int, start: States | None) -> States:
        """Return `rows` copies of `start`, each with an axis for them, of the shapes of `like`."""
        states = [np.zeros((len(one), rows, one.shape[2]), one.dtype) for one in like]
        for state, own in zip(states, start or (), strict=False):
            state[...] = own[:, np.newaxis]
        return states

    def _repeated(self, rows: Floats) -> list[tuple[slice, Repeats]]:
        """Return the features of each direction in `rows`, with what is repeated of them."""
        wide = rows.shape[1] // len(self.ends)
        return [(slice(k * wide, (k + 1) * wide), r) for k, r in enumerate(self.repeats)]

    def _given(self, output: Floats) -> Any:
        return output if self.pack is None else self.pack.restore(output)


class Packed:
    """A `PackedSequence`, whose rows are in the engines' order as they are.

    `indices` are its sorted and unsorted indices, or two times None if it came without them.
    """

    batched = True

    def __init__(
        self,
        x: Floats,
        batch_sizes: Integers,
        sequences: Integers,
        indices: tuple[Integers | None, Integers | None],
    ) -> None:
        self.x, self.batch_sizes, self.size = x, batch_sizes, len(sequences)
        self.sequences, self.indices = sequences, indices

    @property
    def pack(self) -> Packed:
        return self

    def output_shape(self, wide: int) -> tuple[int, ...]:
        return len(self.x), wide

    def rows(self, d_output: Floats) -> Floats:
        return as_rows(d_output)

    def restore(self, rows: Floats) -> PackedSequence:
        return PackedSequence(rows, self.batch_sizes, *self.indices)

    output = restore

    def sort(self, states: States, start: States | None = None, back: bool = False) -> States:
        return _sorted(states, self.sequences)

    def unsort(
        self, states: States, initial: States, start: States | None = None, back: bool = False
    ) -> States:
        return _unsorted(states, initial, self.sequences)

    def is_packed_as(self, batch_sizes: Integers, order: Integers) -> bool:
        """Tell whether another pack has the same lengths in the same order."""
        same_sizes = np.array_equal(self.batch_sizes, batch_sizes)
        return same_sizes and np.array_equal(self.sequences, order)


def arrange(
    input: ArrayLike | PackedSequence,
    lengths: ArrayLike | None,
    features: int,
    dtype: np.dtype[Any],
    batch_first: bool | None,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    masked_output: str = "zero",
    backward: tuple[bool, ...] = (False,),
) -> Batch:
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
    mask : bool array of shape (T, B), or (B, T) if `batch_first`, or (T,); or None
        Which steps are computed. The mask of a pack is (T, B), in the caller's order of sequences.
    reset : bool array of the same shape, or None
        Before which steps a sequence begins anew.
    masked_output : {"zero", "last"}
        What the output holds at masked steps.
    backward : tuple of bool
        Whether each direction of a layer runs from the end.

    Returns
    -------
    Padded, Ragged, Pieces or Packed

    Raises
    ------
    ValueError, TypeError
        If a shape, dtype or length does not fit. The sentences are torch's where torch has one.

    Notes
    -----
    Cost: nothing is copied for a contiguous input with time first, or for a pack. With
    `batch_first`, `lengths`, `mask` or `reset` the input is copied once.
    """
    if masked_output not in ("zero", "last"):
        raise ValueError(f'masked_output must be "zero" or "last", got {masked_output!r}')
    if type(input) is not np.ndarray and hasattr(input, "batch_sizes"):
        pack = _arrange_packed(input, lengths, features, dtype)
        if mask is None and reset is None:
            return pack
        steps, size, sizes = len(pack.batch_sizes), pack.size, pack.batch_sizes
        mask = _check_steps("mask", mask, steps, size, True, False)
        reset = _check_steps("reset", reset, steps, size, True, False)
        place = np.empty(size, np.int64)  # of each sequence in the pack
        place[pack.sequences] = np.arange(size)
        at = np.cumsum(sizes) - sizes + place[:, np.newaxis]
        return _pieces(
            pack.x, at, lengths_of(sizes)[place], (len(pack.x),), True, pack,
            mask, reset, masked_output == "last", backward,
        )  # fmt: skip
    x = as_float(input, dtype)
    shape = x.shape
    batched = len(shape) == 3
    if not batched and len(shape) != 2:
        raise ValueError(f"LSTM: Expected input to be 2D or 3D, got {len(shape)}D instead")
    if batched and batch_first is None:
        raise undecided("LSTM", shape)
    _check_features(shape, features)
    swap = batched and bool(batch_first)
    steps, size = shape[1::-1] if swap else shape[:2] if batched else (shape[0], 1)
    if lengths is not None:
        if not batched:
            raise ValueError("lengths needs batched 3-D input, got unbatched 2-D input")
        lengths = check_lengths(lengths, size, steps, least=0)
    elif not steps:
        raise ValueError("Expected sequence length to be larger than 0 in RNN")
    if mask is not None or reset is not None:
        mask = _check_steps("mask", mask, steps, size, batched, swap)
        reset = _check_steps("reset", reset, steps, size, batched, swap)
        if size:
            at = np.arange(steps * size).reshape((size, steps) if swap else (steps, size))
            ends = np.full(size, steps) if lengths is None else lengths
            return _pieces(
                as_rows(x), at if swap else at.T, ends, shape[:-1], batched, None,
                mask, reset, masked_output == "last", backward,
            )  # fmt: skip
    if lengths is None or not size:
        rows = as_rows(x.swapaxes(0, 1) if swap else x)
        return Padded(rows, uniform_sizes(steps, size), size, batched, swap)
    order = np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)]
    batch_sizes = batch_sizes_of(lengths)
    step, sequence = rows_of(order, batch_sizes)
    index = sequence * steps + step if swap else step * size + sequence
    return Ragged(as_rows(x)[index], batch_sizes, size, order, index, shape[:2])


def _pieces(
    rows: Floats,
    places: Integers,
    lengths: Integers,
    shape: tuple[int, ...],
    batched: bool,
    pack: Packed | None,
    mask: Booleans | None,
    reset: Booleans | None,
    repeat: bool,
    backward: tuple[bool, ...],
) -> Pieces:
    """Take the unmasked steps out of the caller's `rows`, and cut sequences where they begin anew.

    `places` (B, T) says where each step stands among the rows, `mask` and `reset` are (B, T), and
    `lengths` (B,) says where each sequence ends.
    """
    size, steps = places.shape
    within = np.arange(steps) < lengths[:, np.newaxis]
    real = within if mask is None else within & mask
    begins = np.zeros_like(within) if reset is None else within & reset
    number = begins.cumsum(axis=1)  # of the piece to which each step belongs, in its sequence

    # The real steps of one sequence after the other, and the first one of each piece among them.
    sequence, step = real.nonzero()
    own = number[sequence, step]
    is_first = np.ones(len(own), bool)
    is_first[1:] = (sequence[1:] != sequence[:-1]) | (own[1:] != own[:-1])
    firsts = np.flatnonzero(is_first)
    counts = np.diff(firsts, append=len(own))
    order = np.argsort(-counts, kind="stable")
    batch_sizes = batch_sizes_of(counts)
    within_piece, piece = rows_of(order, batch_sizes)
    taken = firsts[piece] + within_piece
    index = places[real][taken]

    owner, own = sequence[firsts[order]], own[firsts[order]]
    first, last = begins[:, :1].sum(axis=1), begins.sum(axis=1)  # numbers of pieces
    without = ~real.any(axis=1)
    ends = []
    for is_backward in backward:
        # A reset at step 0 lies between the given state and the first piece. Backward there is
        # nothing before it: the piece that begins at step 0 is the last one in that direction.
        given, final = (last, first) if is_backward else (np.zeros_like(last), last)
        taking, giving = np.flatnonzero(own == given[owner]), np.flatnonzero(own == final[owner])
        kept = np.flatnonzero(without & (given == final))
        ends.append(Ends((taking, owner[taking]), (giving, owner[giving]), kept))

    repeats = []
    if repeat:
        row = np.zeros((size, steps), np.int64)  # the packed row of each real step
        row[sequence[taken], step[taken]] = np.arange(len(taken))
        repeats = [_repeats(row, within, real, number, places, way) for way in backward]
    return Pieces(
        rows[index], batch_sizes, size, owner, index, shape, batched, pack, ends, repeats
    )  # fmt: skip


def _repeats(
    row: Integers,
    within: Booleans,
    real: Booleans,
    number: Integers,
    places: Integers,
    is_backward: bool,
) -> Repeats:
    """Find for each masked step the last real one before it, in one direction and in its piece."""
    steps = np.arange(real.shape[1])
    if is_backward:
        nearest = np.where(real, steps, len(steps))[:, ::-1]
        nearest = np.minimum.accumulate(nearest, axis=1)[:, ::-1]
    else:
        nearest = np.maximum.accumulate(np.where(real, steps, -1), axis=1)
    sequence, step = (within & ~real & (0 <= nearest) & (nearest < len(steps))).nonzero()
    source = nearest[sequence, step]
    same = number[sequence, step] == number[sequence, source]
    sequence, step, source = sequence[same], step[same], source[same]
    sources = row[sequence, source]
    order = np.argsort(sources, kind="stable")
    return Repeats(places[sequence, step][order], sources[order])


def _check_steps(
    name: str, value: Any, steps: int, size: int, batched: bool, swap: bool
) -> Booleans | None:
    """Return booleans of every step as (B, T), or refuse them; None stays None."""
    if value is None:
        return None
    array = as_array(value, name)
    if array.dtype != bool and array.size:
        raise ValueError(f"{name} must hold booleans, got dtype {array.dtype}")
    layout, shape = ("(T, B)", (steps, size)) if batched else ("(T,)", (steps,))
    if swap:
        layout, shape = "(B, T)", (size, steps)
    if array.shape != shape:
        raise ValueError(f"Expected {name} of shape {layout} = {shape}, got {array.shape}")
    grid: Booleans = array.astype(bool).reshape(shape if batched else (steps, 1))
    return grid if swap else grid.T


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
    _check_features(x.shape, features)
    in_order = packed.sorted_indices is None and packed.unsorted_indices is None
    return Packed(as_rows(x), batch_sizes, order, (None, None) if in_order else (order, restore))


def _check_features(shape: tuple[int, ...], features: int) -> None:
    if shape[-1] != features:
        raise ValueError(
            f"input.size(-1) must be equal to input_size. Expected {features}, got {shape[-1]}"
        )


def _sorted(states: States, order: Integers) -> States:
    """Take the states of the sequences in `order` alone."""
    return [state.take(order, axis=1) for state in states]


def _unsorted(states: States, initial: States, order: Integers) -> States:
    """Put the states of the sequences in `order` back among the initial ones."""
    for state, whole in zip(states, initial, strict=True):
        whole[:, order] = state
    return initial
