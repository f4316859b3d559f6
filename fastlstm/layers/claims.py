"""Which streams of a pool a call advances, so that no other call does."""

from __future__ import annotations

from threading import get_ident
from typing import TYPE_CHECKING

import numpy as np

from .places import ROW, ROW_BITS, repeated

if TYPE_CHECKING:
    from ..arrays import Integers
    from .places import Table
    from .pool import Pool

# A ticket is another number for each stream of a call, above the bits of a row. These are all set:
# as a sid, it would come to the last row. It comes again when so many streams have advanced.
_TICKETS = 1 << 62 - ROW_BITS


class Claim:
    """The streams that one call advances: no other call may, until they are released.

    Ctrl-C may come between any two lines. So a stream's place holds a ticket, by which it is known
    what is still to be released, when this object goes at the latest.
    """

    _table: Table | None = None  # from the moment on when rows may be claimed
    _complete = False  # whether all are
    moved = False  # whether the streams have advanced
    rows: Integers
    _is_outer: bool
    _sids: Integers
    _tickets: Integers

    def __init__(self, pool: Pool) -> None:
        self._pool, self._thread = pool, get_ident()

    def take(self, sids: Integers) -> Table:
        """Claim these streams; none is claimed if one of them cannot be had."""
        pool = self._pool
        rows, told = sids & ROW, sids.tobytes()  # small arrays are compared soonest as bytes
        with pool._lock:
            if pool._held.locked():
                pool._pass_hold()
            table, count = pool._table, len(sids)
            ready = table.ready
            self._sids = own = ready.take(rows, mode="clip")
            if own.tobytes() != told:
                table.settled(sids)  # which says what is wrong
            first = pool._ticket
            pool._ticket = (first + count) % _TICKETS
            start, step = ~(first << ROW_BITS), -1 << ROW_BITS
            self._tickets = tickets = np.arange(start, start + count * step, step, dtype=np.int64)
            self._is_outer = self._thread not in pool._inside  # not in a layer that steps others
            self.rows, self._table = rows, table
            pool._inside.add(self._thread)
            ready[rows] = tickets
            if count > 1 and ready[rows].tobytes() != tickets.tobytes():
                raise repeated(sids)
            self._complete = True
        return table

    def release(self) -> None:
        """Let others have them."""
        pool, table = self._pool, self._table
        if table is None:
            return
        with pool._lock:
            if self.moved:
                table.clock += 1
                table.moved[self.rows] = table.clock
            self._free()
            if pool._waiting:
                pool._released.notify_all()

    def _free(self) -> None:
        table, rows, sids = self._table, self.rows, self._sids
        if table is not None:
            if not self._complete:
                ours = table.ready.take(rows) == self._tickets
                rows, sids = rows[ours], sids[ours]
            table.ready[rows] = sids
            if self._is_outer:
                self._pool._inside.discard(self._thread)
            self._table = None

    def __del__(self) -> None:
        if self._table is not None:
            self._free()
