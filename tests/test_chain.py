"""Layers in a Sequential: compared with each other when it is built; Last, which asks its LSTM."""

import copy
import itertools
import pickle

import numpy as np
import pytest
from errors import raises
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
    Sequential,
    Sigmoid,
    Softmax,
    Tanh,
)
from fastlstm.layers import Layer
from fastlstm.layers.sequential import flattened
from fastlstm.training import Adam, MSELoss

LAYOUTS = list(itertools.product([False, True], [False, True]))


class Doubled(Layer):
    """A user's own layer, which gives twice as many features."""

    def __init__(self):
        super().__init__({})

    def __call__(self, input):
        return np.concatenate([input, input], axis=-1)

    def vjp(self, input):
        half = input.shape[-1]
        return self(input), lambda dy: dy[..., :half] + dy[..., half:]


class Encoder(Layer):
    """A user's own layer with an LSTM inside."""

    def __init__(self):
        super().__init__({}, children={"lstm": LSTM(3, 4, batch_first=True)})

    def __call__(self, input):
        return self.children["lstm"](input)[0]


class Louder(LSTM):
    """An LSTM that is called in another way."""

    def __call__(self, input, hx=None, *, lengths=None):
        output, states = super().__call__(input, hx, lengths=lengths)
        return 2 * output, states


class Thrifty(Linear):
    """A Linear that is called in another way."""

    def __call__(self, input):
        return super().__call__(input[..., : self.in_features])


# ---- sizes ----------------------------------------------------------------------------------

GIVES = {  # name -> (layers, what they give)
    "lstm": ([LSTM(3, 4)], 4),
    "both directions": ([LSTM(3, 4, bidirectional=True)], 8),
    "projected": ([LSTM(3, 4, proj_size=2)], 2),
    "both projected": ([LSTM(3, 4, 2, proj_size=2, bidirectional=True)], 4),
    "linear": ([Linear(3, 4)], 4),
    "embedding": ([Embedding(9, 4)], 4),
    "nested": ([Sequential({"a": Linear(3, 5), "b": Sequential(Tanh(), Linear(5, 4))})], 4),
    "two": ([Embedding(9, 3), LSTM(3, 6)], 6),
}
BETWEEN = {
    "nothing": [],
    "dropout": [Dropout()],
    "activations": [ReLU(), Tanh(), Sigmoid(), Softmax()],
    "nested": [Sequential(Dropout(), Sequential(Tanh()))],
    "an empty one": [Sequential()],
}
TAKES = {
    "lstm": lambda size: [LSTM(size, 5)],
    "linear": lambda size: [Linear(size, 5)],
    "last, linear": lambda size: [Last(), Linear(size, 5)],
    "nested": lambda size: [Sequential({"in": Sequential(Dropout(), Linear(size, 5))})],
}


@pytest.mark.parametrize("take", TAKES)
@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("give", GIVES)
def test_sizes_are_compared(give, between, take):
    (layers, size), rest = GIVES[give], BETWEEN[between]
    Sequential(*layers, *rest, *TAKES[take](size))
    for wrong in (size - 1, size + 1, 2 * size):
        with pytest.raises(ValueError, match=rf"gives {size} features, .* takes {wrong}$"):
            Sequential(*layers, *rest, *TAKES[take](wrong))


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: Sequential({"lstm": LSTM(3, 4, bidirectional=True), "fc": Linear(4, 1)}),
         "Sequential: 'lstm' (LSTM(3, 4, bidirectional=True)) gives 8 features, 'fc' (Linear("
         "in_features=4, out_features=1, bias=True)) takes 4"),
        (lambda: Sequential({"body": Sequential({"rnn": LSTM(3, 4)}), "relu": ReLU(),
                             "head": Sequential({"fc": Linear(5, 1)})}),
         "Sequential: 'body.rnn' (LSTM(3, 4)) gives 4 features, 'head.fc' (Linear(in_features=5, "
         "out_features=1, bias=True)) takes 5"),
        (lambda: Sequential(Linear(3, 4), LSTMCell(5, 2)),
         "Sequential: '0' (Linear(in_features=3, out_features=4, bias=True)) gives 4 features, '1' "
         "(LSTMCell(5, 2)) takes 5"),
        (lambda: Sequential(Linear(3, 4), Embedding(9, 2)),
         "Sequential: '1' (Embedding(9, 2)) takes indices, '0' (Linear(in_features=3, "
         "out_features=4, bias=True)) gives features"),
        (lambda: Sequential(LSTM(3, 4), Last(), LSTM(4, 5)),
         "Sequential: '2' (LSTM(4, 5)) needs a sequence of steps, of which '1' (Last(batch_first="
         "False, bidirectional=False)) has left one"),
        (lambda: Sequential(LSTM(3, 4), Last(), Linear(4, 4), Sequential(Last())),
         "Sequential: '3.0' (Last(batch_first=False, bidirectional=False)) needs a sequence of "
         "steps, of which '1' (Last(batch_first=False, bidirectional=False)) has left one"),
        (lambda: Sequential(Last(), LSTM(4, 5)),
         "Sequential: '1' (LSTM(4, 5)) needs a sequence of steps, of which '0' (Last(batch_first="
         "False, bidirectional=False)) has left one"),
        (lambda: Sequential(LSTM(3, 4), LSTMCell(4, 5)),
         "Sequential: '1' (LSTMCell(4, 5)) takes one step, '0' (LSTM(3, 4)) gives all of them; put "
         "a Last between the two"),
        (lambda: Sequential(LSTM(3, 4, batch_first=True), Dropout(), Linear(4, 4), LSTM(4, 5)),
         "Sequential: '0' (LSTM(3, 4, batch_first=True)) has batch_first=True, '3' (LSTM(4, 5)) "
         "has batch_first=False: what one reads as steps the other reads as sequences"),
        (lambda: Sequential(LSTM(3, 4), Last(batch_first=True)),
         "Sequential: '0' (LSTM(3, 4)) has batch_first=False, '1' (Last(batch_first=True, "
         "bidirectional=False)) has batch_first=True: what one reads as steps the other "
         "reads as sequences"),
        (lambda: Sequential(LSTM(3, 4, bidirectional=True), Tanh(), Last(bidirectional=False)),
         "Sequential: '2' (Last(batch_first=False, bidirectional=False)) does not agree with '0' "
         "(LSTM(3, 4, bidirectional=True)): leave out bidirectional, to take it from there, or put "
         "it behind the Linear, for what torch's output[-1] gives there"),
        (lambda: Sequential(LSTM(3, 4), Last(bidirectional=True)),
         "Sequential: '1' (Last(batch_first=False, bidirectional=True)) does not agree with '0' "
         "(LSTM(3, 4)): leave out bidirectional, to take it from there"),
        (lambda: Sequential(LSTM(3, 4, bidirectional=True), Linear(8, 2), Last()),
         "Sequential: '2' (Last) takes both directions of '0' (LSTM(3, 4, bidirectional=True)) "
         "apart, which '1' (Linear(in_features=8, out_features=2, bias=True)) has mixed: put it "
         "before that, or say Last(bidirectional=False) for the last step of each sequence"),
        (lambda: Sequential(LSTM(3, 4), Doubled(), Last(batch_first=False)),
         "Sequential: '2' (Last) cannot take batch_first and bidirectional from '0' (LSTM(3, 4)), "
         "because it is not known what '1' (Doubled()) makes of its output: give both"),
        (lambda: Sequential({"encoder": Encoder(), "last": Last()}),
         "Sequential: 'last' (Last) cannot take batch_first and bidirectional from 'encoder.lstm' "
         "(LSTM(3, 4, batch_first=True)), because it is not known what 'encoder' (Encoder) makes "
         "of its output: give both"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(make, sentence):
    raises(make, ValueError, sentence)


@pytest.mark.parametrize("stranger", [Doubled(), Thrifty(3, 7), Sequential(Doubled())], ids=str)
def test_of_a_layer_of_ones_own_nothing_is_asked(stranger):
    """It ends the comparison of layers, which the next known layer begins anew."""
    Sequential(LSTM(3, 4), stranger, LSTM(8, 2, batch_first=True))
    Sequential(LSTM(3, 4), Last(), stranger, LSTM(8, 2))
    Sequential(Linear(3, 4), stranger, Embedding(9, 3))
    Sequential(stranger, Last(), Linear(3, 1))
    with pytest.raises(ValueError, match="gives 2 features, .* takes 3"):
        Sequential(stranger, LSTM(8, 2), Linear(3, 1))
    y = Sequential(LSTM(3, 4), Doubled(), Last(False, False), Linear(8, 1))(normal(5, 2, 3))
    assert y.shape == (2, 1)


@pytest.mark.parametrize("batch_first, bidirectional", LAYOUTS)
def test_an_lstm_of_ones_own_says_where_its_last_step_is(batch_first, bidirectional):
    lstm = Louder(3, 4, batch_first=batch_first, bidirectional=bidirectional, seed=0)
    last = Last(batch_first, bidirectional)
    x = normal(5, 2, 3)
    assert_same_bits(Sequential(lstm, Last())(x), last(lstm(x)[0]))
    assert_same_bits(Sequential(lstm, last)(x), last(lstm(x)[0]))


def test_a_sequential_of_ones_own_need_not_know_lengths():
    class Both(Sequential):
        def __call__(self, input):
            return self[1](self[0](input))

        def vjp(self, input):
            y, pullback = self[1].vjp(self[0](input))
            return y, lambda dy: pullback(dy) @ self[0].weight

    both, head = Both(Linear(3, 4, seed=0), Linear(4, 2, seed=1)), Linear(2, 1, seed=2)
    x = normal(5, 3)
    y, pullback = Sequential(both, head).vjp(x)
    assert_same_bits(np.array(y), head(both(x)))
    assert_same_bits(Sequential(both, head)(x), head(both(x)))
    weights = [layer.weight for layer in (head, both[1], both[0])]
    expected = np.ones_like(y) @ weights[0] @ weights[1] @ weights[2]
    np.testing.assert_allclose(pullback(np.ones_like(y)), expected, rtol=1e-5)


def test_a_packed_sequence_goes_through_lstms_alone():
    packed = fastlstm.pack_sequence([normal(3, 3), normal(2, 3)])
    model = Sequential(LSTM(3, 4, seed=0), LSTM(4, 2, seed=1))
    data = model[1](model[0](packed)[0])[0].data
    assert_same_bits(model(packed).data, data)
    with pytest.raises(TypeError, match="^input is a PackedSequence, which LSTMs alone take"):
        Sequential(model, Linear(2, 1))(packed)


def test_a_model_with_a_layer_of_ones_own_runs_and_learns():
    model = Sequential(LSTM(3, 4, seed=0), Doubled(), Linear(8, 2, seed=1))
    y, pullback = model.vjp(normal(5, 2, 3))
    assert_same_bits(np.array(y), model(normal(5, 2, 3)))
    assert pullback(np.ones_like(y)).any()


# ---- Last -----------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [None, [2, 6, 0, 4]])
@pytest.mark.parametrize("batch_first, bidirectional", LAYOUTS)
@pytest.mark.parametrize(
    "arrange",
    [
        lambda lstm: Sequential(lstm, Last()),
        lambda lstm: Sequential(lstm, Dropout(0.0), Last()),
        lambda lstm: Sequential(Sequential(lstm), Sequential(Sequential(Last()))),
        lambda lstm: Sequential({"rnn": lstm, "head": Sequential({"last": Last()})}),
        lambda lstm: pickle.loads(pickle.dumps(Sequential(lstm, Last()))),
        lambda lstm: copy.deepcopy(Sequential(lstm, Last())),
    ],
)
def test_last_is_as_the_lstm_before_it(arrange, batch_first, bidirectional, lengths):
    """Its values are those of h_n of the last layer."""
    lstm = LSTM(3, 5, 2, batch_first=batch_first, bidirectional=bidirectional, seed=0)
    model = arrange(lstm)
    x = normal(*((4, 6) if batch_first else (6, 4)), 3)
    _, (h_n, _) = lstm(x, lengths=lengths)
    expected = np.concatenate(list(h_n[-2:] if bidirectional else h_n[-1:]), axis=1)
    assert_same_bits(model(x, lengths=lengths), expected)
    y, pullback = model.vjp(x, lengths=lengths)
    assert_same_bits(y, expected)
    assert pullback(np.ones_like(y)).any()


def test_the_issues_case():
    lstm = LSTM(3, 4, bidirectional=True, batch_first=True, seed=0)
    x = normal(2, 5, 3)
    h_n = lstm(x)[1][0]
    assert_same_bits(Sequential(lstm, Last())(x), np.concatenate(list(h_n), axis=1))


def test_layer_by_layer_last_knows_its_lstm_too():
    """It knows it in `for layer in model`, by name and in a slice, not only within the model."""
    lstm = LSTM(3, 4, bidirectional=True, batch_first=True, seed=0)
    model = Sequential({"lstm": lstm, "head": Sequential({"last": Last(), "fc": Linear(8, 2)})})
    x = normal(2, 5, 3)
    output = lstm(x)[0]
    expected = model(x)
    last, fc = model.head
    assert_same_bits(fc(last(output)), expected)
    assert_same_bits(model.head(output), expected)
    assert_same_bits(model[1:](output), expected)
    assert_same_bits(model["head"][:1](output), last(output))
    assert repr(last) == "Last(batch_first=True, bidirectional=True)"


def test_a_last_may_stand_in_several_models():
    last = Last()
    x = normal(3, 5, 4)
    for batch_first, bidirectional in LAYOUTS:
        lstm = LSTM(4, 2, batch_first=batch_first, bidirectional=bidirectional, seed=0)
        h_n = lstm(x)[1][0]
        assert_same_bits(Sequential(lstm, last)(x), np.concatenate(list(h_n), axis=1))
    assert_same_bits(last(x), x[-1])  # and is as it was


def test_a_head_may_stand_in_several_models():
    head = Sequential(Last(), Linear(4, 1, seed=0))
    x = normal(3, 5, 4)
    for batch_first in (False, True):
        lstm = LSTM(4, 4, batch_first=batch_first, seed=0)
        model = Sequential(lstm, head)
        assert_same_bits(model(x), head[1](lstm(x)[1][0][0]))
        assert model[1][1] is head[1]


def test_the_last_behind_the_second_lstm():
    """The nearest LSTM before it counts."""
    lstms = LSTM(3, 4, bidirectional=True, seed=0), LSTM(8, 4, seed=1)
    x = normal(5, 2, 3)
    h_n = lstms[1](lstms[0](x)[0])[1][0]
    assert_same_bits(Sequential(*lstms, Last())(x), h_n[0])


def test_what_a_last_says_itself_may_agree():
    lstm = LSTM(3, 4, bidirectional=True, batch_first=True)
    for given in ({}, {"batch_first": True}, {"bidirectional": True}):
        assert Sequential(lstm, Last(**given))[1].bidirectional
    mixed = Sequential(lstm, Linear(8, 2, seed=0), Last(bidirectional=False))
    x = normal(2, 5, 3)
    assert_same_bits(mixed(x), mixed[:2](x)[:, -1])


def test_torchs_last_output_of_both_directions():
    """Many models take fc(output[-1]), where the backward direction has read one step only."""
    lstm, fc = LSTM(3, 4, bidirectional=True, seed=0), Linear(8, 2, seed=1)
    x = normal(5, 2, 3)
    y = Sequential(lstm, fc, Last(bidirectional=False))(x)
    np.testing.assert_allclose(y, fc(lstm(x)[0][-1]), rtol=0, atol=1e-6)
    assert np.abs(y - Sequential(lstm, Last(), fc)(x)).max() > 0.01


def test_an_undecided_lstm_leaves_its_last_undecided():
    lstm = LSTM(3, 4, batch_first=None, seed=0)
    model = Sequential(lstm, Last())
    x = normal(5, 2, 3)
    assert_same_bits(model(x[:, 0]), lstm(x[:, 0])[0][-1])
    with pytest.raises(ValueError, match="^LSTM: batched input .* batch_first is undecided"):
        model(x)
    lstm.batch_first = True
    assert_same_bits(model(x), lstm(x)[1][0][0])
    lstm.batch_first = False
    assert_same_bits(model(x), lstm(x)[1][0][0])


def test_layouts_that_part_later_are_refused_by_the_run():
    sentence = "what one reads as steps the other reads as sequences$"
    model = Sequential(LSTM(3, 4), LSTM(4, 4))
    said = Sequential(LSTM(3, 4), Sequential(Last(batch_first=False)))
    for one in (model, said, copy.deepcopy(said)):
        x = normal(5, 5, 3)
        one(x)
        one[0].batch_first = True
        for call in (one, one.vjp):
            with pytest.raises(ValueError, match=sentence):
                call(x)


@pytest.mark.parametrize("batch_first, bidirectional", LAYOUTS)
def test_files_keep_it(tmp_path, batch_first, bidirectional):
    lstm = LSTM(3, 4, batch_first=batch_first, bidirectional=bidirectional, seed=0)
    model = Sequential(lstm, Last(), Linear(4 * (1 + bidirectional), 1, seed=0))
    x = normal(5, 5, 3)
    fastlstm.save(model, tmp_path / "model.npz")
    assert_same_bits(fastlstm.load(tmp_path / "model.npz")(x), model(x))


def test_an_undecided_file_keeps_that(tmp_path):
    model = Sequential(LSTM(3, 4, batch_first=None, seed=0), Last())
    fastlstm.save(model, tmp_path / "model.npz")
    loaded = fastlstm.load(tmp_path / "model.npz")
    loaded[0].batch_first = model[0].batch_first = True
    x = normal(2, 5, 3)
    assert_same_bits(loaded(x), model(x))


def test_fit_and_predict_take_it_from_the_lstm():
    x, y = normal(8, 5, 3), normal(8, 1)
    for batch_first, bidirectional in LAYOUTS:
        lstm = LSTM(3, 4, batch_first=batch_first, bidirectional=bidirectional, seed=0)
        model = Sequential(lstm, Last(), Linear(4 * (1 + bidirectional), 1, seed=0))
        fastlstm.fit(model, (x, y), MSELoss(), Adam(model), 1, 4)
        expected = model(x if batch_first else x.swapaxes(0, 1))
        np.testing.assert_allclose(fastlstm.predict(model, x), expected, rtol=0, atol=1e-6)


def test_chains_inside_chains_are_one():
    """But a class of one's own may do anything with its layers."""

    class Own(Sequential):
        pass

    lstm, last, head, own = LSTM(3, 4), Last(), Linear(4, 2), Own(ReLU())
    model = Sequential({"body": Sequential(lstm, Sequential(last)), "head": head, "own": own})
    named = dict(flattened(model))
    assert list(named) == ["body.0", "body.1.0", "head", "own"]
    assert named["body.0"] is lstm and named["head"] is head and named["own"] is own
    assert list(flattened(lstm, "rnn")) == [("rnn", lstm)]
    assert list(flattened(Sequential())) == []
