"""`accelerate` and `restore`: the LSTMs of a model that exists, made faster in place, and back."""

from __future__ import annotations

import torch

from .modules import LSTM, LSTMCell

_OURS = {torch.nn.LSTM: LSTM, torch.nn.LSTMCell: LSTMCell}
_TORCHS = {ours: theirs for theirs, ours in _OURS.items()}


def accelerate(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Make every `torch.nn.LSTM` and `torch.nn.LSTMCell` of a model faster, in place.

    Returns
    -------
    dict of str -> Module
        What has been swapped, by its name in the model; "" is the model itself.
    """
    return _swap(model, _OURS)


def restore(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Undo `accelerate`; returns what has been swapped back."""
    return _swap(model, _TORCHS)


def _swap(model: torch.nn.Module, classes: dict[type, type]) -> dict[str, torch.nn.Module]:
    swapped = {}
    for name, module in model.named_modules():
        if type(module) in classes:
            module.__class__ = classes[type(module)]
            swapped[name] = module
    return swapped
