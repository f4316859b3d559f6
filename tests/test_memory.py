"""A layer gives back the memory that only training needs."""

import tracemalloc

import numpy as np
import pytest

from fastlstm import LSTM, Linear, LSTMCell, Sequential

MB = 1 << 20


@pytest.fixture
def held():
    """A function that tells how many bytes are held by now, of arrays and objects."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()


def model(engine):
    return Sequential(
        LSTM(8, 64, 2, bidirectional=True, engine=engine, seed=0),
        Linear(128, 5, engine=engine, seed=0),
    )


def train(model, steps=100, batch=8):
    """Run and go back once; return the pullback."""
    y, pullback = model.vjp(np.ones((steps, batch, 8), np.float32))
    pullback(np.ones_like(y))
    return pullback


def test_many_dropped_pullbacks_leave_no_more_than_one(engine, held):
    layer, begin = model(engine), held()
    train(layer)
    one = held() - begin
    several = [train(layer) for _ in range(8)]
    assert held() - begin > 4 * MB + one  # a tape each
    several.clear()
    assert held() - begin < one + MB / 2


def test_pullbacks_of_many_sizes_leave_no_more_than_the_largest(engine, held):
    layer = model(engine)
    train(layer, 100, 2)
    begin = held()
    for n in (100, 5, 75, 2, 50, 25, 12, 2):
        train(layer, n, 2)
    assert held() - begin < MB / 2


def test_eval_gives_all_back(engine, held):
    """Weights, gradients and what runs in evaluation are kept."""
    layer, x = model(engine), np.ones((3, 2, 8), np.float32)
    layer(x), layer.zero_grad(), layer.grads
    begin = held()
    train(layer)
    layer.eval()
    assert held() - begin < MB / 4


def test_what_is_dropped_after_eval_is_not_kept(engine, held):
    layer, x = model(engine), np.ones((3, 2, 8), np.float32)
    layer(x), layer.grads
    begin = held()
    pullback = train(layer)
    layer.eval()
    assert held() - begin > MB / 2
    del pullback
    assert held() - begin < MB / 4


def test_a_pullback_from_before_eval_goes_on(engine):
    layer, same = model(engine), model(engine)
    for each in (layer, same):
        y, pullback = each.vjp(np.ones((10, 2, 8), np.float32))
        if each is layer:
            layer.eval()
            train(layer, 10, 2), layer.zero_grad()
        pullback(np.ones_like(y))
    for name, grad in layer.grads.items():
        np.testing.assert_array_equal(grad, same.grads[name])


def test_a_cell_too(engine, held):
    cell, x = LSTMCell(8, 64, engine=engine, seed=0), np.ones((2000, 8), np.float32)
    (h, c), pullback = cell.vjp(x)
    pullback((h, c))
    del pullback
    begin = held()
    several = [cell.vjp(x)[1] for _ in range(5)]
    several.clear()
    assert held() - begin < MB / 4


# ---- what nobody needs is not computed -------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"proj_size": 3}, {"bidirectional": True}], ids=str)
def test_the_other_gradients_without_that_of_the_input(engine, dtype, options):
    """The gradient of the input is None, and the others are the same bits."""
    rng = np.random.default_rng(0)
    how = {"dtype": dtype, "engine": engine, "seed": 0}
    for num_layers in (1, 2):
        lstm = LSTM(5, 9, num_layers, **options, **how)
        for lengths in (None, [7, 2, 4]):
            x = rng.standard_normal((7, 3, 5)).astype(dtype)
            results = []
            for wanted in (True, False):
                lstm.zero_grad()
                (y, states), pullback = lstm.vjp(x, lengths=lengths, input_gradient=wanted)
                dx, d_states = pullback(y, states)
                assert (dx is not None) == wanted
                results.append([*d_states, *(grad.copy() for grad in lstm.grads.values())])
            for with_dx, without in zip(*results, strict=True):
                np.testing.assert_array_equal(with_dx, without)
    x = rng.standard_normal((4, 5)).astype(dtype)
    for layer in (LSTMCell(5, 3, **how), Linear(5, 3, **how)):
        results = []
        for wanted in (True, False):
            layer.zero_grad()
            y, pullback = layer.vjp(x, input_gradient=wanted)
            dx = pullback(y)
            if isinstance(layer, LSTMCell):
                dx, (dh, dc) = dx
                assert dh.shape == dc.shape == (4, 3)
            assert (dx is not None) == wanted
            results.append([grad.copy() for grad in layer.grads.values()])
        for with_dx, without in zip(*results, strict=True):
            np.testing.assert_array_equal(with_dx, without)
