"""Pool: the states of many live streams, of which any few advance together.

The states of all streams lie side by side in arrays, a row for each stream, and a call takes those
of its streams by index. Which stream has which row, and which ones a thread advances right now, is
guarded by a lock that nobody holds while anything is computed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import as_array, as_float, as_integers, as_rows
from ..checks import check_number, check_size, listed
from ..sequences.batch import undecided
from ..sequences.packing import (
    PackedSequence,
    batch_sizes_of,
    check_lengths,
    check_packed,
    rows_of,
    uniform_sizes,
)
from .chain import Given
from .collector import Collector
from .stream import axes_of, by_name, check_live, check_out

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import ArrayLike

    from ..arrays import Array, Floats, Integers
    from .embedding import Embedding
    from .layer import Layer
    from .lstm import LSTM
    from .stream import Live

    Evict: TypeAlias = Callable[["Pool"], Any]

# A sid is the row of its stream, and above these bits how many streams had been opened by then.
_ROW_BITS = 24
_ROW = (1 << _ROW_BITS) - 1

# What the table of sids holds where no stream is. A sid that is looked up comes to its own row, and
# one with a row beyond the capacity to one more row at the end. -1 would come to that last row, and
# what stands there to row 0, so that neither is ever found where it stands.
_NOBODY, _BEYOND = -1, -1 << 32

# Calls have tickets from 1 to this, in turn: above the bits of a row, they fit into 63 bits.
_TICKETS = (1 << 63 - _ROW_BITS) - 2
# A thread that waits looks again after so many seconds, even if nobody tells it to.
_POLL = 0.05


class PoolFull(RuntimeError):
    """A pool has no room for another stream, and none was closed to make some.

    Parameters
    ----------
    message : str

    Examples
    --------
    >>> pool = fastlstm.LSTM(3, 4).pool(capacity=1)
    >>> sid = pool.open()
    >>> try:
    ...     pool.open()
    ... except fastlstm.PoolFull as fault:
    ...     print(fault)
    the pool is full, with 1 of 1 streams: close some, or give evict=
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)


class _Table:
    """All that changes in a pool: the states, and whose they are.

    Attributes
    ----------
    states : list of ndarray
        Of all LSTMs in turn, as `Recurrent` has them: (cells, capacity, features).
    sids : int64 ndarray of shape (capacity + 1,)
        The stream in each row.
    owners : int64 ndarray of shape (capacity,)
        What advances the stream in each row: a ticket, or 0.
    moved : int64 ndarray of shape (capacity,)
        The `clock` when the stream in each row was opened or advanced last.
    free : list of int
        Rows without a stream; the last one is taken next.
    opened : int
        How many streams were opened.
    clock : int
        How many calls have advanced streams.
    """

    def __init__(self, lstms: list[LSTM], capacity: int) -> None:
        self.states = [state for lstm in lstms for state in lstm._zeros(capacity)]
        self.sids = np.full(capacity + 1, _NOBODY, np.int64)
        self.sids[-1] = _BEYOND
        self.owners = np.zeros(capacity, np.int64)
        self.moved = np.zeros(capacity, np.int64)
        self.free = [*range(capacity - 1, -1, -1)]
        self.opened = self.clock = 0

    def rows_of(self, sids: Integers) -> Integers:
        """Return the rows of streams; ValueError if one is not alive."""
        rows = sids & _ROW
        found = self.sids.take(rows, mode="clip")
        if (found != sids).any():
            unknown = sids[found != sids]
            which = f"{unknown[0]} is" if len(unknown) == 1 else f"{_listed(unknown)} are"
            raise ValueError(
                f"{which} no sid of a live stream in this pool: closed, or never given by open()"
            )
        return rows


class _Call:
    """What the parts of a model are told about one call.

    Attributes
    ----------
    states : list of ndarray
        Those of the pool.
    index : int64 ndarray of shape (B,)
        The rows of the streams, in the order of the packed sequences.
    batch_sizes : int64 ndarray of shape (T,)
    """

    states: list[Floats]
    index: Integers
    batch_sizes: Integers


class _Pooled:
    """What does the work of an LSTM in a pool. A step of it takes packed rows, of any steps."""

    def __init__(self, lstm: LSTM, places: slice, call: _Call) -> None:
        self._lstm, self._places, self._call = lstm, places, call

    def step(self, x: Any, out: Floats | None = None, table: Any = None) -> Any:
        lstm = self._lstm
        if type(x) is not np.ndarray or x.dtype != lstm.dtype:
            x = as_float(x, lstm.dtype, "x", "Pool")
        rows = int(self._call.batch_sizes.sum())
        if x.shape != (rows, lstm.input_size):
            raise ValueError(f"x must have shape {(rows, lstm.input_size)}, got {x.shape}")
        return self._run(lstm._whole_stacks(), as_rows(x), out)

    def _run(self, stacks: Any, x: Array, out: Floats | None, table: Any = None) -> Floats:
        call, lstm = self._call, self._lstm
        if out is None:
            out = np.empty((len(x), lstm._output_size), lstm.dtype)
        if len(x):
            states = call.states[self._places]
            lstm._run_stacks(stacks, x, call.batch_sizes, states, out, table, call.index)
        return out

    def run(self, x: Any) -> Any:
        return self.step(x)

    def _behind(self, embedding: Embedding) -> _PooledBehind:
        return _PooledBehind(embedding, self)


class _PooledBehind:
    """An embedding and the LSTM behind it, in a pool."""

    def __init__(self, embedding: Embedding, pooled: _Pooled) -> None:
        self._embedding, self._pooled = embedding, pooled

    def step(self, x: Any, out: Floats | None = None) -> Any:
        lookup = self._embedding._look_up(x)
        ahead = self._pooled._lstm._ahead_of(lookup)
        if ahead is None or lookup.index.ndim != 1:
            return self._pooled.step(lookup.rows(), out)
        return self._pooled._run(ahead.stacks, lookup.index[:, np.newaxis], out, ahead.made)

    def run(self, x: Any) -> Any:
        return self.step(x)


class _Parts:
    """What a call goes through: the parts of a model, and what they are told. One call at a time.

    It gives each LSTM its places among the states.
    """

    def __init__(self, model: Layer) -> None:
        self.call, self.lstms = _Call(), dict[str, "LSTM"]()
        self.places: dict[str, slice] = {}
        given = Given([], type(model).__name__)
        self.live: Live = model._live("", given, self)

    def begin(self, name: str, lstm: LSTM) -> _Pooled:
        check_live(lstm)
        start = sum(2 * len(own._groups) for own in self.lstms.values())
        self.lstms[name] = lstm
        self.places[name] = slice(start, start + 2 * len(lstm._groups))
        return _Pooled(lstm, self.places[name], self.call)


class _Claim:
    """The streams that one call advances: no other call may, until they are released.

    Ctrl-C may come between any two lines. So the rows carry tickets, and are released when this
    object goes, if that was not done before.
    """

    __slots__ = ("_pool", "_table", "_tickets", "moved", "rows")

    def __init__(self, pool: Pool) -> None:
        self._pool, self.moved = pool, False
        self._table: _Table | None = None

    def take(self, sids: Integers) -> _Table:
        """Claim streams, which are left alone if one of them cannot be had."""
        pool = self._pool
        with pool._lock:
            while pool._held:
                pool._refuse_inside()
                pool._lock.wait(_POLL)
            table = pool._table
            rows = table.rows_of(sids)
            if (owned := table.owners.take(rows) != 0).any():
                raise _busy(sids[owned])
            tickets = np.arange(len(rows)) + (pool._next_ticket() << _ROW_BITS)
            self.rows, self._tickets, self._table = rows, tickets, table
            table.owners[rows] = tickets
            if (table.owners.take(rows) != tickets).any():
                self.release()
                raise _repeated(sids)
            pool._inside.add(threading.get_ident())
        return table

    def release(self) -> None:
        """Let others have them."""
        if self._table is None:
            return
        pool, table, rows = self._pool, self._table, self.rows
        with pool._lock:
            if self.moved:
                table.clock += 1
                table.moved[rows] = table.clock
            pool._inside.discard(threading.get_ident())
            self._free()
            if pool._waiting:
                pool._lock.notify_all()

    def _free(self) -> None:
        table, self._table = self._table, None
        if table is not None:
            table.owners[self.rows[table.owners.take(self.rows) == self._tickets]] = 0

    def __del__(self) -> None:
        self._free()


class Pool:
    """Many live streams over shared weights, of which any few advance together.

    A pool of an LSTM, or of a whole model, holds the states of up to `capacity` streams, which come
    and go. A call advances any of them, in any order, each with a state of its own. With engine
    native a stream gets the bits that a sequence of its own would give, whatever runs beside it.
    Made by `Layer.pool`.

    Parameters
    ----------
    model : Layer
        An LSTM, or a model with one inside, as `Layer.stream` takes it.
    capacity : int
        How many streams there may be at once, up to 2**24.
    evict : callable, optional
        Called with the pool when a stream is to be opened and there is no room. It returns the sids
        of streams to be closed, such as ``pool.oldest(1)``. It may keep their states before, as
        ``pool.to_bytes(sid)``. Streams that are being advanced at that moment, or closed already,
        are left alone.
    max_wait : float
        How many seconds a step that was given to `submit` waits for those of other streams.
    max_batch : int, optional
        How many calls of `submit` are computed together at most; `capacity` if not given.
    max_pending : int, optional
        How many calls of `submit` the pool holds, with copies of their input, until they begin.
        Further ones wait at the door. As many as there are, if not given.

    Raises
    ------
    ValueError, TypeError
        If the model cannot be streamed, as `Layer.stream` says, or another argument does not fit.

    Notes
    -----
    All methods may be called from many threads at once. Calls over different streams compute at the
    same time; what would change a stream that another thread advances right now is refused. No lock
    is held while anything is computed. The pool always evaluates, dropout off, and sees changes of
    the weights at the next call. Errors leave all states as they were.

    Cost: the states, 4 (P + H) bytes for each layer and stream in float32, of which memory is taken
    as streams use it. A call copies no states, unless it can be cut short between two of them: in
    models with several LSTMs, with layers of one's own, or in other engines than native.

    Examples
    --------
    >>> lstm = fastlstm.LSTM(3, 4, seed=0)
    >>> pool = lstm.pool(capacity=100)
    >>> a, b, c = pool.open(), pool.open(), pool.open()
    >>> x = np.ones((3, 3), np.float32)
    >>> y = pool.step([a, b, c], x)
    >>> y = pool.step([c, a], x[:2])
    >>> np.allclose(y[0], lstm(x[:2])[0][1], atol=1e-6)
    True
    >>> pool.close(b)
    >>> len(pool), b in pool
    (2, False)
    """

    def __init__(
        self,
        model: Layer,
        capacity: int,
        *,
        evict: Evict | None = None,
        max_wait: float = 0.001,
        max_batch: int | None = None,
        max_pending: int | None = None,
    ) -> None:
        capacity = check_size("capacity", capacity)
        if capacity > _ROW:
            raise ValueError(f"capacity must be at most {_ROW}, got {capacity}")
        if evict is not None and not callable(evict):
            raise TypeError(f"evict must be a function of the pool, got {type(evict).__name__}")
        self._model, self._capacity, self._evict = model, capacity, evict
        # What `submit` collects, and how long.
        self._max_wait = check_number("max_wait", max_wait, least=0)
        self._max_batch = capacity if max_batch is None else check_size("max_batch", max_batch)
        self._max_pending = None if max_pending is None else check_size("max_pending", max_pending)
        self._prepare()
        self._table = _Table([*self._lstms.values()], capacity)

    def _prepare(self) -> None:
        """Make what is not pickled."""
        parts = _Parts(self._model)
        self._lstms, self._places, self._idle = parts.lstms, parts.places, [parts]
        if not self._lstms:
            raise ValueError("a pool needs a model with an LSTM, this one has none")
        self._is_plain = [*self._lstms] == [""]  # an LSTM, whose states have no name
        after = self._model._join("", Given([], type(self._model).__name__))[1]
        # How many values a step takes and gives, where that is known before.
        self._taken = None if self._model._takes_indices else after.taken
        self._features = None if after.added is None else after.features
        # Claims come and go under this lock. Threads that wait are told by it of what is released.
        self._lock = threading.Condition()
        self._held = False  # whether no call may begin, because all states are copied
        self._waiting = 0  # how many threads wait for calls to end
        self._inside: set[int] = set()  # the threads that advance streams
        self._collector: Collector | None = None  # from the first `submit` on
        self._ticket: int = 0

    def _next_ticket(self) -> int:
        self._ticket = self._ticket % _TICKETS + 1
        return self._ticket

    # ---- streams that come and go ----

    @property
    def capacity(self) -> int:
        """How many streams there may be at once."""
        return self._capacity

    @property
    def sids(self) -> Integers:
        """The sids of all live streams, in no order that means anything; a copy."""
        sids = self._table.sids
        live: Integers = sids[sids >= 0]
        return live

    def __len__(self) -> int:
        return int(np.count_nonzero(self._table.sids >= 0))

    def __contains__(self, sid: Any) -> bool:
        if isinstance(sid, bool) or not isinstance(sid, (int, np.integer)) or sid < 0:
            return False
        row = int(sid) & _ROW
        return row < self._capacity and int(self._table.sids[row]) == sid

    def open(self, state: Any = None) -> int:
        """Begin a stream.

        Parameters
        ----------
        state : (h, c), dict of str -> (h, c), or bytes, optional
            What it begins with: as `state` returns it, or as `to_bytes`, also of another process.
            Zeros, or the learned initial states, where nothing is given.

        Returns
        -------
        int
            Its sid, which the pool never gives again.

        Raises
        ------
        PoolFull
            If there are `capacity` streams, and `evict` made no room.
        ValueError, TypeError
            If `state` does not fit; nothing has changed.
        """
        states = self._starts(state, 1, "state")
        while True:
            with self._lock:
                table = self._table
                if not table.free:  # it may lack rows, after Ctrl-C
                    table.free = np.flatnonzero(table.sids[:-1] == _NOBODY)[::-1].tolist()
                if table.free:
                    row = table.free[-1]
                    for own, start in zip(table.states, states, strict=True):
                        own[:, row] = start[:, 0]
                    table.opened += 1
                    table.moved[row] = table.clock
                    table.sids[row] = sid = table.opened << _ROW_BITS | row
                    table.free.pop()
                    return int(sid)
            self._make_room()

    def _make_room(self) -> None:
        """Close what the policy says; PoolFull if that is nothing."""
        if self._evict is not None:
            sids = self._as_sids(self._evict(self))
            with self._lock:
                table = self._table
                rows = sids & _ROW
                live = table.sids.take(rows, mode="clip") == sids
                rows = np.unique(rows[live])
                self._close(table, rows[table.owners[rows] == 0])
                if table.free:
                    return
        how = "close some, or give evict=" if self._evict is None else "evict closed none"
        raise PoolFull(f"the pool is full, with {len(self)} of {self._capacity} streams: {how}")

    def close(self, sids: ArrayLike) -> None:
        """End streams.

        Parameters
        ----------
        sids : int, or array of ints

        Raises
        ------
        ValueError
            If one is not of a live stream, or comes twice; none has ended.
        RuntimeError
            If another thread advances one of them right now; none has ended.
        """
        with self._lock:
            self._close(self._table, self._settled(self._as_sids(sids)))

    def _close(self, table: _Table, rows: Integers) -> None:
        table.sids[rows] = _NOBODY
        table.free.extend(rows.tolist())

    def _as_sids(self, sids: Any) -> Integers:
        """Return sids as an array (n,)."""
        array = as_integers(sids, "sids")
        if array.ndim > 1:
            raise ValueError(f"sids must be one, or a list of them, got shape {array.shape}")
        return array.reshape(-1)

    def _settled(self, sids: Integers, wait: bool = False) -> Integers:
        """Return the rows of streams that nobody advances, with the lock held."""
        while True:
            table = self._table
            rows = table.rows_of(sids)
            if len(set(sids.tolist())) < len(sids):
                raise _repeated(sids)
            owned = table.owners.take(rows) != 0
            if not owned.any():
                return rows
            if not wait:
                raise _busy(sids[owned])
            self._wait()

    def _wait(self) -> None:
        """Wait until a call has ended, with the lock held."""
        self._refuse_inside()
        self._waiting += 1
        try:
            self._lock.wait(_POLL)
        finally:
            self._waiting -= 1

    def _refuse_inside(self) -> None:
        if threading.get_ident() in self._inside:
            raise RuntimeError(
                "this waits for the streams that this thread itself advances: call it behind the "
                "step, and not from a layer or a signal handler inside it"
            )

    # ---- steps ----

    def step(self, sids: ArrayLike, x: Any, out: Floats | None = None) -> Floats:
        """Advance streams by one step.

        Parameters
        ----------
        sids : array of n ints, or one int
            Any live streams, in any order, none twice.
        x : array of shape (n, I), or n integers if the model begins with an Embedding
            A row for each; (I,), or an integer, for one int.
        out : ndarray of shape (n, F), optional
            C-contiguous, of the model's dtype: filled and returned. May not be `x`'s memory.

        Returns
        -------
        ndarray of shape (n, F), or (F,) for one int

        Raises
        ------
        ValueError, TypeError
            If a sid, a shape or a dtype does not fit; no state has moved.
        RuntimeError
            If another thread advances one of the streams right now; no state has moved.
        """
        one = isinstance(sids, (int, np.integer))
        sids = self._as_sids(sids)
        x = self._as_input(x)
        if one:
            x, out = x[np.newaxis], None if out is None else out[np.newaxis]
        count = len(sids)
        if x.shape[:1] != (count,) or self._taken not in (None, *x.shape[1:]):
            raise self._misshaped(x, (count,), one)
        if out is not None:
            if self._features is not None:
                check_out(out, (count, self._features), self._model.dtype)
            if np.shares_memory(x, out):
                raise ValueError("out must not share memory with x")
        y: Floats = self._advance(sids, None, x, uniform_sizes(1, count), out)
        return y[0] if one else y

    def run(self, sids: ArrayLike, x: Any, lengths: ArrayLike | None = None) -> Any:
        """Advance streams by several steps each: the same values as step by step.

        Parameters
        ----------
        sids : array of n ints, or one int
            Any live streams, in any order, none twice.
        x : array of shape (T, n, ...), or (n, T, ...) if the LSTMs are `batch_first`, or
            PackedSequence of n sequences
            As the model takes it. (T, ...) for one int. T may be 0.
        lengths : n ints, optional
            How many steps each stream takes, from 0 to T; all T if not given.

        Returns
        -------
        ndarray of shape (T, n, F), (n, T, F) or (T, F); or PackedSequence
            As `x`, with a value for every step, behind a Last too; 0 past the end of each.

        Raises
        ------
        ValueError, TypeError, RuntimeError
            As `step`; no state has moved.
        """
        one = isinstance(sids, (int, np.integer))
        sids = self._as_sids(sids)
        self._model._check_layouts()
        if hasattr(x, "batch_sizes"):
            return self._run_packed(sids, x, lengths)
        x, count = self._as_input(x), len(sids)
        first = next(iter(self._lstms.values())).batch_first
        if one:
            x, first = x[:, np.newaxis], False
        elif first is None:
            if count != 1:
                raise undecided("Pool", x.shape)
            first = x.shape[:1] == (1,)
        if x.ndim < 2 or x.shape[0 if first else 1] != count:
            raise self._misshaped(x, (count, "T") if first else ("T", count), one)
        if self._taken not in (None, *x.shape[2:]):
            raise self._misshaped(x, (count, "T") if first else ("T", count), one)
        by_steps = x.swapaxes(0, 1) if first else x
        steps = len(by_steps)
        if lengths is None or not count:
            rows = by_steps.reshape(-1, *by_steps.shape[2:])
            y = self._advance(sids, None, rows, uniform_sizes(steps, count))
            y = y.reshape(steps, count, *y.shape[1:])
            y = y.swapaxes(0, 1) if first else y
            return y[:, 0] if one else y
        lengths = check_lengths(lengths, count, steps, least=0)
        order = np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)]
        batch_sizes = batch_sizes_of(lengths)
        step, stream = rows_of(order, batch_sizes)
        y = self._advance(sids, order, by_steps[step, stream], batch_sizes)
        padded = np.zeros((*x.shape[:2], *y.shape[1:]), y.dtype)
        (padded.swapaxes(0, 1) if first else padded)[step, stream] = y
        return padded[:, 0] if one else padded

    def _run_packed(self, sids: Integers, x: Any, lengths: Any) -> PackedSequence:
        if lengths is not None:
            raise ValueError("lengths cannot be given with a PackedSequence, which has its own")
        data, batch_sizes, order, restore = check_packed(x)
        if len(order) != len(sids):
            raise ValueError(
                f"Expected a PackedSequence of {len(sids)} sequences, one for each sid, got "
                f"{len(order)}"
            )
        y = self._advance(sids, order, data, batch_sizes)
        in_order = x.sorted_indices is None and x.unsorted_indices is None
        return PackedSequence(y, batch_sizes, *((None, None) if in_order else (order, restore)))

    def _advance(
        self,
        sids: Integers,
        order: Integers | None,
        x: Any,
        batch_sizes: Integers,
        out: Floats | None = None,
    ) -> Any:
        """Run packed rows; `order` are the places of their sequences among sids, None for all."""
        claim, parts = _Claim(self), None
        try:
            table = claim.take(sids)
            parts = self._idle.pop() if self._idle else _Parts(self._model)
            call = parts.call
            call.states, call.batch_sizes = table.states, batch_sizes
            call.index = claim.rows if order is None else claim.rows[order]
            before = [own.take(call.index, axis=1) for own in call.states]
            try:
                y = self._checked(parts.live.step(x, out), len(x), out)
                claim.moved = True
            except BaseException:
                for own, kept in zip(call.states, before, strict=True):
                    own[:, call.index] = kept
                raise
        finally:
            claim.release()
            if parts is not None:
                self._idle.append(parts)
        return y

    def _checked(self, y: Any, count: int, out: Floats | None) -> Any:
        """Return what the model gave for so many rows, if it is that; a layer of one's own may."""
        if self._features is not None:
            return y
        y = as_array(y, "what the model gives")
        if y.shape[:1] != (count,):
            raise ValueError(f"Expected the model to give {count} rows, got shape {y.shape}")
        if out is not None and y is not out:
            check_out(out, y.shape, self._model.dtype)
            out[...] = y
        return y if out is None else out

    def _as_input(self, x: Any) -> Any:
        if type(x) is np.ndarray:
            return x
        if self._model._takes_indices:
            return as_integers(x, "x")
        return as_float(x, self._model.dtype, "x", "Pool")

    def _misshaped(self, x: Any, axes: tuple[Any, ...], one: bool) -> ValueError:
        features = "..." if self._taken is None else self._taken
        if self._model._takes_indices:
            shape = axes
        else:
            shape = (*axes, features)
        text = ", ".join(map(str, shape))
        return ValueError(f"x must have shape ({text}{',' * (len(shape) == 1)}), got {x.shape}")

    # ---- steps that are collected ----

    async def submit(self, sid: int, x: Any, deadline: float | None = None) -> Floats:
        """Advance a stream together with others whose steps are ready: for asyncio.

        What coroutines submit is computed in batches by one thread, which does not hold up the
        event loop. A batch begins when the thread is idle and the oldest step in it has waited for
        `max_wait` seconds, or before, if every open stream has a step there or the batch is full.
        It takes what came first, and passes nobody over. Several calls for one stream are computed
        in their order, and may be in one batch.

        Parameters
        ----------
        sid : int
        x : array of shape (I,), or (T, I)
            One step, or T of them, at least one; an integer, or T integers, if the model begins
            with an Embedding. Others of the batch wait for a long chunk, so cut it where that
            matters.
        deadline : float, optional
            In how many seconds the steps must have begun. They wait for others at most half of
            that.

        Returns
        -------
        ndarray of shape (F,), or (T, F)

        Raises
        ------
        ValueError, TypeError
            If `sid`, `x` or `deadline` does not fit: at once. ValueError also if the stream was
            closed before its steps began.
        TimeoutError
            If the steps could not begin by the deadline.
        Exception
            Whatever a layer raises for these steps.

        Notes
        -----
        After any of these errors the state has not moved. A cancellation drops steps that have not
        begun. If they have, the stream moves and the result is lost: what is submitted next comes
        after them.

        One pool may serve several event loops, in several threads. What is still to be computed
        when a loop ends is dropped.

        Examples
        --------
        >>> import asyncio
        >>> pool = fastlstm.LSTM(3, 4, seed=0).pool(capacity=100)
        >>> async def client(steps):
        ...     sid = pool.open()
        ...     for x in steps:
        ...         y = await pool.submit(sid, x)
        ...     pool.close(sid)
        ...     return y
        >>> async def server():
        ...     return await asyncio.gather(*(client(np.ones((5, 3), "f4")) for _ in range(20)))
        >>> len(asyncio.run(server()))
        20
        """
        steps, single = self._submitted(sid, x)
        collector = self._collector
        if collector is None:
            with self._lock:
                if self._collector is None:
                    self._collector = Collector(
                        self, self._max_wait, self._max_batch, self._max_pending
                    )
                collector = self._collector
        return await collector.submit(int(sid), steps, single, deadline)

    def _submitted(self, sid: Any, x: Any) -> tuple[Any, bool]:
        """Return what was submitted as steps (T, ...), and whether it was a single one."""
        if isinstance(sid, bool) or not isinstance(sid, (int, np.integer)):
            raise TypeError(f"sid must be an int, got {type(sid).__name__}")
        if sid not in self:
            self._table.rows_of(self._as_sids(sid))  # says why
        if self._model._takes_indices:
            x, axes, expected = as_integers(x, "x"), 0, "be an integer, or T of them"
        else:
            x, axes = as_float(x, self._model.dtype, "x", "Pool"), 1
            features = "..." if self._taken is None else self._taken
            expected = f"have shape ({features},) or (T, {features})"
        single = x.ndim == axes
        steps = x[np.newaxis] if single else x
        if steps.ndim != axes + 1 or not len(steps) or self._taken not in (None, *steps.shape[1:]):
            raise ValueError(f"x must {expected}, where T is at least 1, got shape {x.shape}")
        return steps, single

    @property
    def _open_streams(self) -> int:
        """How many streams there are, or more after Ctrl-C, without counting them."""
        return self._capacity - len(self._table.free)

    # ---- states ----

    def state(self, sids: ArrayLike) -> Any:
        """Return the states of streams.

        Parameters
        ----------
        sids : int, or array of n ints

        Returns
        -------
        (h, c), or dict of str -> (h, c)
            Copies, (layers, P) and (layers, H), or (layers, n, P) and (layers, n, H) of an array of
            sids; of a model by the LSTMs' names. While another thread advances one of the streams,
            this waits: it never sees half a step.

        Raises
        ------
        ValueError
            If a sid is not of a live stream, or comes twice.
        """
        one = isinstance(sids, (int, np.integer))
        with self._lock:
            rows = self._settled(self._as_sids(sids), wait=True)
            states = [own.take(rows, axis=1) for own in self._table.states]
        if one:
            states = [state[:, 0] for state in states]
        given = {n: lstm._given_out(states[self._places[n]]) for n, lstm in self._lstms.items()}
        return given[""] if self._is_plain else given

    def set_state(self, sids: ArrayLike, state: Any) -> None:
        """Give streams other states.

        Parameters
        ----------
        sids : int, or array of n ints
        state : (h, c), dict of str -> (h, c), or bytes
            As `state` returns it for one int, or for so many sids.

        Raises
        ------
        ValueError, TypeError
            If a sid is not of a live stream, or comes twice, or `state` does not fit; no state has
            changed.
        RuntimeError
            If another thread advances one of the streams right now; no state has changed.
        """
        if state is None:
            raise TypeError("state must be given; reset() makes it zero")
        self._write(sids, state, "state")

    def reset(self, sids: ArrayLike, to: Any = None) -> None:
        """Set states to zero or, in LSTMs that have them, to the learned ones, or to given ones.

        Parameters
        ----------
        sids : int, or array of n ints
        to : (h, c), or dict of str -> (h, c), optional
            What they begin with, as in `set_state`; LSTMs that it does not name begin anew.

        Raises
        ------
        ValueError, TypeError, RuntimeError
            As `set_state`; no state has changed.
        """
        self._write(sids, to, "to")

    def _write(self, sids: Any, state: Any, what: str) -> None:
        sids = self._as_sids(sids)
        states = self._starts(state, len(sids), what)
        with self._lock:
            rows = self._settled(sids)
            for own, start in zip(self._table.states, states, strict=True):
                own[:, rows] = start

    def _starts(self, given: Any, count: int, what: str) -> list[Floats]:
        """Return states that are given for so many streams, checked: (cells, count or 1, ...)."""
        named = {"": given} if self._is_plain else by_name(what, given, [*self._lstms])
        states: list[Floats] = []
        for name, lstm in self._lstms.items():
            pair = named.get(name)
            if pair is None:
                states += lstm._initial(1)
                continue
            told = f"{what}[{name!r}]" if name else what
            is_pair = isinstance(pair, (tuple, list)) and len(pair) == 2
            single = is_pair and all(axes_of(state) == 2 for state in pair)
            states += lstm.check_states(pair, 1 if single else count, not single, told)
        return states

    def __repr__(self) -> str:
        return f"Pool({self._model!r}, capacity={self._capacity}, {len(self)} live)"


def _busy(sids: Integers) -> RuntimeError:
    which = f"stream {sids[0]} is" if len(sids) == 1 else f"streams {_listed(sids)} are"
    return RuntimeError(f"{which} being advanced in another thread: wait until that has returned")


def _repeated(sids: Integers) -> ValueError:
    found, counts = np.unique(sids, return_counts=True)
    return ValueError(f"each sid may come once, got {_listed(found[counts > 1])} more than once")


def _listed(sids: Integers) -> str:
    return listed(map(str, sids.tolist()), 5)
