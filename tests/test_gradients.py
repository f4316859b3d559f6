"""Going back: finite differences, torch, every engine against `_numpy`, and what `vjp` promises."""

import itertools

import numpy as np
import pytest
from gradients import (
    assert_derivative,
    assert_goes_back,
    assert_within,
    go_back,
    make_problem,
    parts,
    roundings,
    spread,
    values_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from saboteurs import broken, edited
from support import WORKS, Work, assert_same_bits
from values import normal

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
from fastlstm.engines import _numpy, load

# ---- problems -------------------------------------------------------------------------------

B, I, H = 3, 2, 4  # of the problems with an LSTM


def _lstm(T, mode="padded", seed=0, hx=True, every=None, **config):
    """A problem of an LSTM; `mode` is how its input comes."""

    def make(engine, dtype):
        return LSTM(I, H, **config, engine=engine, dtype=dtype, seed=1)

    cells = config.get("num_layers", 1) * (2 if config.get("bidirectional") else 1)
    batch = () if mode == "unbatched" else (B,)
    states = (cells, *batch, config.get("proj_size") or H), (cells, *batch, H)
    shape = (T, *batch, I)
    if batch and config.get("batch_first"):
        shape = B, T, I
    options = {} if hx else {"hx": False}
    if mode in ("lengths", "packed"):
        options["lengths"] = {1: [1, 1, 1], 2: [1, 2, 2], 5: [3, 5, 1]}[T]
    if mode == "empty":
        options["lengths"] = {1: [0, 0, 1], 2: [2, 0, 1], 5: [3, 5, 0]}[T]
    if mode == "packed":
        options["packed"] = True
    if every:
        options["checkpoint_every"] = every
    return make_problem(make, normal(*shape, seed=seed), states, seed, **options)


def _grid(**choices):
    """Every combination, as dicts."""
    return [
        dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())
    ]


MODES = "padded", "lengths", "empty", "packed", "unbatched"
SHAPES = _grid(num_layers=(1, 2), bidirectional=(False, True), proj_size=(0, 3))
LAYOUTS = _grid(bias=(True, False), batch_first=(False, True), mode=MODES)


def _id(config):
    return "-".join(f"{name}={value}" for name, value in config.items())


def _make(kind, *arguments, **options):
    """A maker of a layer with parameters, for problems."""

    def make(engine, dtype):
        rest = {"engine": engine} if kind is LSTMCell else {}
        return kind(*arguments, dtype=dtype, seed=1, **options, **rest)

    return make


def _plain(kind, *arguments, **options):
    """A maker of a layer without parameters."""
    return lambda engine, dtype: kind(*arguments, **options)


_INDICES = np.array([[1, 0, 4], [4, 4, 2]])


def _classifier(engine, dtype):
    """A nested model with every layer; padding is no index here, for its gradient is set to 0."""
    options = {"bidirectional": True, "batch_first": True, "engine": engine}
    return Sequential(
        {
            "embedding": Embedding(5, 3, padding_idx=3, dtype=dtype, seed=1),
            "body": Sequential(
                LSTM(3, 4, 2, dropout=0.5, **options, dtype=dtype, seed=2),
                Dropout(0.3, seed=3),
                LSTM(8, 3, **options, dtype=dtype, seed=4),
                Last(batch_first=True, bidirectional=True),
            ),
            "head": Sequential(Linear(6, 4, dtype=dtype), Tanh(), Linear(4, 2, dtype=dtype)),
        }
    )


def _with_a_cell(engine, dtype):
    return Sequential(
        Linear(3, 4, dtype=dtype, seed=1),
        Sigmoid(),
        Sequential(LSTMCell(4, 2, engine=engine, dtype=dtype, seed=2)),
    )


def _regression(engine, dtype):
    return Sequential(
        LSTM(2, 5, engine=engine, dtype=dtype, seed=1), Linear(5, 2, dtype=dtype, seed=2), ReLU()
    )


def _squares(engine, dtype):
    return Sequential(
        Linear(3, 3, dtype=dtype, seed=1), Tanh(), Linear(3, 3, dtype=dtype, seed=2), Sigmoid()
    )


_away_from_0 = np.where(np.abs(normal(4, 5)) < 0.01, 1, normal(4, 5))

PROBLEMS = {
    "linear": make_problem(_make(Linear, 3, 4), normal(2, 5, 3)),
    "linear without bias": make_problem(_make(Linear, 3, 1, bias=False), normal(4, 3)),
    "linear of one row": make_problem(_make(Linear, 3, 4), normal(3)),
    "embedding": make_problem(_make(Embedding, 5, 3), _INDICES),
    "dropout": make_problem(_plain(Dropout, 0.4, seed=1), normal(4, 5)),
    "dropout of nothing": make_problem(_plain(Dropout, 0), normal(4, 5)),
    "dropout of everything": make_problem(_plain(Dropout, 1), normal(4, 5)),
    "relu": make_problem(_plain(ReLU), _away_from_0),
    "tanh": make_problem(_plain(Tanh), normal(4, 5)),
    "tanh of a number": make_problem(_plain(Tanh), np.array(0.3, "float32")),
    "sigmoid": make_problem(_plain(Sigmoid), normal(4, 5)),
    "softmax": make_problem(_plain(Softmax), normal(4, 5)),
    "softmax over the first": make_problem(_plain(Softmax, 0), normal(4, 5)),
    "last": make_problem(_plain(Last), normal(5, 3, 2)),
    "last unbatched": make_problem(_plain(Last, False, True), normal(5, 4)),
    "last of lengths": make_problem(_plain(Last), normal(5, 3, 2), lengths=[5, 1, 3]),
    "last of both ends": make_problem(_plain(Last, True, True), normal(3, 5, 4), lengths=[4, 1, 5]),
    "last of no step": make_problem(_plain(Last, True, True), normal(3, 2, 4), lengths=[2, 0, 1]),
    "last of one step": make_problem(_plain(Last, False, True), normal(1, 3, 4)),
    "cell": make_problem(_make(LSTMCell, 3, 5), normal(4, 3), [(4, 5)] * 2),
    "cell unbatched": make_problem(_make(LSTMCell, 3, 5), normal(3), [(5,)] * 2),
    "cell from zeros": make_problem(_make(LSTMCell, 3, 5), normal(4, 3), [(4, 5)] * 2, hx=False),
    "cell without bias": make_problem(
        _make(LSTMCell, 3, 5, bias=False), normal(4, 3), [(4, 5)] * 2
    ),
    "classifier": make_problem(_classifier, _INDICES, lengths=[3, 2]),
    "classifier of nothing": make_problem(_classifier, _INDICES, lengths=[0, 2]),
    "regression": make_problem(_regression, normal(4, 3, 2), lengths=[1, 4, 2]),
    "squares": make_problem(_squares, normal(4, 3)),
    "cell at the end": make_problem(_with_a_cell, normal(4, 3)),
    "sequential of nothing": make_problem(lambda engine, dtype: Sequential(), normal(4, 3)),
}


# ---- finite differences ---------------------------------------------------------------------


@pytest.mark.parametrize("T", [1, 2, 5])
@pytest.mark.parametrize("config", SHAPES, ids=_id)
def test_lstm_derivatives(engine, config, T):
    """Every mode meets each pair of bias, layout, states and T, and half of all combinations."""
    cases = (
        (layout, hx)
        for layout, hx in itertools.product(LAYOUTS, (True, False))
        if (layout["bias"] + layout["batch_first"] + hx + T) % 2
    )
    for n, (layout, hx) in enumerate(cases):
        every = (None, 1, 2, 3)[n % 4]
        assert_derivative(_lstm(T, **config, **layout, hx=hx, every=every), engine)


@pytest.mark.parametrize("every", [None, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_lstm_derivatives_with_dropout(engine, bidirectional, every):
    for mode in MODES:
        config = dict(num_layers=3, bidirectional=bidirectional, dropout=0.4)
        assert_derivative(_lstm(5, mode, **config, every=every), engine)


@pytest.mark.parametrize("name", PROBLEMS)
def test_derivatives(engine, name):
    assert_derivative(PROBLEMS[name], engine)


# ---- torch ----------------------------------------------------------------------------------


def _torchs(torch, theirs, problem):
    """The gradients by torch in float64, which no name of `problem` may lack."""
    arrays, options = problem.arrays, problem.options
    theirs.load_state_dict({n: torch.tensor(arrays[n]) for n in theirs.state_dict()})
    leaves = {n: torch.tensor(arrays[n]) for n in ("x", "h_0", "c_0") if n in arrays}
    for leaf in leaves.values():
        leaf.requires_grad_(leaf.is_floating_point())
    rnn, x = torch.nn.utils.rnn, leaves["x"]
    if "lengths" in options:
        first = theirs.batch_first
        x = rnn.pack_padded_sequence(x, options["lengths"], first, enforce_sorted=False)
    y = theirs(x, (leaves["h_0"], leaves["c_0"])) if "h_0" in leaves else theirs(x)
    if "lengths" in options and "packed" not in options:
        y = rnn.pad_packed_sequence(y[0], batch_first=first)[0], y[1]
    y = parts(y)
    torch.autograd.backward(y, [torch.tensor(arrays[f"d{k}"]) for k in range(len(y))])
    found = leaves | dict(theirs.named_parameters())
    return {name: leaf.grad.numpy() for name, leaf in found.items() if leaf.requires_grad}


def _assert_is_torchs(torch, theirs, problem, engine, dtype, terms):
    """The gradients are those that torch gives in float64 from the same numbers.

    Of the roundings, in float64, torch's are as many as ours.
    """
    _, moves = spread(problem.gradients, problem.arrays, draws=2)
    count = roundings(engine, terms) * (2 if dtype == "float64" else 1)
    got = problem.gradients(engine=engine, dtype=dtype)
    assert_within(got, _torchs(torch, theirs, problem), moves, count, dtype)


@pytest.mark.parametrize("config", SHAPES, ids=_id)
def test_lstm_gradients_are_torchs(torch, engine, dtype, config):
    """Each dtype has one half of the layouts, the other dtype the other half."""
    for layout in LAYOUTS:
        half = (layout["bias"] + layout["batch_first"] + sum(map(bool, config.values()))) % 2
        if layout["mode"] == "empty" or half != (dtype == "float64"):  # torch has no empty ones
            continue
        layout = dict(layout)
        mode = layout.pop("mode")
        theirs = torch.nn.LSTM(I, H, **config, **layout, dtype=torch.float64)
        problem = _lstm(5, mode, **config, **layout)
        _assert_is_torchs(torch, theirs, problem, engine, dtype, terms=4 * H)


def test_layers_gradients_are_torchs(torch, engine, dtype):
    double = {"dtype": torch.float64}
    theirs = {
        "linear": torch.nn.Linear(3, 4, **double),
        "linear without bias": torch.nn.Linear(3, 1, False, **double),
        "linear of one row": torch.nn.Linear(3, 4, **double),
        "embedding": torch.nn.Embedding(5, 3, **double),
        "relu": torch.nn.ReLU(),
        "tanh": torch.nn.Tanh(),
        "sigmoid": torch.nn.Sigmoid(),
        "softmax": torch.nn.Softmax(-1),
        "softmax over the first": torch.nn.Softmax(0),
        "cell": torch.nn.LSTMCell(3, 5, **double),
        "cell unbatched": torch.nn.LSTMCell(3, 5, **double),
        "cell without bias": torch.nn.LSTMCell(3, 5, False, **double),
    }
    for name, layer in theirs.items():
        _assert_is_torchs(torch, layer, PROBLEMS[name], engine, dtype, terms=20)


@pytest.mark.parametrize("padding_idx", [0, -1])
def test_padding_has_no_gradient(torch, dtype, padding_idx):
    """This is as in torch; finite differences would give another value."""
    problem = make_problem(_make(Embedding, 5, 3, padding_idx), _INDICES)
    theirs = torch.nn.Embedding(5, 3, padding_idx, dtype=torch.float64)
    _assert_is_torchs(torch, theirs, problem, "numpy", dtype, terms=3)
    assert not problem.gradients()["weight"][padding_idx].any()
    assert (_INDICES == padding_idx % 5).any()


# ---- engines against `_numpy` ---------------------------------------------------------------

WORK = {
    "odd": Work((7,) * 3, 5, 11),
    "one": Work((1,), 1, 1),
    **{f"hidden{n}": Work((3,) * 5, 4, n) for n in (2, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65)},
    **{f"batch{n}": Work((3,) * n, 4, 10) for n in (1, 2, 4, 5, 6, 7, 8, 12, 13, 31, 33)},
    **{f"input{n}": Work((3,) * 2, n, 9) for n in (1, 2, 15, 16, 17, 40)},
    "long": Work((300,) * 2, 3, 8),
    "wide": Work((2,) * 33, 64, 96),
    "alone": Work((150,), 3, 70),
    "alone_wide": Work((5,), 70, 150),
    **{f"projected{n}": Work((4, 4, 2), 3, n + 3, n) for n in (1, 7, 16, 31, 64)},
    "two": Work((2, 1), 5, 11),
    "stairs": Work(tuple(range(9, 0, -1)), 5, 11),
    "cliff": Work((12, 1, 1, 1, 1, 1, 1), 5, 11),
    "every_tile": Work(tuple(range(30, 0, -1)), 5, 11),
    "plateaus": Work((10,) * 7 + (6,) * 5 + (2,) * 14, 5, 20, 6),
    "one_long": Work((100, 2), 5, 11),
}


@pytest.mark.parametrize("name", WORK)
def test_works(engine, dtype, name):
    """Where one dtype has one direction, the other dtype has two."""
    directions = 1 + ([*WORK].index(name) + (dtype == "float64")) % 2
    work = WORK[name]._replace(dtype=dtype, directions=directions)
    assert_goes_back(load(engine), work, engine)


@pytest.mark.parametrize("every", [1, 3, 4, 5, 100])
@pytest.mark.parametrize("lengths", [(9,) * 5, (9, 9, 7, 4, 1)], ids=str)
def test_checkpoints(engine, dtype, lengths, every):
    for directions, P in ((1, None), (2, 7)):
        work = Work(lengths, 5, 18, P, directions=directions, dtype=dtype)
        assert_goes_back(load(engine), work, engine, every=every)


@pytest.mark.parametrize("gap", [1, 3, 16])
def test_rows_lie_apart(engine, dtype, gap):
    for H, P in ((11, None), (16, 5), (33, 8)):
        for lengths in ((4, 4, 4), (4, 2, 1)):
            work = Work(lengths, 5, H, P, directions=1 + gap % 2, dtype=dtype)
            assert_goes_back(load(engine), work, engine, gap=gap)


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=14),
    sizes=st.tuples(st.integers(1, 20), st.integers(1, 40), st.integers(0, 39)),
    directions=st.integers(1, 2),
    cut=st.tuples(st.integers(0, 5), st.integers(0, 7)),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_any_work(engine, dtype, lengths, sizes, directions, cut):
    (inputs, hidden, P), (gap, every) = sizes, cut
    lengths = tuple(sorted(lengths, reverse=True))
    work = Work(lengths, inputs, hidden, P % hidden or None, 1, directions, dtype=dtype)
    assert_goes_back(load(engine), work, engine, gap=gap, every=every)


def test_saturated_gates(engine, dtype):
    work = Work((5,) * 6, 5, 11, x=1000, dtype=dtype)
    assert_goes_back(load(engine), work, engine)


def _assert_same(got, expected):
    assert got.keys() == expected.keys()
    for name in expected:
        assert_same_bits(got[name], expected[name])


# Of one layer, for those are recorded; some works differ in the number of directions alone.
LARGE = {
    name: work._replace(layers=1)
    for name, work in WORKS.items()
    if not name.startswith(("denormal", "huge", "saturated")) and not name.endswith("_reverse")
}


@pytest.mark.parametrize("name", LARGE)
def test_threads_change_no_bit(native, name):
    values = values_of(LARGE[name])
    expected = go_back(native, LARGE[name], values)
    assert all(np.isfinite(result).all() for result in expected.values())
    for threads in (2, 3):
        _assert_same(go_back(native, LARGE[name], values, threads=threads), expected)


@pytest.mark.parametrize("every", [1, 3, 4, 9, 100])
def test_checkpoints_change_no_bit(native, dtype, every):
    for lengths in ((9,) * 5, (9, 9, 7, 4, 1), (70,)):
        work = Work(lengths, 5, 18, 7, directions=2, dtype=dtype)
        values = values_of(work)
        _assert_same(go_back(native, work, values, every=every), go_back(native, work, values))


def test_going_back_twice_gives_the_same_bits(engine, dtype):
    """The two are from two tapes, with another run in between."""
    work = Work((6, 6, 3, 1), 5, 11, 4, directions=2, dtype=dtype)
    other = Work((30,) * 3, 9, 40, dtype=dtype)
    expected = go_back(load(engine), work, values_of(work))
    go_back(load(engine), other, values_of(other))
    _assert_same(go_back(load(engine), work, values_of(work)), expected)


# ---- saboteurs ------------------------------------------------------------------------------

RICH = Work((5, 4, 2, 1), 3, 5, 2, directions=2)  # where each of them must show
DZ = "dz[rows] = np.concatenate([dz_i, dz_f, dz_g, dz_o], axis=1)"
SPLIT = "i, f, g, o = np.split(gates[rows], 4, axis=1)"
BEFORE = "(states_before(batch_sizes, *s, reverse) for s in ((h, y), (c, cells)))"
AT_BEFORE = "states[then : then + both]"  # in `states_before`
DH = "tanh_c, c_0, dh_t = np.tanh(cells[rows]), c_0s[rows], dh[:live] + dy[rows]"
DW_HR = "dw.w_hr[...] += dh_t.T @ (o * tanh_c)"  # (6)
DC = "dc_t = dc[:live] + dm * o * (1 - tanh_c**2)"  # (7)
DZ_IF = "dz_i, dz_f = dc_t * g * i * (1 - i), dc_t * c_0 * f * (1 - f)"  # (8)
DZ_GO = "dz_g, dz_o = dc_t * i * (1 - g**2), dm * tanh_c * o * (1 - o)"  # (8)
STATES = "dc[:live], dh[:live] = dc_t * f, dz[rows] @ cell.w_hh.T"  # (9)
DX = "dx += dz @ cell.w_ih.T"  # (10)
DW_IH = "dw.w_ih[...] += dz.T @ x"
DW_HH = "dw.w_hh[...] += dz.T @ h_0"
DB = "dw.b[...] += dz.sum(axis=0)"

# name -> (a piece of `_numpy`'s `back`, what the saboteur has instead, the function if another)
EDITS = {
    "the last step missing": (DZ, DZ + " * (rows.stop < len(dz))"),
    "the first step missing": (DZ, DZ + " * (rows.start > 0)"),
    "i and f swapped": (DZ, DZ.replace("dz_i, dz_f", "dz_f, dz_i")),
    "g and o swapped": (DZ, DZ.replace("dz_g, dz_o", "dz_o, dz_g")),
    "saved f and i swapped": (SPLIT, SPLIT.replace("i, f,", "f, i,")),
    "dy dropped": (DH, DH.replace(" + dy[rows]", "")),
    "h_t for h_0": (DW_HH, "dw.w_hh[...] += dz.T @ y"),
    "states of two steps before": (AT_BEFORE, "states[max(0, then - both) :][:both]",
                                   "states_before"),
    "c_t for c_0": (DH, DH.replace("c_0s[rows]", "cells[rows]")),
    "initial h dropped": (BEFORE, BEFORE.replace("(h, y)", "(0 * h, y)")),
    "initial c dropped": (BEFORE, BEFORE.replace("(c, cells)", "(0 * c, cells)")),
    "the step after for the one before": ("t + 1 if reverse else t - 1", "t - 1",
                                          "states_before"),
    "slope of tanh(c) forgotten": (DC, "dc_t = dc[:live] + dm * o"),
    "slope of i forgotten": (DZ_IF, DZ_IF.replace("i * (1 - i)", "1")),
    "slope of g forgotten": (DZ_GO, DZ_GO.replace("i * (1 - g**2)", "i")),
    "tanh(c) forgotten": (DZ_GO, DZ_GO.replace("tanh_c * ", "")),
    "f forgotten": (STATES, STATES.replace("dc_t * f", "dc_t")),
    "recurrence forgotten": (STATES, STATES.replace("dz[rows] @ cell.w_hh.T", "0")),
    "last row skipped": (DZ, f"{DZ}; dz[rows.stop - 1] = 0"),
    "last unit skipped": (DZ, f"{DZ}; dz[rows, -1] = 0"),
    "bias forgotten": (DB, "pass"),
    "last row of the bias forgotten": (DB, "dw.b[...] += dz[:-1].sum(axis=0)"),
    "projection forgotten": (DW_HR, "pass"),
    "projection of c for m": (DW_HR, "dw.w_hr[...] += dh_t.T @ tanh_c"),
    "input's weights forgotten": (DW_IH, "pass"),
    "dx of the second direction lost": (DX, "dx += 0 if reverse else dz @ cell.w_ih.T"),
    "dx of the first direction lost": (DX, "dx[...] = dz @ cell.w_ih.T"),
    "dw not added": (DW_IH, "dw.w_ih[...] = dz.T @ x"),
    "gradients rounded to float16": (DZ, DZ + ".astype(np.float16)"),
}  # fmt: skip


def _before(spoil):
    """Return an engine that spoils dy, dh, dc, dx or dw, or memory around them, in its `back`."""

    def broken_back(back, tape, dy, dh, dc, dx, dw, threads):
        spoil(dy, dh, dc, dx, dw)
        back(tape, dy, dh, dc, dx, dw, threads)

    return broken(back=broken_back)


def _zero(array, at=slice(None)):
    array[at] = 0


SABOTEURS = {
    "dh_n dropped": _before(lambda dy, dh, dc, dx, dw: _zero(dh)),
    "dc_n dropped": _before(lambda dy, dh, dc, dx, dw: _zero(dc)),
} | {
    name: edited(_numpy, *place or ["back"], old, new) for name, (old, new, *place) in EDITS.items()
}
# what finite differences cannot see
WRITES = {
    "dy written": _before(lambda dy, dh, dc, dx, dw: _zero(dy, (0, 0))),
    "dx written past its rows": _before(lambda dy, dh, dc, dx, dw: _zero(dx.base, -1)),
    "db written past its end": _before(lambda dy, dh, dc, dx, dw: _zero(dw[0].b.base, 0)),
    "x written": edited(_numpy, "back", DB, f"x[0, 0] = 0; {DB}"),
}


@pytest.mark.parametrize("name", SABOTEURS | WRITES)
def test_saboteur_is_rejected(dtype, name):
    work = RICH._replace(dtype=dtype)
    assert_goes_back(_numpy, work, "numpy", every=2)
    with pytest.raises(AssertionError):
        assert_goes_back((SABOTEURS | WRITES)[name], work, "numpy", every=2)


def test_rounding_to_float32_is_rejected_in_float64():
    saboteur = edited(_numpy, "back", DZ, DZ + ".astype(np.float32)")
    with pytest.raises(AssertionError):
        assert_goes_back(saboteur, RICH._replace(dtype="float64"), "numpy")


def _sabotaged(saboteur, problem):
    def make(engine, dtype):
        layer = problem.make("numpy", dtype)
        layer._engine = saboteur
        return layer

    return problem._replace(make=make)


@pytest.mark.parametrize("name", SABOTEURS)
def test_derivatives_reject_saboteurs(name):
    problem = _lstm(5, "lengths", bidirectional=True, proj_size=3, every=2)
    assert_derivative(_sabotaged(_numpy, problem), "numpy")
    with pytest.raises(AssertionError):
        assert_derivative(_sabotaged(SABOTEURS[name], problem), "numpy")


def _no_bias(layer, back, x, y, dy):
    dx = back(dy)
    layer.grads["bias"][...] = 0
    return dx


def _no_last_row(layer, back, x, y, dy):
    dx = back(dy)
    layer.grads["weight"] -= np.outer(dy.reshape(-1, dy.shape[-1])[-1], x.reshape(-1, 3)[-1])
    return dx


def _no_last_feature(layer, back, x, y, dy):
    return back(dy) - dy[..., -1:] * layer.weight[-1]


def _not_summed(layer, back, x, y, dy):
    layer.grads["weight"][x] = dy


def _one_direction(layer, back, x, y, dy):
    dx = back(dy)
    dx[..., dx.shape[-1] // 2 :] = 0
    return dx


def _in_the_wrong_order(layer, back, x, y, dy):
    backs = []
    for _, child in layer.named_layers():
        if child is not layer:
            x, back = child.vjp(x)
            backs.append(back)
    for back in backs:
        dy = back(dy)
    return dy


# name -> (problem, what the pullback of its layer does instead, given the right one, x, y and dy)
BROKEN_LAYERS = {
    "linear's bias forgotten": ("linear", _no_bias),
    "linear's last row forgotten": ("linear", _no_last_row),
    "linear's last feature forgotten": ("linear", _no_last_feature),
    "repeated indices not summed": ("embedding", _not_summed),
    "gradients in another order": ("embedding", lambda layer, back, x, y, dy: back(dy[::-1])),
    "dropout's mask not kept": ("dropout", lambda layer, back, x, y, dy: dy),
    "relu's zeros forgotten": ("relu", lambda layer, back, x, y, dy: dy),
    "tanh's slope": ("tanh", lambda layer, back, x, y, dy: dy * (1 - y)),
    "sigmoid's slope": ("sigmoid", lambda layer, back, x, y, dy: dy * (y * y)),
    "softmax alone": ("softmax", lambda layer, back, x, y, dy: dy * y),
    "softmax over the other axis": (
        "softmax over the first",
        lambda layer, back, x, y, dy: y * (dy - (dy * y).sum(axis=1, keepdims=True))),
    "last of the wrong step": (
        "last", lambda layer, back, x, y, dy: np.roll(back(dy), 1, axis=0)),
    "last of one direction": ("last of both ends", _one_direction),
    "sequential in the wrong order": ("squares", _in_the_wrong_order),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN_LAYERS)
def test_derivatives_reject_broken_layers(name):
    problem, pull_back = BROKEN_LAYERS[name]

    def make(engine, dtype, pull_back=pull_back):
        layer = PROBLEMS[problem].make(engine, dtype)
        kind = type(layer)

        class Broken(kind):
            def vjp(self, input, **options):
                y, back = kind.vjp(self, input, **options)
                return y, lambda dy: pull_back(self, back, input, y, dy)

        layer.__class__ = Broken
        return layer

    def right(layer, back, x, y, dy):
        return back(dy)

    assert_derivative(
        PROBLEMS[problem]._replace(make=lambda *given: make(*given, pull_back=right)), "numpy"
    )
    with pytest.raises(AssertionError):
        assert_derivative(PROBLEMS[problem]._replace(make=make), "numpy")
