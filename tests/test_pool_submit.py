"""`Pool.submit`: steps that coroutines submit are computed together, each stream's as if alone.

Collectors with a single fault are in here too, and each must be rejected by the check of it. Where
the order of events matters, a gate holds the computing thread: no test waits and hopes.
"""

import asyncio
import concurrent.futures
import contextlib
import copy
import gc
import os
import pathlib
import pickle
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastlstm
from fastlstm.layers import collector
from fastlstm.layers import pool as pool_module

I, H = 3, 5
LSTM = fastlstm.LSTM(I, H, seed=0, num_threads=1)
ROOT = pathlib.Path(__file__).parents[1]
LONG = 30  # seconds: nothing waits so long, unless it is broken


def steps_of(seed, *shape):
    return np.random.default_rng(seed).standard_normal((*shape, I), dtype=np.float32)


class Alone:
    """A stream beside the pool, which takes the same steps: what the pool must give."""

    def __init__(self, lstm=LSTM):
        self.stream = lstm.stream()

    def __call__(self, x):
        x = np.asarray(x)
        y = self.stream.run(x.reshape(-1, 1, I))[:, 0]
        return y if x.ndim == 2 else y[0]

    def copy(self):
        other = Alone()
        other.stream = copy.copy(self.stream)
        return other

    def state(self):
        return [part[:, 0] for part in self.stream.state]


def assert_same(got, expected):
    """The same bits, where the engine promises them whatever is computed together."""
    assert not isinstance(got, Exception), got
    if LSTM.engine != "numpy":
        np.testing.assert_array_equal(got, expected)
    else:
        np.testing.assert_allclose(got, expected, atol=1e-6)


def assert_state(pool, sid, alone):
    for got, expected in zip(pool.state(sid), alone.state(), strict=True):
        assert_same(got, expected)


GATES = []


class Gate:
    """Holds the thread that computes, while closed, and writes down what it computes.

    `batches` are the streams and steps of each batch, as {sid: steps}.
    """

    def __init__(self, pool):
        self.open, self.inside, self.batches = threading.Event(), threading.Event(), []
        self.open.set()
        self.fault = None
        GATES.append(self)
        results = collector._results

        def held(of, batch):
            if of is not pool:
                return results(of, batch)
            taken = {}
            for submit in batch:
                taken[submit.sid] = taken.get(submit.sid, 0) + submit.steps
            self.batches.append(taken)
            self.inside.set()
            assert self.open.wait(LONG)
            if self.fault:
                raise self.fault
            return results(of, batch)

        collector._results = held

    def close(self):
        self.open.clear()
        self.inside.clear()

    def pass_on(self):
        """Let the thread go on, and hold the event loop until it is in the next batch."""
        self.inside.clear()
        self.open.set()
        assert self.inside.wait(LONG)

    async def busy(self, pool):
        """Submit a step of a stream of its own, and return once the thread is held with it."""
        await self.hold(pool, pool.open(), steps_of(0))
        self.batches.clear()

    async def hold(self, pool, sid, x):
        """Submit these steps, and return a task once the thread is held with them."""
        self.close()
        task = asyncio.ensure_future(pool.submit(sid, x))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # it was seen
        while not self.inside.is_set():
            await asyncio.sleep(0.001)
        return task


@pytest.fixture(autouse=True)
def ungated(monkeypatch):
    """Let no thread of a test wait at a gate after it."""
    monkeypatch.setattr(collector, "_results", collector._results)
    yield
    while GATES:
        GATES.pop().open.set()


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, LONG))


def gated(capacity=8, **options):
    options = {"max_wait": 0, **options}
    pool = LSTM.pool(capacity, **options)
    return pool, Gate(pool)


async def begun(pool, *submits):
    """Begin to submit, one after the other, and return the tasks."""
    tasks = []
    for sid, x, *deadline in submits:
        tasks.append(asyncio.ensure_future(pool.submit(sid, x, *deadline)))
        await asyncio.sleep(0)
    return tasks


# ---- the checks: each raises AssertionError, or hangs, if it finds its fault ---------------------


async def check_values():
    """Many coroutines with one stream each, steps and chunks mixed."""
    pool = LSTM.pool(32)

    async def client(number):
        rng, sid, alone = np.random.default_rng(number), pool.open(), Alone()
        for k in range(20):
            x = steps_of([number, k], *([rng.integers(1, 5)] if rng.random() < 0.3 else []))
            assert_same(await pool.submit(sid, x), alone(x))
            if rng.random() < 0.2:
                await asyncio.sleep(0)
        assert_state(pool, sid, alone)

    await asyncio.gather(*map(client, range(32)))


async def check_order_of_one_stream():
    """Submits of one stream that wait together are computed in their order, in one batch."""
    pool, gate = gated()
    sid, other = pool.open(), pool.open()
    await gate.busy(pool)
    x = steps_of(1, 4)
    tasks = await begun(pool, (sid, x[0]), (other, x[:1]), (sid, x[1:3]), (sid, x[3]))
    gate.open.set()
    alone = Alone()
    first, of_other, middle, last = await asyncio.gather(*tasks)
    assert_same(first, alone(x[0]))
    assert_same(middle, alone(x[1:3]))
    assert_same(last, alone(x[3]))
    assert_same(of_other, Alone()(x[:1]))
    assert gate.batches == [{sid: 4, other: 1}]


async def check_first_come_first_served():
    """Whatever streams submit, batches take it in the order in which it came."""
    pool, gate = gated(max_batch=4)
    sids = [pool.open() for _ in range(4)]
    await gate.busy(pool)
    greedy = [(sids[0], steps_of(k, 3)) for k in range(4)]
    others = [(sid, steps_of(9)) for sid in sids[1:]]
    order = [greedy[0], others[0], greedy[1], others[1], others[2], greedy[2], greedy[3], others[0]]
    tasks = await begun(pool, *order)
    gate.open.set()
    await asyncio.gather(*tasks)
    a, b, c, d = sids
    assert gate.batches == [{a: 6, b: 1, c: 1}, {d: 1, a: 6, b: 1}]


async def check_cancelled_before():
    """A step that is cancelled before its batch begins is dropped: nothing has moved."""
    pool, gate = gated()
    sid, other = pool.open(), pool.open()
    await gate.busy(pool)
    x = steps_of(2, 3)
    first, gone, last = await begun(pool, (sid, x[0]), (sid, x[1]), (sid, x[2]))
    (alone_gone,) = await begun(pool, (other, x[0]))
    gone.cancel()
    alone_gone.cancel()
    gate.pass_on()  # before the event loop has told the coroutines
    alone = Alone()
    assert_same(await first, alone(x[0]))
    assert_same(await last, alone(x[2]))
    await asyncio.wait([gone, alone_gone])
    assert gone.cancelled() and alone_gone.cancelled()
    assert_state(pool, sid, alone)
    assert_state(pool, other, Alone())


async def check_cancelled_during():
    """A step that is cancelled while it is computed has moved its stream, and no other's."""
    pool, gate = gated()
    sid, other = pool.open(), pool.open()
    x = steps_of(3, 2)
    task = await gate.hold(pool, sid, x[0])
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    tasks = await begun(pool, (sid, x[1]), (other, x[1]))
    gate.open.set()
    alone = Alone()
    alone(x[0])
    assert_same(await tasks[0], alone(x[1]))
    assert_same(await tasks[1], Alone()(x[1]))


async def check_deadline_passes():
    """A step that did not begin by its deadline is refused then, and its state has not moved."""
    pool, gate = gated()
    sid = pool.open()
    await gate.busy(pool)
    x = steps_of(4, 2)
    late, patient = await begun(pool, (sid, x[0], 0.01), (sid, x[1], LONG))
    await asyncio.wait([late])  # the gate is still closed
    with pytest.raises(TimeoutError, match="has not moved"):
        late.result()
    gate.open.set()
    alone = Alone()
    assert_same(await patient, alone(x[1]))
    assert_state(pool, sid, alone)
    assert gate.batches == [{sid: 1}]


async def check_deadline_passes_while_the_loop_is_busy():
    """The same if the event loop has no time to look at its clock."""
    pool, gate = gated()
    sid, other = pool.open(), pool.open()
    await gate.busy(pool)
    late, _ = await begun(pool, (sid, steps_of(0), 0.01), (other, steps_of(0)))
    time.sleep(0.05)
    gate.pass_on()
    with pytest.raises(TimeoutError, match="has not moved"):
        await late
    assert_state(pool, sid, Alone())


async def check_deadline_hastens():
    """A deadline sends the batch before max_wait is over."""
    x = steps_of(5)
    for deadline in (0.2, 1, 3):  # on a busy machine the thread may come too late, but not always
        pool = LSTM.pool(4, max_wait=10 * LONG)
        sids = [pool.open() for _ in range(3)]
        (first,) = await begun(pool, (sids[0], x))
        with contextlib.suppress(TimeoutError):
            y = await pool.submit(sids[1], x, deadline=deadline)
            break
    else:
        raise AssertionError("no batch is sent before its deadline")
    assert_same(y, Alone()(x))
    assert_same(await first, Alone()(x))


async def check_nobody_waits_in_vain():
    """A batch that gains nothing from waiting does not wait for max_wait."""
    x = steps_of(6)
    for options in ({}, {"max_batch": 2}, {"max_pending": 2}):
        pool = LSTM.pool(4, max_wait=10 * LONG, **options)
        sids = [pool.open() for _ in range(4 if options else 2)]
        for _ in range(2):
            await asyncio.gather(*(pool.submit(sid, x) for sid in sids))


async def check_it_waits_for_others():
    """Steps that come within max_wait are one batch."""
    pool, gate = gated(max_wait=10 * LONG)
    sids = [pool.open() for _ in range(3)]
    tasks = await begun(pool, *((sid, steps_of(0)) for sid in sids[:2]))
    await asyncio.sleep(0.05)
    assert gate.batches == []
    await pool.submit(sids[2], steps_of(0))
    await asyncio.gather(*tasks)
    assert gate.batches == [dict.fromkeys(sids, 1)]


async def check_max_wait():
    """The oldest step is sent when it has waited for max_wait, whoever has not come."""
    pool, gate = gated(max_wait=0.02)
    sids = [pool.open() for _ in range(3)]
    await gate.busy(pool)
    tasks = await begun(pool, *((sid, steps_of(0)) for sid in sids[:2]))
    gate.open.set()
    await asyncio.gather(*tasks)
    assert gate.batches == [dict.fromkeys(sids[:2], 1)]


async def check_back_pressure():
    """No more than max_pending submits are held; others wait at the door, and come in in order."""
    pool, gate = gated(max_pending=3)
    sids = [pool.open() for _ in range(7)]
    await gate.busy(pool)
    tasks = await begun(pool, *((sid, steps_of(sid, 1)) for sid in sids), (sids[0], steps_of(1)))
    held = pool._collector
    assert (len(held._queue), len(held._door)) == (3, 5)
    tasks[1].cancel()  # in the queue
    tasks[4].cancel()  # at the door
    await asyncio.wait([tasks[1], tasks[4]])
    assert (len(held._queue), len(held._door)) == (3, 3)
    gate.open.set()
    left = [0, 2, 3, 5, 6]
    for number, y in zip(left, await asyncio.gather(*(tasks[n] for n in left)), strict=True):
        assert_same(y, Alone()(steps_of(sids[number], 1)))
    await tasks[7]
    s = sids
    assert gate.batches == [
        dict.fromkeys((s[0], s[2], s[3]), 1),
        dict.fromkeys((s[5], s[6], s[0]), 1),
    ]


async def check_deadline_at_the_door():
    pool, gate = gated(max_pending=1)
    sids = [pool.open() for _ in range(3)]
    await gate.busy(pool)
    x = steps_of(8)
    first, late, last = await begun(pool, (sids[0], x), (sids[1], x, 0.01), (sids[2], x))
    with pytest.raises(TimeoutError):
        await late
    gate.open.set()
    await asyncio.gather(first, last)
    assert_state(pool, sids[1], Alone())


async def check_faults_of_callers():
    """A fault of a caller is told at once, to that one alone, and nothing is queued."""
    pool, gate = gated()
    sid, gone, well = (pool.open() for _ in range(3))
    pool.close(gone)
    await gate.busy(pool)
    (right,) = await begun(pool, (well, steps_of(0)))
    x = steps_of(0)
    wrong = [
        ((sid, x[:2]), ValueError),
        ((sid, steps_of(0, 2, 2)), ValueError),
        ((sid, x.astype(np.float64)), ValueError),
        ((sid, "text"), (TypeError, ValueError)),
        ((sid, [[0.0, 0.0, 0.0], [0.0]]), (TypeError, ValueError)),
        ((gone, x), ValueError),
        ((10**9, x), ValueError),
        (("anna", x), TypeError),
        (([sid], x), TypeError),
        ((sid, x, float("nan")), ValueError),
        ((sid, x, "soon"), TypeError),
        ((sid, x, 0), TimeoutError),
        ((sid, x, -1.0), TimeoutError),
    ]
    for arguments, error in wrong:
        with pytest.raises(error):
            await pool.submit(*arguments)
    assert len(pool._collector._queue) == 1
    gate.open.set()
    assert_same(await right, Alone()(x))
    assert_state(pool, sid, Alone())


async def check_closed_while_it_waits():
    """A step whose stream is closed before it begins fails alone."""
    pool, gate = gated()
    sid, gone = pool.open(), pool.open()
    await gate.busy(pool)
    x = steps_of(1)
    right, wrong = await begun(pool, (sid, x), (gone, x))
    pool.close(gone)
    gate.open.set()
    y, error = await asyncio.gather(right, wrong, return_exceptions=True)
    assert_same(y, Alone()(x))
    assert type(error) is ValueError and "closed" in str(error)


async def check_failed_batch():
    """If computing fails, each caller of that batch gets the error, and no state has moved."""
    pool, gate = gated()
    sids = [pool.open() for _ in range(3)]
    for fault, expected in [
        (MemoryError("no room"), MemoryError),
        (StopIteration(1), RuntimeError),
        (KeyboardInterrupt(), RuntimeError),
    ]:
        await gate.busy(pool)
        tasks = await begun(pool, *((sid, steps_of(0, 2)) for sid in sids))
        gate.fault = fault
        gate.open.set()
        await asyncio.wait(tasks)
        errors = [task.exception() for task in tasks]
        assert [type(error) for error in errors] == [expected] * 3
        assert len({id(error) for error in errors}) == 3
        gate.fault = None
    for sid in sids:
        assert_state(pool, sid, Alone())
        assert_same(await pool.submit(sid, steps_of(0)), Alone()(steps_of(0)))


async def check_fault_found_while_computing():
    """What only the model finds wrong fails one stream; the others of its batch get results."""
    parts = (
        fastlstm.Embedding(7, 4, seed=0),
        fastlstm.LSTM(4, 5, seed=1),
        fastlstm.Linear(5, 2, seed=2),
    )
    model = fastlstm.Sequential(*parts)
    pool = model.pool(6, max_wait=LONG)
    sids, words = [pool.open() for _ in range(6)], [3, 6, 7, [1, 2], 0, [5, -1]]
    submits = [pool.submit(sid, word) for sid, word in zip(sids, words, strict=True)]
    results = await asyncio.gather(*submits, return_exceptions=True)
    for sid, word, result in zip(sids, words, results, strict=True):
        alone = model.stream()
        if np.min(word) < 0 or np.max(word) > 6:
            assert type(result) is ValueError and "index out of range" in str(result)
        else:
            y = [alone.step([one])[0] for one in np.atleast_1d(word)]
            assert_same(result, y if isinstance(word, list) else y[0])
        for got, expected in zip(pool.state(sid)["1"], alone.state["1"], strict=True):
            assert_same(got, expected[:, 0])


async def check_fault_among_steps_of_one_stream():
    """Of several steps of one stream those fail that are wrong; the others are as without them."""
    parts = fastlstm.Embedding(7, 4, seed=0), fastlstm.LSTM(4, 5, seed=1)
    model = fastlstm.Sequential(*parts)
    pool, words = model.pool(2, max_wait=0.02), [3, 7, 5, 1, -1]
    sid, _ = pool.open(), pool.open()
    submits = [pool.submit(sid, word) for word in words]
    results = await asyncio.gather(*submits, return_exceptions=True)
    assert [type(result) is ValueError for result in results] == [
        word not in range(7) for word in words
    ]
    alone = model.stream()
    for word, result in zip(words, results, strict=True):
        if word in range(7):
            assert_same(result, alone.step([word])[0])


async def check_results_are_the_callers_own():
    """A result is memory of its own: it keeps no other alive, and may be written to."""
    pool = LSTM.pool(4, max_wait=LONG)
    sids = [pool.open() for _ in range(3)]
    for shape in ((), (1,), (2,)):
        ys = await asyncio.gather(*(pool.submit(sid, steps_of(0, *shape)) for sid in sids))
        for y in ys:
            assert y.base is None and y.flags.writeable and y.shape == (*shape, H)


async def check_input_is_copied():
    pool, gate = gated()
    sid = pool.open()
    await gate.busy(pool)
    x = steps_of(0)
    (task,) = await begun(pool, (sid, x))
    expected = Alone()(x)
    x[:] = 0
    gate.open.set()
    assert_same(await task, expected)


CHECKS = [value for name, value in sorted(globals().items()) if name.startswith("check_")]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__[6:])
def test_submit(check):
    run(check())


# ---- broken collectors ---------------------------------------------------------------------------


class Swapped:
    """Two callers get each other's results."""

    def _results(pool, batch, right=collector._results):
        results = right(pool, batch)
        if results[0].shape == results[-1].shape:
            results[0], results[-1] = results[-1], results[0]
        return results

    rejected_by = check_values


class Backwards:
    """Several submits of one stream are computed in the wrong order."""

    def _results(pool, batch, right=collector._results):
        return right(pool, batch[::-1])[::-1]

    rejected_by = check_order_of_one_stream


class Starving:
    """The newest are taken first, so that the oldest may wait for ever."""

    class Collector(collector.Collector):
        def _take(self):
            self._queue = dict(reversed(self._queue.items()))
            return super()._take()

    rejected_by = check_first_come_first_served


class PassingOver:
    """What does not fit is passed over, so that a long chunk may wait for ever."""

    class Collector(collector.Collector):
        def _take(self):
            self._queue = dict(sorted(self._queue.items(), key=lambda item: item[0].steps))
            return super()._take()

    rejected_by = check_first_come_first_served


class LostCancellation:
    """What was cancelled is computed nevertheless."""

    class Submit(collector.Submit):
        __slots__ = ()

        def is_awaited(self):
            return True

    class Collector(collector.Collector):
        def _leave(self, submit):
            pass

    rejected_by = check_cancelled_before


class LateCancellation:
    """A cancellation counts only once the event loop has run it."""

    class Submit(collector.Submit):
        __slots__ = ()

        def is_awaited(self):
            return True

    rejected_by = check_cancelled_before


class CancelledUndone:
    """A step that was cancelled while it was computed is taken back."""

    def _results(pool, batch, right=collector._results):
        before = [pool.state(submit.sid) for submit in batch]
        results = right(pool, batch)
        for submit, state in zip(batch, before, strict=True):
            if submit.future.done():
                pool.set_state(submit.sid, state)
        return results

    rejected_by = check_cancelled_during


class MovedAfterTimeout:
    """Who was told that it is too late finds the state moved."""

    class Submit(collector.Submit):
        __slots__ = ()

        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.until = np.inf

        def is_awaited(self):
            return True

    class Collector(collector.Collector):
        def _give_up(self, submit):
            submit.future.set_exception(submit.too_late())

        def _leave(self, submit):
            pass

    rejected_by = check_deadline_passes


class OnlyTheLoopsClock:
    """Deadlines pass only if the event loop has time to look."""

    class Submit(collector.Submit):
        __slots__ = ()

        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.until = np.inf

    rejected_by = check_deadline_passes_while_the_loop_is_busy


class Door:
    """max_pending is forgotten."""

    class Collector(collector.Collector):
        def _is_full(self):
            return False

    rejected_by = check_back_pressure


class AllForOne:
    """A stream that was closed while its step waited fails the others of its batch."""

    def _computed(pool, batch):
        try:
            return list(zip(batch, collector._results(pool, batch), strict=True))
        except ValueError as error:
            return [(submit, collector._own(error)) for submit in batch]

    rejected_by = check_closed_while_it_waits


class AllForAFault(AllForOne):
    """The same of what the model finds wrong."""

    rejected_by = check_fault_found_while_computing


class OneFaultOfAStream:
    """A wrong step of a stream fails its others, too."""

    def _computed(pool, batch, right=collector._computed):
        if len({submit.sid for submit in batch}) > 1:
            return right(pool, batch)
        try:
            return list(zip(batch, collector._results(pool, batch), strict=True))
        except ValueError as error:
            return [(submit, collector._own(error)) for submit in batch]

    rejected_by = check_fault_among_steps_of_one_stream


class MovedByErrors:
    """What fails has moved the states of its batch."""

    def _computed(pool, batch, right=collector._computed):
        done = right(pool, batch)
        if any(isinstance(result, Exception) for _, result in done):
            pool.step(batch[0].sid, steps_of(0))
        return done

    rejected_by = check_failed_batch


class OneError:
    """All callers get the same error, whose traceback grows with each."""

    def _own(error):
        return error if isinstance(error, MemoryError) else RuntimeError(error)

    rejected_by = check_failed_batch


class Views:
    """A result is a view of its whole batch."""

    def _results(pool, batch):
        return list(pool.step(np.array([s.sid for s in batch]), np.stack([s.x for s in batch])))

    rejected_by = check_results_are_the_callers_own


class Borrowed:
    """The input is read when the batch begins, and not when it is submitted."""

    class Submit(collector.Submit):
        __slots__ = ()

        def keep(self):
            pass

    rejected_by = check_input_is_copied


class Greedy:
    """It waits for nobody."""

    class Collector(collector.Collector):
        def _is_ready(self):
            return True

    rejected_by = check_it_waits_for_others


class Hasty:
    """It sends each step at its deadline, when it is too late."""

    class Submit(collector.Submit):
        __slots__ = ()

        def __init__(self, sid, x, single, max_wait, deadline):
            super().__init__(sid, x, single, max_wait, deadline)
            self.due = self.until or self.due

    rejected_by = check_deadline_hastens


BROKEN = [
    Swapped, Backwards, Starving, PassingOver, LostCancellation, LateCancellation, CancelledUndone,
    MovedAfterTimeout, OnlyTheLoopsClock, Door, AllForOne, AllForAFault, OneFaultOfAStream,
    MovedByErrors, OneError, Views, Borrowed, Greedy, Hasty,
]  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_broken_collectors_are_rejected(broken, monkeypatch):
    for name in ("Collector", "Submit", "_results", "_computed", "_own"):
        if hasattr(broken, name):
            where = pool_module if name == "Collector" else collector
            monkeypatch.setattr(where, name, getattr(broken, name))
    with pytest.raises((AssertionError, pytest.fail.Exception, TimeoutError)):
        run(broken.rejected_by())


# ---- event loops, threads and processes ----------------------------------------------------------


def test_two_event_loops_share_a_pool():
    pool = LSTM.pool(16, max_wait=0.0005)
    together = threading.Barrier(2)

    async def client(number):
        sid, alone = pool.open(), Alone()
        for k in range(30):
            x = steps_of([number, k])
            assert_same(await pool.submit(sid, x), alone(x))

    async def clients(first):
        together.wait(LONG)
        await asyncio.gather(*map(client, range(first, first + 8)))

    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(run, clients(first)) for first in (0, 8)]:
            done.result(LONG)
    assert len(pool) == 16


def test_a_loop_that_ends_drops_what_has_not_begun():
    pool, gate = gated(2)
    sid = pool.open()
    x = steps_of(0, 3)

    async def leave():
        await gate.hold(pool, sid, x[0])
        await begun(pool, (sid, x[1]))

    run(leave())  # asyncio cancels what is left
    gate.open.set()
    alone = Alone()
    alone(x[0])
    assert_same(run(pool.submit(sid, x[2])), alone(x[2]))


def test_a_loop_that_is_closed_under_its_tasks():
    pool, gate = gated(2)
    sid = pool.open()
    x = steps_of(0, 3)
    loop = asyncio.new_event_loop()
    gate.close()
    tasks = loop.run_until_complete(begun(pool, (sid, x[0])))
    assert gate.inside.wait(LONG)
    tasks += loop.run_until_complete(begun(pool, (sid, x[1])))
    loop.close()
    gate.open.set()
    alone = Alone()
    alone(x[0])
    assert_same(run(pool.submit(sid, x[2])), alone(x[2]))
    for task in tasks:  # Python says of a task that goes while pending that it was pending
        task._log_destroy_pending = False
    with contextlib.suppress(RuntimeError):
        del task, tasks
        gc.collect()


def test_the_thread_ends_with_the_pool():
    pool = LSTM.pool(2)
    run(pool.submit(pool.open(), steps_of(0)))
    thread = pool._collector._thread
    assert thread.is_alive() and thread.daemon
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    thread.join(LONG)
    assert not thread.is_alive() and gone() is None


def test_a_pool_without_submits_has_no_thread():
    before = {*threading.enumerate()}  # some of which may end meanwhile
    pool = LSTM.pool(2)
    pool.step(pool.open(), steps_of(0))
    assert {*threading.enumerate()} <= before


def test_a_wait_longer_than_any_thread_may_wait():
    pool = LSTM.pool(2, max_wait=1e300)
    sid, other = pool.open(), pool.open()

    async def submit():
        task = asyncio.ensure_future(pool.submit(sid, steps_of(0)))
        while not pool._collector or not pool._collector._sleeps:
            assert pool._collector is None or pool._collector._thread.is_alive()
            await asyncio.sleep(0.001)
        return await asyncio.gather(task, pool.submit(other, steps_of(0)))

    for y in run(submit()):
        assert_same(y, Alone()(steps_of(0)))


def test_a_thread_that_cannot_begin(monkeypatch):
    """The submit is refused and nothing stays behind; the next one tries again."""
    pool = LSTM.pool(2)
    sid = pool.open()

    def start(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            run(pool.submit(sid, steps_of(1)))
    assert_same(run(pool.submit(sid, steps_of(0))), Alone()(steps_of(0)))


def test_ctrl_c_before_a_submit_is_counted():
    """The thread goes on, and computes what comes after."""
    pool = LSTM.pool(2, max_wait=0)
    sid, other = pool.open(), pool.open()
    run(pool.submit(sid, steps_of(0)))
    own = pool._collector
    counts = own._of_streams

    class Interrupting(dict):
        def get(self, *args):
            own._of_streams = counts
            raise KeyboardInterrupt

    own._of_streams = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(pool.submit(sid, steps_of(1)))
    run(pool.submit(sid, steps_of(2)))
    assert_same(run(pool.submit(other, steps_of(3))), Alone()(steps_of(3)))
    assert not own._queue and not own._of_streams


def test_a_pool_that_goes_while_a_step_is_computed():
    """The task keeps its pool alive until it has its result."""
    pool, gate = gated(2)

    async def submit():
        nonlocal pool
        task = await gate.hold(pool, pool.open(), steps_of(0))
        del pool
        gate.open.set()
        return await task

    assert_same(run(submit()), Alone()(steps_of(0)))


def test_the_thread_sleeps_while_nothing_is_due(monkeypatch):
    waits = []
    wait = collector.Collector._wait
    monkeypatch.setattr(
        collector.Collector, "_wait", lambda self: waits.append(wait(self)) or waits[-1]
    )
    pool = LSTM.pool(3, max_wait=0.05)
    sids = [pool.open() for _ in range(3)]

    async def submits():
        await pool.submit(sids[0], steps_of(0))
        await asyncio.sleep(0.05)
        await asyncio.gather(*(pool.submit(sid, steps_of(0)) for sid in sids[:2]))

    run(submits())
    assert len(waits) <= 12


def test_nothing_is_kept():
    """Neither of what was computed, nor of what was cancelled or late; in the queue, or outside."""
    # A thread of a test before this one may still be at its last batch.
    before = [thing for thing in gc.get_objects() if type(thing) is collector.Submit]
    pool, gate = gated(4, max_pending=20)
    sids = [pool.open() for _ in range(4)]

    async def submits():
        await gate.hold(pool, sids[0], steps_of(0))
        submits = [
            (sids[n % 4], steps_of(n), 0.005) if n % 3 else (sids[n % 4], steps_of(n))
            for n in range(60)
        ]
        tasks = await begun(pool, *submits)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.sleep(0.02)
        gate.open.set()
        await asyncio.wait(tasks)
        return [task for task in tasks if not task.cancelled() and task.exception() is None]

    assert len(run(submits())) == 10
    assert_nothing_left(pool)
    while pool._collector._sleeps is False:  # it still forgets the last batch
        time.sleep(0.001)
    gc.collect()
    now = [thing for thing in gc.get_objects() if type(thing) is collector.Submit]
    assert {*map(id, now)} <= {*map(id, before)}


def test_a_copy_collects_for_itself():
    pool = LSTM.pool(2)
    sid, x = pool.open(), steps_of(0)
    y = run(pool.submit(sid, x))
    copied = pickle.loads(pickle.dumps(pool))
    then = run(pool.submit(sid, x))
    assert_same(run(copied.submit(sid, x)), then)
    assert copied._collector is not pool._collector and not np.array_equal(y, then)


PROGRAM = """
    import asyncio, os, pickle, sys, threading, warnings
    import numpy as np
    import fastlstm

    warnings.simplefilter("ignore")  # of forks beside threads
    lstm = fastlstm.LSTM(3, 5, seed=0)
    pool = lstm.pool(4)
    sid, x = pool.open(), np.ones(3, np.float32)
"""


def program(text):
    """Run a program in a process of its own; fail if it does, or says anything on stderr."""
    code = textwrap.dedent(PROGRAM) + textwrap.dedent(text)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=4 * LONG, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.split()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_has_a_thread_of_its_own():
    """Also if another thread held the lock at the time of the fork."""
    text = """
        y = [asyncio.run(pool.submit(sid, x))]
        with pool._collector._changed:
            child = os.fork()
        y.append(asyncio.run(asyncio.wait_for(pool.submit(sid, x), 30)))
        alone = lstm.stream()
        assert all((alone.step(x[None])[0] == one).all() for one in y)
        if child:
            assert os.waitpid(child, 0)[1] == 0
        print("right", flush=True)
    """
    assert program(text) == ["right"] * 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_waits_for_no_thread_of_its_parent():
    """There a step was being made, another stream was read, and a lock was held."""
    text = """
        class Slow(fastlstm.Layer):
            stepwise = True
            shut, reached = threading.Event(), threading.Event()

            def forward(self, input):
                if threading.current_thread() is not threading.main_thread():
                    self.reached.set()
                    self.shut.wait()
                return input

        pool = fastlstm.Sequential(lstm, Slow()).pool(4)
        sid, other = pool.open(), pool.open()
        beside = threading.Thread(target=pool.step, args=(sid, x))
        beside.start()
        Slow.reached.wait()

        def hold():
            with pool._lock:
                held.set()
                let.wait()

        held, let = threading.Event(), threading.Event()
        holder = threading.Thread(target=hold)
        holder.start()
        held.wait()
        child = os.fork()
        if child:
            let.set()
            Slow.shut.set()
            beside.join()
            assert os.waitpid(child, 0)[1] == 0
        y = pool.step(other, x)
        assert len(pickle.dumps(pool)) > 100
        pool.reset(sid)
        again = pool.step(sid, x)
        assert (y == lstm.stream().step(x[None])[0]).all() and (again == y).all()
        print("right", flush=True)
        os._exit(0) if not child else None
    """
    assert program(text) == ["right"] * 2


def test_a_program_may_end_while_a_step_is_computed():
    text = """
        async def leave():
            asyncio.ensure_future(pool.submit(sid, np.ones((200_000, 3), np.float32)))
            await asyncio.sleep(0.02)

        asyncio.run(leave())
        print("end")
    """
    assert program(text) == ["end"]


# ---- all at once ---------------------------------------------------------------------------------

ACTIONS = ["step", "chunk", "step", "cancel", "deadline", "wrong", "close", "pause", "pipeline"]


class Client:
    """A coroutine with one stream at a time, which does what it is told and checks all it gets."""

    def __init__(self, pool, seed):
        self.pool, self.rng = pool, np.random.default_rng(seed)
        self.begin()

    def begin(self):
        self.sid, self.alone = self.pool.open(), Alone()

    def draw(self, *shape):
        return self.rng.standard_normal((*shape, I), dtype=np.float32)

    async def do(self, action):
        pool, sid, alone = self.pool, self.sid, self.alone
        if action == "pause":
            await asyncio.sleep(self.rng.random() * 0.002)
        elif action == "close":
            pool.close(sid)
            with pytest.raises(ValueError):
                await pool.submit(sid, self.draw())
            self.begin()
        elif action == "wrong":
            with pytest.raises(ValueError):
                await pool.submit(sid, self.draw(2, 2))
        elif action == "pipeline":
            xs = [self.draw() for _ in range(3)]
            ys = await asyncio.gather(*(pool.submit(sid, x) for x in xs))
            for x, y in zip(xs, ys, strict=True):
                assert_same(y, alone(x))
        else:
            x = self.draw(*([3] if action == "chunk" else []))
            try:
                if action == "cancel":
                    y = await asyncio.wait_for(pool.submit(sid, x), self.rng.random() * 0.001)
                else:
                    deadline = self.rng.random() * 0.001 if action == "deadline" else None
                    y = await pool.submit(sid, x, deadline)
            except (TimeoutError, asyncio.TimeoutError):
                await self.settle(x, action)
            else:
                assert_same(y, alone(x))
        assert_state(pool, self.sid, self.alone)

    async def settle(self, x, action):
        """After a timeout the stream has not moved; after a cancellation the next step tells."""
        if action == "cancel":
            then, before = self.draw(), self.alone
            y = await self.pool.submit(self.sid, then)
            self.alone = before.copy()
            if not np.allclose(self.alone(then), y, atol=1e-6):
                self.alone = before
                before(x)
                assert_same(y, before(then))


@settings(max_examples=15, deadline=None)
@given(
    plans=st.lists(st.lists(st.sampled_from(ACTIONS), max_size=8), min_size=1, max_size=8),
    max_wait=st.sampled_from([0, 0.0002]),
    max_batch=st.sampled_from([None, 1, 3]),
    max_pending=st.sampled_from([None, 1, 2]),
    seed=st.integers(0, 99),
)
def test_whatever_callers_do(plans, max_wait, max_batch, max_pending, seed):
    pool = LSTM.pool(len(plans), max_wait=max_wait, max_batch=max_batch, max_pending=max_pending)

    async def follow(plan, seed):
        client = Client(pool, seed)
        for action in plan:
            await client.do(action)

    async def clients():
        await asyncio.gather(*(follow(plan, [seed, k]) for k, plan in enumerate(plans)))

    run(clients())
    assert_nothing_left(pool)


def assert_nothing_left(pool):
    held = pool._collector
    if held is not None:
        assert (len(held._queue), len(held._door)) == (0, 0)
        assert held._of_streams == {}


# ---- for a long time -----------------------------------------------------------------------------

SOAK = """
    import sys
    from benchmarks import soak
    from fastlstm.layers import collector, pool

    results = collector._results
    {fault}
    sys.argv = ["soak", "--seconds", "{seconds}"]
    soak.main()
"""
FAULTS = {
    "swapped": """
    def swapped(of, batch):
        ys = results(of, batch)
        return ys[::-1] if len(batch) == 3 and len({y.shape for y in ys}) == 1 else ys

    collector._results = swapped
""",
    "one is not restored": """
    restore = pool.Pool.restore

    def forgetful(self, path):
        restore(self, path)
        self.reset(self.sids[:1])

    pool.Pool.restore = forgetful
""",
    "leaking": """
    lost = []

    def leaking(of, batch):
        lost.extend(bytearray(1 << 13) for _ in batch)
        return results(of, batch)

    collector._results = leaking
""",
    "let through": """
    asked = pool.Pool._submitted

    def deaf(self, sid, x):
        return asked(self, sid, x) if x.shape == (16,) else (x.ravel()[:1].repeat(16), True)

    pool.Pool._submitted = deaf
""",
}


def soak(seconds, fault=""):
    """Run the soak test with a fault; return what it prints, and what it says on stderr."""
    code = textwrap.dedent(SOAK).format(seconds=seconds, fault=textwrap.dedent(fault))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode == 0) == (done.stderr == ""), done.stderr
    return done.stdout, done.stderr


@pytest.mark.slow
def test_soak(native):
    """A short form of what ``python -m benchmarks.soak`` does for ten minutes."""
    said, fault = soak(15)
    assert fault == ""
    for what in ("cancelled before", "cancelled during", "too late", "saved and restored", "move"):
        assert what in said
    assert "failed by the layer" in said


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_soak_finds_faults(native, name):
    """All but a leak end it as soon as they are seen, which a busy machine makes late."""
    _, fault = soak(6 if name == "leaking" else 120, FAULTS[name])
    assert fault.splitlines()[-1].startswith("AssertionError: ")
