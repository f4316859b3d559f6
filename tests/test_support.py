"""The comparison of every engine must reject engines that are broken: saboteurs."""

import sys

import numpy as np
import pytest
from saboteurs import broken, changed, edited
from support import assert_matches, assert_same_bits, make_case, run

from fastlstm.engines import _numpy
from fastlstm.sequences.packing import rows_of

PLAIN = dict(T=4, B=3, I=3, H=5)
RAGGED = dict(lengths=[5, 4, 2, 1], I=3, H=5)  # as many rows as four sequences of three steps
REVERSE = PLAIN | {"reverse": True}

GATES = "i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)"  # (2)
C = "c[:live] = f * c[:live] + i * g"  # (3)
H = "h_t = o * np.tanh(c[:live])"  # (4)
OUT = "h[:live] = y[rows] = h_t"
STEPS = "reversed(range(len(ends))) if reverse else range(len(ends))"

# name -> (a piece of `run` of `_numpy`, what the saboteur has instead, the case that must show it)
EDITS = {
    "tanh for sigmoid": (GATES, GATES.replace("sigmoid(o)", "np.tanh(o)"), PLAIN),
    "sigmoid for tanh": (GATES, GATES.replace("np.tanh", "sigmoid"), PLAIN),
    "tanh of c forgotten": (H, "h_t = o * c[:live]", PLAIN),
    "c[t - 1] for c[t]": (f"{C}; {H}", f"{H}; {C}", PLAIN),
    "h[t - 1] for h[t]": (OUT, "y[rows] = h[:live]; h[:live] = h_t", PLAIN),
    "h[t - 2] for h[t - 1]": (
        OUT, "h[:live] = y[rows.start - live : rows.start] if rows.start else h_t; y[rows] = h_t",
        PLAIN),
    "last row skipped": (OUT, "h[: live - 1] = y[rows][:-1] = h_t[:-1]", PLAIN),
    "last row of y skipped": (OUT, "h[:live] = h_t; y[rows][:-1] = h_t[:-1]", PLAIN),
    "last unit skipped": (OUT, "h[:live, :-1] = y[rows][:, :-1] = h_t[:, :-1]", PLAIN),
    "last unit of c skipped": (C, "c[:live, :-1] = (f * c[:live] + i * g)[:, :-1]", PLAIN),
    "last step of y skipped": (OUT, "h[:live] = h_t; y[rows] = (rows.stop < len(y)) * h_t", PLAIN),
    "last step of h skipped": (OUT, "y[rows] = h_t; h[:live] = h_t if rows.stop < len(y) else h",
                               PLAIN),
    "h rounded to float16": (OUT, "h[:live] = y[rows] = h_t.astype(np.float16)", PLAIN),
    "z rounded to float16": (
        "z_x[rows] + h[:live] @ cell.w_hh", "np.float16(z_x[rows] + h[:live] @ cell.w_hh)", PLAIN),
    "reverse ignored": (STEPS, "range(len(ends))", REVERSE),
    "always reverse": (STEPS, "reversed(range(len(ends)))", PLAIN),
    "h of the ended dropped": (OUT, f"{OUT}; h[live:] = 0", RAGGED),
    "c of the ended dropped": (C, f"{C}; c[live:] = 0", RAGGED),
}  # fmt: skip


def _gates(*order):
    """Return what puts the gates of a cell into another order."""

    def reordered(a):
        return np.concatenate([np.split(a, 4)[k] for k in order])

    return changed(w_ih=reordered, w_hh=reordered, b=reordered)


def _without_the_last(w):
    w[:, -1] = 0
    return w


def _before(spoil):
    """Return a `run` that spoils the inputs x, h or c, or the memory around y, before it is right.

    `spoil` gets x, h, c and y.
    """

    def broken_run(run, x, batch_sizes, h, c, y, threads):
        spoil(x, h, c, y)
        run(x, batch_sizes, h, c, y, threads)

    return broken_run


def _set(array, value, at=slice(None)):
    array[at] = value


def _with_padding(run, x, batch_sizes, h, c, y, threads):
    """Compute the steps past each sequence's end too, over zeros."""
    T, B = len(batch_sizes), h.shape[1]
    step, sequence = rows_of(np.arange(B), batch_sizes)
    padded_x, padded_y = (np.zeros((T, B, a.shape[1]), a.dtype) for a in (x, y))
    padded_x[step, sequence] = x
    rows = padded_x.reshape(T * B, -1), np.full(T, B), h, c, padded_y.reshape(T * B, -1)
    run(*rows, threads)
    y[...] = padded_y[step, sequence]


def _without_batch_sizes(run, x, batch_sizes, h, c, y, threads):
    run(x, np.full(len(x) // h.shape[1], h.shape[1]), h, c, y, threads)


# name -> (an engine with a fault around it, the case that must show it)
BROKEN = {
    "i and f swapped": (broken(_gates(1, 0, 2, 3)), PLAIN),
    "g and o swapped": (broken(_gates(0, 1, 3, 2)), PLAIN),
    "bias forgotten": (broken(changed(b=np.zeros_like)), PLAIN),
    "last input forgotten": (broken(changed(w_ih=_without_the_last)), PLAIN),
    "recurrence forgotten": (broken(changed(w_hh=np.zeros_like)), PLAIN),
    "last state forgotten": (broken(changed(w_hh=_without_the_last)), PLAIN),
    "projection forgotten": (
        broken(changed(w_hr=lambda w: np.eye(*w.shape, dtype=w.dtype))), PLAIN | {"P": 2}),
    "h_0 dropped": (broken(run=_before(lambda x, h, c, y: _set(h, 0))), PLAIN),
    "c_0 dropped": (broken(run=_before(lambda x, h, c, y: _set(c, 0))), PLAIN),
    "x written": (broken(run=_before(lambda x, h, c, y: _set(x, 0, (0, 0)))), PLAIN),
    "y written past its rows": (
        broken(run=_before(lambda x, h, c, y: _set(y.base, 0, -1))), PLAIN),
    "c written past its rows": (broken(run=_before(lambda x, h, c, y: _set(c.base, 0, 0))), PLAIN),
    "reverse from the padded end": (broken(run=_with_padding), RAGGED | {"reverse": True}),
    "final state at T": (broken(run=_with_padding), RAGGED),
    "batch_sizes ignored": (broken(run=_without_batch_sizes), RAGGED),
}  # fmt: skip
SABOTEURS = BROKEN | {
    name: (edited(_numpy, "run", old, new), case) for name, (old, new, case) in EDITS.items()
}


@pytest.mark.parametrize("name", SABOTEURS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_saboteur_is_rejected(name, dtype):
    saboteur, options = SABOTEURS[name]
    case = make_case(**options, dtype=dtype)
    assert_matches(_numpy, case, "numpy")
    assert_matches(broken(), case, "numpy")
    with pytest.raises(AssertionError):
        assert_matches(saboteur, case, "numpy")


def test_rounding_to_float32_is_rejected_in_float64():
    saboteur = edited(_numpy, "run", OUT, "h[:live] = y[rows] = h_t.astype(np.float32)")
    with pytest.raises(AssertionError):
        assert_matches(saboteur, make_case(dtype="float64"), "numpy")


def _step(h, c):
    i, f = h + 1, h * 2
    c = f * c
    return c - i


def test_an_edit_stands_where_its_pattern_fits():
    """Local variables may have any names; those in the patterns are others."""
    here = sys.modules[__name__]
    assert _step(3, 5) == 26
    assert edited(here, "_step", "c = forget * c", "c = forget + c")._step(3, 5) == 7
    assert edited(here, "_step", "a, b = h + 1, h * 2", "b, a = h + 1, h * 2")._step(3, 5) == 14
    assert edited(here, "_step", "return c - rest", "return rest - c")._step(3, 5) == -26


@pytest.mark.parametrize("old, new, sentence", [
    ("c = forget + c", "c = 0", "fits 0"),
    ("x = f * c", "x = 0", "fits 0"),  # c is a parameter, so x is another variable
    ("one, one = h + 1, h * 2", "one = 0", "fits 0"),
    ("h", "c", "fits 2"),
    ("c = forget * c", "c = forget * rest", "'rest' of"),
])  # fmt: skip
def test_an_edit_without_its_place_fails(old, new, sentence):
    with pytest.raises(AssertionError, match=sentence):
        edited(sys.modules[__name__], "_step", old, new)


def test_another_dtype_is_rejected():
    case = make_case(dtype="float32")
    assert run(_numpy, case)["y"].dtype == np.float32
    with pytest.raises(AssertionError):
        assert_same_bits(run(_numpy, case)["y"], run(_numpy, make_case())["y"])


@pytest.mark.parametrize("other", [-0.0, np.nextafter(np.float32(0), np.float32(1)), np.nan])
def test_other_bits_are_rejected(other):
    zero = np.zeros(3, np.float32)
    assert_same_bits(zero, zero.copy())
    with pytest.raises(AssertionError):
        assert_same_bits(zero, np.array([0, 0, other], np.float32))
