"""Pool: the states of many live streams, of which any few advance together.

The states of all streams lie side by side in arrays, a row for each stream, and a call takes those
of its streams by index. Which stream has which row, and which ones a thread advances right now, is
guarded by a lock that nobody holds while anything is computed.
"""

from __future__ import annotations

import contextlib
import copy
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from threading import get_ident
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import as_array, as_float, as_integers
from ..checks import check_number, check_size
from ..files import written_aside
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
from .claims import Claim
from .collector import Collector
from .parameters import Parameters
from .places import ROW, ROW_BITS, Busy, Table
from .pooled import Parts
from .snapshots import POOL, STREAM, Unpacked, packed, read_pool
from .stream import axes_of, by_name, check_out, put

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import ArrayLike

    from ..arrays import Array, Floats, Integers
    from .layer import Layer

    Evict: TypeAlias = Callable[["Pool"], Any]

# A thread that waits looks again after so many seconds, even if nobody tells it to.
_POLL = 0.05

_BYTES = bytes, bytearray, memoryview


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
        How many streams there may be at once, fewer than 2**24.
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

    Ctrl-C leaves each call made or not made, for all of its streams. A forked child has a pool of
    its own, with the states of that moment; those of streams that another thread was advancing then
    may be half advanced: reset or close them.

    Cost: the states, 4 (P + H) bytes for each layer and stream in float32, and 24 bytes for each
    stream, or 64 once it is closed. Memory is taken for as many streams as there were at once, not
    for `capacity`. A call adds some 12 to 16
    microseconds of Python to its kernels, and 2 to 4 % for copies of states that it may have to put
    back. An LSTM in the engine native whose layers have one width needs such copies in the main
    thread alone.

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
        if not isinstance(model, Parameters):
            raise TypeError(f"model should be a layer, got: {type(model).__name__}")
        capacity = check_size("capacity", capacity)
        if capacity >= 1 << ROW_BITS:
            raise ValueError(f"capacity must be at most {(1 << ROW_BITS) - 1}, got {capacity}")
        if evict is not None and not callable(evict):
            raise TypeError(f"evict must be a function of the pool, got {type(evict).__name__}")
        self._model, self._capacity, self._evict = model, capacity, evict
        # What `submit` collects, and how long.
        self._max_wait = check_number("max_wait", max_wait, least=0)
        self._max_batch = capacity if max_batch is None else check_size("max_batch", max_batch)
        self._max_pending = None if max_pending is None else check_size("max_pending", max_pending)
        self._prepare()
        self._table = Table([*self._lstms.values()], capacity)

    def _prepare(self) -> None:
        """Make what is not pickled."""
        parts = Parts(self._model)
        self._lstms, self._places, self._idle = parts.lstms, parts.places, [parts]
        if not self._lstms:
            raise ValueError("a pool needs a model with an LSTM, this one has none")
        self._is_plain = [*self._lstms] == [""]  # an LSTM, whose states have no name
        after = self._model._join("", Given([], type(self._model).__name__))[1]
        # One call of the engine native moves all states of an LSTM or, if it is refused, none. Only
        # Ctrl-C can end it early, which Python hears in the main thread.
        lstm = next(iter(self._lstms.values()))
        native = lstm.engine == "native" and len(lstm._groups) == 1
        self._always_keeps = not (self._is_plain and native)
        # How many values a step gives, and the axes of one that it takes, where that is known.
        self._features = None if after.added is None else after.features
        self._inner: tuple[int, ...] | None = None
        if after.added is not None:
            self._inner = () if after.taken is None else (after.taken,)
        self._inside: set[int] = set()  # the threads that advance streams
        self._begin()
        _POOLS.add(self)
        self._collector: Collector | None = None  # from the first `submit` on
        self._ticket = 0

    def _begin(self) -> None:
        """Begin with nobody who holds or waits: when made, and in a child process after a fork."""
        # Claims come and go under this lock, and threads that wait are told of what is released.
        self._lock = threading.RLock()
        self._released = threading.Condition(self._lock)
        self._held = threading.Lock()  # by the thread that lets no call begin, as it copies states
        self._holder = 0
        self._waiting = 0  # how many threads wait for calls to end

    # ---- streams that come and go ----

    @property
    def capacity(self) -> int:
        """How many streams there may be at once."""
        return self._capacity

    @property
    def sids(self) -> Integers:
        """The sids of all live streams, in no order that means anything; a copy."""
        sids = self._table.sids
        live: Integers = sids[sids > 0]
        return live

    def __len__(self) -> int:
        return int(np.count_nonzero(self._table.sids > 0))

    def __contains__(self, sid: Any) -> bool:
        if isinstance(sid, bool) or not isinstance(sid, (int, np.integer)) or sid < 0:
            return False
        row = int(sid) & int(ROW)
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
                sid = self._table.open(states)
            if sid is not None:
                return sid
            self._make_room()

    def _make_room(self) -> None:
        """Close what the policy says; PoolFull if that is nothing."""
        if self._evict is not None:
            chosen = self._evict(self)
            sids = self._as_sids([] if chosen is None else chosen)
            with self._lock:
                table = self._table
                rows = sids & ROW
                table.close(np.unique(rows[table.ready.take(rows, mode="clip") == sids]))
                if table.free_row() is not None:
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
        sids = self._as_sids(sids)
        with self._lock:
            self._table.close(self._table.settled(sids))

    def _as_sids(self, sids: Any) -> Integers:
        """Return sids as an array (n,)."""
        if type(sids) is np.ndarray and sids.dtype == np.int64 and sids.ndim == 1:
            return sids
        if type(sids) is int and sids.bit_length() < 64:
            return np.array([sids], np.int64)
        array = as_integers(sids, "sids")
        if array.ndim > 1:
            raise ValueError(f"sids must be one, or a list of them, got shape {array.shape}")
        return array.reshape(-1)

    def _wait(self) -> None:
        """Wait until a call has ended, with the lock held."""
        if get_ident() in self._inside:
            raise _waits_for_itself()
        self._waiting += 1
        try:
            self._released.wait(_POLL)
        finally:
            self._waiting -= 1

    def _pass_hold(self) -> None:
        """Wait until no thread copies all states, with the lock held."""
        while self._held.locked():
            if self._holder == get_ident():
                raise _waits_for_itself()
            self._wait()

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
        x, count = self._as_input(x), len(sids)
        axes = () if one else (count,)
        inner = self._inner
        if x.shape != (*axes, *inner) if inner is not None else x.shape[: len(axes)] != axes:
            raise self._misshaped(x, axes)
        if out is not None:
            wide = self._features
            check_out(out, np.shape(out) if wide is None else (*axes, wide), self._model.dtype)
            if np.shares_memory(x, out):
                raise ValueError("out must not share memory with x")
        if one:
            x, out = x[np.newaxis], None if out is None else out[np.newaxis]
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
        if first is None and not one:
            if count != 1:
                raise undecided("Pool", x.shape)
            first = x.shape[:1] == (1,)
        axes: tuple[Any, ...] = ("T",) if one else (count, "T") if first else ("T", count)
        fits = all(axis in ("T", size) for axis, size in zip(axes, x.shape, strict=False))
        inner = x.shape[len(axes) :] if self._inner is None else self._inner
        if x.ndim < len(axes) or not fits or x.shape[len(axes) :] != inner:
            raise self._misshaped(x, axes)
        by_steps = x[:, np.newaxis] if one else x.swapaxes(0, 1) if first else x
        steps = len(by_steps)
        if lengths is None or not count:
            rows = by_steps.reshape(steps * count, *by_steps.shape[2:])
            y = self._advance(sids, None, rows, uniform_sizes(steps, count))
            y = y.reshape(steps, count, *y.shape[1:])
            return y[:, 0] if one else y.swapaxes(0, 1) if first else y
        lengths = check_lengths(lengths, count, steps, least=0)
        order = np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)]
        batch_sizes = batch_sizes_of(lengths)
        step, stream = rows_of(order, batch_sizes)
        y = self._advance(sids, order, by_steps[step, stream], batch_sizes)
        padded = np.zeros((steps, count, *y.shape[1:]), y.dtype)
        padded[step, stream] = y
        return padded[:, 0] if one else padded.swapaxes(0, 1) if first else padded

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
        claim, parts = Claim(self), None
        try:
            table = claim.take(sids)
            parts = self._parts()
            call, states = parts.call, table.states
            call.index = index = claim.rows if order is None else claim.rows[order]
            call.states, call.batch_sizes, call.rows = states, batch_sizes, len(x)
            keeps = self._always_keeps or get_ident() == threading.main_thread().ident
            before = [own.take(index, axis=1) for own in states] if keeps else None
            try:
                if self._features is None:
                    y = self._checked(parts.live.step(x), len(x), out)
                else:
                    y = parts.live.step(x, out)
                claim.moved = True
            except BaseException:
                if before is not None:
                    for own, kept in zip(states, before, strict=True):
                        own[:, index] = kept
                raise
        finally:
            claim.release()
            if parts is not None:
                self._idle.append(parts)
        return y

    def _parts(self) -> Parts:
        try:
            return self._idle.pop()
        except IndexError:  # all are in use
            return Parts(self._model)

    def _checked(self, y: Any, count: int, out: Floats | None) -> Any:
        """Return what the model gave for so many rows, if it is that; a layer of one's own may."""
        y = as_array(y, "what the model gives")
        if y.shape[:1] != (count,):
            raise ValueError(f"Expected the model to give {count} rows, got shape {y.shape}")
        if out is not None:
            check_out(out, y.shape, self._model.dtype)
        return put(y, out)

    def _as_input(self, x: Any) -> Any:
        if type(x) is np.ndarray:
            return x
        if self._model._takes_indices:
            return as_integers(x, "x")
        return as_float(x, self._model.dtype, "x", "Pool")

    def _misshaped(self, x: Array, axes: tuple[Any, ...]) -> ValueError:
        axes = (*axes, *(("...",) if self._inner is None else self._inner))
        text = ", ".join(map(str, axes)) + "," * (len(axes) == 1)
        return ValueError(f"x must have shape ({text}), got {x.shape}")

    # ---- policies ----

    def steps_since(self, sids: ArrayLike) -> Any:
        """Tell for how many calls streams have been left out.

        Parameters
        ----------
        sids : int, or array of n ints

        Returns
        -------
        int, or int64 ndarray of shape (n,)
            How many calls of `step` and `run` the pool has answered since each stream was opened
            or advanced last.

        Raises
        ------
        ValueError
            If a sid is not of a live stream.
        """
        one, sids = isinstance(sids, (int, np.integer)), self._as_sids(sids)
        with self._lock:
            table = self._table
            since = table.clock - table.moved[table.rows_of(sids)]
        return int(since[0]) if one else since

    def oldest(self, n: int = 1) -> Integers:
        """Return the sids of the streams that have been left out for longest.

        Parameters
        ----------
        n : int
            How many; fewer if there are not so many.

        Returns
        -------
        int64 ndarray of shape (n,)
            The one that was left out for longest first; of those that were advanced by the same
            call, the one that was opened first. Streams that a call advances right now are not
            among them.

        Notes
        -----
        It looks at all streams, which takes 10 to 60 ms where there are 2**20 (AMD EPYC Zen 3). So
        a policy of a large pool had better close several at a time.
        """
        n = check_size("n", n)
        with self._lock:
            table = self._table
            rows = np.flatnonzero((table.sids > 0) & (table.ready == table.sids))
            moved, sids = table.moved[rows], table.sids[rows]
        if n < len(sids):
            among = moved <= np.partition(moved, n - 1)[n - 1]
            moved, sids = moved[among], sids[among]
        oldest: Integers = sids[np.lexsort((sids, moved))[:n]]
        return oldest

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
        """Return the input of one step, and True; or of several (T, ...), and False."""
        if type(sid) is not int and not isinstance(sid, np.integer):
            raise TypeError(f"sid must be an int, got {type(sid).__name__}")
        if sid not in self:
            self._table.rows_of(self._as_sids(sid))  # says why
        inner = self._inner
        if inner and type(x) is np.ndarray and x.shape == inner and x.dtype == self._model.dtype:
            return x, True  # as is usual
        if self._model._takes_indices:
            x, axes, expected = as_integers(x, "x"), 0, "be an integer, or T of them"
        else:
            x, axes = as_float(x, self._model.dtype, "x", "Pool"), 1
            features = "..." if inner is None else inner[0]
            expected = f"have shape ({features},) or (T, {features})"
        single = x.ndim == axes
        shape = x.shape if single else x.shape[1:]
        if len(shape) != axes or inner not in (None, shape) or not (single or len(x)):
            raise ValueError(f"x must {expected}, where T is at least 1, got shape {x.shape}")
        return x, single

    @property
    def _open_streams(self) -> int:
        """How many streams there are, or a few less after Ctrl-C, without counting them."""
        return self._table.unused - len(self._table.free)

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
        states = self._copied(self._as_sids(sids))
        if one:
            states = [state[:, 0] for state in states]
        given = {n: lstm._given_out(states[self._places[n]]) for n, lstm in self._lstms.items()}
        return given[""] if self._is_plain else given

    def _copied(self, sids: Integers) -> list[Floats]:
        """Return the states of streams as they are between two calls, (cells, n, features)."""
        with self._lock:
            try:
                rows = self._table.settled(sids)
            except Busy:
                with self._still(sids) as table:
                    rows = table.settled(sids)
            return [own.take(rows, axis=1) for own in self._table.states]

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
        if not self._is_plain and not isinstance(state, _BYTES):
            named = by_name("state", state, [*self._lstms])
            if missing := [name for name in self._lstms if named.get(name) is None]:
                raise ValueError(
                    f"state: Expected (h, c) of every LSTM, got none for {missing}; reset() makes "
                    "states zero"
                )
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
            rows = self._table.settled(sids)
            for own, start in zip(self._table.states, states, strict=True):
                own[:, rows] = start

    # ---- bytes and files ----

    def to_bytes(self, sid: int) -> bytes:
        """Return the state of a stream as bytes, from which any pool of such a model goes on.

        Parameters
        ----------
        sid : int

        Returns
        -------
        bytes
            What `open` and `set_state` take, in this process or another, on any machine. They tell
            the shapes of the states and not the weights: these must be the same for the stream to
            go on as it would have.

        Raises
        ------
        ValueError
            If the sid is not of a live stream.

        Examples
        --------
        >>> lstm = fastlstm.LSTM(3, 4, seed=0)
        >>> here, there = lstm.pool(10), lstm.pool(10)
        >>> sid, x = here.open(), np.ones(3, np.float32)
        >>> y = here.step(sid, x)
        >>> moved = there.open(here.to_bytes(sid))
        >>> np.array_equal(there.step(moved, x), here.step(sid, x))
        True
        """
        if not isinstance(sid, (int, np.integer)):
            raise TypeError(f"sid must be one int, got {type(sid).__name__}")
        return b"".join(packed(STREAM, self._layout(), [], self._copied(self._as_sids(sid))))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all streams into a file: their sids and states, and for how long they rested.

        The pool waits for the calls that compute, holds others back while it copies the states, and
        lets them go on while it writes. The file is written aside, and takes its name when it is
        complete: whatever happens meanwhile, the old file or the new one is there.

        Parameters
        ----------
        path : str or os.PathLike

        Raises
        ------
        OSError
            If the file cannot be written.
        RuntimeError
            If this thread is in the middle of a step, as in a signal handler.

        Examples
        --------
        >>> import os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "streams.pool")
        >>> pool = fastlstm.LSTM(3, 4, seed=0).pool(10)
        >>> sid = pool.open()
        >>> y = pool.step(sid, np.ones(3, np.float32))
        >>> pool.save(path)
        >>> other = fastlstm.LSTM(3, 4, seed=0).pool(10)
        >>> other.restore(path)
        >>> np.array_equal(other.state(sid), pool.state(sid))
        True
        """
        with self._still() as table:
            rows = np.flatnonzero(table.sids > 0)
            numbers = [self._capacity, len(rows), table.opened, table.clock]
            arrays = [table.sids[rows], table.moved[rows]]
            arrays += [own.take(rows, axis=1) for own in table.states]
        parts = packed(POOL, self._layout(), numbers, arrays)
        with written_aside(path) as file:
            for part in parts:
                file.write(part)

    def restore(self, path: str | os.PathLike[str]) -> None:
        """Take over all streams of a file that `save` wrote, in place of those there are.

        Streams have the sids that they had. Those that were opened after the file was written are
        gone, and their sids are not given again by a pool that has given them.

        Parameters
        ----------
        path : str or os.PathLike

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If it is damaged, or is that of another model or of a larger pool; nothing has changed.
        RuntimeError
            If this thread is in the middle of a step, as in a signal handler.
        """
        try:
            empty = Table([*self._lstms.values()], self._capacity)
            found = read_pool(path, self._layout(), empty)
        except ValueError as fault:
            raise ValueError(f"{os.fspath(path)} cannot be restored: {fault}") from fault
        with self._still() as table:
            found.opened = max(found.opened, table.opened)
            self._table = found  # all at once
            self._idle.clear()  # they know the old states

    def _layout(self) -> str:
        """Return a text that tells the type and the shapes of all states."""
        texts = []
        for name, lstm in self._lstms.items():
            sizes = [f"{cells} x {size}" for cells, size in lstm._state_sizes]
            half = len(sizes) // 2
            shapes = f"h {', '.join(sizes[:half])} and c {', '.join(sizes[half:])}"
            texts.append(f"{name}: {shapes}" if name else shapes)
        return f"{self._model.dtype} {'; '.join(texts)}"

    @contextlib.contextmanager
    def _still(self, sids: Integers | None = None) -> Iterator[Table]:
        """Give the table when no call has these streams, or any, and let none begin meanwhile."""
        with self._lock:
            self._pass_hold()
            self._holder = get_ident()
            rows = slice(None) if sids is None else self._table.rows_of(sids)
            with self._held:
                while (self._table.ready[rows] != self._table.sids[rows]).any():
                    self._wait()
                yield self._table
            self._released.notify_all()

    def __getstate__(self) -> dict[str, Any]:
        with self._still() as table:
            copied = copy.deepcopy(table)
        names = "_model", "_capacity", "_evict", "_max_wait", "_max_batch", "_max_pending"
        return {name: self.__dict__[name] for name in names} | {"_table": copied}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()

    def _starts(self, given: Any, count: int, what: str) -> list[Floats]:
        """Return states that are given for so many streams, checked: (cells, count or 1, ...)."""
        if isinstance(given, _BYTES):
            return self._from_bytes(given, what)
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

    def _from_bytes(self, data: Any, what: str) -> list[Floats]:
        shapes = [s for lstm in self._lstms.values() for s in lstm._state_sizes]
        try:
            found = Unpacked(STREAM, data, self._layout())
            states = [found.floats(self._model.dtype, (n, 1, size)) for n, size in shapes]
            found.end()
        except ValueError as fault:
            raise ValueError(f"{what} is not one of this pool's: {fault}") from fault
        return states

    def __repr__(self) -> str:
        return f"Pool({self._model!r}, capacity={self._capacity}, {len(self)} live)"


_POOLS: weakref.WeakSet[Pool] = weakref.WeakSet()


def _after_fork() -> None:
    """In a child process: the other threads are gone; what they held is free."""
    for pool in list(_POOLS):
        pool._begin()
        pool._inside &= {get_ident()}
        table = pool._table
        rows = np.flatnonzero(table.ready != table.sids)
        table.ready[rows] = table.sids[rows]


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


def _waits_for_itself() -> RuntimeError:
    return RuntimeError(
        "this waits for streams that this very thread advances or copies: call it when that has "
        "returned, and not from a layer or from a signal handler"
    )
