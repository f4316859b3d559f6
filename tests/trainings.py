"""Small trainings for the tests of `fit`: models, data, and when two trainings are the same."""

from support import assert_same_bits
from values import normal

from fastlstm import LSTM, Dropout, Last, Linear, Sequential

N, T, F = 22, 6, 2  # samples, steps, features; batches of 8 leave one of 6


def lstm(inputs, hidden, **options):
    return LSTM(inputs, hidden, engine="numpy", seed=1, **options)


def regressor(dropout=0.0, **options):
    """Many to one; with dropout in two places, each with random numbers of its own."""
    inside = {"num_layers": 2, "dropout": dropout} if dropout else {}
    layers = {
        "lstm": lstm(F, 4, **inside, **options),
        "dropout": Dropout(dropout, seed=3),
        "last": Last(batch_first=options.get("batch_first", False)),
        "fc": Linear(4, 1, seed=2),
    }
    return Sequential(layers)


def make_data(seed=0):
    x = normal(N, T, F, seed=seed)
    return x, x[:, -2:, 0].sum(1, keepdims=True)


def assert_same_weights(model, other):
    for name, value in model.state_dict().items():
        assert_same_bits(value, other.state_dict()[name])


def assert_same_history(got, expected):
    """All but the seconds, bit for bit."""
    assert got.keys() == expected.keys()
    for name in expected.keys() - {"seconds"}:
        assert_same_bits(got[name], expected[name])
