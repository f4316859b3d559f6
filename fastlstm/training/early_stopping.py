"""Early stopping: a training ends when it no longer gets better, with its best weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..checks import check_number, check_size
from .arguments import is_number
from .callbacks import History, State
from .checkpoint import Checkpoint


class EarlyStopping:
    """Stop when the validation loss has not fallen for some epochs, and take the best weights.

    Parameters
    ----------
    patience : int
        The training ends after so many epochs in a row that were no better than the best one.
    min_delta : float >= 0
        An epoch is better if its value is less, or more, by more than this.
    monitor : str
        The name, in the history, of the value that is to become small, or large.
    mode : {"min", "max"}
        Whether less is better, as for losses, or more, as for an accuracy.

    Attributes
    ----------
    best : float
        The best value so far.
    best_epoch : int
        The epoch that had it, from 1; 0 before the first epoch.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of its range or of another type. `fit` raises it if the history has
        no `monitor`.

    Notes
    -----
    The model has the weights of the best epoch whenever `fit` returns, whether it stopped early,
    was interrupted or did all epochs, and also if it raises an error in a later epoch. The state of
    the optimiser is that of the last epoch. If "loss" or a metric of the training data is
    monitored, the model is run over these data once more after each epoch: during the epoch the
    weights change from batch to batch, so that its loss belongs to no weights that could be kept.

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

    def __init__(
        self,
        patience: int,
        min_delta: float = 0.0,
        monitor: str = "validation_loss",
        mode: Literal["min", "max"] = "min",
    ) -> None:
        self.patience = check_size("patience", patience)
        self.min_delta = check_number("min_delta", min_delta, least=0)
        if not isinstance(monitor, str):
            raise TypeError(f"monitor should be of type str, got: {type(monitor).__name__}")
        if mode not in ("min", "max"):
            raise ValueError(f"mode must be min or max, got {mode!r}")
        self.monitor, self.mode = monitor, mode
        self._forget()

    def __repr__(self) -> str:
        return (
            f"EarlyStopping({self.patience}, min_delta={self.min_delta}, "
            f"monitor={self.monitor!r}, mode={self.mode!r})"
        )

    def _forget(self) -> None:
        self.best = math.inf if self.mode == "min" else -math.inf
        self.best_epoch = 0
        self._weights: dict[str, NDArray[Any]] = {}
        self._state: State | None = None  # of the training at hand

    def start(self, state: State) -> None:
        """Forget an earlier training; ValueError if another one is at hand."""
        if self._state is not None:
            raise ValueError(
                "EarlyStopping: another training is using it: each training needs one of its own"
            )
        of_training = self.monitor.removeprefix("validation_")
        if self.monitor not in state.history and of_training in state.history:
            raise ValueError(
                f"EarlyStopping: Expected {self.monitor!r} in the history; pass validation= to fit"
            )
        if all(type(callback) in (EarlyStopping, Checkpoint) for callback in state.callbacks):
            self._check_monitor(state.history)  # no other callback could add it
        self._forget()
        self._state = state

    def __call__(self, state: State) -> bool:
        """Keep the weights if they are the best so far; return True if it is time to stop."""
        self._check_monitor(state.history)
        value = state.history[self.monitor][-1]
        better = self.best - value if self.mode == "min" else value - self.best
        if better > self.min_delta:
            weights = state.model.state_dict()
            self.best, self.best_epoch, self._weights = float(value), state.epoch, weights
        return state.epoch - self.best_epoch >= self.patience

    def _check_monitor(self, history: History) -> None:
        if self.monitor not in history:
            raise ValueError(
                f"EarlyStopping: Expected {self.monitor!r} in the history, which has "
                f"{', '.join(history)}"
            )

    def finish(self, state: State) -> None:
        """Give the model its best weights."""
        self._state = None
        if self._weights:
            state.model.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next epochs depend on."""
        return {"best": self.best, "best_epoch": self.best_epoch, "weights": self._weights}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned; ValueError if it cannot be of this training."""
        best, weights = state_dict["best"], state_dict["weights"]
        best_epoch = check_size("best_epoch", state_dict["best_epoch"], least=0)
        if not is_number(best):
            raise ValueError(f"EarlyStopping: Expected best to be a number, got {best!r}")
        if best_epoch and self._state is not None:
            _check_weights(weights, best_epoch, self._state)
        self.best, self.best_epoch, self._weights = float(best), best_epoch, weights


def _check_weights(weights: Mapping[str, Any], epoch: int, state: State) -> None:
    """Refuse best weights of another model, or of an epoch that the training does not have."""
    own = {name: (value.shape, value.dtype) for name, value in state.model.state_dict().items()}
    theirs = {name: (np.shape(value), value.dtype) for name, value in weights.items()}
    if theirs != own or epoch > state.epochs:
        raise ValueError("EarlyStopping: Expected weights that this model had in one of its epochs")
