"""Pools in many threads, and calls that errors or Ctrl-C end anywhere."""

import copy
import functools
import gc
import os
import pickle
import signal
import sys
import threading
import time

import numpy as np
import pytest
from pool_twin import Twin, arrays_of
from support import assert_same_bits
from values import normal

from fastlstm import LSTM, Layer, Linear, Pool, Sequential
from fastlstm.layers import claims, places, pooled
from fastlstm.layers import pool as pool_module

SOON = 30  # seconds, after which a test that waits has failed


class Gate(Layer):
    """A layer at which a step waits, once it is shut, until it is opened."""

    stepwise = True

    def __init__(self):
        super().__init__()
        self.reached, self.opened = threading.Event(), threading.Event()
        self.opened.set()

    def forward(self, input):
        self.reached.set()
        assert self.opened.wait(SOON)
        return input

    def shut(self):
        self.reached.clear()
        self.opened.clear()


class _Thread(threading.Thread):
    """A thread that raises in `join` what its function raised."""

    def __init__(self, function, *args):
        super().__init__(daemon=True)
        self._function, self._args, self._fault = function, args, None
        self.start()

    def run(self):
        try:
            self.result = self._function(*self._args)
        except BaseException as fault:
            self._fault = fault

    def join(self, timeout=SOON):
        super().join(timeout)
        assert not self.is_alive()
        if self._fault:
            raise self._fault
        return self.result


@pytest.fixture
def gated():
    """A pool with four streams whose steps are in the middle, the first two in another thread."""
    gate = Gate()
    pool = Sequential(LSTM(2, 3, seed=0), gate, LSTM(3, 3, seed=1)).pool(6)
    sids = [pool.open() for _ in range(4)]
    pool.step(sids, normal(4, 2))
    gate.shut()
    thread = _Thread(pool.step, sids[:2], normal(2, 2, seed=1))
    assert gate.reached.wait(SOON)
    yield pool, sids, gate, thread
    gate.opened.set()
    thread.join()


def test_what_is_advanced_is_left_alone(gated):
    pool, sids, _, _ = gated
    state = pool.state(sids[2])
    message = (
        f"^stream {sids[0]} is being advanced in another thread: wait until that has returned$"
    )
    for call in (lambda: pool.step(sids[0], normal(2)), lambda: pool.step(sids[::2], normal(2, 2)),
                 lambda: pool.run(sids[0], normal(5, 2)), lambda: pool.close(sids[0]),
                 lambda: pool.reset([sids[3], sids[0]]),
                 lambda: pool.set_state(sids[0], state)):  # fmt: skip
        with pytest.raises(RuntimeError, match=message):
            call()
    with pytest.raises(RuntimeError, match=f"streams {sids[1]}, {sids[0]} are being advanced"):
        pool.close([sids[1], sids[2], sids[0]])
    for got, kept in zip(arrays_of(pool.state(sids[2])), arrays_of(state), strict=True):
        assert_same_bits(got, kept)
    assert pool.oldest(9).tolist() == sids[2:]
    assert sorted(pool.sids) == sorted(sids) and all(sid in pool for sid in sids)


def test_others_go_on(gated):
    pool, sids, gate, thread = gated
    expected = pool.state(sids[2])["0"][0]
    sid = pool.open(pool.state(sids[2]))
    assert_same_bits(pool.state(sid)["0"][0], expected)
    pool.reset(sids[3])
    pool.close(sid)
    other = _Thread(pool.step, [sids[3], sids[2]], normal(2, 2, seed=2))
    for _ in range(100):  # both are in the middle of a step
        if pool._table.ready[pool._table.sids == sids[3]] < 0:
            break
        time.sleep(0.01)
    gate.opened.set()
    assert thread.join().shape == other.join().shape == (2, 3)


@pytest.mark.parametrize("name", ["state", "to_bytes", "save", "restore", "copy"])
def test_who_wants_states_waits(name, gated, tmp_path):
    """Never half a step: the first LSTM has moved, the second has not."""
    pool, sids, gate, thread = gated
    pool._model.pool(6).save(tmp_path / "old")

    def wanted():
        if name == "state":
            return pool.state(sids[:2])
        if name == "to_bytes":
            return pool.to_bytes(sids[0])
        if name == "save":
            return pool.save(tmp_path / "pool")
        if name == "restore":
            return pool.restore(tmp_path / "old")
        return copy.copy(pool)

    waiting = _Thread(wanted)
    threading.Thread.join(waiting, 0.15)
    assert waiting.is_alive()
    late = None
    if name in ("save", "restore", "copy"):  # they hold others back, or might wait for ever
        late = _Thread(lambda: pool.step(sids[2], normal(2)) if name != "restore" else None)
        threading.Thread.join(late, 0.1)
        assert late.is_alive() or name == "restore"
    gate.opened.set()
    thread.join()
    result = waiting.join()
    if late:
        late.join()
    if name == "restore":
        assert len(pool) == 0
        return
    other = Sequential(LSTM(2, 3, seed=0), Gate(), LSTM(3, 3, seed=1)).pool(6)
    if name == "save":
        other.restore(tmp_path / "pool")
    elif name == "copy":
        other = result
    elif name == "to_bytes":
        sid = other.open(result)
        assert_same_bits(other.state(sid)["2"][0], pool.state(sids[0])["2"][0])
        return
    got = result if name == "state" else other.state(sids[:2])
    for one, own in zip(arrays_of(got), arrays_of(pool.state(sids[:2])), strict=True):
        assert_same_bits(one, own)


def test_a_step_does_not_wait_for_itself(tmp_path):
    """As in a signal handler, or a layer, that wants states in the middle of a step."""
    wanted = []

    class Asking(Layer):
        stepwise = True

        def forward(self, input):
            for want in wanted:
                with pytest.raises(RuntimeError, match="streams that this very thread advances"):
                    want()
            return input

    pool = Sequential(LSTM(2, 3), Asking()).pool(2)
    sid, other = pool.open(), pool.open()

    def step_another_and_save():
        going, wanted[:] = wanted[:], []  # the layer that is inside wants nothing
        pool.step(other, normal(2))
        wanted[:] = going
        pool.save(tmp_path / "pool")

    wanted += [step_another_and_save, lambda: pool.state(sid), lambda: pool.to_bytes(sid),
               lambda: pool.save(tmp_path / "pool"), lambda: pickle.dumps(pool)]  # fmt: skip
    pool.step(sid, normal(2))
    wanted.clear()
    pool.step([sid, other], normal(2, 2))
    pool.save(tmp_path / "pool")


def test_threads_at_once(exact_engine):
    """Each thread has streams of its own, opens and closes them, and all share one pool."""
    lstm = LSTM(3, 16, 2, engine=exact_engine, seed=0)
    pool, faults = lstm.pool(24), []

    def work(seed):
        twin = Twin(lstm, 4, seed=seed)
        twin.pool = _Part(pool, 4)
        try:
            twin.go(60)
        except BaseException as fault:
            faults.append(fault)

    threads = [_Thread(work, seed) for seed in range(6)]
    for thread in threads:
        thread.join(120)
    assert not faults


class _Part:
    """Some places of a pool, as a pool: what others do in the rest is not seen."""

    def __init__(self, pool, capacity):
        self._pool, self.capacity, self._own = pool, capacity, set()

    def __getattr__(self, name):
        return getattr(self._pool, name)

    def __contains__(self, sid):
        return sid in self._pool

    def __len__(self):
        return len(self._own)

    @property
    def sids(self):
        assert self._own <= {*self._pool.sids.tolist()}
        return np.array([*self._own], np.int64)

    def open(self, state=None):
        sid = self._pool.open(state)
        self._own.add(sid)
        return sid

    def close(self, sids):
        self._pool.close(sids)
        self._own -= {*np.atleast_1d(sids).tolist()}


def test_one_stream_that_all_want():
    """Each step is either refused or made, and made once."""
    lstm = LSTM(2, 64, seed=0)
    pool, made = lstm.pool(2), []
    sid, x = pool.open(), normal(2)

    def work():
        count = 0
        for _ in range(200):
            try:
                pool.step(sid, x)
                count += 1
            except RuntimeError:
                pass
        made.append(count)

    for thread in [_Thread(work) for _ in range(4)]:
        thread.join()
    stream = lstm.stream()
    for _ in range(sum(made)):
        stream.step(x[np.newaxis])
    assert_same_bits(pool.state(sid)[0], stream.state[0][:, 0])
    assert pool._table.clock == sum(made)


def test_a_stream_that_is_always_busy_can_be_read():
    pool, stop = LSTM(32, 64, seed=0).pool(100), threading.Event()
    sids = [pool.open() for _ in range(100)]
    x = normal(100, 32)

    def work():
        while not stop.is_set():
            pool.step(sids, x)

    thread = _Thread(work)
    for _ in range(30):
        states = [pool.state(sid)[0].tobytes() for sid in (sids[3], sids[3])]
        assert len(states) == 2
    stop.set()
    thread.join()


def test_saves_while_others_step(tmp_path):
    """No file has half a step: all streams of it have the same number of steps behind them."""
    model = Sequential(LSTM(2, 8, seed=0), LSTM(8, 8, seed=1))
    pool = model.pool(40)
    sids, stop = np.array([pool.open() for _ in range(40)]), threading.Event()
    # Constant inputs would let the states settle, and then one step looks like the next.
    x = normal(3000, 1, 2).repeat(20, axis=1)
    stream, states = model.stream(), {}
    for step in range(3000):
        states[stream.state["0"][0].tobytes()] = stream.state["1"][0].tobytes()
        stream.step(x[step, :1])
    assert len(states) == 3000

    def work(own):
        for step in range(2990):
            pool.step(own, x[step])
            if stop.is_set():
                break

    threads = [_Thread(work, own) for own in (sids[:20], sids[20:])]
    other = model.pool(40)
    for _ in range(20):
        pool.save(tmp_path / "pool")
        other.restore(tmp_path / "pool")
        for own in (sids[:20], sids[20:]):
            state = other.state(own)
            for k in range(20):
                second = states[np.ascontiguousarray(state["0"][0][:, k : k + 1]).tobytes()]
                assert np.ascontiguousarray(state["1"][0][:, k : k + 1]).tobytes() == second
    stop.set()
    for thread in threads:
        thread.join()


# ---- errors and Ctrl-C ----


class Failing(Layer):
    """A layer that raises what it is told to."""

    stepwise = True
    fault = None

    def forward(self, input):
        if self.fault is not None:
            raise self.fault
        return input


@pytest.mark.parametrize("fault", [ValueError("no"), MemoryError(), KeyboardInterrupt()])
def test_what_a_layer_raises_leaves_all_states(fault):
    failing = Failing()
    pool = Sequential(LSTM(2, 4, 2, seed=0), Linear(4, 3), failing, LSTM(3, 2)).pool(5)
    sids = [pool.open() for _ in range(5)]
    pool.step(sids, normal(5, 2))
    before, since = pool.state(sids), pool.steps_since(sids)
    failing.fault = fault
    for call in (lambda: pool.step(sids[1:], normal(4, 2, seed=1)),
                 lambda: pool.step(sids[0], normal(2, seed=1)),
                 lambda: pool.run(sids, normal(4, 5, 2), [4, 0, 3, 1, 2])):  # fmt: skip
        with pytest.raises(type(fault)):
            call()
        for got, kept in zip(arrays_of(pool.state(sids)), arrays_of(before), strict=True):
            assert_same_bits(got, kept)
    assert pool.steps_since(sids).tolist() == since.tolist()
    failing.fault = None
    pool.step(sids, normal(5, 2))


class Misshapen(Layer):
    stepwise = True
    keep = 10

    def forward(self, input):
        return input[: self.keep]


def test_layers_that_lose_rows():
    cut = Misshapen()
    pool = Sequential(LSTM(2, 4, seed=0), cut).pool(5)
    sids = [pool.open() for _ in range(3)]
    pool.step(sids, normal(3, 2))
    before, out = pool.state(sids), np.zeros((3, 4), np.float32)
    cut.keep = 2
    with pytest.raises(ValueError, match=r"Expected the model to give 3 rows, got shape \(2, 4\)"):
        pool.step(sids, normal(3, 2), out)
    assert not out.any()
    cut.keep = 10
    with pytest.raises(ValueError, match=r"out must be .* of shape \(3, 4\), got"):
        pool.step(sids, normal(3, 2), np.zeros((3, 5), np.float32))
    for got, kept in zip(arrays_of(pool.state(sids)), arrays_of(before), strict=True):
        assert_same_bits(got, kept)
    assert pool.step(sids, normal(3, 2), out) is out and out.any()


OWN = [module.__file__ for module in (claims, places, pool_module, pooled)]


def interrupted(function, moment):
    """Call a function, and raise KeyboardInterrupt where the n-th Ctrl-C might in the pool's code.

    Python runs the handlers of signals when a function begins and when one in C has returned.
    Returns whether the function went on to its end.
    """
    moments = 0

    def watch(frame, event, arg):
        nonlocal moments
        inside = {frame.f_code.co_name, frame.f_back.f_code.co_name}
        # What is raised in `__del__` is dropped by Python.
        if frame.f_code.co_filename in OWN and "__del__" not in inside:
            moments += event in ("call", "c_return")
            if moments == moment:
                raise KeyboardInterrupt

    old = sys.getprofile()
    sys.setprofile(watch)
    try:
        function()
    except KeyboardInterrupt:
        return False
    finally:
        sys.setprofile(old)
    assert moments < moment
    return True


def _two_ends(pool, sids, before, after):
    """Which of two states streams have: all the one or all the other."""
    got = [array.tobytes() for array in arrays_of(pool.state(sids))]
    assert got in (before, after)
    return got == after


@pytest.mark.parametrize("kind", ["one", "model"])
@pytest.mark.parametrize("name", ["step", "step one", "run"])
def test_ctrl_c_anywhere_in_a_step(kind, name, tmp_path):
    """The streams have made the step or not, nobody holds them, and everything goes on."""
    model = LSTM(2, 3, 2, seed=0)
    if kind == "model":
        model = Sequential(model, Linear(3, 3, seed=1), LSTM(3, 2, seed=2))
    pool = model.pool(5)
    sids = [pool.open() for _ in range(4)]
    pool.step(sids, normal(4, 2))
    moved = sids[:1] if name == "step one" else sids[:3]
    x = normal(3, 3, 2, seed=1)
    call = {"step": lambda: pool.step(moved, x[0]),
            "step one": lambda: pool.step(moved[0], x[0, 0]),
            "run": lambda: pool.run(moved, x, [2, 3, 1])}[name]  # fmt: skip
    start = pool.state(moved)
    before = [array.tobytes() for array in arrays_of(start)]
    call()
    after = [array.tobytes() for array in arrays_of(pool.state(moved))]
    assert before != after
    moment, ends = 1, []
    while True:
        pool.set_state(moved, start)
        done = interrupted(call, moment)
        ends.append(_two_ends(pool, moved, before, after))
        assert not pool._inside and (pool._table.ready == pool._table.sids).all()
        pool.save(tmp_path / "pool")  # waits for nobody
        if done:
            break
        moment += 1
    assert ends[-1] and not ends[0] and moment > 20


ELSE = {
    "open": lambda pool, sid, path: pool.open(),
    "open full": lambda pool, sid, path: pool.open(),
    "close": lambda pool, sid, path: pool.close(sid),
    "reset": lambda pool, sid, path: pool.reset(sid),
    "save": lambda pool, sid, path: pool.save(path),
    "restore": lambda pool, sid, path: pool.restore(path),
    "pickle": lambda pool, sid, path: pickle.dumps(pool),
}


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # which Python closes then
@pytest.mark.parametrize("name", ELSE)
def test_ctrl_c_anywhere_else(name, tmp_path):
    """Streams are open or closed, and there is room for as many as before."""
    lstm, function = LSTM(2, 3, seed=0), ELSE[name]
    moment = 1
    while True:
        pool = lstm.pool(3, evict=Pool.oldest)
        sids = [pool.open(), pool.open()]
        pool.step(sids, normal(2, 2))
        if name == "open full":
            sids.append(pool.open())
        pool.save(tmp_path / "pool")
        before = pool.state(sids[0])[0]
        done = interrupted(functools.partial(function, pool, sids[0], tmp_path / "pool"), moment)
        assert not pool._held.locked()
        if name not in ("close", "open full"):
            h = pool.state(sids[0])[0]
            assert name == "reset" and not h.any() or h.tobytes() == before.tobytes()
        pool.restore(tmp_path / "pool")
        live = pool.sids
        pool.close(live)
        new = [pool.open() for _ in range(3)]
        assert len({*new, *sids}) == 3 + len(sids) and len(pool) == 3
        assert not any(array.any() for array in arrays_of(pool.state(new)))
        pool.step(new, normal(3, 2))
        if done:
            break
        moment += 1
    assert moment > 5
    gc.collect()  # files that an interruption has left to the garbage, under this filter


def test_the_interruption_is_seen(tmp_path):
    """The test of Ctrl-C can fail: without its last resort, a claim may stay."""
    claim, cls = claims.Claim.__del__, claims.Claim
    gc.collect()
    cls.__del__ = lambda self: None
    try:
        with pytest.raises((AssertionError, RuntimeError)):
            test_ctrl_c_anywhere_in_a_step("one", "step", tmp_path)
    finally:
        cls.__del__ = claim


def test_tickets_are_of_one_call_alone_and_no_sids():
    """What a claim releases late is its own, and nobody finds a stream by a ticket."""
    pool = LSTM(2, 3).pool(6)
    sids = np.array([pool.open() for _ in range(6)])
    held = [claims.Claim(pool) for _ in range(3)]
    for claim, own in zip(held, (sids[:3], sids[3:4], sids[4:]), strict=True):
        claim.take(own)
    tickets = np.concatenate([claim._tickets for claim in held])
    assert len(np.unique(tickets)) == 6 and np.array_equal(pool._table.ready[:6], tickets)
    with pytest.raises(ValueError, match="and 1 more are no sids of live streams"):
        pool.step(tickets, normal(6, 2))
    for claim in held:
        claim.release()
    assert np.array_equal(pool._table.ready, pool._table.sids)


@pytest.mark.skipif(os.name == "nt", reason="sends a signal to this process")
def test_ctrl_c_in_a_long_run():
    """The engine ends it early, and all states are put back."""
    lstm = LSTM(256, 256, num_threads=2, seed=0)
    pool = lstm.pool(40)
    sids = [pool.open() for _ in range(40)]
    pool.step(sids, normal(40, 256))
    before = pool.state(sids)
    x = np.zeros((4000, 40, 256), np.float32)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        timer.start()
        while time.perf_counter() < start + SOON:
            pool.run(sids, x)
            pool.set_state(sids, before)
    timer.join()
    for got, kept in zip(pool.state(sids), before, strict=True):
        assert_same_bits(got, kept)
    pool.step(sids, x[0])
