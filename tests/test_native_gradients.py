"""What the native engine promises of gradients: one result of threads, checkpoints and rows.

Their values are test_gradients.py's; here they are where work is cut: among threads, in chunks, in
sums that are flushed.
"""

import concurrent.futures
import hashlib
import json

import numpy as np
import pytest
from gradients import assert_goes_back, cells_of, go_back, values_of
from support import SMALL, Work, assert_same_answers, assert_same_bits
from test_native import HERE, python

from fastlstm.engines import load
from fastlstm.engines.contract import Options
from fastlstm.sequences.packing import batch_sizes_of, rows_of

pytestmark = pytest.mark.usefixtures("native")


def _with(work, **changes):
    own = {name: changes.pop(name) for name in ("peephole", "noise", "dcells") if name in changes}
    return work._replace(options=Options(**changes), **own)


# Worth threads on the way back, which share the rows or, where rows are few, the units of a step;
# of 4097 rows and more the sums are flushed in between.
BACK = {
    "rows": Work((20,) * 16, 20, 65, 33, directions=2),
    "rows_ragged": Work((*range(40, 3, -1),), 33, 50, directions=2),
    "rows_flushed": Work((300,) * 17, 3, 20),
    "rows_double": Work((150, 150, 60, 21, 3), 32, 40, dtype="float64", directions=2),
    "fewer_rows_than_threads": Work((60, 21), 30, 130, 100, directions=2),
    "units": Work((40,), 33, 257, directions=2),
    "units_ragged": Work((30, 21, 21, 2, 1, 1, 1), 130, 150, directions=2),
    "units_double": Work((25, 25, 3), 20, 130, dtype="float64"),
}

# The same with options. Norms and projections take all units of a row together: rows are shared.
NOISY = {"noise": True, "dcells": True}
BACK |= {
    "rows_peephole": _with(BACK["rows"], peephole=True, coupled="f=1-i", cell_clip=0.5),
    "rows_tflite": _with(BACK["rows_ragged"], layer_norm="tflite", coupled="i=1-f", **NOISY),
    "rows_haste": _with(BACK["rows_flushed"], layer_norm="haste", coupled="f=1-i", peephole=True),
    "rows_projected": _with(BACK["fewer_rows_than_threads"], proj_clip=0.05, zoneout_h=0.3),
    "rows_of_units": _with(BACK["units_ragged"], layer_norm="haste", **NOISY),
    "units_noise": _with(BACK["units"], **NOISY),
    "units_options": _with(
        BACK["units_double"], peephole=True, coupled="i=1-f", gate_clip=1.0, zoneout_c=0.2
    ),
}


def results(work, **options):
    return go_back(load("native"), work, values_of(work), **options)


def assert_same_gradients(got, expected):
    assert got.keys() == expected.keys()
    assert_same_answers(got, expected)


@pytest.mark.parametrize("name", BACK)
def test_gradients_of_work_for_threads(native, name):
    assert_goes_back(native, BACK[name], "native", threads=2)


@pytest.mark.parametrize("name", BACK)
def test_one_result_of_threads_and_checkpoints(name):
    """Every buffer is the same however the work is cut, and nothing around it is written."""
    work = BACK[name]
    expected = results(work)
    steps = work.lengths[0]
    for threads, every in ((2, 0), (3, 0), (4, 0), (64, 0), (1, 7), (2, 1), (3, 7), (4, steps)):
        got = results(work, threads=threads, every=every)
        # With checkpoints there are no gates and cells of all steps.
        assert_same_gradients(got, {name: expected[name] for name in got})


# What is cut in groups of sequences and shares of units: of each kind, works of any size.
KINDS = {
    "plain": {},
    "double": {"dtype": "float64"},
    "options": {"peephole": True, "coupled": "i=1-f", "gate_clip": 1.0, "zoneout_c": 0.2},
    "noise": {"cell_clip": 0.5, **NOISY},
    "tflite": {"layer_norm": "tflite", **NOISY},
    "haste": {"layer_norm": "haste", "peephole": True, "coupled": "f=1-i"},
    "projected": {"P": 0.4},
    "projected_clip": {"P": 0.7, "proj_clip": 0.05, "zoneout_h": 0.3, **NOISY},
}


def with_kind(work, kind):
    """The work as one of this kind."""
    own = dict(KINDS[kind])
    if "P" in own:
        P = max(1, int(own.pop("P") * work.H))
        work = work._replace(P=P if P < work.H else None)  # one unit has no projection
    return _with(work._replace(dtype=own.pop("dtype", "float32")), **own)


def drawn(kind, rng):
    """A work of this kind, and a cut of it: into groups, shares and parts; some are empty."""
    steps, batch = rng.integers(1, 13), rng.choice([1, 1, 2, 3, 5, 17, 40])
    lengths = rng.integers(1, steps + 1, batch) if rng.random() < 0.6 else np.full(batch, steps)
    work = Work((*np.sort(lengths)[::-1].tolist(),), *rng.integers(1, 150, 2).tolist())
    work = with_kind(work._replace(directions=int(rng.integers(1, 3))), kind)
    threads = int(rng.integers(1, 17))
    groups = int(rng.choice([1, 1, 2, 3, threads, batch + 2]))
    return work, (threads, groups, int(rng.choice([1, 2, 3, 5, 16, 40])))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", KINDS)
def test_one_result_of_any_cut(kind, seed):
    """Whatever groups, shares and threads there are: more than sequences, units or cores."""
    rng = np.random.default_rng([seed, *kind.encode()])
    work, cut = drawn(kind, rng)
    every = int(rng.choice([0, 0, 3]))
    assert_same_gradients(results(work, every=every, cut=cut), results(work, every=every))


@pytest.mark.parametrize("cut", [(16, 4, 4), (16, 1, 16), (7, 3, 2), (5, 5, 1), (2, 9, 3)], ids=str)
@pytest.mark.parametrize("name", ["rows_flushed", "units", "units_ragged", "units_options"])
def test_one_result_of_many_chunks_cut(name, cut):
    assert_same_gradients(results(BACK[name], cut=cut), results(BACK[name]))


@pytest.mark.parametrize("every", [10**9, 2**62, 2**63 - 2, 2**63 - 1])
def test_as_many_steps_as_one_likes(every):
    """They may all lie between two checkpoints; then there is one checkpoint."""
    work = SMALL["small"]._replace(layers=1)
    assert_same_gradients(results(work, every=every), results(work))


PRINT = "import test_native_gradients; test_native_gradients.print_digests()"


def print_digests():
    """Print a digest of each result, of works of one panel of units on every machine."""
    bits = {}
    for n, work in enumerate([Work((9, 5, 5, 1), 7, 2, directions=2), Work((3,) * 4, 20, 1)]):
        for dtype in ("float32", "float64"):
            got = results(work._replace(dtype=dtype))
            for name, values in got.items():
                bits[f"{name} {n} {dtype}"] = hashlib.sha256(values.tobytes()).hexdigest()
    print(json.dumps(bits))


@pytest.mark.skipif(len(HERE) < 3, reason="compares instruction sets with fused multiply-add")
def test_gradients_of_one_panel_do_not_depend_on_vectors():
    """With more units they would: a sum takes them panel by panel, as wide as vectors."""
    wide, narrow = (python("-c", PRINT, FASTLSTM_ISA=isa) for isa in HERE[:2])
    assert json.loads(wide) == json.loads(narrow)


# Weights of many parts, rows enough to use each part again, panels that are not whole.
CUT = {
    "ragged": Work((9, 9, 9, 8, 8, 7, 7, 5, 5, 5, 2, 1, 1), 70, 150, directions=2),
    "double": Work((6,) * 30, 33, 137, dtype="float64"),
    "projected": Work((5, 5, 5, 5, 5, 5, 4, 4, 3, 3, 3, 2), 130, 140, 70),
    "flushed": BACK["rows_flushed"],
    "one_row": Work((1,), 100, 140),
    "units": BACK["units_ragged"],
    "haste": _with(BACK["rows_ragged"], layer_norm="haste", **NOISY),
}
PRINT_CUT = "import test_native_gradients; test_native_gradients.print_cut()"


def print_cut():
    """Print a digest of each result of the works that are cut in one way or another."""
    bits = {}
    for name, work in CUT.items():
        for threads, every in ((1, 0), (2, 3)):
            for n, values in results(work, threads=threads, every=every).items():
                bits[f"{name} {threads} {n}"] = hashlib.sha256(values.tobytes()).hexdigest()
    print(json.dumps(bits))


@pytest.mark.parametrize("isa", HERE)
def test_gradients_do_not_depend_on_caches(isa):
    """Tiny ones cut products into their smallest parts, and huge ones leave them whole."""
    huge, usual, tiny = (
        json.loads(python("-c", PRINT_CUT, FASTLSTM_ISA=isa, FASTLSTM_CACHES=caches))
        for caches in ("1M,64M,0,1", "32K,512K,32M,8", "4K,8K,16K,1")
    )
    assert len(huge) > 100
    assert huge == usual == tiny


@pytest.mark.parametrize(
    "work",
    [
        Work((7, 6, 6, 5, 3, 1, 1), 20, 33, 9, directions=2),
        Work((2,) * 7, 3, 1040),  # whose weights are taken in pieces if there are many rows
        Work((2,) * 7, 600, 530, 520, dtype="float64"),
    ],
    ids=lambda work: str(work.H),
)
def test_a_sequence_alone_goes_back(work):
    """Its gradients are those that it has among others."""
    values = values_of(work)
    whole = go_back(load("native"), work, values)
    assert all(np.isfinite(result).all() for result in whole.values())
    rows = len(work.lengths)
    _, sequence = rows_of(np.arange(rows), batch_sizes_of(np.array(work.lengths)))
    for n in (0, 3, rows - 1):
        own = {name: values[name][sequence == n] for name in ("x", "dy")}
        own |= {name: values[name][:, n : n + 1].copy() for name in ("h", "c", "dh", "dc")}
        got = go_back(load("native"), work._replace(lengths=work.lengths[n : n + 1]), values | own)
        for name in ("y", "dx"):
            assert_same_bits(got[name], whole[name][sequence == n])
        for name in ("h", "c", "dh", "dc"):
            assert_same_bits(got[name], whole[name].reshape(len(got[name]), rows, -1)[:, n])


@pytest.mark.parametrize("cut", [None, (5, 2, 2), (16, 3, 4), (16, 1, 1)], ids=str)
@pytest.mark.parametrize("every", [0, 30])
def test_a_tape_is_used_again(every, cut):
    """Eight callers at once use it, with other gradients and with the first ones again.

    The threads that each cut asks for are not there for all of them.
    """
    work = Work((70, 70, 44, 1), 20, 65, directions=2)
    values, rng = values_of(work), np.random.default_rng(0)
    cells, spare = cells_of(work, values), {}
    stack = load("native").Stack([cell.map(np.copy) for cell in cells], 2, True, spare)

    def record(x):
        y = np.empty_like(values["dy"])
        sizes = batch_sizes_of(np.array(work.lengths))
        return stack.record(x, sizes, values["h"].copy(), values["c"].copy(), y, 2, every)

    tape, other = record(values["x"].copy()), record(values["x"] + 1)
    del other

    def back(dy, threads=2):
        got = {name: values[name].copy() for name in ("dh", "dc")} | {
            "dx": np.empty_like(values["x"])
        }
        dw = [cell.map(np.zeros_like) for cell in cells]
        stack.back(tape, dy, got["dh"], got["dc"], got["dx"], dw, threads)
        return got | {f"d{n}{k}": w for k, own in enumerate(dw) for n, w in own.arrays().items()}

    first, second = values["dy"], rng.standard_normal(values["dy"].shape).astype(work.dtype)
    expected = back(first), back(second)
    stack.force_cuts(back=cut)
    assert not np.array_equal(expected[0]["dx"], expected[1]["dx"])
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for n, got in enumerate(pool.map(back, [first, second] * 8)):
            assert_same_gradients(got, expected[n % 2])
