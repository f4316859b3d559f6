"""Sequences of different lengths where an array is expected: what the errors say works."""

import numpy as np
import pytest
from support import assert_same_bits

import fastlstm
from fastlstm import LSTM, Embedding, Last, Linear, LSTMCell, ReLU, Sequential
from fastlstm.training import Arrays, MSELoss

TOKENS = [[1, 2, 3], [4]]
FEATURES = [[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [[7.0, 8.0]]]


def _model():
    return Sequential(
        {
            "embedding": Embedding(9, 2, seed=0),
            "lstm": LSTM(2, 3, batch_first=True, seed=1),
            "last": Last(),
            "fc": Linear(3, 2, seed=2),
        }
    )


def _objects(sequences):
    """As `np.load(..., allow_pickle=True)` or a column of a table gives them."""
    array = np.empty(len(sequences), object)
    array[:] = [np.array(s) for s in sequences]
    return array


LAYERS = {
    "sequential": lambda: _model(),
    "embedding": lambda: Embedding(9, 2),
    "lstm": lambda: LSTM(2, 3, batch_first=True),
    "linear": lambda: Linear(2, 3),
    "relu": ReLU,
    "last": Last,
    "cell": lambda: LSTMCell(2, 3),
    "sequential of relu": lambda: Sequential(ReLU()),
}


@pytest.mark.parametrize(
    "ragged", [TOKENS, tuple(TOKENS), _objects(TOKENS), FEATURES, _objects(FEATURES)], ids=repr
)
@pytest.mark.parametrize("name", LAYERS)
def test_ragged_input_is_refused_in_words(name, ragged):
    layer = LAYERS[name]()
    for call in (layer, layer.vjp):
        with pytest.raises(ValueError) as caught:
            call(ragged)
        assert str(caught.value).split(" cannot be read as an array: ", 1)[1] == (
            "its shape is inhomogeneous, as it has sequences of different lengths, [3, 1]. Pad "
            "them with fastlstm.pad_sequence, batch_first as the model's, and give that "
            "lengths=[3, 1], or make a data set of them with fastlstm.training.Sequences"
        )


@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_a_column_of_sequences_too(package):
    column = pytest.importorskip(package).Series(TOKENS)
    with pytest.raises(ValueError, match=r"different lengths, \[3, 1\]. Pad them"):
        _model()(column)


def test_the_issues_case():
    with pytest.raises(
        ValueError, match=r"^input of Embedding cannot .*pad_sequence, .*=\[3, 1\], or"
    ):
        _model()(TOKENS, lengths=[3, 1])


@pytest.mark.parametrize(
    "call",
    [
        lambda ragged: Arrays(ragged, [0, 1]),
        lambda ragged: MSELoss()(np.zeros((2, 3), np.float32), ragged),
        lambda ragged: LSTM(2, 3)(np.zeros((3, 2, 2), np.float32), (ragged, ragged)),
        lambda ragged: LSTM(2, 3).stream(2).step(ragged),
        lambda ragged: LSTM(2, 3).stream(2).run(ragged),
    ],
)
def test_every_door_says_it(call):
    with pytest.raises(ValueError, match="sequences of different lengths, .3, 1.. Pad them with"):
        call(TOKENS)


def test_many_sequences_make_no_long_sentence():
    with pytest.raises(ValueError, match=r"lengths, \[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...\]. Pad"):
        Embedding(9, 2)([[1] * n for n in range(1000)])


def test_the_advice_works():
    model = _model()
    padded = fastlstm.pad_sequence(TOKENS, batch_first=True)
    y = model(padded, lengths=[3, 1])
    for n, tokens in enumerate(TOKENS):
        assert_same_bits(y[n], model([tokens])[0])


def test_what_is_no_sequence_is_not_called_ragged():
    for value, sentence in (
        (["abc", "de"], "input of Embedding must be an array of numbers, got list"),
        ([1, [2]], "input of Embedding cannot be read as an array"),
        ([{"a": 1}, {}], "input of Embedding must be an array of numbers, got list"),
    ):
        with pytest.raises((TypeError, ValueError), match="^" + sentence) as caught:
            Embedding(9, 2)(value)
        assert "different" not in str(caught.value)
