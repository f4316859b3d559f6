"""`return_cells=` and `return_gates=`: all steps of all layers, by value; gradients of cells."""

import numpy as np
import pytest
from errors import raises
from steps import Run, assert_steps
from support import assert_same_bits
from values import normal

from fastlstm import LSTM

MASK = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], bool)
RESET = np.roll(MASK, 1, axis=1)
RUNS = {
    "one layer": Run(steps=True),
    "deep": Run(2, True, 2, steps=True),
    "batch first": Run(1, True, layout="batch", steps=True),
    "unbatched": Run(2, layout="unbatched", shape=(6, 1), steps=True),
    "packed": Run(2, True, layout="packed", lengths=[2, 6, 3], steps=True),
    "lengths": Run(1, True, lengths=[2, 0, 3], steps=True),
    "from the end": Run(reverse=True, lengths=[2, 6, 3], steps=True),
    "masked": Run(2, True, mask=MASK, steps=True),
    "masked, last": Run(2, True, mask=MASK, reset=RESET, last=True, steps=True),
    "packed, last": Run(1, layout="packed", lengths=[2, 6, 3], mask=MASK, last=True, steps=True),
    "no real step": Run(2, True, mask=np.zeros((6, 3), bool), steps=True),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_loop_over_steps_gives_the_same(torch, name, engine):
    assert_steps(RUNS[name], engine)


@pytest.mark.parametrize("name", ["one layer", "masked, last"])
def test_in_float32_too(torch, name, engine):
    assert_steps(RUNS[name], engine, "float32")


def test_a_call_gives_what_vjp_gives(engine):
    lstm = LSTM(3, 5, 2, bidirectional=True, engine=engine, seed=0)
    x = normal(6, 3, 3)
    options = {"mask": MASK, "return_cells": True, "return_gates": True}
    output, states, cells, gates = lstm(x, **options)
    (again, _, cells_again, gates_again), _ = lstm.vjp(x, **options)
    for k in range(2):
        assert_same_bits(cells[k], cells_again[k])
        for gate, other in zip(gates[k], gates_again[k], strict=True):
            assert_same_bits(gate, other)
    assert_same_bits(output, again)
    assert_same_bits(lstm(x, mask=MASK, return_cells=True)[2][1], cells[1])
    assert_same_bits(lstm(x, mask=MASK, return_gates=True)[2][1].f, gates[1].f)
    assert lstm(x, mask=MASK, return_cells=True)[1][0].shape == states[0].shape


@pytest.mark.parametrize("name", ["return_cells", "return_gates"])
@pytest.mark.parametrize("method", ["__call__", "vjp"])
def test_what_is_no_bool(name, method):
    lstm = LSTM(3, 5, engine="numpy")
    raises(
        lambda: getattr(lstm, method)(normal(2, 1, 3), **{name: "yes"}),
        TypeError,
        f"{name} should be of type bool, got: str",
    )


CELLS = {
    "plain": {},
    "projected": {"proj_size": 5, "bidirectional": True},
    "tflite": {"layer_norm": "tflite"},
    "haste": {"layer_norm": "haste", "zoneout": 0.2, "proj_size": 5, "num_layers": 2},
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("hidden", [16, 21])
@pytest.mark.parametrize("name", CELLS)
def test_cells_without_gates_are_the_same(engine, name, hidden, threads):
    """A run gives them by another way than a record does."""
    lstm = LSTM(7, hidden, engine=engine, num_threads=threads, seed=0, **CELLS[name]).eval()
    x = normal(200, 40, 7)
    lengths = np.arange(40) * 5
    _, _, cells = lstm(x, lengths=lengths, return_cells=True)
    _, _, expected, _ = lstm(x, lengths=lengths, return_cells=True, return_gates=True)
    for got, want in zip(cells, expected, strict=True):
        assert_same_bits(got, want)


def test_layers_of_different_widths(engine):
    """Those of a chain of layers."""
    both = LSTM(3, [5, 2], engine=engine, dtype="float64", seed=0)
    alone = [
        LSTM(3, 5, engine=engine, dtype="float64"),
        LSTM(5, 2, engine=engine, dtype="float64"),
    ]
    for k, layer in enumerate(alone):
        names = [name.replace("_l0", f"_l{k}") for name in layer.state_dict()]
        state = both.state_dict()
        layer.load_state_dict({n.replace(f"_l{k}", "_l0"): state[n] for n in names})
    x = normal(6, 3, 3, dtype="float64")
    (_, _, cells, gates), pullback = both.vjp(x, return_cells=True, return_gates=True)
    (y, _, first, first_gates), back_first = alone[0].vjp(x, return_cells=True, return_gates=True)
    (_, _, second, second_gates), back_second = alone[1].vjp(
        y, return_cells=True, return_gates=True
    )
    for ours, theirs in zip(cells, (*first, *second), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-14)
    for ours, theirs in zip(gates, (*first_gates, *second_gates), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-14)
    dx, _ = pullback(None, None, cells)
    dy, _ = back_second(None, None, second)
    expected, _ = back_first(dy, None, first)
    np.testing.assert_allclose(dx, expected, atol=1e-13)


def test_one_layer_of_gradients_may_be_missing(engine):
    """None is zeros, and gradients of cells add up with those of the output."""
    lstm = LSTM(3, 5, 2, engine=engine, dtype="float64", seed=0)
    x, d = normal(6, 3, 3, dtype="float64"), normal(6, 3, 5, dtype="float64")
    (output, _, cells), pullback = lstm.vjp(x, return_cells=True)
    nothing, _ = pullback(None, None, (None, None))
    assert not nothing.any()
    expected = pullback(d)[0] + pullback(None, None, (d, None))[0]
    np.testing.assert_allclose(pullback(d, None, (d, None))[0], expected, rtol=0, atol=1e-14)
    zeros, _ = pullback(d, None, (d, np.zeros_like(d)))
    np.testing.assert_allclose(zeros, expected, rtol=0, atol=1e-14)


def test_what_is_refused():
    lstm, x = LSTM(3, 5, 2, engine="numpy", seed=0), normal(6, 3, 3)
    raises(
        lambda: lstm.vjp(x, return_cells=True, checkpoint_every=2),
        ValueError,
        "checkpoint_every cannot be given with return_cells or return_gates, for which every step "
        "is kept",
    )
    (output, _, cells), pullback = lstm.vjp(x, return_cells=True)
    for wrong, sentence in (
        (cells[0], "d_cells must be a tuple of 2, an array or None for each layer, got ndarray of "
         "shape (6, 3, 5)"),
        (cells[:1], "d_cells must be a tuple of 2, an array or None for each layer, got a tuple of "
         "1"),
        ((cells[0], cells[1][:3]),
         "Expected d_cells[1] of the cells' shape (6, 3, 5), got (3, 3, 5)"),
    ):  # fmt: skip
        raises(lambda w=wrong: pullback(output, None, w), ValueError, sentence)
    assert not any(gradient.any() for gradient in lstm.grads.values())
    _, pullback = lstm.vjp(x, return_gates=True)
    raises(
        lambda: pullback(output, None, cells),
        ValueError,
        "d_cells: Expected none of a run without return_cells=True",
    )


# ---- saboteurs ------------------------------------------------------------------------------


class Late(LSTM):
    """Gives the cells before each step."""

    def vjp(self, *arguments, **options):
        (y, states, cells, gates), pullback = super().vjp(*arguments, **options)
        return (y, states, tuple(np.roll(c, 1, axis=0) for c in cells), gates), pullback


class Swapped(LSTM):
    """Takes the input gate for the forget gate."""

    def vjp(self, *arguments, **options):
        (y, states, cells, gates), pullback = super().vjp(*arguments, **options)
        return (y, states, cells, tuple(g._replace(i=g.f, f=g.i) for g in gates)), pullback


class Deaf(LSTM):
    """Loses the gradients of all cells but those of the last layer."""

    def vjp(self, *arguments, **options):
        y, pullback = super().vjp(*arguments, **options)
        return y, lambda dy, d_states, dc: pullback(dy, d_states, (*[None] * len(dc[1:]), dc[-1]))


class Crossed(LSTM):
    """Gives each direction the gradients of the other one's cells."""

    def vjp(self, *arguments, **options):
        y, pullback = super().vjp(*arguments, **options)
        half = self.hidden_size

        def crossed(dy, d_states, dc):
            return pullback(dy, d_states, [np.roll(d, half, axis=2) for d in dc])

        return y, crossed


@pytest.mark.parametrize("kind", [Late, Swapped, Deaf, Crossed])
def test_faults_are_seen(torch, kind):
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_steps(RUNS["deep"], "numpy", kind=kind)
