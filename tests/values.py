"""Values for tests: random numbers, shapes, the arrays in results, arrays that were in a file."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


def normal(*shape: int, seed: int = 0, dtype: DTypeLike = "float32") -> NDArray[Any]:
    """Draw from N(0, 1): always the same values for the same shape and seed."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def make_series(T: int, F: int, seed: int = 0) -> NDArray[np.float64]:
    """Draw a series of T steps and F columns; series of other sizes have other values."""
    return np.random.default_rng([seed, T, F]).standard_normal((T, F))


def lstm_shapes(inputs: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """Return the parameters' shapes of an LSTM of one layer, as torch lists them."""
    return {
        "weight_ih_l0": (4 * hidden, inputs),
        "weight_hh_l0": (4 * hidden, hidden),
        "bias_ih_l0": (4 * hidden,),
        "bias_hh_l0": (4 * hidden,),
    }


def arrays_in(nested: Any) -> Iterator[NDArray[Any]]:
    """Yield the arrays in tuples of tuples; a None among them is left out."""
    if isinstance(nested, tuple):
        for part in nested:
            yield from arrays_in(part)
    elif nested is not None:
        yield nested


def through_a_file(state: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Write arrays to a file, as a checkpoint does, and return what is read back."""
    file = io.BytesIO()
    np.savez(file, **state)
    file.seek(0)
    with np.load(file) as arrays:
        return dict(arrays)


# Arguments of `fastlstm.LSTM`: every combination of layers, directions, projection and layout.
LSTM_OPTIONS = [
    dict(zip(("num_layers", "bidirectional", "proj_size", "batch_first"), values, strict=True))
    for values in itertools.product((1, 3), (False, True), (0, 2), (False, True))
]
