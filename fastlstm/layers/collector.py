"""What collects the steps that coroutines submit to a pool, and has them computed together."""

from __future__ import annotations

import asyncio
import copy
import math
import os
import threading
import time
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import check_number
from ..sequences.packing import PackedSequence, batch_sizes_of, rows_of

if TYPE_CHECKING:
    from ..engines.contract import Array
    from .pool import Pool


# For how many seconds a thread can wait at once.
_LONGEST = threading.TIMEOUT_MAX


class Submit:
    """Steps of one stream that wait for their batch, and who awaits the result.

    `x` is one step, if `single`, or (T, ...). `until` is when they must have begun, by the
    monotonic clock, and `due` when they are sent off at the latest, even alone.
    """

    __slots__ = ("due", "future", "loop", "sid", "single", "until", "x")

    def __init__(
        self, sid: int, x: Array, single: bool, max_wait: float, deadline: float | None
    ) -> None:
        now = time.monotonic()
        self.sid, self.x, self.single = sid, x, single
        if deadline is None:
            self.until, self.due = math.inf, now + max_wait
        else:  # it waits for others at most half of the time: the rest is for beginning
            self.until, self.due = now + deadline, now + min(max_wait, deadline / 2)
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Array] = self.loop.create_future()

    @property
    def steps(self) -> int:
        return 1 if self.single else len(self.x)

    def keep(self) -> None:
        """Take a copy of the input, which the caller may then change."""
        self.x = self.x.copy()

    def is_awaited(self) -> bool:
        """Whether somebody still waits for it: it is not cancelled, and its loop not closed."""
        return not (self.future.done() or self.loop.is_closed())

    def too_late(self) -> TimeoutError:
        return TimeoutError(
            f"the steps of stream {self.sid} could not begin by their deadline; its state has not "
            "moved"
        )


class Collector:
    """Collects what coroutines submit and computes it in batches, in a thread of its own.

    Coroutines of any number of event loops may submit. A batch begins when the thread has nothing
    else to do and one of these is true: the oldest step is due, every stream of the pool has a
    step, or nothing more fits in. It takes the oldest first and passes nobody over. What comes
    meanwhile waits for the next batch: at most `max_pending` submits, with copies of their input;
    others wait at the door until one of those begins, in their order too.

    The thread begins with the first submit and ends when the pool is gone. It sleeps while nothing
    is due.

    Parameters
    ----------
    pool : Pool
        What computes. It is not kept alive.
    max_wait : float
        Seconds that a step waits for others.
    max_batch : int
        Submits of a batch at most.
    max_pending : int or None
    """

    def __init__(
        self, pool: Pool, max_wait: float, max_batch: int, max_pending: int | None
    ) -> None:
        self._pool = weakref.ref(pool)
        self._max_wait, self._max_batch, self._max_pending = max_wait, max_batch, max_pending
        self._begin()
        _COLLECTORS.add(self)
        weakref.finalize(pool, self._stop).atexit = False

    def _begin(self) -> None:
        """Begin with nothing pending: when made, and in a child process after a fork."""
        self._changed = threading.Condition()
        # What the next batches take, oldest first, and what comes after it. (The first key of a
        # dict from whose beginning many were taken is found slowly.)
        self._queue: OrderedDict[Submit, None] = OrderedDict()
        self._door: OrderedDict[Submit, None] = OrderedDict()
        self._of_streams: dict[int, int] = {}  # how many submits each stream has in the queue
        self._due = math.inf  # when the first of the queue is due
        self._sleeps = False  # whether the thread waits
        self._thread: threading.Thread | None = None
        self._stopped = False

    async def submit(self, sid: int, x: Array, single: bool, deadline: Any) -> Array:
        """Return the result of steps of a stream, which are checked before."""
        if deadline is not None:
            if (deadline := check_number("deadline", deadline)) <= 0:
                raise TimeoutError(f"deadline {deadline:g} s: the steps could not begin by then")
        submit = Submit(sid, x, single, self._max_wait, deadline)
        with self._changed:
            if self._thread is None:  # before the submit is there: it is refused if none can begin
                name = f"fastlstm pool {id(self):x}"
                thread = threading.Thread(target=self._work, name=name, daemon=True)
                thread.start()
                self._thread = thread
            if self._door or self._is_full():
                self._door[submit] = None
            else:
                self._let_in(submit)
        timer = deadline and submit.loop.call_later(deadline, self._give_up, submit)
        try:
            return await submit.future
        except BaseException:
            with self._changed:
                self._leave(submit)
            raise
        finally:
            if timer:
                timer.cancel()

    # ---- with the lock held -----------------------------------------------------------------

    def _let_in(self, submit: Submit) -> None:
        """Put a submit into the queue, and wake the thread if that changes what it waits for."""
        submit.keep()
        queue, of_streams, sid = self._queue, self._of_streams, submit.sid
        due = self._due if queue else math.inf
        queue[submit] = None
        of_streams[sid] = of_streams.get(sid, 0) + 1
        self._due = min(due, submit.due)
        if self._sleeps and (submit.due < due or self._is_ready()):
            self._sleeps = False
            self._changed.notify()

    def _open_door(self) -> None:
        """Let in those who wait at the door while there is room."""
        while self._door and not self._is_full():
            submit, _ = self._door.popitem(last=False)
            if submit.is_awaited():
                self._let_in(submit)

    def _is_full(self) -> bool:
        return self._max_pending is not None and len(self._queue) >= self._max_pending

    def _is_ready(self) -> bool:
        """Whether a batch gains nothing from waiting."""
        pool = self._pool()
        return (
            len(self._queue) >= self._max_batch
            or self._is_full()
            or pool is None
            or len(self._of_streams) >= pool._open_streams
        )

    def _wait(self) -> float | None:
        """Return for how many seconds the next batch waits for more; None if there is none."""
        if not self._queue:
            return None
        # Python waits no longer than that at once; it is asked again then.
        return 0.0 if self._is_ready() else min(self._due - time.monotonic(), _LONGEST)

    def _remove(self, submit: Submit) -> None:
        """Take a submit out of the queue."""
        del self._queue[submit]
        left = self._of_streams.pop(submit.sid, 1) - 1  # Ctrl-C may have come before it was counted
        if left:
            self._of_streams[submit.sid] = left

    def _leave(self, submit: Submit) -> bool:
        """Forget a submit that has not begun, and let others in; False if it has."""
        if submit in self._queue:
            self._remove(submit)
            self._open_door()
        elif submit in self._door:
            del self._door[submit]
        else:
            return False
        return True

    def _take(self) -> tuple[list[Submit], list[Submit]]:
        """Take the submits of a batch, and those that are too late, out of the queue."""
        batch: list[Submit] = []
        late: list[Submit] = []
        now = time.monotonic()
        while self._queue and len(batch) < self._max_batch:
            submit = next(iter(self._queue))
            self._remove(submit)
            if submit.is_awaited():
                (batch if now < submit.until else late).append(submit)
        self._due = now  # what a full batch has left behind has waited long enough
        self._open_door()
        return batch, late

    # ---- in the event loop ------------------------------------------------------------------

    def _give_up(self, submit: Submit) -> None:
        """Refuse a submit at its deadline, if it has not begun."""
        with self._changed:
            waited = self._leave(submit)
        if waited and not submit.future.done():
            submit.future.set_exception(submit.too_late())

    # ---- in the thread ----------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._stopped and ((wait := self._wait()) is None or wait > 0):
                    self._sleeps = True
                    self._changed.wait(wait)
                self._sleeps = False
                if self._stopped:
                    return
                batch, late = self._take()
            _give([(submit, submit.too_late()) for submit in late])
            pool = self._pool()
            if batch and pool is not None:
                _give(_computed(pool, batch))
            del batch, late, pool  # a thread that sleeps holds nothing alive

    def _stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()


def _computed(pool: Pool, batch: list[Submit]) -> list[tuple[Submit, Any]]:
    """Compute a batch; return each submit with its result, or with an error.

    A batch that fails has moved no state. It is computed again by halves, in turn, so that only
    those fail whose fault it is: whose stream was closed meanwhile, or whose index the model does
    not have.
    """
    try:
        return [*zip(batch, _results(pool, batch), strict=True)]
    except BaseException as error:  # also what a layer of one's own raises to end its thread
        if len(batch) == 1:
            return [(batch[0], _own(error))]
    half = len(batch) // 2
    return [*_computed(pool, batch[:half]), *_computed(pool, batch[half:])]


def _results(pool: Pool, batch: list[Submit]) -> list[Array]:
    """Compute the steps of a batch, several of one stream in their order."""
    sids = [submit.sid for submit in batch]
    if all([submit.single for submit in batch]) and len({*sids}) == len(sids):
        x = np.concatenate([submit.x[np.newaxis] for submit in batch])
        return [y.copy() for y in pool.step(np.array(sids), x)]
    of_streams: dict[int, list[Submit]] = {}
    for submit in batch:
        of_streams.setdefault(submit.sid, []).append(submit)
    ordered = [submit for own in of_streams.values() for submit in own]
    x = np.concatenate([s.x[np.newaxis] if s.single else s.x for s in ordered])
    lengths = np.array([sum([submit.steps for submit in own]) for own in of_streams.values()])
    order = np.argsort(-lengths, kind="stable")
    batch_sizes = batch_sizes_of(lengths)
    steps, streams = rows_of(order, batch_sizes)
    places = (np.cumsum(lengths) - lengths)[streams] + steps  # of what is packed, in x
    packed = PackedSequence(x[places], batch_sizes, order, np.argsort(order))
    of_packed = pool.run(np.array([*of_streams]), packed).data
    y = np.empty_like(of_packed)
    y[places] = of_packed
    results, end = {}, 0
    for submit in ordered:
        begin, end = end, end + submit.steps
        results[submit] = (y[begin] if submit.single else y[begin:end]).copy()
    return [results[submit] for submit in batch]


def _own(error: BaseException) -> Exception:
    """Return an error for one caller, whose traceback does not grow by those of other callers."""
    if not isinstance(error, Exception) or isinstance(error, StopIteration):
        own = RuntimeError(f"the steps could not be computed: {error!r}")  # which asyncio takes
        own.__cause__ = error
        return own
    try:
        copied = copy.copy(error)
    except Exception:
        copied = error
    return copied.with_traceback(error.__traceback__)


def _give(results: list[tuple[Submit, Any]]) -> None:
    """Hand results and errors over to the event loops that await them."""
    of_loops: dict[Any, list[tuple[Submit, Any]]] = {}
    for submit, result in results:
        of_loops.setdefault(submit.loop, []).append((submit, result))
    for loop, own in of_loops.items():
        try:
            loop.call_soon_threadsafe(_set, own)
        except RuntimeError:  # the loop was closed: nobody is left who could wait
            continue


def _set(results: list[tuple[Submit, Any]]) -> None:
    """Set the results of futures, in their event loop."""
    for submit, result in results:
        if submit.future.done():  # cancelled while it was computed
            continue
        if isinstance(result, Exception):
            submit.future.set_exception(result)
        else:
            submit.future.set_result(result)


_COLLECTORS: weakref.WeakSet[Collector] = weakref.WeakSet()


def _after_fork() -> None:
    """In a child process: the threads are gone, and those who wait are its parent's."""
    for collector in list(_COLLECTORS):
        collector._begin()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)
