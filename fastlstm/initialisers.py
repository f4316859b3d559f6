"""Rules by which parameters are drawn."""

from __future__ import annotations

import math

import numpy as np


def uniform(rng, shape, bound, dtype):
    """U(-bound, bound): torch's rule for its recurrent and linear layers."""
    values = rng.random(shape, dtype)
    values *= 2 * bound
    values -= bound
    return values


def glorot(rng, shape, dtype):
    """U(-a, a), a = sqrt(6 / (fan in + fan out)) of the whole matrix (Glorot & Bengio 2010)."""
    return uniform(rng, shape, math.sqrt(6 / sum(shape)), dtype)


def orthogonal(rng, shape):
    """Orthonormal columns or rows, whichever are fewer (Saxe, McClelland & Ganguli 2014)."""
    tall = max(shape), min(shape)
    q, r = np.linalg.qr(rng.standard_normal(tall))
    q *= np.sign(np.diag(r))  # without this q is not uniformly distributed
    return q if tuple(shape) == tall else q.T
