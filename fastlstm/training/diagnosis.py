"""Where nan or inf began: found by going through a step once more, part by part."""

import numpy as np

from ..layers import LSTM, Last, Sequential

_MOST_NAMED = 8  # samples in a sentence


class NonFiniteError(FloatingPointError):
    """A loss, a gradient or an updated parameter is nan or inf: `fit` stops, and says where.

    The model has the weights of before the batch in question, or the best ones of `EarlyStopping`.

    Parameters
    ----------
    message : str
    epoch, batch : int
        Both from 1.
    origin : str
        What was first not finite: input or target of which samples, by their numbers in the data;
        a parameter, a layer's output, the loss, a gradient, an update.
    history : History
        Of the epochs that were whole.

    Examples
    --------
    >>> x, y = np.zeros((8, 5, 1), np.float32), np.zeros((8, 1), np.float32)
    >>> x[6, 2] = np.nan
    >>> model = fastlstm.Sequential(fastlstm.LSTM(1, 4), fastlstm.Last(), fastlstm.Linear(4, 1))
    >>> loss, optimizer = fastlstm.training.MSELoss(), fastlstm.training.Adam(model)
    >>> try:
    ...     fastlstm.training.fit(model, (x, y), loss, optimizer, 1, 4, shuffle=False)
    ... except fastlstm.training.NonFiniteError as error:
    ...     error.epoch, error.batch, error.origin
    (1, 2, 'the input of sample 6')
    """

    def __init__(self, message, epoch=None, batch=None, origin=None, history=None):
        super().__init__(message)
        self.epoch, self.batch, self.origin, self.history = epoch, batch, origin, history


def is_finite(array):
    """Whether all of an array's numbers are; one pass if so, and if their sum does not overflow."""
    return bool(np.isfinite(array.sum())) or bool(np.isfinite(array).all())


def first_in_forward(view, batch, numbers):
    """Say what is first not finite on the way from a batch of the samples `numbers` to its loss.

    None if all is, up to the model's output. The model of the `SamplesFirst` is in evaluation mode:
    no random numbers are drawn, and dropout makes nothing infinite that was not.
    """
    inputs, y, weights = _parts("input", batch.x), batch.y, batch.weights
    if batch.lengths is not None:
        inputs = {name: _real_steps(x, batch.lengths) for name, x in inputs.items()}
    if batch.mask is not None:
        y = _where(batch.mask, y)
        weights = None if weights is None else _where(batch.mask, weights)
    for name, array in {**inputs, "target": y, "weight": weights}.items():
        if array is not None and (who := _samples(array, numbers)):
            return f"the {name} of {who}"
    for name, parameter in view.model.state_dict().items():
        if not is_finite(parameter):
            return f"the parameter {name}"
    by_steps = view.swaps_input
    x = tuple(inputs.values()) if isinstance(batch.x, tuple) else inputs["input"]
    for name, layer, values in _outputs(view.model, view.swapped(x), batch.lengths):
        by_steps = by_steps and not isinstance(layer, Last)
        for part, array in _parts(f"output of {name}", values).items():
            if who := _samples(array.swapaxes(0, 1) if by_steps else array, numbers):
                return f"the {part} for {who}"
    return None


def first_in_backward(model):
    """Say which gradient was first not finite: of those that are not, the last parameter's."""
    names = [name for name, gradient in model.grads.items() if not is_finite(gradient)]
    return f"the gradient of {names[-1]}"


def _parts(name, value):
    """Arrays by their names: of a tuple, each of them."""
    if not isinstance(value, tuple):
        return {name: value}
    return {f"{name}[{k}]": np.asarray(part) for k, part in enumerate(value)}


def _real_steps(x, lengths):
    """x (B, T, ...) with 0 on all padding."""
    return x if x.ndim < 2 else _where(np.arange(x.shape[1]) < lengths[:, None], x)


def _where(mask, array):
    """`array`, and 0 where `mask`, whose axes are its first ones or go beyond them, is False."""
    axes = max(mask.ndim, array.ndim)
    mask, array = (a.reshape(a.shape + (1,) * (axes - a.ndim)) for a in (mask, array))
    return np.where(mask, array, array.dtype.type(0))


def _samples(array, numbers):
    """Name the rows of an array in which not all is finite by their numbers; None if all is."""
    if array.dtype.kind != "f" or is_finite(array):
        return None
    bad = numbers[~np.isfinite(array).reshape(len(array), -1).all(axis=1)]
    named = ", ".join(map(str, bad[:_MOST_NAMED]))
    more = f" and {len(bad) - _MOST_NAMED} more" if len(bad) > _MOST_NAMED else ""
    return f"sample{'s' * (len(bad) > 1)} {named}{more}"


def _outputs(layer, x, lengths, name=""):
    """Yield (name, layer, output) of each layer that is no Sequential, one after the other."""
    if isinstance(layer, Sequential):
        for child, inner in layer.children.items():
            for *who, y in _outputs(inner, x, lengths, f"{name}{child}."):
                yield *who, y
            x = y
    else:
        y = layer(x, lengths=lengths) if isinstance(layer, (LSTM, Last)) else layer(x)
        yield name[:-1] or type(layer).__name__, layer, y[0] if isinstance(layer, LSTM) else y
