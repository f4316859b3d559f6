"""`accelerate` and `restore`: the LSTMs of a model that exists, made faster in place, and back."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.utils.parametrize import is_parametrized

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
        Classes of others that derive from torch's are left alone: they may do something else. Those
        that torch makes for parametrized modules are swapped too.

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
    return _swap(model, _OURS, "accelerate")


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
    return _swap(model, _TORCHS, "restore")


def _swap(model: torch.nn.Module, classes: dict[type, type], who: str) -> dict[str, Any]:
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"{who} takes a torch.nn.Module, got {type(model).__name__}")
    swapped = {}
    for name, module in model.named_modules():
        old = type(module)
        if old in classes:
            module.__class__ = classes[old]
        elif is_parametrized(module) and old.__base__ in classes:
            # Torch has made a class for this module, with a property for each such parameter.
            module.__class__ = type(old.__name__, (classes[old.__base__],), dict(vars(old)))
        else:
            continue
        swapped[name] = module
    return swapped
