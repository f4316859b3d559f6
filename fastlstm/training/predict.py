"""`predict`: run a model over data, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arrays import as_array
from ..checks import check_size
from ..layers import Layer
from .batches import Batches
from .datasets import Arrays, Data, Sequences
from .view import SamplesFirst, mode


def predict(
    model: Layer, data: ArrayLike | Data | Sequence[ArrayLike], batch_size: int = 256
) -> NDArray[Any] | Any:
    """Run a model over data, batch by batch, in evaluation mode.

    Parameters
    ----------
    model : Layer
        An LSTM or a Sequential, `batch_first` or not.
    data : array, data set, (x, y), or list of sequences
        Samples first, as for `fit`. An array is x alone. A list holds arrays (T_i, F), or tokens
        (T_i,): see `Sequences`.
    batch_size : int
        The number of samples in one run. With engine native the values do not depend on it.

    Returns
    -------
    ndarray of shape (N, ...)
        Samples first, in the order of the data: (N, T, F), or (N, F) after a `Last`. For ragged
        data with a value at every step it is a list of N arrays (T_i, F).

    Raises
    ------
    ValueError, TypeError
        If the data do not fit the model.

    Notes
    -----
    Afterwards each layer is in training or evaluation mode as before.

    Examples
    --------
    >>> model = fastlstm.Sequential(fastlstm.LSTM(1, 4), fastlstm.Last(), fastlstm.Linear(4, 2))
    >>> fastlstm.training.predict(model, np.zeros((1000, 7, 1), np.float32)).shape
    (1000, 2)
    >>> fastlstm.training.predict(model, [np.zeros((3, 1)), np.zeros((1, 1))]).shape
    (2, 2)
    """
    check_size("batch_size", batch_size)
    view = SamplesFirst(model)
    dataset: Any = data
    if isinstance(data, list):
        dataset = Sequences(data, dtype=model.dtype)
    elif hasattr(data, "__array__"):
        x = as_array(data, "data")
        dataset = Arrays(x, np.zeros(len(x)))
    batches, outputs, is_ragged = Batches(dataset, batch_size, shuffle=False), [], False
    with mode(model, training=False):
        for batch in batches.epoch(0):
            y = view(batch)
            if view.gives_steps and batch.lengths is not None:
                is_ragged = True
                outputs += [row[:n] for row, n in zip(y, batch.lengths, strict=True)]
            else:
                outputs.append(y)
    return outputs if is_ragged else np.concatenate(outputs)
