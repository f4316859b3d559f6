"""Rules by which the first values of parameters are drawn at random."""

from __future__ import annotations

import math
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


def glorot(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Draw from U(-a, a) with a = sqrt(6 / (rows + columns)) (Glorot & Bengio 2010)."""
    return uniform(rng, shape, math.sqrt(6 / sum(shape)), dtype)


def orthogonal(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[Any]:
    """Draw a matrix whose columns or rows, whichever are fewer, are orthonormal.

    Source: Saxe, McClelland & Ganguli 2014.
    """
    tall = max(shape), min(shape)
    q, r = np.linalg.qr(rng.standard_normal(tall))
    q *= np.sign(np.diag(r))  # without this q is not uniformly distributed
    return q if tuple(shape) == tall else q.T
