"""What training draws at random for an LSTM: the masks of input and recurrent dropout, of zoneout.

A mask that is one for all steps belongs to one of the caller's sequences, so that pieces between
resets share it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..engines.contract import Noise
from ..sequences.packing import rows_of
from .dropout import dropout_mask

if TYPE_CHECKING:
    from ..arrays import Floats
    from ..sequences.batch import Batch


def input_factors(rng: np.random.Generator, x: Floats, p: float, batch: Batch) -> Floats:
    """Return factors for packed rows x (N, I): the same ones in all steps of a sequence."""
    factors = dropout_mask(np.empty((batch.size, x.shape[1]), x.dtype), p, rng)
    _, sequence = rows_of(batch.sequences, batch.batch_sizes)
    rows: Floats = factors[sequence]
    return rows


def draw_noise(
    rng: np.random.Generator,
    sizes: tuple[int, int],
    dtype: np.dtype[np.floating],
    recurrent_dropout: float,
    zoneout: tuple[float, float],
    batch: Batch,
) -> Noise:
    """Draw the noise of one direction of a layer; `sizes` are P and H."""
    factors = None
    if recurrent_dropout:
        drawn = dropout_mask(np.empty((batch.size, sizes[0]), dtype), recurrent_dropout, rng)
        factors = drawn[batch.sequences]
    zones = (
        zone(rng, (len(batch.x), size), dtype, p) for size, p in zip(sizes, zoneout, strict=True)
    )
    return Noise(factors, *zones)


def zone(
    rng: np.random.Generator, shape: tuple[int, int], dtype: np.dtype[np.floating], p: float
) -> Floats | None:
    """Draw a mask of zoneout, 1 with probability p and 0 otherwise; None if p is 0."""
    return (rng.random(shape, dtype.type) < p).astype(dtype) if p else None
