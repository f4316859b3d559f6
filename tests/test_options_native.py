"""The native engine's cell with options, forward: sizes, bits, and the accuracy of its functions.

What the options mean is test_options_torch.py's. Here cells meet the sizes around which kernels
differ, and results must be the same bits however the work is cut.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from gradients import assert_within, roundings, spread
from hypothesis import given, settings
from hypothesis import strategies as st
from support import FUNCTIONS, Case, assert_same_bits, make_case, with_options
from test_accuracy import FAR, RELATIVE, assert_relative, numbers, sigmoid, tanh

from fastlstm.engines import _numpy, load
from fastlstm.engines.contract import Activation, Cell, Noise, Options
from fastlstm.sequences.packing import rows_of

pytestmark = pytest.mark.usefixtures("native")

TESTS = pathlib.Path(__file__).parent

OPTIONS: dict[str, dict[str, Any]] = {
    "peephole": {"peephole": True},
    "f=1-i": {"coupled": "f=1-i"},
    "i=1-f": {"coupled": "i=1-f"},
    "gate_clip": {"gate_clip": 0.5},
    "cell_clip": {"cell_clip": 0.4},
    "proj_clip": {"proj_clip": 0.2},
    "tflite": {"layer_norm": "tflite"},
    "haste": {"layer_norm": "haste"},
    "zoneout": {"zoneout_h": 0.3, "zoneout_c": 0.15},
    **{f"gate={n}": {"gate": f} for n, f in FUNCTIONS.items() if n != "sigmoid"},
    **{f"cell={n}": {"cell": f} for n, f in FUNCTIONS.items() if n != "tanh"},
    **{f"output={n}": {"output": f} for n, f in FUNCTIONS.items() if n != "tanh"},
}
EVERYTHING = {
    norm: {"peephole": True, "coupled": coupled, "gate_clip": 2.5, "cell_clip": 0.9,
           "proj_clip": 0.4, "zoneout_h": 0.3, "zoneout_c": 0.15, "layer_norm": norm,
           "gate": FUNCTIONS["hard_sigmoid"], "cell": FUNCTIONS["elu"],
           "output": FUNCTIONS["softplus"]}
    for norm, coupled in {"": "f=1-i", "tflite": "i=1-f", "haste": "f=1-i"}.items()
}  # fmt: skip
CASES = OPTIONS | {f"everything {norm}": options for norm, options in EVERYTHING.items()}
NOISE = ("h", "zone_h", "zone_c")


def option_case(*sizes: int, options: dict[str, Any], **keywords: Any) -> Case:
    """A case of support.py whose cell has options; without a projection, `proj_clip` has no say."""
    case = make_case(*sizes, **keywords)
    return case._replace(cell=with_options(case.cell, **options))


def draw_noise(case: Case, fields: tuple[str, ...] = NOISE) -> Noise:
    rng, P, H = np.random.default_rng(4), case.h.shape[1], case.c.shape[1]
    shapes = {"h": case.h.shape, "zone_h": (len(case.x), P), "zone_c": (len(case.x), H)}
    drawn = {n: (rng.random(shapes[n]) < 0.5).astype(case.x.dtype) for n in fields}
    if "h" in drawn:
        drawn["h"] *= 2
    return Noise(**drawn)


def results(
    module: Any,
    case: Case,
    noise: Noise | None = None,
    threads: int = 1,
    saved: bool = True,
    directions: int = 1,
) -> dict[str, np.ndarray]:
    """y, h, c and cells of a case, and its gates if they are `saved`.

    With two directions the case's cell is both of them; with one it is reverse as the case is.
    """
    reverses = [False, True] if directions == 2 else [case.reverse]
    stack = module.Stack([dataclasses.replace(case.cell, reverse=r) for r in reverses], directions)
    h, c = (np.stack([state] * directions) for state in (case.h, case.c))
    y = np.full((len(case.x), directions * h.shape[2]), np.nan, case.x.dtype)
    drawn = None if noise is None else [noise] * directions
    arguments = case.x, case.batch_sizes, h, c, y, threads
    if not saved:
        cells = np.full((len(case.x), directions * c.shape[2]), np.nan, c.dtype)
        stack.run(*arguments, noise=drawn, cells=cells)
        parts = enumerate(np.split(cells, directions, axis=1))
        return {"y": y, "h": h, "c": c} | {f"c{k}": part for k, part in parts}
    kept = stack.saved(stack.record(*arguments, noise=drawn))
    found = {f"{n}{k}": a for k, pair in enumerate(kept) for n, a in zip("gc", pair, strict=True)}
    return {"y": y, "h": h, "c": c} | found


def truth(case: Case, noise: Noise | None, directions: int) -> tuple[Any, Any]:
    """What `_numpy` gives in float64, and how far each result moves; see `gradients.spread`.

    That is also what a norm does to rounding: it divides by sqrt(variance + epsilon), so whatever
    its argument is off by moves it the farther, the less the argument varies.
    """
    case = case.astype(np.float64)
    doubled = (
        None if noise is None else Noise(*(a if a is None else a.astype(float) for a in noise))
    )

    def function(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        arrays = {n: v for n, v in values.items() if n not in ("x", "h", "c")}
        moved = case._replace(
            cell=dataclasses.replace(case.cell, **arrays), **{n: values[n] for n in "xhc"}
        )
        return results(_numpy, moved, doubled, directions=directions)

    return spread(function, case.cell.arrays() | {"x": case.x, "h": case.h, "c": case.c})


def assert_right(
    module: Any, case: Case, noise: Noise | None = None, threads: int = 1, directions: int = 1
) -> None:
    """Assert that run and record give the same, and what `_numpy` gives, but for rounding."""
    got = results(module, case, noise, threads, directions=directions)
    for name, value in results(module, case, noise, threads, False, directions).items():
        assert_same_bits(value, got[name])
    count = roundings("native", max(sum(case.cell.sizes[::2]) + 1, case.cell.sizes[1]))
    assert_within(got, *truth(case, noise, directions), count, case.x.dtype)


# ---- values ---------------------------------------------------------------------------------

SIZES = [  # I, H, P, lengths: around vectors and tiles, alone with and without the inputs hoisted
    (1, 1, None, (3, 1)),
    (5, 33, None, (4, 3, 3, 1)),
    (3, 16, 7, (5, 5)),
    (20, 70, None, (150,)),
    (7, 40, 35, (9, 6, 6, 6, 2, 2, 1)),
]


@pytest.mark.parametrize("name", CASES)
def test_options_of_every_size(native, dtype, name):
    for n, (inputs, H, P, lengths) in enumerate(SIZES):
        sizes = {"I": inputs, "H": H, "P": P, "lengths": lengths}
        case = option_case(options=CASES[name], dtype=dtype, reverse=bool(n % 2), **sizes)
        assert_right(native, case, draw_noise(case) if n % 3 == 2 else None)


TOGETHER = st.lists(st.sampled_from(sorted(OPTIONS)), min_size=1, max_size=5, unique=True)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    names=TOGETHER,
    fields=st.sampled_from([(), (), ("h",), ("zone_h",), ("h", "zone_c"), NOISE]),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=11),
    H=st.sampled_from([3, 8, 15, 17, 32, 41]),
    P=st.sampled_from([None, None, 1, 5, 19]),
    inputs=st.sampled_from([1, 4, 30]),
    run=st.sampled_from(["forward", "reverse", "both"]),
    threads=st.integers(1, 3),
)
def test_options_together(native, dtype, names, fields, lengths, H, P, inputs, run, threads):
    options: dict[str, Any] = {}
    for name in names:
        options |= OPTIONS[name]
    sizes = {"I": inputs, "H": H, "P": None if P == H else P}
    case = option_case(options=options, dtype=dtype, lengths=sorted(lengths)[::-1], **sizes)
    case = case._replace(reverse=run == "reverse")
    noise = draw_noise(case, fields) if fields else None
    assert_right(native, case, noise, threads, 2 if run == "both" else 1)


@pytest.mark.parametrize("field", NOISE)
def test_noise_of_a_plain_cell(native, dtype, field):
    """Training may draw noise for a cell without options: recurrent dropout alone has none."""
    case = make_case(I=4, H=21, lengths=(5, 4, 1), dtype=dtype)
    assert_right(native, case, draw_noise(case, (field,)))


@pytest.mark.parametrize("B, T, threads", [(1, 40, 1), (3, 5, 1), (6, 60, 2)])
def test_noise_of_one_direction_alone(native, B, T, threads):
    """The work space has room for the states that only the second direction's noise takes apart."""
    case = option_case(T, B, 5, 64, options={})
    cells = [dataclasses.replace(case.cell, reverse=r) for r in (False, True)]
    drawn = [Noise(zone_c=draw_noise(case).zone_c), draw_noise(case)]
    y = np.empty((len(case.x), 128))
    spare: dict[str, np.ndarray] = {}

    def record_and_back() -> list[np.ndarray]:
        h, c = (np.stack([state] * 2) for state in (case.h, case.c))
        stack = native.Stack(cells, 2, True, spare)
        tape = stack.record(case.x, case.batch_sizes, h, c, y, threads, 3, noise=drawn)
        dw = [cell.map(np.zeros_like) for cell in cells]
        stack.back(tape, np.ones_like(y), h.copy(), c.copy(), None, dw, threads)
        return [y.copy(), h, c, *(a for cell in dw for a in cell.arrays().values())]

    first = record_and_back()
    sizes = {name: spare[name].size - 64 for name in ("scratch", "back")}
    for name, size in sizes.items():
        spare[name] = np.full(size + size // 2, 255, np.uint8)
    guarded = {name: spare[name] for name in sizes}
    for got, expected in zip(record_and_back(), first, strict=True):
        assert_same_bits(got, expected)
    for name, memory in guarded.items():
        end = -memory.ctypes.data % 64 + sizes[name]
        assert (memory[end:] == 255).all(), name


def test_saved_of_a_plain_cell(native, dtype):
    case = make_case(I=4, H=21, lengths=(5, 4, 1), dtype=dtype)
    for directions in (1, 2):
        assert_right(native, case, directions=directions)


def test_a_value_that_stays_is_the_same_bits(native, dtype):
    """Where a mask of zoneout is 1, h and c are exactly what they were."""
    case = option_case(5, 4, 3, 19, options={}, dtype=dtype)
    ones = {n: np.ones((len(case.x), 19), dtype) for n in ("zone_h", "zone_c")}
    got = results(native, case, Noise(**ones))
    assert_same_bits(got["h"][0], case.h)
    assert_same_bits(got["c"][0], case.c)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["peephole", "tflite", "haste", "zoneout", "output=softplus"])
def test_nan_and_inf_stay_in_their_sequence(native, dtype, name, value):
    clean = option_case(options=CASES[name], I=5, H=19, lengths=[4] * 7, dtype=dtype)
    spoilt = clean._replace(x=clean.x.copy())
    spoilt.x[9, 2] = value  # of the sequence 2, at step 1
    for part, expected in results(native, clean, saved=False).items():
        got = results(native, spoilt, saved=False)[part]
        rows = got.reshape(-1, 7, got.shape[-1]), expected.reshape(-1, 7, got.shape[-1])
        others = [0, 1, 3, 4, 5, 6]
        assert_same_bits(rows[0][:, others], rows[1][:, others])
        assert part != "y" or not np.array_equal(rows[0][1:, 2], rows[1][1:, 2])


# ---- one answer -----------------------------------------------------------------------------


def some_rows(case: Case, noise: Noise, live: list[int]) -> tuple[Case, Noise]:
    """The case and its noise of some sequences, in this order, the longest first."""
    step, sequence = rows_of(np.arange(len(case.h)), case.batch_sizes)
    rows = [r for t in range(len(case.batch_sizes)) for n in live
            for r in np.flatnonzero((step == t) & (sequence == n))]  # fmt: skip
    sizes = [np.isin(sequence[step == t], live).sum() for t in range(len(case.batch_sizes))]
    part = case._replace(
        x=case.x[rows], h=case.h[live], c=case.c[live],
        batch_sizes=np.array([n for n in sizes if n], np.int64),
    )  # fmt: skip
    return part, Noise(noise.h[live], noise.zone_h[rows], noise.zone_c[rows])


@pytest.mark.parametrize("noisy", [False, True], ids=["expected", "drawn"])
@pytest.mark.parametrize("name", CASES)
def test_bits_do_not_depend_on_the_batch(native, dtype, name, noisy):
    """A sequence gives alone, where its inputs are hoisted, and among others the same bits."""
    lengths = (6, 6, 6, 5, 5, 4, 2, 2, 1)
    options = CASES[name]
    P = 21 if "proj_clip" in options else None
    for reverse in (False, True):
        case = option_case(options=options, I=5, H=37, P=P, lengths=lengths, dtype=dtype)
        case, noise = case._replace(reverse=reverse), draw_noise(case)
        whole = results(native, case, noise if noisy else None)
        _, sequence = rows_of(np.arange(len(case.h)), case.batch_sizes)
        for live in ([0], [8], [2, 1, 0], [3, 5, 6], list(range(1, 9))):
            part, own = some_rows(case, noise, live)
            got = results(native, part, own if noisy else None)
            for n, index in enumerate(live):
                _, own_sequence = rows_of(np.arange(len(live)), part.batch_sizes)
                for key in ("y", "g0", "c0"):
                    assert_same_bits(got[key][own_sequence == n], whole[key][sequence == index])
                for key in "hc":
                    assert_same_bits(got[key][:, n], whole[key][:, index])


@pytest.mark.parametrize("name", CASES)
def test_bits_do_not_depend_on_chunks(native, dtype, name):
    """Nor does it matter whether a chunk is one step, as in streams, or many."""
    T = 25
    for B, P in ((1, None), (3, 30)):
        case = option_case(T, B, 20, 41, options=CASES[name], P=P, dtype=dtype)
        whole = results(native, case, saved=False)
        for cuts in ([0, 1, 9], list(range(T))):
            state, pieces = {"h": case.h, "c": case.c}, []
            for begin, end in zip(cuts, [*cuts[1:], T], strict=True):
                chunk = case._replace(
                    x=case.x[begin * B : end * B], batch_sizes=case.batch_sizes[begin:end], **state
                )
                got = results(native, chunk, saved=False)
                pieces.append(got["y"])
                state = {"h": got["h"][0], "c": got["c"][0]}
            assert_same_bits(np.concatenate(pieces), whole["y"])
            for key in "hc":
                assert_same_bits(state[key], whole[key][0])


@pytest.mark.parametrize("B", [1, 3])
@pytest.mark.parametrize("name", ["peephole", "output=softplus", *list(CASES)[-3:]])
def test_bits_of_steps(native, dtype, name, B):
    """The step of a stream, which is a way of its own into C, gives what a run gives."""
    T, P = 7, 9 if "proj_clip" in CASES[name] else None
    case = option_case(T, B, 5, 20, options=CASES[name], P=P, dtype=dtype)
    whole, stack = results(native, case, saved=False), native.Stack([case.cell], 1)
    h, c = case.h[np.newaxis].copy(), case.c[np.newaxis].copy()
    step = stack.step(h, c, lambda: (stack, 1), pytest.fail)
    outputs = [step(x) for x in case.x.reshape(T, B, 5)]
    assert_same_bits(np.concatenate(outputs), whole["y"])
    assert_same_bits(h, whole["h"])
    assert_same_bits(c, whole["c"])


@pytest.mark.parametrize("name", ["peephole", "tflite", "haste", *list(CASES)[-3:]])
@pytest.mark.parametrize(
    "T, B, H, P, directions",
    [(40, 16, 70, None, 1), (9, 3, 200, None, 1), (9, 2, 200, 150, 1), (60, 2, 64, None, 2)],
    ids=["sequences", "units", "outputs", "directions"],
)
def test_bits_do_not_depend_on_threads(native, dtype, name, T, B, H, P, directions):
    """Threads share sequences, units of a step and then its rows and outputs, or directions."""
    case = option_case(T, B, 33, H, options=CASES[name], P=P, dtype=dtype)
    for noise in (None, draw_noise(case)):
        alone = results(native, case, noise, 1, directions=directions)
        for threads in (2, 3):
            shared = results(native, case, noise, threads, directions=directions)
            for key, value in alone.items():
                assert_same_bits(shared[key], value)


def digests() -> None:
    """Print a digest of every case's results on this instruction set."""
    found = {}
    for name, options in CASES.items():
        for dtype in ("float32", "float64"):
            parts = b""
            for inputs, H, P, lengths in SIZES:
                sizes = {"I": inputs, "H": H, "P": P, "lengths": lengths}
                case = option_case(options=options, dtype=dtype, **sizes)
                for noise in (None, draw_noise(case)):
                    parts += b"".join(map(bytes, results(load("native"), case, noise).values()))
            found[f"{name} {dtype}"] = hashlib.sha256(parts).hexdigest()
    print(json.dumps(found))


def test_bits_do_not_depend_on_the_instruction_set(native):
    if native.describe()["instruction_set"] != "avx512":
        pytest.skip("compares AVX2 with AVX-512")

    def on(isa: str) -> Any:
        path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", str(TESTS.parent))])
        environment = os.environ | {"FASTLSTM_ISA": isa, "PYTHONPATH": path}
        command = [sys.executable, "-c", "import test_options_native as t; t.digests()"]
        return json.loads(subprocess.check_output(command, env=environment, text=True))

    assert on("avx512") == on("avx2")


# ---- functions ------------------------------------------------------------------------------


def output_of(module: Any, function: Activation, x: np.ndarray) -> np.ndarray:
    """The function at each number, as `output` of a cell whose gates are 1 and whose g is 0."""
    one = np.ones((), x.dtype)
    weights = {"w_ih": np.zeros((4, 1)), "w_hh": np.zeros((4, 1)), "b": np.zeros(4)}
    arrays = {name: (a * one).astype(x.dtype) for name, a in weights.items()}
    options = Options(gate=Activation("affine", 0, 1), output=function)
    stack, c = module.Stack([Cell(**arrays, options=options)], 1), x.reshape(1, -1, 1).copy()
    y, nothing = np.full((len(x), 1), np.nan, x.dtype), np.zeros((len(x), 1), x.dtype)
    stack.run(nothing, np.array([len(x)]), np.zeros_like(c), c, y, 1)
    return y[:, 0]


def softplus(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def wide(function: Activation, x: np.ndarray) -> np.ndarray:
    """The function's values in the widest numbers, with parameters of the numbers' own type."""
    alpha, beta = (np.longdouble(x.dtype.type(a)) for a in function[1:])
    kind, x = function.name, x.astype(np.longdouble)
    values = {
        "sigmoid": lambda: sigmoid(x), "tanh": lambda: tanh(x), "relu": lambda: np.maximum(x, 0),
        "affine": lambda: alpha * x + beta, "leaky_relu": lambda: np.where(x < 0, alpha * x, x),
        "thresholded_relu": lambda: np.where(x <= alpha, 0, x),
        "scaled_tanh": lambda: alpha * np.tanh(beta * x),
        "hard_sigmoid": lambda: np.clip(alpha * x + beta, 0, 1),
        "elu": lambda: np.where(x < 0, alpha * np.expm1(x), x),
        "softsign": lambda: x / (1 + np.abs(x)), "softplus": lambda: softplus(x),
    }  # fmt: skip
    return values[kind]()


# In roundings, as RELATIVE is: those of a sigmoid or tanh, and one for each product or sum that
# follows. Of e^x - 1: e^r - 1 has 2, and where it takes most off, at n = -1, they count twice. Of
# softplus: e^-|x| has 2, the quotient 2, the last sums 2. Found are 2.7 and 3.7. The 0.2 are those
# of the widest numbers.
BOUND = {
    "relu": 0, "affine": 1.2, "leaky_relu": 1, "thresholded_relu": 0, "hard_sigmoid": 1.2,
    "softsign": 2, "elu": 5, "softplus": 6, "sigmoid": RELATIVE["native"],
    "tanh": RELATIVE["native"], "scaled_tanh": RELATIVE["native"] + 2,
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(native, dtype, name):
    """Each function is right over all numbers, where its values are small too."""
    function, x = FUNCTIONS[name], numbers(dtype)
    got, expected = output_of(native, function, x), wide(function, x)
    kind, size = np.finfo(dtype), np.abs(expected)
    # What is on the way to the smallest results, and to the largest, may leave the normal numbers,
    # and where alpha x + beta vanishes, the widest numbers are not wide enough. Without FMA the
    # product is rounded too; it is less than 3 times as large as results above 1/4.
    least, bound = 4 * kind.tiny, BOUND[name]
    if name in ("affine", "hard_sigmoid"):
        fused = native.describe()["instruction_set"] != "baseline"
        least, bound = (2**-8, bound) if fused else (2**-2, 1 + 3)
    inside = (size >= least) & (size <= kind.max / 4)
    assert_relative(got[inside], expected[inside], bound + 1e-9)
    assert (np.abs(got[size < 4 * kind.tiny]) <= 5 * kind.tiny).all()
    far = np.array([-FAR[dtype], FAR[dtype]], dtype)
    np.testing.assert_allclose(
        output_of(native, function, far), wide(function, far).astype(dtype), rtol=1e-6, atol=1e-30
    )


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_nan_and_infinity(native, dtype, name):
    x = np.array([np.nan, np.inf, -np.inf, 0, 1], dtype)
    got, expected = output_of(native, FUNCTIONS[name], x), _numpy.activate(FUNCTIONS[name], x)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
