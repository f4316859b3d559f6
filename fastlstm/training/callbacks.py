"""Callbacks of `fit`: what they are given, what they may do, and the history of a training.

A callback is a function of a `State`. An object that needs more may also have the methods
``start(state)``, called before the first epoch, ``finish(state)``, called before `fit` returns or
raises what stopped it, and ``state_dict()`` with ``load_state_dict(mapping)``, for what a
checkpoint must keep of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..layers import Layer
from .optimiser import Optimiser
from .schedules import AnySchedule


class History(dict[str, list[Any]]):
    """What was measured in a training: for each name a list with a value for each epoch.

    "loss" is that of all batches of the epoch, each before its update. "validation_loss" is
    measured after the epoch, if there are validation data. Each metric is there under its name, and
    for the validation data under ``"validation_"`` and its name. "lr" is the learning rate that the
    epoch began with, "seconds" its duration. Callbacks may add lists of their own. A history is a
    dict, so ``dict(history)`` and ``json.dumps(history)`` work.

    If `EarlyStopping` monitors "loss" or a metric of the training data, these too are measured
    after the epoch, in evaluation mode, so that the value belongs to the weights that it keeps.

    Parameters
    ----------
    values : mapping of str -> list, optional

    Attributes
    ----------
    interrupted : bool
        Whether Ctrl-C ended the training. An epoch that was not finished is not in the lists.
    stopped : str or None
        Which callback ended the training, and when, or the reason that it gave.
    resumed : int
        How many of the epochs come from a checkpoint: all, if nothing was left to train.

    Examples
    --------
    >>> history = fastlstm.training.History({"loss": [0.5, 0.25]})
    >>> history["loss"][-1], history.interrupted
    (0.25, False)
    """

    def __init__(
        self, values: Mapping[str, list[Any]] | Iterable[tuple[str, list[Any]]] = ()
    ) -> None:
        super().__init__(values)
        self.interrupted = False
        self.stopped: str | None = None
        self.resumed = 0

    def __repr__(self) -> str:
        return f"History({super().__repr__()})"


class StopTraining(Exception):
    """An exception by which a callback ends the training after this epoch.

    Returning True does so as well, but cannot give a reason.

    Parameters
    ----------
    reason : str, optional
        The text of ``history.stopped``. If it is not given, that has the callback's name and the
        epoch.

    Examples
    --------
    >>> def good_enough(state):
    ...     if state.history["loss"][-1] < 1e-3:
    ...         raise fastlstm.training.StopTraining("the loss is below 0.001")
    """

    def __init__(self, reason: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclasses.dataclass
class State:
    """A training at the end of an epoch, as callbacks see it.

    Parameters
    ----------
    model : Layer
        In training mode.
    optimizer, schedule : as `fit` got them
    callbacks : list
    history : History
        It has the values of this epoch already.
    epochs : int
        How many epochs the training will have in all.
    made_of : dict of str -> str
        If there are checkpoints: what the training is made of, in words.
    epoch : int
        How many epochs have been done: 1 after the first.

    Examples
    --------
    >>> def report(state):
    ...     print(f"{state.epoch}/{state.epochs}: {state.history['loss'][-1]:.4f}")
    """

    model: Layer
    optimizer: Optimiser
    schedule: AnySchedule | None
    callbacks: list[Callback]
    history: History
    epochs: int
    made_of: dict[str, str]
    epoch: int = 0

    def __repr__(self) -> str:
        last = {name: values[-1] for name, values in self.history.items() if values}
        return f"State(epoch {self.epoch} of {self.epochs}, {last})"


Callback = Callable[[State], Any]
