"""Ctrl-C ends a long call.

Each call would take minutes; a signal comes after a moment. What matters is that the call ends
there, with the caller's states, inputs and gradients as they were, and that the next call is right.
A short call comes first, so that the signal does not find Numba at compiling.
"""

import contextlib
import signal
import threading
import time

import numpy as np
import pytest
from support import assert_same_bits

from fastlstm import LSTM, Linear, Sequential, Tanh

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer's signal")

LONG = 400_000  # steps, of an hour or so in all
SHORT = 50


class Interrupted(BaseException):
    """An exception like KeyboardInterrupt, which nothing but these tests raises."""


@pytest.fixture
def soon():
    """What runs ``with soon():`` is to end by `Interrupted`, which a signal's handler raises.

    It comes when the call is under way, and every five seconds again: what is raised where Python
    collects garbage is lost, and the call would go on for an hour.
    """

    def interrupt(*_):
        raise Interrupted

    @contextlib.contextmanager
    def interrupted():
        with pytest.raises(Interrupted):
            signal.setitimer(signal.ITIMER_REAL, 0.05, 5)
            try:
                yield
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)

    before = signal.signal(signal.SIGALRM, interrupt)
    yield interrupted
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(params=[1, 2])
def num_threads(request):
    return request.param


def make(engine, num_threads, **options):
    return LSTM(2, 300, engine=engine, num_threads=num_threads, seed=0, **options)


def lazy(*shape):
    """Zeros that take no memory before they are read."""
    return np.zeros(shape, np.float32)


SHAPES = {
    "units": ({}, 1),
    "sequences": ({}, 9),
    "directions": ({"bidirectional": True}, 1),
    "stack": ({"num_layers": 2}, 2),
    "projection": ({"proj_size": 30}, 1),
    "options": ({"peephole": True, "layer_norm": "haste"}, 9),
    "one row of options": ({"coupled": "f=1-i", "layer_norm": "tflite"}, 1),
}
CELLS = {"plain": {}, "options": {"peephole": True, "layer_norm": "haste"}}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_call(engine, num_threads, soon, shape):
    options, batch = SHAPES[shape]
    lstm = make(engine, num_threads, **options)
    x = lazy(LONG // batch, batch, 2)
    small = np.random.default_rng(0).standard_normal((SHORT, batch, 2)).astype(np.float32)
    expected, _ = lstm(small)
    with soon():
        lstm(x)
    assert_same_bits(lstm(small)[0], expected)


def test_a_stream_stays_where_it_was(engine, num_threads, soon):
    lstm = make(engine, num_threads, num_layers=2)
    x = np.random.default_rng(0).standard_normal((SHORT, 2, 2)).astype(np.float32)
    stream, other = lstm.stream(2), lstm.stream(2)
    stream.run(x), other.run(x)
    with soon():
        stream.run(lazy(LONG, 2, 2))
    for state, expected in zip(stream.state, other.state, strict=True):
        assert_same_bits(state, expected)
    assert_same_bits(stream.run(x), other.run(x))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("checkpoint_every", [None, LONG])
def test_a_recorded_run(engine, num_threads, soon, checkpoint_every, cell):
    lstm = make(engine, num_threads, **CELLS[cell])
    lstm.vjp(lazy(SHORT, 1, 2), checkpoint_every=checkpoint_every)
    with soon():
        lstm.vjp(lazy(LONG, 1, 2), checkpoint_every=checkpoint_every)
    assert not any(grad.any() for grad in lstm.grads.values())


@pytest.mark.parametrize("cell", CELLS)
def test_a_pullback_adds_all_or_nothing(engine, soon, cell):
    """The gradients of the model's head and of layers above had been added before the signal."""
    lstm = LSTM(2, 128, 3, engine=engine, num_threads=1, seed=0, **CELLS[cell])
    model = Sequential(lstm, Linear(128, 3, engine=engine, seed=0))
    y, pullback = model.vjp(np.ones((500, 8, 2), np.float32))
    pullback(np.ones_like(y))
    calls, before = 0, {name: grad.copy() for name, grad in model.grads.items()}
    with soon():
        while True:
            before = {name: grad.copy() for name, grad in model.grads.items()}
            pullback(np.ones_like(y))
            calls += 1
    one = {name: grad.copy() for name, grad in model.grads.items()}
    # the signal may have come between a pullback and the copy behind it
    same = [np.array_equal(one[name], grad) for name, grad in before.items()]
    assert all(same) or (calls and not any(same))
    pullback(np.ones_like(y))
    assert not any(np.array_equal(grad, one[name]) for name, grad in model.grads.items())


def test_a_stream_of_a_whole_model_stays_where_it_was(engine):
    """Its first LSTM had gone through the chunk when the second one was cut short.

    An engine that goes through all layers in one call would not be cut short between them, and it
    does not know Tanh.
    """
    how = {"engine": engine, "seed": 0}
    model = Sequential(LSTM(2, 2, **how), Tanh(), LSTM(2, 2, **how))
    x = np.random.default_rng(0).standard_normal((SHORT, 2, 2)).astype(np.float32)
    stream, other = model.stream(2), model.stream(2)
    stream.run(x), other.run(x)
    interrupted = stream._streams["2"]

    def run(x):
        interrupted.state = [np.ones((1, 2, 2), np.float32)] * 2
        raise Interrupted

    interrupted.run = run
    with pytest.raises(Interrupted):
        stream.run(x)
    del interrupted.run
    assert_same_bits(stream.run(x), other.run(x))


def test_a_handler_that_does_not_raise_changes_nothing(engine, num_threads):
    """It runs in the middle of the call, which goes on and gives the same bits."""
    lstm = make(engine, num_threads)
    x = np.random.default_rng(0).standard_normal((4000, 2, 2)).astype(np.float32)
    expected, came = lstm(x)[0], []
    before = signal.signal(signal.SIGALRM, lambda *_: came.append(lstm(x[:3])))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.02)
    try:
        got = lstm(x)[0]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert came
    assert_same_bits(got, expected)


def test_only_the_main_thread_is_interrupted(engine, soon):
    """A call in another thread goes on, as Python's own rule is."""
    lstm = make(engine, 1)
    x = np.ones((4000, 1, 2), np.float32)
    expected, results = lstm(x)[0], []
    thread = threading.Thread(target=lambda: results.append(lstm(x)[0]))
    with soon():
        thread.start()
        time.sleep(100)
    while thread.is_alive():
        time.sleep(0.01)
    assert_same_bits(results[0], expected)


def test_a_linear_layer(engine, soon):
    linear = Linear(2000, 2000, engine=engine, seed=0)
    x = np.ones((5000, 2000), np.float32)
    linear(x[:1])
    with soon():
        for _ in range(1000):
            linear(x)
    assert linear(np.ones((1, 2000), np.float32)).shape == (1, 2000)


def test_a_linear_pullback_adds_all_or_nothing():
    """It was cut short between the gradient of the weight and that of the bias."""

    class Cut:
        def __iadd__(self, _):
            raise Interrupted

    linear = Linear(2, 3, seed=0)
    y, pullback = linear.vjp(np.ones((4, 2), np.float32))
    pullback(np.ones_like(y))
    before = {name: grad.copy() for name, grad in linear.grads.items()}
    linear._learnt_grads = lambda: {"weight": linear.grads["weight"], "bias": Cut()}
    with pytest.raises(Interrupted):
        pullback(np.ones_like(y))
    for name, grad in linear.grads.items():
        assert_same_bits(grad, before[name])


@pytest.mark.parametrize("written", [False, True])
def test_gradients_are_put_back_as_they_were(written):
    """No copy of zeros is kept, but a caller with views of them may have written there."""
    lstm = LSTM(2, 3, engine="numpy", seed=0)
    (y, _), pullback = lstm.vjp(np.ones((5, 2, 2), np.float32))
    pullback(np.ones_like(y))
    views = lstm.grads if written else {}
    lstm.zero_grad()
    for view in views.values():
        view[...] = 3
    back = lstm._back

    def cut_short(*arguments):
        back(*arguments)
        raise Interrupted

    lstm._back = cut_short
    with pytest.raises(Interrupted):
        pullback(np.ones_like(y))
    assert all((grad == (3 if written else 0)).all() for grad in lstm.grads.values())
