"""The options of the recurrence: every engine against `_numpy` in float64, forward and back."""

import dataclasses

import numpy as np
import pytest
from gradients import assert_goes_back, go_back, values_of
from hypothesis import given, settings
from hypothesis import strategies as st
from saboteurs import edited
from support import FUNCTIONS, Work, assert_same_bits, draw, noise_of

from fastlstm.engines import _layers, _numpy, load
from fastlstm.engines.contract import ACTIVATIONS, PLAIN, Activation, Noise, Options
from fastlstm.sequences.packing import batch_sizes_of, rows_of

# The engine among the exact ones whose threads and pieces of time are those of `_layers`.
LAYERED = pytest.mark.parametrize("exact_engine", ["numba"], indirect=True, scope="session")

ALL = Options(
    gate_clip=1.5,
    cell_clip=0.8,
    proj_clip=0.2,
    coupled="f=1-i",
    gate=Activation("hard_sigmoid", 0.2, 0.5),
    cell=Activation("softsign"),
    output=Activation("scaled_tanh", 1.2, 0.8),
    zoneout_h=0.1,
    zoneout_c=0.3,
)
BASE = Work((5, 4, 2, 1), 3, 19, dcells=True)


def _with(peephole=False, noise=False, P=None, **options):
    work = BASE._replace(peephole=peephole, noise=noise, P=P)
    return work._replace(options=dataclasses.replace(PLAIN, **options))


OPTIONS = {
    "plain": _with(),
    "peephole": _with(peephole=True),
    "f=1-i": _with(coupled="f=1-i"),
    "i=1-f": _with(coupled="i=1-f"),
    "gate_clip": _with(gate_clip=0.4),
    "cell_clip": _with(cell_clip=0.5),
    "proj_clip": _with(proj_clip=0.1, P=7),
    "tflite": _with(layer_norm="tflite"),
    "haste": _with(layer_norm="haste"),
    "zoneout": _with(zoneout_h=0.3, zoneout_c=0.1),
    "noise": _with(noise=True),
    "noise of a projection": _with(noise=True, P=7),
    "tflite, i=1-f, peephole": _with(layer_norm="tflite", coupled="i=1-f", peephole=True),
    "haste, f=1-i, peephole": _with(layer_norm="haste", coupled="f=1-i", peephole=True, P=7),
    "all": _with(peephole=True, noise=True, P=7, **vars(ALL)),
    **{name: _with(gate=f, cell=f, output=f) for name, f in FUNCTIONS.items()},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_option(engine, dtype, name):
    work = OPTIONS[name]._replace(dtype=dtype, directions=1 + (dtype == "float32"))
    assert_goes_back(load(engine), work, engine)


ANY_FUNCTION = st.builds(
    Activation,
    st.sampled_from(ACTIVATIONS),
    st.sampled_from([0.125, 0.25, 0.5, 1.0]),
    st.sampled_from([0.25, 0.5, 1.0]),
)
BOUNDS = st.sampled_from([np.inf, 0.25, 0.75, 2.0])
PROBABILITIES = st.sampled_from([0.0, 0.0, 0.25])


@given(
    options=st.builds(
        Options,
        gate_clip=BOUNDS,
        cell_clip=BOUNDS,
        proj_clip=BOUNDS,
        coupled=st.sampled_from(["", "f=1-i", "i=1-f"]),
        gate=ANY_FUNCTION,
        cell=ANY_FUNCTION,
        output=ANY_FUNCTION,
        layer_norm=st.sampled_from(["", "tflite", "haste"]),
        zoneout_h=PROBABILITIES,
        zoneout_c=PROBABILITIES,
    ),
    extras=st.fixed_dictionaries(dict.fromkeys(["peephole", "noise", "dcells"], st.booleans())),
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=9),
    sizes=st.tuples(st.integers(2, 20), st.integers(3, 40), st.integers(0, 39)),
    directions=st.integers(1, 2),
    cut=st.tuples(st.integers(0, 5), st.integers(0, 4)),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_any_options(engine, dtype, options, extras, lengths, sizes, directions, cut):
    """All numbers are exact in float32. There are 3 units, 2 inputs and 2 outputs at least.

    Of fewer, norms have no gradients but rounding: the norm of 2 units is +-1 whatever they are,
    and that of W x is the same for every x > 0 that is one number.
    """
    (inputs, hidden, P), (gap, every) = sizes, cut
    P = P % hidden if P % hidden > 1 else None
    lengths = tuple(sorted(lengths, reverse=True))
    work = Work(lengths, inputs, hidden, P, 1, directions, dtype, options=options, **extras)
    assert_goes_back(load(engine), work, engine, gap=gap, every=every)


# ---- the same bits --------------------------------------------------------------------------


def _run(engine, work, rows=slice(None), threads=1, method="run"):
    """(y, h, c) of a work of one direction, of some of its sequences, which have equal lengths."""
    cells, x, h, c = draw(work)
    T, B = work.lengths[0], len(work.lengths)
    h, c = h[:, rows].copy(), c[:, rows].copy()

    def own(values):
        return np.ascontiguousarray(values.reshape(T, B, -1)[:, rows]).reshape(-1, values.shape[1])

    noise = noise_of(work)
    if noise:
        factors, *masks = noise[0]
        noise = [Noise(factors[rows].copy(), *map(own, masks))]
    y = np.empty((T * h.shape[1], h.shape[2]), x.dtype)
    sizes = np.full(T, h.shape[1])
    getattr(load(engine).Stack(cells, 1), method)(own(x), sizes, h, c, y, threads, noise=noise)
    return y.reshape(T, -1, h.shape[2]), h, c


@pytest.mark.parametrize("name", OPTIONS)
def test_bits_do_not_depend_on_what_is_beside(exact_engine, dtype, name):
    """Neither on the other sequences, nor on whether a run is recorded."""
    work = OPTIONS[name]._replace(lengths=(6,) * 7, H=35, dtype=dtype)
    whole = _run(exact_engine, work)
    for got, expected in zip(_run(exact_engine, work, method="record"), whole, strict=True):
        assert_same_bits(got, expected)
    for rows in (slice(0, 1), slice(6, 7), slice(1, 4)):
        for got, expected in zip(_run(exact_engine, work, rows), whole, strict=True):
            assert_same_bits(got, expected[:, rows])


@LAYERED
def test_bits_do_not_depend_on_threads(exact_engine, dtype):
    """The masks are cut as the sequences are."""
    work = OPTIONS["all"]._replace(lengths=(60,) * 33, I=33, H=96, P=90, dtype=dtype)
    assert 8 * sum(work.lengths) * work.H * (work.I + work.P) > 3 * _layers._WORTH_A_THREAD
    for got, expected in zip(
        _run(exact_engine, work, threads=3), _run(exact_engine, work), strict=True
    ):
        assert_same_bits(got, expected)


@LAYERED
@pytest.mark.parametrize("name", OPTIONS)
def test_bits_do_not_depend_on_pieces_of_time(monkeypatch, exact_engine, dtype, name):
    """Nor do gradients but those of parameters, which are sums over all steps."""
    work = OPTIONS[name]._replace(dtype=dtype, directions=2)
    values = values_of(work)
    whole = go_back(load(exact_engine), work, values)
    monkeypatch.setattr(_layers, "_PIECE", 1)
    for part, got in go_back(load(exact_engine), work, values).items():
        if part in ("y", "h", "c", "dh", "dc", "dx") or part.startswith(("gates", "cells")):
            assert_same_bits(got, whole[part])


# ---- work spaces ------------------------------------------------------------------------------


@LAYERED
@pytest.mark.parametrize("name", OPTIONS)
def test_nothing_is_written_past_a_work_space(monkeypatch, exact_engine, dtype, name):
    """The kernels cut a work space as the engine has counted its bytes."""
    module, spaces = load(exact_engine), []
    take = module._take

    def guarded(idle, need):
        work, address = take([], need + 4096)
        work[need:] = 77
        spaces.append(work[need:])
        return work, address

    monkeypatch.setattr(module, "_take", guarded)
    for lengths, P in (((5,), None), ((5, 4, 2, 1), 18), ((3,) * 150, None)):
        work = OPTIONS[name]._replace(lengths=lengths, I=35, P=P, dtype=dtype)
        go_back(module, work, values_of(work))
    assert len(spaces) >= 6
    for space in spaces:
        assert (space == 77).all()


# ---- values that are no numbers ---------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", OPTIONS)
def test_nan_and_inf_stay_in_their_sequence(exact_engine, dtype, name, value):
    """That sequence's are nan and inf where `_numpy`'s are; the others have the bits as before."""
    work = OPTIONS[name]._replace(dtype=dtype)
    values = values_of(work)
    clean = go_back(load(exact_engine), work, values)
    step, sequence = rows_of(np.arange(4), batch_sizes_of(np.array(work.lengths)))
    x = values["x"].copy()
    x[sequence == 1, 2] = value
    got = go_back(load(exact_engine), work, values | {"x": x})
    expected = go_back(_numpy, work, values | {"x": x})
    for part in ("y", "dx", "gates0", "cells0"):
        for kind in (np.isnan, np.isposinf, np.isneginf):
            np.testing.assert_array_equal(kind(got[part]), kind(expected[part]), part)
        assert_same_bits(got[part][sequence != 1], clean[part][sequence != 1])


# ---- saboteurs --------------------------------------------------------------------------------

# name -> (an option's name above, the function of `_numpy`, a piece of it, what stands there)
SABOTEURS = {
    "o's peephole sees c_0": (
        "peephole", "values_of", "s[3] + w['w_co'] * c", "s[3] + w['w_co'] * c_0"
    ),
    "i's peephole forgotten": (
        "peephole", "values_of", "s[0] + w['w_ci'] * c_0", "s[0]"
    ),
    "coupled the wrong way": (
        "f=1-i", "values_of", "if options.coupled == 'f=1-i':\n    f = 1 - i",
        "if options.coupled == 'f=1-i':\n    f = i",
    ),
    "a norm sees the gate that is gone": (
        "haste, f=1-i, peephole", "present", "{'f=1-i': 1, 'i=1-f': 0}", "{}",
    ),
    "the gate is clipped": (
        "gate_clip", "values_of", "activate(options.gate, clipped(z[3]))",
        "clipped(activate(options.gate, z[3]))",
    ),
    "c' is not clipped": ("cell_clip", "values_of", "clip(s, options.cell_clip)", "s"),
    "gradients pass a clip of z": (
        "gate_clip", "cell_back", "inside(z, options.gate_clip)", "1",
    ),
    "gradients pass a clip of c'": (
        "cell_clip", "cell_back", "inside(values.raw_c, options.cell_clip)", "1",
    ),
    "gradients pass a clip of h'": (
        "proj_clip", "back_general", "inside(values.m @ cell.w_hr, options.proj_clip)", "1",
    ),
    "c' gets nothing of o's peephole": (
        "peephole", "cell_back", "dc + ds[3] * w['w_co']", "dc",
    ),
    "c_0 gets nothing of peepholes": (
        "peephole", "cell_back", "dc_0 + ds[0] * w['w_ci'] + ds[1] * w['w_cf']", "dc_0",
    ),
    "the gate that follows gives nothing to the other": (
        "f=1-i", "cell_back", "back_to_sums(0, di - df if options.coupled else di)",
        "back_to_sums(0, di)",
    ),
    "the mean of a norm has no gradient": (
        "tflite", "norm_back", "d - d.mean(axis=1, keepdims=True)", "d",
    ),
    "the variance of a norm has no gradient": (
        "haste", "norm_back", "n * np.mean(d * n, axis=1, keepdims=True)", "0 * n",
    ),
    "what zoneout keeps of c has no gradient": (
        "zoneout", "back_general",
        "dh[:live], dc[:live] = dm_0 + kept(zone_h, dh_t), dc_0 + kept(zone_c, dc_t)",
        "dh[:live], dc[:live] = dm_0 + kept(zone_h, dh_t), dc_0",
    ),
    "dropout does not reach the gradient of h_0": (
        "noise", "back_general", "dm_0 *= noise.h[:live]", "dm_0 *= 1",
    ),
    "zoneout of h keeps the new": ("zoneout", "keep_some", "zone * old", "zone * new"),
    "the masks are not for the gradient": (
        "noise", "back_general", "dm = (1 - zone_h) * dh_t", "dm = 1 * dh_t",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SABOTEURS)
def test_saboteur_is_rejected(name):
    option, *edit = SABOTEURS[name]
    work = OPTIONS[option]._replace(dtype="float64")
    assert_goes_back(_numpy, work, "numpy")
    saboteur = edited(_numpy, *edit)
    with pytest.raises(AssertionError):
        assert_goes_back(saboteur, work, "numpy")
