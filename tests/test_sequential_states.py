"""States in and out of whole models, and their gradients: `Sequential(x, hx)` and its `vjp`."""

import numpy as np
import pytest
from support import assert_same_bits
from values import normal

import fastlstm
from fastlstm import LSTM, Dropout, Embedding, Last, Linear, LSTMCell, Sequential, Tanh


def _model(engine="auto", dtype="float32"):
    """Two LSTMs, one of them inside another Sequential."""
    options = {"engine": engine, "dtype": dtype}
    return Sequential(
        {
            "rnn": LSTM(3, 4, 2, bidirectional=True, **options, seed=1),
            "tanh": Tanh(),
            "body": Sequential(
                {"rnn": LSTM(8, 5, proj_size=2, **options, seed=2), "drop": Dropout(0.5)}
            ),
            "fc": Linear(2, 3, dtype=dtype, seed=3),
        }
    ).eval()


def _states(B=2, seed=0, dtype="float32"):
    shapes = {"rnn": ((4, B, 4), (4, B, 4)), "body.rnn": ((1, B, 2), (1, B, 5))}
    return {
        name: tuple(normal(*shape, seed=seed + k, dtype=dtype) for k, shape in enumerate(pair))
        for name, pair in shapes.items()
    }


def _by_hand(model, x, hx, lengths=None):
    y, first = model.rnn(x, hx.get("rnn"), lengths=lengths)
    y, second = model.body.rnn(model.tanh(y), hx.get("body.rnn"), lengths=lengths)
    return model.fc(y), {"rnn": first, "body.rnn": second}


def _assert_same_states(got, expected):
    assert list(got) == list(expected)
    for name in got:
        for one, other in zip(got[name], expected[name], strict=True):
            assert_same_bits(one, other)


@pytest.mark.parametrize("lengths", [None, [3, 0]])
def test_states_by_name_are_those_of_the_lstms(engine, dtype, lengths):
    model, x, hx = _model(engine, dtype), normal(5, 2, 3, dtype=dtype), _states(dtype=dtype)
    expected, finals = _by_hand(model, x, hx, lengths)
    for result in (model(x, hx, lengths=lengths), model.vjp(x, hx, lengths=lengths)[0]):
        np.testing.assert_array_equal(result[0], expected)
        _assert_same_states(result[1], finals)
    assert not np.array_equal(model(x, lengths=lengths), expected)


def test_all_ways_to_give_states():
    """States are a dict, a part of one, a list or None; those that are missing are zeros."""
    model, x, hx = _model(), normal(5, 2, 3), _states()
    pairs = list(hx.values())
    for given, same in (
        (hx, hx),
        (pairs, hx),
        (tuple(pairs), hx),
        ([pairs[0], None], {"rnn": pairs[0]}),
        ({"body.rnn": pairs[1]}, {"body.rnn": pairs[1]}),
        ({"rnn": None, "body.rnn": pairs[1]}, {"body.rnn": pairs[1]}),
        ({}, {}),
    ):
        expected, finals = _by_hand(model, x, same)
        y, states = model(x, given)
        np.testing.assert_array_equal(y, expected)
        _assert_same_states(states, finals)
    expected, finals = _by_hand(model, x, {})
    assert isinstance(model(x), np.ndarray)
    y, states = model(x, return_states=True)
    np.testing.assert_array_equal(y, expected)
    _assert_same_states(states, finals)


def test_the_only_lstm_takes_one_pair():
    model = Sequential({"a": Embedding(9, 3, seed=0), "rnn": LSTM(3, 4, seed=1), "last": Last()})
    tokens, (h, c) = np.array([[1, 2], [3, 4]]), (normal(1, 2, 4), normal(1, 2, 4, seed=1))
    output, states = model.rnn(model.a(tokens), (h, c))
    for given in ((h, c), [h, c], [(h, c)], {"rnn": (h, c)}):
        y, got = model(tokens, given)
        assert_same_bits(y, output[-1])
        _assert_same_states(got, {"rnn": states})


def test_states_carry_a_sequence_on(exact_engine):
    model = Sequential(LSTM(3, 4, 2, engine=exact_engine, seed=1), LSTM(4, 5, engine=exact_engine))
    x, states, parts = normal(9, 2, 3), {}, []
    for start in (0, 2, 3, 7):
        y, states = model(x[start : {0: 2, 2: 3, 3: 7, 7: 9}[start]], states)
        parts.append(y)
    assert_same_bits(np.concatenate(parts), model(x))


def test_unbatched_states():
    model = Sequential({"rnn": LSTM(3, 4, seed=1), "fc": Linear(4, 2, seed=2)})
    hx = normal(1, 4), normal(1, 4, seed=1)
    y, states = model(normal(5, 3), hx)
    output, expected = model.rnn(normal(5, 3), hx)
    assert_same_bits(y, model.fc(output))
    _assert_same_states(states, {"rnn": expected})


def test_a_cell_has_states_too():
    model = Sequential({"fc": Linear(3, 3, seed=0), "cell": LSTMCell(3, 4, seed=1)})
    x, hx = normal(2, 3), (normal(2, 4), normal(2, 4, seed=1))
    (h, c), states = model(x, hx)
    for one, other in zip((h, c), model.cell(model.fc(x), hx), strict=True):
        assert_same_bits(one, other)
    _assert_same_states(states, {"cell": (h, c)})
    (y, states), pullback = model.vjp(x, {"cell": hx})
    dx, d_hx = pullback((np.ones_like(h), None))
    expected, (dh, dc) = model.cell.vjp(model.fc(x), hx)[1]((np.ones_like(h), None))
    _assert_same_states(d_hx, {"cell": (dh, dc)})
    np.testing.assert_allclose(dx, expected @ model.fc.weight, atol=1e-6)


# ---- gradients ------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [None, [3, 0]])
def test_gradients_of_states_are_those_of_the_lstms(engine, dtype, lengths):
    """The model is run layer by layer, by hand, and the bits are the same."""
    model, x, hx = _model(engine, dtype), normal(5, 2, 3, dtype=dtype), _states(dtype=dtype)
    d_states = _states(seed=7, dtype=dtype)
    (y, _), pullback = model.vjp(x, hx, lengths=lengths)
    dy = normal(*y.shape, seed=9, dtype=dtype)
    dx, d_hx = pullback(dy, d_states)
    grads = {name: value.copy() for name, value in model.grads.items()}

    model.zero_grad()
    (a, _), back_a = model.rnn.vjp(x, hx["rnn"], lengths=lengths)
    b, back_b = model.tanh.vjp(a)
    (c, _), back_c = model.body.rnn.vjp(b, hx["body.rnn"], lengths=lengths)
    _, back_d = model.fc.vjp(c)
    dc, second = back_c(back_d(dy), d_states["body.rnn"])
    expected, first = back_a(back_b(dc), d_states["rnn"])
    assert_same_bits(np.array(dx), np.array(expected))
    _assert_same_states(d_hx, {"body.rnn": second, "rnn": first})
    for name, value in model.grads.items():
        assert_same_bits(grads[name], value)


def test_derivatives_of_states():
    """They are those of the sum of all outputs and final states, along a random direction."""
    model, x, hx = _model("numpy", "float64"), normal(5, 2, 3, dtype="float64"), _states(
        dtype="float64"
    )  # fmt: skip
    (y, states), pullback = model.vjp(x, hx)
    ones = {name: tuple(map(np.ones_like, pair)) for name, pair in states.items()}
    dx, d_hx = pullback(np.ones_like(y), ones)
    step, along = 1e-6, _states(seed=20, dtype="float64")
    dx_along = normal(*x.shape, seed=30, dtype="float64")

    def total(sign):
        moved = {
            name: tuple(s + sign * step * a for s, a in zip(pair, along[name], strict=True))
            for name, pair in hx.items()
        }
        y, states = model(x + sign * step * dx_along, moved)
        return y.sum() + sum(s.sum() for pair in states.values() for s in pair)

    slope = np.vdot(dx, dx_along) + sum(
        np.vdot(d, a) for name in hx for d, a in zip(d_hx[name], along[name], strict=True)
    )
    assert abs((total(1) - total(-1)) / (2 * step) - slope) < 1e-7 * abs(slope) + 1e-8


def test_what_may_be_left_out_of_a_pullback():
    model, x = _model(), normal(5, 2, 3)
    d_states = _states(seed=7)
    (y, _), pullback = model.vjp(x, return_states=True)
    zeros = {name: tuple(map(np.zeros_like, pair)) for name, pair in d_states.items()}
    for given, same in (
        ((np.ones_like(y),), (np.ones_like(y), zeros)),
        ((None, d_states), (np.zeros_like(y), d_states)),
        ((None, list(d_states.values())), (np.zeros_like(y), d_states)),
        ((None, {"rnn": (None, d_states["rnn"][1])}),
         (np.zeros_like(y), zeros | {"rnn": (zeros["rnn"][0], d_states["rnn"][1])})),
    ):  # fmt: skip
        dx, d_hx = pullback(*given)
        expected = pullback(*same)
        assert_same_bits(dx, expected[0])
        _assert_same_states(d_hx, expected[1])


# ---- errors ---------------------------------------------------------------------------------

KNOWN = "'rnn', 'body.rnn'"


@pytest.mark.parametrize(
    "hx, kind, sentence",
    [
        ({"lstm": None}, ValueError,
         f"hx: Expected states of {KNOWN}, got some of ['lstm']"),
        ([None], ValueError, f"hx: Expected a list of one (h, c) for each of {KNOWN}, got 1"),
        ([None] * 3, ValueError, f"hx: Expected a list of one (h, c) for each of {KNOWN}, got 3"),
        (normal(4, 2, 4), TypeError,
         "hx must be a dict of (h, c) by the names of LSTMs, or a list of them, got ndarray"),
        (_states()["rnn"], TypeError,
         "hx must be a tuple (h_0, c_0), got ndarray of shape (4, 2, 4)"),
        ({"rnn": _states()["rnn"][:1]}, TypeError,
         "hx must be a tuple (h_0, c_0), got a tuple of 1"),
        ({"rnn": _states(B=3)["rnn"]}, ValueError,
         "Expected hidden[0] size (4, 2, 4), got [4, 3, 4]"),
    ],
)  # fmt: skip
def test_wrong_states_are_refused(hx, kind, sentence):
    model = _model()
    for call in (model, model.vjp):
        with pytest.raises(kind) as caught:
            call(normal(5, 2, 3), hx)
        assert str(caught.value) == sentence
    with pytest.raises(ValueError, match="^hx: Expected states of no LSTM, got some of .'0'.$"):
        Sequential(Linear(3, 3))(normal(5, 3), {"0": None})


@pytest.mark.parametrize(
    "d_states, kind, sentence",
    [
        ({"lstm": None}, ValueError, "d_states: Expected states of "),
        ({"rnn": normal(4, 2, 4)}, TypeError,
         "d_states of 'rnn' must be a tuple (dh_n, dc_n)"),
        ({"rnn": _states(B=3)["rnn"]}, ValueError,
         "Sequential: Expected d_states of the output's shape (4, 2, 4), got (4, 3, 4)"),
        ({"rnn": _states(dtype="float64")["rnn"]}, ValueError,
         "Sequential: Expected d_states of the output's dtype float32, got float64"),
    ],
)  # fmt: skip
def test_wrong_gradients_add_nothing(d_states, kind, sentence):
    model = _model()
    (y, _), pullback = model.vjp(normal(5, 2, 3), return_states=True)
    with pytest.raises(kind) as caught:
        pullback(np.ones_like(y), d_states)
    assert str(caught.value).startswith(sentence)
    assert not any(gradient.any() for gradient in model.grads.values())


def test_packed_sequences_have_states_too():
    """Their states are those of their padded forms with lengths."""
    model = Sequential(LSTM(3, 4, seed=1), LSTM(4, 5, seed=2))
    x, lengths = normal(5, 2, 3), [2, 5]
    packed = fastlstm.pack_padded_sequence(x, lengths, enforce_sorted=False)
    (y, states), pullback = model.vjp(packed, return_states=True)
    (padded, expected), back = model.vjp(x, lengths=lengths, return_states=True)
    assert_same_bits(fastlstm.pad_packed_sequence(y)[0], padded)
    _assert_same_states(states, expected)
    dx, d_hx = pullback(None, states)
    dx_padded, d_expected = back(None, states)
    np.testing.assert_allclose(fastlstm.pad_packed_sequence(dx)[0], dx_padded, atol=1e-6)
    _assert_same_states(d_hx, d_expected)


def test_gradients_of_states_that_nobody_asked_for():
    y, pullback = _model().vjp(normal(5, 2, 3))
    with pytest.raises(ValueError, match="^d_states: Expected none of a run without states; give"):
        pullback(np.ones_like(y), _states())


def test_truncated_training_with_a_whole_model():
    """States carried from chunk to chunk, their gradients from the later one back into the first:
    the gradients of the whole."""
    model = Sequential(LSTM(3, 4, dtype="float64", seed=1), Linear(4, 2, dtype="float64", seed=2))
    x = normal(6, 2, 3, dtype="float64")
    y, pullback = model.vjp(x)
    whole = pullback(np.ones_like(y))
    expected = {name: value.copy() for name, value in model.grads.items()}
    model.zero_grad()
    (y_1, states), back_1 = model.vjp(x[:4], return_states=True)
    (y_2, _), back_2 = model.vjp(x[4:], states)
    dx_2, d_states = back_2(np.ones_like(y_2))
    dx_1, _ = back_1(np.ones_like(y_1), d_states)
    np.testing.assert_allclose(np.concatenate([dx_1, dx_2]), whole, rtol=1e-12)
    for name, value in model.grads.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-12)
    assert isinstance(fastlstm.Sequential()(x), np.ndarray)
