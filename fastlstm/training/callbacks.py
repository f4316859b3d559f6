"""What callbacks of `fit` see, and early stopping.

Callbacks are functions of a `State`. Those that need more may have the methods ``start(state)``,
called before the first epoch, ``finish(state)``, before `fit` returns or raises what stopped it,
and ``state_dict()`` with ``load_state_dict(mapping)``, for what a checkpoint must keep of them.
"""

import dataclasses
import math

import numpy as np

from ..checks import check_number, check_size
from ..layers import Layer
from .arguments import is_number
from .checkpoint import Checkpoint


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


class EarlyStopping:
    """Stop when the validation loss has not fallen for a while, and take the best weights.

    Parameters
    ----------
    patience : int
        After so many epochs in a row that are no better than the best one.
    min_delta : float >= 0
        Better is less, or more, by more than this.
    monitor : str
        The name in the history of what is to become small, or large.
    mode : {"min", "max"}
        Whether less is better, as for losses, or more, as for an accuracy.

    Attributes
    ----------
    best : float
    best_epoch : int
        From 1; 0 before the first epoch.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of its range or of another type. By `fit`, if there is no `monitor`.

    Notes
    -----
    The model has the weights of the best epoch whenever `fit` returns: stopped early or not, or
    interrupted; and when it raises, whatever went wrong in a later epoch. The optimiser's state is
    the last epoch's. To monitor "loss", or a metric of the training data, costs one run of the
    model over them after each epoch: what is seen during an epoch is measured with weights that
    change from batch to batch, so there would be none to go back to.

    Examples
    --------
    >>> x = np.zeros((4, 5, 1), np.float32)
    >>> train, validation = (x, np.ones((4, 1), np.float32)), (x, np.zeros((4, 1), np.float32))
    >>> model = fastlstm.Sequential(fastlstm.LSTM(1, 2), fastlstm.Last(), fastlstm.Linear(2, 1))
    >>> model[2].bias = [0.0]
    >>> early = fastlstm.training.EarlyStopping(patience=2)
    >>> history = fastlstm.training.fit(
    ...     model, train, fastlstm.training.MSELoss(), fastlstm.training.SGD(model, lr=0.1),
    ...     50, 4, validation=validation, callbacks=[early],
    ... )
    >>> history.stopped
    'EarlyStopping after epoch 3'
    >>> early.best_epoch
    1
    """

    def __init__(self, patience, min_delta=0.0, monitor="validation_loss", mode="min"):
        self.patience = check_size("patience", patience)
        self.min_delta = check_number("min_delta", min_delta, least=0)
        if not isinstance(monitor, str):
            raise TypeError(f"monitor should be of type str, got: {type(monitor).__name__}")
        if mode not in ("min", "max"):
            raise ValueError(f"mode must be min or max, got {mode!r}")
        self.monitor, self.mode = monitor, mode
        self._forget()

    def _forget(self):
        self.best = math.inf if self.mode == "min" else -math.inf
        self.best_epoch, self._weights = 0, {}
        self._state = None  # of the training at hand

    def start(self, state):
        """Forget an earlier training."""
        of_training = self.monitor.removeprefix("validation_")
        if self.monitor not in state.history and of_training in state.history:
            raise ValueError(
                f"EarlyStopping: Expected {self.monitor!r} in the history; pass validation= to fit"
            )
        if all(type(callback) in (EarlyStopping, Checkpoint) for callback in state.callbacks):
            self._check_monitor(state.history)  # nobody else would put it there
        self._forget()
        self._state = state

    def __call__(self, state):
        """Keep the weights if they are the best so far; True if it is time to stop."""
        self._check_monitor(state.history)
        value = state.history[self.monitor][-1]
        better = self.best - value if self.mode == "min" else value - self.best
        if better > self.min_delta:
            weights = state.model.state_dict()
            self.best, self.best_epoch, self._weights = float(value), state.epoch, weights
        return state.epoch - self.best_epoch >= self.patience

    def _check_monitor(self, history):
        if self.monitor not in history:
            raise ValueError(
                f"EarlyStopping: Expected {self.monitor!r} in the history, which has "
                f"{', '.join(history)}"
            )

    def finish(self, state):
        """Give the model its best weights."""
        self._state = None
        if self._weights:
            state.model.load_state_dict(self._weights)

    def state_dict(self):
        """Return all that the next epochs depend on."""
        return {"best": self.best, "best_epoch": self.best_epoch, "weights": self._weights}

    def load_state_dict(self, state_dict):
        """Take over what `state_dict` returned; ValueError if it cannot be this training's."""
        best, weights = state_dict["best"], state_dict["weights"]
        best_epoch = check_size("best_epoch", state_dict["best_epoch"], least=0)
        if not is_number(best):
            raise ValueError(f"EarlyStopping: Expected best to be a number, got {best!r}")
        if best_epoch and self._state is not None:
            _check_weights(weights, best_epoch, self._state)
        self.best, self.best_epoch, self._weights = float(best), best_epoch, weights


def _check_weights(weights, epoch, state):
    """Refuse best weights that are not a model's, or of an epoch that will not be."""
    own = {name: (value.shape, value.dtype) for name, value in state.model.state_dict().items()}
    theirs = {name: (np.shape(value), value.dtype) for name, value in weights.items()}
    if theirs != own or epoch > state.epochs:
        raise ValueError("EarlyStopping: Expected the weights of this model in an epoch of it")
