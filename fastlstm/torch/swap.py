"""`accelerate` and `restore`: the LSTMs of a model that exists, made faster in place, and back."""

from __future__ import annotations

import torch

from .modules import LSTM, LSTMCell

_OURS = {torch.nn.LSTM: LSTM, torch.nn.LSTMCell: LSTMCell}
_TORCHS = {ours: theirs for theirs, ours in _OURS.items()}


def accelerate(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Make every `torch.nn.LSTM` and `torch.nn.LSTMCell` of a model faster, in place.

    The modules stay the same objects, with the same parameters, hooks and names, and become
    `fastlstm.torch.LSTM` and `LSTMCell`: optimisers, other references and wrappers go on as before.

    Parameters
    ----------
    model : Module
        Classes of others that derive from torch's are left alone: they may do something else.

    Returns
    -------
    dict of str -> Module
        What has been swapped, by its name in the model; "" is the model itself. A module that is
        there twice is listed under its first name.

    Examples
    --------
    >>> import fastlstm.torch
    >>> import torch
    >>> model = torch.nn.ModuleDict({"lstm": torch.nn.LSTM(3, 4), "head": torch.nn.Linear(4, 1)})
    >>> fastlstm.torch.accelerate(model)
    {'lstm': LSTM(3, 4)}
    >>> type(model["lstm"]) is fastlstm.torch.LSTM
    True
    """
    return _swap(model, _OURS)


def restore(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Make every LSTM and LSTMCell of `fastlstm.torch` torch's own again, in place.

    Parameters
    ----------
    model : Module

    Returns
    -------
    dict of str -> Module
        What has been swapped, by its name in the model.

    Examples
    --------
    >>> import fastlstm.torch
    >>> import torch
    >>> lstm = fastlstm.torch.LSTM(3, 4)
    >>> fastlstm.torch.restore(lstm)
    {'': LSTM(3, 4)}
    >>> type(lstm) is torch.nn.LSTM
    True
    """
    return _swap(model, _TORCHS)


def _swap(model: torch.nn.Module, classes: dict[type, type]) -> dict[str, torch.nn.Module]:
    swapped = {}
    for name, module in model.named_modules():
        if type(module) in classes:
            module.__class__ = classes[type(module)]
            swapped[name] = module
    return swapped
