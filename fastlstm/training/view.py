"""A model as data see it, samples first; and prediction, batch by batch."""

import contextlib

import numpy as np

from ..arrays import as_array
from ..checks import check_size
from ..layers import (
    LSTM,
    Dropout,
    Embedding,
    Last,
    Layer,
    Linear,
    ReLU,
    Sequential,
    Sigmoid,
    Softmax,
    Tanh,
)
from .arguments import refuse_class
from .datasets import Arrays, Batch, Batches, Sequences


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


class SamplesFirst:
    """A model as data see it: samples first, whether its own LSTMs are `batch_first` or not.

    Parameters
    ----------
    model : Layer

    Raises
    ------
    TypeError, ValueError
        If it is no layer, or some of its layers are `batch_first` and others not.
    """

    def __init__(self, model):
        refuse_class("model", model)
        if not isinstance(model, Layer):
            raise TypeError(f"model should be a layer, got: {type(model).__name__}")
        timed = [n for _, n in model.named_layers() if isinstance(n, (LSTM, Last))]
        if len({layer.batch_first for layer in timed}) > 1:
            raise ValueError("model: all of its LSTM and Last layers must be batch_first, or none")
        plain = isinstance(model, Sequential) and type(model).vjp is Sequential.vjp
        self.model = model if plain else Sequential(model)
        self.axes = _axes_of_x(self.model)
        self.swaps_input = bool(timed) and not timed[0].batch_first
        self.gives_steps = bool(timed) and not any(isinstance(n, Last) for n in timed)

    def __call__(self, batch):
        """The prediction for a `Batch`."""
        _check_batch(batch)
        return self._out(self.model(self.swapped(batch.x), lengths=batch.lengths))

    def vjp(self, batch):
        """The prediction for a `Batch`, and its pullback, to the parameters alone."""
        _check_batch(batch)
        x = self.swapped(batch.x)
        y, pullback = self.model.vjp(x, lengths=batch.lengths, input_gradient=False)
        return self._out(y), lambda dy: pullback(self._out(dy))

    def swapped(self, x):
        """What the model takes for an input with samples first; of several, each by itself."""
        if isinstance(x, tuple):
            return tuple(map(self.swapped, x))
        if self.swaps_input and x.ndim < 2:
            raise ValueError(f"Expected x with samples and steps, (N, T, ...), got shape {x.shape}")
        if self.axes not in (None, x.ndim):  # an LSTM would take samples for steps
            what = "(N, T, F); one feature is x[..., None], one step x[:, None]"
            raise ValueError(
                f"Expected x of shape {what if self.axes == 3 else '(N, T), tokens'}, got a batch "
                f"of shape {x.shape}"
            )
        return x.swapaxes(0, 1) if self.swaps_input else x

    def _out(self, y):
        return y.swapaxes(0, 1) if self.swaps_input and self.gives_steps else y


def _axes_of_x(model):
    """How many axes x must have, where the layers up to the first LSTM tell; otherwise None."""
    axes = 3
    for _, layer in model.named_layers():
        if isinstance(layer, LSTM):
            return axes
        if isinstance(layer, Embedding):
            axes -= 1
        elif type(layer) not in (Sequential, Linear, Dropout, ReLU, Tanh, Sigmoid, Softmax):
            return None
    return None


def _check_batch(batch):
    parts = {name: getattr(batch, name, batch) for name in Batch._fields if name != "std"}
    if any(part is batch for part in parts.values()):
        raise TypeError(
            f"Expected data[indices] to be a fastlstm.training.Batch, got {type(batch).__name__}; "
            "a data set should return Batch(x, y)"
        )
    for name, part in parts.items():
        if isinstance(part, list) or isinstance(part, tuple) and name != "x":
            raise TypeError(f"Expected {name} of data[indices] to be an array, got a list")


@contextlib.contextmanager
def mode(model, training):
    """Put all layers into training or evaluation mode for a while; then each as it was."""
    before = [(layer, layer.training) for _, layer in model.named_layers()]
    model.train(training)
    try:
        yield
    finally:
        for layer, was in before:
            layer.training = was
