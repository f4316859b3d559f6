"""`fastlstm.visualize.attribution`: gradients and contributions of inputs, by value."""

import copy

import numpy as np
import pytest
from errors import raises
from support import assert_same_bits
from values import normal

import fastlstm
from fastlstm import (
    LSTM,
    Embedding,
    Last,
    Layer,
    Linear,
    LSTMCell,
    Residual,
    Sequential,
    Sigmoid,
)
from fastlstm.visualize import attribution

METHODS = ["integrated_gradients", "gradient_times_input", "gradient"]


def model_of(engine="auto", **options):
    return Sequential({
        "lstm": LSTM(
            3, 5, 2, bidirectional=True, engine=engine, dtype="float64", seed=0, **options
        ),
        "last": Last(),
        "fc": Linear(10, 2, dtype="float64", seed=0),
    })  # fmt: skip


# ---- closed forms ---------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", [None, [1.0, 0.0, -1.0]])
def test_a_linear_model(baseline):
    """y = W x + b: the gradient is W, and the contributions are W times the difference."""
    model = Linear(3, 2, dtype="float64", seed=0)
    x, w = normal(4, 3, dtype="float64"), model.weight[1]
    moved = x - (0 if baseline is None else baseline)
    for method in METHODS:
        found = attribution(model, x, output=(..., 1), method=method, baseline=baseline)
        expected = np.broadcast_to(w, x.shape) if method == "gradient" else w * moved
        np.testing.assert_allclose(found.values, expected, rtol=0, atol=1e-15)
        np.testing.assert_allclose(found.steps, expected.sum(axis=1), rtol=0, atol=4e-15)
        assert found.method == method and found.output == pytest.approx(model(x)[:, 1].sum())
    assert found.baseline_output != found.baseline_output  # nan, of the gradient


def test_a_function_that_bends():
    """y = sigmoid(3 x), from 0: integrated gradients give all that it rises, the slope does not."""
    linear = Linear(1, 1, bias=False, dtype="float64")
    linear.weight = [[3.0]]
    model, x = Sequential(linear, Sigmoid()), np.array([[0.5]])
    y = 1 / (1 + np.exp(-1.5))
    rise = attribution(model, x)
    assert rise.values[0, 0] == pytest.approx(y - 0.5, abs=1e-14)
    assert (rise.output, rise.baseline_output) == (pytest.approx(y), 0.5)
    slope = attribution(model, x, method="gradient").values[0, 0]
    assert slope == pytest.approx(3 * y * (1 - y), abs=1e-14)
    times = attribution(model, x, method="gradient_times_input").values[0, 0]
    assert times == pytest.approx(0.5 * slope, abs=1e-14)


# ---- an LSTM --------------------------------------------------------------------------------


def finite_differences(function, x, step=1e-4):
    """Central differences; off by step^2 f''' / 6, and eps |f| / step: some 1e-8 and 1e-12 here."""
    gradient = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved[place] += sign * step
            ends.append(function(moved))
        gradient[place] = (ends[0] - ends[1]) / (2 * step)
    return gradient


@pytest.mark.parametrize("lengths", [None, [4, 2]])
def test_the_gradient_is_that_of_the_output(engine, lengths):
    model, x = model_of(engine), normal(4, 2, 3, dtype="float64")
    options = {} if lengths is None else {"lengths": lengths}
    found = attribution(model, x, output=(1, 0), method="gradient", **options)
    expected = finite_differences(lambda moved: model(moved, **options)[1, 0], x)
    np.testing.assert_allclose(found.values, expected, rtol=0, atol=1e-7)
    assert not found.values[:, 0].any()  # of the other sequence
    assert not found.values[2:, 1].any() or lengths is None  # and of the padding
    assert found.output == model(x, **options)[1, 0]


def test_contributions_add_up(engine):
    """To what separates the outputs, at points of Gauss and Legendre that are few."""
    model, x, base = model_of(engine), normal(7, 2, 3, dtype="float64"), normal(2, 3, seed=5)
    found = attribution(model, x, output=(..., 1), baseline=base)
    ends = model(x)[:, 1], model(np.broadcast_to(base.astype("f8"), x.shape))[:, 1]
    assert found.output == pytest.approx(ends[0].sum())
    assert found.baseline_output == pytest.approx(ends[1].sum())
    # Of each sequence by itself.
    np.testing.assert_allclose(found.steps.sum(axis=0), ends[0] - ends[1], rtol=0, atol=1e-9)
    # With half of the points they do not quite: the error is that of the quadrature.
    rough = attribution(model, x, output=(..., 1), baseline=base, points=2)
    assert np.abs(rough.steps.sum(axis=0) - (ends[0] - ends[1])).max() > 1e-6
    wrong = attribution(model, x, output=(..., 1), baseline=base, method="gradient_times_input")
    assert np.abs(wrong.steps.sum(axis=0) - (ends[0] - ends[1])).max() > 1e-3


def test_an_lstm_by_itself(engine):
    """Its output is explained, in every layout."""
    lstm = LSTM(3, 5, 1, engine=engine, dtype="float64", seed=0)
    x, hx = normal(6, 2, 3, dtype="float64"), normal(1, 2, 5, dtype="float64")
    found = attribution(lstm, x, (hx, hx), output=(3, 1, 2), method="gradient")
    (output, _), pullback = lstm.vjp(x, (hx, hx))
    d = np.zeros_like(output)
    d[3, 1, 2] = 1
    expected, _ = pullback(d)
    assert_same_bits(found.values, expected)
    assert not found.values[4:].any() and found.values[:4, 1].any()
    pack = fastlstm.pack_padded_sequence(x, [6, 6])
    packed = attribution(lstm, pack, (hx, hx), output=(7, 2), method="gradient")
    assert_same_bits(fastlstm.pad_packed_sequence(packed.values)[0], expected)
    np.testing.assert_allclose(packed.steps.data, packed.values.data.sum(axis=1))
    alone = attribution(lstm, x[:, 1], (hx[:, 1], hx[:, 1]), output=(3, 2), method="gradient")
    np.testing.assert_allclose(alone.values, expected[:, 1], rtol=0, atol=1e-15)
    for one in (found, packed):
        assert one.sequence(1).values.shape == one.sequence(1).input.shape == (6, 3)
        np.testing.assert_allclose(one.sequence(1).values, alone.values, rtol=0, atol=1e-15)


def test_mask_and_states_of_a_model():
    lstm, x = LSTM(3, 4, dtype="float64", seed=0), normal(5, 2, 3, dtype="float64")
    mask = np.ones((5, 2), bool)
    mask[2] = False
    found = attribution(lstm, x, output=(4,), mask=mask)
    assert not found.values[2].any() and found.values[1].any()
    model = Sequential({"a": lstm, "b": Linear(4, 2, dtype="float64", seed=0)})
    states = (normal(1, 2, 4, dtype="float64"), normal(1, 2, 4, dtype="float64", seed=1))
    found = attribution(model, x, states, output=(-1, 0, 0))
    ends = (model(value, states)[0][-1, 0, 0] for value in (x, np.zeros_like(x)))
    assert found.values.sum() == pytest.approx(np.subtract(*ends), abs=1e-9)


def test_a_cell(engine):
    cell = LSTMCell(3, 4, engine=engine, dtype="float64", seed=0)
    x = normal(2, 3, dtype="float64")
    for model in (cell, Sequential(cell)):
        for hx in (None, (normal(2, 4, dtype="float64"),) * 2):
            found = attribution(model, x, hx, output=(1, 2), method="gradient")
            expected = finite_differences(lambda moved, hx=hx: cell(moved, hx)[0][1, 2], x)
            np.testing.assert_allclose(found.values, expected, rtol=0, atol=1e-7)


def test_models_that_begin_with_an_embedding():
    """The values are those of the embedded input, however deep the embedding stands."""
    rest = [LSTM(3, 5, dtype="float64", seed=0), Last(), Linear(5, 2, dtype="float64", seed=0)]
    embedding = Embedding(9, 3, dtype="float64", seed=0)
    index = np.array([[1, 2], [3, 4], [8, 0]])
    expected = attribution(Sequential(*rest), embedding(index), output=(0, 1), lengths=[2, 3])
    other = attribution(
        Sequential(*rest), embedding(index), output=(0, 1), baseline=embedding([[5, 6]] * 3)
    )
    for model in (
        Sequential(embedding, *rest),
        Sequential(Sequential(embedding, rest[0]), *rest[1:]),
    ):
        found = attribution(model, index, output=(0, 1), lengths=[2, 3])
        assert_same_bits(found.values, expected.values)
        assert_same_bits(found.input, index)
        assert_same_bits(
            attribution(model, index, output=(0, 1), baseline=[[5, 6]]).values, other.values
        )
    one = found.sequence(0)
    assert_same_bits(one.values, expected.values[:2, 0])
    assert_same_bits(one.input, index[:2, 0])


def test_the_model_does_not_change():
    model, x = model_of(dropout=0.5), normal(4, 2, 3, dtype="float64")
    model.freeze("fc")
    y, pullback = model.vjp(x)
    pullback(np.ones_like(y))
    grads = {name: g.copy() for name, g in model.grads.items()}
    before = copy.deepcopy(model)
    found = attribution(model, x)
    assert_same_bits(found.values, attribution(model, x).values)  # without dropout
    assert model.training and model["lstm"].learns and not model["fc"].learns
    for name, gradient in model.grads.items():
        assert_same_bits(gradient, grads[name])
    assert_same_bits(model(x), before(x))


# ---- what is said ---------------------------------------------------------------------------


def test_repr():
    found = attribution(LSTM(3, 4), np.zeros((5, 3), "f4"), output=(0, 0), method="gradient")
    assert repr(found).startswith("Attribution('gradient' of (5, 3) float32, output ")


def test_what_is_refused():
    lstm, x = LSTM(3, 4), normal(5, 3)
    raises(
        lambda: attribution(lstm, x, method="saliency"),
        ValueError,
        "method must be one of integrated_gradients, gradient_times_input, gradient, got "
        "'saliency'",
    )
    raises(
        lambda: attribution("lstm.npz", x),
        TypeError,
        "attribution: model must be a fastlstm layer, got str",
    )
    raises(
        lambda: attribution(lstm, x, baseline=np.zeros(4)),
        ValueError,
        "Expected a baseline that broadcasts to the input's shape (5, 3), got (4,)",
    )
    with pytest.raises(ValueError, match=r"attribution input dtype \(int64\) does not match"):
        attribution(lstm, np.zeros((5, 3), np.int64))
    with pytest.raises(ValueError, match="points"):
        attribution(lstm, x, points=0)
    with pytest.raises(IndexError):
        attribution(lstm, x, output=(5, 0))

    class Forward(Layer):
        def forward(self, input):
            return input

    with pytest.raises(NotImplementedError, match="Forward has no vjp"):
        attribution(Residual(Forward()), x)
