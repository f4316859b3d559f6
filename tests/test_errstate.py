"""Whatever `np.errstate` a caller has: the same values, and nothing raised."""

import numpy as np
import pytest
from support import assert_same_bits
from values import arrays_in

import fastlstm
from fastlstm import (
    LSTM,
    Dropout,
    Embedding,
    Last,
    Linear,
    ReLU,
    Sequential,
    Sigmoid,
    Softmax,
    Tanh,
)
from fastlstm.training import (
    SGD,
    Adam,
    AdamW,
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    HuberLoss,
    L1Loss,
    MSELoss,
    NSELoss,
    QuantileLoss,
    RMSprop,
    Sequences,
    Standardizer,
    Windows,
    clip_grad_norm,
    clip_grad_value,
)

# underflow, denormals, overflow: whatever a product, a sum or exp can come to
HARD = [1e-40, -1e-30, 1e-20, -1000, 88, 89, -104, 0, 3e38, -3e38, 1, 1000]


def _hard(*shape, dtype="float32"):
    with np.errstate(under="ignore"):
        return np.resize(np.array(HARD), shape).astype(dtype)


def _scaled(layer, factor):
    """The layer with weights that make its sums underflow or overflow."""
    layer.load_state_dict({n: v * factor for n, v in layer.state_dict().items()})
    return layer


def _there_and_back(call):
    """What a layer, or anything with `vjp`, gives and gives back, and its parameters' gradients."""
    y, pullback = call.vjp(_tokens if isinstance(call, Embedding) else _hard(4, 3, 6))
    results = list(arrays_in(y))
    dy = _hard(*results[0].shape)
    for _ in range(2):  # the second one adds to what the first has left
        dx = pullback(dy)
    return results + list(arrays_in(dx)) + list(call.grads.values())


_tokens = np.array([[0, 1, 1], [2, 0, 1]])


LAYERS = {
    "linear": lambda: _scaled(Linear(6, 5, seed=0), 1e-20),
    "linear_overflow": lambda: _scaled(Linear(6, 5, seed=0), 1e20),
    "embedding": lambda: Embedding(3, 6, seed=0),
    "dropout": lambda: Dropout(0.3, seed=0),
    "relu": ReLU,
    "tanh": Tanh,
    "sigmoid": Sigmoid,
    "softmax": Softmax,
    "last": Last,
    "lstm": lambda: _scaled(LSTM(6, 5, 2, bidirectional=True, seed=0), 1e-20),
    "lstm_dropout": lambda: LSTM(6, 5, 2, dropout=0.3, proj_size=2, seed=0),
    "cell": lambda: fastlstm.LSTMCell(6, 5, seed=0),
    "sequential": lambda: Sequential(LSTM(6, 5, seed=0), Last(), Linear(5, 3, seed=0), Softmax()),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_raises_nothing(name, engine, monkeypatch):
    monkeypatch.setenv("FASTLSTM_ENGINE", engine)

    def run():
        layer = LAYERS[name]()
        if name == "cell":
            (h, c), pullback = layer.vjp(_hard(3, 6))
            return [h, c, *arrays_in(pullback((_hard(3, 5), None)))]
        if name.startswith("lstm"):
            (y, states), pullback = layer.vjp(_hard(4, 3, 6))
            back = pullback(_hard(*y.shape))
            return [y, *states, *arrays_in(back), *layer.grads.values(), layer(_hard(4, 3, 6))[0]]
        return [*_there_and_back(layer), layer(_tokens if name == "embedding" else _hard(4, 3, 6))]

    expected = run()
    with np.errstate(all="raise"):
        got = run()
    for one, other in zip(got, expected, strict=True):
        assert_same_bits(one, other)


@pytest.mark.parametrize("kind", [Sigmoid, Softmax, Tanh])
def test_limits_far_from_zero(kind, dtype):
    """Far from 0 these functions have their exact limits, though exp overflows there."""
    x = np.array([[-1e4, 0.0, -1e4]], dtype)
    with np.errstate(all="raise"):
        y = kind()(x)
    expected = {Sigmoid: [[0, 0.5, 0]], Softmax: [[0, 1, 0]], Tanh: [[-1, 0, -1]]}[kind]
    np.testing.assert_array_equal(y, expected)


def test_engines_raise_nothing(engine, dtype):
    """Gates are shut and products underflow, forward, backward and step by step."""
    x = _hard(4, 3, 6, dtype=dtype)
    small, dy = x / 1e3, _hard(4, 3, 5, dtype=dtype) / 1e30

    def run():
        lstm = LSTM(6, 5, engine=engine, dtype=dtype, seed=0)
        (y, states), pullback = lstm.vjp(small)
        dx, d_states = pullback(dy)
        stream = lstm.stream(3)
        return [y, *states, dx, *d_states, lstm(x)[0], stream.step(x[0]), stream.run(x)]

    expected = run()
    with np.errstate(all="raise"):
        got = run()
    for one, other in zip(got, expected, strict=True):
        assert_same_bits(one, other)


def test_losses_and_optimisers_raise_nothing():
    prediction, target = _hard(4, 3), np.zeros((4, 3), np.float32)
    weights = np.array([1e-60, 1e60, 1, 0])
    losses = [MSELoss(), L1Loss(), HuberLoss(),
              BCEWithLogitsLoss()]  # fmt: skip
    classes = CrossEntropyLoss(weight=[1e-60, 1.0, 1.0])
    with np.errstate(all="raise"):
        for loss in losses:
            loss(prediction, target, weights=weights)
        classes(prediction, np.zeros(4, int), weights=weights)
        QuantileLoss([0.1, 0.5, 0.9])(prediction, target[:, :1].squeeze(1))
        NSELoss()(prediction, target, std=np.ones(4))
        for kind in (
            SGD,
            Adam,
            AdamW,
            RMSprop,
        ):
            linear = Linear(6, 5, seed=0)
            linear.vjp(_hard(4, 6))[1](_hard(4, 5))
            clip_grad_norm(linear, 1.0)
            clip_grad_value(linear, 1e-30)
            kind(linear, lr=1e-30).step()


def test_small_numbers_from_outside_become_zeros():
    """A list, a half-precision or a float64 value may lie below float32's smallest number."""
    with np.errstate(all="raise"):
        linear = Linear(1, 1, bias=False)
        linear.weight = np.array([[1e-60]])
        assert linear.weight == 0 and linear([[1e-60]]) == 0
        linear.load_state_dict({"weight": np.array([[1e-60]])})


def test_data_sets_raise_nothing():
    tiny = np.full((30, 2), 1e-60)
    with np.errstate(all="raise"):
        assert not Windows(tiny, 4)[:].x.any()
        assert not Sequences([tiny], [1e-60])[:].x.any()
        Standardizer.fit(tiny).transform(tiny)


def test_threads_raise_and_warn_of_nothing(engine):
    """Each thread of the engines numpy and numba has an error state of NumPy's of its own."""
    lstm, x = LSTM(64, 96, engine=engine, num_threads=2, seed=0), np.full((60, 32, 64), 3e38)
    lstm = _scaled(lstm, 1e10)
    with np.errstate(all="raise"):
        y = lstm(x.astype(np.float32))[0]
    assert_same_bits(y, lstm(x.astype(np.float32))[0])
