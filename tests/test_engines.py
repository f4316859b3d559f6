"""Every engine against `_numpy` in float64, through the contract alone, and the contract itself."""

import concurrent.futures
import copy
import ctypes
import dataclasses
import importlib
import inspect
import os
import pathlib
import pickle
import re
import subprocess
import sys
import threading
import tracemalloc
import types
import warnings

import numpy as np
import pytest
from support import (
    ACTIVATION,
    Guarded,
    assert_matches,
    assert_same_bits,
    make_case,
    run,
    stack_of,
    tolerance,
)

import fastlstm
from fastlstm.engines import MODULES, _layers, _numpy, _warn_of_numpy, choose, contract, load
from fastlstm.engines.contract import Cell
from fastlstm.engines.machine import _USUAL as USUAL
from fastlstm.engines.machine import asked_caches, caches, cpus, threads
from fastlstm.formats import structure
from fastlstm.sequences.packing import rows_of

ROOT = pathlib.Path(__file__).parents[1]

# (T, B, I, H), odd ones first: around the sizes of register tiles and vectors
SHAPES = {
    "odd": (7, 3, 5, 11),
    "one": (1, 1, 1, 1),
    **{f"hidden{H}": (3, 5, 4, H) for H in (1, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65)},
    **{f"batch{B}": (3, B, 4, 10) for B in (*range(1, 15), 30, 31, 32, 33)},
    **{f"input{n}": (3, 2, n, 9) for n in (1, 2, 3, 15, 16, 17, 18, 40)},
    "long": (512, 2, 3, 8),
    "wide": (4, 33, 64, 96),
    "alone": (300, 1, 3, 130),
    "alone_wide": (9, 1, 70, 150),
}

RAGGED = {
    "two": [2, 1],
    "equal": [3, 3, 3],
    "stairs": [9, 8, 7, 6, 5, 4, 3, 2, 1],
    "cliff": [12, 1, 1, 1, 1, 1, 1],
    "every_tile": range(30, 0, -1),
    "plateaus": [10] * 7 + [6] * 5 + [2] * 14,
    "one_long": [300, 2],
    "alone": [300],
}


@pytest.fixture
def module(engine):
    return load(engine)


# ---- values ---------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(module, engine, dtype, shape, reverse):
    T, B, inputs, H = SHAPES[shape]
    assert_matches(module, make_case(T, B, inputs, H, reverse=reverse, dtype=dtype), engine)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("lengths", RAGGED)
def test_ragged(module, engine, dtype, lengths, reverse):
    case = make_case(I=5, H=11, lengths=RAGGED[lengths], reverse=reverse, dtype=dtype)
    assert_matches(module, case, engine)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("lengths", [[4, 4], [4, 2, 1], [5]], ids=str)
@pytest.mark.parametrize(
    "P, H", [(1, 2), (7, 33), (16, 17), (17, 40), (31, 65), (64, 65), (65, 70), (129, 130)]
)
def test_projection(module, engine, dtype, P, H, lengths, reverse):
    case = make_case(I=3, H=H, P=P, lengths=lengths, reverse=reverse, dtype=dtype)
    assert_matches(module, case, engine)


@pytest.mark.parametrize("lengths", [[4, 4, 4], [4, 2, 1]], ids=str)
@pytest.mark.parametrize("P", [None, 6])
@pytest.mark.parametrize("gap", [1, 3, 16])
def test_rows_lie_apart(module, engine, dtype, lengths, P, gap):
    """x and y are columns of wider buffers, whose other columns stay as they are."""
    for H in (11, 16, 33):
        case = make_case(I=5, H=H, P=P, lengths=lengths, dtype=dtype)
        assert_matches(module, case, engine, gap)


@pytest.mark.parametrize("gain", [50, 1000])
def test_saturated(module, engine, dtype, gain):
    case = make_case(7, 5, 5, 11, gain=gain, dtype=dtype)
    z = case.x @ case.cell.w_ih.T
    assert np.abs(z).max() > gain and np.abs(z).min() < gain / 10
    assert_matches(module, case, engine)


def test_zeros(module, engine, dtype):
    """With i = f = o = 1/2 and g = 0, c is halved at every step."""
    case = make_case(3, 2, 3, 9, dtype=dtype)
    zeros = {name: np.zeros_like(getattr(case, name)) for name in ("x", "h")}
    case = case._replace(cell=case.cell.map(np.zeros_like), c=np.ones_like(case.c), **zeros)
    assert_matches(module, case, engine)
    np.testing.assert_array_equal(run(module, case)["c"], 1 / 8)


def test_denormals(module, engine, dtype):
    """Tiny values neither break anything nor change how the machine treats them afterwards."""
    tiny = np.finfo(dtype).smallest_subnormal * 5
    case = make_case(3, 2, 3, 9, dtype=dtype)
    case = case._replace(x=np.full_like(case.x, tiny), h=np.full_like(case.h, -tiny))
    assert_matches(module, case, engine)
    assert tiny * np.dtype(dtype).type(3) > 0


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("lengths", [[4] * 7, [4, 4, 3, 3, 2, 1, 1]], ids=["padded", "ragged"])
def test_nan_and_inf_stay_in_their_sequence(module, engine, dtype, value, lengths):
    """That sequence's rows are as `_numpy`'s, and all other rows are as they are without it."""
    clean = make_case(I=5, H=19, lengths=lengths, dtype=dtype)
    expected = run(module, clean)
    step, sequence = rows_of(np.arange(7), clean.batch_sizes)
    for victim in range(7):
        x = clean.x.copy()
        x[sequence == victim, 2] = value
        assert_matches(module, clean._replace(x=x), engine)
        got = run(module, clean._replace(x=x))
        assert np.isnan(got["y"][sequence == victim]).all() == np.isnan(value)
        bound, others = clean.tolerance(engine), np.arange(7) != victim
        for rows, name in [(sequence != victim, "y"), (others, "h"), (others, "c")]:
            np.testing.assert_allclose(got[name][rows], expected[name][rows], **bound)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_inf_in_states_and_weights(module, engine, dtype, value):
    case = make_case(3, 4, 3, 9, dtype=dtype)
    for name in ("h", "c", "w_ih", "w_hh", "b"):
        poisoned = (getattr(case, name) if name in "hc" else getattr(case.cell, name)).copy()
        poisoned.flat[4] = value
        change = case._replace if name in "hc" else case.with_cell
        assert_matches(module, change(**{name: poisoned}), engine)


@pytest.mark.parametrize("gate", range(4), ids="ifgo")
def test_an_infinite_gate(module, engine, dtype, gate):
    """The bias makes it so, because an infinite x would turn other gates' zeros into nan."""
    for sign in (1, -1):
        case = make_case(1, 3, 2, 9, dtype=dtype)
        case.cell.b[gate * 9 + 4] = sign * np.inf
        assert_matches(module, case, engine)


# ---- the contract ---------------------------------------------------------------------------


def _parameters(function):
    """The parameters' names, kinds and defaults; not every engine writes their types down."""
    parameters = inspect.signature(function).parameters.values()
    return [p.replace(annotation=inspect.Parameter.empty) for p in parameters]


def _exports(module):
    """What an engine must export, by name: its functions and the methods of its classes."""
    for name in ("line", "prepare", "describe"):
        yield name, getattr(module, name), getattr(contract.Engine, name)
    for name in ("Stack", "Product"):
        protocol = getattr(contract, name)
        for method, function in vars(protocol).items():
            if inspect.isfunction(function) and not method.startswith("_"):
                own = getattr(module, name)
                yield f"{name}.{method}", getattr(own, method), function
        yield name, getattr(module, name), protocol.__init__


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 forgets a protocol's __init__")
def test_engines_export_what_the_contract_says(module):
    """Names, parameters and defaults are the same, so any engine can stand in for any other."""
    names = set()
    for name, own, expected in _exports(module):
        want = _parameters(expected)
        if "." not in name:  # the contract's functions are methods of protocols
            want = want[1:]
        assert _parameters(own) == want, name
        names.add(name)
    assert names == {
        "line", "prepare", "describe",
        "Stack", "Stack.run", "Stack.call", "Stack.record", "Stack.saved", "Stack.back",
        "Stack.step", "Stack.table",
        "Product", "Product.run", "Product.call", "Product.slide",
    }  # fmt: skip
    assert module.Stack([make_case().cell], 1).stale is False
    assert module.Product(np.ones((2, 3)), None).stale is False


@pytest.mark.parametrize("change", [
    ("def prepare(dtype:", "def prepare(kind:"),
    ("def run(self, x: Array, y: Array, threads: int)", "def run(self, x: Array, y: Array)"),
    ("class Stack(Layers):", "class Stack(Layers):\n    def record(self, x, every=0): ...\n"),
])  # fmt: skip
def test_an_engine_that_exports_other_things_is_seen(change):
    source = inspect.getsource(_numpy)
    assert source.count(change[0]) == 1
    saboteur = types.ModuleType("saboteur")
    saboteur.__package__ = _numpy.__package__
    exec(source.replace(*change), saboteur.__dict__)
    with pytest.raises(AssertionError):
        test_engines_export_what_the_contract_says(saboteur)


def test_a_stack_keeps_nothing_of_the_callers(module, dtype):
    """Parameters changed after a stack was packed change nothing, and packing changes none."""
    case = make_case(P=2, dtype=dtype)
    given = case._replace(cell=case.cell.map(np.copy))
    stack = stack_of(module, given)
    for name, array in given.cell.arrays().items():
        assert_same_bits(array, getattr(case.cell, name))
        array[...] = np.nan
    expected = run(module, case)
    for name, got in run(module, given, stack=stack).items():
        assert_same_bits(got, expected[name])


def test_a_stack_takes_read_only_parameters(module, dtype):
    case = make_case(P=2, dtype=dtype)
    expected = run(module, case)
    for array in case.cell.arrays().values():
        array.flags.writeable = False
    assert_same_bits(run(module, case)["y"], expected["y"])


def test_a_cell_is_a_value():
    """Its fields cannot be set; what it has comes in the order of the fields."""
    cell = make_case(P=2).cell
    with pytest.raises(dataclasses.FrozenInstanceError):
        cell.b = cell.b
    assert list(cell.arrays()) == ["w_ih", "w_hh", "b", "w_hr"]
    assert list(make_case().cell.arrays()) == ["w_ih", "w_hh", "b"]
    assert cell.sizes == (3, 5, 2) and cell.dtype == np.float64
    doubled = cell.map(lambda array: 2 * array)
    assert_same_bits(doubled.w_hr, 2 * cell.w_hr)
    assert make_case().cell.map(np.copy).w_hr is None


def test_a_step(module, dtype):
    """The present stack makes the step, into `out` if given; `otherwise` takes what does not fit.

    An engine may leave all to `otherwise`, as long as the values are the same.
    """
    cases = [make_case(1, 3, 4, 9, dtype=dtype, seed=seed) for seed in (0, 1)]
    stacks = [stack_of(module, case) for case in cases]
    h, c = cases[0].h[None].copy(), cases[0].c[None].copy()
    present, left = stacks[0], []

    def run(x, out=None):
        left.append(x)
        out = np.empty((3, 9), dtype) if out is None else out
        present.run(np.array(x, dtype), np.array([3]), h, c, out, 1)
        return out

    step = stacks[0].step(h, c, lambda: (present, 1), run)
    x, states = cases[0].x, (h.copy(), c.copy())
    for stack in stacks:
        stacks[0].stale = stack is stacks[1]
        present = stack
        for out in (None, np.empty((3, 9), dtype)):
            h[...], c[...] = states
            expected_h, expected_c, expected = h.copy(), c.copy(), np.empty((3, 9), dtype)
            stack.run(x, np.array([3]), expected_h, expected_c, expected, 1)
            y = step(x, out=out)
            assert out is None or y is out
            for got, wanted in ((y, expected), (h, expected_h), (c, expected_c)):
                assert_same_bits(got, wanted)
    left.clear()
    for given in (x.tolist(), x[:, ::-1].copy()[:, ::-1], x.astype(x.dtype.newbyteorder())):
        h[...], c[...] = states
        assert_same_bits(step(given), expected)
    step(x, np.empty((3, 18), dtype)[:, ::2])
    assert len(left) == 4


@pytest.mark.parametrize("gap", [0, 3])
def test_read_only_input(module, dtype, gap):
    case = make_case(dtype=dtype)
    expected = run(module, case)
    x = Guarded(case.x, gap).array
    x.flags.writeable = False
    h, c, y = case.h.copy(), case.c.copy(), np.empty_like(expected["y"])
    stack_of(module, case).run(x, case.batch_sizes, h[None], c[None], y, 1)
    assert_same_bits(y, expected["y"])


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("shape", SHAPES)
def test_recording_changes_no_bit(monkeypatch, module, dtype, shape, reverse):
    """y, h and c are as without recording, and nothing is written around the recorded arrays."""
    kept = []

    def empty_saved(self, k, rows):
        count, cell = rows.stop - rows.start, self._cells[k]
        sizes = 4 * cell.hidden_size, cell.hidden_size
        rooms = [Guarded(np.full((count, size), np.nan, dtype)) for size in sizes]
        kept.extend(rooms)
        return tuple(room.array for room in rooms)

    monkeypatch.setattr(_layers.Layers, "_empty_saved", empty_saved)
    T, B, inputs, H = SHAPES[shape]
    for P in (None, H // 2 or None):
        case = make_case(T, B, inputs, H, P, reverse=reverse, dtype=dtype)
        expected = run(module, case)
        for name, got in run(module, case, method="record").items():
            assert_same_bits(got, expected[name])
    for room in kept:
        room.check("what is saved")
        assert np.isfinite(room.array).all()


def test_two_calls_give_the_same_bits(module, dtype):
    """The weights are the same, and calls of other sizes come in between."""
    case = make_case(9, 5, 4, 33, dtype=dtype)
    stack = stack_of(module, case)
    results = []
    for T, B in [(9, 5), (1, 1), (2, 40), (60, 1), (9, 5)]:
        h, c = np.resize(case.h, (1, B, 33)), np.resize(case.c, (1, B, 33))
        y = np.empty((T * B, 33), dtype)
        x = np.resize(case.x, (T * B, 4))
        stack.run(x, np.full(T, B, np.int64), h, c, y, 1)
        results.append([y, h, c])
    for first, last in zip(results[0], results[-1], strict=True):
        assert_same_bits(first, last)


def test_eight_threads_share_one_layer(engine, dtype):
    """The result of each is the serial one, bit for bit."""
    lstm = fastlstm.LSTM(5, 33, 2, bidirectional=True, dtype=dtype, engine=engine, seed=1)
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((40, B, 5)).astype(dtype) for B in (1, 2, 3, 5, 8, 13, 21, 34)]
    serial = [lstm(x) for x in inputs]
    barrier = threading.Barrier(8)

    def work(x):
        barrier.wait()
        return [lstm(x) for _ in range(5)]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for results, (output, (h_n, c_n)) in zip(pool.map(work, inputs), serial, strict=True):
            for got, (got_h, got_c) in results:
                assert_same_bits(got, output)
                assert_same_bits(got_h, h_n)
                assert_same_bits(got_c, c_n)


def test_eight_threads_begin_at_once(engine, dtype):
    """These are the first calls of all, before any weights are packed."""
    x = np.random.default_rng(0).standard_normal((5, 3, 4)).astype(dtype)
    expected = fastlstm.LSTM(4, 17, 2, dtype=dtype, engine=engine, seed=1)(x)[0]
    for _ in range(5):
        lstm = fastlstm.LSTM(4, 17, 2, dtype=dtype, engine=engine, seed=1)
        barrier = threading.Barrier(8)

        def work(_, lstm=lstm, barrier=barrier):
            barrier.wait()
            return lstm(x)[0]

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for got in pool.map(work, range(8)):
                assert_same_bits(got, expected)


def test_streams_that_began_at_once_see_changed_parameters(engine):
    """No stream stays with the old weights, no matter which thread packed them."""
    x = np.random.default_rng(0).standard_normal((1, 4)).astype(np.float32)
    for _ in range(20):
        lstm, barrier = fastlstm.LSTM(4, 17, engine=engine, seed=1), threading.Barrier(8)

        def begin(_, lstm=lstm, barrier=barrier):
            barrier.wait()
            return lstm.stream()

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            streams = list(pool.map(begin, range(8)))
        lstm.reset_parameters(2)
        expected = fastlstm.LSTM(4, 17, engine=engine, seed=2).stream().step(x)
        for stream in streams:
            assert_same_bits(stream.step(x), expected)


@pytest.mark.parametrize("num_threads", [2, 3, 8])
def test_num_threads_change_no_value(engine, dtype, num_threads):
    options = dict(bidirectional=True, dtype=dtype, engine=engine, seed=1)
    one = fastlstm.LSTM(5, 33, 2, **options, num_threads=1)
    many = fastlstm.LSTM(5, 33, 2, **options, num_threads=num_threads)
    rng = np.random.default_rng(0)
    for B in (1, 2, 3, 7, 64):
        x = rng.standard_normal((20, B, 5)).astype(dtype)
        lengths = rng.integers(1, 21, B)
        for given in (None, lengths):
            expected, (h_n, c_n) = one(x, lengths=given)
            got, (got_h, got_c) = many(x, lengths=given)
            bound = {"rtol": 0, "atol": 0}
            if engine == "numpy":  # its BLAS adds in another order for another number of rows
                bound = {"rtol": 0, "atol": 50 * np.finfo(dtype).eps}
            np.testing.assert_allclose(got, expected, **bound)
            np.testing.assert_allclose(got_h, h_n, **bound)
            np.testing.assert_allclose(got_c, c_n, **bound)


def test_a_large_work_space_is_given_back(engine):
    """One call on very many sequences does not keep its memory for good."""
    lstm = fastlstm.LSTM(1, 64, engine=engine)
    x, one = np.zeros((1, 20_000, 1), np.float32), np.zeros((1, 1, 1), np.float32)
    lstm(one)
    tracemalloc.start()
    try:
        lstm(x)
        lstm(one)
        left, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most > 10 << 20 and left < 1 << 20


# ---- one answer -----------------------------------------------------------------------------
# A row's result does not depend, bit for bit, on how the work was cut.


@pytest.fixture
def exact(exact_engine):
    return load(exact_engine)


CUTS = [None, 5]  # without and with projection


def _rows(case, B, rows):
    """The case of some of the B sequences of an unragged case."""
    x = case.x.reshape(-1, B, case.x.shape[1])[:, rows]
    return case._replace(
        x=x.reshape(-1, x.shape[2]),
        batch_sizes=np.full(len(x), x.shape[1], np.int64),
        h=case.h[rows],
        c=case.c[rows],
    )


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("P", CUTS)
@pytest.mark.parametrize("H", [7, 16, 35])
def test_bits_do_not_depend_on_batch(exact, dtype, H, P, reverse):
    B = 13
    case = make_case(6, B, 5, H, P=P, reverse=reverse, dtype=dtype)
    whole = run(exact, case)
    for size in range(1, B + 1):
        for first in {0, 1, 5, B - size} & set(range(B - size + 1)):
            part = slice(first, first + size)
            got = run(exact, _rows(case, B, part))
            y = whole["y"].reshape(6, B, -1)[:, part]
            assert_same_bits(got["y"], y.reshape(-1, y.shape[2]))
            assert_same_bits(got["h"], whole["h"][part])
            assert_same_bits(got["c"], whole["c"][part])


@pytest.mark.parametrize("P", CUTS)
def test_bits_do_not_depend_on_position(exact, dtype, P):
    B = 9
    case = make_case(6, B, 5, 18, P=P, dtype=dtype)
    order = np.random.default_rng(0).permutation(B)
    whole, moved = run(exact, case), run(exact, _rows(case, B, order))
    assert_same_bits(moved["y"], whole["y"].reshape(6, B, -1)[:, order].reshape(moved["y"].shape))
    for name in "hc":
        assert_same_bits(moved[name], whole[name][order])


@pytest.mark.parametrize("P", CUTS)
@pytest.mark.parametrize("B", [1, 2, 7])
@pytest.mark.parametrize("cuts", [[0, 1], [0, 5, 7], [0, *range(1, 300, 29)], "each"], ids=str)
def test_bits_do_not_depend_on_chunks(exact, dtype, B, P, cuts):
    T = 300 if cuts != "each" else 20
    case = make_case(T, B, 5, 70, P=P, dtype=dtype)
    cuts = list(range(T)) if cuts == "each" else cuts
    whole = run(exact, case)
    x, state, pieces = case.x.reshape(T, B, -1), {"h": case.h, "c": case.c}, []
    for begin, end in zip(cuts, [*cuts[1:], T], strict=True):
        chunk = case._replace(
            x=x[begin:end].reshape(-1, 5), batch_sizes=case.batch_sizes[begin:end], **state
        )
        got = run(exact, chunk)
        pieces.append(got["y"])
        state = {"h": got["h"], "c": got["c"]}
    assert_same_bits(np.concatenate(pieces), whole["y"])
    for name in "hc":
        assert_same_bits(state[name], whole[name])


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("P", CUTS)
@pytest.mark.parametrize("lengths", RAGGED)
def test_bits_do_not_depend_on_raggedness(exact, dtype, lengths, P, reverse):
    """Each sequence gives alone what it gives among the others."""
    case = make_case(I=5, H=20, P=P, lengths=RAGGED[lengths], reverse=reverse, dtype=dtype)
    whole = run(exact, case)
    step, sequence = rows_of(np.arange(len(case.h)), case.batch_sizes)
    for n, length in enumerate(RAGGED[lengths]):
        alone = case._replace(
            x=case.x[sequence == n],
            batch_sizes=np.ones(length, np.int64),
            h=case.h[n : n + 1],
            c=case.c[n : n + 1],
        )
        got = run(exact, alone)
        assert_same_bits(got["y"], whole["y"][sequence == n])
        assert_same_bits(got["h"], whole["h"][n : n + 1])
        assert_same_bits(got["c"], whole["c"][n : n + 1])


def test_bits_do_not_depend_on_layout(exact, dtype):
    """The distance between rows may differ, and so may the address where they begin."""
    case = make_case(6, 5, 5, 18, dtype=dtype)
    whole = run(exact, case)
    for gap in (1, 2, 16):
        for name, got in run(exact, case, gap).items():
            assert_same_bits(got, whole[name])


@pytest.mark.parametrize("B", [1, 3])
def test_bits_of_steps_sequence_and_lengths(exact_engine, dtype, B):
    """`Stream.step`, `Stream.run`, a whole run and one among ragged others agree."""
    lstm = fastlstm.LSTM(5, 20, 2, dtype=dtype, engine=exact_engine, seed=1)
    x = np.random.default_rng(0).standard_normal((30, B, 5)).astype(dtype)
    whole, (h_n, c_n) = lstm(x)
    steps, chunks = lstm.stream(B), lstm.stream(B)
    assert_same_bits(np.stack([steps.step(x_t) for x_t in x]), whole)
    assert_same_bits(np.concatenate([chunks.run(x[:11]), chunks.run(x[11:])]), whole)
    for h, c in (steps.state, chunks.state):
        assert_same_bits(h, h_n)
        assert_same_bits(c, c_n)
    longer = np.concatenate([x, x[:7]])
    ragged, (h, c) = lstm(np.concatenate([longer, longer[:, :1]], axis=1), lengths=[30] * B + [37])
    assert_same_bits(ragged[:30, :B], whole)
    assert_same_bits(h[:, :B], h_n)
    assert_same_bits(c[:, :B], c_n)


AVX2 = "sse sse2 sse3 ssse3 sse4.1 sse4.2 avx avx2 fma popcnt bmi bmi2 cx8 cmov 64bit"
OTHER_MACHINES = {  # Numba's settings, and what the engine must then say of itself
    "AVX2": ("haswell", ",".join("+" + feature for feature in AVX2.split()), "256-bit"),
    "SSE2": ("generic", "", "128-bit"),
}
OTHER_MACHINE = """
import numpy as np, fastlstm, sys
sys.path.insert(0, "tests")
from fastlstm.engines import load
from fastlstm.engines.contract import Options
from gradients import assert_goes_back
from support import Work
results = {}
for kind, options in {
    "plain": {},
    "tflite": {"layer_norm": "tflite", "peephole": True},
    "haste": {"layer_norm": "haste", "coupled": "f=1-i", "cell_clip": 0.5},
}.items():
    lstm = fastlstm.LSTM(5, 37, 2, bidirectional=True, proj_size=11, **options, dtype=sys.argv[1],
                         engine="numba", seed=0)
    x = np.random.default_rng(0).standard_normal((30, 7, 5)).astype(sys.argv[1])
    (output, (h, c)), pullback = lstm.vjp(x, lengths=[3, 30, 1, 7, 30, 12, 5])
    dx, (dh, dc) = pullback(output, (h, c))
    own = {"output": output, "h": h, "c": c, "dx": dx, "dh": dh, "dc": dc, **lstm.grads}
    results |= {f"{kind} {name}": value for name, value in own.items()}
np.savez(sys.argv[2], **results)
work = Work((9, 5, 5, 1), 5, 37, 11, directions=2, dtype=sys.argv[1])
for kind in ("", "tflite", "haste"):
    assert_goes_back(load("numba"), work._replace(options=Options(layer_norm=kind)), "numba")
print(fastlstm.engine_info()["numba"]["instruction_set"])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "machine, dtype", [("AVX2", "float32"), ("AVX2", "float64"), ("SSE2", "float32")]
)
def test_bits_do_not_depend_on_vectors(tmp_path, machine, dtype):
    """A machine with shorter vectors gives the same bits; one without FMA is as accurate."""
    pytest.importorskip("numba", reason="compares the machines that Numba compiles for")
    if "512-bit" not in load("numba").describe()["instruction_set"]:
        pytest.skip("needs a machine with AVX-512 to compare the others with")
    cpu, features, vectors = OTHER_MACHINES[machine]
    other = {
        **os.environ,
        "NUMBA_CPU_NAME": cpu,
        "NUMBA_CPU_FEATURES": features,
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    results = []
    for name, environment in (("here", dict(os.environ)), ("other", other)):
        path = tmp_path / f"{name}.npz"
        command = [sys.executable, "-c", OTHER_MACHINE, dtype, path]
        run = subprocess.run(
            command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
        )
        assert (vectors in run.stdout) == (name == "other")
        results.append(np.load(path))
    here, there = results
    for name in here:
        if machine == "AVX2":
            assert_same_bits(there[name], here[name])
        elif name in ("plain output", "plain h", "plain c"):  # assert_goes_back bounds the others
            bound = tolerance("numba", dtype, terms=22 + 11 + 37 + 1, magnitude=1.5)
            np.testing.assert_allclose(there[name], here[name], **bound)


# Weights of many blocks; more inputs than rows in a step, so that they are hoisted; sequences that
# begin or end within the steps for which they are; panels and tiles that are not whole.
CUT = {
    "alone": (20, 70, 0, "float32", (23,)),
    "few": (20, 70, 0, "float32", (23, 22, 3)),
    "ragged": (70, 90, 0, "float32", (19, 19, 18, 17, 17, 11, 9, 9, 9, 8, 7, 7, 6, 6, 4, 4, 4, 1)),
    "projected": (50, 90, 30, "float32", (12,) * 16),
    "double": (40, 41, 0, "float64", (9,) * 9 + (5, 5, 1)),
    "narrow": (3, 150, 0, "float32", (9,) * 40),
}


@pytest.mark.parametrize("name", CUT)
def test_bits_do_not_depend_on_caches(monkeypatch, name):
    """However products are cut to the caches: in blocks, hoisted or not, fetched ahead or not."""
    pytest.importorskip("numba", reason="compares how numba cuts its products")
    numba, (I, H, P, dtype, lengths) = load("numba"), CUT[name]
    x = np.random.default_rng(0).standard_normal((lengths[0], len(lengths), I)).astype(dtype)
    blocking_of, cuts, results = numba.blocking_of, set(), []

    def observed(*args, **kwargs):
        cuts.add(blocking_of(*args, **kwargs))
        return blocking_of(*args, **kwargs)

    monkeypatch.setattr(numba, "blocking_of", observed)
    for named in ("1M,64M,0,1", "32K,512K,32M,8", "4K,8K,16K,1"):
        monkeypatch.setenv("FASTLSTM_CACHES", named)
        monkeypatch.setattr(numba, "_CACHES", asked_caches())
        lstm = fastlstm.LSTM(
            I,
            H,
            bidirectional=True,
            proj_size=P,
            dtype=dtype,
            engine="numba",
            num_threads=1,
            seed=0,
        )
        (output, (h, c)), pullback = lstm.vjp(x, lengths=lengths)
        dx, _ = pullback(output)
        results.append({"output": output, "h": h, "c": c, "dx": dx, **lstm.grads})
    whole, *others = results
    for other in others:
        for key, values in whole.items():
            assert_same_bits(other[key], values)
    assert len(cuts) > 1  # how they were cut


CACHED = (
    OTHER_MACHINE
    + """
from fastlstm.engines import _numba
print(sum(_numba.run_layer.stats.cache_misses.values()))
"""
)


@pytest.mark.slow  # Numba compiles for half a minute
def test_processor_by_name_shares_the_cache(tmp_path):
    """The name of the machine's own processor changes neither the bits nor the cache."""
    pytest.importorskip("numba", reason="compares what Numba keeps on disk")
    binding = importlib.import_module("llvmlite.binding")
    results = []
    for names in ({}, {"NUMBA_CPU_NAME": binding.get_host_cpu_name()}):
        path = tmp_path / f"{len(results)}.npz"
        run = subprocess.run(
            [sys.executable, "-c", CACHED, "float32", path],
            env={**os.environ, **names},
            cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        misses = run.stdout.splitlines()[-1]
        results.append(np.load(path))
    assert misses == "0"  # the second process compiles nothing, whether the first did or not
    for name in results[0]:
        assert_same_bits(results[1][name], results[0][name])


def test_without_jit_there_is_no_numba_engine():
    pytest.importorskip("numba", reason="switches Numba's compiler off")
    script = (
        "import fastlstm; from fastlstm.engines import MODULES; del MODULES['native']; "
        "print(fastlstm.LSTM(5, 3).engine); fastlstm.LSTM(5, 3, engine='numba')"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, cwd=ROOT,
        capture_output=True, text=True,
    )  # fmt: skip
    assert run.stdout == "numpy\n"
    assert run.stderr.splitlines()[-1] == (
        "ImportError: engine 'numba' is not available here (NUMBA_DISABLE_JIT is set)"
    )


# ---- activations ----------------------------------------------------------------------------


def _patterns(dtype):
    """Return every 9001st bit pattern of float32, or as many of float64, and the corner cases."""
    if dtype == "float32":
        values = np.arange(0, 2**32, 9001, dtype=np.uint32).view(np.float32)
    else:
        values = np.arange(0, 2**64 - 2**45, 2**45, dtype=np.uint64).view(np.float64)
        values = np.concatenate([values, np.linspace(-50, 50, 200_001)])
    tiny = np.finfo(dtype).smallest_subnormal
    corners = np.array([0.0, -0.0, tiny, -tiny, 1.0, -1.0, np.inf, -np.inf, np.nan], dtype)
    return np.concatenate([values, corners])


def _one_unit(engine, z, c):
    """h and c of a cell of one unit whose pre-activations z (N, 4) and cell state are given."""
    module = load(engine)
    dtype = z.dtype
    module.prepare(dtype)
    cell = Cell(np.eye(4, dtype=dtype), np.zeros((4, 1), dtype), np.zeros(4, dtype))
    h, c, y = (
        np.zeros((1, len(z), 1), dtype),
        c.reshape(1, -1, 1).copy(),
        np.empty((len(z), 1), dtype),
    )
    module.Stack([cell], 1).run(z, np.array([len(z)]), h, c, y, 1)
    return y[:, 0], c[0, :, 0]


OPEN, SHUT = 100, -100
GATES = {  # what shows one activation alone: z of i, f, g, o with x for it, c_0, and h or c
    "i": ("sigmoid", ("x", 0, OPEN, 0), 0, "c"),
    "f": ("sigmoid", (0, "x", 0, 0), 1, "c"),
    "g": ("tanh", (OPEN, 0, "x", 0), 0, "c"),
    "o": ("sigmoid", (SHUT, OPEN, 0, "x"), 50, "h"),
    "tanh(c)": ("tanh", (0, OPEN, 0, OPEN), "x", "h"),
}


@pytest.mark.parametrize("gate", GATES)
def test_activations_are_within_their_bound(engine, dtype, gate):
    """Each activation, as the cell computes it, is compared with exact numbers."""
    function, z, c_0, result = GATES[gate]
    x = _patterns(dtype)
    if c_0 != "x":
        x = x[~np.isinf(x)]  # which make nan of the other gates' zero weights
    columns = [x if value == "x" else np.full_like(x, value) for value in (*z, c_0)]
    with np.errstate(all="ignore"):  # signalling nan, overflow of exp
        h, c = _one_unit(engine, np.stack(columns[:4], axis=1), columns[4])
        # longdouble, for NumPy's own float64 functions are off by an ulp themselves
        wide = x.astype(np.longdouble)
        exact = 1 / (1 + np.exp(-wide)) if function == "sigmoid" else np.tanh(wide)
    got = {"h": h, "c": c}[result]
    np.testing.assert_array_equal(np.isnan(got), np.isnan(x))
    number = ~np.isnan(x)
    x, got, exact = x[number], got[number], exact[number]
    error = np.abs(got - exact).astype(np.float64)
    worst = error.argmax()
    assert error[worst] <= ACTIVATION[engine] * np.finfo(dtype).eps / 2, (x[worst], got[worst])
    assert len(x) > 470_000


def test_h_is_within_the_bound_of_an_activation(exact):
    """It is, though four activations go into it; z and c have all sizes."""
    rng = np.random.default_rng(0)
    rows = 200_000
    z = (rng.standard_normal((rows, 4)) * 10 ** rng.uniform(-3, 2, (rows, 1))).astype(np.float32)
    c = (rng.standard_normal((rows, 1)) * 10 ** rng.uniform(-3, 1, (rows, 1))).astype(np.float32)
    i, f, g, o = z.T.astype(np.float64)
    with np.errstate(over="ignore"):
        i, f, o = (1 / (1 + np.exp(-a)) for a in (i, f, o))
    truth = f * c[:, 0] + i * np.tanh(g)
    cell = Cell(*(np.array(a, np.float32) for a in (np.eye(4), np.zeros((4, 1)), np.zeros(4))))
    h, y = np.zeros((1, rows, 1), np.float32), np.empty_like(c)
    exact.Stack([cell], 1).run(z, np.array([rows]), h, c[None], y, 1)
    assert np.abs(y[:, 0] - o * np.tanh(truth)).max() <= 3e-7
    assert (np.abs(c[:, 0] - truth) <= 5e-7 * np.maximum(1, np.abs(truth))).all()


def test_a_shut_gate_lets_nothing_through(engine, dtype):
    """A memory that is held for long stays as it was, because shut gates do not leak into it."""
    module = load(engine)
    module.prepare(np.dtype(dtype))
    w_ih, w_hh = (np.zeros((4, 1), dtype) for _ in range(2))
    stack = module.Stack([Cell(w_ih, w_hh, np.array([SHUT, OPEN, 0.5, 0], dtype))], 1)
    steps = 20_000
    for start in (0, 0.25):
        h, c = np.zeros((1, 1, 1), dtype), np.full((1, 1, 1), start, dtype)
        x, y = np.zeros((steps, 1), dtype), np.empty((steps, 1), dtype)
        stack.run(x, np.ones(steps, np.int64), h, c, y, 1)
        assert abs(c[0, 0, 0] - start) <= steps * 2.0 ** (-40 if dtype == "float32" else -140)


@pytest.mark.parametrize("f, share", [(OPEN, 1), (SHUT, 0)], ids=["kept", "forgotten"])
def test_a_large_memory(engine, dtype, f, share):
    """No product on the way to c overflows, however far gates are shut and c has grown."""
    large, eps = 2.0**40, np.finfo(dtype).eps
    z = np.array([[SHUT, f, SHUT, OPEN]], dtype) * 100
    h, c = _one_unit(engine, z, np.array([large], dtype))
    assert abs(c[0] / large - share) <= 4 * eps
    assert abs(h[0] - np.tanh(c[0])) <= 4 * eps


# ---- the choice -----------------------------------------------------------------------------


@pytest.fixture
def numpy_alone(monkeypatch):
    """The machine is made to look as if no engine but numpy could be imported."""
    monkeypatch.setitem(MODULES, "native", "._nowhere")
    monkeypatch.setitem(MODULES, "numba", "._nowhere")
    monkeypatch.delenv("FASTLSTM_ENGINE", raising=False)
    load.cache_clear()
    _warn_of_numpy.cache_clear()
    yield
    load.cache_clear()
    _warn_of_numpy.cache_clear()


def test_the_first_engine_there_is(monkeypatch, engine):
    monkeypatch.delenv("FASTLSTM_ENGINE", raising=False)
    name, module = choose("auto")
    assert list(MODULES).index(name) <= list(MODULES).index(engine)
    assert module is load(name)
    assert fastlstm.LSTM(1, 1).engine == fastlstm.LSTMCell(1, 1).engine == name


def test_environment_forces_an_engine(monkeypatch, engine):
    monkeypatch.setenv("FASTLSTM_ENGINE", engine)
    assert fastlstm.LSTM(1, 1).engine == engine
    assert fastlstm.LSTM(1, 1, engine="numpy").engine == "numpy"
    assert [name for name, about in fastlstm.engine_info().items() if about["default"]] == [engine]


def test_falling_back_on_numpy_is_said_once(numpy_alone):
    """The first LSTM of a process warns, with what to do; `engine_info` tells it silently."""
    sentence = (
        r"^fastlstm runs on its engine numpy here, which takes 2 to 50 times as long .*'native' is "
        r"not available.*install a C compiler .*'numba' is not available.*: pip install numba\. "
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fastlstm.engine_info()
    with pytest.warns(UserWarning, match=sentence) as caught:
        lstm = fastlstm.LSTM(1, 1)
    assert [w.filename for w in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fastlstm.LSTM(1, 1), fastlstm.LSTMCell(1, 1), copy.deepcopy(lstm)


@pytest.mark.parametrize("make", [
    lambda: fastlstm.LSTMCell(1, 1),
    lambda: structure.build({"layer": "LSTMCell", "input_size": 1, "hidden_size": 1, "bias": True,
                             "dtype": "float32"}),
])  # fmt: skip
def test_whatever_is_made_first_says_it(numpy_alone, make):
    with pytest.warns(UserWarning, match="^fastlstm runs on its engine numpy here"):
        make()


def test_a_copy_on_a_machine_with_numpy_alone_says_it(numpy_alone):
    stored = pickle.dumps(fastlstm.LSTM(1, 1))
    _warn_of_numpy.cache_clear()
    with pytest.warns(UserWarning, match="^fastlstm runs on its engine numpy here"):
        pickle.loads(stored)


def test_who_asks_for_numpy_is_not_warned(numpy_alone, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fastlstm.LSTM(1, 1, engine="numpy")
        monkeypatch.setenv("FASTLSTM_ENGINE", "numpy")
        fastlstm.LSTM(1, 1)


def from_an_index(text):
    """Return what tells to install fastlstm by its name alone: no clone, file, wheel or address."""
    return re.findall(
        r"""pip install\b[^\n]*[ "']fastlstm(?:\[[\w,]*\])?"""
        r"""(?:[=<>~!][^\n]*)?(?=["'`\s),.]|$)(?! @)""",
        text,
    )


def test_advice_names_no_package_that_no_index_has():
    """The advice installs fastlstm from its source, or from a wheel."""
    for pattern in ("fastlstm/**/*.py", "examples/*.[pm]*", "docs/**/*.md", "*.md"):
        for path in ROOT.glob(pattern):
            assert not from_an_index(path.read_text("utf-8")), path


@pytest.mark.parametrize(
    "line",
    ["pip install fastlstm", 'pip install "fastlstm[onnx]"', "pip install -U fastlstm==0.1.0"],
)
def test_advice_that_names_it_is_found(line):
    assert from_an_index(line) and from_an_index(f"`{line}`.")


@pytest.mark.parametrize(
    "line",
    [
        "pip install .",
        "pip install ./fastlstm",
        "pip install fastlstm-0.1.0-cp312-cp312-win_amd64.whl",
        'pip install "fastlstm @ git+https://github.com/fastlstm/fastlstm"',
        'pip install "fastlstm[numba] @ git+https://github.com/fastlstm/fastlstm"',
    ],
)
def test_advice_that_works_is_not(line):
    assert not from_an_index(line)


def test_a_missing_engine_is_passed_over(numpy_alone):
    assert fastlstm.LSTM(1, 1).engine == "numpy"
    about = fastlstm.engine_info()
    assert about["numpy"] == {"available": True, "default": True, **_numpy.describe()}
    for name, way_out in {"numba": "pip install", "native": "C compiler"}.items():
        assert not about[name]["available"] and not about[name]["default"]
        assert way_out in about[name]["reason"]


def test_the_next_engine_is_taken(numpy_alone, monkeypatch):
    """Where only the native engine is missing, numba is taken."""
    monkeypatch.setitem(MODULES, "numba", "._numba")
    pytest.importorskip("numba", reason="is what is taken next")
    assert fastlstm.LSTM(1, 1).engine == "numba"


def test_a_missing_engine_that_is_forced_is_an_error(numpy_alone, monkeypatch):
    sentence = (
        r"engine 'numba' is not available here \(No module named 'fastlstm.engines._nowhere'\). "
        r"To get it: pip install numba$"
    )
    with pytest.raises(ImportError, match=sentence):
        fastlstm.LSTM(1, 1, engine="numba")
    monkeypatch.setenv("FASTLSTM_ENGINE", "numba")
    with pytest.raises(ImportError, match=sentence):
        fastlstm.LSTMCell(1, 1)


def test_a_missing_engine_that_is_forced_is_told_of(numpy_alone, monkeypatch):
    monkeypatch.setenv("FASTLSTM_ENGINE", "numba")
    about = fastlstm.engine_info()
    assert "pip install" in about["numba"]["reason"]
    assert about["numpy"]["available"] and not about["numpy"]["default"]


def test_a_copy_elsewhere_chooses_its_engine_anew(engine, monkeypatch):
    monkeypatch.setenv("FASTLSTM_ENGINE", engine)
    lstm, x = fastlstm.LSTM(1, 1), np.ones((3, 1, 1), np.float32)
    expected, stored = lstm(x)[0], pickle.dumps(lstm)
    monkeypatch.setenv("FASTLSTM_ENGINE", "numpy")
    twin = pickle.loads(stored)
    assert twin.engine == "numpy"
    np.testing.assert_allclose(twin(x)[0], expected, rtol=0, atol=1e-6)  # weights packed anew
    asked = pickle.dumps(fastlstm.LSTM(1, 1, engine=engine))
    assert pickle.loads(asked).engine == engine


def test_an_unknown_engine_is_an_error(monkeypatch):
    with pytest.raises(ValueError, match="^engine must be one of auto, .*numpy, got 'cuda'$"):
        fastlstm.LSTM(1, 1, engine="cuda")
    monkeypatch.setenv("FASTLSTM_ENGINE", "cuda")
    sentence = "^FASTLSTM_ENGINE must be one of auto, .*numpy, got 'cuda'$"
    with pytest.raises(ValueError, match=sentence):
        fastlstm.LSTM(1, 1)
    monkeypatch.setenv("FASTLSTM_ENGINE", "")
    assert fastlstm.LSTM(1, 1).engine in MODULES


def test_engines_tell_of_themselves(engine):
    about = fastlstm.engine_info()
    assert list(about) == list(MODULES)
    assert about[engine]["available"] is True
    package = fastlstm if engine == "native" else importlib.import_module(engine)
    assert about[engine]["version"] == package.__version__
    assert isinstance(about[engine]["instruction_set"], str)


def test_caches_that_the_environment_names(monkeypatch):
    monkeypatch.delenv("FASTLSTM_CACHES", raising=False)
    assert asked_caches() is None
    monkeypatch.setenv("FASTLSTM_CACHES", "")
    assert asked_caches() is None
    for text, sizes, shown in (
        ("48K,2M,300M,16", (49152, 2 << 20, 300 << 20, 16), "L1 48 KB, L2 2 MB, L3 300 MB for 16"),
        ("128K,4M,0,1", (1 << 17, 4 << 20, 0, 1), "L1 128 KB, L2 4 MB"),
        ("4K,4K,4K,2", (4096, 4096, 4096, 2), "L1 4 KB, L2 4 KB, L3 4 KB for 2"),
    ):
        monkeypatch.setenv("FASTLSTM_CACHES", text)
        assert asked_caches() == sizes and str(asked_caches()) == shown
    for text in (
        "48K", "48K,2M,32M", "48K,2M,32M,0", "48,2M,32M,8", "2M,48K,32M,8", "48K,32M,2M,8",
        "48K,2M,32M,8,", " 48K,2M,32M,8", "3K,2M,32M,8", "-48K,2M,32M,8", "48k,2m,32m,8",
        "4\u0661K,2M,0,1",
    ):  # fmt: skip
        monkeypatch.setenv("FASTLSTM_CACHES", text)
        with pytest.raises(ValueError, match=f"^FASTLSTM_CACHES must .*; got {text!r}$"):
            asked_caches()


def _caches_told(engine, named):
    """What the engine tells of its caches in a process of its own."""
    line = f"import fastlstm; print(*fastlstm.engine_info()[{engine!r}].get('caches', ()))"
    environment = os.environ | {"FASTLSTM_CACHES": named}
    told = subprocess.run([sys.executable, "-c", line], env=environment, capture_output=True)
    return tuple(map(int, told.stdout.split()))


@pytest.mark.parametrize("name", ["native", "numba"])
def test_caches_of_this_machine(name):
    if not fastlstm.engine_info()[name]["available"]:
        pytest.skip(f"needs {name}")
    assert _caches_told(name, "32K,512K,32M,8") == (32 << 10, 512 << 10, 32 << 20, 8)
    told = _caches_told(name, "")
    assert 4096 <= told[0] <= told[1] and told[3] >= 1
    for cache in pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        kind, level, size = (
            (cache / name).read_text().strip() for name in ("type", "level", "size")
        )
        if kind != "Instruction" and int(level) < 4:  # what Linux says is what the processor says
            assert told[int(level) - 1] == int(size.removesuffix("K")) * 1024


@pytest.mark.parametrize(
    "files, expected",  # of each cache: level, type, size, and who shares it
    [
        (["1 Data 32K 0,8", "1 Instruction 64K 0,8", "2 Unified 512K 0,8", "3 Unified 32768K 0-7"],
         (32 << 10, 512 << 10, 32 << 20, 8)),
        (["1 Data 48K 0", "2 Unified 2M 0", "3 Unified 105M 0-3,8-11,16"],
         (48 << 10, 2 << 20, 105 << 20, 9)),
        (["1 Data 64K 0", "2 Unified 1024K 0"], (64 << 10, 1 << 20, 0, 1)),
        (["1 Data 64K 0", "2 Unified 1024K 0", "3 Unified 512K 0"], (64 << 10, 1 << 20, 0, 1)),
        (["1 Data 32K 0"], USUAL),
        (["1 Data 2048K 0", "2 Unified 4096K 0"], USUAL),
        (["1 Data 32K 0", "2 Unified ?K 0"], USUAL),
        ([], USUAL),
    ],
)  # fmt: skip
def test_caches_that_linux_tells(tmp_path, monkeypatch, files, expected):
    monkeypatch.delenv("FASTLSTM_CACHES", raising=False)
    for k, line in enumerate(files):
        folder = tmp_path / "sys" / "devices" / "system" / "cpu" / "cpu0" / "cache" / f"index{k}"
        folder.mkdir(parents=True)
        names = "level", "type", "size", "shared_cpu_list"
        for name, word in zip(names, line.split(), strict=True):
            (folder / name).write_text(word + "\n")
    assert caches(tmp_path) == expected


def test_number_of_threads(monkeypatch):
    monkeypatch.delenv("FASTLSTM_NUM_THREADS", raising=False)
    assert threads(None, "numpy") == 1 and threads(3, "numpy") == 3
    assert threads(None, "native") == threads(None, "numba") == cpus()
    monkeypatch.setenv("FASTLSTM_NUM_THREADS", "4")
    assert threads(None, "numpy") == threads(None, "native") == 4 and threads(3, "native") == 3
    assert threads(np.int64(2), "native") == 2
    for value in (0, -1, 1025):
        with pytest.raises(ValueError, match=f"^num_threads must be from 1 to 1024, got {value}$"):
            threads(value, "native")
    for value in (True, 2.0, "2"):
        sentence = f"^num_threads should be of type int, got: {type(value).__name__}$"
        with pytest.raises(TypeError, match=sentence):
            threads(value, "native")
    for value in ("0", "-1", "all", " ", "99999999999"):
        monkeypatch.setenv("FASTLSTM_NUM_THREADS", value)
        with pytest.raises(
            ValueError, match="FASTLSTM_NUM_THREADS must be an int from 1 to 1024, got "
        ):
            threads(None, "native")


@pytest.mark.parametrize(
    "files, expected",
    [
        ({}, 8),
        ({"sys/fs/cgroup/cpu.max": "max 100000"}, 8),
        ({"sys/fs/cgroup/cpu.max": "300000 100000"}, 3),
        ({"sys/fs/cgroup/cpu.max": "350000 100000"}, 3),
        ({"sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
        ({"sys/fs/cgroup/cpu.max": "1600000 100000"}, 8),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
          "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 8),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000",
          "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 2),
        ({"sys/fs/cgroup/cpu.max": "not a number"}, 8),
        # of a group inside of others the narrowest counts
        ({"sys/fs/cgroup/a/b/cpu.max": "max 100000",
          "sys/fs/cgroup/a/cpu.max": "400000 100000"}, 4),
        ({"sys/fs/cgroup/a/b/cpu.max": "200000 100000",
          "sys/fs/cgroup/a/cpu.max": "400000 100000"}, 2),
    ],
    ids=str,
)  # fmt: skip
def test_a_containers_quota(tmp_path, monkeypatch, files, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    for name, text in {"proc/self/cgroup": "0::/a/b\n", **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpus(tmp_path) == expected


@pytest.mark.parametrize("mask, expected", [(0b1011, 3), (1 << 63, 1), (0, 6), (None, 6)])
def test_processors_of_windows(tmp_path, monkeypatch, mask, expected):
    """Those that the process may run on; all, if it has several groups of them or nothing tells."""

    def get_mask(process, here, there):
        assert process.value == ctypes.c_void_p(-1).value
        here._obj.value, there._obj.value = mask or 0, 0b111111
        return mask is not None

    kernel = types.SimpleNamespace(GetProcessAffinityMask=get_mask)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "WinDLL", {"kernel32": kernel}.get, raising=False)
    assert cpus(tmp_path) == expected
