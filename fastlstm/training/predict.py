"""`predict`: a model over data, batch by batch."""

import numpy as np

from ..arrays import as_array
from ..checks import check_size
from .batches import Batches
from .datasets import Arrays, Sequences
from .view import SamplesFirst, mode


def predict(model, data, batch_size=256):
    """Run a model over data, batch by batch, in evaluation mode.

    Parameters
    ----------
    model : Layer
        An LSTM or a Sequential, `batch_first` or not.
    data : array, data set, (x, y), or list of sequences
        Samples first, as for `fit`; an array is x alone. A list is one of arrays (T_i, F), or of
        tokens (T_i,): see `Sequences`.
    batch_size : int
        Samples in one run; with engine native the values do not depend on it.

    Returns
    -------
    ndarray of shape (N, ...)
        Samples first, in the order of the data: (N, T, F), or (N, F) behind a `Last`. Of ragged
        data with a value for every step a list of N arrays (T_i, F).

    Raises
    ------
    ValueError, TypeError
        If the data do not fit the model.

    Notes
    -----
    Each layer is in training or evaluation mode as before, afterwards.

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
    if isinstance(data, list):
        data = Sequences(data, dtype=model.dtype)
    if hasattr(data, "__array__"):
        x = as_array(data, "data")
        data = Arrays(x, np.zeros(len(x)))
    batches, ys, ragged = Batches(data, batch_size, shuffle=False), [], False
    with mode(model, training=False):
        for batch in batches.epoch(0):
            y = view(batch)
            ragged = view.gives_steps and batch.lengths is not None
            ys += [row[:n] for row, n in zip(y, batch.lengths, strict=True)] if ragged else [y]
    return ys if ragged else np.concatenate(ys)
