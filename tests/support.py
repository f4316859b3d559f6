"""Cells and stacks as test data, and the comparison that every engine must pass.

Engines are driven as layers drive them, through `Stack` alone.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from fastlstm.cli.table import Table, read_tables
from fastlstm.engines import _numpy, load
from fastlstm.engines.contract import PLAIN, Activation, Cell, Noise, Options
from fastlstm.sequences.packing import batch_sizes_of

# How far one sigmoid or tanh is from the truth, in units of u = eps / 2, beside the engine's name:
# NumPy's own are taken as within 2 u, the vectorised ones as within 5 u (3e-7 in float32), which
# test_engines.py proves.
ACTIVATION = {"numpy": 2, "numba": 5, "native": 5}

# How much larger than one step's error the sum of all steps' errors gets. c passes its error on
# through f, near 1/2 in these cases: 1 + 1/2 + 1/4 + ... = 2.
MEMORY = 2


def tolerance(engine, dtype, terms, magnitude):
    """Return the rtol and atol that `engine` must keep against the same equations in exact numbers.

    `terms` is the length n = I + P + 1 of the sum z, `magnitude` the greatest 2-norm of its terms.
    Partial sums grow like that norm; each is rounded, in any order, fused or not, by u / 2 of its
    size in the mean (root of squares), independently (Higham & Mary 2019): u / 2 sqrt(n) magnitude
    for the whole, of which we allow six. On the way to h come four activations, and five products
    and sums of values up to 1; the latter alone count relative to a larger c.
    """
    u = float(np.finfo(dtype).eps) / 2
    z = 6 / 2 * np.sqrt(terms) * magnitude
    return {"rtol": MEMORY * 5 * u, "atol": MEMORY * (z + 4 * ACTIVATION[engine] + 5) * u}


class Case(NamedTuple):
    """A cell and what it runs over; with `reverse`, it is the second direction of a stack."""

    cell: Cell
    x: np.ndarray
    batch_sizes: np.ndarray
    h: np.ndarray
    c: np.ndarray
    reverse: bool

    def with_cell(self, **arrays):
        """The case with other arrays in its cell."""
        return self._replace(cell=dataclasses.replace(self.cell, **arrays))

    def astype(self, dtype):
        """The very numbers of this case in another type."""
        values = {name: getattr(self, name).astype(dtype) for name in ("x", "h", "c")}
        return self._replace(cell=self.cell.map(lambda a: a.astype(dtype)), **values)

    def tolerance(self, engine):
        """The `tolerance` of this case; |h| is 1 at most; a projection's sum counts with z's."""
        cell = self.cell
        arrays = self.x, cell.w_ih, cell.w_hh, cell.b
        x, w_ih, w_hh, b = (np.where(np.isfinite(a), a, 0) ** 2 for a in arrays)
        squares = x @ w_ih.T + w_hh.sum(1) + b
        terms = cell.w_ih.shape[1] + cell.w_hh.shape[1] + 1
        if cell.w_hr is not None:
            terms += cell.w_hr.shape[1]
        return tolerance(engine, self.x.dtype, terms, np.sqrt(squares.max()))


def make_case(
    T=4,
    B=3,
    I=3,  # noqa: E741 (the legend's name)
    H=5,
    P=None,
    lengths=None,
    reverse=False,
    dtype="float64",
    gain=1.0,
    seed=0,
):
    """Draw weights as torch does, N(0, `gain`) inputs, and initial states that are not 0.

    With `lengths` (longest first, T and B are ignored then) the sequences are ragged; P makes a
    projection.
    """
    rng = np.random.default_rng([seed, T, B, I, H])
    lengths = np.full(B, T) if lengths is None else np.asarray(lengths)
    bound = 1 / np.sqrt(H)
    cell = Cell(
        w_ih=rng.uniform(-bound, bound, (4 * H, I)),
        w_hh=rng.uniform(-bound, bound, (4 * H, P or H)),
        b=rng.uniform(-bound, bound, 4 * H),
        w_hr=rng.uniform(-bound, bound, (P, H)) if P else None,
    )
    x = rng.standard_normal((lengths.sum(), I)) * gain
    h, c = rng.uniform(-1, 1, (len(lengths), P or H)), rng.standard_normal((len(lengths), H))
    return Case(cell, x, batch_sizes_of(lengths), h, c, reverse).astype(dtype)


# Functions with parameters that are not the defaults.
FUNCTIONS = {
    "sigmoid": Activation("sigmoid"),
    "tanh": Activation("tanh"),
    "relu": Activation("relu"),
    "affine": Activation("affine", 0.7, 0.2),
    "leaky_relu": Activation("leaky_relu", 0.3),
    "thresholded_relu": Activation("thresholded_relu", 0.15),
    "scaled_tanh": Activation("scaled_tanh", 1.3, 0.6),
    "hard_sigmoid": Activation("hard_sigmoid", 0.35, 0.45),
    "elu": Activation("elu", 0.8),
    "softsign": Activation("softsign"),
    "softplus": Activation("softplus"),
}
PARAMETERS = {"affine": 2, "scaled_tanh": 2, "hard_sigmoid": 2, "leaky_relu": 1, "elu": 1,
              "thresholded_relu": 1}  # fmt: skip


def argument_of(function):
    """The argument of a layer that means this function: its name, or a tuple with parameters."""
    count = PARAMETERS.get(function.name, 0)
    return function[: 1 + count] if count else function.name


def with_options(cell, /, peephole=False, **options):
    """The cell with some options, and with the arrays that these take beside its own."""
    options = Options(**options)
    rng, H = np.random.default_rng(cell.w_ih.shape), len(cell.b) // 4

    def drawn(names, size, mean=0.0):
        return {n: (mean + rng.uniform(-0.5, 0.5, size)).astype(cell.dtype) for n in names}

    arrays = {name: array.copy() for name, array in cell.arrays().items()}
    if peephole:
        arrays |= drawn(("w_ci", "w_cf", "w_co"), H)
    if options.layer_norm == "tflite":
        arrays |= drawn(("ln",), 4 * H, 1)
    if options.layer_norm == "haste":
        arrays |= drawn(("ln_ih", "ln_hh"), 4 * H, 1) | drawn(("ln_c",), H, 1) | drawn(("b_c",), H)
    gone = {"f=1-i": 1, "i=1-f": 0}.get(options.coupled)
    for name, array in arrays.items():
        if gone is not None and len(array) == 4 * H and name != "w_hr":
            array[gone * H : (gone + 1) * H] = 0
    if peephole and gone is not None:
        arrays[("w_ci", "w_cf")[gone]][:] = 0
    return dataclasses.replace(cell, options=options, **arrays)


GUARD = 12345.0


class Guarded:
    """An array with guard words before it, behind it and, `gap` of them, behind every row."""

    def __init__(self, values, gap=0):
        (rows, columns), margin = values.shape, 64
        self.room = np.full(2 * margin + rows * (columns + gap), GUARD, values.dtype)
        inside = self.room[margin:-margin].reshape(rows, columns + gap)
        self.array = inside[:, :columns]
        self.array[...] = values

    def check(self, name):
        """Assert that no guard word was written."""
        values, self.array[...] = self.array.copy(), GUARD
        written = np.flatnonzero(self.room != GUARD)
        self.array[...] = values
        assert not written.size, f"written outside of {name}: {written}"


def stack_of(module, case, back=False):
    """The stack that `run` runs: with `reverse`, the cell is both its directions."""
    directions = 1 + case.reverse
    cells = [dataclasses.replace(case.cell, reverse=k == 1) for k in range(directions)]
    return module.Stack(cells, directions, back)


def run(module, case, gap=0, stack=None, method="run"):
    """Run a case on an engine; return what it must fill for the case's cell: y, h and c.

    With `reverse`, they are those of the second direction. Rows of x and y lie `gap` values apart.
    Nothing else may be written: neither x nor a value outside of the three. `stack` is one that was
    packed before; `method` may be "record".
    """
    directions, P = 1 + case.reverse, case.h.shape[1]
    stack = stack or stack_of(module, case, back=method == "record")
    nothing = np.full((len(case.x), directions * P), np.nan, case.x.dtype)
    x, y = Guarded(case.x, gap), Guarded(nothing, gap)
    h, c = (Guarded(np.concatenate([state] * directions)) for state in (case.h, case.c))
    states = [state.array.reshape(directions, len(case.h), -1) for state in (h, c)]
    getattr(stack, method)(x.array, case.batch_sizes, *states, y.array, 1)
    assert x.array.tobytes() == case.x.tobytes(), "x was written"
    for name, buffer in {"x": x, "y": y, "h": h, "c": c}.items():
        buffer.check(name)
    return {"y": y.array[:, -P:], "h": states[0][-1], "c": states[1][-1]}


def truth(case):
    """`_numpy` in float64 over the very numbers of the case."""
    return run(_numpy, case.astype(np.float64))


def assert_matches(module, case, engine, gap=0):
    """Assert that each buffer which `module` fills holds the truth, in `engine`'s tolerance."""
    bound, expected = case.tolerance(engine), truth(case)
    for name, got in run(module, case, gap).items():
        assert got.dtype == case.x.dtype
        np.testing.assert_allclose(got, expected[name], **bound, err_msg=name)


def assert_same_bits(got, expected):
    """Assert equality bit for bit, the sign of zero and the payload of nan included."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    assert got.tobytes() == expected.tobytes(), (
        f"{np.sum(got != expected)} of {got.size} values differ, by at most "
        f"{np.abs(got - expected).max(initial=0)}"
    )


class Work(NamedTuple):
    """A stack and its sequences, longest first; `x` and `w` scale inputs and their weights.

    With `noise` a run gets masks of every kind, with `dcells` the way back gets gradients of the
    cells.
    """

    lengths: tuple
    I: int
    H: int
    P: int | None = None
    layers: int = 1
    directions: int = 1
    dtype: str = "float32"
    x: float = 1
    w: float = 1
    options: Options = PLAIN
    peephole: bool = False
    noise: bool = False
    dcells: bool = False


# Each above 1e8 floating-point operations, so that threads are worth it.
WORKS = {
    "slices": Work((60,) * 64, 32, 96),
    "slices_narrow": Work((330,) * 64, 32, 16),
    "slices_double": Work((60,) * 33, 33, 96, dtype="float64"),
    "slices_stack": Work((20,) * 64, 40, 65, 33, layers=3, directions=2),
    "one_long": Work((200, *(100,) * 20), 64, 64),
    "one_long_reverse": Work((200, *(100,) * 20), 64, 64, directions=2),
    "cliff": Work((300, 299, 298, *(50,) * 10), 64, 80, directions=2),
    "stairs": Work((*range(200, 150, -1),), 32, 40),
    "stairs_reverse": Work((*range(200, 150, -1),), 32, 40, 20, layers=2, directions=2),
    "few": Work((60,) * 7, 300, 150),
    "directions": Work((100,), 100, 130, layers=3, directions=2),
    "directions_ragged": Work((70, 61, 61, 60, 33, 2, 1), 64, 100, 40, directions=2),
    "units": Work((250,), 16, 256),
    "units_reverse": Work((250,), 33, 257, directions=2),
    "units_of_two": Work((90, 61), 16, 300, layers=2),
    "units_projected": Work((120,), 300, 300, 290),
    "units_joining": Work((90, 61, 61, 30, 5, 1), 64, 300, 290, directions=2),
    "units_leaving": Work((90, 61, 61, 30, 5, 1), 64, 300, 290, layers=3),
    "units_double": Work((120,), 130, 200, layers=2, dtype="float64"),
    "denormal": Work((60,) * 64, 32, 96, x=1e-41, w=1e37),
    "denormal_double": Work((100,), 100, 130, directions=2, dtype="float64", x=1e-311, w=1e306),
    "denormal_units": Work((250,), 16, 256, x=1e-41, w=1e37),
    "saturated": Work((60,) * 7, 300, 150, x=1e3),
    "huge": Work((250,), 16, 256, x=1e30, w=1e-30),
}

SMALL = {
    "small": Work((9, 5, 5, 1), 7, 21, 10, layers=2, directions=2),
    "small_alone": Work((6,), 40, 50),
    "small_double": Work((4, 4, 4, 1), 9, 19, directions=2, dtype="float64"),
}


def draw(work):
    """(cells, x, h, c) of a work; the states hold denormals too, unless there are options.

    Kernels may take a denormal for 0, where some functions have a kink.
    """
    rng = np.random.default_rng([len(work.lengths), work.I, work.H])
    P, bound = work.P or work.H, 1 / np.sqrt(work.H)

    def uniform(*shape, scale=bound):
        return (rng.uniform(-1, 1, shape) * scale).astype(work.dtype)

    drawn = []
    for layer in range(work.layers):
        wide, scale = (work.directions * P, 1) if layer else (work.I, work.w)
        for k in range(work.directions):
            w_hr = uniform(P, work.H) if work.P else None
            w_ih = uniform(4 * work.H, wide, scale=bound * scale)
            w_hh, b = uniform(4 * work.H, P), uniform(4 * work.H)
            cell = Cell(w_ih, w_hh, b, w_hr, reverse=k == 1)
            drawn.append(with_options(cell, work.peephole, **vars(work.options)))
    rows = len(work.lengths)
    h = uniform(len(drawn), rows, P, scale=1)
    c = uniform(len(drawn), rows, work.H, scale=2)
    if work.options == PLAIN:
        c[..., ::5] *= np.finfo(work.dtype).smallest_normal
    x = rng.standard_normal((sum(work.lengths), work.I)) * work.x
    return drawn, x.astype(work.dtype), h, c


def noise_of(work):
    """The noise of each direction, or None."""
    if not work.noise:
        return None
    rng, P = np.random.default_rng(5), work.P or work.H
    rows = sum(work.lengths)

    def masks(*shape):
        return rng.integers(0, 2, shape).astype(work.dtype)

    return [
        Noise(1.5 * masks(len(work.lengths), P), masks(rows, P), masks(rows, work.H))
        for _ in range(work.directions)
    ]


def ready(work):
    """A function of `threads` that runs the work on the native engine and returns y, h and c.

    It writes nothing else.
    """
    cells, x, h, c = draw(work)
    stack = load("native").Stack(cells, work.directions)
    sizes = batch_sizes_of(np.array(work.lengths))
    nothing = np.full((len(x), work.directions * h.shape[2]), np.nan, work.dtype)

    def run(threads=1):
        values = {"y": nothing, "h": h.reshape(-1, h.shape[2]), "c": c.reshape(-1, c.shape[2])}
        buffers = {name: Guarded(value) for name, value in values.items()}
        results = {name: buffer.array for name, buffer in buffers.items()}
        given, own_h, own_c = x.copy(), results["h"].reshape(h.shape), results["c"].reshape(c.shape)
        stack.run(given, sizes, own_h, own_c, results["y"], threads)
        assert_same_bits(given, x)
        for name, buffer in buffers.items():
            buffer.check(name)
        return results

    return run


def answer(work, threads=1):
    return ready(work)(threads)


def assert_same_answers(got, expected):
    """Assert that all that a work gives is finite, and the same bit for bit."""
    for name, values in expected.items():
        assert np.isfinite(values).all(), name
        assert_same_bits(got[name], values)


# ---- tables ---------------------------------------------------------------------------------


def read_table(path, columns: list[str], **options: str) -> Table:
    """The columns of these names as one series without missing values."""
    (table,) = read_tables(path, columns, **options)
    table.check()
    return table
