"""Rules by which the first values of parameters are drawn at random."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def uniform(
    rng: np.random.Generator, shape: tuple[int, ...], bound: float, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Draw from U(-bound, bound), which is torch's rule for recurrent and linear layers."""
    values: NDArray[Any] = rng.random(shape, dtype)
    values *= 2 * bound
    values -= bound
    return values


def normal(
    rng: np.random.Generator, shape: tuple[int, ...], deviation: float, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Draw from a normal distribution about 0 with this standard deviation."""
    values: NDArray[Any] = rng.standard_normal(shape, dtype)
    values *= deviation
    return values


def glorot(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Draw from U(-a, a) with a = sqrt(6 / (rows + columns)) (Glorot & Bengio 2010)."""
    return uniform(rng, shape, math.sqrt(6 / sum(shape)), dtype)


def he(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Draw from a normal distribution with the variance 2 / columns (He et al. 2015)."""
    return normal(rng, shape, math.sqrt(2 / shape[-1]), dtype)


def orthogonal(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[Any]:
    """Draw a matrix whose columns or rows, whichever are fewer, are orthonormal.

    Source: Saxe, McClelland & Ganguli 2014.
    """
    tall = max(shape), min(shape)
    q, r = np.linalg.qr(rng.standard_normal(tall))
    q *= np.sign(np.diag(r))  # without this q is not uniformly distributed
    return q if tuple(shape) == tall else q.T


MATRIX_RULES = "uniform", "glorot", "he", "orthogonal", "narrow_normal", "zeros", "ones"
"""The names of the rules by which `draw` makes a matrix."""


def draw(
    rule: str,
    rng: np.random.Generator,
    shape: tuple[int, ...],
    bound: float,
    dtype: np.dtype[Any],
) -> NDArray[Any]:
    """Draw an array by the name of a rule; `bound` is that of "uniform".

    The others are those of MATLAB's lstmLayer. It takes the whole matrix of all gates, (4H, I) or
    (4H, H), for "glorot" and "orthogonal", and its number of columns for "he": so do MATLAB's
    functions initializeGlorot(sz, 4H, I), initializeHe and initializeOrthogonal, which its help on
    custom training loops prints.
    """
    rules: dict[str, Callable[[], NDArray[Any]]] = {
        "uniform": lambda: uniform(rng, shape, bound, dtype),
        "glorot": lambda: glorot(rng, shape, dtype),
        "he": lambda: he(rng, shape, dtype),
        "orthogonal": lambda: orthogonal(rng, shape),
        "narrow_normal": lambda: normal(rng, shape, 0.01, dtype),
        "zeros": lambda: np.zeros(shape, dtype),
        "ones": lambda: np.ones(shape, dtype),
    }
    return rules[rule]()
