"""Live streams through whole models, and states that streams begin with."""

import copy
import pickle

import numpy as np
import pytest
from support import assert_same_bits
from values import normal

import fastlstm
from fastlstm import (
    LSTM,
    Dropout,
    Embedding,
    Last,
    Linear,
    LSTMCell,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    Softmax,
    Tanh,
)
from fastlstm.engines.contract import Link
from fastlstm.layers import Layer, branches
from fastlstm.layers.stream import Stepwise

B, T = 3, 7


def _models(engine="auto", dtype="float32", batch_first=False):
    """Return name -> (model, its input (T, B, ...), whether it ends behind a Last)."""
    options = {"engine": engine, "dtype": dtype, "batch_first": batch_first}
    x = normal(T, B, 4, dtype=dtype)
    return {
        "every step": (Sequential(LSTM(4, 5, 2, **options, seed=1), Dropout(0.5),
                                  Linear(5, 3, dtype=dtype, seed=2), Tanh()), x, False),
        "last": (Sequential({"rnn": LSTM(4, 5, proj_size=3, **options, seed=1), "last": Last(),
                             "fc": Linear(3, 2, dtype=dtype, seed=2), "p": Softmax(1)}), x, True),
        "tokens": (Sequential(Embedding(9, 4, dtype=dtype, seed=1), LSTM(4, 5, **options, seed=2)),
                   np.random.default_rng(0).integers(0, 9, (T, B)), False),
        "nested": (Sequential({"in": Linear(4, 6, dtype=dtype, seed=1), "act": ReLU(),
                               "body": Sequential(LSTM(6, 5, **options, seed=2), Sigmoid(),
                                                  LSTM(5, 4, 2, **options, seed=3)),
                               "head": Sequential(Last(), Dropout(0.1), Softmax())}), x, True),
        "amp": (_amp(LSTM(4, 5, 2, **options, seed=1), engine=engine, dtype=dtype), x, False),
    }  # fmt: skip


def _amp(lstm, **options):
    """An amplifier with gains and a skip, all of whose layers the native engine goes through."""
    inside = Sequential(lstm, Dropout(0.1), Linear(lstm.proj_size or 5, 4, **options, seed=2))
    return Sequential(Linear(4, 4, **options, seed=3), Residual(inside),
                      Linear(4, 2, bias=False, **options, seed=4))  # fmt: skip


NAMES = list(_models())


def _prefixes(model, x, batch_first, ends):
    """What the model gives at each step, (T, B, F): its outputs, or those of each prefix of x."""
    model = copy.deepcopy(model).eval()
    given = x.swapaxes(0, 1) if batch_first else x
    if not ends:
        y = model(given)
        return y.swapaxes(0, 1) if batch_first else y
    return np.stack([model(given[:, :t] if batch_first else given[:t]) for t in range(1, T + 1)])


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_steps_and_chunks_are_the_model(native, dtype, name, batch_first):
    """They agree bit for bit, also in training mode, where a stream has no dropout."""
    model, x, ends = _models("native", dtype, batch_first)[name]
    expected = _prefixes(model, x, batch_first, ends)
    stream = model.train().stream(B)
    assert_same_bits(np.stack([stream.step(x_t) for x_t in x]), np.ascontiguousarray(expected))
    stream.reset()
    parts = []
    for piece in (x[:1], x[1:1], x[1:4], x[4:]):
        y = stream.run(piece.swapaxes(0, 1) if batch_first else piece)
        parts.append(y.swapaxes(0, 1) if batch_first else y)
    assert_same_bits(np.concatenate(parts), np.ascontiguousarray(expected))


@pytest.mark.parametrize("name", NAMES)
def test_other_engines_are_close(engine, name):
    model, x, ends = _models(engine)[name]
    expected, stream = _prefixes(model, x, False, ends), model.stream(B)
    got = np.stack([stream.step(x_t) for x_t in x])
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_result_may_go_where_it_is_wanted(name):
    model, x, _ = _models()[name]
    one, other = model.stream(B), model.stream(B)
    out = np.empty_like(one.step(x[0]))
    assert other.step(x[0], out) is out
    assert_same_bits(other.step(x[1], out=out), one.step(x[1]))


@pytest.mark.parametrize("name", NAMES)
def test_states_go_out_and_in(name):
    """They are a dict, with which another stream, or the model itself, goes on."""
    model, x, ends = _models()[name]
    model.eval()
    stream, other = model.stream(B), model.stream(B)
    stream.run(x[:3])
    other.state = stream.state
    rest = stream.run(x[3:])
    assert_same_bits(other.run(x[3:]), rest)
    half = model.stream(B)
    half.run(x[:3])
    y, states = model(x[3:], half.state)
    assert_same_bits(y, rest[-1] if ends else rest)
    for name, pair in stream.state.items():
        for one, same in zip(pair, states[name], strict=True):
            assert_same_bits(one, same)


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))]
)
@pytest.mark.parametrize("name", NAMES)
def test_a_copy_branches_off(name, copied):
    model, x, _ = _models()[name]
    stream = model.stream(B)
    stream.step(x[0])
    branch = copied(stream)
    expected = stream.step(x[1])
    stream.step(x[2])
    assert_same_bits(branch.step(x[1]), expected)


def test_several_streams_have_states_of_their_own():
    model, x, _ = _models()["nested"]
    one, other = model.stream(B), model.stream(B)
    first = one.step(x[0])
    one.step(x[1])
    assert_same_bits(other.step(x[0]), first)
    assert list(one.state) == ["body.0", "body.2"]


def test_new_weights_count_from_the_next_step():
    model, x, _ = _models()["every step"]
    stream = model.stream(B)
    stream.step(x[0])
    model[2].bias = np.full(3, 7, np.float32)
    assert stream.step(x[1]).min() > 0.99


# ---- all layers in one call -----------------------------------------------------------------


class Unused:
    """What does the work of layers one by one, where one call should do it."""

    def step(self, *arguments):
        raise AssertionError

    run = step


def _lined(dtype="float32", batch_first=False):
    """Return name -> a model of 4 inputs that the native engine goes through in one call."""
    how = {"engine": "native", "dtype": dtype}
    rnn = how | {"batch_first": batch_first}
    head = {"layer": Sequential(LSTM(4, 6, **rnn, seed=1), Linear(6, 3, **how, seed=2)),
            "projection": Linear(4, 3, bias=False, **how, seed=3)}  # fmt: skip
    return {
        "amp": _amp(LSTM(4, 5, **rnn, seed=1), **how),
        "projected": _amp(LSTM(4, 9, 2, proj_size=3, **rnn, seed=1), **how),
        "peepholes": _amp(LSTM(4, 5, peephole=True, **rnn, seed=1), **how),
        "alone": Sequential(LSTM(4, 33, **rnn, seed=1)),
        "head": Sequential(LSTM(4, 5, **rnn, seed=1), Last(), Linear(5, 17, **how, seed=2)),
        "widths": Sequential(LSTM(4, [7, 7, 5], **rnn, seed=1), Linear(5, 1, **how, seed=2)),
        "two": Sequential(LSTM(4, 5, **rnn, seed=1), LSTM(5, 40, **rnn, seed=3),
                          Linear(40, 1, **how, seed=2)),
        "inside": Residual(Sequential(Residual(LSTM(4, 4, **rnn, seed=1)),
                                      Residual(Linear(4, 4, **how, seed=2)))),
        "nothing inside": Sequential(LSTM(4, 4, **rnn, seed=1), Residual(Dropout(0.5))),
        "other way": Residual(**head),
    }  # fmt: skip


def _lined_up(stream):
    """Return a stream that can do nothing but go through all layers in one call."""
    assert stream._line is not None
    stream._part = Unused()
    return stream


def _in_blocks(stream, x, batch_first, sizes):
    """Return what a stream gives of x (T, B, I) in blocks of these sizes, T in all."""
    parts, start = [], 0
    for size in sizes:
        block = x[start : start + size]
        y = stream.run(np.ascontiguousarray(block.swapaxes(0, 1)) if batch_first else block)
        parts.append(y.swapaxes(0, 1) if batch_first else y)
        start += size
    assert start == len(x)
    return np.concatenate(parts)


def _whole(model, x):
    """Return what the layers of a model give of x (T, B, I), each of them over all steps."""
    if isinstance(model, LSTM):
        batch_first, model.batch_first = model.batch_first, False
        y = model(x)[0]
        model.batch_first = batch_first
    elif isinstance(model, Residual):
        skip = model.projection(x) if "projection" in model.children else x
        y = skip + _whole(model.layer, x)
    elif isinstance(model, Sequential):
        for layer in model:
            x = _whole(layer, x)
        y = x
    else:
        y = model(x) if isinstance(model, Linear) else x
    return y


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", list(_lined()))
def test_one_call_has_the_bits_of_its_layers(native, dtype, name, batch, batch_first):
    """Whatever the blocks, of which more than 64 steps are cut, and step by step."""
    model, x = _lined(dtype, batch_first)[name].eval(), normal(200, batch, 4, dtype=dtype)
    expected, stream = _whole(model, x), _lined_up(model.stream(batch))
    for sizes in ((200,), (64, 136), (1, 2, 65, 130, 2), [1] * 200):
        assert_same_bits(_in_blocks(stream, x, batch_first, sizes), expected)
        stream.reset()
    out = np.empty_like(expected[0])
    for n, x_t in enumerate(x):
        y = stream.step(x_t, out) if n % 2 else stream.step(x_t)
        assert_same_bits(y, expected[n])
        if n == 50:
            copied = _lined_up(copy.copy(stream))
            assert_same_bits(_in_blocks(copied, x[51:], batch_first, (149,)), expected[51:])


@pytest.mark.parametrize(
    "field, broken", [("plus", 0), ("plus", 2), ("takes", 1)], ids=["itself", "lstm's", "first"]
)
def test_other_sums_are_seen(native, monkeypatch, field, broken):
    """Of other values than those that are meant, which have the same features."""

    def other(*fields, **named):
        link = Link(*fields, **named)
        return link._replace(**{field: broken})

    monkeypatch.setattr(branches, "Link", other)
    how = {"engine": "native", "seed": 0}
    model = Residual(Sequential(Linear(4, 4, **how), LSTM(4, 4, **how), Linear(4, 4, **how))).eval()
    x = normal(9, 2, 4)
    with pytest.raises(AssertionError):
        assert_same_bits(model.stream(2).run(x), _whole(model, x))


def test_one_call_takes_over_what_changes(native):
    """Parameters of each layer, and numbers of threads; a run and a step after each change."""
    model, x = _lined()["amp"].eval(), normal(8, 3, 4)
    stream = _lined_up(model.stream(3))
    layers = [layer for _, layer in model.named_layers() if layer.num_parameters]
    names = [(layer, name) for layer in layers for name in vars(layer).get("_views", ())]
    assert len(names) == 4 + 2 + 2 + 1
    for layer, name in names:
        stream.run(x)
        setattr(layer, name, getattr(layer, name) + 1)
        layer.num_threads = 1
        stream.reset()
        assert_same_bits(stream.run(x), _whole(model, x))
        setattr(layer, name, getattr(layer, name) - 2)
        stream.reset()
        assert_same_bits(stream.step(x[0]), _whole(model, x)[0])


def test_a_linear_tells_what_is_stale(native):
    linear = Linear(2, 3, engine="native", seed=0)
    linear(np.ones((1, 2), np.float32))
    for change in (
        lambda: setattr(linear, "bias", [1, 2, 3]),
        lambda: setattr(linear, "num_threads", 1),
        linear.reset_parameters,
    ):
        product, _ = linear._present()
        product.stale = False
        change()
        assert product.stale
        assert not linear._present()[0].stale  # so that streams ask once


def test_what_one_call_does_not_take(native):
    """Other types and layouts, and large runs, have the same bits by the layers one by one."""
    model, x = _lined()["two"].eval(), normal(7, 3, 4)
    expected, stream = _whole(model, x), model.stream(3)
    for given in (
        x.tolist(), x.astype(">f4"), x[:, :, ::-1].copy()[:, :, ::-1], np.repeat(x, 2, axis=0)[::2],
    ):  # fmt: skip
        stream.reset()
        assert_same_bits(np.ascontiguousarray(stream.run(given)), expected)
        stream.reset()
        assert_same_bits(np.stack([stream.step(x_t) for x_t in given]), expected)
    assert stream.run(x[:0]).shape == (0, 3, 1)
    long = normal(1500, 3, 4)
    assert stream._line.run(long, 0) is None
    stream.reset()
    assert_same_bits(stream.run(long), _whole(model, long))


def test_results_may_not_be_written_over_the_input(native):
    """They are not by the layers one by one, nor by a sum that comes behind the LSTM."""
    model = Residual(Sequential(LSTM(4, 5, seed=0), Linear(5, 4, seed=1))).eval()
    memory = normal(4, 4)
    x, out = memory[:3].copy(), memory[1:]
    expected, stream = model.stream(3).step(x), model.stream(3)
    assert_same_bits(stream.step(memory[:3], out), expected)


@pytest.mark.parametrize("name", ["amp", "two", "alone"])
def test_errors_come_before_one_call(native, name):
    model = _lined()[name].eval()
    stream, width = model.stream(3), len(_whole(model, normal(1, 3, 4))[0, 0])
    stream.step(normal(3, 4))
    before = stream.state
    for call, given in (
        (stream.step, normal(3, 5)),
        (stream.step, normal(2, 4)),
        (stream.step, normal(1, 3, 4)),
        (stream.run, normal(5, 3, 3)),
        (stream.run, normal(5, 2, 4)),
        (stream.run, normal(5, 4)),
        (stream.run, "no sound"),
        (lambda x: stream.step(x, np.empty((3, width))), normal(3, 4)),
        (lambda x: stream.step(x, np.empty((3, width + 1), np.float32)), normal(3, 4)),
        (lambda x: stream.step(x, [0.0]), normal(3, 4)),
    ):
        with pytest.raises((ValueError, TypeError)):
            call(given)
        _assert_states(stream.state, before)


def test_undecided_layouts_are_asked_for_each_time(native):
    """As they may be set after the stream was made."""
    model = Sequential(LSTM(4, 5, batch_first=None, seed=0), Linear(5, 2, seed=1)).eval()
    stream, x = model.stream(3), normal(3, 3, 4)
    with pytest.raises(ValueError, match="batch_first"):
        stream.run(x)
    for batch_first in (False, True):
        model[0].batch_first = batch_first
        stream.reset()
        assert_same_bits(np.ascontiguousarray(stream.run(x)), np.ascontiguousarray(model(x)))


@pytest.mark.parametrize("nothing", [Dropout(0.5), Sequential()], ids=["dropout", "empty"])
def test_a_model_may_begin_with_a_sum_of_its_input(native, nothing):
    """With itself, as nothing is inside: the width of the input is not known there."""
    lstm, x = LSTM(4, 5, engine="native", seed=0), normal(5, 2, 4)
    for first in (Residual(nothing), Residual(Residual(nothing), Sequential())):
        model = Sequential(first, lstm).eval()
        stream = model.stream(2)
        y = [stream.run(x[:3]), stream.step(x[3])[None], stream.run(x[4:])]
        assert_same_bits(np.concatenate(y), model(x))


def test_a_layer_of_ones_own_goes_by_itself(native):
    """Also one that is made of ours, as is a layer of another engine."""

    class Doubled(Linear):
        stepwise = True

        def __call__(self, input):
            return 2 * super().__call__(input)

        def _live(self, name, given, states):
            return Stepwise(self)

    class Same(Residual):
        def _together(self, x, results):
            return results[0]

    lstm, x = LSTM(4, 4, engine="native", seed=0), normal(5, 2, 4)
    for head in (Doubled(4, 2, seed=1), Linear(4, 2, engine="numpy", seed=1), Tanh()):
        model = Sequential(lstm, head).eval()
        assert model.stream(2)._line is None
        np.testing.assert_array_equal(model.stream(2).run(x), head(lstm(x)[0]))
    model = Same(lstm)
    assert model.stream(2)._line is None
    assert_same_bits(model.stream(2).run(x), lstm(x)[0])


# ---- reset ----------------------------------------------------------------------------------


def test_reset_of_an_lstms_stream_to_states(engine):
    """The states are whole arrays, whose masked rows are taken, or one state for all of them."""
    lstm = LSTM(4, 5, 2, proj_size=3, engine=engine, seed=0)
    stream, x = lstm.stream(B), normal(T, B, 4)
    h, c = normal(2, B, 3), normal(2, B, 5, seed=1)
    mask = np.array([True, False, True])
    for to, rows in (((h, c), (h, c)), ((h[:, 0], c[:, 0]), (h[:, :1], c[:, :1]))):
        stream.reset(to=to)
        for got, wanted in zip(stream.state, rows, strict=True):
            assert_same_bits(got, np.ascontiguousarray(np.broadcast_to(wanted, got.shape)))
        stream.step(x[0])
        before = stream.state
        stream.reset(mask, to)
        for got, kept, wanted in zip(stream.state, before, rows, strict=True):
            wanted = np.broadcast_to(wanted, got.shape)
            assert_same_bits(got, np.where(mask[:, None], wanted, kept))
    expected = lstm(x, (h, c))[0]
    stream.reset(to=[h.tolist(), c.tolist()])
    np.testing.assert_allclose(stream.run(x), expected, rtol=0, atol=1e-6)


def test_reset_of_a_models_stream():
    """States come by name, in a list or as one pair; LSTMs that are not named begin with zeros."""
    model, x, _ = _models()["nested"]
    stream = model.stream(B)
    stream.run(x)
    states, mask = stream.state, [False, True, False]
    stream.reset()
    assert not any(s.any() for pair in stream.state.values() for s in pair)
    stream.reset(to=states)
    _assert_states(stream.state, states)
    stream.run(x)
    later = stream.state
    for to in ({"body.2": states["body.2"]}, [None, states["body.2"]]):
        stream.state = later
        stream.reset(mask, to)
        for name in states:
            for got, kept, wanted in zip(
                stream.state[name], later[name], states[name], strict=True
            ):
                wanted = wanted if name == "body.2" else np.zeros_like(wanted)
                assert_same_bits(got, np.where(np.array(mask)[:, None], wanted, kept))
    single = _models()["last"][0].stream(B)
    single.reset(to=(np.ones((1, 3), np.float32), np.ones((1, 5), np.float32)))
    assert all((s == 1).all() for s in single.state["rnn"])


def _assert_states(got, expected):
    assert list(got) == list(expected)
    for name in got:
        for one, other in zip(got[name], expected[name], strict=True):
            assert_same_bits(one, other)


# ---- errors ---------------------------------------------------------------------------------


class Own(Layer):
    def __init__(self):
        super().__init__({})

    def __call__(self, input):
        return input


ONE_STEP = "a stream has one step at a time: "
BACKWARD = "a stream needs a unidirectional LSTM: the backward direction begins at the end, which "


@pytest.mark.parametrize(
    "model, sentence",
    [
        (Sequential({"a": Sequential({"rnn": LSTM(4, 5, bidirectional=True)})}),
         f"'a.rnn': {BACKWARD}a live stream does not have"),
        (Sequential(LSTM(4, 5), Own()),
         ONE_STEP + "'1' (Own()) may need more than that; run it on what a stream of the "
         "layers before it gives"),
        (Sequential(LSTM(4, 5), Last(), LSTMCell(5, 2)),
         ONE_STEP + "'2' (LSTMCell(5, 2)) may need more than that; run it on what a stream of "
         "the layers before it gives"),
        (Sequential(LSTM(4, 5), Softmax(0)),
         ONE_STEP + "'1' (Softmax(dim=0)) may sum over several"),
        (Sequential(LSTM(4, 5), Softmax(1)),
         ONE_STEP + "'1' (Softmax(dim=1)) may sum over several"),
        (Sequential(LSTM(4, 5), Last(), Softmax(0)),
         ONE_STEP + "'2' (Softmax(dim=0)) may sum over several"),
        (Sequential(Linear(4, 5)), "a stream needs a model with an LSTM, this one has none"),
        (Sequential(), "a stream needs a model with an LSTM, this one has none"),
    ],
)  # fmt: skip
def test_models_without_a_stream(model, sentence):
    with pytest.raises(ValueError) as caught:
        model.stream()
    assert str(caught.value) == sentence


OUT = "out must be a writable C-contiguous float32 array of shape (3, 4), got "
H, C = np.zeros((1, B, 5), np.float32), np.zeros((2, B, 4), np.float32)


@pytest.mark.parametrize(
    "call, kind, sentence",
    [
        (lambda s: s.step(normal(B, 3)), ValueError,
         "Linear: Expected input of shape (..., 4), got (3, 3)"),
        (lambda s: s.step(normal(2, 4)), ValueError, "x must have shape (3, 6), got (2, 6)"),
        (lambda s: s.step(normal(B, 4), np.empty((B, 5), np.float32)), ValueError,
         OUT + "float32 of shape (3, 5)"),
        (lambda s: s.step(normal(B, 4), out=np.empty((B, 4))), ValueError,
         OUT + "float64 of shape (3, 4)"),
        (lambda s: s.run(normal(T, 2, 4)), ValueError,
         "x must have shape (T, 3, 6), got (7, 2, 6)"),
        (lambda s: s.reset([True]), ValueError, "mask must be 3 booleans, got bool of shape (1,)"),
        (lambda s: s.reset(to={"rnn": (H, H)}), ValueError,
         "to: Expected states of 'body.0', 'body.2', got some of ['rnn']"),
        (lambda s: s.reset(to={"body.0": (H, H), "body.2": (H, H)}), ValueError,
         "Expected hidden[0] size (2, 3, 4), got [1, 3, 5]"),
        (lambda s: s.reset(to={"body.0": H}), TypeError,
         "to must be a tuple (h_0, c_0), got ndarray of shape (1, 3, 5)"),
        (lambda s: setattr(s, "state", {"body.0": (H, H)}), ValueError,
         "state: Expected (h, c) of every LSTM, got none for ['body.2']; reset() makes states "
         "zero"),
        (lambda s: setattr(s, "state", None), ValueError,
         "state: Expected (h, c) of every LSTM, got none for ['body.0', 'body.2']; reset() makes "
         "states zero"),
        (lambda s: setattr(s, "state", {"body.0": (H, H), "body.2": (C, H)}), ValueError,
         "Expected hidden[1] size (2, 3, 4), got [1, 3, 5]"),
    ],
)  # fmt: skip
def test_errors_leave_the_states_where_they_were(call, kind, sentence):
    stream = _models()["nested"][0].stream(B)
    stream.step(normal(B, 4))
    before = stream.state
    with pytest.raises(kind) as caught:
        call(stream)
    assert str(caught.value) == sentence
    _assert_states(stream.state, before)


def test_layouts_that_part_later_are_refused():
    model = Sequential(LSTM(4, 4), LSTM(4, 4))
    stream = model.stream(B)
    model[0].batch_first = True
    with pytest.raises(ValueError, match="what one reads as steps the other reads as sequences"):
        stream.run(normal(B, B, 4))


def test_errors_of_the_number_of_streams():
    with pytest.raises(ValueError, match="^batch_size must be greater than zero, got 0$"):
        Sequential(LSTM(4, 5)).stream(0)
    with pytest.raises(TypeError, match="^a stream needs an LSTM, got Sequential$"):
        fastlstm.Stream(Sequential(LSTM(4, 5)))


def test_repr():
    stream = Sequential(LSTM(4, 5)).stream(3)
    assert repr(stream) == "ModelStream(Sequential(\n  (0): LSTM(4, 5)\n), batch_size=3)"
