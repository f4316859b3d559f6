"""Pools: streams that come and go, of which any few advance together."""

import copy
import os
import pickle

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from pool_twin import Twin, arrays_of, unbatched
from support import assert_same_bits
from values import normal

import fastlstm
from fastlstm import (
    LSTM,
    Concat,
    Dropout,
    Embedding,
    Last,
    Layer,
    Linear,
    LSTMCell,
    Pool,
    PoolFull,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    Softmax,
)


def _started(lstm):
    """Give an LSTM learned initial states that are not zero."""
    for name in lstm.state_dict():
        if name.startswith(("h_0", "c_0")):
            setattr(lstm, name, normal(*getattr(lstm, name).shape, seed=3, dtype=lstm.dtype) / 2)
    return lstm


# Arguments of LSTM: one of each option that streams know.
LSTMS = {
    "plain": {"hidden_size": 16},
    "odd": {"hidden_size": 5, "bias": False},
    "deep": {"hidden_size": 8, "num_layers": 3, "batch_first": True},
    "projected": {"hidden_size": 8, "num_layers": 2, "proj_size": 3},
    "widths": {"hidden_size": [8, 6, 6, 3]},
    "peephole": {"hidden_size": 7, "peephole": True, "coupled": "f=1-i"},
    "clipped": {"hidden_size": 6, "proj_size": 2, "cell_clip": 0.1, "proj_clip": 0.1},
    "tflite": {"hidden_size": 6, "layer_norm": "tflite"},
    "haste": {"hidden_size": 6, "layer_norm": "haste", "num_layers": 2},
    "zoneout": {"hidden_size": 6, "zoneout": 0.1, "recurrent_dropout": 0.5},
    "learned": {"hidden_size": [5, 4], "learn_initial_state": True},
}


@pytest.mark.parametrize("name", LSTMS)
def test_each_stream_is_a_sequence_of_its_own(name, engine, dtype):
    lstm = _started(LSTM(4, **LSTMS[name], engine=engine, dtype=dtype, seed=1))
    Twin(lstm, 6, exact=engine != "numpy", seed=len(name)).go(20 if engine == "numba" else 40)


class Doubled(Layer):
    """A layer of one's own, of which nothing is known but that it is stepwise."""

    stepwise = True

    def forward(self, input):
        return input * 2


def _floats(*features):
    return lambda rng, *axes: rng.standard_normal((*axes, *features)).astype("float32")


def _tokens(rng, *axes):
    return rng.integers(0, 9, axes)


def _models(engine="auto"):
    """Return name -> (a model, how its inputs are drawn)."""
    e = {"engine": engine}
    return {
        "heads": (Sequential({"lstm": LSTM(4, 6, 2, **e, seed=1), "drop": Dropout(0.5),
                              "last": Last(), "fc": Linear(6, 3, **e, seed=2),
                              "p": Softmax(1)}), _floats(4)),
        "two": (Sequential(Linear(4, 5, **e, seed=1), ReLU(),
                           LSTM(5, 6, batch_first=True, **e, seed=2), Sigmoid(),
                           LSTM(6, 4, batch_first=True, **e, seed=3)), _floats(4)),
        "tokens": (Sequential(Embedding(9, 8, seed=1), Dropout(0.1),
                              LSTM(8, 5, 2, **e, seed=2)), _tokens),
        "beside": (Sequential(Residual(Sequential(LSTM(4, 4, **e, seed=1),
                                                  Linear(4, 4, **e, seed=2))),
                              Concat(LSTM(4, 3, **e, seed=3), Linear(4, 2, **e, seed=4))),
                   _floats(4)),
        "own": (Sequential(LSTM(4, 5, **e, seed=1), Doubled(), LSTM(5, 3, **e, seed=2), Doubled()),
                _floats(4)),
        "learned": (Sequential(_started(LSTM(4, 5, **e, learn_initial_state=True, seed=1)),
                               Linear(5, 2, **e, seed=2)), _floats(4)),
    }  # fmt: skip


MODELS = [*_models()]


@pytest.mark.parametrize("name", MODELS)
def test_models_too(name, engine):
    model, draw = _models(engine)[name]
    Twin(model, 6, exact=engine != "numpy", seed=len(name), draw=draw).go(40)


def test_many_streams_in_threads_of_the_engine():
    """Enough work for the engine to cut it, and to be asked for signals."""
    lstm = LSTM(64, 64, num_threads=3, seed=0)
    twin = Twin(lstm, 300)
    sids = np.array([twin.open() for _ in range(300)])
    for _ in range(2):
        twin.step(twin.rng.permutation(sids))
        twin.run(twin.rng.permutation(sids)[:250], twin.rng.integers(0, 9, 250), steps=8)
    twin.check()


# ---- programs ----


class Programs(RuleBasedStateMachine):
    """Whatever is done with a pool, in whatever order."""

    @initialize(name=st.sampled_from(["plain", "widths", "learned"]), capacity=st.integers(1, 4))
    def begin(self, name, capacity):
        self.twin = Twin(_started(LSTM(2, **LSTMS[name], seed=1)), capacity)

    @property
    def is_full(self):
        return len(self.twin.alone) == self.twin.pool.capacity

    def chosen(self, data, least=1):
        live = [*self.twin.alone]
        order = data.draw(st.permutations(live))
        return np.array(order[: data.draw(st.integers(least, len(live)))], np.int64)

    @rule(data=st.data())
    def open(self, data):
        if self.is_full:
            with pytest.raises(PoolFull):
                self.twin.pool.open()
        elif self.twin.alone and data.draw(st.booleans()):
            like = int(self.chosen(data)[0])
            take = data.draw(st.sampled_from([self.twin.pool.state, self.twin.pool.to_bytes]))
            self.twin.open(take(like), like)
        else:
            self.twin.open()

    @precondition(lambda self: self.twin.alone)
    @rule(data=st.data())
    def step(self, data):
        self.twin.step(self.chosen(data))

    @precondition(lambda self: self.twin.alone)
    @rule(data=st.data())
    def run(self, data):
        sids = self.chosen(data)
        least = data.draw(st.integers(0, 1))
        lengths = data.draw(st.lists(st.integers(least, 3), min_size=len(sids), max_size=len(sids)))
        self.twin.run(sids, np.array(lengths), packed=bool(least) and data.draw(st.booleans()))

    @precondition(lambda self: self.twin.alone)
    @rule(data=st.data())
    def close(self, data):
        self.twin.close(self.chosen(data))

    @precondition(lambda self: self.twin.alone)
    @rule(data=st.data())
    def reset(self, data):
        self.twin.reset(self.chosen(data))

    @rule()
    def go_through_a_pickle(self):
        self.twin.pool = pickle.loads(pickle.dumps(self.twin.pool))

    @rule(wrong=st.integers(-(2**63), 2**63 - 1))
    def refuse(self, wrong):
        if wrong not in self.twin.alone:
            sids = [*self.twin.alone, wrong]
            with pytest.raises(ValueError, match="no sid of a live stream"):
                self.twin.pool.step(sids, self.twin.draw(len(sids)))

    @invariant()
    def agree(self):
        if hasattr(self, "twin"):
            self.twin.check()


TestPrograms = Programs.TestCase
TestPrograms.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


# ---- the comparison can fail ----


class _Reversed(Pool):
    def step(self, sids, x, out=None):
        return super().step(sids, x, out)[::-1]


class _Forgetful(Pool):
    """The states are not put back."""

    def step(self, sids, x, out=None):
        before = [own.copy() for own in self._table.states]
        y = super().step(sids, x, out)
        for own, kept in zip(self._table.states, before, strict=True):
            own[...] = kept
        return y


class _Spilling(Pool):
    """A neighbour's state is touched."""

    def step(self, sids, x, out=None):
        y = super().step(sids, x, out)
        row = (int(np.atleast_1d(sids)[0]) + 1) % self.capacity
        self._table.states[0][0, row] += np.float32(1e-3)
        return y


class _Stale(Pool):
    """A sid is only the row of a stream."""

    def step(self, sids, x, out=None):
        return super().step(self._table.sids[np.asarray(sids) % self.capacity], x, out)


class _Fresh(Pool):
    """A new stream takes over the state of the one that had its row before."""

    def open(self, state=None):
        before = [own.copy() for own in self._table.states]
        sid = super().open(state)
        if state is None:
            for own, kept in zip(self._table.states, before, strict=True):
                own[...] = kept
        return sid


class _Endless(Pool):
    """Lengths are not heeded."""

    def run(self, sids, x, lengths=None):
        return super().run(sids, x)


@pytest.mark.parametrize("broken", [_Reversed, _Forgetful, _Spilling, _Stale, _Fresh, _Endless])
@pytest.mark.parametrize("exact", [False, True])
def test_broken_pools_are_seen(broken, exact):
    with pytest.raises((AssertionError, pytest.fail.Exception, ValueError)):
        Twin(LSTM(2, 3, seed=1), 8, exact=exact, pool=broken).go(100)


# ---- streams that come and go ----


def test_sids_are_never_given_twice():
    pool, given = LSTM(2, 3).pool(2), []
    for _ in range(50):
        given.append(pool.open())
        if len(pool) == 2:
            pool.close(given[-2:])
    assert len(set(given)) == 50 and min(given) > 0


@pytest.mark.parametrize("of", [
    lambda s: s - 1, lambda s: s + 1, lambda s: -s, lambda s: ~s, lambda s: s & 0xFFFFFF,
    lambda s: s + (1 << 24), lambda s: s - (1 << 63), lambda s: -1, lambda s: -(1 << 32),
    lambda s: 0, lambda s: -(1 << 63), lambda s: (1 << 63) - 1, lambda s: 1 << 23,
])  # fmt: skip
@pytest.mark.parametrize("capacity", [1, 3])
def test_other_numbers_are_no_sids(of, capacity):
    """None of them wraps around, or counts from the end."""
    pool = LSTM(2, 3).pool(capacity)
    pool.close([pool.open() for _ in range(capacity)])
    sid = pool.open()
    wrong = of(sid)
    assert wrong not in pool
    for call in (lambda: pool.step([wrong], normal(1, 2)), lambda: pool.step(wrong, normal(2)),
                 lambda: pool.close(wrong), lambda: pool.reset(wrong), lambda: pool.state(wrong),
                 lambda: pool.set_state(wrong, pool.state(sid)), lambda: pool.to_bytes(wrong),
                 lambda: pool.steps_since(wrong)):  # fmt: skip
        with pytest.raises(
            ValueError, match=rf"^{wrong} is no sid of a live stream in this pool: "
        ):
            call()
    assert sid in pool and len(pool) == 1


def test_wrong_sids_are_told():
    pool = LSTM(2, 3).pool(9)
    sids = np.array([pool.open() for _ in range(9)])
    before = pool.state(sids)
    x = normal(9, 2)
    with pytest.raises(ValueError, match="each sid may come once"):  # more than there are rows
        pool.step(np.concatenate([sids, sids]), normal(18, 2))
    twice = sids.copy()
    twice[7] = twice[2]
    pool.close(sids[8])
    for wrong, message in [
        (twice[:8], f"each sid may come once, got {twice[2]} more than once"),
        (sids[:8] * 1.0, "sids must hold integers, got dtype float64"),
        (sids[:8] > 0, "sids must hold integers, got dtype bool"),
        (sids[:8].reshape(2, 4), r"sids must be one, or a list of them, got shape \(2, 4\)"),
        ([int(sids[0]), 2**70], "sids must be an array of numbers"),
        ("abc", "sids must be an array of numbers"),
        (None, "sids must be an array of numbers"),
        (True, "sids must hold integers, got dtype bool"),
        (np.arange(1, 9), r"1, 2, 3, 4, 5 and 3 more are no sids of live streams"),
    ]:
        for call in (lambda w: pool.step(w, x[:8]), lambda w: pool.run(w, x[np.newaxis, :8]),
                     pool.close, pool.reset, pool.state):  # fmt: skip
            with pytest.raises((TypeError, ValueError), match=message):
                call(wrong)
    for got, kept in zip(pool.state(sids[:8]), before, strict=True):
        assert_same_bits(got, kept[:, :8])
    assert sorted(pool.sids) == sorted(sids[:8])


def test_wrong_inputs_are_told():
    model = Sequential(Linear(2, 3), LSTM(3, 4), Linear(4, 5))
    pool, lstm, tokens = (
        model.pool(4),
        LSTM(2, 3).pool(4),
        Sequential(Embedding(9, 4), LSTM(4, 3)).pool(4),
    )
    sids = [pool.open(), pool.open()]
    own, words = [lstm.open(), lstm.open()], [tokens.open(), tokens.open()]
    out, f = np.empty((2, 5), np.float32), np.float32
    for call, message in [
        (lambda: pool.step(sids, normal(3, 2)), r"x must have shape \(2, 2\), got \(3, 2\)"),
        (lambda: pool.step(sids, normal(2, 3)), r"x must have shape \(2, 2\), got \(2, 3\)"),
        (lambda: pool.step(sids[0], normal(1, 2)), r"x must have shape \(2,\), got \(1, 2\)"),
        (lambda: pool.step(sids, normal(2, 2).astype(float)), "does not match weight dtype"),
        (lambda: lstm.step(own, normal(2, 2).astype(float)), "does not match weight dtype"),
        (lambda: pool.step(sids, normal(2, 2), out[:1]), r"out must be .* of shape \(2, 5\), got"),
        (lambda: pool.step(sids, normal(2, 2), out.tolist()), r"out must be .* got list"),
        (lambda: pool.step(sids[0], normal(2), out[:1]), r"out must be .* of shape \(5,\), got"),
        (lambda: pool.step(sids, normal(2, 2), out.astype(float)), "out must be"),
        (lambda: lstm.step(own, *_overlapping()), "out must not share memory with x"),
        (lambda: pool.run(sids, normal(4, 3, 2)), r"shape \(T, 2, 2\), got \(4, 3, 2\)"),
        (lambda: pool.run(sids, normal(4, 2, 3)), r"shape \(T, 2, 2\), got \(4, 2, 3\)"),
        (lambda: pool.run(sids, normal(2)), r"x must have shape \(T, 2, 2\), got \(2,\)"),
        (lambda: pool.run(sids[0], normal(4, 1, 2)), r"shape \(T, 2\), got \(4, 1, 2\)"),
        (lambda: pool.run(sids, normal(4, 2, 2), [5, 1]), "at most the input's 4 steps"),
        (lambda: pool.run(sids, normal(4, 2, 2), [1]), "equal to batch_size"),
        (lambda: pool.run(sids, fastlstm.pack_sequence([normal(4, 2)])), "of 2 sequences, one for"),
        (lambda: pool.run(sids, fastlstm.pack_sequence([normal(4, 2), normal(2, 2)]), [4, 2]),
         "lengths cannot be given with a PackedSequence"),
        (lambda: lstm.run(own, fastlstm.pack_sequence([normal(4, 3)] * 2)), r"shape \(8, 2\)"),
        (lambda: tokens.step(words, np.array([1, 2, 3])), r"x must have shape \(2,\), got \(3,\)"),
        (lambda: tokens.step(words, np.array([1, 9])), "index out of range"),
        (lambda: tokens.step(words, np.array([1.0, 2.0])), "must hold integers"),
        (lambda: lstm.open((np.zeros((2, 3), f), np.zeros((1, 3), f))), r"hidden\[0\] size"),
        (lambda: lstm.open({"lstm": 1}), r"state must be a tuple \(h_0, c_0\)"),
        (lambda: pool.open({"lstm": 1}), "state: Expected states of '1', got some of"),
        (lambda: pool.set_state(sids[0], {}), r"Expected \(h, c\) of every LSTM, got none"),
        (lambda: lstm.set_state(own[0], None), "state must be given"),
        (lambda: lstm.to_bytes(own), "sid must be one int, got list"),
        (lambda: lstm.oldest(0), "n must be greater than zero"),
        (lambda: LSTM(2, 3).pool(0), "capacity must be greater than zero"),
        (lambda: LSTM(2, 3).pool(2.0), "capacity should be of type int"),
        (lambda: LSTM(2, 3).pool(1 << 24), "capacity must be at most 16777215"),
        (lambda: LSTM(2, 3).pool(2, evict=3), "evict must be a function of the pool, got int"),
        (lambda: LSTM(2, 3, batch_first=None).pool(2).run([], normal(2, 2, 2)), "is undecided"),
    ]:  # fmt: skip
        with pytest.raises((TypeError, ValueError), match=message):
            call()
    for checked, live in ((pool, sids), (lstm, own), (tokens, words)):
        assert not any(array.any() for array in arrays_of(checked.state(live)))
        assert not checked.steps_since(live).any()


def _overlapping():
    """An input of shape (2, 2), and an output of shape (2, 3) in the same memory."""
    memory = np.zeros(9, np.float32)
    return memory[:4].reshape(2, 2), memory[3:9].reshape(2, 3)


@pytest.mark.parametrize(("model", "message"), [
    (LSTM(2, 3, bidirectional=True), "^a stream needs a unidirectional LSTM"),
    (Sequential({"rnn": LSTM(2, 3, reverse=True)}), "^'rnn': a stream needs an LSTM without"),
    (Sequential(LSTM(2, 3), Softmax(0)), "may sum over several"),
    (Sequential(LSTM(2, 3), Last(), LSTMCell(3, 2)), "may need more than that"),
    (Linear(2, 3), "^a pool needs a model with an LSTM, this one has none"),
])  # fmt: skip
def test_what_cannot_be_streamed_cannot_be_pooled(model, message):
    with pytest.raises(ValueError, match=message):
        model.pool(3)


@pytest.mark.parametrize("model", [None, LSTM, LSTM(2, 3).stream(), LSTM(2, 3).pool(1)])
def test_only_layers_have_pools(model):
    with pytest.raises(TypeError, match="^model should be a layer, got: "):
        Pool(model, 3)


def test_rows_that_ctrl_c_left_among_the_free():
    """Such a row is passed over while it has a stream, and is given once when it has none."""
    pool = LSTM(2, 3).pool(3)
    a, b = pool.open(), pool.open()
    pool._table.free += [0, 1, 0]  # as close() leaves them that was stopped before they were free
    c = pool.open()
    assert {a, b, c} == {*pool.sids.tolist()}
    with pytest.raises(PoolFull):
        pool.open()
    pool._table.free += [0]
    pool.close([a, b])
    d, e = pool.open(), pool.open()
    assert {c, d, e} == {*pool.sids.tolist()}
    pool._table.unused = 1  # as open() leaves it that was stopped
    with pytest.raises(PoolFull):
        pool.open()


def test_a_policy_may_put_an_emptier_pool_back(tmp_path):
    lstm = LSTM(2, 3)
    pool = lstm.pool(2, evict=lambda pool: pool.restore(tmp_path / "pool"))
    pool.open()
    pool.save(tmp_path / "pool")
    pool.open()
    pool.open()
    assert len(pool) == 2


def test_none_of_the_streams_may_be_stepped():
    twin = Twin(LSTM(2, 3, seed=0), 2)
    twin.open()
    assert twin.pool.step([], normal(0, 2)).shape == (0, 3)
    assert twin.pool.run([], normal(4, 0, 2)).shape == (4, 0, 3)
    assert twin.pool.run(twin.some(), normal(0, 1, 2)).shape == (0, 1, 3)
    assert twin.pool.run(twin.some(), normal(2, 1, 2), [0]).tolist() == np.zeros((2, 1, 3)).tolist()
    twin.check()


def test_lists_and_one_int():
    lstm = LSTM(2, 3, seed=0)
    pool, stream = lstm.pool(2), lstm.stream()
    sid, out = pool.open(), np.empty(3, np.float32)
    assert_same_bits(pool.step(sid, [1, 2]), stream.step([[1, 2]])[0])
    assert pool.step(np.int64(sid), [1.0, 2.0], out) is not None
    assert_same_bits(out, stream.step([[1, 2]])[0])
    assert_same_bits(pool.run(sid, [[1, 2], [3, 4]]), stream.run([[[1, 2]], [[3, 4]]])[:, 0])
    x = normal(5, 2)
    assert_same_bits(pool.run(sid, x, [3])[:3], stream.run(x[:3, None])[:, 0])
    tokens = Sequential(Embedding(9, 4, seed=0), LSTM(4, 3, seed=1))
    pool, stream = tokens.pool(2), tokens.stream()
    sid = pool.open()
    assert_same_bits(pool.step(sid, 3), stream.step([3])[0])
    assert_same_bits(pool.run(sid, [1, 2]), stream.run(np.array([[1], [2]]))[:, 0])


def test_undecided_layouts():
    lstm = LSTM(2, 3, batch_first=None, seed=0)
    pool = lstm.pool(2)
    sid, x = pool.open(), normal(4, 2)
    y = pool.run([sid], x[np.newaxis])
    pool.reset(sid)
    assert_same_bits(pool.run([sid], x[:, np.newaxis])[:, 0], y[0])
    pool.reset(sid)
    assert_same_bits(pool.run(sid, x), y[0])


def test_pools_see_new_weights_and_never_drop_out():
    lstm = LSTM(3, 4, 2, dropout=0.5, seed=0)
    pool, stream, x = lstm.pool(3), lstm.stream(), normal(1, 3)
    sid = pool.open()
    assert_same_bits(pool.step([sid], x), stream.step(x))
    lstm.weight_hh_l1 = normal(16, 4)
    assert_same_bits(pool.step([sid], x), stream.step(x))
    assert lstm.training


def test_embeddings_are_multiplied_ahead(native):
    """And no bit depends on it."""
    model = Sequential(Embedding(5, 16, seed=0), LSTM(16, 8, 2, engine="native", seed=1))
    twin = Twin(model, 4, draw=lambda rng, *axes: rng.integers(0, 5, axes))
    for _ in range(4):
        twin.open()
    for _ in range(8):
        twin.step(twin.some())
        twin.run(twin.some())
    assert model[1]._ahead.made is not None
    twin.check()


# ---- states ----


def test_states_go_in_and_out():
    lstm = LSTM(2, [5, 3], seed=0)
    pool, twin = lstm.pool(3), lstm.stream(batch_size=2)
    a, b, c = pool.open(), pool.open(), pool.open()
    pool.step([a, b, c], normal(3, 2)), twin.step(normal(2, 2))
    pool.set_state([c, a], twin.state)
    for got, expected in zip(arrays_of(pool.state([c, a])), arrays_of(twin.state), strict=True):
        assert_same_bits(got, expected)
    h, _ = pool.state(c)
    assert [array.shape for array in h] == [(5,), (3,)]
    h[0][:] = 7  # a copy
    assert_same_bits(pool.state(c)[0][0], twin.state[0][0][0])
    pool.set_state([a, b], pool.state(c))  # one for both
    pool.set_state(a, unbatched({"x": lstm.stream().state})["x"])
    assert not any(array.any() for array in arrays_of(pool.state(a)))
    assert_same_bits(pool.state(b)[1][1], pool.state(c)[1][1])
    pool.reset([a, c], to=pool.state(b))
    assert_same_bits(pool.state(a)[1][1], pool.state(b)[1][1])


def test_states_of_models_have_names():
    model, _ = _models()["two"]
    pool = model.pool(3)
    sid = pool.open()
    pool.step(sid, normal(4))
    state = pool.state(sid)
    assert list(state) == ["2", "4"] and state["2"][0].shape == (1, 6)
    other = pool.open({"2": state["2"]})
    assert_same_bits(pool.state(other)["2"][1], state["2"][1])
    assert not pool.state(other)["4"][1].any()
    pool.reset(sid, to={"4": state["4"]})
    assert_same_bits(pool.state(sid)["4"][0], state["4"][0])
    assert not pool.state(sid)["2"][0].any()


def test_streams_begin_with_learned_states():
    lstm = _started(LSTM(2, 3, learn_initial_state=True, seed=0))
    pool = lstm.pool(1)
    for _ in range(2):
        sid = pool.open()
        assert_same_bits(pool.state(sid)[0][0], lstm.h_0_l0)
        pool.step(sid, normal(2))
        pool.reset(sid)
        assert_same_bits(pool.state(sid)[1][0], lstm.c_0_l0)
        pool.step(sid, normal(2))
        pool.close(sid)


# ---- policies ----


def test_the_oldest_are_those_left_out_for_longest():
    pool = LSTM(2, 3).pool(5)
    a, b, c, d = (pool.open() for _ in range(4))
    assert pool.oldest(9).tolist() == [a, b, c, d]
    pool.step([a, c], normal(2, 2))
    pool.run([c], normal(3, 1, 2))
    e = pool.open()
    assert pool.oldest(5).tolist() == [b, d, a, c, e]
    assert pool.oldest(2).tolist() == [b, d] and pool.oldest().tolist() == [b]
    assert pool.steps_since([a, b, c, e]).tolist() == [1, 2, 0, 0]
    assert pool.steps_since(d) == 2 and type(pool.steps_since(d)) is int
    with pytest.raises(ValueError, match="shape"):
        pool.step(b, normal(3))
    assert pool.steps_since(b) == 2  # what fails does not count


def test_evicted_streams_make_room():
    kept = {}

    def evict(pool):
        for sid in (oldest := pool.oldest(2)):
            kept[int(sid)] = pool.to_bytes(int(sid))
        return oldest

    lstm = LSTM(2, 3, seed=0)
    pool = lstm.pool(3, evict=evict)
    a, b, c = (pool.open() for _ in range(3))
    pool.step([a, b, c], normal(3, 2))
    pool.step([a], normal(1, 2))
    state = pool.state(b)
    d = pool.open()
    assert sorted(pool.sids) == [a, d] and sorted(kept) == [b, c]
    e = pool.open(kept[b])
    assert_same_bits(pool.state(e)[0], state[0])


def test_policies_that_make_no_room():
    lstm, answers = LSTM(2, 3), []
    pool = lstm.pool(1, evict=lambda pool: answers.pop())
    sid = pool.open()
    for answer in ([], None, [sid + 1], np.array([], int)):
        answers.append(answer)
        with pytest.raises(PoolFull, match="1 of 1 streams: evict closed none$"):
            pool.open()
    answers.append(["a"])
    with pytest.raises(TypeError, match="sids must be an array of numbers"):
        pool.open()
    assert sid in pool
    answers.append([sid, sid])
    assert pool.open() != sid
    assert len(pool) == 1

    def closes_itself(pool):
        pool.close(pool.oldest())

    pool = lstm.pool(2, evict=closes_itself)
    first = pool.open()
    pool.open(), pool.open()
    assert first not in pool and len(pool) == 2


def test_a_state_that_does_not_fit_evicts_nobody():
    pool = LSTM(2, 3).pool(1, evict=lambda pool: pool.sids)
    sid = pool.open()
    with pytest.raises(TypeError, match="state must be a tuple"):
        pool.open(3)
    with pytest.raises(ValueError, match="state is not one of this pool's: it is not the state of"):
        pool.open(b"abc" * 30)
    assert sid in pool


# ---- copies ----


@pytest.mark.parametrize(
    "twin", [copy.copy, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))]
)
def test_copies_go_on_alone(twin):
    model, _ = _models()["heads"]
    pool = model.pool(3)
    a, b = pool.open(), pool.open()
    pool.step([a, b], normal(2, 4))
    pool.close(a)
    other = twin(pool)
    x, state = normal(1, 4, seed=1), pool.state(b)
    y = other.step([b], x)
    for got, expected in zip(arrays_of(pool.state(b)), arrays_of(state), strict=True):
        assert_same_bits(got, expected)
    assert_same_bits(pool.step([b], x), y)
    assert a not in other and other.open() == pool.open()


class _Filled(Pool):
    """A pool one of whose tables is filled when it is made."""

    def __init__(self, *args):
        super().__init__(*args)
        self._table.moved[...] = 0


def _resident():
    """How many bytes of memory this process has."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="asks Linux for the memory")
@pytest.mark.parametrize("kind", [Pool, _Filled])
def test_memory_is_taken_as_streams_come(kind, tmp_path):
    lstm = LSTM(4, 8, seed=0)
    lstm.pool(1).open()
    before = _resident()
    pool, other = (kind(lstm, (1 << 24) - 1) for _ in range(2))
    sids = [pool.open() for _ in range(1000)]
    pool.step(sids, normal(1000, 4))
    pool.close(sids[:500])
    pool.save(tmp_path / "pool")
    other.restore(tmp_path / "pool")
    # Five arrays of each, in pages of 2 MB at most, and what the allocator keeps.
    assert (_resident() - before < 50e6) == (kind is Pool)
    assert sids[500] in other and len(other) == 500


def test_repr():
    pool = LSTM(2, 3).pool(7)
    pool.open()
    assert repr(pool) == "Pool(LSTM(2, 3), capacity=7, 1 live)"
