"""One layer in one direction as test data, and the comparison that every engine must pass."""

import functools
from typing import NamedTuple

import numpy as np

from fastlstm.engines import _numpy
from fastlstm.packing import batch_sizes_of

# Roundings of one value outside its sum, in units of u = eps / 2, beside the engine's name. NumPy's
# own sigmoid and tanh are taken as within 3 u, an engine's as within 5 u (float32: 3e-7, which
# test_engines.py proves); there are four of them on the way to h, and five products and sums.
ROUNDINGS = {"numpy": 4 * 3 + 5, "numba": 4 * 5 + 5}

# Over how many steps an error is carried on at its full size. A step passes h's error on through the
# gates' slopes (1/4 at most) and c's through f < 1: with f near 1/2, as in these cases, errors of
# equal size at every step add up to no more than 1 + 1/2 + 1/4 + ... = 2 of them in c, and c's and
# h's feed each other once more.
MEMORY = 4


def tolerance(engine, dtype, terms, magnitude):
    """Return the rtol and atol that `engine` must keep against the same computation in exact numbers.

    `terms` is the length I + P + 1 of the sum z, `magnitude` the greatest sum of |terms| in it. A sum
    of n terms in any order, fused or not, errs by at most lambda sqrt(n) u sum|terms| but for a
    chance of 2 n exp(-lambda^2 / 2) (Higham & Mary 2019, theorem 3.1); lambda = 5. The slopes of the
    gates never make that larger. Relative to values above 1, as c may be, the five products and sums
    of a step count alone.
    """
    u = np.finfo(dtype).eps / 2
    atol = MEMORY * u * (5 * np.sqrt(terms) * magnitude + ROUNDINGS[engine])
    return {"rtol": MEMORY * 5 * u, "atol": atol}


class Case(NamedTuple):
    """What `run` and `pack` of an engine take; `w_hr` may be None."""

    w_ih: np.ndarray
    w_hh: np.ndarray
    b: np.ndarray
    w_hr: np.ndarray | None
    x: np.ndarray
    batch_sizes: np.ndarray
    h: np.ndarray
    c: np.ndarray
    reverse: bool

    @property
    def magnitude(self):
        """The greatest sum of |terms| in z: |W_ih| |x| + |W_hh| |h| + |b|."""
        largest_h = max(1, self._largest(self.h))
        x = np.abs(self.w_ih) @ np.full(self.w_ih.shape[1], self._largest(self.x))
        h = np.abs(self.w_hh).sum(axis=1) * largest_h
        return float((x + h + np.abs(self.b)).max())

    @property
    def terms(self):
        return self.w_ih.shape[1] + self.w_hh.shape[1] + 1

    @staticmethod
    def _largest(values):
        return np.abs(values[np.isfinite(values)]).max(initial=0)


def make_case(
    T=4, B=3, I=3, H=5, P=None, lengths=None, reverse=False, dtype="float64", gain=1.0, seed=0
):  # fmt: skip
    """Draw weights as torch does, times `gain`, and N(0, 1) inputs and states that are never 0.

    With `lengths` (longest first, T and B are ignored then) the sequences are ragged; P makes a
    projection.
    """
    rng = np.random.default_rng([seed, T, B, I, H])
    lengths = np.full(B, T) if lengths is None else np.asarray(lengths)
    bound = gain / np.sqrt(H)
    arrays = {
        "w_ih": rng.uniform(-bound, bound, (4 * H, I)),
        "w_hh": rng.uniform(-bound, bound, (4 * H, P or H)),
        "b": rng.uniform(-bound, bound, 4 * H),
        "w_hr": rng.uniform(-bound, bound, (P, H)) if P else None,
        "x": rng.standard_normal((lengths.sum(), I)),
        "h": rng.standard_normal((len(lengths), P or H)) / 2,
        "c": rng.standard_normal((len(lengths), H)),
    }
    arrays = {name: a if a is None else a.astype(dtype) for name, a in arrays.items()}
    return Case(**arrays, batch_sizes=batch_sizes_of(lengths), reverse=reverse)


def run(module, case, weights=None):
    """Run an engine's module over a case; return all that it must fill: y, h and c."""
    weights = module.pack(*case[:4]) if weights is None else weights
    filled = {
        "y": np.full((len(case.x), case.h.shape[1]), np.nan, case.x.dtype),
        "h": case.h.copy(),
        "c": case.c.copy(),
    }
    module.run(
        weights, case.x, case.batch_sizes, filled["h"], filled["c"], filled["y"], case.reverse
    )
    return filled


def truth(case):
    """`_numpy` in float64 over the very numbers of the case."""
    doubled = [a.astype(np.float64) if a is not None else None for a in case[:5]]
    state = case.h.astype(np.float64), case.c.astype(np.float64)
    return run(_numpy, Case(*doubled, case.batch_sizes, *state, case.reverse))


def assert_matches(module, case, engine):
    """Assert that every buffer which `module` fills holds the truth, within `engine`'s tolerance."""
    bound = tolerance(engine, case.x.dtype, case.terms, case.magnitude)
    expected = truth(case)
    for name, got in run(module, case).items():
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


# Shapes (T, B, I, H), odd ones first: around the sizes of register tiles and vectors.
SHAPES = {
    "odd": (7, 3, 5, 11),
    "one": (1, 1, 1, 1),
    **{f"hidden{H}": (3, 5, 4, H) for H in (1, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65)},
    **{f"batch{B}": (3, B, 4, 10) for B in (*range(1, 15), 30, 31, 32, 33)},
    **{f"input{I}": (3, 2, I, 9) for I in (1, 2, 3, 15, 16, 17, 18, 40)},
    "long": (512, 2, 3, 8),
    "wide": (4, 33, 64, 96),
}


@functools.cache
def torch_layer(kind, *args, seed=0, **options):
    """A layer of torch.nn, with the parameters that torch draws from `seed`."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return getattr(torch.nn, kind)(*args, **options)
