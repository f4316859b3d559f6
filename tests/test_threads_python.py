"""Threads of Python that share a model: each call is right, as if it ran alone.

In a Python without the GIL they really run side by side. With it, they are made to take turns as
often as can be. What is shared: weights that are packed at the first call, work spaces, products of
an embedding's rows, plans of a graph, the memory of training.
"""

import concurrent.futures
import contextlib
import copy
import itertools
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from support import assert_same_bits
from test_graphs_alike import graph
from test_graphs_alike import model_of as graph_of

import fastlstm
from fastlstm import LSTM, Dropout, Embedding, Last, Layer, Linear, LSTMCell, Sequential
from fastlstm.training import Adam, EarlyStopping, MSELoss

THREADS = 4
RNG = np.random.default_rng(0)


@contextlib.contextmanager
def restless():
    """With the GIL: threads hand it over after a few microseconds of Python."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def together(work, times=1):
    """Call work(thread) in THREADS threads, which begin each of so many rounds at once.

    Returns what the calls returned, round by round.
    """
    barrier = threading.Barrier(THREADS)

    def rounds(thread):
        results = []
        try:
            for _ in range(times):
                barrier.wait(60)
                results.append(work(thread))
        except threading.BrokenBarrierError:
            pass  # another thread has failed, and tells why
        except BaseException:
            barrier.abort()
            raise
        return results

    with restless(), concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        each = [*pool.map(rounds, range(THREADS))]
    assert all(len(results) == times for results in each)
    return [*zip(*each, strict=True)]


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def arrays_of(result):
    """All arrays in what a call returns, side by side."""
    if isinstance(result, np.ndarray):
        return [np.ascontiguousarray(result)]
    return [array for part in result for array in arrays_of(part)]


def assert_same(got, expected):
    for one, other in zip(arrays_of(got), arrays_of(expected), strict=True):
        assert_same_bits(one, other)


def is_same(got, expected):
    pairs = zip(arrays_of(got), arrays_of(expected), strict=True)
    return all(np.array_equal(one, other) for one, other in pairs)


def stacked(seed):
    parts = [Embedding(9, 5, seed=seed), LSTM(5, 20, 2, seed=seed), Linear(20, 3, seed=seed)]
    return Sequential(*parts).eval()


# What is shared, each made anew by a seed, and what it is called with.
SHARED = {
    "lstm": (lambda seed: LSTM(5, 40, 2, bidirectional=True, seed=seed), normal(7, 3, 5)),
    "widths": (lambda seed: LSTM(5, [24, 40], seed=seed), normal(7, 3, 5)),
    "cell": (lambda seed: LSTMCell(5, 40, seed=seed), normal(3, 5)),
    "linear": (lambda seed: Linear(50, 40, seed=seed), normal(3, 50)),
    "embedding": (lambda seed: Embedding(9, 400, seed=seed), np.arange(9)),
    "sequential": (stacked, RNG.integers(0, 9, (7, 3))),
}


# ---- first calls --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHARED)
def test_first_calls_at_once(name):
    """They pack the weights once, and each gets the result of a call alone."""
    make, x = SHARED[name]
    expected = make(1)(x)
    for _ in range(10):
        layer = make(1)
        for (*results,) in together(lambda _, layer=layer: layer(x), times=2):
            for got in results:
                assert_same(got, expected)


def test_weights_are_packed_once(monkeypatch):
    """A thread that comes while another one packs waits for it, and takes what it has packed."""
    lstm, linear = LSTM(5, 300, seed=0), Linear(500, 400, seed=0)
    made, calls = [], [lambda: lstm(normal(2, 1, 5)), lambda: linear(normal(3, 500))]
    for layer, kind in (lstm, "Stack"), (linear, "Product"):
        engine = layer._engine

        class Counting:
            def __init__(self, engine=engine, kind=kind):
                self._engine, self._kind = engine, kind

            def __getattr__(self, name):
                if name == self._kind:
                    made.append(name)
                return getattr(self._engine, name)

        vars(layer)["_engine"] = Counting()
    for version in range(1, 6):
        together(lambda _: [call() for call in calls])
        assert sorted(made) == ["Product"] * version + ["Stack"] * version
        lstm.changed()
        linear.changed()


def test_first_steps_at_once():
    lstm, x = LSTM(5, 40, 2, seed=0), normal(6, 2, 5)
    expected = lstm(x)[0]
    for _ in range(20):
        layer = LSTM(5, 40, 2, seed=0)

        def steps(_, layer=layer):
            stream = layer.stream(2)
            return np.stack([stream.step(x_t) for x_t in x])

        for got in together(steps)[0]:
            assert_same_bits(got, expected)


# ---- calls of all kinds -------------------------------------------------------------------------


def test_calls_share_no_work_space():
    """Of many sizes, more threads than a stack keeps work spaces for."""
    lstm = LSTM(5, 33, 2, seed=0, num_threads=1).eval()
    inputs = [normal(T, B, 5) for T, B in [(1, 1), (2, 30), (40, 1), (9, 9), (3, 100), (200, 2)]]
    expected = [lstm(x) for x in inputs]

    def calls(thread):
        for n in range(60):
            k = (n * (thread + 1)) % len(inputs)
            assert_same(lstm(inputs[k]), expected[k])

    together(calls)


def test_small_calls_share_no_work_space():
    """They take and give back work spaces so often that some do it at the same moment."""
    lstm, x = LSTM(5, 33, seed=0, num_threads=1).eval(), normal(THREADS, 6, 1, 5)
    expected = [lstm(own)[0] for own in x]

    def calls(thread):
        own = x[thread]
        outputs = np.stack([lstm(own)[0] for _ in range(5000)])
        assert (outputs == expected[thread]).all()

    together(calls, times=4)


def test_streams_of_one_layer_are_apart():
    lstm, xs = LSTM(5, 33, 2, seed=0), normal(THREADS, 300, 2, 5)
    expected = [lstm(x)[0] for x in xs]

    def steps(thread):
        stream, out = lstm.stream(2), np.empty((2, 33), np.float32)
        for x_t, y_t in zip(xs[thread], expected[thread], strict=True):
            assert_same_bits(stream.step(x_t, out=out), y_t)

    together(steps)


def test_products_made_ahead_belong_to_the_weights():
    """Threads count rows together, and make a table; calls and steps before and after agree."""
    index = RNG.integers(0, 9, (5, 2))
    for seed in range(5):
        model = stacked(seed)
        embedding, lstm, linear = model
        expected = linear(lstm(embedding(index))[0])

        def work(_, model=model, expected=expected):
            stream = model.stream(2)
            for _ in range(4):
                stream.reset()
                assert_same(model(index), expected)
                assert_same(np.stack([stream.step(row) for row in index]), expected)

        together(work)
        assert lstm._ahead.made is not None


def test_graph():
    """Calls that are alike share a plan, which one of them makes."""
    x = normal(3, 4)
    for _ in range(5):
        model = graph_of(*graph(), "x", "p")
        expected = model.plan.run([x])

        def calls(thread, model=model, expected=expected):
            for _ in range(40):
                assert_same(model.run(None, {"x": x}), expected)

        together(calls)
        alike = model._alike
        assert alike._left == 0 and alike._plan is not model.plan


def test_backward_passes():
    """Pullbacks of different layers are at once; the memory of training is each one's own."""
    x, d = normal(9, 4, 5), normal(9, 4, 24)
    layers = [LSTM(5, 24, 2, dropout=0.0, seed=k) for k in range(THREADS)]

    def trained(layer):
        layer.zero_grad()
        (output, _), pullback = layer.vjp(x)
        return output, pullback(d), [g.copy() for g in layer.grads.values()]

    expected = [trained(copy.deepcopy(layer)) for layer in layers]
    for results in together(lambda thread: trained(layers[thread]), times=10):
        for got, want in zip(results, expected, strict=True):
            assert_same(got, want)


def test_backward_passes_of_one_layer():
    """What a pullback returns is right. Only the sums of `grads` need one thread at a time."""
    lstm, linear = LSTM(5, 24, 2, seed=0), Linear(24, 3, seed=0)
    model = Sequential(lstm, linear)
    xs, d = normal(THREADS, 9, 4, 5), normal(9, 4, 3)

    def gradient(x):
        y, pullback = model.vjp(x)
        return y, pullback(d)

    expected = [gradient(x) for x in xs]
    for results in together(lambda thread: gradient(xs[thread]), times=20):
        for got, want in zip(results, expected, strict=True):
            assert_same(got, want)
    assert all(np.isfinite(g).all() for g in model.grads.values())


def test_first_gradients_of_one_layer():
    """Whatever was lost, views and buffer of the gradients are the same memory."""
    for _ in range(30):
        linear = Linear(40, 30, seed=0)
        together(lambda _, linear=linear: linear._own_grads())
        ((_, _, flat),) = linear.buffers()
        linear.grads["weight"][...] = 1
        assert flat.sum() == 40 * 30


# ---- weights that change meanwhile --------------------------------------------------------------


@contextlib.contextmanager
def meanwhile(work):
    """Repeat work(n) in another thread while a block runs."""
    done, failed = threading.Event(), []

    def repeat():
        try:
            n = 0
            while not done.wait(1e-4):  # locks are not fair: who takes them at once starves others
                work(n)
                n += 1
        except BaseException as fault:
            failed.append(fault)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    assert not failed, failed


@pytest.mark.parametrize("name", [name for name in SHARED if name != "sequential"])
def test_results_are_of_old_or_new_weights(name):
    """Never of some parameters before, and of others after another thread has loaded them."""
    make, x = SHARED[name]
    layer, versions = make(0), [make(seed) for seed in (1, 2)]
    states, expected = [v.state_dict() for v in versions], [v(x) for v in versions]
    layer.load_state_dict(states[0])

    def calls(_):
        for _ in range(200):
            got = layer(x)
            assert any(is_same(got, one) for one in expected)

    with meanwhile(lambda n: layer.load_state_dict(states[n % 2])):
        together(calls)
    for state, one in zip(states, expected, strict=True):
        layer.load_state_dict(state)
        assert_same(layer(x), one)  # nothing of an older version is left


def test_steps_are_of_old_or_new_weights():
    lstm, x = LSTM(5, 40, seed=0), normal(2, 5)
    versions = [LSTM(5, 40, seed=seed) for seed in (1, 2)]
    states, expected = [v.state_dict() for v in versions], [v.stream(2).step(x) for v in versions]
    lstm.load_state_dict(states[0])

    def steps(_):
        stream = lstm.stream(2)
        for _ in range(300):
            stream.reset()
            got = stream.step(x)
            assert any(np.array_equal(got, one) for one in expected)

    with meanwhile(lambda n: lstm.load_state_dict(states[n % 2])):
        together(steps)


@pytest.mark.parametrize("changed", ["lstm", "embedding"])
def test_products_made_ahead_are_of_old_or_new_weights(changed):
    """No product of an old weight is added to one of a new weight."""
    index, layers = RNG.integers(0, 9, (6, 2)), {}
    for seed in (1, 2):
        layers["embedding", seed] = Embedding(9, 64, seed=seed if changed == "embedding" else 0)
        layers["lstm", seed] = LSTM(64, 40, seed=seed if changed == "lstm" else 0)
    states = [layers[changed, seed].state_dict() for seed in (1, 2)]
    expected = [layers["lstm", s](layers["embedding", s](index))[0] for s in (1, 2)]
    model = Sequential({name: layers[name, 1] for name in ("embedding", "lstm")}).eval()
    layer = getattr(model, changed)
    made = []

    def calls(_):
        stream = model.stream(2)
        for _ in range(150):
            got = model(index)
            assert any(np.array_equal(got, one) for one in expected)
            stream.reset()
            got = stream.step(index[0])
            assert any(np.array_equal(got, one[0]) for one in expected)
            ahead = model["lstm"]._ahead
            made.append(ahead is not None and ahead.made is not None)

    def change(n):
        layer.load_state_dict(states[n % 2])
        threading.Event().wait(0.001)  # for long enough that products are made

    with meanwhile(change):
        for _ in range(20):  # until products are made, for which there may be no time
            if not any(made):
                together(calls)
    assert any(made)


@contextlib.contextmanager
def half_written(layer):
    """Another thread has written a part of the parameters, not yet the rest; then it goes on."""
    (_, parameters, _) = next(iter(layer.buffers()))
    right = parameters.copy()
    with layer._exclusive():
        parameters[::2] = np.nan
        yield
        time.sleep(0.1)
        parameters[...] = right
        layer.changed()


@pytest.mark.parametrize("name", [name for name in SHARED if name != "sequential"])
@pytest.mark.parametrize("what", ["call", "state_dict", "copy", "vjp"])
def test_what_is_made_waits_for_the_rest(name, what):
    """Nothing is packed or copied between two writes; no thread's luck is needed to see it."""
    make, x = SHARED[name]
    layer, work = (
        make(1),
        {
            "call": lambda layer: layer(x),
            "state_dict": lambda layer: [*layer.state_dict().values()],
            "copy": lambda layer: copy.deepcopy(layer)(x),
            "vjp": lambda layer: layer.vjp(x)[0],
        }[what],
    )
    expected = work(make(1))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with half_written(layer):
            got = pool.submit(work, layer)
        assert_same(got.result(60), expected)


@pytest.mark.parametrize("changed", ["lstm", "embedding"])
def test_products_made_ahead_wait_for_the_rest(native, changed):
    index, model = RNG.integers(0, 9, (6, 2)), stacked(0)
    expected = [model(index) for _ in range(2)][0]  # the second one begins to count
    embedding, lstm, _ = model
    lstm._ahead.left = 1  # the next call makes them
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with half_written({"lstm": lstm, "embedding": embedding}[changed]):
            got = pool.submit(model, index)
        assert_same(got.result(60), expected)
    assert_same(model(index), expected)


def test_a_call_takes_the_products_and_the_weights_of_one_version(native):
    """Between the two, another thread loads and packs new weights."""
    index, model, other = RNG.integers(0, 9, (6, 2)), stacked(0), LSTM(5, 20, 2, seed=5)
    for _ in range(4):
        expected = model(index)
    lstm = model[1]
    assert lstm._ahead.made is not None
    ahead_of = lstm._ahead_of

    def changed_meanwhile(lookup):
        ahead = ahead_of(lookup)
        lstm.load_state_dict(other.state_dict())
        lstm._whole_stacks()
        return ahead

    vars(lstm)["_ahead_of"] = changed_meanwhile
    assert_same(model(index), expected)


def test_a_call_waits_for_an_optimisers_step():
    linear, x, calls = Linear(30, 20, seed=0), normal(3, 30), []

    class Slow(fastlstm.training.SGD):
        def _update(self, p, *more):
            right = p.copy()
            p[...] = np.nan
            linear.changed()
            calls.append(pool.submit(linear, x))
            time.sleep(0.1)
            p[...] = right
            super()._update(p, *more)

    optimiser = Slow(linear, lr=1.0)
    linear.zero_grad()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        optimiser.step()
        assert_same_bits(calls[0].result(60), linear(x))


def test_a_step_that_looks_up_sees_a_change_during_the_step_before(native):
    """The table that a stream took belongs to the version that was there before it took it."""
    model, other, index = stacked(0), Embedding(9, 5, seed=5), np.array([3])
    for _ in range(4):
        model(np.arange(9))
    assert model[1]._ahead.made is not None
    stream = model.stream()
    part = stream._part.parts[0]
    step_of = part._stream._step_of

    def changed_meanwhile(*arguments):
        step = step_of(*arguments)
        model[0].load_state_dict(other.state_dict())
        return step

    part._stream._step_of = changed_meanwhile
    stream.step(index)
    stream.reset()
    assert_same(stream.step(index), model(index[None])[0])


def test_settings_wait_for_what_is_packed():
    lstm = LSTM(5, 20, seed=0)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with lstm._exclusive():  # as a thread does that packs
            set_it = pool.submit(setattr, lstm, "zoneout", 0.5)
            time.sleep(0.1)
            assert lstm.zoneout == 0
        set_it.result(60)
    assert lstm.zoneout == 0.5


def test_settings_change_meanwhile():
    """`zoneout` goes into what is packed: no thread goes on with what it was."""
    lstm, x = LSTM(5, 20, seed=0).eval(), normal(4, 2, 5)
    expected = []
    for zoneout in (0.1, 0.4):
        lstm.zoneout = zoneout
        expected.append(lstm(x))

    def change(n):
        lstm.zoneout = (0.1, 0.4)[n % 2]
        assert_same(lstm(x), expected[n % 2])

    def calls(_):
        for _ in range(100):
            got = lstm(x)
            assert any(is_same(got, one) for one in expected)

    with meanwhile(change):
        together(calls)


def test_training_beside_calls():
    """A model that is trained in one thread may answer in others, each time from one version."""
    linear, x = Linear(30, 20, seed=0), normal(3, 30)
    optimiser = fastlstm.training.SGD(linear, lr=1.0)
    weight, step = linear.weight.copy(), np.ones((20, 30), np.float32)
    linear.bias = np.zeros(20)
    versions = [weight, weight - step]
    expected = []
    for version in versions:
        linear.weight = version
        expected.append(linear(x))
    linear.weight = weight

    def train(n):
        linear.zero_grad()
        linear.grads["weight"][...] = step if n % 2 == 0 else -step
        optimiser.step()

    def calls(_):
        for _ in range(200):
            got = linear(x)
            assert any(np.allclose(got, one, atol=1e-4) for one in expected)

    with meanwhile(train):
        together(calls)


class Meeting(fastlstm.Layer):
    """A layer at which the first call waits until a second one is there, and that for its end."""

    def __init__(self):
        super().__init__()
        self.calls, self.inside, self.go_on = (
            itertools.count(),
            threading.Event(),
            threading.Event(),
        )
        self.first = None

    def forward(self, input):
        call = next(self.calls)
        if call == 0:
            self.inside.set()
            assert self.go_on.wait(60)
        elif call == 1:
            self.go_on.set()
            self.first.join(60)
        return input


@contextlib.contextmanager
def whoever_comes_first(model, training):
    """A switch of the mode with a fault: each restores what it has found."""
    before = [(layer, layer.training) for _, layer in model.named_layers()]
    model.train(training)
    try:
        yield
    finally:
        for layer, was in before:
            layer.training = was


def predictions_in_threads(model, x):
    """One prediction that ends in the middle of another one."""
    meeting, results = model[1], []
    meeting.first = threading.Thread(target=lambda: results.append(fastlstm.predict(model, x)))
    meeting.first.start()
    assert meeting.inside.wait(60)
    return [fastlstm.predict(model, x), *results]


def predictions_in_iterators(model, x):
    """The same with iterators, in one thread."""
    next(model[1].calls), next(model[1].calls)
    one, other = (fastlstm.predict(model, iter([part, part])) for part in (x, x))
    results = [next(one), next(other), next(one)]
    assert next(one, None) is None
    return [*results, next(other), *other]


@pytest.mark.parametrize("switch", ["ours", whoever_comes_first])
@pytest.mark.parametrize("predictions", [predictions_in_threads, predictions_in_iterators])
def test_predictions_of_a_model_in_training(monkeypatch, predictions, switch):
    """Dropout is off until the last of them has ended, and then each layer is as it was."""
    x = normal(5, 3)
    model = Sequential(Linear(3, 8, seed=0), Meeting(), Dropout(0.5, seed=0), Dropout(0.5, seed=0))
    model[3].eval()
    expected = model[0](x)
    if switch != "ours":
        monkeypatch.setattr(sys.modules["fastlstm.training.predict"], "mode", switch)
    results = predictions(model, x)
    modes = [layer.training for _, layer in model.named_layers()]
    agree = [np.array_equal(result, expected) for result in results]
    assert len(results) in (2, 4)
    assert (all(agree) and modes == [True, True, True, True, False]) == (switch == "ours")


def trained_beside(data, at_epoch, meanwhile):
    """The weights of a training with validation, after whose epoch another thread does something.

    And what that has returned.
    """
    model = Sequential(LSTM(3, 4, seed=0), Last(), Dropout(0.5, seed=0), Linear(4, 1, seed=0))
    found = []

    def elsewhere(state):
        if state.epoch == at_epoch:
            thread = threading.Thread(target=lambda: found.append(meanwhile(model, data[0])))
            thread.start()
            thread.join(60)
            assert not thread.is_alive()

    fastlstm.fit(
        model, data, MSELoss(), Adam(model), 3, 8, validation=data, callbacks=[elsewhere],
        progress=False,
    )  # fmt: skip
    assert model.training
    fastlstm.predict(model, data[0])  # nobody trains it any longer
    return model.state_dict(), found


def test_a_model_does_not_predict_while_another_thread_trains_it():
    """It would learn without its dropout, or predict with it; in a callback it may predict."""

    def predicts(model, x):
        with pytest.raises(RuntimeError, match="^model: it is trained in another thread right now"):
            fastlstm.predict(model, x)
        return fastlstm.predict(copy.deepcopy(model), x)

    data = normal(20, 5, 3), normal(20, 1)
    expected, _ = trained_beside(data, None, None)
    for epoch in (1, 2):
        got, [outcome] = trained_beside(data, epoch, predicts)
        assert outcome.shape == (20, 1)
        for name, value in expected.items():
            assert_same_bits(got[name], value)


def test_a_model_in_training_does_not_predict_elsewhere_while_it_is_measured():
    """As for a validation, behind which its dropout would stay off."""
    data, found = (normal(20, 5, 3), normal(20, 1)), []
    model = Sequential(LSTM(3, 4, seed=0), Last(), Dropout(0.5), Linear(4, 1, seed=0))

    def predicts():
        with pytest.raises(RuntimeError, match="^model: it is trained in another thread right now"):
            fastlstm.predict(model, data[0])
        found.append("refused")

    def measures(state):
        results = fastlstm.predict(model, iter([data[0]] * 2))
        next(results)
        thread = threading.Thread(target=predicts)
        thread.start()
        thread.join(60)
        results.close()

    fastlstm.fit(model, data, MSELoss(), Adam(model), 1, callbacks=[measures], progress=False)
    assert found == ["refused"]


def test_an_error_that_is_kept_says_nothing_of_later_modes():
    """As a future keeps one, with the frames in which it was raised."""

    def refused(model, x):
        with pytest.raises(RuntimeError) as fault:
            fastlstm.predict(model, x)
        return model, x, fault

    _, [(model, x, _fault)] = trained_beside((normal(20, 5, 3), normal(20, 1)), 1, refused)
    model.eval()
    fastlstm.predict(model, x)
    assert not any(layer.training for _, layer in model.named_layers())


def test_a_model_is_not_trained_while_another_thread_predicts_with_it():
    x, faults = normal(20, 5, 3), []
    early = EarlyStopping(3, monitor="loss")

    class Trains(Layer):
        stepwise = True

        def forward(self, input):
            if not faults:
                faults.append(None)
                thread = threading.Thread(target=train)
                thread.start()
                thread.join(60)
            return input

    model = Sequential(LSTM(3, 4, seed=0), Last(), Dropout(0.5), Linear(4, 1, seed=0))
    whole = Sequential(Trains(), *model)
    before = model.state_dict()

    def train():
        with pytest.raises(RuntimeError, match="^model: it predicts in another thread right now"):
            fit()
        faults.append("refused")

    def fit():
        fastlstm.fit(
            model, (x, normal(20, 1)), MSELoss(), Adam(model), 1, callbacks=[early], progress=False
        )

    fastlstm.predict(whole, x)
    assert faults == [None, "refused"] and model.training
    for name, value in model.state_dict().items():
        assert_same_bits(value, before[name])
    fit()  # which the callback may serve, too


@pytest.mark.parametrize("name", SHARED)
def test_copies_and_files_meanwhile(name, tmp_path):
    """Copies, state dicts and files are of one version, while others call and load."""
    make, x = SHARED[name]
    layer, states = make(0), [make(seed).state_dict() for seed in (1, 2)]
    layer.load_state_dict(states[0])

    def is_one(state):
        parts = {}  # of a Sequential, each layer is of one version
        for key in state:
            parts.setdefault(key.rpartition(".")[0], []).append(key)
        return all(
            any(all(np.array_equal(state[k], s[k]) for k in keys) for s in states)
            for keys in parts.values()
        )

    def work(thread):
        path = tmp_path / f"{thread % 2}.npz"  # two threads write each file
        for _ in range(5):
            assert is_one(layer.state_dict())
            assert is_one(copy.deepcopy(layer).state_dict())
            fastlstm.save(layer, path)
            assert is_one(fastlstm.load_state(path))
            layer(x)

    with meanwhile(lambda n: layer.load_state_dict(states[n % 2])):
        together(work)


# ---- what is not allowed ------------------------------------------------------------------------


def test_one_stream_in_two_threads(native):
    """The engine native refuses the second step; nothing is written that is not the stream's."""
    lstm = LSTM(64, 96, engine="native", seed=0, num_threads=1)
    stream, x, refused = lstm.stream(2000), normal(2000, 64), []

    def steps(_):
        for _ in range(20):
            try:
                y = stream.step(x)
            except RuntimeError as fault:
                refused.append(str(fault))
            else:
                assert np.isfinite(y).all()

    for _ in range(20):  # until two have met
        if not refused:
            together(steps)
    assert set(refused) == {
        "two threads step one stream at once: a stream belongs to one thread at a time"
    }
    stream.reset()
    assert_same_bits(stream.step(x), lstm.stream(2000).step(x))  # it goes on


def test_one_stream_of_a_model_in_two_threads(native):
    """In one call through all layers, and by its LSTM's own stream; it goes on afterwards."""
    how = {"engine": "native", "seed": 0, "num_threads": 1}
    model = Sequential(LSTM(64, 96, **how), LSTM(96, 96, **how), Linear(96, 3, **how))
    stream, x, refused = model.stream(1000), normal(1000, 64), []
    assert stream._line is not None

    def steps(number):
        for _ in range(20):
            try:
                y = stream.step(x) if number % 2 else stream._streams["0"].step(x)
            except RuntimeError as fault:
                refused.append(str(fault))
            else:
                assert np.isfinite(y).all()

    together(steps)
    assert refused and set(refused) == {
        "two threads step one stream at once: a stream belongs to one thread at a time"
    }
    stream.reset()
    assert_same_bits(stream.step(x), model.stream(1000).step(x))


def test_a_stream_goes_on_after_an_error(native):
    stream, x = LSTM(3, 4, engine="native", seed=0).stream(), normal(1, 3)
    for _ in range(2):
        with pytest.raises(ValueError, match="must have shape"):
            stream.step(x[:, :2])
    assert stream.step(x).shape == (1, 4)


def test_misuse_does_not_crash():
    """Small steps of one stream, pullbacks into the same gradients, training in several threads."""
    stream, x = LSTM(5, 20, seed=0).stream(2), normal(2, 5)
    lstm = LSTM(5, 20, seed=0)
    optimiser = fastlstm.training.SGD(lstm, lr=0.01)

    def work(_):
        for n in range(100):
            with contextlib.suppress(RuntimeError):
                stream.step(x)
                stream.run(x[None])
                stream.reset()
            (output, _), pullback = lstm.vjp(x[None])
            pullback(output)
            optimiser.step()
            lstm.zero_grad()
            if n % 10 == 0:
                lstm.train(n % 20 == 0)

    together(work)
    assert lstm(x[None])[0].shape == (1, 2, 20)


# ---- the process --------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_forked_while_a_thread_packs():
    """It does not wait for the lock of a thread that it does not have."""
    lstm, x = LSTM(5, 20, seed=0), normal(4, 2, 5)
    expected, held, done = lstm(x), threading.Event(), threading.Event()

    def hold():
        with lstm._exclusive():
            held.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    child = os.fork()
    if child == 0:
        threading.Timer(30, os._exit, [2]).start()
        lstm.weight_ih_l0 = lstm.weight_ih_l0 * 1
        os._exit(0 if is_same(lstm(x), expected) else 1)
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(
    not hasattr(sys, "_is_gil_enabled"), reason="this Python cannot be without the GIL"
)
def test_nothing_enables_the_gil(native):
    """Neither the import nor a call, in a Python that runs without it; and no warning says so."""
    code = (
        "import sys, numpy as np, fastlstm\n"
        "before = sys._is_gil_enabled()\n"
        "fastlstm.LSTM(2, 3, engine='native')(np.ones((4, 1, 2), np.float32))\n"
        "assert sys._is_gil_enabled() == before, 'a module of fastlstm has enabled the GIL'\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
