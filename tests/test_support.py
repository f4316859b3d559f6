"""The comparison of every engine must reject engines that are broken: saboteurs."""

import inspect
import types

import numpy as np
import pytest
from support import assert_matches, assert_same_bits, make_case, run

from fastlstm.engines import _numpy
from fastlstm.sequences.packing import rows_of

PLAIN = dict(T=4, B=3, I=3, H=5)
RAGGED = dict(lengths=[5, 4, 2, 1], I=3, H=5)  # as many rows as four sequences of three steps

Z = "z = z_x[rows] + h[:live] @ cell.w_hh"
C = "c[:live] = f * c[:live] + i * g"
FILL = "h[:live] = y[rows] = h_t"
START = "    ends = "

# name -> (a piece of `run` of `_numpy`, what the saboteur has instead, the case that must show it)
EDITS = {
    "i and f swapped": ("i, f, g, o = np.split", "f, i, g, o = np.split", PLAIN),
    "g and o swapped": ("i, f, g, o = np.split", "i, f, o, g = np.split", PLAIN),
    "tanh for sigmoid": ("sigmoid(o)  # (2)", "np.tanh(o)", PLAIN),
    "sigmoid for tanh": ("np.tanh(g)", "sigmoid(g)", PLAIN),
    "tanh of c forgotten": ("o * np.tanh(c[:live])", "o * c[:live]", PLAIN),
    "c_0 dropped": (START, "    c[:] = 0\n" + START, PLAIN),
    "h_0 dropped": (START, "    h[:] = 0\n" + START, PLAIN),
    "bias forgotten": ("x @ cell.w_ih + cell.b", "x @ cell.w_ih", PLAIN),
    "last input forgotten": ("x @ cell.w_ih", "x[:, :-1] @ cell.w_ih[:-1]", PLAIN),
    "recurrence forgotten": (Z, "z = z_x[rows]", PLAIN),
    "last state forgotten": (Z, "z = z_x[rows] + h[:live, :-1] @ cell.w_hh[:-1]", PLAIN),
    "h[t - 2] for h[t - 1]": (FILL, "h[:live] = y[rows.start - live : rows.start] if t else h_t\n"
                                    "        y[rows] = h_t", PLAIN),
    "h[t - 1] for h[t]": (FILL, "y[rows] = h[:live]\n        h[:live] = h_t", PLAIN),
    "c[t - 1] for c[t]": ("np.tanh(c[:live])", "np.tanh((c[:live] - i * g) / f)", PLAIN),
    "last row skipped": (FILL, "h[: live - 1] = y[rows][:-1] = h_t[:-1]", PLAIN),
    "last row of y skipped": (FILL, "h[:live] = h_t\n        y[rows][:-1] = h_t[:-1]", PLAIN),
    "last unit skipped": (FILL, "h[:live, :-1] = y[rows][:, :-1] = h_t[:, :-1]", PLAIN),
    "last unit of c skipped": (C, "c[:live, :-1] = (f * c[:live] + i * g)[:, :-1]", PLAIN),
    "last step of y skipped": (FILL, "h[:live] = h_t\n        y[rows] = t < 3 and h_t", PLAIN),
    "last step of h skipped": (FILL, "y[rows] = h_t\n        h[t // 3 :] = h_t[t // 3 :]", PLAIN),
    "h rounded to float16": (FILL, FILL + ".astype(np.float16)", PLAIN),
    "z rounded to float16": (Z, Z.replace("= ", "= np.float16(") + ")", PLAIN),
    "reverse ignored": ("if reverse else", "if False else", PLAIN | {"reverse": True}),
    "always reverse": ("if reverse else", "if True else", PLAIN),
    "projection forgotten": ("h_t @ cell.w_hr", "h_t[:, : cell.w_hr.shape[1]]", PLAIN | {"P": 2}),
    "states of the ended dropped": (FILL, FILL + "\n        h[live:] = c[live:] = 0", RAGGED),
    "x written": (START, "    x[0, 0] = 0\n" + START, PLAIN),
    "y written past its rows": (FILL, FILL + "\n        y.base[-1] = 0", PLAIN),
    "c written past its rows": (FILL, FILL + "\n        c.base[0] = 0", PLAIN),
}  # fmt: skip


def _edited(old, new):
    source, run = inspect.getsource(_numpy), inspect.getsource(_numpy.run)
    assert run.count(old) == 1, f"{old!r} must occur once in run of _numpy"
    module = types.ModuleType("saboteur")
    module.__package__ = _numpy.__package__
    exec(source.replace(run, run.replace(old, new)), module.__dict__)
    return module


def _with_padding(weights, x, batch_sizes, h, c, y, reverse, saved):
    """Compute the steps past each sequence's end too, over zeros."""
    T, B = len(batch_sizes), len(h)
    step, sequence = rows_of(np.arange(B), batch_sizes)
    padded_x, padded_y = np.zeros((T, B, x.shape[1])), np.zeros((T, B, y.shape[1]))
    padded_x[step, sequence] = x
    rows = padded_x.reshape(T * B, -1), np.full(T, B), h, c, padded_y.reshape(T * B, -1)
    _numpy.run(weights, *rows, reverse)
    y[...] = padded_y[step, sequence]


def _without_batch_sizes(weights, x, batch_sizes, h, c, y, reverse, saved):
    _numpy.run(weights, x, np.full(len(x) // len(h), len(h)), h, c, y, reverse)


def _running(run):
    """Engine numpy with another function that runs a cell."""
    stack = type("Stack", (_numpy.Stack,), {"run_cell": staticmethod(run)})
    return types.SimpleNamespace(Stack=stack)


RUNS = {
    "reverse from the padded end": (_with_padding, RAGGED | {"reverse": True}),
    "final state at T": (_with_padding, RAGGED),
    "batch_sizes ignored": (_without_batch_sizes, RAGGED),
}
SABOTEURS = {name: (_edited(*edit), case) for name, (*edit, case) in EDITS.items()} | {
    name: (_running(run), case) for name, (run, case) in RUNS.items()
}


@pytest.mark.parametrize("name", SABOTEURS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_saboteur_is_rejected(name, dtype):
    saboteur, options = SABOTEURS[name]
    case = make_case(**options, dtype=dtype)
    assert_matches(_numpy, case, "numpy")
    with pytest.raises(AssertionError):
        assert_matches(saboteur, case, "numpy")


def test_rounding_to_float32_is_rejected_in_float64():
    saboteur = _edited("= y[rows] = h_t", "= y[rows] = h_t.astype(np.float32)")
    with pytest.raises(AssertionError):
        assert_matches(saboteur, make_case(dtype="float64"), "numpy")


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
