"""What callbacks of `fit` see, and early stopping.

Callbacks are functions of a `State`. Those that need more may have the methods ``start(state)``,
called before the first epoch, ``finish(state)``, before `fit` returns or raises what stopped it,
and ``state_dict()`` with ``load_state_dict(mapping)``, for what a checkpoint must keep of them.
"""

import dataclasses

from ..layers import Layer


class History(dict):
    """What `fit` saw: a list for each name, with a value for each epoch.

    "loss", over the epoch's batches, each before its update; "validation_loss", after the epoch, if
    there is validation data; a metric's name, and "validation_" and that name; "lr", the learning
    rate that the epoch began with; "seconds". Callbacks may add lists of their own. It is a dict:
    ``dict(history)`` and ``json.dumps(history)`` do what one expects.

    Where `EarlyStopping` monitors "loss" or a metric of the training data, these too are measured
    after the epoch, in evaluation mode: so the weights that it keeps are those with that value.

    Parameters
    ----------
    values : mapping of str -> list, optional

    Attributes
    ----------
    interrupted : bool
        Ctrl-C ended the training. An epoch that was not whole is not in the lists.
    stopped : str or None
        Which callback ended it, and when, or the reason that it gave.
    resumed : int
        How many of the epochs are a checkpoint's; all, if there was nothing left to train.

    Examples
    --------
    >>> history = fastlstm.training.History({"loss": [0.5, 0.25]})
    >>> history["loss"][-1], history.interrupted
    (0.25, False)
    """

    def __init__(self, values=()):
        super().__init__(values)
        self.interrupted, self.stopped, self.resumed = False, None, 0


class StopTraining(Exception):
    """Raised by a callback, ends the training after this epoch, as returning True does.

    Parameters
    ----------
    reason : str, optional
        What ``history.stopped`` will say; otherwise the callback's name and the epoch.

    Examples
    --------
    >>> def good_enough(state):
    ...     if state.history["loss"][-1] < 1e-3:
    ...         raise fastlstm.training.StopTraining("the loss is below 0.001")
    """

    def __init__(self, reason=None):
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
        This epoch's values are in it.
    epochs : int
        How many there will be.
    made_of : dict of str -> str
        Where there are checkpoints: what the training is made of, in words.
    epoch : int
        How many have been done: 1 after the first.

    Examples
    --------
    >>> def report(state):
    ...     print(f"{state.epoch}/{state.epochs}: {state.history['loss'][-1]:.4f}")
    """

    model: Layer
    optimizer: object
    schedule: object
    callbacks: list
    history: History
    epochs: int
    made_of: dict
    epoch: int = 0
