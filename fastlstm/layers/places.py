"""The places of a pool: which stream has which row, and the states that are there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..checks import listed

if TYPE_CHECKING:
    from ..arrays import Floats, Integers
    from .lstm import LSTM

# A sid is the row of its stream, and above these bits how many streams had been opened by then.
ROW_BITS = 24
# An array, which NumPy takes in half the time of an int.
ROW = np.array((1 << ROW_BITS) - 1, np.int64)

# What the table of sids holds where no stream is, so that a sid which is looked up is not found. It
# comes to its own row; one with a row beyond the capacity, to one more row at the end. Both hold 0,
# which is memory that nobody has touched. Only the sid 0 itself would be found so: it comes to row
# 0, where -1 stands, which as a sid comes to the row at the end.
_NOBODY, _NOBODY_IN_ROW_0 = 0, -1


class Busy(RuntimeError):
    """Another thread advances streams."""

    def __init__(self, sids: Integers) -> None:
        which = f"stream {sids[0]} is" if len(sids) == 1 else f"streams {_listed(sids)} are"
        super().__init__(f"{which} being advanced in another thread: wait until that has returned")


class Table:
    """All that changes in a pool: the states, and whose they are.

    Attributes
    ----------
    states : list of ndarray
        Of all LSTMs in turn, as `Recurrent` has them: (cells, capacity, features).
    sids : int64 ndarray of shape (capacity + 1,)
        The stream in each row.
    ready : int64 ndarray of shape (capacity + 1,)
        The same, but where a call advances a stream: there is its ticket.
    moved : int64 ndarray of shape (capacity,)
        The `clock` when the stream in each row was opened or advanced last.
    unused : int
        The first of the rows at the end that no stream has had, whose memory is not taken yet.
    free : list of int
        Rows before it without a stream; the last one is taken next. After Ctrl-C some may have one,
        and are passed over: `sids` is the truth.
    opened : int
        How many streams were opened.
    clock : int
        How many calls have advanced streams.
    """

    def __init__(self, lstms: list[LSTM], capacity: int) -> None:
        self.states = [state for lstm in lstms for state in lstm._zeros(capacity)]
        self.sids, self.ready = (np.zeros(capacity + 1, np.int64) for _ in range(2))
        self.sids[0] = self.ready[0] = _NOBODY_IN_ROW_0
        self.moved = np.zeros(capacity, np.int64)
        self.free: list[int] = []
        self.unused = self.opened = self.clock = 0

    def open(self, states: list[Floats]) -> int | None:
        """Begin a stream with these states; return its sid, or None if there is no room."""
        row = self.free_row()
        if row is None:
            return None
        for own, start in zip(self.states, states, strict=True):
            own[:, row] = start[:, 0]
        self.opened += 1
        self.moved[row] = self.clock
        sid = self.opened << ROW_BITS | row
        self.sids[row] = self.ready[row] = sid
        self._pass_over_taken()
        return sid

    def free_row(self) -> int | None:
        """Return the row that the next stream gets, or None if there is no room."""
        self._pass_over_taken()
        if self.free:
            return self.free[-1]
        return self.unused if self.unused < len(self.moved) else None

    def _pass_over_taken(self) -> None:
        while self.free and self.sids[self.free[-1]] > _NOBODY:
            self.free.pop()
        while self.unused < len(self.moved) and self.sids[self.unused] > _NOBODY:
            self.unused += 1

    def close(self, rows: Integers) -> None:
        """End the streams in these rows."""
        self.free.extend(rows.tolist())  # first: Ctrl-C may come behind it, but loses no row
        self.sids[rows] = self.ready[rows] = np.where(rows, _NOBODY, _NOBODY_IN_ROW_0)

    def rows_of(self, sids: Integers) -> Integers:
        """Return the rows of streams; ValueError if one is not alive."""
        rows = sids & ROW
        found = self.sids.take(rows, mode="clip")
        if (found != sids).any():
            unknown = sids[found != sids]
            one = len(unknown) == 1
            are = "is no sid of a live stream" if one else "are no sids of live streams"
            raise ValueError(
                f"{_listed(unknown)} {are} in this pool: closed, or never given by open()"
            )
        return rows

    def settled(self, sids: Integers) -> Integers:
        """Return the rows of streams; RuntimeError if a call advances one of them."""
        rows = self.rows_of(sids)
        if len(set(sids.tolist())) < len(sids):
            raise repeated(sids)
        if (busy := self.ready.take(rows) != sids).any():
            raise Busy(sids[busy])
        return rows


def repeated(sids: Integers) -> ValueError:
    found, counts = np.unique(sids, return_counts=True)
    return ValueError(f"each sid may come once, got {_listed(found[counts > 1])} more than once")


def _listed(sids: Integers) -> str:
    return listed(map(str, sids.tolist()), 5)
